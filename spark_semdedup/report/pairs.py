"""Pairs of rows to look at: just above and just below the threshold, and a sample from each band of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

AT_THE_EDGE = 10
"""Pairs listed on each side of the threshold."""
IN_A_BAND = 8
"""Pairs listed of each band."""
EQUAL_FROM = 0.9999
"""Similarity from which two vectors are called equal: what is left is rounding, of the embedding model, say."""

_SCALE = 2**31


@dataclass(frozen=True)
class Pair:
    """A row and its most similar preferred row."""

    id: Any
    max_id: Any
    score: float
    removed: bool
    """Whether the row ``id`` is a duplicate."""


@dataclass(frozen=True)
class Band:
    """Scores in [low, high)."""

    low: float
    high: float

    @property
    def title(self) -> str:
        """In words.

        >>> Band(0.95, 0.9625).title, Band(0.9999, 2.0).title
        ('0.95 – 0.9625', '0.9999 – 1 (equal)')
        """
        return f"{self.low:.6g} – 1 (equal)" if self.high > 1 else f"{self.low:.6g} – {self.high:.6g}"


@dataclass(frozen=True)
class PairGallery:
    """Bounded lists of pairs."""

    above: tuple[Pair, ...]
    """Removed, the least similar first."""
    below: tuple[Pair, ...]
    """Kept, the most similar first."""
    bands: tuple[tuple[Band, int, tuple[Pair, ...]], ...]
    """Per band, the most similar first: the band, its rows, and a sample of them, sorted by score."""


def gallery_of(similarities: DataFrame, duplicates: DataFrame, threshold: float) -> PairGallery:
    """Four jobs over narrow tables; what comes to the driver is bounded."""
    score = F.col("cosine_sim_score")
    above = duplicates.orderBy(score, "id").limit(AT_THE_EDGE)
    others = similarities.where(_another() & ~at_least(threshold))
    below = others.orderBy(score.desc(), "id").limit(AT_THE_EDGE)
    return PairGallery(
        above=tuple(_pairs(above, threshold)),
        below=tuple(_pairs(below, threshold)),
        bands=tuple(_sampled(similarities, threshold)),
    )


def at_least(threshold: float) -> Column:
    """Whether a score reaches the threshold: float32 widened to double, as the decision does it."""
    return F.col("cosine_sim_score").cast("double") >= F.lit(float(threshold))


def bands_of(threshold: float) -> list[Band]:
    """Four bands of removed rows, one of equal ones, two of kept rows; the most similar first."""
    eps = 1 - threshold
    edges = [threshold - 2 * eps, threshold - eps, *(threshold + eps * np.arange(4) / 4), EQUAL_FROM]
    edges = [threshold if edge == threshold else float(round(edge, 6)) for edge in edges]
    edges = [edge for edge in edges if edge < EQUAL_FROM or edge in (EQUAL_FROM, threshold)]
    edges = sorted(set(edges) - ({EQUAL_FROM} if threshold > EQUAL_FROM else set()))
    bands = [Band(low, high) for low, high in zip(edges, [*edges[1:], 2.0], strict=True)]
    return [band for band in bands if band.high > -1][::-1]


def _pairs(rows: DataFrame, threshold: float) -> list[Pair]:
    pairs = rows.select("id", "max_id", "cosine_sim_score", at_least(threshold).alias("removed")).collect()
    return [Pair(row["id"], row["max_id"], row["cosine_sim_score"], row["removed"]) for row in pairs]


def _another() -> Column:
    """Whether a row has a preferred row, and so a score."""
    return F.col("max_id") != F.col("id")


def _sampled(similarities: DataFrame, threshold: float) -> list[tuple[Band, int, tuple[Pair, ...]]]:
    """Of each band the rows whose ids have the smallest hashes: the same for the same data, in whatever order."""
    bands = bands_of(threshold)
    places = [_another() & _inside(band) for band in bands]
    counts = list(similarities.agg(*(F.count(F.when(each, 1)) for each in places)).collect()[0])
    place = F.pmod(F.xxhash64(F.col("id").cast("string"), F.lit(1)), F.lit(_SCALE))
    wanted = F.lit(False)
    for each, count in zip(places, counts, strict=True):
        # Ten times as many as are shown: fewer than that many would be a matter of one in a million bands.
        share = min(1.0, 10 * IN_A_BAND / max(1, count))
        wanted = wanted | (each & (place <= F.lit(int(share * _SCALE))))
    # The filter bounds what is collected, as hashes are even; the limit would hold if they were not.
    rows = similarities.where(wanted).limit(40 * IN_A_BAND * len(bands))
    rows = rows.select("id", "max_id", "cosine_sim_score", at_least(threshold).alias("removed"), place.alias("place"))
    candidates = sorted(rows.collect(), key=lambda row: (row["place"], str(row["id"])))
    listed = []
    for band, count in zip(bands, counts, strict=True):
        inside_band = [row for row in candidates if band.low <= row["cosine_sim_score"] < band.high][:IN_A_BAND]
        pairs = [Pair(row["id"], row["max_id"], row["cosine_sim_score"], row["removed"]) for row in inside_band]
        listed.append((band, count, tuple(sorted(pairs, key=lambda pair: -pair.score))))
    return listed


def _inside(band: Band) -> Column:
    score = F.col("cosine_sim_score").cast("double")
    return (score >= F.lit(band.low)) & (score < F.lit(band.high))
