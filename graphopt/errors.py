"""Every error graphopt raises on purpose, and the exit code each one ends with.

::

    GraphoptError                     1   (never raised itself)
    ├── GateError                     1   a limit was not met, though the work was done
    ├── InconclusiveError             5   the measurement cannot tell whether a limit was met
    ├── UsageError                    2   the request cannot be carried out as written
    │   ├── DataError                 2   calibration or evaluation data is missing or wrong
    │   ├── RecipeError               2   the recipe file is wrong
    │   └── OutputExistsError         2   would overwrite something; --force allows it
    ├── UnsupportedModelError         3   the model cannot be read, or not by what was asked of it
    │   └── ModelFormatError          3   not an ONNX model, truncated, or inconsistent
    └── EnvironmentProblem            4   this machine lacks something
        ├── MissingDependencyError    4   a package that an extra installs
        └── OutputError               4   the disk is full, or may not be written

Every message is one line that says what is wrong, where, and what to do; ``hint`` holds further
lines (examples to copy). The command line prints both and nothing else.
"""

from __future__ import annotations

from typing import ClassVar


class GraphoptError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        hint: further lines with examples to copy, or an empty string.
        exit_code: what the command line ends with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class GateError(GraphoptError):
    """The work was done, but a limit the user set was not met."""

    exit_code = 1


class InconclusiveError(GraphoptError):
    """The work was done, and cannot tell whether a limit was met: neither passed nor failed."""

    exit_code = 5


class UsageError(GraphoptError):
    """The request cannot be carried out as written."""

    exit_code = 2


class DataError(UsageError):
    """Calibration or evaluation data is missing or wrong."""


class RecipeError(UsageError):
    """The recipe file is wrong."""


class OutputExistsError(UsageError):
    """The output exists and ``--force`` was not given."""


class UnsupportedModelError(GraphoptError):
    """The model cannot be read, or not by what was asked of it."""

    exit_code = 3


class ModelFormatError(UnsupportedModelError):
    """The file is no ONNX model, is truncated or contradicts itself."""


class EnvironmentProblem(GraphoptError):
    """This machine lacks something that the request needs."""

    exit_code = 4


class MissingDependencyError(EnvironmentProblem):
    """A package is missing that an extra installs."""


class OutputError(EnvironmentProblem):
    """An output could not be written: disk full, no permission."""
