"""What opens the rendered book: a browser, and a server for this machine. The tests and make_pdf.py share them."""

import functools
import http.server
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"


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


@contextmanager
def served(folder):
    """The address at which the files of a folder are served, in silence."""
    silent = type("Silent", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(silent, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
