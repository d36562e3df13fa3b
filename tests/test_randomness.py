import itertools
import random

import numpy as np
import pytest
import torch
from runs import seeded
from torch.utils.data import TensorDataset

import dmtutor
from dmtutor.randomness import STREAMS, keyed_generator, root_seed


def draw(root, stream, *key):
    return torch.rand(8, generator=keyed_generator(root, stream, *key))


def test_the_root_comes_from_the_generator_in_one_draw():
    generator = seeded()
    one, two = root_seed(generator), root_seed(generator)
    assert one == root_seed(seeded())
    assert one != two != root_seed(seeded(1))
    assert type(one) is int
    assert 0 <= one < 2**63 - 1


def test_roots_fill_63_bits():
    roots = [root_seed(generator) for generator in [seeded()] for _ in range(64)]
    assert len(set(roots)) == 64
    assert max(roots) > 2**62
    assert len({root % 2**20 for root in roots}) == 64


@pytest.mark.parametrize("wrong", [None, 0, np.random.default_rng(0), torch.default_generator.get_state()])
def test_a_root_needs_a_torch_generator(wrong):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        root_seed(wrong)


def test_a_key_names_its_draw():
    assert torch.equal(draw(7, "batch", 3, 1), draw(7, "batch", 3, 1))


def test_streams_iterations_classes_and_roots_all_differ():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]
    draws = [draw(root, stream, *key) for root, stream, key in itertools.product((0, 1, 2**40), STREAMS, keys)]
    assert len({tuple(d.tolist()) for d in draws}) == len(draws) == 3 * len(STREAMS) * len(keys)


def test_keys_do_not_collide_in_a_long_run():
    """1,000 iterations of 10 classes: 32 bits make a collision or so in a hundred such runs."""
    seeds = {keyed_generator(0, "batch", i, c).initial_seed() for i in range(1000) for c in range(10)}
    assert len(seeds) >= 9_999
    assert all(0 <= seed < 2**32 for seed in seeds)  # all of the seed counts: a CPU generator uses 32 bits


def test_the_streams_are_fixed_for_good():
    """A change here would change the result of every seed, and every stored result."""
    assert STREAMS == ("init", "network", "batch", "augment", "train", "method")
    sequence = np.random.SeedSequence(12345, spawn_key=(2, 7, 3))
    assert keyed_generator(12345, "batch", 7, 3).initial_seed() == int(sequence.generate_state(1)[0])
    expected = torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
    assert torch.equal(draw(12345, "batch", 7, 3), torch.rand(8, generator=expected))


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match=r"stream must be one of init, .*, train, method; got 'batches'"):
        keyed_generator(0, "batches", 1)


# No public function touches a global generator -----------------------------------------------------------------------

PIXELS = torch.rand(12, 8, 8, generator=seeded())
DATA = dmtutor.from_arrays(PIXELS, torch.arange(12) % 2)
RECIPE = dmtutor.Recipe(epochs=2, width=4, depth=2, batch_size=3)
CONFIG = {"ipc": 2, "iterations": 2, "width": 4, "depth": 2}
NETWORK = {"channels": 1, "image_size": 8, "width": 4}


def augment(generator):
    operations = dmtutor.SiameseAugment("color_crop_cutout_flip_scale_rotate")
    return operations.apply(DATA.images, operations.sample(12, generator=generator))


CALLS = {
    "root_seed": root_seed,
    "keyed_generator": lambda g: torch.rand(3, generator=keyed_generator(root_seed(g), "train", 1)),
    "load": lambda g: dmtutor.load("mnist5k")[0].images,
    "from_arrays": lambda g: dmtutor.from_arrays(PIXELS, torch.arange(12) % 2).images,
    "from_dataset": lambda g: dmtutor.from_dataset(TensorDataset(DATA.pixels.clamp(0, 1), DATA.labels)).images,
    "split": lambda g: DATA.split(0.5, generator=g)[1].images,
    "random_subset": lambda g: dmtutor.random_subset(DATA, 2, generator=g).images,
    "random_tiles": lambda g: dmtutor.random_tiles(DATA, 1, generator=g).images,
    "ConvNet": lambda g: dmtutor.ConvNet(**NETWORK, generator=g)(DATA.images),
    "ConvNet with batch norm": lambda g: dmtutor.ConvNet(**NETWORK, norm="batch", generator=g)(DATA.images),
    "ConvNet with layer norm": lambda g: dmtutor.ConvNet(**NETWORK, norm="layer", generator=g)(DATA.images),
    "SiameseAugment": augment,
    "dm_steps": lambda g: [s.loss for s in dmtutor.dm_steps(DATA, config=dmtutor.DMConfig(**CONFIG), generator=g)],
    "dm_steps from noise": lambda g: [
        s.loss for s in dmtutor.dm_steps(DATA, config=dmtutor.DMConfig(**CONFIG, init="noise"), generator=g)
    ],
    "idm_steps": lambda g: [
        s.loss for s in dmtutor.idm_steps(
            DATA, config=dmtutor.IDMConfig(**{**CONFIG, "ipc": 1}, pool=2, pool_steps=2), generator=g)
    ],
    "dc_steps": lambda g: [
        s.loss for s in dmtutor.dc_steps(DATA, config=dmtutor.DCConfig(**CONFIG, steps_per_network=2), generator=g)
    ],
    "dd_steps": lambda g: [
        s.loss for s in dmtutor.dd_steps(DATA, config=dmtutor.DDConfig(**CONFIG, inner_steps=2), generator=g)
    ],
    "condense": lambda g: dmtutor.condense(DATA, **CONFIG, progress=False).images,
    "train_network": lambda g: dmtutor.train_network(DATA, recipe=RECIPE, generator=g)(DATA.images),
    "evaluate": lambda g: dmtutor.evaluate(DATA, DATA, networks=2, recipe=RECIPE, generator=g).correct,
}


def test_the_list_of_public_functions_is_whole():
    public = {name: getattr(dmtutor, name) for name in dmtutor.__all__}
    functions = {name for name, value in public.items() if callable(value) and not isinstance(value, type)}
    drawing_nothing = {"mean_distance", "herding", "k_center", "export", "load_exported", "load_published",
                       "decode", "as_tiles"}
    assert functions - drawing_nothing <= set(CALLS)


def bits(result):
    return [t.tolist() for t in result] if isinstance(result, list) else torch.as_tensor(result).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_global_generators_are_neither_advanced_nor_read(name):
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    first = CALLS[name](seeded())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    assert random.getstate() == before[2]
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    assert bits(CALLS[name](seeded())) == bits(first)


NEED_A_GENERATOR = {
    "split": lambda **g: DATA.split(0.5, **g),
    "random_subset": lambda **g: dmtutor.random_subset(DATA, 2, **g),
    "ConvNet": lambda **g: dmtutor.ConvNet(**NETWORK, **g),
    "reset_parameters": lambda **g: dmtutor.ConvNet(**NETWORK, generator=seeded()).reset_parameters(**g),
    "sample": lambda **g: dmtutor.SiameseAugment("flip").sample(2, **g),
    "dm_steps": lambda **g: dmtutor.dm_steps(DATA, config=dmtutor.DMConfig(**CONFIG), **g),
    "dc_steps": lambda **g: dmtutor.dc_steps(DATA, config=dmtutor.DCConfig(**CONFIG), **g),
    "dd_steps": lambda **g: dmtutor.dd_steps(DATA, config=dmtutor.DDConfig(**CONFIG), **g),
    "train_network": lambda **g: dmtutor.train_network(DATA, recipe=RECIPE, **g),
    "evaluate": lambda **g: dmtutor.evaluate(DATA, DATA, recipe=RECIPE, **g),
}


@pytest.mark.parametrize("name", NEED_A_GENERATOR)
def test_a_generator_is_compulsory(name):
    with pytest.raises(TypeError, match="generator"):
        NEED_A_GENERATOR[name]()
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        NEED_A_GENERATOR[name](generator=None)
