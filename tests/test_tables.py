"""A table is HTML in a page and text in a terminal."""

import pytest

from dmtutor.tables import table


def test_a_page_gets_cells_with_headers():
    shown = table([("Random", 57.8), ("DM", 89.2)], ["IPC 1", "accuracy, %"], caption="Digits")._repr_html_()
    assert shown == (
        '<table class="dmtutor"><caption>Digits</caption>\n'
        '<thead><tr><th scope="col">IPC 1</th><th scope="col">accuracy, %</th></tr></thead>\n'
        '<tbody>\n<tr><th scope="row">Random</th><td>57.8</td></tr>\n'
        '<tr><th scope="row">DM</th><td>89.2</td></tr>\n</tbody>\n</table>'
    )


def test_text_is_escaped():
    shown = table([("a < b", "<b>")], ["x & y", "z"])._repr_html_()
    assert "a &lt; b" in shown and "&lt;b&gt;" in shown and "x &amp; y" in shown and "<b>" not in shown


def test_a_terminal_gets_columns():
    assert repr(table([("a", 10), ("long", 2)], ["name", "n"], caption="Two")) == "Two\nname  n\na     10\nlong  2"


def test_rows_must_fit():
    with pytest.raises(ValueError, match="rows must have 2 cells each, as columns has"):
        table([("a", 1, 2)], ["name", "n"])
    with pytest.raises(ValueError, match="rows must hold at least one row"):
        table([], ["name"])
