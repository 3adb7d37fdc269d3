"""Converters of Params: what values each takes, and the one-line error for all others, and for unknown Params.

A converter is an object of a class at the module's top, or a function there, so that stages can be pickled: into
closures, by MLflow and by CrossValidator's threads.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from spark_semdedup.errors import SemDedupError, shown


def _refuse(name: str, value: object, right: str) -> SemDedupError:
    return SemDedupError(f"{name}={shown(value)} cannot be used: it must be {right}")


@dataclass(frozen=True)
class OneOf:
    """One of a few names."""

    name: str
    allowed: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.allowed:
            raise _refuse(self.name, value, "one of " + ", ".join(self.allowed))
        return value


@dataclass(frozen=True)
class Integer:
    """A whole number of 64 bits, of at least ``least`` if that is set."""

    name: str
    least: int | None = None

    def __call__(self, value: Any) -> int:
        least = -(2**63) if self.least is None else self.least
        if not _is_number(value) or not least <= value < 2**63 or not float(value).is_integer():
            right = "from -2^63 to 2^63 - 1" if self.least is None else f"of at least {self.least}"
            raise _refuse(self.name, value, f"a whole number {right}")
        return int(value)


@dataclass(frozen=True)
class Number:
    """A number above ``above``, or of at least ``least``; below ``below``, or at most ``most``; or ``also``."""

    name: str
    right: str
    """In words."""
    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    most: float = math.inf
    also: float | None = None

    def __call__(self, value: Any) -> float:
        if not _is_number(value):
            raise _refuse(self.name, value, self.right)
        try:
            number = float(value)
        except OverflowError:
            raise _refuse(self.name, value, self.right) from None
        fits = self.above < number < self.below and self.least <= number <= self.most
        if not fits and number != self.also:
            raise _refuse(self.name, value, self.right)
        return number


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Boolean:
    """True or false."""

    name: str

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise _refuse(self.name, value, "true or false")
        return bool(value)


@dataclass(frozen=True)
class Text:
    """A name that is not empty."""

    name: str

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or not value or _is_broken(value):
            raise _refuse(self.name, value, "a name")
        return value


@dataclass(frozen=True)
class Sentence:
    """A text, which may be empty."""

    name: str

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or _is_broken(value):
            raise _refuse(self.name, value, "a text")
        return value


@dataclass(frozen=True)
class Texts:
    """A list of such names."""

    name: str

    def __call__(self, value: Any) -> list[str]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise _refuse(self.name, value, "a list of names")
        return [Text(self.name)(each) for each in value]


def _is_broken(text: str) -> bool:
    """Whether a text has half a surrogate pair, which neither Java nor a file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


INIT_MODES = ("k-means||", "random", "scalable-k-means++", "k-means++")


InitMode: TypeAlias = str | Sequence[Sequence[float]] | np.ndarray


def _init_mode(value: Any) -> InitMode:
    """A name, or the initial centroids: an array of k rows, kept as lists so that it can be saved as JSON."""
    right = "one of " + ", ".join(INIT_MODES) + ", or an array of k centroids"
    if isinstance(value, str):
        if value not in INIT_MODES:
            raise _refuse("initMode", value, right)
        return value
    try:
        with np.errstate(over="ignore"):
            centroids = np.asarray(value, dtype=np.float32)
    except Exception:  # besides what NumPy raises, whatever an object does that says it is like an array
        raise _refuse("initMode", value, right) from None
    if centroids.ndim != 2 or not centroids.size or not np.isfinite(centroids).all():
        raise _refuse("initMode", f"array of shape {centroids.shape}", "a finite array of shape (k, dimension)")
    return centroids.tolist()


NEMO_NAMES = {
    "n_clusters": "k",
    "random_state": "seed",
    "init": "initMode",
    "max_iter": "maxIter",
    "sim_metric": "distanceMetric",
    "which_to_keep": "whichToKeep",
    "pairwise_batch_size": "batchSize",
    "id_field": "idCol",
    "embedding_field": "embeddingCol",
    "metadata_fields": "metadataCols",
}
"""NeMo Curator's names of Params, which its users may try first."""


def unknown_param(stage: str, name: str, known: Iterable[str]) -> SemDedupError:
    """The error for a Param that ``stage`` does not have: with the most alike of those it has, or all of them."""
    names = {each.lower(): each for each in known}
    if NEMO_NAMES.get(name) in names.values():
        right = f"NeMo Curator's {name} is {NEMO_NAMES[name]} here"
    else:
        alike = difflib.get_close_matches(name.replace("_", "").lower(), names, 1, 0.75)
        right = f"did you mean {names[alike[0]]}?" if alike else f"it has {', '.join(sorted(names.values()))}"
    return SemDedupError(f"{stage} has no Param {name!r}; {right}")
