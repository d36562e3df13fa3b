"""Tables of a page: HTML where it is rendered, plain text elsewhere."""

import html
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """What :func:`table` returns: a notebook shows it as HTML, a terminal as text."""

    rows: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    caption: str | None = None

    def _repr_html_(self):
        columns, *rows = (list(map(html.escape, cells)) for cells in (self.columns, *self.rows))
        head = "".join(f'<th scope="col">{cell}</th>' for cell in columns)
        body = "\n".join(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
                         for name, *cells in rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (f'<table class="dmtutor">{caption}\n<thead><tr>{head}</tr></thead>\n'
                f"<tbody>\n{body}\n</tbody>\n</table>")

    def __repr__(self):
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*([self.caption] if self.caption else []), *text])


def table(rows, columns, *, caption=None):
    """Show numbers as a table, in a page, a notebook and a terminal: a `Table`.

    A ValueError if there is no row, or one has not as many cells as there are columns.

    Parameters
    ----------
    rows : iterable of sequences
        A row each; the first cell names the row. Cells are shown as ``str`` gives them: round numbers before.
    columns : sequence of str
        A header for each column.
    caption : str, optional

    Examples
    --------
    >>> table([("Random", "57.8"), ("DM", "89.2")], ["IPC 1", "accuracy, %"])
    IPC 1   accuracy, %
    Random  57.8
    DM      89.2
    """
    columns = tuple(map(str, columns))
    rows = tuple(tuple(map(str, row)) for row in rows)
    if not rows:
        raise ValueError("rows must hold at least one row; got none")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"rows must have {len(columns)} cells each, as columns has; got {row}")
    return Table(rows, columns, caption)
