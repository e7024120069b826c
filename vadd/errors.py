"""The exceptions of the library: one root, so that ``except VADDError`` catches them all."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DomainError",
    "DtypeError",
    "NonFiniteError",
    "ShapeError",
    "VADDError",
]


class VADDError(Exception):
    """Root of every exception that the library raises on purpose."""


class ShapeError(VADDError, ValueError):
    """A tensor has the wrong shape."""


class DtypeError(VADDError, TypeError):
    """A tensor has the wrong dtype."""


class DomainError(VADDError, ValueError):
    """A value lies outside the set where it is meaningful."""


class ConfigError(VADDError, ValueError):
    """Parts or options that do not fit together."""


class NonFiniteError(VADDError, ArithmeticError):
    """A loss or a network output is NaN or infinite."""


class CheckpointError(VADDError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class DataError(VADDError, RuntimeError):
    """A data set is missing, damaged, or of the wrong form."""
