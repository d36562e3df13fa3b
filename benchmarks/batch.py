"""The real batch as a dial: which size is best for the time it takes, predicted and measured.

    python benchmarks/batch.py                                # MNIST-5k
    python benchmarks/batch.py --data PATH.npz                # and CIFAR-10, one run for each size

`variance` rows split the variance of the pixel gradient into the part of networks and augmentations, V_θ, and that of
one real image, V_x; `cost` rows hold processor milliseconds. Together they predict the best size. `dial` rows measure
accuracy after equal processor time, `floor` rows what a constant step, a falling one and an average leave after four
times as long. All on a validation part of the training images, with one thread. The numbers of iterations follow from
the stored costs, so that the sets can be made again bit for bit. Results go to dmtutor/results/batch.json, row by row.
"""

import argparse
import time
from dataclasses import replace
from statistics import median

import torch
from store import Table

from dmtutor import DMConfig, Recipe, SiameseAugment, dm_steps, evaluate, load, results

BATCHES = [1, 4, 16, 64, 256]
SECONDS = {1: 5, 10: 10}  # of a run on the dial, for each IPC
SETS, FLOOR, AVERAGE, NETWORKS, SHORT = 3, 4, 0.99, 100, 200


def steps_of(real, seed=0, **fields):
    return dm_steps(real, config=DMConfig(**fields), generator=torch.Generator().manual_seed(seed))


def after(real, *, iterations, seed=0, **fields):
    """A run that has come to its end."""
    steps = steps_of(real, seed, iterations=iterations, **fields)
    for _ in steps:
        pass
    return steps


def two_gradients(real, images, ipc, batch, networks):
    """Pixel gradients of disjoint batches under the same networks and augmentations: two of (networks, pixels).

    Runs of one seed see the same networks, and a batch is the beginning of the one twice its size. The gradient is
    linear in the mean of the batch, so that of the second half is 2 g(2B) − g(B).
    """
    gradients = {}
    for size in (batch, 2 * batch):
        steps = steps_of(real, ipc=ipc, batch_real=size, iterations=networks)
        steps.images, found = images, []
        for steps.iteration in range(networks):
            found.append(steps.loss_and_gradient()[1].flatten())
        gradients[size] = torch.stack(found).double()
    return gradients[batch], 2 * gradients[2 * batch] - gradients[batch]


def variances(real, images, ipc, batch=16):
    """V_θ and V_x of Var(g) = V_θ + V_x (1/B − 1/N), both summed over pixels, without bias; and ‖E g‖²."""
    a, b = two_gradients(real, images, ipc, batch, NETWORKS)
    V_x = batch / 2 * (a - b).square().sum(1).mean()
    products = a @ b.T
    same, other = products.diag().mean(), (products.sum() - products.diag().sum()) / (NETWORKS * (NETWORKS - 1))
    V_theta = same - other + V_x / int(real.counts.min())
    return {"V_theta": float(V_theta), "V_x": float(V_x), "squared_mean": float(other)}


def processor_ms(work, repeats=10):
    work()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1e3 * median(spent)


def image_costs(real, ipc):
    """Milliseconds of one real image, forward, and of one synthetic one, forward and backward."""
    steps = steps_of(real, ipc=ipc)
    augment = SiameseAugment(real.meta["augment"])
    omega = augment.sample(1, generator=torch.Generator().manual_seed(0))
    x, s = real.of_class(0)[:16], steps.images[:ipc].clone().requires_grad_()

    def forward():
        with torch.no_grad():
            steps.network.embed(augment.apply(x, omega))

    def forward_backward():
        torch.autograd.grad(steps.network.embed(augment.apply(s, omega)).square().sum(), s)

    return {"c_r": processor_ms(forward, 50) / len(x), "c_s": processor_ms(forward_backward, 50) / ipc}


def step_costs(real, ipc):
    """Milliseconds of a whole step for each size; the sizes take turns, so that what else runs meets all alike."""
    runs = {batch: steps_of(real, ipc=ipc, batch_real=batch) for batch in BATCHES}
    spent = {batch: [] for batch in BATCHES}
    for _ in range(6):
        for batch, steps in runs.items():
            start = time.process_time()
            next(steps)
            spent[batch].append(time.process_time() - start)
    return {str(batch): 1e3 * median(times[1:]) for batch, times in spent.items()}


def judge(sets, validation, seconds, recipe=None):
    accuracies = evaluate(sets, validation, networks=1, recipe=recipe, generator=torch.Generator().manual_seed(0))
    print(f"{accuracies}, {sum(seconds) / len(seconds):.1f} s a set", flush=True)
    contrast = [round(float(s.images.std()), 3) for s in sets]
    return {"seconds": [round(s, 2) for s in seconds], "contrast": contrast, "accuracies": results.pack(accuracies)}


def measure(real, validation, key, averaged=False):
    """The row of one setting; and a second one for the running averages of the same runs, if asked for."""
    fields = {name: key[name] for name in ("ipc", "batch_real", "schedule", "iterations")}
    runs, seconds = [], []
    for seed in range(SETS):
        start = time.process_time()
        runs.append(after(real, seed=seed, average=AVERAGE if averaged else 0.0, **fields))
        seconds.append(time.process_time() - start)
    sets = [run.synthetic for run in runs]
    last = [replace(s, images=run.images) for s, run in zip(sets, runs, strict=True)]
    yield {**key, **judge(last, validation, seconds)}
    if averaged:
        yield {**key, "average": AVERAGE, **judge(sets, validation, seconds)}


def mnist():
    train, _ = load("mnist5k")
    rest, validation = train.split(0.2, generator=torch.Generator().manual_seed(0))
    table = Table("batch", command="python benchmarks/batch.py", recipe=f"{Recipe()}, one network for each set")
    for ipc in SECONDS:
        if not table.find(experiment="cost", ipc=ipc):
            costs = {"milliseconds": step_costs(rest, ipc), **image_costs(rest, ipc)}
            table.add({"experiment": "cost", "ipc": ipc, **costs})
            print(table.rows[-1], flush=True)
        for iteration in (0, SHORT):
            key = {"experiment": "variance", "ipc": ipc, "iteration": iteration}
            if not table.find(**key):
                fields = {"ipc": ipc, "batch_real": 16, "schedule": "constant"}
                images = after(rest, iterations=SHORT, **fields).images if iteration else steps_of(rest, ipc=ipc).images
                table.add({**key, "networks": NETWORKS, **variances(rest, images, ipc)})
                print(table.rows[-1], flush=True)
    wanted = [("dial", ipc, batch, "constant", 1) for ipc in SECONDS for batch in BATCHES]
    wanted += [("floor", 1, 16, schedule, FLOOR) for schedule in ("constant", "linear")]
    wanted += [("dial", ipc, batch, "linear", 1) for ipc in SECONDS for batch in (4, 16)]
    wanted += [("floor", 10, 16, schedule, FLOOR) for schedule in ("constant", "linear")]
    for experiment, ipc, batch, schedule, longer in wanted:
        cost = table.find(experiment="cost", ipc=ipc)["milliseconds"]
        iterations = longer * round(1e3 * SECONDS[ipc] / cost[str(batch)])
        key = {"experiment": experiment, "ipc": ipc, "batch_real": batch, "schedule": schedule}
        if not table.find(**key):
            key["iterations"] = iterations
            print(key, flush=True)
            for row in measure(rest, validation, key, averaged=experiment == "floor" and schedule == "constant"):
                table.add(row)


def cifar10(path, seconds=60):
    """One run and one network for each size: an indication, no more."""
    train, _ = load(path)
    rest, validation = train.split(0.04, generator=torch.Generator().manual_seed(0))
    recipe = Recipe.reference(epochs=100)
    table = Table("batch")
    for batch in (16, 4, 64, 256):
        key = {"experiment": "CIFAR-10", "ipc": 10, "batch_real": batch, "schedule": "constant"}
        if table.find(**key):
            continue
        config = DMConfig.reference(batch_real=batch)
        steps = dm_steps(rest, config=config, generator=torch.Generator().manual_seed(0))
        start = time.process_time()
        while time.process_time() - start < seconds:
            next(steps)
        spent = time.process_time() - start
        print(key, steps.iteration, "iterations", end=": ", flush=True)
        row = judge([steps.synthetic], validation, [spent], recipe)
        table.add({**key, "iterations": steps.iteration, "recipe": str(recipe), **row})


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", help="CIFAR-10 as .npz")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    mnist()
    if asked.data:
        cifar10(asked.data)


if __name__ == "__main__":
    main()
