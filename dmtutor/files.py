"""Files that are written whole or not at all, with the same bytes for the same content, and read without
running code from them."""

import io
import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch


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


def write(content, path):
    """Write plain types and tensors to ``path``, atomically: serialise, write beside, flush, rename.

    ``torch.save`` puts the file's own name into the bytes, so it is given a buffer instead.
    """
    check_output(path)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(buffer.getbuffer(), path)


def write_bytes(content, path):
    """Write bytes to ``path``, atomically."""
    path = check_output(path)
    partial = path.with_name(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
    partial = path.with_name(f".{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read(path, keys):
    """Read what :func:`write` wrote, on the CPU, with ``weights_only=True``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, holds anything but plain types and tensors, or lacks one of ``keys``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {str(path)!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each way in which a file can be broken
        raise ValueError(
            f"{str(path)!r} is not a file of dmtutor, or it is damaged ({type(error).__name__}); "
            "make it again with `python -m dmtutor condense`"
        ) from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(missing)}: it is another file of dmtutor's, or of others")
    return content
