import json
from importlib import resources

import pytest
import torch

from dmtutor import results
from dmtutor.evaluation import Accuracies

NAMES = [f.name.removesuffix(".json") for f in resources.files(results).iterdir() if f.name.endswith(".json")]


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
    assert stored["rows"] and all(0 < row["accuracies"].mean < 1 for row in stored["rows"] if "accuracies" in row)


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(ValueError, match=r"name must be one of .*; got 'nothing'"):
        results.load("nothing")
