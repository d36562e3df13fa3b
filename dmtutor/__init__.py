"""dmtutor: dataset condensation with distribution matching, the library behind the book."""

__version__ = "0.1.0"

from .augmentation import SiameseAugment
from .condensation import condense
from .coresets import random_subset
from .data import LabeledImages, from_arrays, load
from .distribution_matching import DMConfig, dm_steps, mean_distance
from .evaluation import Accuracies, Recipe, evaluate, train_network
from .networks import ConvNet
from .randomness import keyed_generator, root_seed

__all__ = [
    "Accuracies",
    "ConvNet",
    "DMConfig",
    "LabeledImages",
    "Recipe",
    "SiameseAugment",
    "condense",
    "dm_steps",
    "evaluate",
    "from_arrays",
    "keyed_generator",
    "load",
    "mean_distance",
    "random_subset",
    "root_seed",
    "train_network",
]
