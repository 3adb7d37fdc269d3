"""Which pairs of rows are compared: the Params ``coverage`` and ``nProbe``, as a rule and in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.kernels.arrays import to_device_of
from spark_semdedup.kernels.assignment import Cells, VisitRule
from spark_semdedup.kernels.sketch import pays
from spark_semdedup.kernels.visits import NearestCells, WithinReach

if TYPE_CHECKING:
    from spark_semdedup.params import CoverageParams


@dataclass(frozen=True)
class Coverage:
    """``others``: how many cells rows visit beside their own; None: as many as exact coverage of pairs of at least
    ``threshold`` needs."""

    others: int | None = 0
    threshold: float = 0.0
    one_sided: bool = False
    """Whether only these rows visit cells, and those they are compared with stay in theirs (``reference``)."""
    margins: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Of the cells of the latter, where they are known (``kernels.visits``)."""

    @classmethod
    def of(cls, params: CoverageParams, threshold: float) -> Coverage:
        """What the Params describe; a ``SemDedupError`` where they contradict each other."""
        if params.value("coverage") == "cluster":
            return cls(others=params.value("nProbe") - 1)
        if params.isSet("nProbe"):
            raise SemDedupError(
                f"coverage='exact' and nProbe={params.value('nProbe')} are both set; set one of them: exact visits as "
                "many cells as it needs"
            )
        return cls(None, threshold)

    @property
    def is_exact(self) -> bool:
        return self.others is None

    @property
    def visits(self) -> bool:
        """Whether rows visit cells beside their own."""
        return self.others != 0

    def most_visits(self, rows: float, k: int) -> float:
        """How many cells, of ``k``, so many rows may visit."""
        return rows * (k - 1 if self.others is None else min(self.others, k - 1))

    def sketched(self, dim: int) -> bool:
        """Whether pairs with probing rows, of vectors so long, are mostly dismissed by sketches."""
        return self.is_exact and pays(dim)

    @property
    def at_least(self) -> float:
        """The similarity from which probing rows count: below it, exact coverage promises nothing."""
        return self.threshold if self.is_exact else -np.inf

    @property
    def name(self) -> str:
        """What manifests and ``summary.json`` call it."""
        return "exact" if self.is_exact else "cluster" if not self.others else "probes"

    @property
    def label(self) -> str:
        """The same with its setting, for people."""
        if self.is_exact:
            return f"exact from {self.threshold:.6g}"
        return f"nProbe {self.others + 1}" if self.others else "cluster"

    def rule(self, cells: Cells) -> VisitRule | None:
        """Which cells rows visit, made ready for ``cells``, on the device these are on."""
        if not self.visits:
            return None
        if self.others is None:
            margins = None if self.margins is None else to_device_of(cells.targets, self.margins)
            return WithinReach.of(cells, self.threshold, one_sided=self.one_sided, margins=margins)
        return NearestCells(self.others)

    def in_words(self) -> str:
        """Which pairs were compared, so that it can be cited."""
        if self.is_exact:
            return (
                f"every pair of rows with a similarity of at least {self.threshold:.6g} was compared (proven, whatever "
                "the clusters): scores from there on are those of all rows against all"
            )
        if self.others:
            return (
                f"each row was compared with all rows of the {self.others + 1} clusters nearest to it; other pairs "
                "were not (spark-semdedup evaluate estimates how many duplicates that leaves)"
            )
        return "each row was compared with all rows of its own cluster; pairs across clusters were not"
