"""What is told before the start: what was read, and how long it will take, by parts whose time is known."""

import pytest
import torch
from runs import real_images, seeded

from dmtutor import DCConfig, DDConfig, DMConfig, Recipe, dc_steps, dd_steps, dm_steps, from_arrays, planning

TINY = {"ipc": 2, "batch_real": 4, "width": 4, "depth": 2}


def make(method, iterations, **fields):
    steps, config = {"dm": (dm_steps, DMConfig), "dc": (dc_steps, DCConfig), "dd": (dd_steps, DDConfig)}[method]
    return steps(real_images(), config=config(**TINY, iterations=iterations, **fields), generator=seeded())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dm", "dc", "dd"])
@pytest.mark.parametrize("done", [0, 3])
def test_a_measured_run_is_the_run_it_was(method, done):
    runs = [make(method, 6) for _ in range(2)]
    for run in runs:
        [next(run) for _ in range(done)]
    assert planning.step_seconds(runs[0]) > 0
    assert runs[0].iteration == done
    assert torch.equal(runs[0].finish().images, runs[1].finish().images)


class Clock:
    """A clock that stands still but for what the work is said to take."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(planning, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(("iterations", "seconds", "measured"), [(1, 0.1, 10), (2, 0.1, 10), (1000, 0.1, 10),
                                                                 (1000, 0.001, 20), (1000, 7.0, 1)])
def test_the_first_step_does_not_count_and_slow_ones_are_not_taken_often(monkeypatch, iterations, seconds, measured):
    steps, taken, clock = make("dm", iterations), [], Clock(monkeypatch)

    def slow(self):
        taken.append(self.iteration)
        clock.now += 50 if len(taken) == 1 else seconds
        return torch.zeros(()), torch.zeros_like(self.images)

    monkeypatch.setattr(type(steps), "loss_and_gradient", slow)
    assert planning.step_seconds(steps) == pytest.approx(seconds)
    assert measured <= len(taken) - 1 <= measured + 1  # 0.1 ten times is a little less than 1
    assert set(taken) <= set(range(iterations)) and len(set(taken)) == min(iterations, 5, len(taken))


def test_steps_that_cost_more_here_and_there_are_all_seen(monkeypatch):
    """Gradient matching trains before each step but the first with a network."""
    steps, clock = make("dc", 100, steps_per_network=10), Clock(monkeypatch)
    monkeypatch.setattr(type(steps), "train", lambda self: setattr(clock, "now", clock.now + 0.2))
    match = type(steps)._match
    monkeypatch.setattr(type(steps), "_match", lambda self, part: setattr(clock, "now", clock.now + 0.1) or
                        match(self, part))
    assert planning.step_seconds(steps) == pytest.approx(3 * 0.1 + 0.9 * 0.2, rel=0.1)  # of three classes


@pytest.mark.parametrize(("networks", "threads", "rounds"), [(1, 1, 1), (4, 1, 4)])
def test_networks_are_told_by_their_steps_and_test_images(monkeypatch, networks, threads, rounds):
    clock = Clock(monkeypatch)
    data = from_arrays(torch.rand(6, 8, 8), [0, 1] * 3)
    test = from_arrays(torch.rand(600, 8, 8), [0, 1] * 300, like=data)
    seen = []

    def slow_training(data, *, recipe, generator):
        clock.now += 0.02 + 0.01 * recipe.steps
        return torch.nn.Linear(1, 1)

    def slow_scoring(network, images):
        seen.append(len(images))
        clock.now += 0.1

    monkeypatch.setattr(planning, "train_network", slow_training)
    monkeypatch.setattr(planning, "correctness", slow_scoring)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seconds = planning.judge_seconds(data, test, Recipe(steps=201, width=4, depth=2, augment="none"), networks)
    assert seconds == pytest.approx(rounds * (0.03 + 2.0 + 0.2))
    assert seen == [300]


def test_durations_in_words():
    assert [planning.duration(s) for s in (0, 59.4, 59.6, 600, 3599, 3600, 86400)] == [
        "1 s", "59 s", "1 min 0 s", "10 min", "1 h 0 min", "1 h 0 min", "24 h 0 min"]


def test_what_was_read_names_the_least_and_the_most():
    labels = [0, 1, 1, 2, 2, 2]
    train = from_arrays(torch.rand(6, 3, 8, 6, generator=seeded()), labels, classes=["owl", "elk", "cat"])
    test = from_arrays(train.pixels[:2].clamp(0, 1), [0, 1], like=train)
    other = from_arrays(torch.rand(1500, 3, 8, 6), [0] * 1500, like=train)
    told = planning.what_was_read(train, other)
    assert told == "6 training and 1,500 test images, 3 classes (owl 1, elk 2, cat 3), 8×6 RGB"
    many = from_arrays(torch.rand(15, 8, 6), [*range(14), 13])
    told = planning.what_was_read(many, many.select(torch.arange(2)))
    assert "14 classes of 1 (0) to 2 (13) (0 1, 1 1, 2 1, 3 1, 4 1, 5 1, …, 11 1, 12 1, 13 2)" in told
    copies = from_arrays(train.pixels.clamp(0, 1), labels, classes=train.classes)
    assert "2 test images (2 of them training images, too)" in planning.what_was_read(copies, copies.select([0, 1]))
    assert "training images, too" not in planning.what_was_read(train, test.select(torch.tensor([], dtype=int)))
