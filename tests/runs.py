"""What the tests of all methods share: small data, seeds, and a Ctrl-C anywhere."""

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from dmtutor import from_arrays


def arrays(n=12, shape=(8, 6), dtype=np.uint8, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    return x if dtype == np.uint8 else (x / 255).astype(dtype), np.arange(n) % classes


def toy(**changes):
    return from_arrays(*arrays(**changes))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def real_images(counts=(6, 9, 7), dtype=torch.float32, size=8, seed=0):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    pixels = torch.rand(len(labels), size, size, generator=seeded(seed))
    pixels[:, :4] *= (labels / len(counts)).view(-1, 1, 1)  # classes differ in the upper half
    order = torch.randperm(len(labels), generator=seeded(seed))
    return from_arrays(pixels[order], labels[order]).to(dtype=dtype)


class InterruptAt(TorchFunctionMode):
    """A Ctrl-C just before the n-th call of a torch function."""

    def __init__(self, n):
        self.left = n

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch._C._set_grad_enabled:  # Python's own exit of no_grad is not at issue
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))
