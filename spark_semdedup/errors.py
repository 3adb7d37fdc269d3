"""The one error type that speaks to users.

Every message is a single line that names the parameter or column, the value found, and what would be right.
The command line prints it as it is; in Python it is an ordinary ``ValueError``.
"""

from __future__ import annotations

import re

import numpy as np

from spark_semdedup.redaction import redacted


class SemDedupError(ValueError):
    """Input or settings that cannot be used; the message says which and what would be right, and shows no secret."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class InvalidRowsError(SemDedupError):
    """Rows that cannot be compared were found while ``handleInvalid`` is ``error``."""


class ResultExistsError(SemDedupError):
    """The output is there already and ``--overwrite`` was not given."""


class FolderInUseError(SemDedupError):
    """Another process writes to the output."""


class AccountingError(SemDedupError):
    """The results of a run do not add up; none of them is valid."""


def shown(value: object, limit: int = 80) -> str:
    """``value`` as it stands in a message: one line, never longer than ``limit`` characters."""
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)  # NumPy 2 shows np.int32(1)
    except Exception:  # an int of more than 4,300 digits has none, and a class of the user's may have any fault
        text = f"<{type(value).__name__}>"
    # A secret is looked for in the whole text: of one that is cut, nothing would tell what it is.
    text = redacted(" ".join(line.strip() for line in text.splitlines()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


_OURS = re.compile(r"spark_semdedup\.errors\.(?P<kind>\w+): (?P<message>[^\n]*)")

_KINDS = {kind.__name__: kind for kind in SemDedupError.__subclasses__()}


def error_from_worker(error: BaseException) -> SemDedupError | None:
    """The ``SemDedupError`` that a Python worker raised, found in the exception Spark made of it, or None.

    Spark carries a worker's exception to the driver as text (``PythonException``, or as the cause of a job
    abort), so only the traceback's last line tells what happened.
    """
    if isinstance(error, SemDedupError):
        return error
    found = _OURS.search(str(error))
    return _KINDS.get(found["kind"], SemDedupError)(found["message"].strip()) if found else None
