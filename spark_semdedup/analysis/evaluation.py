"""``Evaluation``: the recall of a run, estimated from a sample, as numbers and as text.

A sample has an error of its own: the interval is Wilson's for a binomial proportion at 95 % confidence (E. B. Wilson,
JASA 22, 1927), which holds for small samples and for shares near 1, where recall lies.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from spark_semdedup.errors import shown
from spark_semdedup.formatting import aligned, one_line, percent
from spark_semdedup.redaction import redacted

CHANGED = ": the input is not the run's, or one of them was changed"
"""Why an evaluation can have faults."""

_Z = 1.959963984540054
"""Quantile of the normal distribution that leaves 5 % outside ±z."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a proportion; at least one trial.

    >>> [round(end, 4) for end in wilson_interval(90, 100)]
    [0.8256, 0.9448]
    >>> wilson_interval(5, 5)[1]
    1.0
    """
    z2 = _Z * _Z
    centre = (successes + z2 / 2) / (trials + z2)
    half = _Z / (trials + z2) * math.sqrt(successes * (trials - successes) / trials + z2 / 4)
    # The ends at 0 and 1 are exact, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == trials else min(1.0, centre + half)


@dataclass(frozen=True)
class MissedPair:
    """A row that a run should have removed and did not, and the most similar row that precedes it."""

    id: Any
    max_id: Any
    cosine_sim_score: float
    centroid: int
    max_centroid: int
    """Cluster of ``max_id``; ``centroid`` is that of ``id``. Rows of different clusters may never have met."""


@dataclass(frozen=True)
class Evaluation:
    """The recall and precision of a result, measured on a sample of its rows."""

    rows: int
    """Valid rows of the run's input, from which the sample was drawn."""
    sample_rows: int
    to_remove: int
    """Sampled rows that have a duplicate which precedes them, in whatever cluster."""
    found: int
    """Of these, how many the run removed."""
    removed: int
    """Sampled rows that the run removed, rightly or not."""
    missed_within: int
    """Missed pairs inside one cluster. The run compared those, so there are none unless something was changed."""
    threshold: float
    seed: int
    missed: tuple[MissedPair, ...] = ()
    """The most similar missed pairs, the largest similarity first; not necessarily all."""
    unexpected: tuple[Any, ...] = ()
    """Ids of a few removed rows that should have been kept. There are none unless something was changed."""
    coverage: str | None = None
    coverage_in_words: str | None = None
    result: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def recall(self) -> float | None:
        """Share of the rows to be removed that were removed; None where no sampled row was to be removed."""
        return self.found / self.to_remove if self.to_remove else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the recall among all rows; the recall itself where the sample is all rows."""
        if self.recall is None:
            return None
        return (self.recall, self.recall) if self.is_whole else wilson_interval(self.found, self.to_remove)

    @property
    def precision(self) -> float | None:
        """Share of the removed rows that were to be removed: 1 by construction; None where none was removed."""
        return self.found / self.removed if self.removed else None

    @property
    def is_whole(self) -> bool:
        """Whether the sample is all rows, so that nothing is estimated."""
        return self.sample_rows == self.rows

    @property
    def faults(self) -> list[str]:
        """Contradictions that show another input, or a result that was changed."""
        faults = []
        if self.removed > self.found:
            ids = ", ".join(shown(id_) for id_ in self.unexpected)
            faults.append(f"{self.removed - self.found} removed rows have no duplicate that precedes them ({ids})")
        if self.missed_within:
            faults.append(f"{self.missed_within} missed pairs lie inside one cluster, which the run compared")
        elif self.coverage == "exact" and self.found < self.to_remove:
            faults.append(f"{self.to_remove - self.found} rows to be removed were missed, which exact coverage finds")
        return faults

    def as_dict(self) -> dict[str, Any]:
        """All fields and shares, in JSON's types."""
        fields = asdict(self)
        fields["result"] = self.result and redacted(self.result)  # ids stay as they are: users look them up
        shares = {"recall": self.recall, "recall_interval_95": self.interval, "precision": self.precision}
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"step": "evaluate", **shares, **fields, "faults": self.faults, "finished": finished}

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def as_text(self) -> str:
        """The evaluation in aligned lines."""
        seconds = [(phase, f"{seconds:,.1f} s") for phase, seconds in self.seconds.items()]
        blocks = [self._counts(), aligned(self._shares()), self._missed_table(), aligned(seconds, right=True)]
        return "\n\n".join(block for block in blocks if block)

    def _counts(self) -> str:
        share = f"  {percent(self.to_remove, self.sample_rows, bounds=True):>5} %"
        counts = {
            "rows": self.rows,
            "sampled rows": self.sample_rows,
            "to be removed": self.to_remove,
            "of these removed": self.found,
            "of these missed": self.to_remove - self.found,
        }
        no_share = " " * len(share)
        lines = [(name, f"{n:,}{share if name == 'to be removed' else no_share}") for name, n in counts.items()]
        return aligned(lines, right=True)

    def _shares(self) -> list[tuple[str, str]]:
        lines = [("recall", self._recall_text()), ("precision", self._precision_text())]
        lines += [("WARNING", f"{fault}{CHANGED}") for fault in self.faults]
        lines.append(("threshold", f"a row is a duplicate from a similarity of {self.threshold:.6g} on"))
        if self.coverage is not None:
            words = f": {self.coverage_in_words}" if self.coverage_in_words else ""
            lines.append(("coverage", self.coverage + words))
        return lines

    def _recall_text(self) -> str:
        if self.recall is None or self.interval is None:
            if self.is_whole:
                return "unknown: no row has a duplicate"
            # The rule of three: with none among n drawn, the share is at most 3 / n with 95 % confidence.
            most = 100 * min(1.0, 3 / self.sample_rows)
            return f"unknown: no sampled row has a duplicate (at most {most:.3g} % of all rows do, 95 % confidence)"
        if self.is_whole:
            return f"{percent(self.recall)} % (all rows were looked at: no estimate)"
        low, high = self.interval
        return f"{percent(self.recall)} % ({percent(low)}-{percent(high)}, 95 % Wilson)"

    def _precision_text(self) -> str:
        if self.precision is None:
            return "unknown: no sampled row was removed"
        return f"{percent(self.precision)} % ({self.found:,} of the {self.removed:,} sampled rows that were removed)"

    def _missed_table(self) -> str:
        if not self.missed:
            return ""
        table = [("similarity", "missed row", "cluster", "most similar preferred row", "cluster")]
        for pair in self.missed:
            names = one_line(pair.id, 40), str(pair.centroid), one_line(pair.max_id, 40), str(pair.max_centroid)
            table.append((f"{pair.cosine_sim_score:.6f}", *names))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = (zip(row, "><><>", widths, strict=True) for row in table)
        lines = ("  ".join(f"{text:{side}{width}}" for text, side, width in row) for row in rows)
        return "\n".join(f"  {line}".rstrip() for line in lines)
