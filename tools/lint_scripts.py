"""Lint the book's JavaScript with Biome.

    python tools/lint_scripts.py

package.json names the exact version; npm brings it, once, into the Python environment. biome.json sets the rules.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vendor_scripts import ROOT, npm

SCRIPTS = ["dmtutor/playgrounds", "book/_static/book.js"]


def bring(version):
    """The program: of its packages npm chooses the one for this machine, without dependencies, scripts or lock file."""
    program = Path(sys.prefix, f"biome-{version}")
    if not program.exists():
        with tempfile.TemporaryDirectory() as temporary:
            command, environment = npm(Path(temporary, "npm"))
            options = ["--silent", "--ignore-scripts", "--no-save", "--no-package-lock", "--prefix", temporary]
            install = [*command, "install", *options, f"@biomejs/biome@{version}"]
            if subprocess.run(install, cwd=temporary, env=environment, stdout=subprocess.DEVNULL).returncode:
                sys.exit(f"Could not bring the linter: Biome {version} did not come. Is there a network?")
            found = min(Path(temporary).glob("node_modules/@biomejs/cli-*/biome*"))
            shutil.copy(found, program.with_suffix(".tmp"))
        program.with_suffix(".tmp").replace(program)  # last, so that an interrupted run is done again
    return program


def main():
    version = json.loads((ROOT / "package.json").read_text())["devDependencies"]["@biomejs/biome"]
    lint = [bring(version), "lint", "--error-on-warnings", *SCRIPTS]
    sys.exit(subprocess.run(lint, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
