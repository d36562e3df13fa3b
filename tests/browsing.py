"""What the tests in a browser share."""

import os
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"


def unavailable(what):
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@contextmanager
def chromium():
    """Debian's Chromium, Chrome, playwright's own, or the one that the environment variable DMTUTOR_CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    found = os.environ.get("DMTUTOR_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        found = found or playwright.chromium.executable_path
        if not Path(found).exists():
            raise FileNotFoundError("no Chromium: install it, or name one in DMTUTOR_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def browser():
    """As :func:`chromium`; without one the tests are skipped, or fail under CI."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(chromium())
        except (ImportError, FileNotFoundError) as missing:
            unavailable(str(missing))
        yield started
