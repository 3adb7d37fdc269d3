"""Texts to embed before they are compared: how, with which model, and their embeddings' folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.ml.param import Param
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import InvalidRowsError, SemDedupError, shown
from spark_semdedup.ml.embedder import TextEmbedder
from spark_semdedup.ml.kmeans import EmbeddingKMeansModel
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.params import HasColumns, HasIdCol, SemDedupParams, SemDedupStageParams
from spark_semdedup.runs.preflight import Job, SavedCentroids, Settings
from spark_semdedup.runs.results import write_dataset
from spark_semdedup.runs.summary import versions
from spark_semdedup.spark.backend import slots
from spark_semdedup.spark.columns import field, id_column, quoted, refuse_shadowed, text_column
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.parquet import own_reader
from spark_semdedup.spark.vectors import NULL_EMBEDDING
from spark_semdedup.text.task import ModelFacts
from spark_semdedup.text_params import HasTextModel


def _names(*groups: type[SemDedupParams]) -> frozenset[str]:
    return frozenset(name for group in groups for name, param in vars(group).items() if isinstance(param, Param))


COLUMN_PARAMS = _names(HasIdCol, HasColumns)

TEXT_PARAMS = _names(HasTextModel)
"""The Params that say how texts are embedded."""

FREE_TEXT_PARAMS = frozenset({"batchTokens"})
"""Of these, those that a run may be resumed with other values of."""

BLANK = "text is null or blank"
"""Why a document without an embedding cannot be compared."""

_PRINTABLE = r"[^\p{Z}\p{C}]"
"""Java's pattern for a character that shows (``text.embed.is_printable``)."""

_PARTITIONS_PER_SLOT = 4
"""Of the rows to embed, at least: tasks take long, and some take longer."""


@dataclass(frozen=True)
class DocumentEmbedder:
    """How documents are embedded: which column, and with which model."""

    text_col: str
    settings: Settings
    """Values of ``HasTextModel``'s Params and of ``backend``: those alone that the user has set."""

    def stage(self, embedding_col: str) -> TextEmbedder:
        return TextEmbedder(inputCol=self.text_col, outputCol=embedding_col, cache=False, **self.settings)

    def checked(self, job: Job, rows: DataFrame, columns: HasColumns, carried: Sequence[str] = ()) -> ModelFacts:
        """Loads the model in one task, and tells what it is.

        Raises ``SemDedupError`` where the texts or the model cannot be used, or the embedding would have the name of
        the id, the text or a ``carried`` column.
        """
        if self.settings.get("model") is None:
            raise SemDedupError(f"textCol={shown(self.text_col)} needs a model to embed the texts with: set model")
        text_column(rows, self.text_col, "textCol")
        embedding_col = columns.value("embeddingCol")
        refuse_shadowed(self._needed(rows, columns, carried), [embedding_col], "embed")
        return self.stage(embedding_col).describe_model(job.spark)

    def identity(self, model: ModelFacts) -> dict[str, Any]:
        """What decides the embeddings, by names a user knows."""
        chosen = {name: self.settings.get(name) for name in sorted(TEXT_PARAMS - FREE_TEXT_PARAMS)}
        return {"textCol": self.text_col, **chosen, "model's kind": model.kind, "model's dimension": model.dim}

    def described(self, model: ModelFacts) -> dict[str, Any]:
        """The Params in effect and the model's facts, for summaries."""
        stage = self.stage("embedding")
        names = sorted(TEXT_PARAMS)
        return {"textCol": self.text_col, **{name: stage.value(name) for name in names}, "modelFacts": asdict(model)}

    def refuse_blank(self, rows: DataFrame, id_col: str) -> None:
        """``InvalidRowsError`` where a text is null or blank. One job over ids and texts, which no model reads."""
        text = text_column(rows, self.text_col, "textCol")
        blank = text.isNull() | ~text.rlike(_PRINTABLE)
        found = rows.agg(
            F.count(F.when(blank, 1)).alias("blank"), F.min(F.when(blank, id_column(rows, id_col))).alias("example")
        ).first()
        assert found is not None  # an aggregate without groups always gives one row
        if found["blank"]:
            raise InvalidRowsError(
                f"textCol={shown(self.text_col)}: {found['blank']} texts are null or blank, such as the one of the row "
                f"with id {shown(found['example'])}: fix them, or set handleInvalid to skip or keep"
            )

    def write(
        self,
        files: Files,
        rows: DataFrame,
        path: str,
        columns: HasColumns,
        *,
        about: Mapping[str, Any],
        carried: Sequence[str] = (),
        check: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, int]:
        """Writes id, embedding and the ``carried`` columns of all rows to a folder. Returns counts by name.

        ``check``: of the number of rows, before the folder counts as whole. Rows are dealt out by a hash of their
        text, so that equal texts meet in one task and are embedded once.
        """
        embedding_col = columns.value("embeddingCol")
        stage = self.stage(embedding_col)
        names = [field(rows, columns.value("idCol"), "idCol").name]
        names += [name for name in carried if name not in names]
        text = text_column(rows, self.text_col, "textCol")
        dealt = self._needed(rows, columns, carried).repartition(_tasks(rows), F.xxhash64(text))
        embedded = stage.transform(dealt).select(*map(quoted, [*names, embedding_col]))
        total = write_dataset(files, embedded, path, about, check)
        read = own_reader(rows.sparkSession).schema(embedded.schema).parquet(path)
        missing = read.where(_is_null(embedding_col)).count()
        counts = stage.counts()
        return {"rows": total, "invalid": missing, "embedded": counts.embedded, "truncated": counts.truncated}

    def _needed(self, rows: DataFrame, columns: HasColumns, carried: Sequence[str]) -> DataFrame:
        """Id, text and the ``carried`` columns, each once."""
        named = {"idCol": columns.value("idCol"), "textCol": self.text_col}
        names = [*(field(rows, name, param).name for param, name in named.items()), *carried]
        return rows.select(*map(quoted, dict.fromkeys(names)))


def _is_null(name: str) -> Column:
    return quoted(name).isNull()


def _tasks(rows: DataFrame) -> int:
    return max(rows.rdd.getNumPartitions(), _PARTITIONS_PER_SLOT * slots(rows.sparkSession))


@dataclass(frozen=True)
class RunTexts:
    """The texts of one run or step, checked, and their model, which has been loaded once."""

    embedder: DocumentEmbedder
    model: ModelFacts
    carried: Sequence[str]
    """Columns that are written beside id and embedding, as the schema spells them."""

    @classmethod
    def load(
        cls,
        embedder: DocumentEmbedder,
        job: Job,
        rows: DataFrame,
        columns: HasColumns,
        ranking: Ranking | None = None,
        carried: Sequence[str] = (),
    ) -> RunTexts:
        """Checks the columns, then loads the model in one task.

        ``carried``: further columns to write, beside those that ``ranking`` needs. Raises ``SemDedupError`` where texts
        or model cannot be used.
        """
        id_column(rows, columns.value("idCol"))
        names = [field(rows, name, "rankBy").name for name, _ in (ranking.by if ranking else ())]
        names += [field(rows, name, "metadataCols").name for name in carried]
        return cls(embedder, embedder.checked(job, rows, columns, names), names)

    def identity(self) -> dict[str, Any]:
        """What decides the embeddings, by names a user knows."""
        return self.embedder.identity(self.model)

    def described(self) -> dict[str, Any]:
        """The Params in effect and the model's facts, for summaries."""
        return self.embedder.described(self.model)

    def manifest(self, step: str) -> dict[str, Any]:
        """What the manifest of the embeddings says, but for their number."""
        return {"holds": "embeddings", "step": step, "parameters": self.described(), "versions": versions()}

    def refuse_other_length(
        self, estimator: SemDedupStageParams, given: EmbeddingKMeansModel | None, saved: SavedCentroids
    ) -> None:
        """``SemDedupError`` where the model's embeddings are of another length than what they are to be used with."""
        wanted = {"embeddingDim": (estimator.value("embeddingDim"), estimator.value("embeddingDim"))}
        if given is not None:
            wanted["centroids"] = (saved.model, given.centroids.shape[1])
        if not isinstance(initial := estimator.value("initMode"), str):
            wanted["initMode"] = (saved.initial, len(initial[0]))
        for name, (value, dim) in wanted.items():
            if dim not in (None, self.model.dim):
                raise SemDedupError(
                    f"model={shown(self.embedder.settings['model'], 400)} gives embeddings of length {self.model.dim}, "
                    f"but {name}={shown(value, 400)} has length {dim}: give the model that made those"
                )

    def with_reasons(self, invalid: DataFrame) -> DataFrame:
        """Invalid rows, whose reason is in terms of their text: the input has no embedding."""
        reason = F.when(F.col("reason") == NULL_EMBEDDING, BLANK).otherwise(F.col("reason"))
        return invalid.withColumn("reason", reason)
