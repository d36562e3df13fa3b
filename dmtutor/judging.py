"""Sets side by side: which of them were made in one way, and how far those of two ways lie apart."""

import json
from contextlib import suppress

import torch

from .accuracies import t_interval
from .condensation import METHODS
from .networks import default_depth
from .planning import class_list

OF_ONE_SET = ("seed", "versions", "config", "ipc", "augment")  # what kinds leave out of the meta, or name otherwise


def kind(data):
    """How a set was made, {name: value}: what its meta says but for the seed, and its images per class."""
    meta, counts, config = data.meta, data.counts.tolist(), data.meta.get("config") or {}
    told = {**{name: value for name, value in meta.items() if name not in OF_ONE_SET}, **config,
            "ipc": counts[0] if len(set(counts)) == 1 else class_list(data.classes, counts), "counts": counts,
            "judged with": meta.get("augment")}
    return json.loads(json.dumps(told, default=lambda x: x.tolist() if isinstance(x, torch.Tensor) else str(x)))


def chosen_fields(data):
    """The fields of a set's configuration that do not follow from the others, from its method and its data: a dict."""
    config, method = data.meta.get("config") or {}, METHODS.get(data.meta.get("method"))
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    follow = {"depth": default_depth(data.images.shape[2:]), "augment": data.meta.get("augment")}
    for name in plain if method else ():
        with suppress(TypeError, ValueError):  # a field that the method has no longer
            follow.setdefault(name, getattr(method.config_type(**{k: v for k, v in plain.items() if k != name}), name))
    return {name: value for name, value in plain.items() if name == "ipc" or value != follow.get(name)}


def group(sets):
    """Which sets are of one kind, alike in all but the seed, of which each has its own: a list of lists of numbers.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from dmtutor import results
    >>> one = results.images("mnist5k_dm_1")
    >>> group([one, replace(one, meta={**one.meta, "seed": 7}), one])
    [[0, 1], [2]]
    """
    groups = []
    for i, data in enumerate(sets):
        seed, ours = str(data.meta.get("seed")), kind(data)
        for known, members in groups:
            if known == ours and seed != "None" and seed not in members:
                members[seed] = i
                break
        else:
            groups.append((ours, {seed: i}))
    return [[members[seed] for seed in sorted(members, key=lambda s: (len(s), s))] for _, members in groups]


def differing_fields(sets):
    """In words, for a set of each kind, what tells it from the others; of several methods the fields that all have."""
    kinds, own = list(map(kind, sets)), set().union(*map(chosen_fields, sets))
    follow = set().union(*(data.meta.get("config") or {} for data in sets)) - own
    common = [name for name in kinds[0] if all(name in other for other in kinds)]
    differ = [name for name in common if name not in {"counts", "iteration", "built_in", *follow}
              and any(other[name] != kinds[0][name] for other in kinds)]
    names = {"fingerprint": "images"}
    return [in_words({names.get(name, name): one[name] for name in differ}) for one in kinds]


def in_words(values):
    """Names and values in words: 'method=dm, lr_img=3.5'."""
    return ", ".join(f"{name}={format(v, '.4g') if isinstance(v, float) else v}" for name, v in values.items())


def same_start(ours, theirs):
    """Whether set i of one kind and set i of the other grew from the same images: two lists of sets."""
    a, b = kind(ours[0]), kind(theirs[0])
    same = all(a.get(name) == b.get(name) for name in ("init", "counts", "factor", "name", "fingerprint"))
    steps = [METHODS[one["method"]].first_images for one in (a, b) if one.get("method") in METHODS]
    drawn = a.get("method") == b.get("method") or (len(steps) == 2 and steps[0] is steps[1])
    seeds = [[data.meta.get("seed") for data in side] for side in (ours, theirs)]
    return same and drawn and "init" in a and seeds[0] == seeds[1]


def difference(ours, theirs, paired):
    """In words, how much better one kind is than another; ``paired`` if set i of both grew from the same images."""
    fewest, networks = (min(sides) for sides in zip(ours.correct.shape[:2], theirs.correct.shape[:2], strict=True))
    if fewest > 1:
        how = f"{fewest} pairs of sets" if paired else "Welch"
        return f"{ours.difference(theirs, paired=paired)!s} ({how})"
    if len(ours.correct) == len(theirs.correct) and networks > 2:
        return f"{ours.difference(theirs)!s} (over {networks} networks of one set each only)"
    per_image = ours.marks.mean((0, 1)) - theirs.marks.mean((0, 1))
    low, high = t_interval(per_image)
    return (f"{100 * float(per_image.mean()):+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] "
            "(over test images only, of one set)")
