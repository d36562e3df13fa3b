import json
from dataclasses import replace
from importlib import resources

import pytest
import torch

from dmtutor import Recipe, evaluate, load, results
from dmtutor.evaluation import Accuracies

FILES = list(resources.files(results).iterdir())
NAMES = sorted(f.name.removesuffix(".json") for f in FILES if f.name.endswith(".json"))
SETS = sorted(f.name.removesuffix(".pt") for f in FILES if f.name.endswith(".pt"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 7), (5, 2, 1000)])
def test_answers_survive_json_to_the_bit(shape):
    correct = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = json.loads(json.dumps(results.pack(Accuracies(correct))))
    assert torch.equal(results.unpack(packed).correct, correct)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_where_it_comes_from(name):
    stored = results.load(name)
    assert {"command", "commit", "device", "versions", "date"} <= set(stored["provenance"])
    assert len(stored["provenance"]["commit"]) == 40
    assert stored["rows"] and all(0 < row["accuracies"].mean <= 1 for row in stored["rows"] if "accuracies" in row)


def test_rows_are_found_by_their_values():
    found = results.rows("predecessors", "ladder", ipc=1)
    assert len(found) > 1 and all(row["experiment"] == "ladder" and row["ipc"] == 1 for row in found)
    with pytest.raises(ValueError, match=r"'predecessors' has none, its experiments are: .*ladder"):
        results.rows("predecessors", "ladder", ipc=7)


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(ValueError, match=r"name must be one of .*; got 'nothing'"):
        results.load("nothing")


@pytest.mark.parametrize("name", SETS)
def test_stored_sets_are_images_that_say_how_they_were_made(name):
    stored = results.images(name)
    assert stored.images.dtype == torch.float32
    assert stored.images.isfinite().all()
    assert stored.counts.all()
    assert stored.meta


def test_a_stored_set_fits_the_data_it_was_made_of():
    _, test = load("mnist5k")
    stored = results.images("mnist5k_dm_10")
    assert stored.counts.tolist() == [10] * 10
    assert stored.meta["config"]["ipc"] == 10 and stored.meta["seed"] == 0
    assert evaluate(stored, test, networks=1, recipe=Recipe(steps=1, width=4),
                    generator=torch.Generator().manual_seed(0)).values.shape == (1, 1)


def test_an_unknown_set_lists_those_that_there_are():
    with pytest.raises(ValueError, match=r"name must be one of .*mnist5k_dm_10.*; got 'nothing'"):
        results.images("nothing")


def test_all_results_together_are_small():
    assert sum(len(f.read_bytes()) for f in FILES if f.name.endswith((".json", ".pt"))) < 6_000_000


def test_a_packed_result_learns_its_labels_again():
    labels = torch.tensor([0, 0, 0, 1, 2])
    correct = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = Accuracies(correct, labels=labels, classes=("a", "b", "c"))
    packed = results.pack(whole)
    assert set(packed) == {"shape", "bits"}
    again = replace(results.unpack(packed), labels=labels, classes=whole.classes)
    assert torch.equal(again.by_class, whole.by_class) and torch.equal(again.balanced.values, whole.balanced.values)
    with pytest.raises(ValueError, match="balance them after unpack"):
        results.pack(whole.balanced)


@pytest.mark.parametrize("name", SETS)
def test_stored_sets_know_what_their_judge_augments_by(name):
    assert results.images(name).meta["augment"] not in (None, "none")
