"""What all benchmarks share: rows are stored one by one, with where they come from."""

import ctypes
import json
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

import torch

import dmtutor
from dmtutor import evaluate, files, results

FOLDER = Path(dmtutor.__file__).parent / "results"


def provenance(**more):
    """Commit, device, versions and date, for the results of this run."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=FOLDER)
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    device = f"{(names or [platform.processor()])[0]}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device += f", {torch.cuda.get_device_name()}"
    versions = {"dmtutor": dmtutor.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    here = {"commit": git.stdout.strip(), "device": device, "versions": versions, "date": date.today().isoformat()}
    return {**here, **more}


class Table:
    """The rows of a result file: what is there already, and a way to add to it.

    A row of another commit, device, version or day than those of the file's first run says so itself. If it is asked
    to be ``new``, the file that was there goes.
    """

    def __init__(self, name, *, new=False, **more):
        self.path = FOLDER / f"{name}.json"
        if new:
            self.path.unlink(missing_ok=True)
        here = provenance(**more)
        empty = {"provenance": here, "rows": []}
        self.content = json.loads(self.path.read_text()) if self.path.exists() else empty
        first = self.content["provenance"]
        self.differs = {k: here[k] for k in ("commit", "device", "versions", "date") if here[k] != first.get(k)}

    @property
    def rows(self):
        return self.content["rows"]

    def find(self, **key):
        """The first row with these values, or None."""
        return next((row for row in self.rows if all(row.get(k) == v for k, v in key.items())), None)

    def judge(self, key, sets, images, *, networks, recipe, teacher=None, **more):
        """Score sets, unless this row is there, and add it: the same luck for all, see `dmtutor.evaluate`."""
        if self.find(**key) is None:
            judge = {"networks": networks, "recipe": recipe, "teacher": teacher, "generator": seeded(0)}
            accuracies = evaluate(sets, images, **judge)
            self.add({**key, **more, "accuracies": results.pack(accuracies)})
            print(f"{key}: {accuracies}", flush=True)

    def add(self, row):
        """Append a row to what the file holds now: another process may have added to it. It is replaced as a whole."""
        if self.path.exists():
            self.content = json.loads(self.path.read_text())
        self.rows.append({**row, **self.differs})
        files.write_bytes((json.dumps(self.content, indent=1) + "\n").encode(), self.path)


def seeded(number):
    return torch.Generator().manual_seed(number)


def start_peak():
    """Give freed memory back and count the process's peak from here; what it holds now, in kilobytes (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes("VmRSS")


def peak_above(start):
    """Megabytes by which the peak since :func:`start_peak` exceeds what it returned."""
    return round((kilobytes("VmHWM") - start) / 1024)


def kilobytes(name):
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
