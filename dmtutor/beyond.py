"""The former name of :mod:`dmtutor.idm`."""

from .idm import IDMConfig, IDMSteps, idm_steps  # noqa: F401
