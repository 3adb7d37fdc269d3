"""Cluster sizes and visits, estimated from a sample of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.clustering.sample import in_lowest
from spark_semdedup.kernels.assignment import Cells, Visits, assign
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.schema import visits_from
from spark_semdedup.spark.arrow import collect_arrow

VISIT_ROWS = 16_384
"""Rows, at least, that visits are estimated from beside a fit."""


@dataclass(frozen=True)
class FittedSample:
    """Rows that a fit looked at: float32 unit vectors (n, d), each of which stands for ``scale`` rows."""

    units: np.ndarray
    scale: float

    def sizes(self, cells: Cells) -> dict[int, float]:
        """Estimated rows of each cluster."""
        labels = assign(self.units, cells, distances=()).centroid
        return {int(c): n * self.scale for c, n in Counter(labels.tolist()).items()}

    def vectors(self, cells: Cells, most: int) -> VectorSample:
        """``most`` of the rows at most, with their clusters."""
        units = self.units[:most]
        return VectorSample(
            units, assign(units, cells, distances=()).centroid, self.scale * len(self.units) / max(len(units), 1)
        )

    def visits(self, cells: Cells, coverage: Coverage) -> VisitSample:
        """Estimated visits, of as many rows as keeps them few enough for the driver."""
        rule = coverage.rule(cells)
        first = assign(self.units[:FIRST_ROWS], cells, distances=(), rule=rule).visits
        each = max(1.0, len(first.rows) / min(FIRST_ROWS, len(self.units)))
        units = self.units[: max(FIRST_ROWS, int(MOST_VISITS / each))]
        found = assign(units, cells, distances=(), rule=rule)
        return VisitSample(found.centroid, found.visits, self.scale * len(self.units) / len(units))


@dataclass(frozen=True)
class FittedEstimate:
    """What a fit's rows told while the executors held them, in place of the rows themselves (``FittedSample``)."""

    coverage: Coverage
    """Of the comparison that it was made for: of another one it knows nothing."""
    cluster_rows: Mapping[int, float] | None = None
    visit_sample: VisitSample | None = None

    def sizes(self, cells: Cells) -> Mapping[int, float] | None:
        return self.cluster_rows

    def vectors(self, cells: Cells, most: int) -> None:
        return None

    def visits(self, cells: Cells, coverage: Coverage) -> VisitSample | None:
        return self.visit_sample if coverage == self.coverage else None


FIRST_ROWS, MOST_VISITS = 1024, 2e7
"""Rows that tell how many cells a row visits, and visits that a plan on the driver is made from, at most, unless so few
rows make more."""


def collect_visits(rows: DataFrame, fraction: float, most: float) -> VisitSample:
    """The sample of visits from ``rows`` with ``id``, ``centroid`` and ``cells``: the ``fraction`` of all whose ids
    hash lowest (``in_lowest``), which may make up to ``most`` visits. Of fewer rows where the driver should not hold
    all that they make."""
    seen = rows.where(F.col("centroid") >= 0).select("id", "centroid", "cells")
    if most <= MOST_VISITS:
        return _collected(seen, fraction)
    seen = seen.persist()  # to be counted before it is collected
    try:
        is_list = isinstance(rows.schema["cells"].dataType, T.ArrayType)
        visits = F.size("cells") if is_list else F.octet_length("cells") / 4
        found = seen.agg(F.count(F.lit(1)).alias("rows"), F.coalesce(F.sum(visits), F.lit(0)).alias("visits")).first()
        assert found is not None  # an aggregate without groups always gives one row
        fraction *= min(1.0, max(MOST_VISITS / max(found["visits"], 1), FIRST_ROWS / max(found["rows"], 1)))
        return _collected(seen.where(in_lowest(F.col("id"), fraction)), fraction)
    finally:
        seen.unpersist()


def _collected(seen: DataFrame, fraction: float) -> VisitSample:
    found = collect_arrow(seen.select("centroid", "cells"))
    chunks = found["cells"].chunks  # which joined may pass 2 GiB
    starts = np.cumsum([0, *map(len, chunks)]).tolist()[:-1]
    return VisitSample(found["centroid"].to_numpy(), Visits.joined([*map(visits_from, chunks)], starts), 1 / fraction)


@dataclass(frozen=True)
class VisitSample:
    """A sample of rows: the cell each is at home in, int (m,), the further cells it visits, and how many rows each row
    of the sample stands for."""

    own: np.ndarray
    visits: Visits
    scale: float

    def home_rows(self, k: int) -> np.ndarray:
        """Estimated home rows of each cell: float (k,)."""
        return np.bincount(self.own, minlength=k) * self.scale

    def probing_rows(self, k: int) -> np.ndarray:
        """Estimated probing rows of each cell: float (k,)."""
        return np.bincount(self.visits.cells, minlength=k) * self.scale

    @property
    def cells_per_row(self) -> float:
        """Cells that a row belongs to or visits."""
        return 1 + len(self.visits.rows) / max(len(self.own), 1)

    def pairs(self, k: int) -> tuple[float, float]:
        """Estimated pairs of two home rows of a cell, and of a home and a probing row; without bias, however few."""
        rows = len(self.own)
        home_rows = np.bincount(self.own, minlength=k).astype(float)
        probing_rows = np.bincount(self.visits.cells, minlength=k).astype(float)
        if self.scale == 1:
            return float((home_rows * (home_rows - 1) / 2).sum()), float((home_rows * probing_rows).sum())
        # Of m rows there are m (m − 1) ordered pairs, for (m scale)² of the rows they stand for.
        each = (rows * self.scale) ** 2 / max(rows * (rows - 1), 1)
        return float((home_rows * (home_rows - 1)).sum() / 2 * each), float((home_rows * probing_rows).sum() * each)

    def places(self) -> Visits:
        """All visits, to the own cell, too."""
        rows = np.concatenate([np.arange(len(self.own)), self.visits.rows])
        return Visits(rows, np.concatenate([self.own, self.visits.cells]).astype(np.int32))


@dataclass(frozen=True)
class VectorSample:
    """Rows on the driver: float32 unit vectors (m, d), the clusters they belong to, int (m,), and how many rows each of
    them stands for."""

    units: np.ndarray
    labels: np.ndarray
    scale: float


@dataclass(frozen=True)
class ClusterSizes:
    """Estimated rows of each cluster, by its number, and the dimension of the vectors."""

    rows: Mapping[int, float]
    dim: int


def count_by_cluster(rows: DataFrame, scale: float) -> dict[int, float]:
    """Estimated rows of each cluster, from a sample with ``centroid`` of which each row stands for ``scale`` rows.
    Invalid rows, of negative centroid, do not count."""
    counts = rows.where(F.col("centroid") >= 0).groupBy("centroid").agg(F.count(F.lit(1)).alias("rows")).collect()
    return {int(row["centroid"]): row["rows"] * scale for row in counts}
