"""What a task does with a batch of rows that it assigns to cells (``vectors`` says what tasks import)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spark_semdedup.columns import matrix, packed
from spark_semdedup.coverage import ReadyCells, assigned_at_once
from spark_semdedup.devices import Placement
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.kernels.arrays import Array, to_numpy
from spark_semdedup.kernels.assignment import Visits, assign
from spark_semdedup.validation import refuse_invalid

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Assigner:
    """The function that runs in the tasks: Arrow embeddings and ids of a batch → what is known of its rows."""

    cells: ReadyCells
    raises: bool
    column: str
    placement: Placement
    distances: tuple[str, ...]

    def __call__(self, embeddings: Any, ids: Any) -> Assigned:
        valid, rows, reasons = matrix(embeddings, self.cells.centroids.shape[1])
        if self.raises:
            refuse_invalid(valid, reasons, ids, self.column)
        found = self.placement.within_memory(self._assign, rows, assigned_at_once(len(rows)))
        return Assigned(valid, reasons, *found)

    def _assign(self, rows: Array) -> tuple[Any, ...]:
        """What ``Assigned`` says of the valid rows, from their vectors on the device."""
        units = unit_vectors(rows)
        cells, rule = self.cells.where(units)
        found = assign(units, cells, distances=self.distances, rule=rule)
        distances = (found.l2_dist_to_cent, found.cosine_dist_to_cent)
        on_host = (None if values is None else to_numpy(values) for values in distances)
        return to_numpy(units), to_numpy(found.centroid), found.visits, *on_host


@dataclass(frozen=True)
class Assigned:
    """A batch after assignment: ``valid`` and ``reasons`` of its n rows, the rest of the m valid ones."""

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


def list_array(embeddings: pd.Series) -> pa.Array:
    """The Series of a pandas UDF as an Arrow list column again; element type by the first row that is not null."""
    first = next((value for value in embeddings if value is not None), np.zeros(0, np.float32))
    return pa.array(embeddings, pa.list_(pa.from_numpy_dtype(np.asarray(first).dtype)), from_pandas=True)
