"""Metrics as text: both parsers of Prometheus' own client read the same numbers from it."""

from __future__ import annotations

import pytest
from report.results import FACTS

from spark_semdedup.runs.metrics import openmetrics

SUMMARY = {**FACTS, "pairs_compared": 123_456_789_012_345, "versions": {"spark_semdedup": 'a"b\\c\nd'}}


def samples(families) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_prometheus_and_openmetrics_read_the_same():
    pytest.importorskip("prometheus_client")
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
    from prometheus_client.parser import text_string_to_metric_families as prometheus_families

    text = openmetrics(SUMMARY)
    read = samples(openmetrics_families(text))
    assert samples(prometheus_families(text)) == read
    assert read["spark_semdedup_duplicates", ()] == 3
    assert read["spark_semdedup_pairs_compared", ()] == 123_456_789_012_345
    assert read["spark_semdedup_phase_seconds", (("phase", "fit centroids"),)] == 2
    assert read["spark_semdedup_seconds", ()] == 10
    assert read["spark_semdedup_finished_timestamp_seconds", ()] == 1795960848  # 2026-11-29T14:00:48Z
    (labels,) = (dict(labels) for name, labels in read if name == "spark_semdedup_run")
    assert labels == {
        "step": "run",
        "coverage": "cluster",
        "backend": "cpu",
        "clusterer": "faiss",
        "version": 'a"b\\c\nd',
    }


def test_what_a_summary_lacks_is_left_out():
    assert "eps" not in openmetrics({"step": "cluster", "rows_in": 3})
