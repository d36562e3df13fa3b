"""Sliders over pictures made beforehand, which move in the rendered book too, where no kernel runs."""

import base64
import html
import io

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image

from .plotting import arrange, mosaic

WIDTH = 640  # pixels of the screen that tensors are enlarged to, where it has so many

# The class `dark-light` and the inline styles keep the book's theme from dimming, padding or fading this.
PAGE = ('<figure style="margin:0;padding:0;color:inherit">'
        '<figcaption style="margin:0;padding:0 0 .4em;font-size:15px;font-weight:normal;color:inherit;'
        'text-align:left">{label}</figcaption>'
        '<img class="dark-light" alt="{alt}" src="data:image/png;base64,{data}" '
        'style="display:block;margin:0;padding:0;border-radius:0;height:auto;{style}"></figure>')


def frames(pictures, labels, *, description, alt, start=0):
    """Show one of several pictures, and let a slider choose: an `ipywidgets.VBox`.

    All pictures are stored in the notebook and the slider is linked in the browser, so it works in a rendered
    page as well. Give few and small pictures: tensors are stored pixel by pixel and enlarged by the browser.
    Where ipywidgets is older than 8, as on Colab, the kernel changes the picture instead.

    Parameters
    ----------
    pictures : sequence
        At least two of: LabeledImages; tensors of pixels in [0, 1], (H, W), (C, H, W) or (n, C, H, W);
        matplotlib figures, which are closed, lest the notebook shows them once more. A TypeError for others.
    labels : sequence
        One for each picture, shown above it, as "iteration 300"; a ValueError if they are not as many.
    description : str
        What the slider changes, as "iteration".
    alt : str
        What the pictures show, for those who cannot see them; each one's label is added. A ValueError for a blank text.
    start : int
        Number of the picture that is seen first, say that with the message; -1 is the last.

    Examples
    --------
    >>> box = frames(torch.rand(3, 28, 28), ["start", "middle", "end"], description="time", alt="noise")
    >>> box.children[0].max
    2
    """
    check_lengths("pictures", pictures, "labels", labels)
    check_text(description=description, alt=alt)
    pages = [render(picture, label, alt) for picture, label in zip(pictures, labels, strict=True)]
    return with_sliders(pages, [(description, len(pages), start)])


def frames_grid(pictures, rows, columns, *, descriptions, alt, start=(0, 0)):
    """Show one picture of a table, and let two sliders choose its row and its column; else as `frames`, errors too.

    Parameters
    ----------
    pictures : sequence of sequences
        ``pictures[i][j]`` as in `frames`, at least 2 × 2.
    rows, columns : sequence
        Labels for each i and each j; above the picture stand both.
    descriptions : pair of str
        What changes with i, and with j.
    alt : str
    start : pair of int
        Row and column that are seen first.

    Examples
    --------
    >>> box = frames_grid(torch.rand(2, 3, 28, 28), ["IPC 1", "IPC 10"], ["start", "middle", "end"],
    ...                   descriptions=("IPC", "time"), alt="noise")
    >>> [slider.max for slider in box.children[:2]]
    [1, 2]
    """
    check_lengths("pictures", pictures, "rows", rows)
    for line in pictures:
        check_lengths("each row of pictures", line, "columns", columns)
    first, second = descriptions
    check_text(descriptions=first, alt=alt)
    check_text(descriptions=second)
    pages = [[render(picture, f"{row}, {column}", alt) for picture, column in zip(line, columns, strict=True)]
             for line, row in zip(pictures, rows, strict=True)]
    return with_sliders(pages, [(first, len(rows), start[0]), (second, len(columns), start[1])])


def render(picture, label, alt):
    """One page: a picture as PNG inside HTML, with its label and its text alternative."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
        plt.close(picture)
        style = "max-width:100%"
    else:
        if isinstance(picture, torch.Tensor):
            picture = picture[(None,) * (4 - picture.ndim)]
        elif not hasattr(picture, "pixels"):
            raise TypeError(f"pictures must be LabeledImages, tensors or figures; got {type(picture).__name__}")
        pixels, columns, _ = arrange(picture)
        array = (255 * mosaic(pixels, columns)).round().astype("uint8")
        Image.fromarray(array).save(buffer, format="png", optimize=True)
        enlarge = min(10, max(1, WIDTH // array.shape[1]))  # whole, so that all pixels are of one size
        style = f"width:100%;max-width:{enlarge * array.shape[1]}px;image-rendering:pixelated"
    return PAGE.format(label=html.escape(str(label)), alt=html.escape(f"{alt}: {label}"),
                       data=base64.b64encode(buffer.getvalue()).decode(), style=style)


def with_sliders(pages, sizes):
    """Put sliders above ``pages``, which are nested as deep as there are ``sizes``: (description, number, start)."""
    import ipywidgets as widgets  # here: a machine that only computes may not have it

    for _, size, start in sizes:
        if not -size <= start < size:
            raise ValueError(f"start must be in -{size} … {size - 1}; got {start}")
    wide = widgets.Layout(width="100%", margin="0")
    sliders = [
        widgets.IntSlider(value=start % size, max=size - 1, description=description, readout=False,
                          style={"description_width": "initial"}, layout={"width": "auto", "max_width": f"{WIDTH}px"})
        for description, size, start in sizes
    ]
    for slider in sliders:
        slider.tooltip = slider.description  # ipywidgets 8 would write "null"

    def stack(pages, slider, *inner):
        children = [stack(page, *inner) if inner else widgets.HTML(page, layout=wide) for page in pages]
        view = widgets.Stack(children, selected_index=slider.value, layout=wide)
        widgets.jslink((slider, "value"), (view, "selected_index"))
        return view

    def show(_=None):
        page = pages
        for slider in sliders:
            page = page[slider.value]
        view.value = page

    if hasattr(widgets, "Stack"):
        view = stack(pages, *sliders)
    else:  # ipywidgets 7
        view = widgets.HTML(layout=wide)
        show()
        for slider in sliders:
            slider.observe(show, "value")
    return widgets.VBox([*sliders, view])


def check_lengths(name, pictures, labels_name, labels):
    if len(pictures) < 2:
        raise ValueError(f"{name} must be at least 2 for a slider; got {len(pictures)}")
    if len(pictures) != len(labels):
        raise ValueError(f"{labels_name} must be as many as {name}; got {len(labels)} for {len(pictures)}")


def check_text(**texts):
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text that is not blank; got {text!r}")
