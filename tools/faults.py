"""Wrong numbers, planted: a guard that lets one pass guards nothing.

A chapter's cells assert what its sentences say. After the notebook has run, each assertion below runs once more on a
number that is wrong by as much as a reader would mind, and has to fail.
"""

FAULTS = {  # chapter: (an assertion of the chapter, by how it begins; what is planted before it)
}


def planted(chapter, cells):
    """Code that passes where a chapter's assertion notices the number planted before it."""
    code = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    for start, fault in FAULTS.get(chapter, ()):
        found = [line.strip() for line in code if line.strip().startswith(start)]
        if len(found) != 1:
            raise ValueError(f"{chapter} must have one line that begins with {start!r}; it has {len(found)}")
        yield f"{fault}\ntry:\n    {found[0]}\nexcept AssertionError:\n    pass\nelse:\n" \
              f"    raise AssertionError({f'{found[0]} lets {fault} pass'!r})\n"
