"""Which results a run writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spark_semdedup.duplicates.groups import KINDS, check_kind
from spark_semdedup.errors import SemDedupError

CHOICES = ("deduplicated", "duplicates", "similarities", "pairs", "groups")

DEFAULT = ("deduplicated", "duplicates", "similarities")


@dataclass(frozen=True)
class Wanted:
    """The results a run writes, beside centroids, invalid rows and the summary."""

    results: frozenset[str] = frozenset(DEFAULT)
    groups_by: str = KINDS[0]
    """How rows are grouped (``duplicates.groups``)."""

    @classmethod
    def of(cls, names: Iterable[str], groups_by: str = KINDS[0]) -> Wanted:
        """Raises ``SemDedupError`` for a name that is none of ``CHOICES``, or no name at all."""
        results = frozenset(names)
        unknown = sorted(results - {*CHOICES})
        if unknown or not results:
            given = ",".join(unknown)
            raise SemDedupError(f"results={given!r} cannot be used: it must be one or several of {', '.join(CHOICES)}")
        return cls(results, check_kind(groups_by))

    def __contains__(self, name: str) -> bool:
        return name in self.results

    def described(self) -> dict[str, Any]:
        """For a run's identity: nothing where it writes the default results, so that runs begun before results could be
        chosen are resumed."""
        described: dict[str, Any] = {}
        if self.results != frozenset(DEFAULT):
            described["results"] = sorted(self.results)
        if "groups" in self:
            described["groups by"] = self.groups_by
        return described
