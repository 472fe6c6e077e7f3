"""The errors of `ssl_train`; all of them are the user's to mend and say how.

TrainError
├── ConfigError          a setting that is unknown, out of range or contradicts another
├── DataError            no images, or too many that cannot be decoded
├── CheckpointError      a checkpoint that is missing, altered or of another model
├── NonFiniteLossError   too many steps in a row without a finite loss and gradient
└── ExportError          a network that cannot be written in the form asked for
"""


class TrainError(Exception):
    """Root of this package's errors."""


class ConfigError(TrainError):
    """A setting that is unknown, out of range or contradicts another."""


class DataError(TrainError):
    """No images to train on, or too many in a row that cannot be decoded."""


class CheckpointError(TrainError):
    """A checkpoint that is missing, altered or made by another model."""


class NonFiniteLossError(TrainError):
    """Too many steps in a row without a finite loss and gradient."""


class ExportError(TrainError):
    """A network cannot be written in the form that was asked for."""
