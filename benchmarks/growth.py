"""How a step of distribution matching grows: seconds and memory by images per class, classes, image size, processes.

    python benchmarks/growth.py ipc classes size      # 12 minutes of one core; 5 GB
    python benchmarks/growth.py processes             # a minute of a quiet machine
    python benchmarks/growth.py memory                # 7 minutes of one core
    python benchmarks/growth.py disk                  # 10 minutes of one core; 16 GB of temporary files
    python benchmarks/growth.py turns                 # a minute of one core

ConvNet-128, six operations, 16 real images of each class in a step, noise for images. "blocks" is the default: at most
16 images of one class in the network at a time. "plain" puts all images of all classes through at once; "one graph" is
the plain loop: real images without a graph, class by class, and one backward pass of the sum of all. "whole class" has
a block as large as a class, so that nothing goes through the network twice. ``memory`` holds the default against these
two on one machine. Every row is measured in a process of its own, one thread, after a first step that is not counted:
processor seconds of a step, the median of three, and the peak of resident memory above what the process held with the
data (Linux). The rows of ``processes`` have seconds on the clock, and one of them two threads. In the rows of ``disk``
1,300 real images of each class lie in a file, 8 bits a number; these rows also say what it takes to start. Results go
to dmtutor/results/growth.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from store import Table, peak_above, seeded, start_peak

from dmtutor import DMConfig, LabeledImages, from_arrays, mean_distance, sharding
from dmtutor.distribution_matching import DMSteps
from dmtutor.mapped import MappedImages
from dmtutor.steps import start

BATCH = 16
DEPTH = {28: 3, 32: 3, 48: 3, 64: 4, 96: 4, 128: 5}
START = {"ipc": 1, "classes": 10, "size": 32, "variant": "blocks"}
SETTINGS = {
    "ipc": [{"ipc": ipc} for ipc in (1, 10, 50, 100, 200)],
    "classes": [
        *({"size": 64, "classes": classes} for classes in (10, 30, 100, 300, 1000)),
        *({"size": 64, "classes": classes, "variant": "plain"} for classes in (10, 30)),  # with 100 it would need 10 GB
        *({"size": 64, "classes": classes, "variant": "one graph"} for classes in (10, 30, 100, 300)),
    ],
    "memory": [
        *({"size": 64, "classes": classes} for classes in (10, 30, 100, 300, 1000)),
        *({"ipc": 200, "variant": variant} for variant in ("blocks", "whole class")),
    ],
    "size": [{"size": size} for size in DEPTH],
    "disk": [{"size": 64, "classes": classes, "on_disk": 1300} for classes in (10, 200, 1000)],
    "turns": [  # from memory and from a file in turns, since seconds of different days do not compare
        {"size": 64, "turn": turn, **({"on_disk": 1300} if on_disk else {})} for turn in range(3) for on_disk in (0, 1)
    ],
    "processes": [{"ipc": 10, "processes": n, "threads": threads} for n, threads in ((1, 1), (2, 1), (1, 2))],
}


def images(ipc, classes, size):
    n = classes * max(ipc, BATCH)
    pixels = torch.randint(256, (n, size, size, 3), generator=seeded(0), dtype=torch.uint8)
    return from_arrays(pixels, torch.arange(n) % classes)


def make_steps(real, ipc, variant, classes=None):
    block = {"blocks": 16, "whole class": max(ipc, BATCH)}.get(variant, "all")
    config = DMConfig.reference(
        ipc=ipc, batch_real=BATCH, depth=DEPTH[real.images.shape[2]], block=block,
        augment="color_crop_cutout_flip_scale_rotate",
    )
    kind = OneGraph if variant == "one graph" else DMSteps
    return start(kind, DMConfig, real, config, seeded(0), classes=classes)


class OneGraph(DMSteps):
    """As one would write it: a loss summed over the classes, and one backward pass."""

    def loss_and_gradient(self):
        self.network.load_parameters(self.draw_weights(self.iteration))
        images, loss = self.images.clone().requires_grad_(), 0
        for c, ours in zip(self.classes, images.split(self.ipc), strict=True):
            batch, omega = self.draw(c)
            with torch.no_grad():
                theirs = self.embed(self.augment.apply(batch, omega))
            loss = loss + mean_distance(theirs, self.embed(self.augment.apply(ours, omega)))
        return loss.detach(), *torch.autograd.grad(loss, images)


def written(classes, size, on_disk, folder):
    """A file of noise, so many images of each class."""
    path, chunk = Path(folder) / "x.npy", np.random.default_rng(0).integers(0, 256, (classes, 3, size, size), np.uint8)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(on_disk * classes, *chunk.shape[1:])).flush()
    with path.open("r+b") as file:
        file.seek(-on_disk * chunk.nbytes, os.SEEK_END)
        for _ in range(on_disk):
            file.write(chunk.tobytes())
    return path


def mapped(path, classes):
    pixels, half = np.load(path, mmap_mode="r"), torch.full((3,), 0.5)
    return LabeledImages(
        images=MappedImages(pixels, half, half), labels=torch.arange(len(pixels)) % classes,
        classes=tuple(map(str, range(classes))), mean=half, std=half,
    )


def one_process(ipc, classes, size, variant, on_disk=None, turn=None):
    with tempfile.TemporaryDirectory() as folder:
        path = on_disk and written(classes, size, on_disk, folder)
        real = None if on_disk else images(ipc, classes, size)
        before, begin = start_peak(), time.perf_counter()
        steps = make_steps(real or mapped(path, classes), ipc, variant)
        begun = {"start": round(time.perf_counter() - begin, 2)} if on_disk else {}
        return begun | measured(steps, before)


def measured(steps, before):
    next(steps)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        next(steps)
        seconds.append(time.process_time() - start)
    return {"seconds": round(median(seconds), 4), "megabytes": peak_above(before)}


def many_processes(ipc, classes, size, variant, processes, threads, repeats=50):
    torch.set_num_threads(threads)
    sharding.join()
    steps = make_steps(images(ipc, classes, size), ipc, variant, classes=sharding.share(classes))
    next(steps)
    sharding.wait()  # together
    start = time.perf_counter()
    for _ in range(repeats):
        next(steps)
    sharding.gather(steps.images)
    return {"seconds": round((time.perf_counter() - start) / repeats, 4)}


def measure(setting):
    """What a child process prints."""
    torch.set_num_threads(1)
    found = many_processes(**setting) if "processes" in setting else one_process(**setting)
    if sharding.rank() == 0:
        print(json.dumps(found))
    sharding.finish()


def main(wanted):
    table = Table("growth", command="python benchmarks/growth.py")
    for experiment in wanted or SETTINGS:
        for changes in SETTINGS[experiment]:
            setting = {**START, **changes}
            if table.find(experiment=experiment, **setting):
                continue
            command = [sys.executable, __file__, json.dumps(setting)]
            if "processes" in changes:
                nproc = f"--nproc-per-node={changes['processes']}"
                command[1:1] = ["-m", "torch.distributed.run", "--standalone", nproc]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {"experiment": experiment, **setting, **json.loads(done.stdout)}
            table.add(row)
            print(row, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        measure(json.loads(sys.argv[1]))
    else:
        main(sys.argv[1:])
