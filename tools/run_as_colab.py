"""Run notebooks as Colab would: each alone in an empty folder, on an image without dmtutor.

    .venv-colab/bin/python tools/run_as_colab.py [book/05_distribution_matching.ipynb ...]      # none: every notebook

Run it by `make colab`, whose environment has ipywidgets, IPython and ipykernel at Colab's releases. The first
cell installs dmtutor as on Colab, here from the local clone: what is committed, not what lies in the folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip"]


def packages():
    listed = subprocess.run([*PIP, "list", "--format=freeze"], check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


def main():
    paths = [Path(path).resolve() for path in sys.argv[1:]] or sorted((ROOT / "book").glob("*.ipynb"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"DMTUTOR_SOURCE": f"git+{ROOT.as_uri()}", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    for path in paths:
        subprocess.run([*PIP, "uninstall", "--quiet", "--yes", "dmtutor"], check=True, stderr=subprocess.DEVNULL)
        image, start = packages(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = nbformat.read(shutil.copy(path, folder), as_version=4)
            client = nbclient.NotebookClient(notebook, timeout=None, kernel_name="python3",
                                             resources={"metadata": {"path": folder}})
            try:
                client.execute(env=environment)
            except Exception as error:
                sys.exit(f"{path.name} fails on Colab: {error}")
        changed = {package for package in image ^ packages() if not package.startswith("dmtutor")}
        if changed:
            sys.exit(f"{path.name} changed packages of the image: {', '.join(sorted(changed))}")
        print(f"{path.name} runs as on Colab, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
