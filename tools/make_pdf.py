"""The rendered book as one file, _build/book.pdf: folds open, links within the file, a slider as the picture it shows.

    make pdf

Needs a built book, Chromium (tools/browser.py), and pypdf, which puts the pages together.
"""

import io
import re
from pathlib import Path
from urllib.parse import urldefrag

from browser import chromium, served
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, FloatObject, NameObject, NullObject, NumberObject

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
OPEN = "document.querySelectorAll('details:not(.hide)').forEach(fold => fold.open = true)"  # folds of code are left out
QUIET = """.bd-header, .bd-sidebar-primary, .bd-sidebar-secondary, .header-article, .prev-next-area, .bd-footer,
    footer, #jb-print-toc, details.hide, .widget-slider, .skip-link { display: none !important }
    .bd-main, .bd-content, .bd-article-container { max-width: none !important; width: 100% !important }
    pre { white-space: pre-wrap !important; break-inside: auto !important } .highlight { break-inside: auto !important }
    h1 { margin-bottom: 1em !important } h1, h2, h3, summary { break-after: avoid }
    figure, img, .cell_output, .cell_input, table { break-inside: avoid }"""
READY = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
}"""


def pages():
    """The book's pages in their order, as the table of contents has them."""
    return re.findall(r"(?:root|file): *(\S+)", (ROOT / "_toc.yml").read_text())


def printed(browser, address):
    """A page as PDF."""
    page = browser.new_page(viewport={"width": 900, "height": 1200}, color_scheme="light")
    page.goto(address, wait_until="networkidle")
    page.evaluate(OPEN)
    page.evaluate(READY)
    page.add_style_tag(content=QUIET)
    made = page.pdf(format="A4", print_background=True, scale=0.8,
                    margin={side: "16mm" for side in ("top", "bottom", "left", "right")})
    page.close()
    return PdfReader(io.BytesIO(made))


def place(writer, number, left=None, top=None):
    """A destination: a page of the whole file, and where on it."""
    there = [NullObject() if v is None else FloatObject(v) for v in (left, top)]
    return ArrayObject([writer.pages[number].indirect_reference, NameObject("/XYZ"), *there, NumberObject(0)])


def together(parts, base):
    """One file of {page: PDF}: links to other pages and within one lead to where they should."""
    writer, first, within = PdfWriter(), {}, {}
    for name, reader in parts.items():
        first[name] = len(writer.pages)
        within[name] = {
            key: (first[name] + reader.get_destination_page_number(to), to.get("/Left"), to.get("/Top"))
            for key, to in reader.named_destinations.items()
        }
        for page in reader.pages:
            writer.add_page(page)
        title = re.sub(r"\s+", " ", (reader.metadata.title or name).split(" — ")[0])
        writer.add_outline_item(title=title, page_number=first[name])
    owners = [name for name, reader in parts.items() for _ in reader.pages]
    for page, owner in zip(writer.pages, owners, strict=True):
        for link in (entry.get_object() for entry in page.get("/Annots", ())):
            if "/Dest" in link:
                to = within[owner].get(str(link["/Dest"]).removeprefix("/"), (first[owner],))
            elif str(link.get("/A", {}).get("/URI", "")).startswith(base):
                path, name = urldefrag(link["/A"]["/URI"])
                target = path.removeprefix(base).removesuffix(".html")
                del link["/A"]
                if target not in first:  # source code, the index: not in this file
                    continue
                to = within[target].get(name, (first[target],))
            else:
                continue
            link[NameObject("/Dest")] = place(writer, *to)
    writer.compress_identical_objects()
    return writer


def main():
    with served(SITE) as address, chromium() as browser:
        parts = {name: printed(browser, f"{address}/{name}.html") for name in pages()}
    out = SITE.parent / "book.pdf"
    together(parts, f"{address}/").write(out)
    print(f"{out}: {sum(len(part.pages) for part in parts.values())} pages, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
