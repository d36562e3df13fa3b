import os
import re
from collections import Counter, defaultdict
from unittest import mock

import faults
import processors
import pytest
from execute_notebooks import kernel_environment
from hypothesis import settings

# A run repeats the run before it; `pytest --hypothesis-profile default` looks for new examples.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_addoption(parser):
    parser.addoption("--processor", default="own", help="imitate another one: sse41, avx2, jitter1, ..., today")


def pytest_configure(config):
    folder = config.rootpath / ".pytest_cache" / "processors"
    try:
        os.environ.update(processors.environment(config.option.processor, folder))  # before torch is imported
    except ValueError as error:
        raise pytest.UsageError(f"--processor: {error}") from error
    if config.pluginmanager.has_plugin("nbval"):
        run_solutions()


def run_solutions():
    """Where nbval is there, more runs after a notebook's cells, in a copy of its names: its solutions, as a reader
    would run them, and its guards once more on a wrong number (tools/faults.py), which they have to notice."""
    import nbformat
    from nbval.plugin import IPyNbCell, IPyNbFile

    collect_cells = IPyNbFile.collect

    def collect(self):
        cells = list(collect_cells(self))
        prose = "\n".join(cell.source for cell in self.nb.cells if cell.cell_type == "markdown")
        hidden = "\n".join(re.findall(r"<details>.*?</details>", prose, re.DOTALL))
        more = {f"Solution {n}": code for n, code in
                enumerate(re.findall(r"^```python\n(.*?)^```", hidden, re.M | re.S), start=1)}
        more |= {f"Fault {n}": code for n, code in enumerate(faults.planted(self.path.stem, self.nb.cells), start=1)}
        for name, code in more.items():
            cell = nbformat.v4.new_code_cell(f"exec({code!r}, dict(globals()))")
            options = defaultdict(bool)  # what it prints is compared with nothing
            cells.append(IPyNbCell.from_parent(self, name=name, cell_num=len(cells), cell=cell, options=options))
        return cells

    IPyNbFile.collect = collect


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel here: give it the environment in which its outputs were made."""
    environment = kernel_environment() if item.path.suffix == ".ipynb" else {}
    with mock.patch.dict(os.environ, environment):
        return (yield)


def pytest_collection_modifyitems(items):
    """The files that take longest go first, so that in the end no process waits for another."""
    slow = Counter(item.path for item in items if item.path.suffix == ".ipynb" or item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", -slow[item.path]))
