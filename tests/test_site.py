"""The rendered book in a browser: nothing fails, nothing comes from elsewhere, everybody can use it.

Needs a built book (`make book`) and Chromium: Debian's, Chrome, playwright's own, or the one that the
environment variable DMTUTOR_CHROMIUM names. Without one of the two it skips; under CI it fails.
"""

import os
from pathlib import Path

import pytest
from browser import served
from browsing import unavailable

pytestmark = pytest.mark.slow
SITE = Path(__file__).resolve().parent.parent / "_build" / "html"
SOURCES = SITE.parent.parent / "book"
MOVED = [page.name for page in SOURCES.glob("_moved/book/*.html")]  # they lead on, and are no pages
PAGES = sorted(page for page in SITE.glob("book/*.html") if page.name not in MOVED)
PAGES += [page for name in ("genindex", "search") for page in SITE.glob(f"{name}.html")]
VISIBLE_FRAMES = """() => [...document.querySelectorAll('.widget-html-content')]
    .filter(frame => frame.offsetParent !== null).map(frame => frame.innerHTML).join()"""
# Text by its colour, what lies behind it, and its size: the contrast of each combination, by WCAG's formula. (Axe looks
# at every element, which takes longer than all else.)
PALE = r"""() => {
    const numbers = color => (color.match(/[\d.]+/g) || []).map(Number);
    const over = ([r, g, b, a = 1], back) => [r, g, b].map((v, i) => a * v + (1 - a) * back[i]);
    const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => !e ? [255, 255, 255]
        : over(numbers(getComputedStyle(e).backgroundColor), behind(e.parentElement));
    const pale = new Map();
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || e.closest('mjx-container, svg, kbd, .search-button__kbd-shortcut, :disabled')) continue;
        if (!e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        const { color, fontSize, fontWeight } = getComputedStyle(e), size = parseFloat(fontSize), back = behind(e);
        const [a, b] = [light(over(numbers(color), back)), light(back)];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const large = size >= 24 || (size >= 18.66 && fontWeight >= 700);
        if (contrast < (large ? 3 : 4.5)) pale.set(`${color} on ${back}`, `${e.outerHTML.slice(0, 120)}: ${contrast}`);
    }
    return [...pale.values()];
}"""
RAW = r"""() => (document.querySelector('main').innerText
    .match(/(\{(?:ref|numref|cite\w*|eq|doc|term)\}`|\$\$|\\begin\{|:::\{|\\frac\{)/g) || [])"""


CODE = """() => [...document.querySelectorAll('article .cell_input')].filter(e => e.checkVisibility())
    .reduce((sum, e) => sum + e.getBoundingClientRect().height, 0)"""
SIDEWAYS = """() => [...document.querySelectorAll('article table, article mjx-container')].flatMap(e => {
    let box = e;
    while (box && !['auto', 'scroll', 'hidden'].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
    const wide = box && e.checkVisibility() && (box.scrollWidth > box.clientWidth + 1
        || e.getBoundingClientRect().right > innerWidth);
    return wide ? [e.tagName + ': ' + e.textContent.trim().slice(0, 60)] : [];
})"""


@pytest.fixture(scope="module")
def address():
    if not PAGES:
        unavailable("the book is not built: run `make book`")
    with served(SITE) as address:
        yield address


@pytest.fixture
def visit(browser, address):
    """Opens a page and, in the end, asks that nothing failed and nothing came from another host."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    wrong = []
    context.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("response", lambda answer: answer.status >= 400 and wrong.append(f"{answer.status} {answer.url}"))

    def only_this_book(route):
        if not route.request.url.startswith((address, "data:", "blob:")):
            wrong.append(f"a request to another host: {route.request.url}")
            return route.abort()
        return route.continue_()

    context.route("**", only_this_book)

    def open_page(path):
        page = context.new_page()
        page.goto(f"{address}/{path}", wait_until="networkidle")
        if page.locator('script[type*="widget-view"]').count():
            page.wait_for_selector(".jupyter-widgets")
        return page

    yield open_page
    context.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [path.relative_to(SITE).as_posix() for path in PAGES] or ["the book"])
def test_page(visit, path):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(path)
    assert page.locator(".math").count() == 0 or page.locator("mjx-container").count() > 0, "mathematics is raw"
    assert page.locator("[data-mml-node=merror]").count() == 0, "mathematics with an error"
    assert not page.evaluate(RAW), "Markdown that was not rendered"
    nameless = "() => [...document.images].filter(i => !i.alt || /[.](png|svg|jpe?g)$/.test(i.alt)).map(i => i.src)"
    assert not page.evaluate(nameless), "images without alt text"

    if os.environ.get("CI") or PAGES.index(SITE / path) % 3 == 0:  # it takes half of the time; elsewhere every third
        where = {"exclude": [["mjx-container"]]}  # MathJax's own care
        options = {"preload": False, "resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": False}}}
        violations = Axe().run(page, context=where, options=options).response["violations"]
        grave = [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in violations
                 if v["impact"] in ("serious", "critical")]
        assert not grave, "\n".join(grave)
    page.add_style_tag(content="* { transition: none !important; }")  # a colour on its way is no colour
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        assert not page.evaluate(PALE), f"text that is hard to see in the {theme} theme"

    if path.startswith("book/"):
        height = page.evaluate("document.documentElement.scrollHeight")
        if path[5:7].isdigit():  # a chapter
            code = page.evaluate(CODE) / height
            assert height <= 27 * 900, f"{height / 900:.1f} screens, 27 are allowed"
            assert code <= 0.3, f"{code:.0%} of the page is code, 30 % are allowed"
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
        assert not page.evaluate(SIDEWAYS), "tables or formulas that scroll sideways on a phone"


@pytest.mark.parametrize("path", [path.relative_to(SITE).as_posix() for path in PAGES
                                  if "widget-view" in path.read_text(encoding="utf-8")])
def test_slider_moves_frames_by_keyboard(visit, path):
    page = visit(path)
    slider = page.locator(".widget-slider [role=slider]").first
    assert slider.get_attribute("aria-label")
    before, frames = slider.get_attribute("aria-valuenow"), page.evaluate(VISIBLE_FRAMES)
    slider.focus()
    key = "ArrowLeft" if before == slider.get_attribute("aria-valuemax") else "ArrowRight"
    page.keyboard.press(key)
    assert slider.get_attribute("aria-valuenow") != before
    page.wait_for_function(f"before => ({VISIBLE_FRAMES})() !== before", arg=frames)


@pytest.mark.parametrize("path, name", [("02_mmd", "points"), ("05_distribution_matching", "digits")])
def test_playground_computes_in_the_page(visit, path, name):
    page = visit(f"book/{path}.html")
    playground = page.locator(f"dm-{name}")
    playground.scroll_into_view_if_needed()
    assert not playground.get_by_text("run this cell").is_visible()
    playground.locator("#once").click()
    page.wait_for_function(f"document.querySelector('dm-{name}').steps === 1")


def test_an_old_address_leads_on(visit):
    page = visit("book/07_distribution_matching.html")
    page.wait_for_url("**/book/05_distribution_matching.html")


@pytest.mark.parametrize("style, seen", [
    ("color: #777", True), ("color: #767676", False),
    ("color: #999; font-size: 24px", True), ("color: #949494; font-size: 24px", False),
    ("color: #fff6; background: #333", True), ("color: #fff9; background: #333", False),
])
def test_pale_text_is_seen(browser, style, seen):
    """4.5 to 1 is the least for text, 3 to 1 for large text; #767676 on white is the palest grey that passes."""
    page = browser.new_page()
    page.set_content(f"<html><body><p style='{style}'>a word</p></body></html>")
    assert bool(page.evaluate(PALE)) == seen
    page.close()


def test_drawers_open_on_a_phone(visit):
    page = visit("book/notation.html")
    page.set_viewport_size({"width": 390, "height": 844})
    for button, text in (("primary", "Maximum mean discrepancy"), ("secondary", "Optimisation")):
        inside = page.locator(f"#pst-{button}-sidebar-modal").get_by_text(text)
        assert not inside.is_visible()
        page.locator(f".{button}-toggle:visible").click()
        inside.wait_for(state="visible")
        page.keyboard.press("Escape")
        inside.wait_for(state="hidden")


def test_the_book_in_one_file(browser, address):
    """Two of its pages: a link from one to the other leads there, and none leads to the server that printed them."""
    make_pdf = pytest.importorskip("make_pdf", reason="pypdf is not installed")
    names = "book/index", "book/notation"
    parts = {name: make_pdf.printed(browser, f"{address}/{name}.html") for name in names}
    whole = make_pdf.together(parts, f"{address}/")
    links = [link.get_object() for page in whole.pages for link in page.get("/Annots", ())]
    assert not any(str(link.get("/A", {}).get("/URI", "")).startswith(address) for link in links)
    first_of_notation = whole.pages[len(parts[names[0]].pages)].indirect_reference
    assert any(link.get("/Dest", [None])[0] == first_of_notation for link in links)
    assert [item.title for item in whole.outline] == ["Dataset condensation with distribution matching", "Notation"]
