"""Inputs that are not the same each time they are computed: what is refused, and what cannot change the answer."""

from __future__ import annotations

import logging
import random
import uuid
from pathlib import Path

import numpy as np
import oracle
import pyarrow as pa
import pytest
import vectors
from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from spark_semdedup import RemoveDuplicates, SemDedup, SemDedupModel
from spark_semdedup.errors import SemDedupError
from spark_semdedup.runs.identity import fingerprint
from spark_semdedup.runs.preflight import Job
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.steps import run
from spark_semdedup.runs.target import Target
from spark_semdedup.spark.determinism import origin, reads_only_files
from spark_semdedup.spark.files import Files

D, ROWS = 8, 60
VECTORS = vectors.make("near_duplicates", ROWS, D, seed=4)
CENTROIDS = VECTORS[[0, 11, 22]].copy()


def number() -> Column:
    return F.monotonically_increasing_id()


def new_id():
    """Ids drawn by a Python function, which as one of this module's could not be found in the tasks."""

    def draw() -> str:
        return str(uuid.uuid4())

    return F.udf(draw)


@pytest.fixture(scope="module")
def df(spark, tmp_path_factory):
    """Of files, so that the plan has no function but those that a test adds."""
    rows = [(i, f"text {i % 7}", v.tolist()) for i, v in enumerate(VECTORS)]
    place = str(tmp_path_factory.mktemp("rows") / "rows")
    spark.createDataFrame(rows, "id long, text string, embedding array<float>").repartition(3).write.parquet(place)
    return spark.read.parquet(place)


def model(**params) -> SemDedupModel:
    return SemDedupModel(centroids=CENTROIDS, backend="cpu", **params)


def found(frame) -> dict:
    return {row.id: (row.max_id, np.float32(row.cosine_sim_score).tobytes()) for row in frame.collect()}


def expected() -> dict:
    true = oracle.answer(list(range(ROWS)), VECTORS, CENTROIDS)
    return {id_: (other, score.tobytes()) for id_, (other, score) in true.items()}


# --- where a column is made ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "drawn_by"),
    [
        (lambda df: df, ""),
        (lambda df: df.withColumn("id", F.expr("uuid()")), "uuid"),
        (lambda df: df.withColumn("id", F.rand(7).cast("string")), "rand"),
        (lambda df: df.withColumn("id", number()), "monotonically_increasing_id"),
        (lambda df: df.withColumn("id", new_id().asNondeterministic()()), "draw"),
        # Far from where it is used, under other names.
        (
            lambda df: df.withColumn("n", number()).where("n > 3").select(F.concat("text", "n").alias("id")).distinct(),
            "monotonically_increasing_id",
        ),
        (lambda df: df.unionByName(df.withColumn("id", number())), "monotonically_increasing_id"),
        (lambda df: df.groupBy((F.col("id") + F.rand()).alias("id")).count(), "rand"),
        (lambda df: df.withColumn("id", F.row_number().over(Window.orderBy(F.rand()))), "rand"),
        # What has no part in the ids, or is the same each time.
        (lambda df: df.withColumn("other", F.expr("uuid()")), ""),
        (lambda df: df.where(F.rand(1) < 0.5), ""),
        (lambda df: df.withColumn("id", F.concat(F.input_file_name(), "text")), ""),
        (lambda df: df.alias("a").join(df.withColumn("z", number()).alias("b"), "text").select("a.id"), ""),
    ],
)
def test_a_column_is_followed_to_where_it_is_made(df, change, drawn_by):
    assert origin(change(df), "id").drawn_by == ({drawn_by} if drawn_by else set())


@pytest.mark.parametrize(
    ("change", "opaque"),
    [
        (lambda df: df.withColumn("id", new_id()()), True),
        (lambda df: df.mapInArrow(lambda batches: batches, df.schema).where("id > 2"), True),
        (lambda df: df.withColumn("other", new_id()()), False),
        (lambda df: df.groupBy("id").pivot("text", ["text 1"]).count(), False),
    ],
)
def test_users_functions_are_known_as_such(df, change, opaque):
    assert origin(change(df), "id").is_opaque == opaque


# --- what an input is known by -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "only"),
    [
        (lambda df, rest: df, True),
        (lambda df, rest: df.where("id > 3").join(df.groupBy("text").count(), "text"), True),
        (lambda df, rest: df.unionByName(rest), False),
        (lambda df, rest: df.join(rest.select("id"), "id", "left_semi"), False),
    ],
)
def test_an_input_is_known_by_its_files_if_it_is_made_of_nothing_else(spark, df, change, only):
    more = [(ROWS, "more", VECTORS[0].tolist())]
    rest = spark.createDataFrame(more, df.schema)
    assert reads_only_files(change(df, rest)) == only


def test_rows_of_a_subquery_are_no_files(spark, df):
    df.createOrReplaceTempView("rows_of_files")
    spark.range(3).createOrReplaceTempView("rows_of_none")
    assert reads_only_files(spark.sql("SELECT * FROM rows_of_files"))
    assert not reads_only_files(spark.sql("SELECT * FROM rows_of_files WHERE id > (SELECT max(id) FROM rows_of_none)"))


def test_files_that_are_not_listed_do_not_count_as_such(spark, df):
    """``inputFiles()`` has none of a subquery that gives one value."""
    df.createOrReplaceTempView("rows_of_files")
    below = spark.sql("SELECT * FROM rows_of_files WHERE id < (SELECT max(id) FROM rows_of_files)")
    assert not reads_only_files(below)
    defined = spark.sql(
        "WITH w AS (SELECT * FROM rows_of_files WHERE rand(1) < 2) SELECT * FROM w UNION SELECT * FROM w"
    )
    assert reads_only_files(defined)
    assert len(defined.inputFiles()) == len(df.inputFiles())


def test_rows_beside_files_are_part_of_what_an_input_is(spark, df):
    found = []
    for vector in (VECTORS[0], VECTORS[0], VECTORS[1]):
        df.unionByName(spark.createDataFrame([(ROWS, "", vector.tolist())], df.schema)).createOrReplaceTempView("mixed")
        source = Source(table="mixed")
        found.append(fingerprint(Files(spark), source, source.read(spark), SemDedup()))
    assert found[0] == found[1] != found[2]


# --- refused ------------------------------------------------------------------------------------------------


def test_ids_drawn_by_spark_are_refused(df):
    drawn = df.withColumn("id", F.expr("uuid()"))
    words = r"^idCol='ID' is made by uuid\(\), which Spark computes again, .*: write the rows and read them back"
    for use in (SemDedup(k=2, idCol="ID").fit, model(idCol="ID").transform):
        with pytest.raises(SemDedupError, match=words):
            use(drawn)
    with pytest.raises(SemDedupError, match="idCol='id' is made by uuid"):
        RemoveDuplicates().setDuplicates(df.select("id")).transform(drawn)


def test_ids_drawn_by_a_python_function_are_refused(df):
    """Spark takes it for deterministic; the ids are looked at twice."""
    with pytest.raises(SemDedupError, match=r"^idCol='id' has other values when it is computed again"):
        SemDedup(k=2).fit(df.withColumn("id", new_id()()))


def test_ranks_drawn_by_spark_are_refused(df):
    with pytest.raises(SemDedupError, match=r"^rankBy='r' is made by rand\(\)"):
        model(rankBy=["text", "r desc"]).transform(df.withColumn("r", F.rand()))


def test_numbers_that_ties_could_change_are_warned_of(df, caplog):
    numbered = df.withColumn("id", F.row_number().over(Window.orderBy("text")))
    with caplog.at_level(logging.WARNING, "spark_semdedup"):
        model().transform(numbered)
    assert "idCol='id' is made by row_number()" in caplog.text


# --- the same answer ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ids_of_a_steady_python_function_are_taken(df):
    same = df.withColumn("id", F.udf(lambda i: i, "long")("id"))
    assert found(model().similarities(same)) == expected()


@pytest.mark.slow
def test_drawn_ids_are_taken_once_they_are_kept(df):
    """Refused, persisted, taken; each row keeps the id that its decision was made under."""
    drawn = df.withColumn("number", F.col("id")).withColumn("id", F.expr("uuid()"))
    with pytest.raises(SemDedupError, match="uuid"):
        model(whichToKeep="easy").run(drawn)
    drawn.persist()
    try:
        ids = {row.number: row.id for row in drawn.collect()}
        numbered = oracle.answer([ids[i] for i in range(ROWS)], VECTORS, CENTROIDS, whichToKeep="easy")
        true = {id_: (other, score.tobytes()) for id_, (other, score) in numbered.items()}
        assert found(model(whichToKeep="easy").similarities(drawn)) == true
    finally:
        drawn.unpersist()


@pytest.mark.slow
def test_rows_may_come_in_any_order(df):
    """Another one each time, in other partitions: fit, comparison and removal are the same."""

    def shuffled(batches):
        table = pa.Table.from_batches(list(batches))
        order = np.random.default_rng().permutation(table.num_rows)
        yield from table.take(order).to_batches(max_chunksize=random.randint(1, 9))

    steady = SemDedup(k=3, fitSampleRows=40, backend="cpu").fit(df)
    for partitions in (1, 5):
        restless = df.repartition(partitions, F.udf(lambda: random.random(), "double")()).mapInArrow(
            shuffled, df.schema
        )
        fitted = SemDedup(k=3, fitSampleRows=40, backend="cpu").fit(restless)
        assert fitted.centroids.tobytes() == steady.centroids.tobytes()
        result = fitted.run(restless)
        assert found(result.similarities) == found(steady.similarities(df))
        left = {row.id for row in result.deduplicated.collect()}
        assert left == {row.id for row in steady.transform(df).collect()}
        result.unpersist()


@pytest.mark.slow
def test_embeddings_are_those_of_one_look(df):
    """A function that embeds a text otherwise each time, say: similarities, duplicates and what remains fit together,
    whatever is asked for first."""

    @F.udf("array<float>")
    def restless(embedding):
        return [value + 0.3 * random.gauss(0, 1) for value in embedding]

    result = model(eps=0.1).run(df.withColumn("embedding", restless("embedding")))
    left = {row.id for row in result.deduplicated.collect()}
    gone = {row.id for row in result.duplicates.collect()}
    threshold = 1.0 - 0.1
    decided = {
        row.id for row in result.similarities.collect() if row.id != row.max_id and row.cosine_sim_score >= threshold
    }
    result.unpersist()
    assert gone == decided
    assert 0 < len(gone) < ROWS
    assert (gone | left, gone & left) == (set(range(ROWS)), set())


@pytest.mark.slow
@pytest.mark.parametrize("late", [True, False], ids=["a row is gone", "a row is new"])
def test_rows_that_are_not_there_each_time_are_noticed(spark, df, tmp_path, late):
    """Which one it is changes when the comparison has been written; the program counts at its end."""
    written = tmp_path / "out/similarities/_semdedup.json"
    kept = next(iter(id_ for id_, (other, _) in expected().items() if id_ == other))

    @F.udf("boolean")
    def there(id_: int) -> bool:
        return id_ != kept or Path(written).exists() != late

    df.where(there("id")).createOrReplaceTempView("restless")
    settings = {"k": 3, "backend": "cpu", "initMode": CENTROIDS.tolist()}
    with pytest.raises(SemDedupError, match=r"^the input changed while it was read: (59|60) rows were compared, but"):
        run(Job.of(spark), Source(table="restless"), Target(str(tmp_path / "out")), settings)
    assert not (tmp_path / "out/_manifest.json").exists()


def test_columns_added_in_a_loop_cost_few_calls_each(df, monkeypatch):
    """A look at every column of every node took 74 s after 400 calls of withColumn."""
    for i in range(300):  # Spark's own analysis of many more overflows a thread's stack
        df = df.withColumn(f"more_{i % 10}", F.lit(i))
    client = df._sc._gateway._gateway_client
    calls = []
    send = client.send_command
    monkeypatch.setattr(client, "send_command", lambda *a, **k: calls.append(None) or send(*a, **k))
    assert not origin(df, "id").drawn_by
    assert 300 < len(calls) < 10 * 300, "of 1,000 columns at most 10,000, which take 1 s"
    assert origin(df.withColumn("id", F.expr("uuid()")).withColumn("last", F.lit(0)), "id").drawn_by == {"uuid"}
