"""One iteration of distribution matching at the published setting: the plain loop, blocks, translated, published code.

    python benchmarks/engine.py                                   # ours, some minutes
    python benchmarks/engine.py --reference PATH [--rounds 5]     # beside the published code, PATH a clone of it

CIFAR-10-shaped noise, ten images per class, 256 real ones, ConvNet-3/128, six operations. Every variant lives in a
process of its own, and they take turns, one iteration each, so that what else the machine does meets all alike. The
first iteration is not counted. Beside them stand the rates of a large matrix product and of the network's own middle
convolution, which bound what any engine can reach. Results go to dmtutor/results/engine.json; run it on a quiet
machine. PATH is https://github.com/VICO-UoE/DatasetCondensation; nothing of it is copied.
"""

import argparse
import itertools
import subprocess
import sys
import time
import types
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from store import Table
from torch.utils.flop_counter import FlopCounterMode

from dmtutor import DMConfig, dm_steps, from_arrays

VARIANTS = {  # name: changes to the published setting
    "one forward of all classes": {"block": None},
    "class by class": {"block": 256},
    "blocks of 16": {"block": 16},
    "blocks of 16, translated": {"block": 16, "compile": True},
}
QUICK = {"16 real images": {"block": 16, "compile": True, "batch_real": 16}}  # another setting: race.py times it
IPC, BATCH = 10, 256


def ours(name):
    """A function that takes one iteration."""
    pixels = torch.rand(4000, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    real = from_arrays(pixels, torch.arange(4000) % 10)
    config = DMConfig.reference(ipc=IPC, **(VARIANTS | QUICK)[name])
    steps = dm_steps(real, config=config, generator=torch.Generator().manual_seed(0))
    return lambda: float(next(steps).loss)


def published(path):
    """The same iteration by the published code's own network and augmentation."""
    gone = types.ModuleType("scipy.ndimage.interpolation")  # it imports what SciPy has no more, and does not use it
    gone.rotate = None
    sys.modules[gone.__name__] = gone
    sys.path.insert(0, str(path))
    from networks import ConvNet
    from utils import DiffAugment, ParamDiffAug

    strategy, parameters, seeds = "color_crop_cutout_flip_scale_rotate", ParamDiffAug(), itertools.count()
    real = torch.randn(10, 400, 3, 32, 32)
    syn = torch.randn(10, IPC, 3, 32, 32, requires_grad=True)
    sgd = torch.optim.SGD([syn], lr=1.0, momentum=0.5)

    def iteration():
        net = ConvNet(3, 10, 128, 3, "relu", "instancenorm", "avgpooling", (32, 32)).requires_grad_(False)
        loss = 0.0
        for c in range(10):
            seed = next(seeds)
            x, s = real[c][torch.randperm(400)[:BATCH]], syn[c]
            x, s = (DiffAugment(images, strategy, seed=seed, param=parameters) for images in (x, s))
            loss = loss + (net.embed(x).detach().mean(0) - net.embed(s).mean(0)).square().sum()
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    return iteration


def serve(name, path):
    """Be one variant: an iteration for every line on stdin, its seconds on stdout."""
    iteration = published(path) if name == "published code" else ours(name)
    iteration()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        iteration()
        print(time.perf_counter() - start, flush=True)


def seconds_in_turn(names, reference, rounds):
    """Seconds of an iteration, a list for each variant; each lives in a process of its own."""
    command = [sys.executable, __file__, *(["--reference", str(reference)] if reference else [])]
    children = [
        subprocess.Popen([*command, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    for name, child in zip(names, children, strict=True):
        assert child.stdout.readline() == "ready\n", name
    seconds = [[] for _ in names]
    for _ in range(rounds):
        for child, spent in zip(children, seconds, strict=True):
            child.stdin.write("\n")
            child.stdin.flush()
            spent.append(float(child.stdout.readline()))
    for child in children:
        child.stdin.close()
        child.wait()
    return seconds


def rate(flop, work, repeats=20):
    """GFLOP/s, the best of some."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return flop / min(spent) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="a clone of the published code")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve(asked.serve, asked.reference)
    names = [*VARIANTS, *(["published code"] if asked.reference else [])]
    seconds = dict(zip(names, seconds_in_turn(names, asked.reference, asked.rounds), strict=True))

    with FlopCounterMode(display=False) as counter:
        ours("class by class")()
    flop = counter.get_total_flops()
    a = torch.randn(4096, 4096)
    x, w = torch.randn(16, 128, 16, 16).to(memory_format=torch.channels_last), torch.randn(128, 128, 3, 3)
    with torch.no_grad():
        product = rate(2 * 4096**3, lambda: a @ a, repeats=5)
        convolution = rate(2 * 9 * 128**2 * 16 * 16**2, lambda: F.conv2d(x, w, padding=1))
    table = Table("engine", command="python benchmarks/engine.py --reference PATH")
    table.rows.clear()
    print(f"matrix product {product:.0f} GFLOP/s, convolution {convolution:.0f}; an iteration {flop / 1e9:.0f} GFLOP")
    base = median(seconds[names[-1] if asked.reference else names[0]])
    for name, values in seconds.items():
        row = {"variant": name, "seconds": [round(s, 3) for s in values], "gflop": round(flop / 1e9, 1),
               "matrix_product": round(product), "convolution": round(convolution)}  # fmt: skip
        table.add(row)
        middle = median(values)
        print(f"{name:<28} {middle:6.2f} s, {flop / middle / 1e9:4.0f} GFLOP/s, {base / middle:5.2f} times as fast")


if __name__ == "__main__":
    main()
