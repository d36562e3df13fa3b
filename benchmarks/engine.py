"""One iteration of distribution matching at the published setting: blocks, at once, compiled, published code.

    python benchmarks/engine.py                                   # ours, some minutes
    python benchmarks/engine.py --reference PATH [--rounds 5]     # beside the published code, PATH a clone of it
    python benchmarks/engine.py --norm                            # torch's group norm alone, ten seconds

CIFAR-10-shaped noise, ten images per class, 256 real ones, ConvNet-3/128, six operations. Every variant lives in a
process of its own, and they take turns, one iteration each, so that what else the machine does meets all alike. The
first iteration is not counted. ``layer by layer`` leaves norm, ReLU and pooling to torch. The published code runs as it
is, and with what our library tells the allocator, to keep freed memory. Beside them stand the rates of a large matrix
product, by ``@`` and as a 1×1 convolution, and of the network's own middle convolution, which bound what any engine can
reach. ``--norm`` is a minimal case: torch's group norm, one channel a group, of one tensor in both layouts. Results go
to dmtutor/results/engine.json; run it on a quiet machine. PATH is https://github.com/VICO-UoE/DatasetCondensation;
nothing of it is copied.
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

import dmtutor
from dmtutor import ConvNet, DMConfig, dm_steps, from_arrays

VARIANTS = {  # name: changes to the published setting
    "class by class": {"block": 256},
    "blocks of 16": {"block": 16},
    "blocks of 16, layer by layer": {"block": 16},
    "blocks of 16, 16 bits": {"block": 16, "amp": True},
    "blocks of 16, compiled": {"block": 16, "compile": True},
    "blocks of 16, compiled, 16 bits": {"block": 16, "compile": True, "amp": True},
}
PUBLISHED = ("published code", "published code, memory kept")
QUICK = {"16 real images": {"block": 16, "batch_real": 16}}  # race.py times it, beside "published code, 16 images"
IPC, BATCH = 10, 256


def ours(name):
    """A function that takes one iteration."""
    pixels = torch.rand(4000, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    real = from_arrays(pixels, torch.arange(4000) % 10)
    config = DMConfig.reference(ipc=IPC, **(VARIANTS | QUICK)[name])
    if name.endswith("layer by layer"):
        dmtutor.networks.fused = lambda: None
    steps = dm_steps(real, config=config, generator=torch.Generator().manual_seed(0))
    return lambda: float(next(steps).loss)


def published(name, path):
    """The same iteration by the published code's own network and augmentation, in a loop like its own."""
    if name.endswith("memory kept"):
        dmtutor.steps.keep_freed_memory()
    gone = types.ModuleType("scipy.ndimage.interpolation")  # it imports what SciPy has no more, and does not use it
    gone.rotate = None
    sys.modules[gone.__name__] = gone
    sys.path.insert(0, str(path))
    from networks import ConvNet
    from utils import DiffAugment, ParamDiffAug

    batch = 16 if "16 images" in name else BATCH
    strategy, parameters, seeds = "color_crop_cutout_flip_scale_rotate", ParamDiffAug(), itertools.count()
    real = torch.randn(10, 400, 3, 32, 32)
    syn = torch.randn(10, IPC, 3, 32, 32, requires_grad=True)
    sgd = torch.optim.SGD([syn], lr=1.0, momentum=0.5)

    def iteration():
        net = ConvNet(3, 10, 128, 3, "relu", "instancenorm", "avgpooling", (32, 32)).requires_grad_(False)
        loss = 0.0
        for c in range(10):
            seed = next(seeds)
            x, s = real[c][torch.randperm(400)[:batch]], syn[c]
            x, s = (DiffAugment(images, strategy, seed=seed, param=parameters) for images in (x, s))
            loss = loss + (net.embed(x).detach().mean(0) - net.embed(s).mean(0)).square().sum()
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    return iteration


def serve(name, path):
    """Be one variant: an iteration for every line on stdin, its seconds on stdout."""
    iteration = published(name, path) if name.startswith("published") else ours(name)
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


def fastest(work, repeats=20):
    """Seconds, the least of some."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)


def norm(table):
    """How long torch's group norm takes, forward, by layout and precision."""
    for dtype, layout in itertools.product(("float32", "bfloat16"), ("contiguous_format", "channels_last")):
        kind = {"dtype": getattr(torch, dtype)}
        x, one = torch.randn(64, 128, 16, 16, **kind), torch.ones(128, **kind)
        x = x.to(memory_format=getattr(torch, layout))
        seconds = fastest(lambda x=x, one=one: F.group_norm(x, 128, one, one), repeats=10)
        table.add({"variant": "group norm alone", "shape": list(x.shape), "dtype": dtype, "layout": layout,
                   "seconds": [round(seconds, 6)]})
        print(f"group norm alone, {dtype}, {layout}: {1000 * seconds:.2f} ms")


def flops_of_a_class():
    """Forward for the real images, forward and backward for the synthetic ones."""
    net = ConvNet(channels=3, image_size=32, width=128, generator=torch.Generator().manual_seed(0))
    syn = torch.randn(IPC, 3, 32, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            net.embed(torch.randn(BATCH, 3, 32, 32))
        net.requires_grad_(False).embed(syn).sum().backward()
    return counter.get_total_flops()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="a clone of the published code")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--norm", action="store_true", help="torch's group norm alone")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve(asked.serve, asked.reference)
    if asked.norm:
        return norm(Table("engine"))
    names = [*VARIANTS, *(PUBLISHED if asked.reference else [])]
    seconds = dict(zip(names, seconds_in_turn(names, asked.reference, asked.rounds), strict=True))

    flop = 10 * flops_of_a_class()
    a = torch.randn(4096, 4096)
    x, w = torch.randn(16, 128, 16, 16).to(memory_format=torch.channels_last), torch.randn(128, 128, 3, 3)
    with torch.no_grad():
        product = 2 * 4096**3 / fastest(lambda: a @ a, repeats=5) / 1e9  # GFLOP/s
        convolution = 2 * 9 * 128**2 * 16 * 16**2 / fastest(lambda: F.conv2d(x, w, padding=1)) / 1e9
        x, w = torch.randn(1, 4096, 64, 64).to(memory_format=torch.channels_last), torch.randn(4096, 4096, 1, 1)
        pointwise = 2 * 4096**3 / fastest(lambda: F.conv2d(x, w), repeats=5) / 1e9
    table = Table("engine", new=True, command="python benchmarks/engine.py --reference PATH")
    print(f"matrix product {product:.0f} GFLOP/s, as a 1×1 convolution {pointwise:.0f}, middle convolution "
          f"{convolution:.0f}; an iteration {flop / 1e9:.0f} GFLOP")
    base = median(seconds[PUBLISHED[0] if asked.reference else names[0]])
    for name, values in seconds.items():
        row = {"variant": name, "seconds": [round(s, 3) for s in values], "gflop": round(flop / 1e9, 1),
               "matrix_product": round(product), "pointwise": round(pointwise),
               "convolution": round(convolution)}
        table.add(row)
        middle = median(values)
        print(f"{name:<44} {middle:6.2f} s, {flop / middle / 1e9:4.0f} GFLOP/s, {base / middle:5.2f} times as fast")


if __name__ == "__main__":
    main()
