"""What the tests in a browser share."""

import os
import shutil
from pathlib import Path

import pytest

BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"


def unavailable(what):
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def browser():
    """Chromium: Debian's, Chrome, playwright's own, or the one that the environment variable DMTUTOR_CHROMIUM names."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed")
    found = os.environ.get("DMTUTOR_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        found = found or playwright.chromium.executable_path
        if not Path(found).exists():
            unavailable("no Chromium: install it, or name one in DMTUTOR_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
