"""What a reader may rely on in every notebook: it was executed as it stands, and reads well everywhere."""

import json
import re
from pathlib import Path

import pytest
from execute_notebooks import seal

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))

FORBIDDEN = {  # pattern: why
    r";\s*$": "a trailing semicolon hides a value that the tests then do not see",
    r"\binteract(ive|_manual)?\b": "interact needs a kernel: use dmtutor.widgets.frames",
    r"\bOutput\(": "an Output widget needs a kernel: use dmtutor.widgets.frames",
    r"\bclear_output\b|\bupdate_display\b|\bdisplay_id\b": "a display that is updated cannot be compared",
    r"\bto_jshtml\b|\bto_html5_video\b": "an animation weighs megabytes: use dmtutor.widgets.frames",
    r"set_matplotlib_formats|figure_formats?\b": "PNG is the format that reads the same everywhere",
    r"^\s*[%!]": "a magic command: plain Python runs everywhere",
}


def text(lines):
    return lines if isinstance(lines, str) else "".join(lines)


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def html(notebook):
    """Every piece of HTML that a page shows: Markdown, HTML outputs and the widgets' values."""
    yield from (text(cell["source"]) for cell in cells(notebook, "markdown"))
    for cell in cells(notebook, "code"):
        yield from (text(output.get("data", {}).get("text/html", "")) for output in cell["outputs"])
    for widgets in notebook["metadata"].get("widgets", {}).values():
        values = (model["state"].get("value") for model in widgets["state"].values())
        yield from (value for value in values if isinstance(value, str))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_notebook_is_in_the_book():
    listed = re.findall(r"(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text())
    pages = [path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "book").glob("*.*")
             if path.suffix in (".ipynb", ".md")]
    assert sorted(listed) == sorted(pages)


def test_the_library_page_shows_every_public_name():
    documented = re.findall(r"^\.\. auto(?:class|function):: (\w+)$", (ROOT / "book" / "api.md").read_text(), re.M)
    public = re.findall(r"^from \.[a-z]\w* import (.+)$", (ROOT / "dmtutor" / "__init__.py").read_text(), re.M)
    assert sorted(documented) == sorted(name for names in public for name in names.split(", "))


def test_the_first_code_cell_installs_dmtutor_on_colab(notebook):
    assert text(cells(notebook, "code")[0]["source"]) == (ROOT / "tools" / "first_cell.py").read_text().rstrip()


def test_outputs_are_those_of_the_code_above_them(notebook):
    code = [cell for cell in cells(notebook, "code") if text(cell["source"]).strip()]
    remedy = "run `make notebooks`"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), remedy
    assert any(cell["outputs"] for cell in code), remedy
    assert notebook["metadata"].get("dmtutor", {}).get("seal") == seal(notebook), remedy


def test_metadata_says_nothing_of_the_machine(notebook):
    metadata = notebook["metadata"]
    assert set(metadata) <= {"kernelspec", "language_info", "widgets", "dmtutor"}
    assert metadata["kernelspec"]["name"] == "python3" and metadata["language_info"] == {"name": "python"}
    assert {key for cell in notebook["cells"] for key in cell["metadata"]} <= {"mystnb", "tags"}


def test_code_runs_alike_everywhere(notebook):
    for cell in cells(notebook, "code"):
        for pattern, why in FORBIDDEN.items():
            found = re.search(pattern, text(cell["source"]), re.MULTILINE)
            assert not found, f"{found[0].strip()!r} in cell [{cell['execution_count']}]: {why}"


def test_outputs_can_be_compared(notebook):
    for cell in cells(notebook, "code"):
        for output in cell["outputs"]:
            where = f"cell [{cell['execution_count']}]"
            assert output["output_type"] != "error", f"{where} raised {output.get('ename')}"
            assert output.get("name") != "stderr", f"{where} wrote to stderr: {text(output['text'])[:200]}"
            assert "image/svg+xml" not in output.get("data", {}), f"{where} shows an SVG figure"
            plain = text(output.get("text", "")) + text(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r"\b0x[0-9a-f]{6,}", plain), f"{where} shows an object's address"


def test_figures_have_alt_text(notebook):
    for cell in cells(notebook, "code"):
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            where = f"metadata mystnb.image.alt of cell [{cell['execution_count']}]"
            assert len(alt.split()) >= 5 and alt.rstrip().endswith("."), f"{where}: a sentence, not {alt!r}"
    for page in html(notebook):
        for image in re.findall(r"<img\b[^>]*>", page):
            assert re.search(r"""\balt=["'][^"']""", image), f"an image without alt text: {image[:80]}"
        assert not re.search(r"!\[\s*\]\(", page), "a Markdown image without alt text"


def test_links_work_from_anywhere(notebook):
    """On Colab there is only the notebook: a link is a full address or leads within the page."""
    for page in map(text, (cell["source"] for cell in cells(notebook, "markdown"))):
        prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", page, flags=re.DOTALL)
        targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(r"""(?:href|src)=["']([^"']+)""", prose)
        bad = [target for target in targets if not target.startswith(("https://", "#", "data:image/"))]
        assert not bad, f"relative links: {bad}"


def test_size(path):
    assert path.stat().st_size < 2_000_000


def test_a_chapter_is_short(notebook):
    """4,200 words at most, solutions and code aside."""
    prose = "\n".join(text(cell["source"]) for cell in cells(notebook, "markdown"))
    prose = re.sub(r"<details>.*?</details>|```.*?```", "", prose, flags=re.DOTALL)
    assert len(prose.split()) <= 4200


def test_a_page_opens_with_few_words_and_a_picture(notebook):
    """A picture after at most 80 words; what is measured has its conditions in a fold."""
    opening, code = text(notebook["cells"][0]["source"]), []
    for cell in notebook["cells"][1:]:
        if cell["cell_type"] == "markdown":
            break
        code.append(cell)
    assert len(opening.partition("\n")[2].split()) <= 80
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])
    prose = "\n".join(text(cell["source"]) for cell in cells(notebook, "markdown"))
    assert "<summary>Fine print · " in prose
    assert all(cell["metadata"].get("mystnb", {}).get("code_prompt_show", "").startswith("Show ")
               for cell in cells(notebook, "code") if "hide-input" in cell["metadata"].get("tags", ()))


def test_tables_are_tables(notebook):
    """Made by dmtutor.tables.table, which a page shows as cells with headers; not by print."""
    for cell in cells(notebook, "code"):
        for output in cell["outputs"]:
            columns = re.search(r"^.*\S {2,}\S.*\n.*\S {2,}\S.*$", text(output.get("text", "")), re.MULTILINE)
            assert not columns, f"cell [{cell['execution_count']}] prints columns: {columns[0]}"
