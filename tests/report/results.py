"""A run's results as a report takes them, made by hand, so that each list and number of the page can be foretold."""

from __future__ import annotations

from typing import Any

import numpy as np

from spark_semdedup.analysis.projection import ClusterMap
from spark_semdedup.analysis.scores import ScoreHistogram
from spark_semdedup.report.data import ReportData
from spark_semdedup.report.links import Group, Groups, Member
from spark_semdedup.report.pairs import Band, Pair, PairGallery
from spark_semdedup.report.rows import RowSample, Text

HOSTILE = (
    "<script>window.hacked = true</script></p></style></script> & \"quotes\" 'single' ]]> <img src=x onerror=hacked()>"
)
"""A text that would run, or end the page's own elements, if it were not escaped."""

FACTS: dict[str, Any] = {
    "step": "run",
    "rows_in": 1000,
    "invalid": 0,
    "clusters": 4,
    "pairs_compared": 120_000,
    "duplicates": 3,
    "kept": 997,
    "parameters": {"k": 4, "eps": 0.05, "handleInvalid": "error", "rankBy": None},
    "results": {"duplicates": "out/duplicates"},
    "seconds": {"fit centroids": 2.0, "assign and compare": 5.0, "in all": 10.0},
    "eps": 0.05,
    "threshold": 0.95,
    "coverage": "cluster",
    "coverage_in_words": "each row was compared with all rows of its own cluster; pairs across clusters were not",
    "complete_eps": None,
    "backend": "cpu",
    "clusterer": "faiss",
    "versions": {"spark_semdedup": "0.1.0", "python": "3.11.7"},
    "finished": "2026-11-29T14:00:48Z",
}


def text(words: str) -> Text:
    return Text(words, len(words))


def report_data(**changes: Any) -> ReportData:
    """A report of 1,000 rows: ``least`` is the least similar removed row, ``root`` the kept row of the largest group,
    and the text of ``evil`` is ``HOSTILE``. ``changes``: fields to replace; ``facts`` are merged."""
    rng = np.random.default_rng(0)
    units = rng.standard_normal((200, 8)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    removed = np.zeros(200, bool)
    removed[:20] = True
    counts = np.zeros(2001, np.int64)
    counts[[1400, 1600, 1900]] = [500, 300, 193]
    counts[[1950, 1980, 2000]] = 1
    texts = {
        "root": text("a library for colours"),
        "evil": text(HOSTILE),
        "least": text("a library for sounds"),
        "near": text("one more thing"),
        "other": text("another thing"),
        **{f"row {i}": text(f"sampled row {i}") for i in range(200)},
    }
    above = (Pair("least", "root", 0.9503, True), Pair("evil", "root", 0.9804, True))
    below = (Pair("near", "other", 0.9002, False),)
    fields: dict[str, Any] = {
        "evaluation": None,
        "histogram": ScoreHistogram(counts, alone=4),
        "groups": Groups(
            (Group("root", 3, (Member("evil", "root", 0.98), Member("least", "root", 0.95))),),
            np.array([4]),
            np.array([1]),
        ),
        "pairs": PairGallery(above, below, ((Band(0.95, 0.9999), 2, above), (Band(0.9, 0.95), 1, below))),
        "history": (1.0, 0.7, 0.6),
        "spherical": False,
        "picture": ClusterMap.of(units, removed, units[:4], 1000, spherical=False),
        "sample": RowSample([f"row {i}" for i in range(200)], units),
        "texts": texts,
        "text_column": "text",
        "is_whole_input": True,
    }
    facts = {**FACTS, **changes.pop("facts", {})}
    return ReportData(facts=facts, **{**fields, **changes})
