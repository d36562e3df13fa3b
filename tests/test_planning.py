"""What is told before the start: what was read, and how long it will take, by parts whose time is known."""

import time

import pytest
import torch
from runs import real_images, seeded

from dmtutor import DCConfig, DDConfig, DMConfig, Recipe, dc_steps, dd_steps, dm_steps, from_arrays, planning
from dmtutor.steps import Steps

TINY = {"ipc": 2, "batch_real": 4, "width": 4, "depth": 2}


def make(method, iterations, **fields):
    steps, config = {"dm": (dm_steps, DMConfig), "dc": (dc_steps, DCConfig), "dd": (dd_steps, DDConfig)}[method]
    return steps(real_images(), config=config(**TINY, iterations=iterations, **fields), generator=seeded())


@pytest.mark.parametrize("method", ["dm", "dc", "dd"])
@pytest.mark.parametrize("done", [0, 3])
def test_a_measured_run_is_the_run_it_was(method, done):
    runs = [make(method, 6) for _ in range(2)]
    for run in runs:
        [next(run) for _ in range(done)]
    assert planning.step_seconds(runs[0]) > 0
    assert runs[0].iteration == done
    assert torch.equal(runs[0].finish().images, runs[1].finish().images)


@pytest.mark.parametrize("iterations", [1, 2, 1000])
def test_the_first_step_does_not_count(monkeypatch, iterations):
    steps, taken = make("dm", iterations), []

    def slow(self):
        taken.append(self.iteration)
        time.sleep(0.5 if len(taken) == 1 else 0.1)
        return torch.zeros(()), torch.zeros_like(self.images)

    monkeypatch.setattr(type(steps), "loss_and_gradient", slow)
    assert planning.step_seconds(steps) == pytest.approx(0.1, rel=0.2)
    assert 2 <= len(taken) <= 12
    assert set(taken) <= set(range(iterations)) and len(set(taken)) == min(iterations, 5)


def test_slow_steps_are_not_taken_often(monkeypatch):
    monkeypatch.setattr(planning, "ENOUGH", 0.05)
    steps, taken = make("dm", 100), []
    advance = Steps.advance
    monkeypatch.setattr(Steps, "advance", lambda self: (time.sleep(0.06), taken.append(1), advance(self))[2])
    planning.step_seconds(steps)
    assert len(taken) == 2


@pytest.mark.parametrize(("networks", "rounds"), [(1, 1), (4, 4)])
def test_networks_are_told_by_their_steps_and_test_images(monkeypatch, networks, rounds):
    data = from_arrays(torch.rand(6, 8, 8), [0, 1] * 3)
    test = from_arrays(torch.rand(600, 8, 8), [0, 1] * 300, like=data)
    train_network, seen = planning.train_network, []

    def slow_training(data, *, recipe, generator):
        time.sleep(0.02 + 0.01 * recipe.steps)
        return train_network(data, recipe=recipe, generator=generator)

    def slow_scoring(network, images):
        seen.append(len(images))
        time.sleep(0.1)

    monkeypatch.setattr(planning, "train_network", slow_training)
    monkeypatch.setattr(planning, "correctness", slow_scoring)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    seconds = planning.judge_seconds(data, test, Recipe(steps=201, width=4, depth=2, augment="none"), networks)
    assert seconds == pytest.approx(rounds * (0.03 + 2.0 + 0.2), rel=0.25)
    assert seen == [300]


def test_durations_in_words():
    assert [planning.about(s) for s in (0, 59.4, 59.6, 600, 3599, 3600, 86400)] == [
        "1 s", "59 s", "1 min 0 s", "10 min", "1 h 0 min", "1 h 0 min", "24 h 0 min"]  # fmt: skip


def test_what_was_read_names_the_least_and_the_most():
    labels = [0, 1, 1, 2, 2, 2]
    train = from_arrays(torch.rand(6, 3, 8, 6, generator=seeded()), labels, classes=["owl", "elk", "cat"])
    test = from_arrays(train.pixels[:2].clamp(0, 1), [0, 1], like=train)
    other = from_arrays(torch.rand(1500, 3, 8, 6), [0] * 1500, like=train)
    told = planning.what_was_read(train, other)
    assert told == "6 training and 1,500 test images, 3 classes of 1 (owl) to 3 (cat) images, 8×6 RGB"
    copies = from_arrays(train.pixels.clamp(0, 1), labels, classes=train.classes)
    assert "2 test images (2 of them training images, too)" in planning.what_was_read(copies, copies.select([0, 1]))
    assert "training images, too" not in planning.what_was_read(train, test.select(torch.tensor([], dtype=int)))
