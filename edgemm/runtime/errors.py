"""Every error edgemm raises on purpose.

    EdgemmError                 exit code 2, one line on stderr
    ├── RecipeError             a recipe that does not validate
    ├── DataError               missing, corrupt or empty samples
    ├── ModelError              a model, checkpoint or part that does not fit
    ├── CaptureError            a part that cannot be exported, or whose export differs
    ├── QuantizeError           a graph that cannot be quantized, or calibration that does not fit
    ├── EngineError             an engine that refuses a graph
    │   ├── EngineNotInstalled  names the extra to install
    │   └── DeviceMissing       a plan whose GPU is not in this machine
    ├── BundleError             a bundle that cannot be read
    │   └── BundleCorrupt       bytes that differ from their digest, unsafe paths, truncation
    ├── InputError              what was given to predict, or to a verb, is not usable
    └── StoreError              a store that is read-only, full or locked

A message says what, where, got, expected, and what to do, in one line. An error with several problems has several
arguments, a line each.
"""


class EdgemmError(Exception):
    """Base of all errors that a user can mend; the command line prints a line per argument and exits with 2."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class RecipeError(EdgemmError):
    """A recipe that does not validate."""


class DataError(EdgemmError):
    """Missing, corrupt or empty samples."""


class ModelError(EdgemmError):
    """A model, checkpoint or part that does not fit."""


class CaptureError(EdgemmError):
    """A part that cannot be exported, or whose export differs from it."""


class QuantizeError(EdgemmError):
    """A graph that cannot be quantized, or calibration that does not fit."""


class EngineError(EdgemmError):
    """An engine that refuses a graph."""


class EngineNotInstalled(EngineError):
    """An engine that is not installed; the message names the extra."""


class DeviceMissing(EngineError):
    """A plan whose GPU, or operating system, is not this machine's; on its own machine it may run."""


class BundleError(EdgemmError):
    """A bundle that cannot be read."""


class BundleCorrupt(BundleError):
    """Bytes that differ from their digest, unsafe paths, or truncation."""


class InputError(EdgemmError):
    """What was given to predict, or to a verb, is not usable."""


class StoreError(EdgemmError):
    """A store that is read-only, full or locked."""
