"""What can go wrong, as one family: the command line catches `OnnxinitError` and prints one line.

    OnnxinitError            exit status 1
      ModelError             the model cannot be read, understood or written
      SchemeError            a scheme, a parameter or a rule that does not exist or cannot be
      DataError              the calibration data does not fit the model
      ExpectationError       exit status 3: something asked for with --strict, --expect or verify does not hold

A message says what is wrong, for which file or tensor (id, operator, shape), and the way out.
"""

from __future__ import annotations


class OnnxinitError(Exception):
    """Base of every error that a user can cause; `exit_status` is what the command line leaves with."""

    exit_status = 1


class ModelError(OnnxinitError):
    """The model file cannot be read, understood or written."""


class SchemeError(OnnxinitError):
    """A scheme, parameter, rule or plan that does not exist or is out of range."""


class DataError(OnnxinitError):
    """The calibration data does not fit the model."""


class ExpectationError(OnnxinitError):
    """Everything ran, but what was expected does not hold."""

    exit_status = 3
