"""Every error that condkit raises on purpose.

Each class is also the builtin error that fits it, so callers can catch either. A message says what
was expected, what came, where, and what to do next; the command line prints it as one line.
"""

from __future__ import annotations


class CondkitError(Exception):
    """Base of all errors that condkit raises on purpose."""


class UnknownNameError(CondkitError, ValueError):
    """A condition, detector, recipe, format or setting that does not exist."""


class ConfigError(CondkitError, ValueError):
    """A setting, recipe or argument with an impossible value."""


class ImageError(CondkitError, ValueError):
    """An image file that cannot be decoded as the policy demands."""


class MapError(CondkitError, ValueError):
    """A prediction or condition map that breaks its contract."""


class DeviceMemoryError(CondkitError, MemoryError):
    """A device whose memory does not hold even one image of a batch."""


class WeightsError(CondkitError, RuntimeError):
    """Weights that are missing, unreachable or not what their hash promises."""


class DatasetError(CondkitError, RuntimeError):
    """A dataset, source folder or manifest that cannot be used."""


class OutputError(CondkitError, OSError):
    """An output place that cannot be written, is taken, or belongs to another run."""


class TrainingError(CondkitError, RuntimeError):
    """A training run that cannot start or go on."""


class DependencyError(CondkitError, ImportError):
    """A library that a feature needs is missing, broken or in conflict."""
