"""Condense, evaluate and export from the shell: ``python -m dmtutor condense --help``."""

import math
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from itertools import combinations, product
from pathlib import Path

import torch

from . import files, judging, planning, sharding
from .augmentation import SiameseAugment
from .checks import check_device, check_positive, check_seed
from .condensation import begin, condense, load_run
from .data import LabeledImages
from .decoding import decode, random_tiles
from .evaluation import evaluate
from .exchange import check_export, export, load_exported, read_set
from .flags import RECIPES, parser, tell
from .networks import default_depth
from .pretrained import NETWORKS, Frozen
from .pretrained import judge as probe
from .sources import NAMES, check_fit, load, reading_options


def main(arguments=None):
    """Run a command. Exit code 2 and one line for bad input, before any work; files are written whole or not."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = parser(arguments).parse_args(arguments)
    noted = set()

    def note(message, *_):
        """A warning, once, in one line."""
        if str(message) not in noted:
            tell(f"note: {' '.join(str(message).split())}")
        noted.add(str(message))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = note
            COMMANDS[parsed.command](parsed)
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError) as error:
        message = "; ".join([str(error), *getattr(error, "__notes__", [])])
        if isinstance(error, MemoryError | OverflowError | RuntimeError):
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory|overflow", message):
                raise
            message = f"this takes more memory than there is: smaller numbers or a smaller size would do ({message})"
        tell(f"python -m dmtutor {parsed.command}: error: {' '.join(message.split())}")
        sys.exit(2)
    except KeyboardInterrupt:
        tell("\n" + "; ".join(["stopped", *getattr(parsed, "advice", [])]))
        sys.exit(130)


def _condense(parsed):
    sharding.join()
    _check(parsed)
    outputs = _outputs(parsed)
    with ExitStack() as held:
        if sharding.rank() == 0 and not parsed.dry_run:
            for output in outputs.values():
                held.enter_context(files.locked(output, "--output"))
                held.enter_context(files.locked(_checkpoint(parsed, output), "checkpoint"))
        _condense_into(parsed, outputs)


def _condense_into(parsed, outputs):
    config_type = parsed.method.config_type
    names = [f.name for f in fields(config_type)]
    given = {name: getattr(parsed, f"field {name}") for name in names if hasattr(parsed, f"field {name}")}
    ipc = given.get("ipc")
    plain = {**given, "ipc": tuple(ipc.values())} if isinstance(ipc, dict) else given  # their order is the data's
    config = config_type.reference(**plain) if parsed.setting == "published" else config_type(**plain)
    fields_of_run = {name: getattr(config, name) for name in names}
    if plain is not given:
        fields_of_run["ipc"] = ipc
    train, test = _load(parsed, parsed.dataset)
    recipe = _recipe(parsed, test)
    checkpoints = {seed: _checkpoint(parsed, output) for seed, output in outputs.items()}
    left = 0
    for seed, checkpoint in checkpoints.items():
        begun = begin(train, parsed.method, seed=seed, device=parsed.device, **fields_of_run)
        if checkpoint.exists():
            load_run(begun, checkpoint)
        files.check_replaced(outputs[seed], "--output", own=parsed.overwrite or _made_by(begun, seed, outputs[seed]))
        left += len(begun) - begun.iteration
    drawn = _drawn([(begun.ipc, begun.synthetic.meta.get("factor", 1))])
    _plan(parsed, train, test, recipe, drawn, len(outputs), begun, left)
    if parsed.dry_run:
        if sharding.rank() == 0:
            from .plotting import contact_sheet

            sheet = f"{parsed.output}.png"
            told = contact_sheet(train, sheet, title=f"{parsed.dataset}, training images as they are read", most=6)
            print(f"{sheet}: as they are read, {told}")
        return
    sets = []
    for seed, output in outputs.items():
        parsed.advice = [f"the same command goes on from {checkpoints[seed]}"]
        try:
            synthetic = condense(train, parsed.method, seed=seed, device=parsed.device, checkpoint=checkpoints[seed],
                                 history=parsed.history, **fields_of_run)
        except FloatingPointError:
            if not parsed.checkpoint:
                checkpoints[seed].unlink(missing_ok=True)  # it leads nowhere
            raise
        if sharding.rank() == 0:
            _save(synthetic, output)
            print(f"{output}: {_images(synthetic.counts.tolist())} of {parsed.dataset}", flush=True)
        sets.append(synthetic)
    first = sharding.rank() == 0
    sharding.finish()
    if not first:
        return
    if not parsed.checkpoint:
        for checkpoint in checkpoints.values():
            checkpoint.unlink(missing_ok=True)
    parsed.advice = [f"the sets are written: evaluate {' '.join(map(str, outputs.values()))} judges them"]
    if parsed.evaluate:
        _compare(parsed, list(outputs.values()), sets, train, test, recipe)


def _made_by(begun, seed, path):
    """Whether the file holds what this run makes, or made when it was to have fewer iterations."""
    try:
        meta = LabeledImages.load(path).meta
    except (FileNotFoundError, ValueError):
        return False
    ours = begun.synthetic.meta
    differs = {name for name in ours["config"] if ours["config"][name] != meta.get("config", {}).get(name)}
    same = all(meta.get(name) == {**ours, "seed": seed}[name] for name in ("method", "fingerprint", "seed"))
    return same and (not differs or (differs == {"iterations"} and begun.config.schedule == "constant"))


def _save(made, output):
    """Write a finished set, and where the disk refuses it, elsewhere: it is the work of a whole run."""
    try:
        made.save(output)
    except (OSError, ValueError) as error:
        for folder in (tempfile.gettempdir(), "."):
            with suppress(OSError, ValueError):
                elsewhere = files.partial(Path(folder) / output.name).with_suffix(output.suffix)
                made.save(elsewhere)
                error.add_note(f"the set is finished, and lies in {str(elsewhere)!r}")
                break
        raise


def _outputs(parsed):
    """The file of each seed: S.pt, or S_0.pt, S_1.pt, … for several."""
    check_positive("--seeds", parsed.seeds)
    path = files.check_output(parsed.output, "--output")
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(f"--output must end in .pt, the format that is written; got {parsed.output!r}")
    if parsed.history:
        files.check_output(parsed.history, "history")
    files.check_different(output=path, checkpoint=parsed.checkpoint or f"{path}.run", history=parsed.history)
    if parsed.dry_run:
        _check_sheet(parsed, f"{path}.png", "the drawing of a dry run")
    if parsed.seeds == 1:
        return {parsed.seed: path}
    for flag in ("checkpoint", "history"):
        if getattr(parsed, flag):
            raise ValueError(f"--{flag} must be left out with --seeds: each run has a file of its own")
    seeds = range(parsed.seed, parsed.seed + parsed.seeds)
    check_seed(seeds[-1], "the last of --seeds")
    return {seed: path.with_stem(f"{path.stem}_{seed}") for seed in seeds}


def _check_sheet(parsed, path, name):
    from .plotting import is_sheet

    files.check_replaced(files.check_output(path, name), name, own=parsed.overwrite or is_sheet(path))


def _checkpoint(parsed, output):
    return files.check_output(parsed.checkpoint or f"{output}.run", "checkpoint")


def _images(ipc):
    """How many images these are, of each class."""
    least, most = min(ipc), max(ipc)
    return f"{sum(ipc)} images, {most if least == most else f'{least} to {most}'} per class"


def _load(parsed, dataset, files=(), sets=()):
    """The real images; for sets that are there as those were that the first of them was made of."""
    for name, value in (reading_options(sets[0]) if sets else {}).items():
        setattr(parsed, name, value if getattr(parsed, name) is None else getattr(parsed, name))
    train, test = load(dataset, root=parsed.root, size=parsed.size, resize=parsed.resize, white=parsed.white,
                       skip_broken=parsed.skip_broken)
    for file, made in zip(files, sets, strict=True):
        check_fit(train, made, file)
    return train, test


def _recipe(parsed, test):
    """The recipe of the judge's networks, of the depth for these images; or the frozen network under its heads."""
    parsed.model = parsed.model or getattr(parsed, "field network", "convnet").partition(",")[0]
    if parsed.model in NETWORKS:
        parsed.random_sets = 3 if parsed.random_sets is None else parsed.random_sets
        return NETWORKS[parsed.model]()
    depth = {"depth": default_depth(test.images.shape[2:])} if parsed.model == "convnet" else {}
    recipe = RECIPES[parsed.recipe](model=parsed.model, augment=parsed.judge_augment, **depth)
    if parsed.evaluate:
        recipe.check(test.images)
    return recipe


def _plan(parsed, train, test, recipe, drawn, sets=1, steps=None, left=0, augments=()):
    """Say in one line what was read, what will be done, and how long it will take.

    ``left`` steps of all runs together are still to be taken. ``augments`` are those of sets that are there already.
    """
    resized = "" if not parsed.size else f" (others {'between bars' if parsed.resize == 'pad' else 'cut to fit'})"
    parts, most = [f"read {planning.what_was_read(train, test)}{resized}"], math.inf
    if steps:
        config, done = steps.config, len(steps) * sets - left
        step, pool = planning.step_seconds(steps), planning.pool_seconds(steps)
        most = sets * (len(steps) * step + pool)
        uneven = f" ({planning.class_list(train.classes, steps.ipc)})" if len(set(steps.ipc)) > 1 else ""
        parts.append(
            f"{steps.method}, {f'{sets} sets of ' if sets > 1 else ''}{_images(steps.ipc)}{uneven}: {len(steps)} steps"
            f"{' each' if sets > 1 else ''}{f', {done} of them done' if done else ''}, augmentation {config.augment}, "
            f"{steps.network_summary}, "
            f"about {planning.duration(left * step + math.ceil(left / len(steps)) * pool)}"
        )
    if sharding.rank() == 0:
        if parsed.evaluate and isinstance(recipe, Frozen):
            parts.append(f"{'then ' if steps else ''}a linear head on {parsed.model} to judge")
        elif parsed.evaluate:
            network = f"networks of depth {recipe.depth}" if recipe.model == "convnet" else f"{recipe.model} networks"
            augment = recipe.augment or " or ".join(sorted({train.meta.get("augment", "none"), *augments}))
            parts.append(f"{'then ' if steps else ''}{network} to judge, augmentation {augment}: "
                         f"{_plan_judging(parsed, train, test, recipe, drawn, sets, most)}")
        print("; ".join(parts), file=sys.stdout if parsed.dry_run else sys.stderr, flush=True)
    if parsed.evaluate:
        sharding.wait()  # it measures alone


def _plan_judging(parsed, train, test, recipe, drawn, sets, most):
    """How many networks judge what, and how long; where no flag says it at most 3 and 3, in ``most`` seconds."""
    ipc, factor = max(drawn, key=lambda one: sum(one[0]))
    random = _random(train, ipc, 0)
    random = replace(random, meta={**random.meta, "factor": factor})
    device = torch.device(parsed.device or train.images.device)
    at_once = torch.get_num_threads() if device.type == "cpu" else 1
    a_round = planning.judge_seconds(random.to(device), test.to(device), recipe, at_once)

    def told(networks, random_sets):
        judged = {"the set" if sets == 1 else f"{sets} sets": sets, "random images": len(drawn) * random_sets,
                  "all images": parsed.whole}
        return {name: (n * networks, a_round * math.ceil(n * networks / at_once)) for name, n in judged.items() if n}

    def seconds(choice):
        return sum(time for _, time in told(*choice).values()), choice

    open_to = [range(1, 4) if given is None else [given] for given in (parsed.networks, parsed.random_sets)]
    choices = sorted(product(*open_to), key=seconds, reverse=True)
    chosen = next((choice for choice in choices if seconds(choice)[0] <= most), choices[-1])
    parsed.networks, parsed.random_sets = chosen
    parts = [f"{n} on {name}, about {planning.duration(time)}" for name, (n, time) in told(*chosen).items()]
    fewer = " (fewer, to take no longer than condensing: --networks 3 --random-sets 3)" if chosen != choices[0] else ""
    return ", ".join(parts) + fewer


def _drawn(sets):
    """What random images are drawn for such sets, (images per class, factor): of each as many, and as many tiles."""
    return list(dict.fromkeys((tuple(ipc), tiles) for ipc, factor in sets for tiles in sorted({1, factor})))


def _evaluate(parsed):
    _check(parsed)
    if twice := [file for file, n in Counter(map(os.path.realpath, parsed.files)).items() if n > 1]:
        raise ValueError(f"the sets must be different files; {os.path.relpath(twice[0])!r} is there twice")
    sets = [read_set(file) for file in parsed.files]
    first, name = sets[0], sets[0].built_in_name
    for file, other in zip(parsed.files, sets, strict=True):
        if other.images.shape[1:] != first.images.shape[1:] or other.classes != first.classes:
            raise ValueError(f"the sets must have the same classes and size; got {other} in {file}, {first} before")
        decode(other)  # raises a ValueError where that is not possible
        if empty := [known for known, n in zip(other.classes, other.counts, strict=True) if not n]:
            raise ValueError(f"a set must hold images of every class; {file} has none of {', '.join(empty[:8])}")
        if parsed.dataset is None and not (name in NAMES and other.built_in_name == name):
            raise ValueError(f"--dataset is required: {file} was made of {other.meta.get('name') or 'unknown data'}, a "
                             "file or folder")
    train, test = _load(parsed, parsed.dataset or name, parsed.files, sets)
    recipe = _recipe(parsed, test)
    augments = [data.meta.get("augment", "none") for data in sets]
    for augment in augments:
        SiameseAugment(augment)  # raises a ValueError for one that is unknown
    drawn = _drawn((data.counts.tolist(), data.meta.get("factor", 1)) for data in sets)
    _plan(parsed, train, test, recipe, drawn, len(sets), augments=augments)
    _compare(parsed, parsed.files, sets, train, test, recipe)


def _export(parsed):
    if check_export(parsed.output, "output").suffix:
        files.check_different(file=parsed.file, output=parsed.output)
        files.check_replaced(parsed.output, "output", own=parsed.overwrite)
    _check(parsed)
    synthetic = read_set(parsed.file)
    if parsed.dataset is not None:
        _, test = _load(parsed, parsed.dataset, [parsed.file], [synthetic])
        recipe = _recipe(parsed, test)
    cost = export(synthetic, parsed.output)
    exported = load_exported(parsed.output)
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (exported.mean, exported.std))
    print(f"{parsed.output}: {len(exported)} images, normalisation by mean {mean} and std {std}; {cost}", flush=True)
    if parsed.dataset is None:
        return
    results = []
    for name, one in (("before", synthetic), ("after", exported)):
        real, one = (part.to(parsed.device, torch.float32) for part in (test.normalized_like(one), one))
        draws = torch.Generator().manual_seed(parsed.seed)
        results.append(evaluate(one, real, networks=parsed.networks, recipe=recipe, generator=draws, progress=True))
        print(f"{name:>10}: {results[-1]}", flush=True)
    print(f"{'change':>10}: {results[1].difference(results[0])}")


def _info(parsed):
    data = read_set(parsed.file)
    counts, meta, (channels, height, width) = data.counts.tolist(), dict(data.meta), data.images.shape[1:]
    keys = "config", "built_in", "method", "name", "seed", "fingerprint", "versions"
    config, _, method, name, seed, mark, versions = (meta.pop(key, None) for key in keys)
    told = {
        "method": f"{method or 'unknown'}, seed {'unknown' if seed is None else seed}",
        "data": f"{name or 'unknown'}, {'built in' if data.built_in_name in NAMES else 'a file or folder'}, "
                f"fingerprint {mark}",
        "images": f"{_images(counts)} ({planning.class_list(data.classes, counts)}), {height}×{width} "
                  f"{'grey' if channels == 1 else 'RGB'}",
        "fields": judging.in_words(judging.chosen_fields(data)) if config else None,
        "versions": judging.in_words(versions) if isinstance(versions, dict) else versions, **meta,
    }
    for key, value in told.items():
        if value is not None:
            print(f"{key:>9}: {value}")


def _show(parsed):
    from .plotting import contact_sheet

    output = Path(f"{Path(parsed.file)}.png" if parsed.output is None else parsed.output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png; got {parsed.output!r}")
    files.check_different(file=parsed.file, output=output)
    _check_sheet(parsed, output, "--output")
    data = read_set(parsed.file)
    title = f"{Path(parsed.file).name}: {data.meta.get('method', 'unknown')}, seed {data.meta.get('seed', 'unknown')}"
    print(f"{output}: {contact_sheet(data, output, title=title)}")


def _compare(parsed, names, sets, train, test, recipe):
    """Print the accuracy of sets beside that of as many random real images, under one recipe; of several kinds of sets
    the differences, too."""
    first, *others = (part.to(parsed.device, torch.float32) for part in (*sets, train, test))
    *sets, train, test = (first, *(part.normalized_like(first) for part in others))

    def judge(group):
        if isinstance(recipe, Frozen):
            return probe(group, test, recipe)
        return evaluate(group, test, networks=parsed.networks, recipe=recipe, progress=True,
                        generator=torch.Generator().manual_seed(parsed.seed))

    def say(name, result):
        print(f"{name:>9}: {result}{_by_class(result)}", flush=True)

    result, groups = judge(sets), judging.group(sets)
    apart = judging.differing_fields([sets[group[0]] for group in groups])
    words = {i: told for group, told in zip(groups, apart, strict=True) for i in group}
    for i, name in enumerate(names if len(sets) > 1 else ()):
        say(f"{name} ({words[i]})" if words[i] else str(name), result.select([i]))
    short = [f"{names[g[0]]}{f' and {len(g) - 1} more' if len(g) > 1 else ''}" for g in groups]
    results = [result.select(group) for group in groups]
    for name, group, one in zip(short, groups, results, strict=True):
        if len(groups) == 1 or len(group) > 1:
            say(name if len(groups) > 1 else "condensed", one)
    drawn = _drawn((data.counts.tolist(), data.meta.get("factor", 1)) for data in sets) if parsed.random_sets else []
    for ipc, factor in drawn:
        of = f", {_images(ipc)}" if len({ipc for ipc, _ in drawn}) > 1 else ""
        say(f"{'random' if factor == 1 else 'tiles'}{of}",
            judge([_random(train, ipc, parsed.seed + i, factor) for i in range(parsed.random_sets)]))
    if parsed.whole:
        say("whole set", judge([train]))
    for a, b in combinations(range(len(groups)), 2):
        paired = judging.same_start(*([sets[i] for i in groups[g]] for g in (a, b)))
        print(f"{short[a]} − {short[b]}: {judging.difference(results[a], results[b], paired)}", flush=True)


def _random(train, ipc, seed, factor=1):
    """As many random images of each class, factor² in the pixels of one, or all that there are: sets that began as
    noise may have more."""
    ipc = tuple(max(1, min(n, have // factor**2)) for n, have in zip(ipc, train.counts.tolist(), strict=True))
    return random_tiles(train, ipc, factor=factor, generator=torch.Generator().manual_seed(seed))


def _by_class(result):
    """Where classes of the test images differ in size, what one number hides."""
    counts = result.test_counts
    if len(set(counts.tolist())) == 1:
        return ""
    each = result.by_class.mean((0, 1)).nan_to_num(2)
    least = int(each.argmin())
    return f"; balanced {100 * result.balanced.mean:.1f} %, least {100 * each[least]:.1f} % ({result.classes[least]})"


def _check(parsed):
    check_seed(parsed.seed, "--seed")
    if parsed.networks is not None:
        check_positive("--networks", parsed.networks)
    if parsed.random_sets:  # 0 is none
        check_positive("--random-sets, if not 0,", parsed.random_sets)
    if parsed.judge_augment is not None:
        try:
            SiameseAugment(parsed.judge_augment)
        except ValueError as error:
            raise ValueError(f"--judge-{error}") from None
    if parsed.device is not None:
        check_device(parsed.device, "--device")


COMMANDS = {"condense": _condense, "evaluate": _evaluate, "export": _export, "info": _info, "show": _show}

if __name__ == "__main__":
    main()
