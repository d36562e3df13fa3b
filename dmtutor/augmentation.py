"""Differentiable Siamese augmentation: six operations, sampled apart from applied."""

import math
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F

from .checks import check_generator, check_positive

# Every operation maps images (n, C, H, W) and numbers u (n, 4), uniform in [0, 1), to images (n, C, H, W). It is
# differentiable in the images. The columns of u are independent; an operation uses as many as it needs.


def color(x, u):
    """Brightness ± 0.5, then saturation × [0, 2], then contrast × [0.5, 1.5]; in normalised units."""
    brightness, saturation, contrast = (u[:, i].view(-1, 1, 1, 1) for i in range(3))
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * 2 * saturation
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    return level + (x - level) * (0.5 + contrast)


def crop(x, u):
    """Shift by up to an eighth of each side, rounded to whole pixels; what comes in is zero."""
    height, width = x.shape[2:]
    most = [int(side / 8 + 0.5) for side in (height, width)]
    shift_y, shift_x = (_integer(u[:, i], -m, m) for i, m in enumerate(most))
    rows = torch.arange(height, device=x.device) + shift_y[:, None]  # (n, H)
    columns = torch.arange(width, device=x.device) + shift_x[:, None]  # (n, W)
    inside = (_within(rows, height)[:, :, None] & _within(columns, width)[:, None, :])[:, None]  # (n, 1, H, W)
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]  # (n, H, W)
    index = flat.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view_as(x) * inside


def cutout(x, u):
    """Set to zero a rectangle of half each side, centred anywhere in the image."""
    inside = []
    for i, side in enumerate(x.shape[2:]):
        size = int(side / 2 + 0.5)
        start = _integer(u[:, i, None], 0, side - size % 2) - size // 2  # the rectangle may hang over the edge
        from_start = torch.arange(side, device=x.device) - start
        inside.append(_within(from_start, size))
    hole = inside[0][:, :, None] & inside[1][:, None, :]  # (n, H, W)
    return x * ~hole[:, None]


def flip(x, u):
    """Mirror left and right, with probability one half."""
    return torch.where(u[:, 0].view(-1, 1, 1, 1) < 0.5, x.flip(3), x)


def scale(x, u):
    """Scale width and height, each by its own factor in [1/1.2, 1.2]; zero outside."""
    factors = 1 / 1.2 + u[:, :2] * (1.2 - 1 / 1.2)
    return _warp(x, torch.diag_embed(factors))


def rotate(x, u):
    """Rotate by up to 15 degrees either way; zero outside."""
    angle = (2 * u[:, 0] - 1) * math.radians(15)
    cos, sin = angle.cos(), angle.sin()
    return _warp(x, torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2))


OPERATIONS = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}


def _integer(u, low, high):
    """Uniform integers in low … high from u in [0, 1)."""
    return (low + u * (high - low + 1)).floor().long().clamp(max=high)  # u may have been rounded up to 1


def _within(position, side):
    return (position >= 0) & (position < side)


def _warp(x, matrix):
    """Sample bilinearly at ``matrix`` times each output position, in coordinates from −1 to 1."""
    theta = F.pad(matrix, (0, 1)).expand(len(x), 2, 3)  # no translation
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


@dataclass(frozen=True)
class Draws:
    """Sampled parameters of k augmentations: which operation, and the numbers it turns into angles and shifts."""

    operation: torch.Tensor
    """Index into the strategy's operations, (k,), int64."""
    u: torch.Tensor
    """Uniform in [0, 1), (k, 4), float64."""

    def __len__(self):
        return len(self.operation)

    @classmethod
    def join(cls, draws):
        """Several draws, one after the other."""
        return cls(torch.cat([d.operation for d in draws]), torch.cat([d.u for d in draws]))

    def split(self):
        """The draws one by one: a list."""
        return list(map(Draws, self.operation.split(1), self.u.split(1)))


def cutmix(images, targets, *, generator):
    r"""Put the same rectangle of other images of a batch into each, and mix the labels by its area.

    .. math:: \tilde x = M \odot x + (1 - M) \odot x', \qquad \tilde y = \bar M y + (1 - \bar M) y'

    M is 0 in a rectangle with sides :math:`\sqrt{1 - \lambda}` times those of the image, :math:`\lambda` uniform in
    [0, 1], centred anywhere, cut at the edge; :math:`\bar M` is the mean of M. What is returned, :math:`\tilde x` and
    :math:`\tilde y`, has the shapes of what is given.

    Parameters
    ----------
    images : Tensor, (n, C, H, W)
    targets : Tensor, (n, K)
        Probabilities of the classes.
    generator : torch.Generator, on the CPU

    References
    ----------
    Yun et al., *CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features*, ICCV 2019.

    Examples
    --------
    >>> x, y = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8), torch.eye(2)
    >>> mixed, labels = cutmix(x, y, generator=torch.Generator().manual_seed(0))
    >>> bool((mixed.mean((1, 2, 3)) == labels[:, 1]).all())
    True
    """
    check_generator(generator)
    share, *centre = torch.rand(3, generator=generator).tolist()
    mask = torch.ones(images.shape[2:], device=images.device)
    place = []
    for side, c in zip(images.shape[2:], centre, strict=True):
        half = side * math.sqrt(1 - share) / 2
        place.append(slice(max(0, round(c * side - half)), round(c * side + half)))
    mask[tuple(place)] = 0
    other = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = torch.where(mask.bool(), images, images[other])
    return mixed, targets.lerp(targets[other], float(1 - mask.mean()))


class SiameseAugment:
    r"""The augmentation :math:`A(x, \omega)` of DSA: one random operation, with parameters that can be shared.

    *Siamese*: the same draw :math:`\omega` is applied to all images of a real batch and of a synthetic one, so that
    separate draws do not add to their difference. The gradient passes through the operation into the pixels. The six
    operations and their strengths are the paper's; units are normalised, so zero, which fills in, is the mean colour.

    Parameters
    ----------
    strategy : str
        Operations joined by underscores, as in the papers: ``"color_crop_cutout_flip_scale_rotate"``; or ``"none"``. A
        ValueError if one is unknown or named twice.

    References
    ----------
    Zhao & Bilen, *Dataset Condensation with Differentiable Siamese Augmentation*, ICML 2021, section 3.2.

    Examples
    --------
    >>> augment = SiameseAugment("crop_rotate")
    >>> omega = augment.sample(1, generator=torch.Generator().manual_seed(0))
    >>> real, syn = torch.rand(16, 1, 28, 28), torch.rand(2, 1, 28, 28)
    >>> augment.apply(real, omega).shape, augment.apply(syn, omega).shape
    (torch.Size([16, 1, 28, 28]), torch.Size([2, 1, 28, 28]))
    """

    def __init__(self, strategy):
        names = [] if strategy == "none" else str(strategy).split("_")
        unknown = [name for name in names if name not in OPERATIONS]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"augment must be 'none', or different operations of {', '.join(OPERATIONS)} joined by "
                             f"underscores; got {strategy!r}")
        self.strategy = strategy
        self.operations = [OPERATIONS[name] for name in names]

    def __repr__(self):
        return f"SiameseAugment({self.strategy!r})"

    def sample(self, k, *, generator, same_operation=False):
        """Draw ω, k times: `Draws`.

        Parameters
        ----------
        k : int
            1 for a Siamese pair of batches; one per image to train a network.
        generator : torch.Generator, on the CPU
        same_operation : bool
            Use one operation for all k draws, each with its own parameters: how the papers train networks.
        """
        check_positive("k", k)
        check_generator(generator)
        operation = torch.randint(max(1, len(self.operations)), (1 if same_operation else k,), generator=generator)
        return Draws(operation.expand(k), torch.rand(k, 4, generator=generator, dtype=torch.float64))

    def apply(self, x, draws):
        """A(x, ω) of normalised images x, (n, C, H, W): a pure function, differentiable in ``x``.

        Of k ``draws`` each is shared by n/k images in a row; a ValueError if k does not divide n.
        """
        if x.ndim != 4:
            raise ValueError(f"x must be images, (n, C, H, W); got shape {tuple(x.shape)}")
        n, k = len(x), len(draws)
        if k < 1 or n % k:
            raise ValueError(f"draws must be as many as a divisor of the number of images, {n}; got {k}")
        if not self.operations:
            return x
        each = n // k
        u = draws.u.to(x)[:, None].expand(-1, each, -1).flatten(0, 1)  # (n, 4)
        # The images of one operation are brought together without an index, for which a GPU would wait.
        runs = [(index, each * len(list(run))) for index, run in groupby(draws.operation.tolist())]
        if max(runs)[0] >= len(self.operations):
            raise ValueError(f"draws must be of this strategy, {self.strategy!r}; got those of a longer one")
        sizes = [size for _, size in runs]
        images, numbers, out = x.split(sizes), u.split(sizes), [None] * len(runs)
        for index in {index for index, _ in runs}:
            places = [i for i, (other, _) in enumerate(runs) if other == index]
            changed = self.operations[index](*(_cat([of[i] for i in places]) for of in (images, numbers)))
            for i, part in zip(places, changed.split([sizes[i] for i in places]), strict=True):
                out[i] = part
        return _cat(out)


def _cat(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts)
