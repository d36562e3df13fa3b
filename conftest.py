import os
import re
from collections import defaultdict
from unittest import mock

import pytest
from execute_notebooks import kernel_environment
from hypothesis import settings

# A run repeats the run before it; `pytest --hypothesis-profile default` looks for new examples.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_configure(config):
    """Where nbval is there, a notebook's solutions run, too: each after all cells, as a reader would run it."""
    if not config.pluginmanager.has_plugin("nbval"):
        return
    import nbformat
    from nbval.plugin import IPyNbCell, IPyNbFile

    collect_cells = IPyNbFile.collect

    def collect(self):
        cells = list(collect_cells(self))
        prose = "\n".join(cell.source for cell in self.nb.cells if cell.cell_type == "markdown")
        hidden = "\n".join(re.findall(r"<details>.*?</details>", prose, re.DOTALL))
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", hidden, re.M | re.S), start=1):
            cell = nbformat.v4.new_code_cell(f"exec({code!r}, dict(globals()))")  # in a copy of the chapter's names
            options = defaultdict(bool)  # what it prints is compared with nothing
            name, place = f"Solution {number}", len(cells)
            cells.append(IPyNbCell.from_parent(self, name=name, cell_num=place, cell=cell, options=options))
        return cells

    IPyNbFile.collect = collect


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel here: give it the environment in which its outputs were made."""
    environment = kernel_environment() if item.path.suffix == ".ipynb" else {}
    with mock.patch.dict(os.environ, environment):
        return (yield)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
