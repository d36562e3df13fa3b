"""Do two ways to score networks rank them alike?"""

from typing import NamedTuple

import torch

from .checks import check_generator, check_positive


class Correlation(NamedTuple):
    """What :func:`rank_correlation` returns: Spearman's ρ, in [−1, 1], and in ``samples``, (resamples,), that of every
    resample."""

    value: float
    samples: torch.Tensor

    @property
    def interval(self):
        """The middle 95 % of the resamples: (low, high)."""
        return tuple(self.samples.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist())

    def minus(self, other):
        """The difference of two correlations with the same table, made with generators of one seed."""
        return Correlation(self.value - other.value, self.samples - other.samples)

    def __str__(self):
        low, high = self.interval
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}]"


def rank_correlation(truth, proxy, *, generator, resamples=1000):
    r"""Spearman's rank correlation of two scores of the same networks, with a bootstrap interval: a `Correlation`.

    .. math:: \rho = \operatorname{cov}(r, r') / \sqrt{\operatorname{var}(r) \operatorname{var}(r')}

    for the ranks r and r' of the networks, ties taking the mean of theirs. A resample draws networks and, of a table of
    answers, test images, both with replacement: others might have been looked at. Few networks (below some thirty) make
    the interval too short. A ValueError if the two are not of the same networks, or of fewer than three.

    Parameters
    ----------
    truth, proxy : Tensor, (n, m), bool, or (n,)
        Whether each of n networks is right about m test images; or a score of each.
    generator : torch.Generator, on the CPU
        Networks are drawn first, then the images of ``truth``: the same ones for every proxy of one seed.
    resamples : int

    References
    ----------
    Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 15.

    Examples
    --------
    >>> scores = torch.tensor([0.1, 0.2, 0.3, 0.4])
    >>> round(rank_correlation(scores, scores.square(), generator=torch.Generator().manual_seed(0)).value, 6)
    1.0
    """
    check_generator(generator)
    check_positive("resamples", resamples)
    if len(truth) != len(proxy) or len(truth) < 3 or not all(t.ndim in (1, 2) for t in (truth, proxy)):
        raise ValueError("truth and proxy must be (n,) or (n, m) over the same n ≥ 3 networks; "
                         f"got {tuple(truth.shape)} and {tuple(proxy.shape)}")
    networks = torch.randint(len(truth), (resamples, len(truth)), generator=generator)
    tables = [_resampled(table, resamples, generator).gather(1, networks) for table in (truth, proxy)]
    whole = [(table.double().mean(1) if table.ndim == 2 else table.double())[None] for table in (truth, proxy)]
    return Correlation(float(_spearman(*whole)), _spearman(*tables))


def _resampled(table, resamples, generator):
    """Scores on test images drawn anew, (resamples, n); those of a vector as they are."""
    if table.ndim == 1:
        return table.double().expand(resamples, -1)
    m = table.shape[1]
    drawn = torch.randint(m, (resamples, m), generator=generator)
    times = torch.zeros(resamples, m).scatter_add_(1, drawn, torch.ones(1).expand_as(drawn))
    return (times @ table.float().T).double() / m


def _spearman(a, b):
    """ρ of each row: (..., n), (..., n) → (...,)."""
    from scipy.stats import rankdata  # half a second to import

    ranks = [torch.from_numpy(rankdata(x.numpy(), axis=-1)) for x in (a, b)]
    a, b = (r - r.mean(-1, keepdim=True) for r in ranks)
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
