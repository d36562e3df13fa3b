"""Files that are written whole or not at all, the same bytes for the same content, and read without running code."""

import io
import os
import secrets
import shutil
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def check_output(path, name="path"):
    """Raise a ValueError if a file can't be written at ``path``; meant for before the work starts."""
    path = Path(path)
    if len(os.fsencode(path.name)) > 255:
        raise ValueError(f"{name} must be at most 255 bytes long; got {path.name[:40]!r}…")
    if path.is_dir():
        raise ValueError(f"{name} must be a file, not a folder; got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{name} must lie in a folder that exists; create {str(path.parent)!r} first")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name} must lie in a folder that can be written to; got {str(path.parent)!r}")
    return path


def check_replaced(path, name, own=False):
    """Raise a ValueError for what must not be replaced at ``path``: anything but the caller's ``own`` file.

    A link or a file that is protected against writing is not replaced, whoever's it is.
    """
    path = Path(path)
    if path.is_symlink():
        raise ValueError(f"{name} must be a file, not a link; {str(path)!r} leads to {os.readlink(path)!r}")
    if path.exists() and not path.stat().st_mode & 0o222:
        raise ValueError(f"{name} must be a file that may be written to; {str(path)!r} is protected")
    if path.exists() and not own:
        raise ValueError(f"{name} must be a new file; {str(path)!r} is there and holds something else: give another "
                         "name, or --overwrite")


def check_different(**paths):
    """Raise a ValueError if two of these files, {what it is for: path or None}, are the same."""
    known = {}
    for name, path in paths.items():
        where = path and os.path.realpath(path)
        if where in known:
            raise ValueError(f"{name} must be another file than {known[where]}; got {str(path)!r} for both")
        if where:
            known[where] = name


@contextmanager
def locked(path, name="path"):
    """Hold ``path`` against other runs: while inside, the same in another process or thread is a ValueError.

    The lock is the system's, on an empty file beside. It ends with its process, however that ends.
    """
    lock = check_output(Path(path).with_name(f".{Path(path).name}.lk"), name)
    while fcntl:
        file = lock.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                break
        except BlockingIOError as error:
            file.close()
            raise ValueError(f"{name} must be one run's alone; another one is writing {str(path)!r}") from error
        except FileNotFoundError:
            pass  # its last owner removed it just now
        except OSError:  # a file system without locks
            break
        file.close()
    else:
        file = None
    try:
        yield
    finally:
        if file:
            lock.unlink(missing_ok=True)
            file.close()


def partial(path):
    """A name beside ``path`` that no other process or thread uses."""
    return Path(path).with_name(f".{secrets.token_hex(8)}.partial")


def write(content, path):
    """Write plain types and tensors to ``path``, atomically: serialise, write beside, flush, rename.

    ``torch.save`` puts the file's own name into the bytes, so it is given a buffer instead.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(buffer.getbuffer(), path)


def write_bytes(content, path):
    """Write bytes to ``path``, atomically."""
    path = check_output(path)
    beside = partial(path)
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"{str(path)!r} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def check_new_folder(path, name="path"):
    """Raise a ValueError if there is anything at ``path``, or a folder can't be made there."""
    path = check_output(path, name) if not Path(path).is_dir() else Path(path)
    if path.exists():
        raise ValueError(f"{name} must be a new folder; {str(path)!r} is there: remove it, or give another name")
    return path


@contextmanager
def new_folder(path):
    """A folder to fill, which appears at ``path`` when all is in it, or not at all."""
    path = check_new_folder(path)
    beside = partial(path)
    beside.mkdir()
    try:
        yield beside
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read(path, keys):
    """Read what :func:`write` wrote, on the CPU, with ``weights_only=True``.

    A ValueError if it is damaged, holds anything but plain types and tensors, or lacks one of ``keys``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {str(path)!r}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as archive:  # torch reads without a look at its checksums
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is another")
    except Exception as error:  # torch raises a different type for each way in which a file can be broken
        raise ValueError(f"{str(path)!r} is not a file of dmtutor, or it is damaged ({type(error).__name__}); "
                         "make it again with `python -m dmtutor condense`") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}: it is another file of dmtutor's, or of others")
    return content
