"""The functions that run in tasks: the pandas UDF that embeds a column, and the probe that describes a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark.worker import prepare_worker
from spark_semdedup.text.device import task_device
from spark_semdedup.text.embed import BatchEmbedder, EmbedSettings
from spark_semdedup.text.models import Encoder, EncoderModel, ModelSpec, TextModel, load_model


@dataclass(frozen=True)
class ModelFacts:
    """What a loaded model is."""

    kind: str
    """``sentence-transformers``, ``model2vec``, ``onnx``, ``hashing`` or ``callable``."""
    dim: int
    """Length of its embeddings."""
    max_tokens: int | None
    """Tokens it reads of a text; None: all, or unknown."""
    on_gpu: bool
    """Whether it runs on the task's GPU."""


@dataclass(frozen=True)
class ModelLoader:
    """Loads a model in a task: that of ``spec``, or a user's ``encoder``."""

    spec: ModelSpec
    encoder: Encoder | None = None

    def __call__(self) -> TextModel:
        if self.encoder is not None:
            return EncoderModel(self.encoder, self.spec.prompt)
        device = task_device(self.spec.backend)
        return load_model(self.spec, device.threads, device.gpu)


@dataclass(frozen=True)
class ColumnEmbedder:
    """The function of a scalar pandas UDF over iterators: UTF-8 texts → embeddings, null for null and blank texts."""

    load: ModelLoader
    settings: EmbedSettings
    counts: Any
    """An accumulator of ``EmbeddingCounts``, or None."""

    def __call__(self, batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        prepare_worker()
        model = self.load()
        embed = BatchEmbedder(model, self.settings)
        for texts in batches:
            vectors, counts = embed(texts)
            if self.counts is not None:
                self.counts.add(counts)
            yield pd.Series(vectors, dtype=object)


@dataclass(frozen=True)
class ModelProbe:
    """The function of ``mapInArrow`` that answers one row: ``ModelFacts`` as JSON, or why the model does not load.

    An answer, not an error: Spark would run a failed task again, and log it each time.
    """

    load: ModelLoader

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        prepare_worker()
        for _ in batches:
            facts, fault = None, None
            try:
                facts = json.dumps(asdict(describe(self.load())))
            except SemDedupError as error:
                fault = str(error)
            columns = {"facts": pa.array([facts], pa.string()), "fault": pa.array([fault], pa.string())}
            yield pa.RecordBatch.from_pydict(columns)


def describe(model: TextModel) -> ModelFacts:
    """What a loaded model is; embeds one word to learn its dimension."""
    (vector,), _ = BatchEmbedder(model, EmbedSettings())([b"text"])
    assert vector is not None  # a word can be printed
    return ModelFacts(model.kind, len(vector), model.max_tokens, model.on_gpu)
