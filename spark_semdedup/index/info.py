"""What ``index info`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spark_semdedup.formatting import percent
from spark_semdedup.index.changes import worth_merging
from spark_semdedup.index.drift import Drift
from spark_semdedup.index.version import ALL, Batch, Version

_LISTED = 10
"""Newest batches that are printed."""


@dataclass(frozen=True)
class IndexInfo:
    """An index in numbers. ``as_text()`` is for people, ``as_dict()`` for programs."""

    path: str
    version: int
    operation: str
    at: str
    rows: int
    kept: int
    holds: str
    k: int
    dim: int
    files: int
    bytes: int
    mergeable_files: int
    largest_cell: int
    median_cell: float
    batches: Sequence[Batch]
    drift: Drift | None

    @classmethod
    def of(cls, path: str, version: Version) -> IndexInfo:
        return cls(
            path=path,
            version=version.version,
            operation=version.operation,
            at=version.at,
            rows=version.rows,
            kept=sum(batch.kept for batch in version.batches),
            holds=version.holds,
            k=version.k,
            dim=version.dim,
            files=len(version.files),
            bytes=sum(file.bytes for file in version.files),
            mergeable_files=len(worth_merging(version.files, version.dim)),
            largest_cell=int(version.cells.max()),
            median_cell=float(np.median(version.cells)),
            batches=version.batches,
            drift=Drift.of(version),
        )

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "drift": self.drift and self.drift.as_dict()}

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2)

    def as_text(self) -> str:
        held = f"{self.rows:,}, of which {self.kept:,} kept" if self.holds == ALL else f"{self.rows:,} kept rows"
        lines = [
            f"  version      {self.version} ({self.operation}, {self.at})",
            f"  rows         {held}",
            f"  vectors      {self.dim} numbers, in {self.k:,} clusters",
            f"  files        {self.files:,}, {self.bytes / 2**20:,.1f} MiB",
            f"  clusters     largest {self.largest_cell:,} rows, median {self.median_cell:,.0f}",
        ]
        lines += self._drift_lines() + self._batch_lines()
        if self.mergeable_files:
            lines.append(f"  {self.mergeable_files:,} small files can be merged: index compact")
        return "\n".join(lines)

    def _drift_lines(self) -> list[str]:
        drift = self.drift
        if drift is None:
            return []
        far = percent(drift.far_share, bounds=True)
        since = f"{drift.rows_since_fit:,} rows since the fit, {far} % of them far (1 % at the fit)"
        lines = [f"  drift        {since}; largest cluster {drift.largest_growth:.1f} x its share"]
        return [*lines, "  the centroids fit badly: index refit"] if drift.is_large else lines

    def _batch_lines(self) -> list[str]:
        if not self.batches:
            return []
        shown = self.batches[-_LISTED:]
        left_out = len(self.batches) - len(shown)
        lines = ["", "  batch         rows         kept    far  begun"]
        lines += [f"  … {left_out:,} earlier ones"] if left_out else []
        for each in shown:
            far = f"{percent(each.far, each.rows, bounds=True)} %" if each.rows else "-"
            lines.append(f"  {each.batch:5} {each.rows:12,} {each.kept:12,} {far:>6}  {each.begun}")
        return [*lines, ""]
