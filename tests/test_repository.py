"""The tree as a stranger finds it."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import set_repository

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tracked():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_address_is_the_same_everywhere():
    assert not set_repository.disagreements()


def test_set_repository_reaches_every_place(tmp_path):
    for path in set_repository.places(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    old = set_repository.address(tmp_path)
    set_repository.set_address("https://github.com/someone-else/a-fork", tmp_path)
    assert set_repository.address(tmp_path) == "https://github.com/someone-else/a-fork"
    assert not set_repository.disagreements(tmp_path)
    set_repository.set_address(old, tmp_path)
    assert all((tmp_path / p.relative_to(ROOT)).read_bytes() == p.read_bytes() for p in set_repository.places(ROOT))


def test_a_place_that_disagrees_is_named(tmp_path):
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "_build", "vendor", "__pycache__"))
    readme = tmp_path / "copy" / "README.md"
    readme.write_text(readme.read_text().replace(set_repository.address(), "https://github.com/other/dmtutor"))
    assert any(line.startswith("README.md") for line in set_repository.disagreements(tmp_path / "copy"))


def test_first_cell_says_in_one_line_what_to_do(tmp_path):
    """Without dmtutor and without an address: one line, and no attempt to reach anything."""
    cell = (ROOT / "tools" / "first_cell.py").read_text()
    cell = cell.replace(set_repository.address(), "https://github.com/your_account/dmtutor")
    run = subprocess.run([sys.executable, "-S", "-I", "-c", cell], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "repository" in run.stderr


def test_first_cell_installs_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    """A clone that lies where the notebook runs, or what a removed package left, can be imported and holds nothing."""
    (tmp_path / "dmtutor").mkdir()
    monkeypatch.setenv("DMTUTOR_SOURCE", str(tmp_path / "nowhere"))
    cell = (ROOT / "tools" / "first_cell.py").read_text()
    run = subprocess.run([sys.executable, "-S", "-c", cell], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "Could not install" in run.stderr


def test_first_cell_says_so_when_the_installation_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("DMTUTOR_SOURCE", str(tmp_path / "nowhere"))
    cell = (ROOT / "tools" / "first_cell.py").read_text()
    run = subprocess.run([sys.executable, "-S", "-I", "-c", cell], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "Could not install" in run.stderr


def test_nothing_that_only_one_machine_knows(tracked):
    """No machine's folders, no registry's or mirror's address."""
    machine = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|mnt|work|srv)/\w|registry\.|index-url|find-links")
    for path in tracked:
        if path != Path(__file__).resolve():
            found = machine.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_nothing_of_others_is_committed(tracked):
    """Scripts of others are brought at build time, and nothing in the tree is heavy."""
    for path in tracked:
        assert not path.name.endswith((".min.js", ".min.css", "-lock.json")), path
        assert "vendor" not in path.parts and "_build" not in path.parts, path
        assert path.stat().st_size < 2_000_000, path


FLOORS = [
    "_version accuracies checks files fused mapped memory pictures sharding threads",
    "arrays augmentation interrupts mmd networks randomness ranking",
    "folders",
    "data embeddings",
    "coresets sources",
    "decoding",
    "evaluation exchange",
    "planning plotting steps",
    "distribution_matching gradient_matching pretrained unrolling widgets",
    "idm",
    "condensation tables",
    "__init__",
    "flags judging",
    "__main__",
]


def test_a_module_imports_from_lower_floors_alone():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names.split()}
    modules = {path.stem: path for path in (ROOT / "dmtutor").glob("*.py")}
    assert set(floor) == set(modules)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                for other in [node.module] if node.module else [a.name for a in node.names]:
                    source = other if other in modules else "__init__"  # as ``from . import __version__``
                    assert floor[source] < floor[name], f"{name} imports {source}"


def test_the_old_address_of_a_chapter_leads_to_a_chapter():
    moved = sorted((ROOT / "book" / "_moved" / "book").glob("*.html"))
    assert len(moved) == 11
    for page in moved:
        assert not page.with_suffix(".ipynb").exists()
        (target,) = set(re.findall(r'(?:url=|href=")([\w.]+)\.html', page.read_text()))
        assert (ROOT / "book" / f"{target}.ipynb").exists()
