"""An index on disk: what is appended is what is read, cell by cell and version by version."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import vectors
from index_rows import DIM, K, assigned, content, create, some_centroids
from marks import slow
from pyspark.sql import functions as F

from spark_semdedup.clustering.centroids import Centroids
from spark_semdedup.errors import AccountingError, ResultExistsError, SemDedupError
from spark_semdedup.index import SemDedupIndex, files, index_rows
from spark_semdedup.kernels import unit_vectors
from spark_semdedup.kernels.assignment import nearest_centroids
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import SemDedupStageParams
from spark_semdedup.spark.arrow import collect_arrow
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.vectors import ordered_matrix


@pytest.fixture(scope="module")
def centroids() -> Centroids:
    return some_centroids()


def test_rows_are_assigned_as_the_kernel_says(spark, centroids):
    found = collect_arrow(assigned(spark, centroids, 0, 200).orderBy("id"))
    units = unit_vectors(vectors.make("random", 10_000, DIM, seed=7)[:200])
    expected = nearest_centroids(units, centroids.matrix)
    assert (ordered_matrix(found["unit"], np.arange(200)) == units).all()
    for name in ("centroid", "l2_dist_to_cent", "cosine_dist_to_cent"):
        assert (found[name].to_numpy() == getattr(expected, name)).all()
    assert found["key_0"].to_pylist() == found["cosine_dist_to_cent"].to_pylist(), "hard ranks by it"


def test_invalid_rows_are_left_out_or_refused(spark, centroids):
    data = [(1, [1.0] * DIM), (2, None), (3, [0.0] * DIM), (4, [1.0, 2.0])]
    df = spark.createDataFrame(data, "id int, embedding array<float>")
    skip = SemDedupStageParams(handleInvalid="skip", whichToKeep="first")
    rows = index_rows(Documents.of_params(df, skip), centroids, Ranking.of(skip), skip)
    assert [row.id for row in rows.collect()] == [1]
    assert rows.columns == ["id", "unit", "centroid", "l2_dist_to_cent", "cosine_dist_to_cent"]
    error = SemDedupStageParams()
    rows = index_rows(Documents.of_params(df, error), centroids, Ranking.of(error), error)
    with pytest.raises(Exception, match=r"embedding is (null|zero)"):
        rows.collect()


@pytest.mark.parametrize("which", ["hard", slow("first"), slow("random")])
def test_what_is_appended_is_read_back(spark, tmp_path, centroids, which):
    index = create(spark, tmp_path / "i", centroids, which=which)
    assert (index.version, index.rows_in, index.next_batch) == (0, 0, 0)
    assert index.rows().count() == 0
    first = assigned(spark, centroids, 0, 100, which=which)
    second = assigned(spark, centroids, 100, 50, which=which)
    index = index.append(first, facts={"rows_in": 100}).append(second, run="abc")
    again = SemDedupIndex.open(spark, str(tmp_path / "i"))
    expected = first.withColumn("batch", F.lit(0)).unionAll(second.withColumn("batch", F.lit(1)))
    for each in (index, again):
        assert content(each.rows()) == content(expected.select(*each.rows().columns))
        assert (each.version, each.rows_in, each.next_batch) == (2, 150, 2)
        assert [(b.rows, b.kept, b.run) for b in each.batches] == [(100, 66, None), (50, 34, "abc")]
        assert each.batches[0].facts == {"rows_in": 100}
        counts = np.bincount([row.centroid for row in expected.select("centroid").collect()], minlength=K)
        assert (each.cells == counts).all()
    assert (again.centroids.matrix == centroids.matrix).all()
    assert again.settings == {"eps": 0.1, "whichToKeep": which}
    assert again.ranking == Ranking.of(SemDedupStageParams(whichToKeep=which))
    assert again.rows(kept_only=True).count() == 100
    assert SemDedupIndex.open(spark, str(tmp_path / "i"), version=1).rows().count() == 100


def test_an_index_of_kept_rows_gets_no_others(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids, holds="kept").append(assigned(spark, centroids, 0, 30))
    assert not index.holds_removed
    assert sorted(row.id for row in index.rows().collect()) == [i for i in range(30) if i % 3]


def test_cells_are_read_alone(spark, tmp_path, centroids, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES", 40 * files.row_bytes(DIM))
    rows = assigned(spark, centroids, 0, 400)
    index = create(spark, tmp_path / "a b[1]", centroids).append(rows)
    assert len(index.state.files) > 3
    for cells in ([2], [0, 4], [1, 2, 3]):
        found = index.rows(np.array(cells))
        assert content(found) == content(
            rows.withColumn("batch", F.lit(0)).select(*found.columns).where(F.col("centroid").isin(cells))
        )
        assert len(found.inputFiles()) < len(index.state.files)
        plan = found._jdf.queryExecution().executedPlan().toString()
        assert "PushedFilters: [" in plan
        assert "GreaterThanOrEqual(centroid," in plan or "EqualTo(centroid," in plan
    assert index.rows(np.array([], int)).count() == 0


def test_files_are_ranges_of_centroids_sorted_by_rank(spark, tmp_path, centroids, monkeypatch):
    monkeypatch.setattr(files, "FILE_BYTES", 60 * files.row_bytes(DIM))
    index = create(spark, tmp_path, centroids).append(assigned(spark, centroids, 0, 300))
    ranges = [(file.first, file.last) for file in index.state.files]
    assert all(one[1] <= other[0] for one, other in pairwise(ranges)), ranges
    for file in index.state.files:
        table = pq.read_table(tmp_path / file.path)
        assert len(table) == file.rows
        assert (tmp_path / file.path).stat().st_size == file.bytes
        read = list(zip(table["centroid"].to_pylist(), (-x for x in table["key_0"].to_pylist()), strict=True))
        assert read == sorted(read), "hard: the farthest first"


def test_many_cells_are_few_ranges_and_no_row_between(spark, tmp_path):
    many = Centroids(vectors.make("random", 400, DIM, seed=3))
    rows = assigned(spark, many, 0, 1000)
    index = create(spark, tmp_path, many).append(rows)
    cells = np.arange(0, 400, 2)
    found = index.rows(cells)
    assert sorted(row.id for row in found.collect()) == sorted(
        row.id for row in rows.where(F.col("centroid") % 2 == 0).select("id").collect()
    )


def test_ids_in_the_index_are_found(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids).append(assigned(spark, centroids, 0, 30))
    ids = spark.range(25, 40).select(F.col("id").alias("document"))
    for count in (None, 15):
        found = index.contains(ids, count=count)
        assert sorted(row.id for row in found.collect()) == [25, 26, 27, 28, 29]
    with pytest.raises(SemDedupError, match="has ids of type bigint, but those given are string: cast them"):
        index.contains(spark.createDataFrame([("a",)], "id string"))


def test_a_run_appends_once(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids)
    rows = assigned(spark, centroids, 0, 30)
    one = index.append(rows, run="r1")
    assert index.append(rows, run="r1").version == one.version, "also from a version that was opened before"
    assert one.append(rows, run="r1").rows_in == 30


def test_a_version_that_is_no_longer_the_newest_is_not_appended_to(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids)
    index.append(assigned(spark, centroids, 0, 30))
    with pytest.raises(SemDedupError, match=r"was changed by another process \(append, version 1\) after version 0"):
        index.append(assigned(spark, centroids, 30, 30))


def test_rows_that_are_not_those_counted_are_refused(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids)
    rows = assigned(spark, centroids, 0, 30)
    with pytest.raises(AccountingError, match="31 rows were to be added to the index, but its new files have 30 rows"):
        index.append(rows, Ids(31, 0))
    with pytest.raises(AccountingError, match="other ids"):
        index.append(rows, Ids(30, 5))
    assert SemDedupIndex.open(spark, str(tmp_path)).version == 0
    assert index.append(rows, Ids.count(rows, F.col("id"))).rows_in == 30


def test_an_empty_batch_is_a_batch(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids, holds="kept")
    index = index.append(assigned(spark, centroids, 0, 30).where("id % 3 = 0"))
    assert (index.rows_in, index.next_batch, index.state.files) == (0, 1, ())
    index = index.append(assigned(spark, centroids, 30, 30))
    assert index.rows_in == 20
    assert index.state.fit.p99 > 0


def test_rows_of_other_types_are_refused(spark, tmp_path, centroids):
    index = create(spark, tmp_path, centroids)
    with pytest.raises(SemDedupError, match="has ids of type bigint, but the new rows' are int: cast them"):
        index.append(assigned(spark, centroids, 0, 30, dtype="int"))
    with pytest.raises(SemDedupError, match="has the rank keys key_0, which the new rows lack: rank them alike"):
        index.append(assigned(spark, centroids, 0, 30, which="first"))


def test_a_folder_is_made_an_index_once(spark, tmp_path, centroids):
    index = create(spark, tmp_path / "i", centroids, run="r1")
    with pytest.raises(ResultExistsError, match="is an index of 0 rows already: append to it, or give another folder"):
        create(spark, tmp_path / "i", centroids, run="r2")
    index.append(assigned(spark, centroids, 0, 30))
    assert create(spark, tmp_path / "i", centroids, run="r1").rows_in == 30, "a run that continues"
    assert create(spark, tmp_path / "i", centroids, overwrite=True).rows_in == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ResultExistsError, match="has files that are no index's: give another folder"):
        create(spark, tmp_path / "mine", centroids)


def test_what_is_no_index_is_refused_in_one_line(spark, tmp_path, centroids):
    def refusal(path, **options) -> str:
        with pytest.raises(SemDedupError) as raised:
            SemDedupIndex.open(spark, str(path), **options)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert refusal(tmp_path / "none").endswith("none' does not exist: give the folder of an index")
    (tmp_path / "folder").mkdir()
    assert "is not an index (it has no whole version in _versions)" in refusal(tmp_path / "folder")
    create(spark, tmp_path / "i", centroids)
    assert refusal(tmp_path / "i", version=7).endswith("has no version 7; the newest it has: 0")
    manifest = tmp_path / "i" / "_versions" / "v00000000.json"
    text = manifest.read_text()
    manifest.write_text(text[:100])  # as a kill leaves it
    assert "its creation did not end; create it again" in refusal(tmp_path / "i")
    manifest.with_name(f".{manifest.name}.crc").unlink()
    manifest.write_text(text.replace('"format": 1', '"format": 2'))
    assert "is of format 2, and this version of spark-semdedup reads up to 1: update it" in refusal(tmp_path / "i")
    manifest.write_text(text.replace('"cells"', '"sells"'))
    assert "cannot be used: KeyError ('cells') in its JSON" in refusal(tmp_path / "i")
    manifest.write_text(text.replace('"centroids/v', '"../v'))
    assert "cannot be used: ValueError (path '../v00000000') in its JSON" in refusal(tmp_path / "i")
    manifest.write_text(text.replace('"bigint"', '{"type": "udt", "pyClass": "os.system"}'))
    assert "cannot be used: TypeError" in refusal(tmp_path / "i")
    manifest.write_text("[1]")
    assert "is not the version of an index: spark-semdedup did not write it" in refusal(tmp_path / "i")
    manifest.write_text(text[:100])
    assert "its creation did not end; create it again" in refusal(tmp_path / "i")
