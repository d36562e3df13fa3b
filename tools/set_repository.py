"""Set the address of the project's repository wherever it is written, or say where the places disagree.

    python tools/set_repository.py https://github.com/ACCOUNT/NAME
    python tools/set_repository.py --check

pyproject.toml defines the address; configuration, links and the notebooks' first cells repeat it.
"""

import json
import re
import sys

from execute_notebooks import ROOT, seal

URL = r"https://github\.com/[\w.-]+/[\w.-]*\w"
FILES = ["pyproject.toml", "_config.yml", "README.md", "CITATION.cff", "tools/first_cell.py"]


def places(root):
    """Every file in which the address stands, or must stand."""
    return [root / name for name in FILES] + sorted((root / "book").glob("*.md")) + notebooks(root)


def notebooks(root):
    return sorted((root / "book").glob("*.ipynb"))


def address(root=ROOT):
    """The address that pyproject.toml defines."""
    return re.search(rf'^Repository = "({URL})"', (root / "pyproject.toml").read_text(), re.MULTILINE)[1]


def disagreements(root=ROOT):
    """One line for each place that lacks the address or has another one."""
    url = address(root)
    account, name = url.split("/")[3:]
    # a link to a file on Colab reads https://colab.research.google.com/github/ACCOUNT/NAME/blob/...
    ours = re.compile(rf"github(?:\.com)?/([\w.-]+/(?:dmtutor|{re.escape(name)}))\b")
    found = []
    for path in places(root):
        text = path.read_text(encoding="utf-8")
        others = set(ours.findall(text)) - {f"{account}/{name}"}
        found += [f"{path.relative_to(root)}: has {other}, not {account}/{name}" for other in sorted(others)]
        if url not in text and (path.suffix == ".ipynb" or path.relative_to(root).as_posix() in FILES):
            found.append(f"{path.relative_to(root)}: lacks {url}")
    return found


def set_address(url, root=ROOT):
    """Write `url` in every place; a notebook whose seal was whole gets a new one."""
    old = "/".join(address(root).split("/")[3:])
    new = "/".join(url.split("/")[3:])
    for path in places(root):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(rf"(github(?:\.com)?/){re.escape(old)}\b", rf"\g<1>{new}", text)
        if changed == text:
            continue
        if path.suffix == ".ipynb":
            before, after = json.loads(text), json.loads(changed)
            changed = changed.replace(seal(before), seal(after))
        path.write_text(changed, encoding="utf-8")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    if sys.argv[1] != "--check":
        url = sys.argv[1].removesuffix("/").removesuffix(".git")
        if not re.fullmatch(URL, url):
            sys.exit(f"The address must read https://github.com/ACCOUNT/NAME, not {sys.argv[1]}")
        set_address(url)
    if found := disagreements():
        sys.exit("\n".join(found))
    print(f"The repository is {address()}")


if __name__ == "__main__":
    main()
