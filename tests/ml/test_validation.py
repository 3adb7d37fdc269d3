"""Input that cannot be used: ids, empty tables, and invalid embeddings by ``handleInvalid`` (contract, point 7)."""

from __future__ import annotations

import re

import numpy as np
import pytest
from marks import slow

from spark_semdedup import EmbeddingKMeans, EmbeddingKMeansModel, PairwiseSimilarity, SemDedup, SemDedupModel
from spark_semdedup.errors import InvalidRowsError, SemDedupError, error_from_worker
from spark_semdedup.spark.columns import quoted
from spark_semdedup.spark.ids import check_ids

NAN, INF = float("nan"), float("inf")
CENTROIDS = np.array([[1, 0], [0, 1]], np.float32)

GOOD = {"a": [1.0, 0.0], "b": [2.0, 0.01], "c": [0.0, 1.0], "d": [0.0, 5.0]}
BAD = {
    "null": (None, "embedding is null"),
    "empty": ([], "embedding is empty"),
    "short": ([1.0], "embedding has length 1, not 2"),
    "long": ([1.0, 2.0, 3.0], "embedding has length 3, not 2"),
    "nan": ([NAN, 1.0], "embedding has a null, NaN or infinite element"),
    "+inf": ([INF, 1.0], "embedding has a null, NaN or infinite element"),
    "-inf": ([1.0, -INF], "embedding has a null, NaN or infinite element"),
    "null element": ([None, 1.0], "embedding has a null, NaN or infinite element"),
    "zero": ([0.0, -0.0], "embedding is zero"),
}


def mixed(spark, type_: str = "double"):
    rows = [*((i, e, "good") for i, e in GOOD.items()), *((i, e, "bad") for i, (e, _) in BAD.items())]
    return spark.createDataFrame(rows, f"id string, embedding array<{type_}>, note string").repartition(3)


def test_a_fit_raises_our_own_error_in_one_line(spark):
    df = spark.createDataFrame([(1, [1.0]), (2, [float("nan")])], "id int, embedding array<float>")
    with pytest.raises(InvalidRowsError, match=r"row with id 2: embedding has a null, NaN") as caught:
        SemDedup(k=1).fit(df)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


def model(**params) -> SemDedupModel:
    return SemDedupModel(centroids=CENTROIDS, whichToKeep="first", **params)


def ids(df, column: str = "id") -> set:
    return {row[column] for row in df.collect()}


# --- ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handle_invalid", "values", "message"),
    [
        ("skip", ["a", None, "b", None], "idCol='id' is null in 2 rows: every row needs an id of its own"),
        ("keep", ["a", "b", "a", "c", "c", "c"], "idCol='id' is not unique: 2 ids are in more than one row"),
        ("error", [], "the input is empty: it must have at least one row"),
    ],
    ids=["null", "duplicate", "empty"],
)
def test_ids_are_refused_whatever_handle_invalid_says(spark, handle_invalid, values, message):
    df = spark.createDataFrame([(v, [1.0, 0.5]) for v in values], "id string, embedding array<double>")
    with pytest.raises(SemDedupError, match=re.escape(message)):
        SemDedup(k=1, handleInvalid=handle_invalid).fit(df)
    with pytest.raises(SemDedupError, match=re.escape(message)):
        model(handleInvalid=handle_invalid).transform(df)


def test_check_ids_counts_the_rows(spark):
    df = spark.createDataFrame([(i,) for i in range(57)], "`my.id` int")
    assert check_ids(df, quoted("my.id"), "my.id") == 57


def test_pairwise_refuses_null_and_repeated_ids_of_one_cluster_or_two(spark):
    schema = "id string, centroid int, embedding array<float>"
    for rows, message in (
        ([("a", 0, [1.0]), (None, 0, [1.0])], "idCol='id' is null in 1 rows"),
        ([("a", 0, [1.0]), ("a", 0, [1.0])], "idCol='id' is not unique: 1 ids are in more than one row"),
        ([("a", 0, [1.0]), ("a", 1, [1.0])], "idCol='id' is not unique: 1 ids are in more than one row"),
    ):
        df = spark.createDataFrame(rows, schema)
        with pytest.raises(SemDedupError, match=re.escape(message)):
            PairwiseSimilarity(whichToKeep="first").transform(df)


def test_a_fitted_model_checks_another_id_column_of_the_same_rows(spark):
    rows = [(i, i // 2, [1.0, float(i)]) for i in range(4)]
    df = spark.createDataFrame(rows, "id int, half int, embedding array<double>")
    fitted = SemDedup(k=1).fit(df)
    with pytest.raises(SemDedupError, match=r"idCol='half' is not unique: 2 ids"):
        fitted.setIdCol("half").transform(df)


@pytest.mark.parametrize("embedding", [None, []])
def test_pairwise_refuses_embeddings_of_no_length_in_words(spark, embedding):
    df = spark.createDataFrame([(i, 0, embedding) for i in range(40)], "id int, centroid int, embedding array<float>")
    with pytest.raises(Exception, match="embedding is") as caught:
        PairwiseSimilarity(whichToKeep="first").transform(df).collect()
    assert "embedding is" in str(error_from_worker(caught.value))


def test_pairwise_refuses_a_missing_distance(spark):
    schema = "id int, centroid int, embedding array<float>, cosine_dist_to_cent float"
    df = spark.createDataFrame([(1, 0, [1.0], 0.5), (2, 0, [1.0], None)], schema)
    with pytest.raises(Exception, match="cosine_dist_to_cent") as caught:
        PairwiseSimilarity().transform(df).collect()
    message = "column 'cosine_dist_to_cent', row with id 2: it is null or NaN"
    assert str(error_from_worker(caught.value)) == message


# --- embeddings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["null", slow("long"), slow("null element"), "zero"])
def test_error_names_the_row_the_reason_and_the_way_out(spark, bad):
    value, reason = BAD[bad]
    rows = [*GOOD.items(), ("the 'bad' one", value)]
    df = spark.createDataFrame(rows, "id string, vec array<double>").coalesce(1)
    with pytest.raises(Exception, match="InvalidRowsError") as caught:
        model(embeddingCol="vec").similarities(df).collect()
    message = str(error_from_worker(caught.value))
    assert message == (
        f"embeddingCol='vec', row with id \"the 'bad' one\": {reason}; fix it, or set handleInvalid to skip "
        "(write such rows to invalid/) or keep (keep them, compared with nothing)"
    )


@pytest.mark.parametrize(("handle_invalid", "type_"), [("skip", "float"), slow("keep", "double")])
def test_every_row_is_accounted_for(spark, handle_invalid, type_):
    df = mixed(spark, type_)
    result = model(handleInvalid=handle_invalid).run(df)
    try:
        invalid = {row.id: row.reason for row in result.invalid.collect()}
        kept, duplicates = ids(result.deduplicated), ids(result.duplicates)
        assert invalid == {i: reason for i, (_, reason) in BAD.items()}
        assert ids(result.similarities) == set(GOOD), "an invalid row is compared with nothing"
        assert duplicates == {"b", "d"}
        assert kept == {"a", "c"} | (set(BAD) if handle_invalid == "keep" else set())
        skipped = set(BAD) if handle_invalid == "skip" else set()
        assert not kept & duplicates
        assert not kept & skipped
        assert len(kept) + len(duplicates) + len(skipped) == df.count()
        assert result.counts() == {"rows": 13, "invalid": 9, "clusters": 2, "pairs": 2}
        assert result.deduplicated.columns == df.columns
        assert result.invalid.columns == [*df.columns, "reason"]
    finally:
        result.unpersist()


@pytest.mark.slow
def test_a_model_keeps_rows_of_which_none_can_be_compared(spark):
    df = spark.createDataFrame([("a", None), ("b", [])], "id string, embedding array<double>")
    assert ids(model(handleInvalid="keep").transform(df)) == {"a", "b"}


@pytest.mark.slow
@pytest.mark.parametrize("handle_invalid", ["skip", "keep"])
def test_the_clustering_sets_invalid_rows_aside(spark, handle_invalid):
    assigned = EmbeddingKMeansModel(centroids=CENTROIDS, handleInvalid=handle_invalid).transform(mixed(spark))
    rows = {row.id: row for row in assigned.collect()}
    assert set(rows) == (set(GOOD) if handle_invalid == "skip" else {*GOOD, *BAD})
    for id_, row in rows.items():
        found = (row.centroid, row.l2_dist_to_cent, row.cosine_dist_to_cent)
        assert (found == (None, None, None)) == (id_ in BAD)
    compared = PairwiseSimilarity(whichToKeep="first").transform(assigned)
    assert ids(compared) == set(GOOD)


@pytest.mark.slow
def test_the_fit_looks_past_invalid_rows(spark):
    df = mixed(spark)
    for handle_invalid in ("skip", "keep"):
        fitted = EmbeddingKMeans(k=2, handleInvalid=handle_invalid).fit(df)
        assert fitted.centroids.shape == (2, 2)
    with pytest.raises(SemDedupError, match="k=5 is larger than the 4 rows with a valid embedding"):
        EmbeddingKMeans(k=5, handleInvalid="skip").fit(df)
    with pytest.raises(SemDedupError, match=r"row with id \S+: embedding .*; fix it, or set handleInvalid to skip"):
        EmbeddingKMeans(k=2).fit(df)


def test_mixed_dimensions_are_named(spark):
    rows = [(i, [1.0] * (3 if i % 4 else 2)) for i in range(12)]
    df = spark.createDataFrame(rows, "id int, embedding array<double>")
    with pytest.raises(SemDedupError, match=r"mixed dimensions: 3 \(9 rows\), 2 \(3 rows\); give them one length"):
        EmbeddingKMeans(k=2).fit(df)
    assert EmbeddingKMeans(k=2, handleInvalid="skip").fit(df).centroids.shape == (2, 3)
    assert EmbeddingKMeans(k=2, handleInvalid="skip", embeddingDim=2).fit(df).centroids.shape == (2, 2)


def test_nothing_valid_to_fit_on(spark):
    df = spark.createDataFrame([("a", None), ("b", [0.0, 0.0])], "id string, embedding array<double>")
    with pytest.raises(SemDedupError, match="no row has an embedding that can be compared"):
        EmbeddingKMeans(k=1, handleInvalid="skip").fit(df)


def test_the_dimension_asked_for_is_checked(spark):
    df = spark.createDataFrame([("a", [1.0, 2.0])], "id string, embedding array<double>")
    with pytest.raises(SemDedupError, match=r"embeddingDim=3 contradicts the model's 2 centroids of length 2"):
        model(embeddingDim=3).transform(df)
    with pytest.raises(Exception, match="embedding has length 2, not 3") as caught:
        EmbeddingKMeans(k=1, embeddingDim=3).fit(df)
    assert isinstance(error_from_worker(caught.value), SemDedupError)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"k": 9}, "k=9 is larger than the 4 rows"),
        ({"k": 2, "fitSampleRows": 1}, "fitSampleRows=1 is smaller than k=2: it must be 0 (all rows) or at least k"),
        ({"k": 3, "initMode": [[1, 0], [0, 1]]}, "k=3 and initMode with 2 centroids contradict each other"),
        ({"idCol": "doc"}, "idCol='doc' is not among the columns: 'id', 'embedding'"),
        ({"embeddingCol": "vec"}, "embeddingCol='vec' is not among the columns: 'id', 'embedding'"),
        ({"eps": 0.1, "threshold": 0.9}, "eps=0.1 and threshold=0.9 are both set"),
        ({"rankBy": ["a"], "whichToKeep": "easy"}, "rankBy=['a'] and whichToKeep='easy' are both set"),
    ],
)
def test_settings_that_do_not_fit_the_data_or_each_other(spark, params, message):
    df = spark.createDataFrame(list(GOOD.items()), "id string, embedding array<double>")
    with pytest.raises(SemDedupError, match=re.escape(message)) as caught:
        SemDedup(**params).fit(df)
    assert "\n" not in str(caught.value)


def test_an_id_of_another_type_is_refused_before_any_job(spark):
    df = spark.createDataFrame([(1.5, [1.0])], "id double, embedding array<double>")
    with pytest.raises(SemDedupError, match="idCol='id' is of type double"):
        SemDedup(k=1).fit(df)


# --- unit vectors that are taken as they are ----------------------------------------------------------------


def stored(spark, rows: list[list[float]], type_: str = "array<float>"):
    return spark.createDataFrame(
        [(i, 0, row) for i, row in enumerate(rows)], f"id int, centroid int, embedding {type_}"
    )


@pytest.mark.slow
def test_norms_off_by_more_than_1e_5_are_refused(spark):
    pairwise = PairwiseSimilarity(whichToKeep="first", normalize=False)
    within = pairwise.transform(stored(spark, [[1.0, 0.0], [1 + 9e-6, 0.0]])).orderBy("id").collect()
    assert within[1].cosine_sim_score == np.float32(1 + 9e-6), "the vector is used as it is"
    with pytest.raises(Exception, match=r"row with id 1: norm is 1\.00002, not 1 \(within 1e-05\)") as caught:
        pairwise.transform(stored(spark, [[1.0, 0.0], [1 + 2e-5, 0.0]])).collect()
    assert isinstance(error_from_worker(caught.value), SemDedupError)


def test_float16_bits_are_decoded_and_normalised(spark):
    rows = np.array([[0.6, 0.8], [0.28, 0.96]], np.float16)
    bits = rows.view(np.uint16).astype(int).tolist()
    pairwise = PairwiseSimilarity(whichToKeep="first", normalize=False)
    found = pairwise.transform(stored(spark, bits, "array<int>")).orderBy("id").collect()
    assert found[1].cosine_sim_score == pytest.approx(0.6 * 0.28 + 0.8 * 0.96, abs=1e-3)
    with pytest.raises(SemDedupError, match=r"embeddingCol='embedding' is of type array<int>"):
        PairwiseSimilarity(whichToKeep="first").transform(stored(spark, bits, "array<int>"))
