"""Which rows are looked at: bounded, seeded, the same from arrays, tables and Spark; bad rows in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from spark_semdedup import explore
from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import Sample, draw_sample, memory, spark_sample

ROWS, DIM = 500, 32


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def frame(matrix) -> pd.DataFrame:
    return pd.DataFrame(
        {"id": [f"r{i}" for i in range(ROWS)], "embedding": list(matrix), "text": [f"text {i}" for i in range(ROWS)]}
    )


def test_an_array_is_used_as_it_is(matrix):
    sample = draw_sample(matrix)
    assert np.array_equal(sample.vectors, matrix)
    assert sample.ids.tolist() == list(range(ROWS))
    assert sample.is_whole
    assert np.allclose(np.linalg.norm(sample.units, axis=1), 1, atol=1e-6)


def test_tables_are_normalised_as_a_run_does(matrix, frame):
    from spark_semdedup.kernels import unit_vectors

    for table in (frame, pa.Table.from_pandas(frame)):
        sample = draw_sample(table)
        assert np.array_equal(sample.vectors, unit_vectors(matrix))
        assert sample.texts[3] == "text 3"
        assert sample.ids[3] == "r3"
    assert np.array_equal(draw_sample(frame, normalize=False).vectors, matrix)
    assert np.array_equal(draw_sample(matrix, normalize=True).vectors, unit_vectors(matrix))


def test_a_sample_is_bounded_and_seeded(matrix):
    one, same, other = (draw_sample(matrix, sample_rows=50, seed=seed) for seed in (1, 1, 2))
    assert len(one) == 50
    assert one.rows == ROWS
    assert one.ids.tolist() == same.ids.tolist() != other.ids.tolist()
    assert np.array_equal(one.vectors, matrix[one.ids.astype(int)])
    assert draw_sample(one) is one


def test_texts_that_are_not_utf8_are_shown_with_replacements(matrix):
    texts = pa.array([b"a\xff\xfeb", b"c"]).view(pa.string())
    sample = draw_sample(pa.table({"id": [0, 1], "embedding": list(matrix[:2]), "text": texts}))
    assert sample.texts.tolist() == ["a\ufffd\ufffdb", "c"]


def test_ids_and_texts_follow_their_rows(matrix):
    names = [f"n{i}" for i in range(ROWS)]
    sample = draw_sample(matrix, sample_rows=20, ids=names, texts=[None, *names[1:]])
    assert sample.ids.tolist() == [text or "n0" for text in sample.texts]


def test_a_series_is_taken_by_position():
    for index in ([3, 2, 1, 0], [5, 6, 7, 8]):
        values = pd.Series(list("abcd"), index=index)
        sample = draw_sample(np.eye(4), ids=values, texts=values)
        assert sample.ids.tolist() == sample.texts.tolist() == list("abcd")


def test_columns_that_are_not_read_may_hold_anything():
    frame = pd.DataFrame({"id": [1, 2], "embedding": [[1.0, 0.0], [0.0, 1.0]], 3: [1, "a"]})
    assert draw_sample(frame).ids.tolist() == [1, 2]


@pytest.mark.parametrize("seed", [np.int8(3), np.int32(3), np.int64(3)])
def test_a_seed_of_numpy_s_draws_as_python_s(matrix, seed):
    assert draw_sample(matrix, sample_rows=9, seed=seed).ids.tolist() == draw_sample(
        matrix, sample_rows=9, seed=3
    ).ids.tolist()  # fmt: skip


def test_results_are_of_json_s_types_whatever_numbers_are_given(matrix):
    two, three, half = np.int64(2), np.int8(3), np.float32(0.5)
    vectors = matrix[:30]
    for found in (
        explore.representatives(vectors, np.arange(30) % 3),
        explore.representatives(vectors, np.arange(30) % 3, ids=np.arange(30)),
        explore.mini_batch_kmeans(vectors, k=three, n_init=two, seed=three),
        explore.spherical_kmeans(vectors, k=three, max_iter=two, tol=half, seed=three),
        explore.choose_k(vectors, k_range=[two], n_init=two, seed=three),
        explore.hdbscan(vectors, min_cluster_size=two, min_samples=two, seed=three),
        explore.agglomerative(vectors, n_clusters=three, seed=three),
        explore.agglomerative(vectors, n_clusters=2).cut(distance_threshold=half),
        explore.community_detection(vectors, threshold=half, min_community_size=two),
        explore.ClusterRetriever().index(vectors, n_clusters=three, seed=three).evaluate(top_k=two, seed=three),
        explore.map_2d(vectors, method="pca", n_neighbors=two, seed=three, output_file=None),
    ):
        json.dumps(found.as_dict())


def test_texts_with_lone_surrogates_and_nulls_can_be_used(matrix):
    sample = draw_sample(matrix[:3], texts=["a\ud800b", None, "c"])
    assert [text.encode("utf-8") for text in sample.texts] == [b"a?b", b"", b"c"]


def test_skip_leaves_out_rows_that_cannot_be_used(matrix):
    spoilt = matrix[:10].astype(float)
    spoilt[3, 2] = np.nan
    spoilt[7, 0] = 1e300
    sample = draw_sample(spoilt, handle_invalid="skip")
    assert sample.ids.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    table = pa.table({"id": ["a", "b", "c"], "embedding": [[1.0, 0.0], None, [0.0, 2.0]]})
    assert draw_sample(table, handle_invalid="skip").ids.tolist() == ["a", "c"]


def test_doubles_beyond_float32_keep_their_direction():
    table = pa.table({"id": [1, 2], "embedding": [[3e300, 4e300], [3e-300, 4e-300]]})
    assert np.allclose(draw_sample(table).vectors, [[0.6, 0.8], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros((0, 3)), {}, r"shape \(0, 3\)"),
        (np.zeros(3), {}, "must be a matrix of n vectors"),
        ([[1.0, 2.0], [3.0]], {}, "that is no matrix"),
        (["a", "b"], {}, "that is no matrix"),
        ([[1.0, np.nan]], {}, "row 0 has a NaN"),
        ([[1.0, np.inf]], {"ids": ["x"]}, "row with id 'x' has a NaN or infinite"),
        ([[np.nan, 1.0]], {"handle_invalid": "skip"}, "no row has a vector"),
        ([[0.0, 0.0]], {"normalize": True}, "is zero: it has no direction"),
        ([[1.0]], {"ids": [1, 2]}, "ids has 2 values, but there are 1 vectors"),
        ([[1.0]], {"ids": 5}, "ids=5 cannot be used"),
        (pd.DataFrame({"id": [1, "a"], "embedding": [[1.0], [2.0]]}), {}, "cannot be read, each needs one type"),
        (pd.DataFrame([[1, [1.0], 2]], columns=["id", "embedding", "id"]), {}, "id_col='id' is more than once"),
        (pa.table([[1], [[1.0]], [2]], names=["id", "embedding", "id"]), {}, "id_col='id' is more than once"),
        ([[1.0]], {"sample_rows": -1}, "sample_rows=-1"),
        ([[1.0]], {"sample_rows": True}, "sample_rows=True"),
        ([[1.0]], {"seed": 1.5}, "seed=1.5"),
        ([[1.0]], {"handle_invalid": "keep"}, "must be error or skip"),
        (pa.table({"id": [1]}), {}, "embedding_col='embedding' is not among the columns: id"),
        (pa.table({"id": [1], "embedding": [1.0]}), {}, "must be a list of numbers"),
        (pa.table({"id": [1], "embedding": [["a"]]}), {}, "holds lists of string"),
        (pa.table({"id": [1, 2], "embedding": [[1.0], [0.0]]}), {}, "row with id 2: embedding is zero"),
        (pa.table({"id": [1], "embedding": [[1.0]]}), {"text_col": "body"}, "text_col='body'"),
    ],
)
def test_bad_input_is_refused_in_one_line(data, options, message):
    with pytest.raises(SemDedupError, match=message) as error:
        draw_sample(data, **options)
    assert "\n" not in str(error.value)


def test_a_sample_larger_than_memory_is_refused_before_it_is_drawn(matrix, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 20_000)
    with pytest.raises(SemDedupError, match="lower sample_rows to 19 or less"):
        draw_sample(matrix)
    assert len(draw_sample(matrix, sample_rows=19)) == 19


def test_texts_count_as_memory(monkeypatch):
    table = pa.table({"id": range(20), "embedding": [[1.0, 0.5]] * 20, "text": ["x" * 10_000] * 20})
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    with pytest.raises(SemDedupError, match="lower sample_rows to 12 or less"):
        draw_sample(table)
    assert len(draw_sample(table, sample_rows=12)) == 12


def test_the_input_of_a_run_is_a_path_or_a_dataframe(monkeypatch):
    monkeypatch.setattr(spark_sample, "read_parquet", lambda spark, path: path)
    assert spark_sample._input(None, Path("in") / "x.parquet") == os.path.join("in", "x.parquet")
    with pytest.raises(SemDedupError, match="input=5 cannot be used: it must be a path"):
        spark_sample._input(None, 5)


# --- Spark --------------------------------------------------------------------------------------------------


def test_a_dataframe_gives_the_rows_of_smallest_hash_in_any_partitioning(spark, frame, matrix):
    df = spark.createDataFrame([(r.id, r.embedding.tolist(), r.text) for r in frame.itertuples()],
                               "id string, embedding array<float>, text string")  # fmt: skip
    one, other = draw_sample(df.repartition(7), sample_rows=60), draw_sample(df.coalesce(1), sample_rows=60)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.rows == ROWS
    hashes = {row.id: row.hash for row in df.selectExpr("id", "xxhash64(id, 42) AS hash").collect()}
    assert one.ids.tolist() == sorted(hashes, key=hashes.__getitem__)[:60]
    position = [int(id_[1:]) for id_ in one.ids]
    assert np.array_equal(one.units, draw_sample(frame).units[position])
    assert one.texts.tolist() == [f"text {i}" for i in position]
    assert len(draw_sample(df, sample_rows=0)) == ROWS


def test_texts_of_a_dataframe_count_as_memory(spark, monkeypatch):
    df = spark.range(20).selectExpr("id", "array(1.0F, 0.5F) AS embedding", "repeat('x', 10000) AS text")
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    with pytest.raises(SemDedupError, match=r"the texts of a sample of 20 rows .* lower sample_rows to 12 or less"):
        draw_sample(df)
    assert len(draw_sample(df, sample_rows=12)) == 12


def test_a_dataframe_s_faults_are_named(spark):
    df = spark.createDataFrame([(1, [1.0], 3)], "id int, embedding array<float>, text int")
    with pytest.raises(SemDedupError, match="text_col='text' is of type int"):
        draw_sample(df)
    with pytest.raises(SemDedupError, match="embeddingCol='vector' is not among"):
        draw_sample(df, embedding_col="vector")
    with pytest.raises(SemDedupError, match="cannot be read as Parquet"):
        draw_sample("no/such/folder")


@pytest.fixture(scope="module")
def run_folder(spark, frame, tmp_path_factory) -> tuple[str, str]:
    """The folder of a run of the program over 500 rows, and its input."""
    from spark_semdedup.cli.main import main

    folder = tmp_path_factory.mktemp("run")
    doubled = pd.concat([frame, frame.head(20).assign(id=[f"copy{i}" for i in range(20)])])
    source, out = str(folder / "in.parquet"), str(folder / "out")
    pa.parquet.write_table(pa.Table.from_pandas(doubled, preserve_index=False), source)
    assert main(["run", "--input", source, "--output", out, "--k", "6", "--which-to-keep", "first"]) == 0
    return out, source


def test_a_run_s_folder_gives_its_kept_rows_and_clusters(spark, run_folder):
    out, _ = run_folder
    sample = draw_sample(out)
    assert sample.rows == ROWS
    assert sample.duplicates is None
    assert sorted(np.unique(sample.labels)) == list(range(6))
    assert sample.source == out


def test_with_its_input_the_removed_rows_are_marked(spark, run_folder):
    out, source = run_folder
    sample = draw_sample(out, input=source)
    assert sample.rows == ROWS + 20
    removed = {row.id for row in spark.read.parquet(f"{out}/duplicates").collect()}
    assert {id_ for id_, gone in zip(sample.ids, sample.duplicates, strict=True) if gone} == removed
    assert len(removed) == 20
    with pytest.raises(SemDedupError, match="is not the folder of a run"):
        draw_sample(source, input=source)


def test_labels_are_the_run_s_own(spark, run_folder):
    from spark_semdedup import EmbeddingKMeansModel

    out, source = run_folder
    model = EmbeddingKMeansModel.load(f"{out}/centroids")
    theirs = {row.id: row.centroid for row in model.transform(spark.read.parquet(source)).collect()}
    sample = draw_sample(out, input=source)
    assert sample.labels.tolist() == [theirs[id_] for id_ in sample.ids]


def test_takes_keeps_what_belongs_together(matrix):
    sample = draw_sample(matrix, texts=[str(i) for i in range(ROWS)])
    part = sample.take(np.array([5, 2]))
    assert isinstance(part, Sample)
    assert part.ids.tolist() == [5, 2]
    assert part.texts.tolist() == ["5", "2"]
