"""``TextEmbedder`` on Spark."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import text_models
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import functions as F

from spark_semdedup import SemDedup
from spark_semdedup.errors import SemDedupError, error_from_worker
from spark_semdedup.ml.embedder import TextEmbedder
from spark_semdedup.text.hashing import HashingModel

TEXTS = [
    "a fast editor for text",
    "A fast editor, for text!",
    "a fast editor for text",
    "kernel modules for old hardware",
    "a viewer of pictures",
]


@pytest.fixture
def documents(spark):
    rows = [(i, text, {"n": float(i)}) for i, text in enumerate(TEXTS)]
    df = spark.createDataFrame(rows, "id int, text string, `odd.name` map<string, double>").repartition(2)
    yield df
    spark.catalog.clearCache()


def collected(df, column="embedding") -> dict:
    return {row["id"]: None if row[column] is None else np.array(row[column], np.float32) for row in df.collect()}


def expected(text: str, dim: int = 64) -> np.ndarray:
    model = HashingModel(dim)
    (vector,) = model.embed(model.tokenize([text]))
    return vector / np.linalg.norm(vector)


def test_it_adds_the_embedding_and_touches_no_other_column(documents):
    embedded = TextEmbedder(model="hashing:64", outputCol="vector", cache=False).transform(documents)
    assert embedded.columns == ["id", "text", "odd.name", "vector"]
    assert embedded.schema["vector"].dataType.simpleString() == "array<float>"
    rows = {row["id"]: row for row in embedded.collect()}
    assert {i: (row["text"], row["odd.name"]) for i, row in rows.items()} == {
        i: (text, {"n": float(i)}) for i, text in enumerate(TEXTS)
    }
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(rows[i]["vector"], expected(text), rtol=1e-6)


def test_partitions_and_batch_sizes_do_not_matter(documents):
    one = collected(TextEmbedder(model="hashing:64", cache=False).transform(documents.coalesce(1)))
    many = collected(TextEmbedder(model="hashing:64", cache=False, batchTokens=1).transform(documents.repartition(5)))
    assert one.keys() == many.keys()
    for i, vector in one.items():
        np.testing.assert_array_equal(vector, many[i])


def noting_encoder(file: Path):
    """An encoder that writes down each text it gets: the workers are other processes."""

    def encoder(texts: list[str]) -> np.ndarray:
        with file.open("a") as notes:
            notes.writelines(json.dumps(text) + "\n" for text in texts)
        model = HashingModel(64)
        return model.embed(model.tokenize(texts))

    return encoder


def noted(file: Path) -> Counter:
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter(text for text in map(json.loads, lines) if text != "text")  # one word is to learn the dimension


def test_a_pipeline_embeds_once_and_keeps_the_input_s_columns(documents, tmp_path):
    notes = tmp_path / "texts"
    embedder = TextEmbedder(encoder=noting_encoder(notes))
    pipeline = Pipeline(stages=[embedder, SemDedup(k=1, eps=0.05, whichToKeep="first", backend="cpu")])
    kept = pipeline.fit(documents).transform(documents)
    rows = kept.orderBy("id").collect()
    assert [row["id"] for row in rows] == [0, 3, 4]
    assert kept.columns == ["id", "text", "odd.name", "embedding"]
    assert rows[1]["odd.name"] == {"n": 3.0}
    kept.count()
    # Twice where equal texts came to two tasks.
    assert set(noted(notes)) == set(TEXTS)
    assert max(noted(notes).values()) <= 2
    assert noted(notes).total() == embedder.counts().embedded
    assert embedder.counts().rows == len(TEXTS)


def test_without_a_cache_it_embeds_for_each_action(documents, tmp_path):
    notes = tmp_path / "texts"
    embedded = TextEmbedder(encoder=noting_encoder(notes), cache=False).transform(documents.coalesce(1))
    embedded.select("id").collect()
    assert not noted(notes), "nobody asked for embeddings"
    for _ in range(2):
        embedded.where(F.size("embedding") > 0).collect()
    assert noted(notes) == dict.fromkeys(TEXTS, 2)


def test_other_settings_and_another_input_embed_anew(documents):
    embedder = TextEmbedder(model="hashing:64")
    first = embedder.transform(documents)
    assert embedder.transform(documents) is first
    assert len(embedder.setModel("hashing:32").transform(documents).first()["embedding"]) == 32
    assert embedder.transform(documents.limit(2)).count() == 2
    embedder.unpersist()
    again = embedder.transform(documents)
    assert again is not first
    assert again.storageLevel.useMemory


def test_null_and_blank_texts_get_null_and_are_counted(spark):
    df = spark.createDataFrame(
        [(1, None), (2, ""), (3, " \t\u3000"), (4, "\x01\x02"), (5, "word")], "id int, text string"
    )
    embedder = TextEmbedder(model="hashing:64")
    vectors = collected(embedder.transform(df))
    assert [i for i, vector in vectors.items() if vector is None] == [1, 2, 3, 4]
    counts = embedder.counts()
    assert (counts.rows, counts.null, counts.blank, counts.embedded) == (5, 1, 3, 1)
    deduplicator = SemDedup(k=1, backend="cpu", handleInvalid="skip", whichToKeep="first")
    result = deduplicator.fit(embedder.transform(df)).run(embedder.transform(df))
    assert {row["id"]: row["reason"] for row in result.invalid.collect()} == dict.fromkeys(
        [1, 2, 3, 4], "embedding is null"
    )
    result.unpersist()
    embedder.unpersist()


def test_broken_unicode_is_embedded_with_replacements(spark, tmp_path):
    """Half a surrogate pair in JSON, and bytes in a Parquet string column that are no UTF-8."""
    (tmp_path / "a.json").write_text('{"id": 1, "text": "half \\ud800 pair"}\n')
    half = collected(TextEmbedder(model="hashing:64", cache=False).transform(spark.read.json(str(tmp_path / "a.json"))))
    np.testing.assert_array_equal(half[1], expected("half pair"))
    raw = pa.array([b"broken \xff\xfe bytes"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    pq.write_table(pa.table({"id": [1], "text": text}), tmp_path / "b.parquet")
    df = spark.read.parquet(str(tmp_path / "b.parquet"))
    vector = collected(TextEmbedder(model="hashing:64", cache=False).transform(df))[1]
    np.testing.assert_array_equal(vector, expected("broken bytes"))


def test_a_huge_text_is_cut_before_it_travels_and_counted(spark, caplog):
    df = spark.range(3).select(
        "id", F.when(F.col("id") == 0, F.repeat(F.lit("word "), 2_000_000)).otherwise("a b").alias("text")
    )
    embedder = TextEmbedder(model="hashing:64", cache=False, maxChars=1000)
    lengths = embedder.transform(df).select(F.length("text").alias("length"), F.size("embedding").alias("size"))
    assert sorted(row["length"] for row in lengths.collect()) == [3, 3, 10_000_000]
    with caplog.at_level(logging.WARNING, "spark_semdedup"):
        assert embedder.counts().truncated == 1
    assert "1 texts (33.3 %) are longer than the model reads" in caplog.text


def test_a_stage_is_saved_and_loaded_with_its_params(tmp_path, documents):
    stage = TextEmbedder(model="hashing:32", inputCol="text", outputCol="vector", chunk="tokens", batchTokens=100)
    stage.save(str(tmp_path / "stage"))
    loaded = TextEmbedder.load(str(tmp_path / "stage"))
    assert loaded.uid == stage.uid
    assert {p.name: loaded.value(p.name) for p in loaded.params} == {p.name: stage.value(p.name) for p in stage.params}
    assert len(loaded.transform(documents).first()["vector"]) == 32


def test_a_fitted_pipeline_is_saved_and_loaded(tmp_path, documents):
    pipeline = Pipeline(stages=[TextEmbedder(model="hashing"), SemDedup(k=1, whichToKeep="first", backend="cpu")])
    pipeline.fit(documents).save(str(tmp_path / "model"))
    loaded = PipelineModel.load(str(tmp_path / "model"))
    assert sorted(row["id"] for row in loaded.transform(documents).collect()) == [0, 3, 4]


def test_a_model_of_another_dimension_than_the_fitted_one_is_refused(documents):
    embedded = TextEmbedder(model="hashing:64").transform(documents)
    model = SemDedup(k=1, backend="cpu", whichToKeep="first").fit(embedded)
    other = TextEmbedder(model="hashing:32").transform(documents)
    with pytest.raises(Exception, match=r"length 32, not 64|lengths? .*32.* 64") as caught:
        model.transform(other).collect()
    assert error_from_worker(caught.value) is not None


def test_it_describes_its_model(spark, tmp_path):
    pytest.importorskip("model2vec", reason="needs the extra text")
    facts = TextEmbedder(model=str(text_models.static_model(tmp_path / "model"))).describe_model(spark)
    assert (facts.kind, facts.dim, facts.max_tokens, facts.on_gpu) == ("model2vec", 8, 16, False)


@pytest.mark.slow
@text_models.no_potion
def test_a_real_static_model_finds_near_duplicates(documents):
    embedded = TextEmbedder(model=str(text_models.POTION)).transform(documents)
    model = SemDedup(k=1, eps=0.1, whichToKeep="first", backend="cpu").fit(embedded)
    assert sorted(row["id"] for row in model.transform(embedded).collect()) == [0, 3, 4]


# --- refused ------------------------------------------------------------------------------------------------


def refused(stage: TextEmbedder, df) -> str:
    with pytest.raises(SemDedupError) as caught:
        stage.transform(df)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


def test_what_cannot_be_used_is_refused_in_one_line_before_any_text_is_embedded(documents, tmp_path):
    def text(**params):
        return TextEmbedder(**{"model": "hashing", **params})

    cases = [
        (TextEmbedder(), "model=None and encoder are both unset; set one of them"),
        (text(encoder=len), "model='hashing' and encoder are both set; set one of them"),
        (TextEmbedder(encoder="name"), "encoder='name' cannot be used: it must be a callable"),
        (text(inputCol="body"), "inputCol='body' is not among the columns: 'id', 'text', 'odd.name'"),
        (text(inputCol="id"), "inputCol='id' is of type int: it must be string"),
        (text(inputCol="odd.name"), "inputCol='odd.name' is of type map<string,double>: it must be string"),
        (text(outputCol="Text"), "appends the columns Text, but the input already has text"),
        (TextEmbedder(model="/no/model"), "model='/no/model' does not exist on "),
        (TextEmbedder(model=str(tmp_path)), "holds no model"),
        (TextEmbedder(model="hashing:0"), "it must be hashing:DIM"),
        (TextEmbedder(encoder=lambda texts: [1, 2]), "encoder '<lambda>' returned an array of shape (2,) for 1 texts"),
    ]
    for stage, said in cases:
        assert said in refused(stage, documents)


def test_a_stream_is_refused(spark):
    stream = spark.readStream.format("rate").load().select(F.col("value").cast("string").alias("text"))
    assert "the input is a stream" in refused(TextEmbedder(model="hashing"), stream)


def test_an_encoder_that_fails_later_is_one_line_in_the_worker_s_error(documents):
    def fails(texts):
        if texts != ["text"]:
            raise KeyError("no such word")
        return np.ones((1, 2))

    with pytest.raises(Exception, match="no such word") as caught:
        TextEmbedder(encoder=fails, cache=False).transform(documents).collect()
    said = str(error_from_worker(caught.value))
    assert said.startswith("encoder 'fails' failed on ")
    assert "KeyError" in said


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"chunk": "words"}, "chunk='words' cannot be used: it must be one of none, tokens"),
        ({"batchTokens": 0}, "batchTokens=0 cannot be used: it must be a whole number of at least 1"),
        ({"maxTokens": 3}, "maxTokens=3 cannot be used: it must be a whole number of at least 4"),
        ({"maxChars": "x"}, "maxChars='x' cannot be used"),
        ({"model": ""}, "model='' cannot be used: it must be a name"),
        ({"prompt": 7}, "prompt=7 cannot be used: it must be a text"),
        ({"modelPrecision": "int8"}, "it must be one of float32, float16, bfloat16"),
        ({"cache": "yes"}, "cache='yes' cannot be used: it must be true or false"),
        ({"modell": "x"}, "TextEmbedder has no Param 'modell'"),
    ],
)
def test_a_wrong_param_is_refused_when_it_is_set(params, said):
    with pytest.raises(SemDedupError, match=r".") as caught:
        TextEmbedder(**params)
    assert said in str(caught.value)
