"""Rankings of networks, against closed forms, scipy and trials."""

import pytest
import torch
from scipy import stats

from dmtutor.ranking import rank_correlation


def seeded(number):
    return torch.Generator().manual_seed(number)


def answers(skills, m, seed):
    """Networks that are right with given probabilities."""
    return torch.rand(len(skills), m, generator=seeded(seed)) < torch.as_tensor(skills)[:, None]


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_ties(seed):
    truth = torch.randint(6, (20,), generator=seeded(seed)).double()
    table = answers(torch.linspace(0.2, 0.9, 20), 30, seed)
    found = rank_correlation(truth, table, generator=seeded(0), resamples=2)
    assert found.value == pytest.approx(stats.spearmanr(truth, table.double().mean(1)).statistic, abs=1e-12)


def test_the_order_turned_round_is_minus_one():
    scores = torch.arange(10.0)
    assert rank_correlation(scores, -scores, generator=seeded(0)).value == pytest.approx(-1)
    assert rank_correlation(scores, 3 * scores + 1, generator=seeded(0)).interval == pytest.approx((1, 1))


def test_a_resample_is_what_is_drawn_written_out():
    truth, proxy = answers(torch.linspace(0.1, 0.9, 8), 50, 1), answers(torch.linspace(0.1, 0.9, 8), 40, 2)
    found = rank_correlation(truth, proxy, generator=seeded(3), resamples=4)
    draw = seeded(3)
    networks = torch.randint(8, (4, 8), generator=draw)
    images = [torch.randint(m, (4, m), generator=draw) for m in (50, 40)]
    for r in range(4):
        a, b = (t[networks[r]][:, rows[r]].double().mean(1) for t, rows in zip((truth, proxy), images, strict=True))
        assert float(found.samples[r]) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)


def test_the_interval_holds_its_promise_roughly():
    """Networks from one population, two scores with Gaussian noise: ρ of the population in most intervals."""
    many = torch.randn(200_000, 2, generator=seeded(0), dtype=torch.float64)
    true = float(stats.spearmanr(many[:, 0], many[:, 0] + many[:, 1]).statistic)
    inside = 0
    for seed in range(100):
        x = torch.randn(36, 2, generator=seeded(seed + 1), dtype=torch.float64)
        low, high = rank_correlation(x[:, 0], x[:, 0] + x[:, 1], generator=seeded(0), resamples=300).interval
        inside += low <= true <= high
    assert 84 <= inside <= 99


def test_proxies_of_one_seed_see_the_same_networks_and_images():
    truth, proxy = answers(torch.linspace(0.1, 0.9, 12), 60, 1), answers(torch.linspace(0.1, 0.9, 12), 60, 2)
    a, again, other = (rank_correlation(truth, proxy, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(a.samples, again.samples) and not torch.equal(a.samples, other.samples)
    nothing = a.minus(again)
    assert nothing.value == 0 and nothing.interval == (0, 0) and str(nothing) == "0.00 [0.00, 0.00]"


def test_what_does_not_fit_is_refused():
    scores = torch.arange(4.0)
    for proxy in (torch.arange(5.0), torch.zeros(4, 2, 2)):
        with pytest.raises(ValueError, match=r"truth and proxy must be"):
            rank_correlation(scores, proxy, generator=seeded(0))
    with pytest.raises(ValueError, match=r"n ≥ 3"):
        rank_correlation(scores[:2], scores[:2], generator=seeded(0))
