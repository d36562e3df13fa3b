import os
import re
from collections import defaultdict
from unittest import mock

import nbformat
import nbval.plugin
import pytest
from execute_notebooks import kernel_environment
from hypothesis import settings

# A run repeats the run before it; `pytest --hypothesis-profile default` looks for new examples.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


collect_cells = nbval.plugin.IPyNbFile.collect


def collect_cells_and_solutions(self):
    """A notebook's solutions run, too: each after all cells, in a copy of their names, as a reader would run it."""
    cells = list(collect_cells(self))
    prose = "\n".join(cell.source for cell in self.nb.cells if cell.cell_type == "markdown")
    hidden = "\n".join(re.findall(r"<details>.*?</details>", prose, re.DOTALL))
    solutions = [
        nbval.plugin.IPyNbCell.from_parent(
            self,
            name=f"Solution {number}",
            cell_num=len(cells) + number - 1,
            cell=nbformat.v4.new_code_cell(f"exec({code!r}, dict(globals()))"),
            options=defaultdict(bool),  # what it prints is compared with nothing
        )
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", hidden, re.M | re.S), start=1)
    ]
    return cells + solutions


nbval.plugin.IPyNbFile.collect = collect_cells_and_solutions


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel here: give it the environment in which its outputs were made."""
    environment = kernel_environment() if item.path.suffix == ".ipynb" else {}
    with mock.patch.dict(os.environ, environment):
        return (yield)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
