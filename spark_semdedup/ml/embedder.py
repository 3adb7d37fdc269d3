"""``TextEmbedder``: texts → embeddings, as a stage of a ``pyspark.ml.Pipeline``."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pyspark.accumulators import AccumulatorParam
from pyspark.ml import Transformer
from pyspark.ml.util import DefaultParamsWritable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import pandas_udf

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.ml.persistence import StageReadable
from spark_semdedup.spark.columns import refuse_shadowed, text_column
from spark_semdedup.text.embed import EmbeddingCounts, EmbedSettings
from spark_semdedup.text.models import Encoder, ModelSpec
from spark_semdedup.text.task import ColumnEmbedder, ModelFacts, ModelLoader, ModelProbe
from spark_semdedup.text_params import TextEmbedderParams

log = logging.getLogger("spark_semdedup")

TRUNCATED_SHARE = 0.01
"""Share of truncated texts from which a warning says so."""


class TextEmbedder(Transformer, TextEmbedderParams, StageReadable, DefaultParamsWritable):
    """Embeds a column of texts: ``inputCol`` (string) → ``outputCol`` (``array<float>``); other columns are untouched.

    ``model`` names a sentence-transformers, Model2Vec or ONNX model; instead of it, ``encoder`` takes any callable
    ``list[str] -> ndarray`` (n, d), which is pickled to the workers and not saved with the stage.

    Each Python worker loads the model once, on the task's GPU or with ``spark.task.cpus`` threads. Equal texts of a
    task are embedded once. Null texts, and texts without a printable character, get a null embedding; ``SemDedup``'s
    ``handleInvalid`` says what becomes of such rows.

    The output is cached (``cache``), so a ``Pipeline`` of ``TextEmbedder`` and ``SemDedup`` embeds once, and its
    model applied to the same DataFrame does not embed again. ``counts()`` tells how many texts were truncated.

    >>> df = spark.createDataFrame([(1, "a small cat"), (2, "A small, small cat"), (3, None)], "id int, text string")
    >>> embedder = TextEmbedder(model="hashing:64")
    >>> embedded = embedder.transform(df)
    >>> [(row.id, row.embedding and len(row.embedding)) for row in embedded.orderBy("id").collect()]
    [(1, 64), (2, 64), (3, None)]
    >>> embedder.counts().null
    1
    >>> embedder.unpersist()
    """

    __module__ = "spark_semdedup"  # saved models name it: see ``_moved``

    constructor_arguments = ("encoder",)

    def __init__(self, *, encoder: Encoder | None = None, **params: Any) -> None:
        super().__init__(**params)
        self._encoder = encoder
        self._output: _Output | None = None

    def setEncoder(self, encoder: Encoder) -> TextEmbedder:
        """A callable to embed with instead of a model: n texts → an array (n, d). Not saved with the stage."""
        self._encoder = encoder
        return self

    def _transform(self, dataset: DataFrame) -> DataFrame:
        before = self._output
        if before is not None and before.is_of(dataset, self._key()):
            return before.embedded
        text = self._text_column(dataset)
        refuse_shadowed(dataset, [self.value("outputCol")], type(self).__name__)
        self.describe_model(dataset.sparkSession)
        embed = ColumnEmbedder(self._loader(), self._settings(), _accumulator(dataset.sparkSession))
        embedded = dataset.withColumn(self.value("outputCol"), _udf(embed)(text))
        if self.value("cache"):
            embedded = embedded.persist()
        self._output = _Output(weakref.ref(dataset), self._key(), embedded, embed.counts)
        return embedded

    def describe_model(self, spark: SparkSession) -> ModelFacts:
        """Loads the model in one task, and tells what it is.

        Raises ``SemDedupError`` where it does not load, before any work that depends on it.
        """
        probe = ModelProbe(self._loader())
        one_row = spark.range(0, 1, 1, 1)
        (row,) = one_row.mapInArrow(lambda batches: probe(batches), "facts string, fault string").collect()
        if row.fault is not None:
            raise SemDedupError(row.fault)
        return ModelFacts(**json.loads(row.facts))

    def counts(self) -> EmbeddingCounts:
        """What became of the texts that were embedded since the last new input, by all jobs that have ended.

        A task that Spark runs twice counts twice. Zero before the first job, and under Spark Connect. Warns where more
        than 1 % of the texts were truncated.
        """
        accumulator = self._output.counts if self._output else None
        counts: EmbeddingCounts = accumulator.value if accumulator is not None else EmbeddingCounts()
        warn_of_truncation(counts)
        return counts

    def unpersist(self) -> None:
        """Frees the cached output; the next ``transform`` embeds again.

        Of the last DataFrame alone: an earlier one's stays, since rows that were made of it may still be in use.
        """
        if self._output is not None:
            self._output.embedded.unpersist()
            self._output = None

    def _text_column(self, dataset: DataFrame) -> Column:
        """The text's UTF-8, cut to ``maxChars``: as binary, since a string that is no UTF-8 would fail on its way."""
        text = text_column(dataset, self.value("inputCol"), "inputCol")
        return F.substring(text, 1, self.value("maxChars")).cast("binary")

    def _loader(self) -> ModelLoader:
        model = self.value("model")
        if (model is None) == (self._encoder is None):
            both = "both set; set one of them" if model else "both unset; set one of them"
            raise SemDedupError(f"model={shown(model)} and encoder are {both}")
        if self._encoder is not None and not callable(self._encoder):
            raise SemDedupError(f"encoder={shown(self._encoder)} cannot be used: it must be a callable")
        spec = ModelSpec(
            model=model or "",
            max_tokens=self.value("maxTokens"),
            prompt=self.value("prompt") or "",
            precision=self.value("modelPrecision"),
            backend=self.value("backend"),
        )
        return ModelLoader(spec, self._encoder)

    def _settings(self) -> EmbedSettings:
        return EmbedSettings(
            self.value("chunk"), self.value("batchTokens"), self.value("normalize"), self.value("maxChars")
        )

    def _key(self) -> tuple[Any, ...]:
        """What the output depends on, beside the input."""
        return (self._encoder, *(self.value(param.name) for param in self.params))


def warn_of_truncation(counts: EmbeddingCounts) -> None:
    share = counts.truncated_share()
    if share > TRUNCATED_SHARE:
        log.warning(
            "%d texts (%.1f %%) are longer than the model reads: texts that differ only later look equal; set "
            "chunk=tokens to embed them whole",
            counts.truncated,
            100 * share,
        )


def _udf(embed: ColumnEmbedder) -> Callable[[Column], Column]:
    """A scalar pandas UDF: Spark sends it the text alone, so other columns may be of any type and cost nothing.

    Not deterministic, to Spark: a filter on its answer would otherwise be pushed below it, and it would run twice.
    """

    @pandas_udf(T.ArrayType(T.FloatType()))  # type: ignore[call-overload]
    def embedding(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        yield from embed(batches)

    return embedding.asNondeterministic()  # type: ignore[no-any-return]


class _CountsParam(AccumulatorParam[EmbeddingCounts]):
    def zero(self, value: EmbeddingCounts) -> EmbeddingCounts:
        return EmbeddingCounts()

    def addInPlace(self, value1: EmbeddingCounts, value2: EmbeddingCounts) -> EmbeddingCounts:
        return value1 + value2


def _accumulator(spark: SparkSession) -> Any:
    """None for a Spark Connect client, which has none."""
    context = getattr(spark, "sparkContext", None) if hasattr(spark, "_jsparkSession") else None
    return None if context is None else context.accumulator(EmbeddingCounts(), _CountsParam())


@dataclass(frozen=True)
class _Output:
    """The last output, for who asks for it again."""

    dataset: weakref.ref[DataFrame]
    key: tuple[Any, ...]
    embedded: DataFrame
    counts: Any

    def is_of(self, dataset: DataFrame, key: tuple[Any, ...]) -> bool:
        return self.dataset() is dataset and self.key == key
