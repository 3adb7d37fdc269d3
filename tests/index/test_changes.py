"""Compaction, removal and refitting of an index: what changes, what does not, and what is deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from index_rows import DIM, K, assigned, content, create, some_centroids
from pyspark.sql import functions as F

from spark_semdedup.errors import AccountingError, SemDedupError
from spark_semdedup.index import SemDedupIndex, files
from spark_semdedup.index.drift import Drift
from spark_semdedup.kernels.assignment import nearest_centroids
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.jobs import count_tasks, job_group
from spark_semdedup.spark.vectors import ordered_matrix


@pytest.fixture(scope="module")
def centroids():
    return some_centroids()


@pytest.fixture(scope="module")
def made(spark, tmp_path_factory, centroids) -> str:
    """Three batches of 40 rows, made once."""
    index = create(spark, tmp_path_factory.mktemp("made") / "i", centroids)
    for first in (0, 40, 80):
        index = index.append(assigned(spark, centroids, first, 40))
    return index.path


@pytest.fixture
def index(spark, tmp_path, made) -> SemDedupIndex:
    """A copy of it."""
    return SemDedupIndex.open(spark, str(shutil.copytree(made, tmp_path / "i")))


def parquet_files(index: SemDedupIndex) -> list[str]:
    return sorted(str(path.relative_to(index.path)) for path in Path(index.path).glob("rows/*/part-*"))


def reopened(spark, index: SemDedupIndex) -> SemDedupIndex:
    return SemDedupIndex.open(spark, index.path)


def test_compaction_merges_small_files_and_keeps_every_row(spark, index):
    before = content(index.rows())
    after = index.compact()
    assert (len(index.state.files), len(after.state.files), after.version) == (3, 1, 4)
    assert content(after.rows()) == before
    assert (after.cells == index.cells).all()
    assert after.batches == index.batches
    assert content(index.rows()) == before, "a reader of the version before"
    assert after.compact().version == 4, "merging would make none fewer"
    read = [(row.centroid, row.batch, -row.key_0) for row in after.rows().collect()]
    assert read == sorted(read)


def test_replaced_files_are_deleted_when_nobody_may_read_them(spark, index):
    after = index.compact(retain_hours=1)
    assert len(parquet_files(after)) == 4
    last = after.compact(retain_hours=0)
    assert parquet_files(last) == [file.path for file in last.state.files]
    with pytest.raises(SemDedupError, match="has no version 3; the newest it has: 4"):
        SemDedupIndex.open(spark, index.path, version=3)
    assert reopened(spark, index).rows().count() == 120


def test_large_files_are_left_alone(spark, index, centroids, monkeypatch):
    one = index.compact()
    monkeypatch.setattr("spark_semdedup.index.changes.FILE_BYTES", one.state.files[0].bytes)
    two = one.append(assigned(spark, centroids, 120, 20)).append(assigned(spark, centroids, 140, 20)).compact()
    assert one.state.files[0] in two.state.files
    assert len(two.state.files) == 2
    assert two.rows().count() == 160


def test_removed_rows_are_gone_and_the_rest_is_not(spark, index):
    ids = spark.createDataFrame([(1,), (3,), (50,), (4711,), (1,), (None,)], "document long")
    before = content(index.rows())
    after, unknown = index.remove(ids)
    assert unknown == 1
    assert content(after.rows()) == [row for row in before if row[0] not in (1, 3, 50)]
    assert [batch.rows for batch in after.batches] == [38, 39, 40]
    assert [batch.kept for batch in after.batches] == [25, 26, 27]
    counts = collect_arrow(after.rows().groupBy("centroid").count())
    found = np.bincount(counts["centroid"].to_numpy(), counts["count"].to_numpy(), minlength=K)
    assert (after.cells == found).all()
    untouched = [file for file in index.state.files if file.path.startswith("rows/v00000003")]
    assert set(untouched) < set(after.state.files), "a file without such ids is not written again"


def test_a_removal_can_be_made_final(spark, index):
    ids = spark.createDataFrame([(1,)], "id long")
    after, _ = index.remove(ids, retain_hours=0)
    assert parquet_files(after) == sorted(file.path for file in after.state.files)
    everything = spark.read.parquet(*(f"{index.path}/{path}" for path in parquet_files(after)))
    assert everything.where("id = 1").count() == 0
    assert everything.count() == 119


def test_removing_what_is_not_in_it_changes_nothing(spark, index):
    after, unknown = index.remove(spark.createDataFrame([(4711,)], "id long"))
    assert (after.version, unknown) == (index.version, 1)
    with pytest.raises(SemDedupError, match="has ids of type bigint, but those given are string: cast them"):
        index.remove(spark.createDataFrame([("1",)], "id string"))


def changed(index: SemDedupIndex, how: str) -> None:
    """By a change after which no earlier version can be read."""
    if how == "remove":
        index.remove(index.rows().sparkSession.createDataFrame([(41,)], "id long"), retain_hours=0)
    else:
        getattr(index, how)(retain_hours=0)


@pytest.mark.parametrize("how", ["compact", "remove", "refit"])
def test_no_rows_are_lost_with_a_broken_file_that_the_session_would_pass_over(spark, index, how):
    broken = Path(index.path, index.state.files[1].path)
    broken.write_bytes(broken.read_bytes()[:-100])
    broken.with_name(f".{broken.name}.crc").unlink()
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    try:
        with pytest.raises(Exception, match=broken.name):
            changed(index, how)
    finally:
        spark.conf.unset("spark.sql.files.ignoreCorruptFiles")
    assert reopened(spark, index).version == index.version


@pytest.mark.parametrize(
    ("how", "found"), [("compact", "3 .* 119 rows, but 120"), ("remove", "1 .* 39 rows, but 40"), ("refit", "3 .* 119")]
)
def test_a_file_that_has_lost_rows_is_not_written_again(spark, index, how, found):
    short = Path(index.path, index.state.files[1].path)
    pq.write_table(pq.read_table(short).slice(1), short)
    short.with_name(f".{short.name}.crc").unlink()
    with pytest.raises(AccountingError, match=found):
        changed(index, how)
    assert reopened(spark, index).version == index.version


def test_everything_can_be_removed_and_rows_be_added_again(spark, index, centroids):
    after, unknown = index.remove(index.rows().select("id"))
    assert (after.rows_in, unknown, after.state.files) == (0, 0, ())
    assert after.cells.sum() == 0
    again = after.append(assigned(spark, centroids, 0, 40))
    assert (again.rows_in, again.batches[-1].batch) == (40, 3)


def test_a_refit_assigns_the_stored_vectors_anew(spark, index):
    after = index.refit(k=7)
    assert (after.k, after.rows_in, after.version) == (7, 120, 4)
    old, new = (collect_arrow(each.rows().orderBy("id")) for each in (index, after))
    for name in ("id", "unit", "key_0", "batch", "kept"):
        assert old[name].to_pylist() == new[name].to_pylist(), name
    units = ordered_matrix(new["unit"], np.arange(120))
    expected = nearest_centroids(units, after.centroids.matrix)
    for name in ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent"):
        assert (new[name].to_numpy() == getattr(expected, name)).all()
    assert (after.cells == np.bincount(expected.centroid, minlength=7)).all()
    assert after.centroids.matrix.shape == (7, DIM)
    assert index.centroids.matrix.shape == (K, DIM), "a reader of the version before"
    with pytest.raises(SemDedupError, match=r"was changed by another process \(refit, version 4\)"):
        index.append(index.rows().drop("batch").where("id < 0"))


def test_a_refit_takes_as_many_clusters_as_there_are_rows_for(spark, index):
    with pytest.raises(SemDedupError, match="k=121 is larger than the 120 rows"):
        index.refit(k=121)
    assert index.refit().k == 11, "the square root of 120"


def test_an_empty_index_cannot_be_fitted(spark, tmp_path, centroids):
    with pytest.raises(SemDedupError, match="has no rows to fit centroids on"):
        create(spark, tmp_path, centroids).refit()


def test_drift_is_what_lies_far_from_the_centroids(spark, index, centroids):
    drift = Drift.of(index.state)
    assert drift.rows_since_fit == 80
    p99 = index.state.fit.p99
    first = collect_arrow(index.rows().where("batch = 0"))["l2_dist_to_cent"].to_numpy()
    assert p99 == np.sort(first)[39], "of 40 rows the farthest"
    later = collect_arrow(index.rows().where("batch > 0"))["l2_dist_to_cent"].to_numpy()
    assert drift.far_share == (later > p99).mean()
    # Rows of one direction, opposite to all centroids: far, and all in one cell.
    away = -centroids.matrix.mean(axis=0)
    data = [(1000 + i, [float(x) for x in away]) for i in range(200)]
    drifted = index.append(one_direction(spark, centroids, data))
    found = Drift.of(drifted.state)
    assert found.far_share > 0.5
    assert found.is_large
    assert not drift.is_large
    assert "the centroids fit badly: index refit" in drifted.info().as_text()
    assert "the centroids fit badly" not in drifted.refit(k=4).info().as_text()


def one_direction(spark, centroids, data):
    from spark_semdedup.index import index_rows
    from spark_semdedup.pairwise.ranking import Ranking
    from spark_semdedup.params import SemDedupStageParams
    from spark_semdedup.spark.documents import Documents

    params = SemDedupStageParams()
    df = spark.createDataFrame(data, "id long, embedding array<float>")
    rows = index_rows(Documents.of_params(df, params), centroids, Ranking.of(params), params)
    return rows.withColumn("kept", F.lit(True))


def test_info_says_what_is_in_it(index):
    info = index.info()
    assert (info.rows, info.kept, info.files, info.mergeable_files) == (120, 80, 3, 3)
    assert info.bytes == sum(file.bytes for file in index.state.files)
    text = info.as_text()
    assert "rows         120, of which 80 kept" in text
    assert "3 small files can be merged: index compact" in text
    assert info.as_dict()["drift"]["rows_since_fit"] == 80
    assert '"rows": 120' in info.as_json()


def test_an_append_of_few_rows_takes_few_jobs(spark, index, centroids):
    """However many appends there were before."""
    counts = []
    for first in (200, 220, 240):
        rows = assigned(spark, centroids, first, 20)
        with job_group(spark, f"append from {first}") as group:
            index = index.append(rows, Ids.count(rows, F.col("id")))
            counts.append(count_tasks(spark, group))
    assert len({(count.jobs, count.total) for count in counts}) == 1, counts
    assert counts[0].jobs <= 10
    assert counts[0].total <= 10 * spark.sparkContext.defaultParallelism


def test_files_are_cut_where_rows_are():
    cells = np.array([100, 0, 0, 100, 200, 0])
    ranges = files.range_of_cells(cells, 4)
    assert (np.diff(ranges) >= 0).all()
    assert [int(cells[ranges == part].sum()) for part in range(4)] == [100, 100, 200, 0] or ranges.max() == 3
    assert (files.range_of_cells(np.zeros(8, int), 4) == [0, 0, 1, 1, 2, 2, 3, 3]).all()
