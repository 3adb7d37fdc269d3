"""63,905 package descriptions and every pair of them from a cosine of 0.9 on: real data, no part of the repository."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import oracle
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

DEBIAN = Path(os.environ.get("SEMDEDUP_DEBIAN") or Path(__file__).parents[2] / "shared" / "data" / "debian")
PAIRS = DEBIAN.parent / "debian_pairs_090.parquet"
needs_debian = pytest.mark.skipif(
    not (DEBIAN.is_dir() and PAIRS.is_file()),
    reason=f"{DEBIAN} or {PAIRS} is not there; set SEMDEDUP_DEBIAN to the folder of the whole Debian data set",
)


class Packages:
    """The rows in the files' order, and the pairs, which others found, as positions with exact scores."""

    def __init__(self) -> None:
        table = pq.read_table(DEBIAN, columns=["id", "text", "embedding"])
        self.ids: list[str] = table["id"].to_pylist()
        self.lengths: list[int] = pc.utf8_length(table["text"]).to_pylist()
        vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(self.ids), -1)
        self.units = oracle.unit_vectors(vectors)
        pairs, place = pq.read_table(PAIRS, columns=["id_a", "id_b"]), {id_: i for i, id_ in enumerate(self.ids)}
        self.a, self.b = (np.array([place[id_] for id_ in pairs[name].to_pylist()]) for name in ("id_a", "id_b"))

    @cached_property
    def scores(self) -> np.ndarray:
        """float32, of each pair."""
        return np.concatenate([self._scores(part) for part in np.array_split(np.arange(len(self.a)), 32)])

    def _scores(self, part: np.ndarray) -> np.ndarray:
        one, two = (self.units[rows[part]].astype(np.float64) for rows in (self.a, self.b))
        return oracle.tree_add((one * two).T).astype(np.float32)
