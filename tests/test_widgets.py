import base64
import html
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from dmtutor.plotting import mosaic
from dmtutor.sources import from_arrays
from dmtutor.widgets import frames, frames_grid

widgets = pytest.importorskip("ipywidgets")
needs_stack = pytest.mark.skipif(not hasattr(widgets, "Stack"), reason="ipywidgets 7 has no Stack")
PICTURES = torch.arange(3 * 16).view(3, 4, 4) / 47
LABELS = ["iteration 0", "iteration 10", "iteration 20"]


def decode(page):
    return Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)", page)[1])))


def alt(page):
    return html.unescape(re.search(r'alt="([^"]*)"', page)[1])


def show(pictures=PICTURES, labels=LABELS, description="iteration", alt="digits"):
    return frames(pictures, labels, description=description, alt=alt)


def grid(pictures, rows, columns):
    return frames_grid(pictures, rows, columns, descriptions=("row", "column"), alt="digits")


def stored(box):
    """What a notebook or page stores of this widget: pairs of id and model."""
    from ipywidgets.embed import dependency_state

    return dependency_state([box]).items()


def pages(box):
    """The HTML of every frame."""
    return [child.value for child in box.children[-1].children]


@needs_stack
def test_stored_state_holds_all_frames_and_the_link():
    box = show()
    named = {}
    for key, model in stored(box):
        named.setdefault(model["model_name"], []).append((key, model["state"]))
    assert len(named["HTMLModel"]) == 3
    ((_, link),) = named["LinkModel"]
    ((slider, _),), ((stack, state),) = named["IntSliderModel"], named["StackModel"]
    assert link["source"] == [f"IPY_MODEL_{slider}", "value"]
    assert link["target"] == [f"IPY_MODEL_{stack}", "selected_index"]
    assert state["selected_index"] == 0


@needs_stack
def test_pngs_hold_the_very_pixels():
    for picture, page in zip(PICTURES, pages(show()), strict=True):
        assert np.array_equal(np.asarray(decode(page)), (255 * picture).round().to(torch.uint8).numpy())


@needs_stack
def test_colour_batches_and_sets_are_mosaics():
    batch = torch.rand(4, 3, 5, 5)
    data = from_arrays(batch.permute(0, 2, 3, 1), torch.tensor([1, 0, 1, 0]), classes=["a", "b"])
    expected = [mosaic(batch, 4), mosaic(batch[[1, 3, 0, 2]], 2), batch[0].permute(1, 2, 0).numpy()]
    for page, picture in zip(pages(show([batch, data, batch[0]])), expected, strict=True):
        assert np.abs(np.asarray(decode(page)) / 255.0 - picture).max() <= 0.5001 / 255


@needs_stack
def test_figures_are_stored_and_closed():
    figures = [plt.figure(figsize=(2, 1), dpi=50) for _ in range(2)]
    box = show(figures, LABELS[:2])
    assert [decode(page).size for page in pages(box)] == [(100, 50)] * 2
    assert not any(plt.fignum_exists(figure.number) for figure in figures)


@needs_stack
def test_every_frame_says_what_it_is():
    for label, page in zip(LABELS, pages(show(alt='a "1" < b')), strict=True):
        assert alt(page) == f'a "1" < b: {label}'
        assert f">{label}</figcaption>" in page


@needs_stack
def test_labels_are_text_not_markup():
    assert "&lt;b&gt;</figcaption>" in pages(show(labels=["<b>", 1, 2.5]))[0]


@needs_stack
def test_grid_links_outer_and_all_inner_stacks():
    box = grid(PICTURES[:2, None].expand(2, 3, 4, 4), "ab", "xyz")
    rows, columns, outer = box.children
    assert (rows.max, columns.max) == (1, 2)
    shown = [[alt(page.value) for page in inner.children] for inner in outer.children]
    assert shown == [[f"digits: {r}, {c}" for c in "xyz"] for r in "ab"]
    links = [model["state"] for _, model in stored(box) if model["model_name"] == "LinkModel"]
    ends = {(link["source"][0], link["target"][0]) for link in links}
    expected = [(rows, outer), *((columns, inner) for inner in outer.children)]
    assert ends == {tuple(f"IPY_MODEL_{w.model_id}" for w in pair) for pair in expected}


def test_without_stack_the_kernel_changes_the_frame(monkeypatch):
    monkeypatch.delattr(widgets, "Stack", raising=False)
    slider, view = show().children
    seen = [alt(view.value)]
    for slider.value in (2, 1):
        seen.append(alt(view.value))
    assert seen == [f"digits: iteration {i}" for i in (0, 20, 10)]


def test_without_stack_both_sliders_of_a_grid_work(monkeypatch):
    monkeypatch.delattr(widgets, "Stack", raising=False)
    pictures = PICTURES[:2, None].expand(2, 2, 4, 4)
    rows, columns, view = grid(pictures, "ab", "xy").children
    rows.value = 1
    columns.value = 1
    assert alt(view.value) == "digits: b, y"


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"pictures": PICTURES[:2]}, ValueError, "labels.*3 for 2"),
        ({"pictures": [], "labels": []}, ValueError, "pictures"),
        ({"pictures": PICTURES[:1], "labels": LABELS[:1]}, ValueError, "pictures"),
        ({"alt": " "}, ValueError, "alt"),
        ({"description": ""}, ValueError, "description"),
        ({"pictures": ["a.png"] * 3}, TypeError, "pictures.*str"),
        ({"pictures": PICTURES.log() * 0}, ValueError, "NaN"),
        ({"pictures": torch.rand(3, 1, 1, 1, 4, 4)}, ValueError, "images"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        show(**change)


def test_grid_refuses_a_ragged_table():
    with pytest.raises(ValueError, match=r"columns.*2 for 3"):
        grid([PICTURES, PICTURES], "ab", "xy")


@needs_stack  # ipywidgets 7 displays itself
def test_what_a_notebook_stores_is_short_and_the_same_again():
    from IPython.core.formatters import DisplayFormatter

    first, second = (DisplayFormatter().format(show(p))[0]["text/plain"] for p in (PICTURES, 1 - PICTURES))
    assert first == second and len(first) < 200 and "0x" not in first


def test_a_slider_opens_on_the_picture_asked_for():
    box = frames(torch.rand(3, 4, 4), "abc", description="letter", alt="noise", start=-1)
    assert (box.children[0].value, box.children[1].selected_index) == (2, 2)
    grid = frames_grid(torch.rand(2, 3, 4, 4), "ab", "cde", descriptions=("x", "y"), alt="noise", start=(1, 2))
    assert [slider.value for slider in grid.children[:2]] == [1, 2]
    assert [inner.selected_index for inner in grid.children[2].children] == [2, 2]
    with pytest.raises(ValueError, match="start must be in -3 … 2; got 3"):
        frames(torch.rand(3, 4, 4), "abc", description="letter", alt="noise", start=3)
