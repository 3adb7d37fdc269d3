"""Rows to cells, in a task: unit vectors, nearest centroids, distances, visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.kernels.arrays import Array, to_device_of, to_numpy
from spark_semdedup.kernels.assignment import Cells, VisitRule, Visits, assign, visited_cells
from spark_semdedup.spark.device import Batch, TaskDevice, vector_bytes
from spark_semdedup.spark.vectors import matrix, packed, refuse_invalid

if TYPE_CHECKING:
    import pandas as pd


RuleOf: TypeAlias = Callable[[Cells], VisitRule | None]
"""Makes the rule that says which further cells rows visit, from cells that are ready on some device."""


def no_visits(cells: Cells) -> None:
    """The rule of rows that stay in their own cells."""


@dataclass
class ReadyCells:
    """The centroids, made ready once in each task on its device, which the driver may lack."""

    centroids: Centroids
    rule_of: RuleOf = no_visits
    _ready: tuple[Cells, VisitRule | None] | None = None

    def on_device_of(self, units: Array) -> tuple[Cells, VisitRule | None]:
        """The cells and the rule of visits on the device of ``units``."""
        if self._ready is None:
            cells = self.centroids.cells(on_device_of=units)
            self._ready = cells, self.rule_of(cells)
        return self._ready

    def visits(self, own: np.ndarray, units: Array) -> Visits:
        """The visits of rows whose own cells are given."""
        cells, rule = self.on_device_of(units)
        return visited_cells(units, cells, to_device_of(units, own), rule) if rule else Visits.none()


@dataclass
class Assigner:
    """Assigns the rows of a batch in a task: normalises their embeddings and finds the nearest centroids."""

    cells: ReadyCells
    raises: bool
    """Whether an invalid embedding is an error."""
    column: str
    """The embedding's name, for messages."""
    device: TaskDevice
    distances: tuple[str, ...]
    """Which of the distances to the centroid to compute."""

    @classmethod
    def of(
        cls,
        centroids: Centroids,
        spark: SparkSession,
        params: Any,
        *,
        distances: Sequence[str] = (),
        rule_of: RuleOf = no_visits,
    ) -> Assigner:
        """``params``: of a stage with columns, ``handleInvalid`` and a backend. ``rule_of``: see ``ReadyCells``.

        Raises ``SemDedupError`` where there are no centroids, or ``embeddingDim`` contradicts them.
        """
        if not centroids.k:
            raise SemDedupError(f"{type(params).__name__} has no centroids: give it some (centroids=…), or fit it")
        if params.value("embeddingDim") not in (None, centroids.dim):
            raise SemDedupError(
                f"embeddingDim={params.value('embeddingDim')} contradicts the model's {centroids.k} centroids of "
                f"length {centroids.dim}"
            )
        _refuse_long_message(spark, centroids)
        return cls(
            cells=ReadyCells(centroids, rule_of),
            raises=params.value("handleInvalid") == "error",
            column=params.value("embeddingCol"),
            device=TaskDevice.of_params(spark, params),
            distances=tuple(distances),
        )

    def __call__(self, embeddings: pa.Array, ids: Any) -> Assigned:
        """``embeddings``: n lists of numbers; ``ids``: theirs, for messages."""
        valid, rows, reasons = matrix(embeddings, self.cells.centroids.dim)
        if self.raises:
            refuse_invalid(valid, reasons, ids, self.column)
        assigned = self.device.retry_on_oom(self._assign, rows, assigned_at_once(len(rows)))
        return Assigned(valid, reasons, *assigned)

    def _assign(self, rows: Array) -> tuple[Any, ...]:
        """The fields of ``Assigned`` after ``reasons``, from the valid rows' vectors on the device."""
        units = unit_vectors(rows)
        cells, rule = self.cells.on_device_of(units)
        nearest = assign(units, cells, distances=self.distances, rule=rule)
        distances = (nearest.l2_dist_to_cent, nearest.cosine_dist_to_cent)
        on_host = (None if values is None else to_numpy(values) for values in distances)
        return to_numpy(units), to_numpy(nearest.centroid), nearest.visits, *on_host


@dataclass(frozen=True)
class Assigned:
    """A batch after assignment. ``valid``, bool, and ``reasons`` (n,) are of its n rows; all else is of the m valid
    ones: ``units`` float32 (m, d), ``centroid`` int (m,), distances float32 (m,) where they were asked for."""

    valid: np.ndarray
    reasons: np.ndarray
    units: np.ndarray
    centroid: np.ndarray
    visits: Visits
    l2_dist_to_cent: np.ndarray | None = None
    cosine_dist_to_cent: np.ndarray | None = None

    def spread_visits(self) -> Visits:
        """The visits, of rows as they are numbered among all n."""
        return Visits(np.flatnonzero(self.valid)[self.visits.rows], self.visits.cells)

    def spread_numpy(self, values: np.ndarray, filler: Any = 0) -> np.ndarray:
        """Values of the valid rows at their places among all n rows."""
        if len(values) == len(self.valid):
            return values
        spread = np.full(len(self.valid), filler, values.dtype)
        spread[self.valid] = values
        return spread

    def spread(self, values: np.ndarray, filler: Any) -> pa.Array:
        return pa.array(self.spread_numpy(values, filler))

    def spread_units(self, *, lists: bool) -> pa.Array:
        """Unit vectors, packed; an empty value at invalid rows."""
        return packed(self.units.ravel(), np.where(self.valid, self.units.shape[1], 0), lists=lists)

    def spread_nullable(self, values: np.ndarray) -> pd.Series:
        """The same with nulls at invalid rows, for pandas."""
        import pandas as pd

        spread = pd.Series(self.spread_numpy(values))
        return spread if self.valid.all() else spread.astype(spread.dtype.name.capitalize()).mask(~self.valid, pd.NA)

    def spread_unit_objects(self) -> pd.Series:
        import pandas as pd

        spread = pd.Series([None] * len(self.valid), dtype=object)
        spread[np.flatnonzero(self.valid)] = list(self.units)
        return spread


def _refuse_long_message(spark: SparkSession, centroids: Centroids) -> None:
    """Raises ``SemDedupError`` where a Spark Connect client could not send the centroids: they are a part of the plan,
    which is one message, of 128 MiB unless the client's channel is told otherwise."""
    if getattr(spark, "_jsparkSession", None) is not None or centroids.matrix.nbytes < _CONNECT_BYTES:
        return
    raise SemDedupError(
        f"{centroids.k:,} centroids of length {centroids.dim} are {centroids.matrix.nbytes >> 20} MiB, more than a "
        f"Spark Connect client can send in one message ({_CONNECT_BYTES >> 20} MiB): lower k to at most "
        f"{_CONNECT_BYTES // (4 * centroids.dim):,}, or use a classic session (spark-submit)"
    )


_CONNECT_BYTES = 120 << 20
"""Of pyspark's 128 MiB (``GRPC_MAX_MESSAGE_LENGTH_DEFAULT``); the rest is for the plan."""


def assigned_at_once(rows: int) -> Batch:
    """A batch of ``rows`` rows that are assigned; their number is Spark's own setting."""
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    return Batch(rows, vector_bytes, "rows assigned at once", setting, rows_per_bound=1)
