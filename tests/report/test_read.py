"""A real run's folder, read back: what the report shows is what the files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from pyspark.sql import functions as F
from report.results import HOSTILE

from spark_semdedup.analysis.projection import Projection
from spark_semdedup.cli.main import main
from spark_semdedup.errors import SemDedupError
from spark_semdedup.report.atlas import COLUMNS, atlas_rows, refuse_other_names
from spark_semdedup.report.data import gather
from spark_semdedup.report.html import render
from spark_semdedup.report.rows import Columns, look_up
from spark_semdedup.report.words import TEXT_SHOWN
from spark_semdedup.runs.report import results_of
from spark_semdedup.spark.files import Files


def rows() -> list[tuple[str, str, list[float]]]:
    """Twelve groups of five near copies in eight dimensions; the text of ``doc 0`` is hostile."""
    rng = np.random.default_rng(11)
    centres = rng.standard_normal((12, 8)) * 3
    vectors = np.repeat(centres, 5, axis=0) + 0.25 * rng.standard_normal((60, 8))
    return [
        (f"doc {i}", HOSTILE if i == 0 else f"words of group {i // 5}, copy {i % 5}", v.tolist())
        for i, v in enumerate(vectors)
    ]


@pytest.fixture(scope="module")
def run(spark, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a run's input and output."""
    folder = tmp_path_factory.mktemp("run")
    source, output = str(folder / "in"), str(folder / "out")
    spark.createDataFrame(rows(), "id string, text string, embedding array<double>").write.parquet(source)
    assert main(["run", "--input", source, "--output", output, "--k", "3", "--keep-stages"]) == 0
    return source, output


@pytest.fixture(scope="module")
def read(spark, run: tuple[str, str]) -> Callable[..., Any]:
    def results(*, whole: bool = True, **options: Any) -> Any:
        texts = spark.read.parquet(run[0]) if whole else None
        return results_of(spark, Files(spark), run[1], texts=texts, **options)

    return results


@pytest.fixture(scope="module")
def similarities(spark, run: tuple[str, str]) -> list[Any]:
    return spark.read.parquet(f"{run[1]}/similarities").collect()


def test_lists_and_counts_are_those_of_the_files(read: Callable[..., Any], similarities: list[Any]):
    data = gather(read())
    removed = sorted((row for row in similarities if row.cosine_sim_score >= 0.95), key=lambda row: row[2])
    assert removed
    assert data.facts["duplicates"] == len(removed) == data.histogram.removed(0.05)
    assert data.pairs.above[0].id == removed[0].id
    above = {row.id: row.max_id for row in removed}

    def root(id_: str) -> str:
        while id_ in above:
            id_ = above[id_]
        return id_

    sizes: dict[str, int] = {}
    for id_ in above:
        sizes[root(id_)] = sizes.get(root(id_), 1) + 1
    assert {group.kept: group.rows for group in data.groups.largest} == sizes
    assert data.picture is not None
    assert data.picture.sizes.sampled is None  # all rows are sampled, or counted
    assert data.picture.sizes.rows.sum() == 60
    assert {id_ for id_, gone in zip(data.sample.ids, data.picture.removed, strict=True) if gone} == set(above)


def test_the_page_answers_what_a_reader_asks(read: Callable[..., Any], similarities: list[Any]):
    page = render(gather(read()))
    gone = sum(row.cosine_sim_score >= 0.95 for row in similarities)
    assert f"Of 60 rows {gone} are removed" in page
    assert "pairs across clusters were not" in page
    assert "eps 0.05, the program" in page
    assert "least similar pair removed" in page
    assert HOSTILE not in page
    assert "words of group 3" in page


def test_without_the_input_kept_rows_have_texts(read: Callable[..., Any], similarities: list[Any]):
    data = gather(read(whole=False))
    removed = {row.id for row in similarities if row.cosine_sim_score >= 0.95}
    assert data.texts
    assert not removed & data.texts.keys()
    assert data.picture is not None
    assert data.picture.removed is None  # rows that remain do not tell
    assert "Texts of kept rows only" in render(data)


def test_an_evaluation_is_cited(read: Callable[..., Any], run: tuple[str, str]):
    path = Path(run[1]) / "evaluation.json"
    said = {"recall": 0.875, "recall_interval_95": [0.8, 0.93], "sample_rows": 30, "rows": 60}
    path.write_text(json.dumps(said))
    try:
        assert "87.5 % of the rows that have a duplicate were found" in render(gather(read()))
        path.write_text("{")  # of a kill, say
        assert "not measured yet" in render(gather(read()))
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_col": "words"}, "textCol='words' is not among the columns"),
        ({"text_col": "embedding"}, "must be string"),
    ],
)
def test_columns_that_cannot_be_shown_are_refused(read: Callable[..., Any], options: dict[str, Any], said: str):
    with pytest.raises(SemDedupError, match=said):
        read(**options)


def test_a_folder_without_a_run_is_refused(spark, tmp_path: Path, run: tuple[str, str]):
    files = Files(spark)
    with pytest.raises(SemDedupError, match="does not exist"):
        results_of(spark, files, str(tmp_path / "none"))
    with pytest.raises(SemDedupError, match="is not the folder of a run"):
        results_of(spark, files, run[0])


def test_the_atlas_has_every_row_with_its_place_and_neighbour(
    spark, read: Callable[..., Any], similarities: list[Any], tmp_path: Path
):
    path = str(tmp_path / "atlas.parquet")
    atlas_rows(read()).write.parquet(path)
    table = pandas.read_parquet(path)  # as Embedding Atlas reads it
    assert tuple(table.columns) == COLUMNS
    vectors = np.array([vector for _, _, vector in rows()])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = table.set_index("id").loc[[id_ for id_, _, _ in rows()]]
    assert found["text"].tolist() == [text for _, text, _ in rows()]
    expected = Projection.fit(units).apply(units)
    np.testing.assert_allclose(found[["x", "y"]], expected, atol=1e-5)
    scores = {row.id: row for row in similarities}
    for id_, row in found.iterrows():
        alone = scores[id_].max_id == id_
        assert pandas.isna(row["neighbour"]) if alone else (row["neighbour"] == scores[id_].max_id)
        assert row["removed"] == (not alone and scores[id_].cosine_sim_score >= 0.95)
    assert found["cluster"].between(0, 2).all()


def test_rows_without_a_usable_vector_have_no_place(spark, read: Callable[..., Any]):
    whole = read()
    broken = spark.createDataFrame([("broken", "words", [0.0] * 8)], whole.rows.schema)
    atlas = atlas_rows(replace(whole, rows=whole.rows.unionAll(broken)))
    row = atlas.where("id = 'broken'").first()
    assert (row.x, row.y, row.cluster, row.neighbour, row.removed) == (None, None, None, None, False)


def test_texts_that_are_not_utf8_are_shown_with_replacements(spark):
    # Spark takes the first text's last byte for one of three, and Python for one that is no text.
    texts = [(1, bytearray(b"a\xff\xfeb\xe2")), (2, bytearray(b"\xff" * (TEXT_SHOWN + 7))), (3, None)]
    rows = spark.createDataFrame(texts, "id int, text binary").withColumn("text", F.col("text").cast("string"))
    found, sample = look_up(rows, Columns.of(rows, "id", "embedding", None), [1, 2, 3], 0.0, 1)
    assert sample is None
    assert {id_: (text.shown, text.cut) for id_, text in found.items()} == {
        1: ("a\ufffd\ufffdb\ufffd", 0),
        2: ("\ufffd" * TEXT_SHOWN, 7),
    }


def test_a_name_that_embedding_atlas_would_not_take_is_refused():
    refuse_other_names("s3a://bucket/rows.parquet/")
    with pytest.raises(SemDedupError, match=r"must end in \.parquet"):
        refuse_other_names("out/atlas")
