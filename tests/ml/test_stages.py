"""The stages as Spark ML users meet them: pipelines, copies, saving and loading, columns of any name."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import oracle
import pyarrow.parquet as pq
import pytest
import vectors
from chispa import assert_df_equality
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import SQLTransformer, VectorAssembler
from pyspark.sql import DataFrameWriter
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup import (
    EmbeddingKMeans,
    EmbeddingKMeansModel,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
)
from spark_semdedup.clustering import saved
from spark_semdedup.errors import SemDedupError
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.estimate import ClusterSizes
from spark_semdedup.pairwise.rows import AssignedRows
from spark_semdedup.spark.columns import quoted

CENTROIDS = np.array([[1, 0], [0, 1]], np.float32)
ROWS = [("a", [1.0, 0.0], 1), ("b", [2.0, 0.01], 2), ("c", [0.0, 1.0], 3), ("d", [0.0, 5.0], 4), ("e", [0.5, 1.0], 5)]


@pytest.fixture(scope="module")
def df(spark):
    frame = spark.createDataFrame(ROWS, "id string, embedding array<double>, n int").persist()
    yield frame
    frame.unpersist()


def ids(frame) -> list:
    return sorted(row.id for row in frame.collect())


# --- pipelines ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_semdedup_is_a_stage_of_a_pipeline(spark, tmp_path, df):
    """Between other stages; the fitted pipeline is saved, loaded and gives the same rows."""
    numbers = df.select(F.col("id").alias("doc"), *(F.col("embedding")[i].alias(f"x{i}") for i in (0, 1)), "n")
    pipeline = Pipeline(
        stages=[
            VectorAssembler(inputCols=["x0", "x1"], outputCol="vector"),
            SemDedup(idCol="doc", embeddingCol="vector", k=2, rankBy=["n desc"], eps=0.01, backend="cpu"),
            SQLTransformer(statement="SELECT doc, n * 10 AS n FROM __THIS__"),
        ]
    )
    fitted = pipeline.fit(numbers)
    expected = spark.createDataFrame([("b", 20), ("d", 40), ("e", 50)], "doc string, n int")
    assert_df_equality(fitted.transform(numbers), expected, ignore_row_order=True, ignore_nullable=True)
    fitted.write().overwrite().save(str(tmp_path / "fitted"))
    loaded = PipelineModel.load(str(tmp_path / "fitted"))
    assert loaded.stages[1].uid == fitted.stages[1].uid
    assert_df_equality(loaded.transform(numbers), expected, ignore_row_order=True, ignore_nullable=True)
    pipeline.write().overwrite().save(str(tmp_path / "pipeline"))
    assert Pipeline.load(str(tmp_path / "pipeline")).getStages()[1].settings() == pipeline.getStages()[1].settings()


def test_the_steps_are_stages_of_a_pipeline_too(df):
    stages = [
        EmbeddingKMeans(k=2, initMode=CENTROIDS, backend="cpu"),
        PairwiseSimilarity(whichToKeep="first"),
        IdentifyDuplicates(eps=0.01),
    ]
    duplicates = Pipeline(stages=stages).fit(df).transform(df)
    assert {row.id: row.max_id for row in duplicates.collect()} == {"b": "a", "d": "c"}
    assert ids(RemoveDuplicates().setDuplicates(duplicates).transform(df)) == ["a", "c", "e"]


@pytest.mark.slow
def test_params_can_be_given_to_fit_and_transform(df):
    estimator = SemDedup(k=5, backend="cpu")
    model = estimator.fit(df, {estimator.k: 2, estimator.whichToKeep: "first"})
    assert model.centroids.shape == (2, 2)
    assert model.getWhichToKeep() == "first"
    assert estimator.getK() == 5
    model = SemDedupModel(centroids=CENTROIDS, whichToKeep="first", eps=0.01)
    assert ids(model.transform(df)) == ["a", "c", "e"]
    assert ids(model.transform(df, {model.eps: 0.2})) == ["a", "c"]
    assert model.getEps() == 0.01


# --- copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [EmbeddingKMeansModel, SemDedupModel])
def test_a_copied_model_has_the_centroids_and_its_own_params(cls):
    model = cls(centroids=CENTROIDS, history=[3.0, 2.0], idCol="doc")
    copied = model.copy({model.idCol: "url"})
    assert (model.getIdCol(), copied.getIdCol()) == ("doc", "url")
    assert copied.uid == model.uid
    assert np.array_equal(copied.centroids, CENTROIDS)
    assert copied.history == (3.0, 2.0)


def test_a_copied_remover_keeps_its_duplicates(spark, df):
    remover = RemoveDuplicates().setDuplicates(spark.createDataFrame([("a",)], "id string"))
    assert ids(remover.copy().transform(df)) == ["b", "c", "d", "e"]


def test_the_model_carries_the_estimators_params_and_uid(df):
    estimator = SemDedup(k=2, eps=0.02, whichToKeep="easy", batchSize=5, backend="cpu")
    model = estimator.fit(df)
    assert model.uid == estimator.uid
    assert model.settings() == estimator.settings()


@pytest.mark.slow
def test_given_initial_centroids_are_not_carried_along(df):
    """k × d numbers that the fitted centroids supersede."""
    for estimator in (SemDedup, EmbeddingKMeans):
        model = estimator(initMode=CENTROIDS, backend="cpu").fit(df)
        assert model.getInitMode() == "k-means||"
        again = estimator(initMode=model.centroids, maxIter=0, backend="cpu").fit(df)
        assert np.allclose(again.centroids, model.centroids, atol=1e-6), "a fitted model's centroids to go on from"


# --- saving and loading -------------------------------------------------------------------------------------

SAVED = [
    EmbeddingKMeans(k=7, idCol="Doc.Id", initMode=CENTROIDS, tol=0.5, handleInvalid="skip"),
    PairwiseSimilarity(rankBy=["a b desc", "ü"], batchSize=3, normalize=False),
    IdentifyDuplicates(threshold=0.9),
    RemoveDuplicates(duplicatesPath="/a b/c", idCol="x"),
    SemDedup(k=3, eps=0.2, metadataCols=["a.b", "c"], seed=-(2**63), distanceMeasure="cosine"),
    EmbeddingKMeansModel(centroids=[[0.1, -2.5e-38], [3e38, -0.0]], history=[0.5, 0.25], embeddingCol="e"),
    SemDedupModel(centroids=vectors.make("random", 50, 17), history=[1.0], whichToKeep="random", seed=5),
]


@pytest.mark.parametrize("stage", SAVED, ids=lambda stage: type(stage).__name__)
def test_a_saved_stage_comes_back_as_it_was(spark, tmp_path, stage):
    path = str(tmp_path / "a stage")
    stage.save(path)
    loaded = type(stage).load(path)
    assert type(loaded) is type(stage)
    assert loaded.uid == stage.uid
    assert loaded.settings() == stage.settings()
    for param in stage.params:
        assert loaded.value(param.name) == stage.value(param.name), param.name
    if hasattr(stage, "centroids"):
        assert oracle.same_bits(loaded.centroids, stage.centroids)
        assert loaded.history == stage.history
    with pytest.raises(Exception, match="already exists"):
        stage.save(path)
    stage.write().overwrite().save(path)


def test_a_model_is_saved_as_parquet_and_json_alone(spark, tmp_path):
    SemDedupModel(centroids=CENTROIDS).save(str(tmp_path / "m"))
    files = {p.name for p in (tmp_path / "m").rglob("*") if p.is_file() and not p.name.startswith((".", "_"))}
    assert {name.split("-")[0] for name in files} == {"part"}
    metadata = json.loads(next((tmp_path / "m" / "metadata").glob("part-*")).read_text())
    assert metadata["class"] == "spark_semdedup.SemDedupModel"
    rows = spark.read.parquet(str(tmp_path / "m" / "data")).orderBy("centroid").collect()
    assert [(row.centroid, row.vector) for row in rows] == [(0, [1.0, 0.0]), (1, [0.0, 1.0])]


def test_centroids_are_saved_in_parts_that_a_cluster_takes_in_a_task(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "_BYTES_AT_ONCE", 2 * 3 * 4 + 1)
    written, write = [], DataFrameWriter.parquet
    monkeypatch.setattr(DataFrameWriter, "parquet", lambda self, path: written.append(path) or write(self, path))
    centroids = vectors.make("random", 5, 3)
    SemDedupModel(centroids=centroids).save(str(tmp_path / "m"))
    assert written == [f"{tmp_path}/m/data"], "in one job: of several, a failure would leave what loads as a model"
    sizes = sorted(pq.read_table(file).num_rows for file in (tmp_path / "m" / "data").glob("*.parquet"))
    assert sizes == [1, 2, 2]
    assert oracle.same_bits(SemDedupModel.load(str(tmp_path / "m")).centroids, centroids)


def test_a_model_of_another_class_is_refused(spark, tmp_path):
    path = str(tmp_path / "m")
    EmbeddingKMeansModel(centroids=CENTROIDS).save(path)
    with pytest.raises(SemDedupError, match=r"holds a 'spark_semdedup.EmbeddingKMeansModel', not a .*SemDedupModel"):
        SemDedupModel.load(path)


# --- columns ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_columns_of_any_name_and_type_come_through_untouched(spark):
    """Names with dots, spaces, upper case and backticks; other columns that are named as ours are inside the job."""
    schema = (
        T.StructType()
        .add("Doc.Id", T.ShortType())
        .add("The Vector", T.ArrayType(T.FloatType()))
        .add("qu`ality.SCORE", T.DecimalType(5, 2))
        .add("meta", T.StructType().add("a.b", T.MapType(T.StringType(), T.ArrayType(T.IntegerType()))))
    )
    for name in ("id", "max_id", "cosine_sim_score", "unit", "key_0", "centroid", "reason", "Embedding", "compared"):
        schema.add(name, T.StringType())
    rest = ["id", *"........"]
    rows = [(i, [1.0, i / 10], None if i == 3 else Decimal(i), ({"x": [i]},), *rest) for i in range(5)]
    rows.append((5, None, None, None, *rest))
    data = spark.createDataFrame(rows, schema)
    names = {"idCol": "Doc.Id", "embeddingCol": "The Vector", "handleInvalid": "keep", "eps": 0.1}
    model = SemDedup(**names, k=1, rankBy=["qu`ality.SCORE desc"], backend="cpu").fit(data)
    result = model.run(data)
    kept, expected = (frame.orderBy(quoted("Doc.Id")) for frame in (result.deduplicated, data.where("`Doc.Id` > 3")))
    assert_df_equality(kept, expected, ignore_nullable=True)
    assert result.similarities.columns == ["id", "max_id", "cosine_sim_score"]
    assert result.similarities.schema["max_id"].dataType == T.ShortType()
    assert ids(result.duplicates) == [0, 1, 2, 3]
    assert [row["Doc.Id"] for row in result.invalid.collect()] == [5]
    result.unpersist()


@pytest.mark.slow
def test_the_cluster_step_carries_metadata_and_rank_columns(spark, df):
    from spark_semdedup.pairwise.ranking import Ranking

    data = df.withColumn("a.b", F.lit("x")).withColumn("Other Col", F.lit(1))
    model = EmbeddingKMeansModel(centroids=CENTROIDS, metadataCols=["Other Col", "n"])
    ranking = Ranking.of(PairwiseSimilarity(rankBy=["n desc", "a.b"]))
    clustered, _ = model.clustered(data, ranking)
    assigned = ["centroid", "l2_dist_to_cent", "cosine_dist_to_cent"]
    assert clustered.columns == ["id", "embedding", "Other Col", "n", "a.b", *assigned]
    assert clustered.schema["embedding"].dataType == T.ArrayType(T.FloatType())
    found = PairwiseSimilarity(rankBy=["n desc", "a.b"], normalize=False).transform(clustered)
    assert {row.id: row.max_id for row in found.collect()} == {"a": "b", "b": "b", "c": "d", "d": "e", "e": "e"}


def test_assignment_appends_three_columns_and_alters_nothing(df):
    assigned = EmbeddingKMeansModel(centroids=CENTROIDS).transform(df)
    assert assigned.columns == [*df.columns, "centroid", "l2_dist_to_cent", "cosine_dist_to_cent"]
    types = [assigned.schema[name].dataType.simpleString() for name in assigned.columns[-3:]]
    assert types == ["int", "float", "float"]
    assert_df_equality(assigned.select(*df.columns), df, ignore_row_order=True, ignore_nullable=True)
    with pytest.raises(SemDedupError, match="the input already has centroid"):
        EmbeddingKMeansModel(centroids=CENTROIDS).transform(assigned)


# --- the smaller stages -------------------------------------------------------------------------------------


def test_remove_takes_duplicates_from_a_path_or_a_frame_but_not_both(spark, tmp_path, df):
    duplicates = spark.createDataFrame([("b", "a"), ("d", "c")], "id string, max_id string")
    duplicates.write.parquet(str(tmp_path / "duplicates"))
    remover = RemoveDuplicates(duplicatesPath=str(tmp_path / "duplicates"))
    assert_df_equality(remover.transform(df), df.where("id in ('a', 'c', 'e')"), ignore_row_order=True)
    with pytest.raises(SemDedupError, match=r"duplicatesPath=.* and setDuplicates are both set"):
        remover.setDuplicates(duplicates).transform(df)
    with pytest.raises(SemDedupError, match="duplicatesPath=None and setDuplicates are both unset"):
        RemoveDuplicates().transform(df)


def test_remove_matches_ids_of_one_kind_only(spark, df):
    numbers = spark.createDataFrame([(1,)], "id bigint")
    with pytest.raises(SemDedupError, match="idCol='id' is string, but the duplicates' id is bigint"):
        RemoveDuplicates().setDuplicates(numbers).transform(df)
    shorts = spark.createDataFrame([(1,), (2,)], "`a.b` smallint")
    kept = RemoveDuplicates(idCol="a.b").setDuplicates(numbers).transform(shorts)
    assert [row["a.b"] for row in kept.collect()] == [2]


def test_identify_wants_the_columns_that_pairwise_gives(df):
    with pytest.raises(SemDedupError, match="column='max_id' is not among the columns: 'id', 'embedding', 'n'"):
        IdentifyDuplicates().transform(df)


@pytest.mark.parametrize(("fitted", "looked_at"), [(35, 25), (57, 57), (0, 60)])
def test_a_handful_of_rows_that_were_not_fitted_tells_nothing_of_all(spark, monkeypatch, fitted, looked_at):
    """Where they are far fewer than were asked for, those fitted on are looked at."""
    rng = np.random.default_rng(0)
    df = spark.createDataFrame(
        [(i, rng.standard_normal(4).tolist()) for i in range(60)], "id int, embedding array<double>"
    )
    stage = EmbeddingKMeans(k=2, fitSampleRows=fitted, backend="cpu")
    monkeypatch.setattr("spark_semdedup.ml.kmeans.VISIT_ROWS", 20)
    monkeypatch.setattr("spark_semdedup.ml.kmeans.SIZE_ROWS_PER_CENTROID", 10)
    stage.compared_by = Coverage(others=1)
    sample = stage.fit(df).fitted_sample
    assert len(sample.units) == looked_at
    assert sample.scale * len(sample.units) == 60


def test_what_will_be_shuffled_is_foreseen_before_the_fit(spark, monkeypatch):
    df = spark.createDataFrame([(i, [1.0, float(i)]) for i in range(40)], "id int, embedding array<double>")
    monkeypatch.setattr("spark_semdedup.ml.kmeans.fit_centroids", lambda *_: pytest.fail("centroids were fitted"))

    def refuse(least, estimate):
        assert estimate is None, "k is given"
        raise SemDedupError(f"{least:.0f} bytes are too many")

    with pytest.raises(SemDedupError, match=f"{40 * (4 * 2 + 100)} bytes are too many"):
        SemDedup(k=2, backend="cpu").fit_foreseen(df, refuse)


@pytest.mark.parametrize("planned", [[], [7], [0, 3, 7]])
def test_clusters_of_any_number_are_compared_each_by_itself(spark, monkeypatch, planned):
    """Also those that the sample missed, for which the plan has no tasks. Rows of negative numbers are noise: kept, and
    compared with nothing."""
    sizes = ClusterSizes(dict.fromkeys(planned, 2.0), 2)
    monkeypatch.setattr(AssignedRows, "sizes", lambda _: sizes)
    labels = [-(2**63) + 9, -1_000_003, -3, -1, 0, 1, 2, 3, 7, 999_997, 2**62, 2**63 - 1]
    data = [(10 * i + j, [1.0, 0.0], label) for i, label in enumerate(labels) for j in (0, 1)]
    df = spark.createDataFrame(data, "id bigint, embedding array<float>, centroid bigint")
    found = PairwiseSimilarity(whichToKeep="first").transform(df).collect()
    assert sorted((row.id, row.max_id) for row in found) == [
        (id_, id_ if label < 0 else id_ - id_ % 10) for id_, _, label in data
    ]


def test_pairwise_wants_an_integer_centroid(spark, df):
    with pytest.raises(SemDedupError, match="column='centroid' is not among the columns"):
        PairwiseSimilarity(whichToKeep="first").transform(df)
    with pytest.raises(SemDedupError, match="column 'centroid' is of type double: it must be an integer"):
        PairwiseSimilarity(whichToKeep="first").transform(df.withColumn("centroid", F.lit(1.0)))


# --- public examples of other implementations ---------------------------------------------------------------
# NVIDIA NeMo Curator, tests/stages/deduplication/semantic (vectors, columns and expected numbers are facts).


@pytest.fixture(scope="module")
def six_rows(spark):
    """test_pairwise.py: six rows of one cluster, whose centroid is the first row."""
    matrix = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [1, 2, 3], [1, 2, 3]], np.float32)
    score, priority = [0.1, 0.8, 0.3, 0.9, 0.2, 0.15], [3, 1, 2, 1, 3, 2]
    schema = "id int, embedding array<float>, custom_score double, priority int"
    frame = spark.createDataFrame(list(zip(range(6), matrix.tolist(), score, priority, strict=True)), schema)
    assigned = EmbeddingKMeansModel(centroids=oracle.unit_vectors(matrix[:1])).transform(frame).persist()
    yield assigned
    assigned.unpersist()


NEAREST, NEXT, LAST = 0.974631, 0.998190, 0.999618


@pytest.mark.parametrize(
    ("params", "max_ids", "scores"),
    [
        ({"whichToKeep": "hard"}, [5, 2, 3, 3, 5, 1], [1, NEXT, LAST, 0, 1, NEAREST]),
        ({"whichToKeep": "hard", "distanceMetric": "l2"}, [5, 2, 3, 3, 5, 1], [1, NEXT, LAST, 0, 1, NEAREST]),
        ({"whichToKeep": "easy"}, [0, 0, 1, 2, 0, 0], [0, NEAREST, NEXT, LAST, 1, 1]),
        ({"whichToKeep": "easy", "distanceMetric": "l2"}, [0, 0, 1, 2, 0, 0], [0, NEAREST, NEXT, LAST, 1, 1]),
    ],
    ids=str,
)
def test_nemo_curators_six_rows(six_rows, params, max_ids, scores):
    found = PairwiseSimilarity(**params).transform(six_rows).orderBy("id").collect()
    assert [row.max_id for row in found] == max_ids
    assert [row.cosine_sim_score for row in found] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    ("rank_by", "order"),
    [(["custom_score desc"], [3, 1, 2, 4, 5, 0]), (["priority", "custom_score desc"], [3, 1, 2, 5, 4, 0])],
)
def test_nemo_curators_six_rows_ranked_by_columns(six_rows, rank_by, order):
    """Its suite gives the orders; ``max_id`` follows from them and the similarities."""
    found = PairwiseSimilarity(rankBy=rank_by).transform(six_rows).collect()
    units = oracle.unit_vectors(np.array([row.embedding for row in six_rows.orderBy("id").collect()]))
    expected = oracle.similarities(units, np.zeros(6), np.array(order))
    assert {row.id: row.max_id for row in found} == dict(enumerate(expected.neighbour.tolist()))


def test_nemo_curators_single_row_has_no_neighbour(spark):
    frame = spark.createDataFrame([(1, [0.1, 0.2, 0.3], 0)], "id int, embedding array<double>, centroid int")
    assert [tuple(row) for row in PairwiseSimilarity(whichToKeep="random").transform(frame).collect()] == [(1, 1, 0.0)]


@pytest.mark.slow
def test_nemo_curators_blobs(spark):
    """test_workflow.py: five Gaussian blobs of 100 … 500 points in three dimensions; at eps 0.01 and k 5 it removes
    1,471 points with hard and 1,495 with easy, for either distance. (With random it removes 1,483 by its own random
    numbers; ours are hashes of ids, by contract.)"""
    rng = np.random.RandomState(42)  # scikit-learn's make_blobs(random_state=42) draws these
    centres = rng.uniform(-10, 10, (5, 3))
    points = np.concatenate([rng.normal(c, 1.0, (100 * (i + 1), 3)) for i, c in enumerate(centres)])
    frame = spark.createDataFrame(list(enumerate(points.tolist())), "id int, embeddings array<double>").persist()
    model = SemDedup(embeddingCol="embeddings", k=5, nInit=10, fitSampleRows=0, eps=0.01, backend="cpu").fit(frame)
    assert model.duplicates(frame).count() == 1471
    assert model.copy({model.whichToKeep: "easy", model.distanceMetric: "l2"}).duplicates(frame).count() == 1495
    frame.unpersist()


def test_nemo_curators_thresholds(spark):
    """test_identify_duplicates.py; two rows that name each other are both duplicates there and here."""
    rows = [("doc1", "doc2", 0.98), ("doc2", "doc1", 0.98), ("doc3", "doc4", 0.85), ("doc4", "doc3", 0.85)]
    rows += [("doc5", "doc5", 0.0), ("doc6", "doc1", 0.75)]
    frame = spark.createDataFrame(rows, "id string, max_id string, cosine_sim_score float")
    expected = {0.01: [], 0.1: ["doc1", "doc2"], 0.2: ["doc1", "doc2", "doc3", "doc4"]}
    for eps, duplicates in expected.items():
        assert ids(IdentifyDuplicates(eps=eps).transform(frame)) == duplicates


# --- results ------------------------------------------------------------------------------------------------


def test_the_four_tables_fit_together_and_are_computed_once(df):
    model = SemDedupModel(centroids=CENTROIDS, whichToKeep="first", eps=0.01)
    result = model.run(df)
    try:
        assert result.compared.is_cached
        assert_df_equality(result.similarities, model.similarities(df), ignore_row_order=True)
        assert_df_equality(result.duplicates, model.duplicates(df), ignore_row_order=True)
        assert_df_equality(result.deduplicated, model.transform(df), ignore_row_order=True)
        assert result.invalid.count() == 0
    finally:
        result.unpersist()
    assert not result.compared.is_cached


def test_k_is_the_square_root_of_the_rows_unless_set(spark):
    rows = vectors.make("random", 30, 4).tolist()
    frame = spark.createDataFrame(list(enumerate(rows)), "id int, embedding array<float>")
    assert EmbeddingKMeans(backend="cpu").fit(frame).centroids.shape == (5, 4)
    assert len(EmbeddingKMeans(k=3, backend="cpu").fit(frame).clusterCenters()) == 3


@pytest.mark.parametrize("stage", [EmbeddingKMeans, SemDedup])
def test_a_k_that_is_not_set_is_that_of_the_valid_rows(spark, stage):
    """Of 40 rows it would be 6, but 5 are valid."""
    rows = [(i, row if i % 8 == 0 else None) for i, row in enumerate(vectors.make("random", 40, 4).tolist())]
    df = spark.createDataFrame(rows, "id int, embedding array<float>")
    assert len(stage(backend="cpu", handleInvalid="skip").fit(df).centroids) == 2
    for k in (6, 5):
        chosen = stage(k=k, backend="cpu", handleInvalid="skip")
        if k == 5:
            assert len(chosen.fit(df).centroids) == 5
        else:
            with pytest.raises(SemDedupError, match=r"^k=6 is larger than the 5 rows with a valid embedding: lower k$"):
                chosen.fit(df)


@pytest.mark.skipif(not hasattr(F, "collate"), reason="collations came with Spark 4")
def test_similarities_decide_by_the_bytes_of_ids_whatever_their_collation(spark):
    df = spark.createDataFrame([("a", "A", 1.0), ("B", "B", 0.0)], "id string, max_id string, cosine_sim_score float")
    for name in ("id", "max_id"):
        df = df.withColumn(name, F.collate(name, "UTF8_LCASE"))
    assert ids(IdentifyDuplicates().transform(df)) == ["a"]


@pytest.mark.skipif(not hasattr(F, "collate"), reason="collations came with Spark 4")
def test_ids_are_compared_by_their_bytes_whatever_their_collation(spark):
    """By their collation, ``A`` and ``a`` would be one id, and ``B`` would follow ``a``."""
    ids_ = [("a", [1.0, 0.0]), ("A", [1.0, 0.0]), ("B", [2.0, 0.0]), ("c", None)]
    df = spark.createDataFrame(ids_, "id string, embedding array<double>")
    df = df.withColumn("id", F.collate("id", "UTF8_LCASE"))
    estimator = SemDedup(k=1, rankBy=["id"], backend="cpu", handleInvalid="skip")
    result = estimator.fit(df).run(df)
    try:
        result.check()
        assert {row.id: row.max_id for row in result.duplicates.collect()} == {"B": "A", "a": "A"}
        assert (ids(result.deduplicated), ids(result.invalid)) == (["A"], ["c"])
        unwanted = df.where("embedding IS NULL").select("id")
        assert ids(RemoveDuplicates().setDuplicates(unwanted).transform(df)) == ["A", "B", "a"]
    finally:
        result.unpersist()
