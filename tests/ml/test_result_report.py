"""``result.report()`` and ``result.plot``, of a result in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from spark_semdedup import SemDedup


@pytest.fixture(scope="module")
def result(spark) -> Any:
    """Ten groups of four near copies; their ids and texts are in columns of other names. One row is invalid."""
    rng = np.random.default_rng(4)
    vectors = np.repeat(rng.standard_normal((10, 6)), 4, axis=0) + 0.05 * rng.standard_normal((40, 6))
    rows = [(i, f"words {i // 4} of {i}", vector.tolist()) for i, vector in enumerate(vectors)]
    rows.append((40, "no vector", None))
    dataset = spark.createDataFrame(rows, "key bigint, words string, vector array<double>")
    columns = {"idCol": "key", "embeddingCol": "vector", "handleInvalid": "skip"}
    kept = SemDedup(k=3, whichToKeep="first", coverage="exact", **columns).fit(dataset).run(dataset)
    yield kept
    kept.unpersist()


def test_a_report_is_written_from_memory(result: Any, tmp_path: Path):
    path = tmp_path / "report.html"
    result.report(str(path), text_col="words")
    page = path.read_text("utf-8")
    removed = result.duplicates.count()
    assert f"Of 41 rows {removed} are removed" in page
    assert f"and {40 - removed} are kept" in page
    assert "no duplicate was missed" in page
    assert "words 0 of" in page
    assert "moved to the folder invalid" in page
    assert 'id="phases"' not in page  # nothing was timed


def test_every_chart_draws_into_given_axes_and_into_new_ones(result: Any):
    from matplotlib import pyplot

    for name in ("scores", "removal", "clusters", "map", "convergence"):
        figure, ax = pyplot.subplots()
        assert getattr(result.plot, name)(ax) is ax
        assert ax.get_title(loc="left")
        new = getattr(result.plot, name)()
        assert new is not ax
        pyplot.close(figure)
        pyplot.close(new.figure)


def test_charts_show_the_results_numbers(result: Any):
    from matplotlib.figure import Figure

    removal = result.plot.removal(Figure().subplots())
    assert removal.texts[0].get_text() == f"eps 0.05: {100 * result.duplicates.count() / 40:.1f} %"
    clusters = result.plot.clusters(Figure().subplots())
    sizes = result.compared.where("reason is null").groupBy("centroid").count().toPandas()["count"]
    assert f"largest {sizes.max()} " in clusters.texts[1].get_text()
    assert "estimated" not in clusters.get_ylabel()
