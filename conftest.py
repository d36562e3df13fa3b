import os
from unittest import mock

import pytest
from execute_notebooks import kernel_environment
from hypothesis import settings

# A run repeats the run before it; `pytest --hypothesis-profile default` looks for new examples.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel here: give it the environment in which its outputs were made."""
    environment = kernel_environment() if item.path.suffix == ".ipynb" else {}
    with mock.patch.dict(os.environ, environment):
        return (yield)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
