"""Communities as sentence-transformers' users know them, from exact pairs.

Every row with at least ``min_community_size`` rows (itself counted) of a similarity from ``threshold`` on is the centre
of a community of them. The largest comes first. Each later one loses the rows that earlier ones have; it goes if its
centre is among those, or if too few rows remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.explore import checks
from spark_semdedup.explore.clusters import Clusters
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.labels import NOISE
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.neighbours import Neighbours, neighbours
from spark_semdedup.explore.sample import SEED

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling


@dataclass(frozen=True, eq=False)
class Communities(Clusters):
    """Communities, the largest first; rows in none have the label −1."""

    communities: tuple[np.ndarray, ...] = ()
    """Of each its rows' positions in the sample, the centre first, then by falling similarity to the centre."""


def community_detection(
    data: Any,
    *,
    threshold: float = 0.75,
    min_community_size: int = 10,
    seed: int = SEED,
    **sampling: Unpack[Sampling],
) -> Communities:
    """Groups of rows around a centre, all at least as similar to it as ``threshold`` (cosine).

    Gives the communities of ``sentence_transformers.util.community_detection`` with the same settings, as its release 6
    does (before, a centre could belong to an earlier community). Similarities are exact: a pair at the threshold lies
    on the same side on every machine. ``data`` and ``sampling`` as in ``draw_sample``.
    """
    threshold = checks.number("threshold", threshold, -1, 1)
    min_community_size = checks.whole_number("min_community_size", min_community_size, 1)
    sample = draw_sample(data, seed=seed, **sampling)
    refuse_too_large(len(sample), sample.dim, purpose="community_detection")
    found = detect(neighbours(sample.units, threshold), min_community_size)
    labels = np.full(len(sample), NOISE, np.int64)
    for number, rows in enumerate(found):
        labels[rows] = number
    settings = {"threshold": threshold, "min_community_size": min_community_size}
    return Communities(labels, sample, "community_detection", settings, communities=tuple(found))


def detect(similar: Neighbours, min_community_size: int) -> list[np.ndarray]:
    """The communities of rows whose neighbours are known; positions of rows, the centre first."""
    counts = similar.counts
    centres = np.flatnonzero(counts >= min_community_size)
    taken = np.zeros(len(similar), bool)
    kept: list[np.ndarray] = []
    for centre in centres[np.argsort(-counts[centres], kind="stable")]:
        if taken[centre]:
            continue
        rows = similar.of(centre)
        rows = rows[~taken[rows]]
        if len(rows) >= min_community_size:
            kept.append(rows)
            taken[rows] = True
    return sorted(kept, key=len, reverse=True)
