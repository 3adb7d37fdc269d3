"""Whether the centroids of an index still fit its rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from spark_semdedup.index.version import Version

FAR_SHARE = 0.05
"""Of the rows since the fit, beyond the distance that 1 % of the rows at the fit were beyond: time to refit."""

LARGEST_GROWTH = 4.0
"""Of the share that the largest cell has of all rows, since the fit: time to refit."""

FEW_ROWS = 100
"""Since the fit, that say nothing yet."""


@dataclass(frozen=True)
class Drift:
    """How far rows have moved from the centroids.

    ``rows_since_fit``: rows of batches that came after the fit. ``far_share``: of these, farther from their centroid
    than 99 % of the rows at the fit. ``largest_share``: of all rows, in the largest cell. ``largest_growth``: that
    share divided by the cell's at the fit, or by an average cell's where it had less.
    """

    rows_since_fit: int
    far_share: float
    largest_share: float
    largest_growth: float

    @classmethod
    def of(cls, version: Version) -> Drift | None:
        """None for an index that has no rows."""
        fit, rows = version.fit, version.rows
        if fit is None or not rows:
            return None
        since = [batch for batch in version.batches if batch.batch >= fit.next_batch]
        count = sum(batch.rows for batch in since)
        largest = int(version.cells.argmax())
        share = version.cells[largest] / rows
        before = max(fit.cells[largest] / max(fit.cells.sum(), 1), 1 / version.k)
        far = sum(batch.far for batch in since) / count if count else 0.0
        return cls(count, far, float(share), float(share / before))

    @property
    def is_large(self) -> bool:
        """Whether to refit."""
        far = self.rows_since_fit >= FEW_ROWS and self.far_share > FAR_SHARE
        return far or (self.rows_since_fit > 0 and self.largest_growth > LARGEST_GROWTH)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "refit": self.is_large}
