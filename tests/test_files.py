import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dmtutor import files

CONTENT = {"x": torch.arange(6.0).view(2, 3), "n": 3, "names": ["a", "b"], "meta": {"deep": (1, 2.5, None, True)}}


def same(one, two):
    return torch.equal(one["x"], two["x"]) and all(one[k] == two[k] for k in ("n", "names", "meta"))


def test_what_is_written_is_read(tmp_path):
    files.write(CONTENT, tmp_path / "a.pt")
    assert same(files.read(tmp_path / "a.pt", keys=CONTENT), CONTENT)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_the_same_content_gives_the_same_bytes_under_any_name(tmp_path):
    (tmp_path / "folder").mkdir()
    names = ["a.pt", "quite_another_name", "folder/a.pt"]
    for name in names:
        files.write(CONTENT, tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in names}) == 1


def test_it_is_read_without_this_library(tmp_path):
    files.write(CONTENT, tmp_path / "a.pt")
    assert same(torch.load(tmp_path / "a.pt", weights_only=True), CONTENT)


@pytest.mark.parametrize("step", ["save", "fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    path = tmp_path / "a.pt"
    files.write(CONTENT, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync"), "replace": (os, "replace")}[step], fail)
    with pytest.raises(OSError, match="no space left"):
        files.write({**CONTENT, "n": 4}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pt"]


def test_it_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(os.fstat(fd).st_size) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append("replace") or replace(a, b))
    files.write(CONTENT, tmp_path / "a.pt")
    assert events == [(tmp_path / "a.pt").stat().st_size, "replace"]


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*b\.pt"):
        files.read(tmp_path / "b.pt", keys=())
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path, keys=())


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    files.write(CONTENT, path)
    whole = path.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pt.* is not a file of dmtutor, or it is damaged"):
            files.read(path, keys=CONTENT)


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrap", ["bare", "torch"])
def test_no_code_from_a_file_is_run(tmp_path, wrap):
    path, target = tmp_path / "a.pt", tmp_path / "exploded"
    if wrap == "bare":
        path.write_bytes(pickle.dumps({"x": Bomb(target)}))
    else:
        torch.save({"x": Bomb(target)}, path)
    with pytest.raises(ValueError, match="is not a file of dmtutor"):
        files.read(path, keys=["x"])
    assert not target.exists()
    torch.load(path, weights_only=False) if wrap == "torch" else pickle.loads(path.read_bytes())
    assert target.exists()  # the file was dangerous indeed


def test_missing_keys_are_named(tmp_path):
    path = tmp_path / "a.pt"
    files.write({"x": 1}, path)
    with pytest.raises(ValueError, match=r"lacks y, z: it is another file"):
        files.read(path, keys=["x", "y", "z"])
    files.write([1, 2], path)
    with pytest.raises(ValueError, match="lacks x"):
        files.read(path, keys=["x"])


def test_outputs_are_checked_before_the_work(tmp_path):
    assert files.check_output(tmp_path / "a.pt") == tmp_path / "a.pt"
    with pytest.raises(ValueError, match=r"--output must be a file, not a folder; got"):
        files.check_output(tmp_path, "--output")
    with pytest.raises(ValueError, match=r"path must lie in a folder that exists; create .*missing.* first"):
        files.check_output(tmp_path / "missing" / "a.pt")
    with pytest.raises(ValueError, match="at most 255 bytes"):
        files.check_output(tmp_path / ("é" * 128))
    with pytest.raises(ValueError, match="folder that exists"):
        files.write(CONTENT, tmp_path / "missing" / "a.pt")
    assert os.listdir(tmp_path) == []


def test_the_longest_name_works(tmp_path):
    path = tmp_path / ("a" * 255)
    files.write(CONTENT, path)
    assert same(files.read(path, keys=()), CONTENT)


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK))  # root may write anywhere
    with pytest.raises(ValueError, match="can be written to"):
        files.check_output(tmp_path / "a.pt")


def test_a_folder_appears_when_all_is_in_it(tmp_path):
    with files.new_folder(tmp_path / "new") as folder:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("c")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "a" / "b").read_text() == "c"
    assert os.listdir(tmp_path) == ["new"]


def test_a_folder_that_fails_leaves_nothing_behind(tmp_path):
    def fill(folder):
        (folder / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), files.new_folder(tmp_path / "new") as folder:
        fill(folder)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("there", ["an empty folder", "a folder", "a file"])
def test_what_is_there_is_not_touched(tmp_path, there):
    path = tmp_path / "there"
    if there == "a file":
        path.write_text("precious")
    else:
        path.mkdir()
        if there == "a folder":
            (path / "a").write_text("precious")
    with pytest.raises(ValueError, match=r"--output must be a new folder; '.*there' is there: remove it"):
        files.check_new_folder(path, "--output")
    with pytest.raises(ValueError, match="path must be a new folder"), files.new_folder(path):
        pytest.fail("the work has started")
    assert os.listdir(tmp_path) == ["there"]


def test_a_new_folder_needs_a_place(tmp_path):
    with pytest.raises(ValueError, match="folder that exists"):
        files.check_new_folder(tmp_path / "missing" / "new")


def test_writers_beside_each_other_lose_and_swap_nothing(tmp_path):
    """Of one process, as of two with one number: in containers, say."""

    def write(writer):
        seen = []
        for i in range(60):
            path = tmp_path / f"S_{writer}_{i % 3}.pt"
            files.write_bytes(f"{path.name} {i}".encode() * 2000, path)
            seen.append(path.read_bytes() == f"{path.name} {i}".encode() * 2000)
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert all(all(seen) for seen in pool.map(write, range(2)))
    assert len(os.listdir(tmp_path)) == 6


def test_what_a_kill_has_left_is_in_nobodys_way(tmp_path):
    for pid in (os.getpid(), 1):
        (tmp_path / f".{pid}.partial").mkdir()
    files.write(CONTENT, tmp_path / "a.pt")
    with files.new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("b")
    assert (tmp_path / "new" / "a").read_text() == "b"


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    files.write({"x": torch.arange(5000.0)}, path)
    whole = path.read_bytes()
    for place in (3000, 9000, 15_000):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a\.pt.* is not a file of dmtutor, or it is damaged"):
            files.read(path, keys=())


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"a\.pt' could not be written: No space left on device"):
        files.write(CONTENT, tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


def test_only_ones_own_is_replaced(tmp_path):
    path = tmp_path / "a.pt"
    files.check_replaced(path, "--output")
    path.write_bytes(b"precious")
    files.check_replaced(path, "--output", own=True)
    with pytest.raises(ValueError, match=r"--output must be a new file; '.*a\.pt' is there .*--overwrite"):
        files.check_replaced(path, "--output")
    path.chmod(0o444)
    with pytest.raises(ValueError, match="is protected"):
        files.check_replaced(path, "--output", own=True)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"not a link; .* leads to 'nowhere'"):
        files.check_replaced(tmp_path / "link", "--output", own=True)


def test_files_of_one_run_are_different(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.check_different(output="a", checkpoint="b", history=None, more=None)
    (tmp_path / "link").symlink_to("a")
    for same in ("./a", "link", tmp_path / "a"):
        with pytest.raises(ValueError, match="checkpoint must be another file than output; got"):
            files.check_different(output="a", checkpoint=same)


def test_one_run_at_a_time(tmp_path):
    path = tmp_path / "S.pt"
    with files.locked(path, "--output"):
        message = r"--output must be one run's alone; another one is writing '.*S\.pt'"
        with pytest.raises(ValueError, match=message), files.locked(path, "--output"):
            pytest.fail("two at once")
        with files.locked(tmp_path / "T.pt"):
            pass
    assert os.listdir(tmp_path) == []
    turns, held = [], threading.Lock()

    def take(_):
        while len(turns) < 200:
            try:
                with files.locked(path):
                    assert held.acquire(blocking=False)
                    turns.append(1)
                    held.release()
            except ValueError:
                pass

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, range(2)))


@pytest.mark.slow
def test_the_lock_of_a_process_that_was_killed_holds_nobody(tmp_path):
    code = "import os, sys; from dmtutor import files\nwith files.locked(sys.argv[1]): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "S.pt")]).returncode == -9
    assert os.listdir(tmp_path) == [".S.pt.lk"]
    with files.locked(tmp_path / "S.pt"):
        pass
    assert os.listdir(tmp_path) == []
