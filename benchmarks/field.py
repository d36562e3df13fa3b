"""The field in lines: fifty methods of dataset condensation, from field.json, as rows that the book can show.

    python benchmarks/field.py

Each line of field.json was read from the source that it names; the grade in brackets says from whom: the authors' own
code, table or picture (A), another paper's table (B), a third party's notes on a paper (C). The number of a row is the
first one that a line gives for CIFAR-10 at ten images per class. Results go to dmtutor/results/field.json, in no time.
"""

import json
import re
from pathlib import Path

from store import Table

KEPT = ("year", "family", "idea", "judge", "source")


def main():
    methods = json.loads(Path(__file__).with_suffix(".json").read_text())["methods"]
    table = Table("field", new=True, command="python benchmarks/field.py")
    for method in methods:
        found = re.search(r"(\d+\.\d)(?:\+-[\d.]+)? at CIFAR-10 IPC 10.*?\[([ABC])", method["number"])
        number = {"accuracy": float(found[1]), "grade": found[2]} if found else {}
        soft = method["labels"].startswith("soft") and "soft for ImageNet-1k" not in method["labels"]
        kept = {key: method[key] for key in KEPT}
        table.add({"experiment": "methods", "method": method["name"], **kept, "soft": soft, **number})


if __name__ == "__main__":
    main()
