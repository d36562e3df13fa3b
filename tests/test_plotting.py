import math
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from dmtutor.evaluation import Accuracies
from dmtutor.plotting import COLORS, STYLE, accuracy_ladder, confusion_matrix, curve, image_grid, mosaic
from dmtutor.sources import from_arrays


@pytest.fixture(autouse=True)
def agg():
    """Draw without a screen, and leave nothing behind."""
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


def images(labels, classes="ab", size=4):
    pixels = torch.rand(len(labels), size, size, 3, generator=torch.Generator().manual_seed(0))
    return from_arrays(pixels, torch.tensor(labels), classes=list(classes))


def accuracies(values):
    values = torch.tensor(values)
    return SimpleNamespace(values=values, mean=values.mean(), interval=(values.min(), values.max()))


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def test_mosaic_places_every_pixel():
    pixels = torch.rand(5, 3, 4, 6)
    picture = mosaic(pixels, 3)
    assert picture.shape == (2 * 4 + 2, 3 * 6 + 2 * 2, 3)
    for i in range(5):
        y, x = i // 3 * 6, i % 3 * 8
        assert np.array_equal(picture[y : y + 4, x : x + 6], pixels[i].permute(1, 2, 0).numpy())
    assert (picture[:, 6:8] == 1).all() and (picture[6:, 16:] == 1).all()  # a gap; the cell left over


def test_grid_clamps_pixels_of_a_tensor():
    ax = image_grid(torch.tensor([-3.0, 0.25, 7.0]).view(1, 1, 1, 3))
    assert shown(ax).tolist() == [[0, 0.25, 1]]


def test_grid_denormalises_and_sorts_a_set_one_row_per_class():
    data = images([1, 0, 1, 0, 1, 0])
    ax = image_grid(data)
    assert shown(ax).shape == (10, 16, 3)
    assert np.allclose(shown(ax)[:4, :4], data.pixels[1].permute(1, 2, 0), atol=1e-6)
    assert np.allclose(shown(ax)[6:, :4], data.pixels[0].permute(1, 2, 0), atol=1e-6)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("columns", [None, 2, 9])
def test_grid_of_one_image_per_class_is_a_named_row(columns):
    ax = image_grid(images([1, 0]), columns=columns)
    assert shown(ax).shape == (4, 10, 3)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]


def test_grid_of_a_class_over_several_rows_names_its_middle():
    ax = image_grid(images([0, 0, 0, 0, 1, 1, 1, 1]), columns=2)
    assert shown(ax).shape[:2] == (22, 10)
    assert ax.get_yticks().tolist() == [6, 18]


def test_grid_of_unequal_classes_has_no_names():
    ax = image_grid(images([0, 0, 1]))
    assert not ax.get_xticklabels() and not ax.get_yticklabels()


@pytest.mark.parametrize(
    "bad, message",
    [
        (torch.rand(4, 4), "images"),
        (torch.rand(1, 2, 4, 4), "images"),
        (torch.rand(0, 1, 4, 4), "images"),
        (torch.full((1, 1, 4, 4), math.nan), "NaN"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "floating"),
    ],
)
def test_grid_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        image_grid(bad)


def test_grid_refuses_what_is_no_tensor():
    with pytest.raises(TypeError, match=r"images.*list"):
        image_grid([[0.5]])


def test_grid_refuses_no_columns():
    with pytest.raises(ValueError, match="columns"):
        image_grid(torch.rand(2, 1, 4, 4), columns=0)


def test_curve_of_one_run_has_no_band():
    ax = curve(range(3), torch.tensor([1.0, 2.0, 3.0], requires_grad=True), label="loss")
    assert ax.lines[0].get_ydata().tolist() == [1, 2, 3] and not ax.collections


def test_curve_band_is_students_interval():
    ax = curve([0, 1], [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], label="DM")
    extent = ax.collections[0].get_datalim(ax.transData)
    half = 4.302653 * 1 / math.sqrt(3)  # t table, 2 degrees of freedom
    assert extent.y0 == pytest.approx(2 - half, abs=1e-5)
    assert ax.lines[0].get_ydata().tolist() == [2, 5]


def test_colors_follow_the_method():
    ax = curve([0, 1], [0, 1], label="DM, IPC 10")
    curve([0, 1], [0, 1], ax, label="random real images")
    curve([0, 1], [0, 1], ax, label="DC", color="red")
    assert [line.get_color() for line in ax.lines] == [COLORS["DM"], COLORS["Random"], "red"]


@pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0], [2.0]], [[[1.0, 2.0, 3.0]]], torch.empty(0, 3)])
def test_curve_refuses_values_that_do_not_fit(values):
    with pytest.raises(ValueError, match="values"):
        curve([0, 1, 2], values, label="x")


def test_ladder_draws_set_means_in_order_with_numbers():
    ax = accuracy_ladder({"Random": accuracies([[0.5, 0.75], [0.75, 1.0]]), "DM": accuracies([[0.9], [1.0]])})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Random", "DM"]
    assert ax.yaxis_inverted()  # the first on top
    assert [t.get_text() for t in ax.texts] == ["75.0 [50.0, 100.0]", "95.0 [90.0, 100.0]"]
    assert ax.lines[0].get_xdata().tolist() == [62.5, 87.5]
    assert "*" not in ax.get_xlabel()


def test_ladder_marks_an_interval_over_networks_only():
    ax = accuracy_ladder({"Whole set": accuracies([[0.5, 0.75]])})
    assert ax.texts[0].get_text() == "62.5 [50.0, 75.0]*"
    assert "networks only" in ax.get_xlabel()


def test_ladder_leaves_out_an_interval_that_is_not_there():
    one = SimpleNamespace(values=torch.tensor([[0.5]]), mean=0.5, interval=(math.nan, math.nan))
    assert accuracy_ladder({"one": one}).texts[0].get_text() == "50.0"


def test_ladder_refuses_nothing():
    with pytest.raises(ValueError, match="results"):
        accuracy_ladder({})


def test_axes_are_the_callers():
    _, (first, second, third) = plt.subplots(1, 3)
    assert image_grid(torch.rand(1, 1, 4, 4), first) is first
    assert curve([0, 1], [0, 1], second, label="x") is second
    assert accuracy_ladder({"x": accuracies([[0.5], [0.6]])}, third) is third
    assert len(plt.get_fignums()) == 1


def test_own_axes_are_in_style_and_settings_stay():
    before = dict(plt.rcParams)
    figure = curve([0, 1], [0, 1], label="x").figure
    assert figure.dpi == STYLE["figure.dpi"]
    assert dict(plt.rcParams) == before


@pytest.mark.slow
def test_import_sets_nothing():
    code = "from matplotlib import rcParams as r; a = dict(r); import dmtutor.plotting; assert dict(r) == a"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_import_takes_no_more_than_it_needs():
    """Each of these would take half a second or more in every process that imports the library."""
    slow = {"scipy.stats", "torchvision", "torch._dynamo", "matplotlib"}
    code = f"import sys, dmtutor; print(*({slow} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not done.stdout.split()


def test_more_classes_than_fit_a_row_are_named_in_their_cells():
    names = ["owl", "elk", "a very long name", *"defghijkl"]
    ax = image_grid(images(range(12), names))
    assert [text.get_text() for text in ax.texts] == ["owl", "elk", "a very lo…", *"defghijkl"]
    assert ax.texts[5].get_position() == (6 * (5 % 4), 6 * (5 // 4))
    assert not image_grid(images(range(10), names[:10])).texts


def confusions(n, k, seed=0):
    labels = torch.arange(n) % k
    predicted = torch.randint(k, (2, 3, n), generator=torch.Generator().manual_seed(seed))
    names = tuple(f"class {c}" for c in range(k))
    return Accuracies(predicted == labels, labels=labels, predicted=predicted, classes=names)


def test_a_confusion_matrix_shows_per_cent_of_a_row():
    result = confusions(40, 3)
    ax = confusion_matrix(result)
    shares = 100 * result.confusion.numpy()
    assert np.allclose(shown(ax), shares) and np.allclose(shares.sum(1), 100)
    assert [text.get_text() for text in ax.texts] == [f"{share:.0f}" for share in shares.flatten()]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["class 0", "class 1", "class 2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("seen as", "class")


def test_a_large_confusion_matrix_has_no_numbers_and_legible_names():
    ax = confusion_matrix(confusions(400, 100))
    assert not ax.texts and len(ax.get_xticklabels()) == 25
    empty = confusions(2, 3)  # class 2 has no test image
    assert len(confusion_matrix(empty).texts) == 6


def test_a_confusion_matrix_of_a_stored_result_is_refused():
    with pytest.raises(ValueError, match="predicted must be known"):
        confusion_matrix(Accuracies(torch.ones(1, 1, 4, dtype=torch.bool)))
