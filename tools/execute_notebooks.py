"""The one way in which a notebook gets its outputs.

    python tools/execute_notebooks.py [book/05_distribution_matching.ipynb ...]     # none: every notebook

Executes each notebook from top to bottom in the environment that the tests use, stores the widgets' state
under stable ids, drops metadata that differs from run to run, and seals the result: tests/test_book.py
recomputes the seal, so an output that was edited, stripped or made by other code than what stands above it
is found. A notebook is written whole or, when a cell fails, not at all.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def kernel_environment():
    """The environment of a notebook's kernel, here and under nbval (conftest.py)."""
    return {
        "OMP_NUM_THREADS": "2",  # the caller's own number wins: outputs must not depend on it
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONHASHSEED": "0",
        "TQDM_DISABLE": "1",
    }


def seal(notebook):
    """SHA-256 of what was executed and what came out: sources, counts, outputs and widget state."""
    text = lambda lines: lines if isinstance(lines, str) else "".join(lines)  # noqa: E731
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    content = [[text(c["source"]), c["execution_count"], c["outputs"]] for c in cells]
    content.append(notebook["metadata"].get("widgets"))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def with_tidy_widgets(notebook):
    """Widget models get random ids: number them as they were made. A layout's dozens of nulls say nothing."""
    models = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for model in models.values():
        if model["model_name"] == "LayoutModel":
            model["state"] = {key: value for key, value in model["state"].items() if value is not None}
    text = json.dumps(notebook)
    for number, model in enumerate(models, start=1):
        text = text.replace(model, f"{number:032x}")
    return json.loads(text)


def execute(path):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("mystnb", "tags") if key in cell.metadata}
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        store_widget_state=True,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},  # where nbval runs it
    )
    client.execute(env=kernel_environment())
    notebook.metadata["language_info"] = {"name": "python"}

    stored = json.loads(nbformat.writes(nbformat.from_dict(with_tidy_widgets(notebook))))
    stored["metadata"]["dmtutor"] = {"seal": seal(stored)}
    temporary = path.with_suffix(".tmp")
    text = json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                print(f"{path.name}: [{cell.execution_count}] wrote to stderr: {output.text.strip()[:200]}")


def main():
    paths = [Path(path).resolve() for path in sys.argv[1:]] or sorted((ROOT / "book").glob("*.ipynb"))
    for path in paths:
        print(path.name, flush=True)
        try:
            execute(path)
        except Exception as error:  # a failed cell, a kernel that died, a file that is no notebook
            sys.exit(f"{path.name} was left as it was: {error}")


if __name__ == "__main__":
    main()
