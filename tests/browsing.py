"""What the tests in a browser share."""

import os
from contextlib import ExitStack

import pytest
from browser import chromium


def unavailable(what):
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def browser():
    """Without Chromium or playwright the tests are skipped, or fail under CI."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(chromium())
        except (ImportError, FileNotFoundError) as missing:
            unavailable(str(missing))
        yield started
