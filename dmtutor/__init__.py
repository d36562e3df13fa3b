"""dmtutor: dataset condensation with distribution matching, the library behind the book."""

from ._version import __version__
from .accuracies import Accuracies
from .augmentation import SiameseAugment
from .condensation import condense
from .coresets import herding, k_center, random_subset
from .data import LabeledImages
from .decoding import as_tiles, decode, random_tiles
from .distribution_matching import DMConfig, dm_steps, mean_distance
from .evaluation import Recipe, evaluate, train_network
from .exchange import export, load_exported, load_published
from .gradient_matching import DCConfig, DSAConfig, dc_steps
from .idm import IDMConfig, idm_steps
from .networks import ConvNet
from .randomness import keyed_generator, root_seed
from .sources import from_arrays, from_dataset, load
from .unrolling import DDConfig, dd_steps

__all__ = ["Accuracies", "ConvNet", "DCConfig", "DDConfig", "DMConfig", "DSAConfig", "IDMConfig", "LabeledImages",
           "Recipe", "SiameseAugment", "__version__", "as_tiles", "condense", "dc_steps", "dd_steps", "decode",
           "dm_steps", "evaluate", "export", "from_arrays", "from_dataset", "herding", "idm_steps", "k_center",
           "keyed_generator", "load", "load_exported", "load_published", "mean_distance", "random_subset",
           "random_tiles", "root_seed", "train_network"]
