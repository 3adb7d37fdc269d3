"""New rows against reference rows: those of an index, which were deduplicated before, or of a table to keep apart from.

index = SemDedupIndex.open(spark, path)
result = index_model(index).run(new, against=index)   # earlier batches precede new rows
result.update_index(index)                            # tomorrow's batch is compared with these rows, too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_semdedup.duplicates.greedy import decide
from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.index import SemDedupIndex, index_rows
from spark_semdedup.index.version import ALL, KEPT
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.reference import RankOrder, ReferenceRows, with_references
from spark_semdedup.pairwise.reference_plan import best_references
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.spark.documents import Documents
from spark_semdedup.spark.ids import Ids

if TYPE_CHECKING:
    from spark_semdedup.ml.semdedup import SemDedupModel

RANK_PARAMS = frozenset({"whichToKeep", "rankBy", "distanceMetric", "seed"})

INDEX_PARAMS = frozenset({"eps", "threshold", "keepRule", "coverage", "nProbe", "distanceMeasure"}) | RANK_PARAMS
"""Params that an index and the batches against it must share: with others, batch after batch would not give what one
run gives."""


# --- an index as reference rows ---


@dataclass(frozen=True)
class IndexReferences:
    """``ReferenceRows`` of an index: earlier batches precede later ones, of one batch its ranking decides."""

    index: SemDedupIndex
    kept_only: bool

    @property
    def id_type(self) -> T.DataType:
        return self.index.id_type

    @property
    def order(self) -> RankOrder:
        ranking = self.index.ranking
        return RankOrder((True, *ranking.key_ascending), ranking.id_ascending)

    @property
    def margins(self) -> np.ndarray | None:
        return self.index.margins

    def rows(self, cells: np.ndarray) -> DataFrame:
        rows = self.index.rows(cells, kept_only=self.kept_only)
        keys = [F.col(name).alias(f"key_{int(name[4:]) + 1}") for name in rows.columns if name.startswith("key_")]
        return rows.select("id", "unit", "centroid", F.col("batch").alias("key_0"), *keys)


def references_of(model: SemDedupModel, against: SemDedupIndex | ReferenceRows) -> ReferenceRows:
    """``against`` as reference rows. Raises ``SemDedupError`` for an index with which the answer would not be that of
    one run over all rows."""
    if not isinstance(against, SemDedupIndex):
        return against
    refuse_other_settings(against, settings_of(model))
    if not np.array_equal(model.centroids, against.centroids.matrix):
        raise SemDedupError(
            f"against={shown(against.path, 400)} was made with other centroids than this model's: use "
            "index_model(index)"
        )
    return IndexReferences(against, kept_only=model.value("keepRule") == "greedy")


def settings_of(model: SemDedupModel) -> dict[str, Any]:
    """The ``INDEX_PARAMS`` in effect, as JSON holds them; of two that exclude each other the one that counts."""
    unused = {"eps" if model.isSet("threshold") else "threshold"}
    unused |= {"whichToKeep"} if model.value("rankBy") else {"rankBy"}
    unused |= {"nProbe"} if model.value("coverage") == "exact" else set()
    unused |= set() if model.value("whichToKeep") == "random" and "whichToKeep" not in unused else {"seed"}
    return {name: model.value(name) for name in sorted(INDEX_PARAMS - unused)}


def refuse_other_settings(index: SemDedupIndex, settings: Mapping[str, Any]) -> None:
    """Raises ``SemDedupError`` where Params differ from the index's, among ``INDEX_PARAMS``."""
    for name in sorted(INDEX_PARAMS):
        now, then = settings.get(name), index.settings.get(name)
        if now != then:
            raise SemDedupError(
                f"{name} is {shown(now)}, but the index {shown(index.path, 400)} was made with {shown(then)}: batches "
                "in turn give what one run gives with the same settings only; leave it out"
            )


# --- comparison ---


def compare_with(model: SemDedupModel, rows: UnassignedRows, references: ReferenceRows) -> DataFrame:
    """One entry for each row, by reference rows alone: new rows are not compared with one another. Lazy, but for a
    small job (``best_references``)."""
    return with_references(uncompared(rows), found_references(model, rows, references))


def found_references(model: SemDedupModel, rows: UnassignedRows, references: ReferenceRows) -> DataFrame:
    """The best reference row of each row (``reference_plan.best_references``)."""
    return best_references(rows, references, Coverage.of(model, model.similarity_threshold()), model)


def uncompared(rows: UnassignedRows) -> DataFrame:
    """One entry for each row as if there were no other: its own id and 0."""
    routed = rows.routed()
    keys = [name for name in routed.columns if name.startswith("key_")]
    zero = F.lit(0)
    columns = [F.col("id"), F.col("id").alias("max_id"), zero.cast("float").alias("cosine_sim_score")]
    columns += [F.col("centroid"), zero.cast("long").alias("compared"), F.col("reason"), *map(F.col, keys)]
    return routed.select(columns)


def deduplicate_against(model: SemDedupModel, dataset: DataFrame, against: SemDedupIndex | ReferenceRows) -> DataFrame:
    """One entry for each row of ``dataset``, by reference rows, which precede all, and by one another. Held by Spark
    until it is unpersisted."""
    references, rows = references_of(model, against), model.rows_of(dataset)
    if isinstance(against, SemDedupIndex):
        refuse_known_ids(against, rows.documents)
    compared = model.compared(dataset)
    found = found_references(model, rows, references)
    if model.value("keepRule") == "ranked":
        return with_references(compared.rows, found).persist()
    found = found.persist()
    try:
        return decide(compared, model.similarity_threshold(), found)
    finally:
        found.unpersist()


def refuse_known_ids(index: SemDedupIndex, documents: Documents) -> None:
    """Raises ``SemDedupError`` where rows of an earlier batch come again. Reads the index's ids alone."""
    ids = documents.df.select(documents.id.alias("id"))
    known = [row.id for row in index.contains(ids, count=documents.rows).limit(3).collect()]
    if known:
        raise SemDedupError(
            f"ids that are in the index {shown(index.path, 400)} already come again, for example "
            f"{', '.join(map(shown, sorted(known)))}: leave these rows out, or remove them from the index first "
            "(index remove)"
        )


def naming_own_rows(compared: DataFrame, against: SemDedupIndex | ReferenceRows, k: int) -> DataFrame:
    """The entries that rows ``against`` and others gave, where those of reference rows name no row. ``k``: clusters."""
    names = compared.where(F.col("reason").isNull() & (F.col("max_id") != F.col("id"))).select("max_id").distinct()
    if isinstance(against, SemDedupIndex):
        known = against.contains(names)
    else:
        known = against.rows(np.arange(k)).select("id").join(names.toDF("id"), "id", "left_semi").distinct()
    joined = compared.join(known.toDF("reference_id"), F.col("max_id") == F.col("reference_id"), "left")
    own = F.when(F.col("reference_id").isNull(), F.col("max_id")).otherwise(F.col("id"))
    return joined.withColumn("max_id", own).drop("reference_id")


# --- writing ---


def refuse_other_index(index: SemDedupIndex, compared_with: SemDedupIndex | ReferenceRows | None) -> None:
    """Raises ``SemDedupError`` where rows are to be added to an index whose rows they were not compared with."""
    known = None
    if isinstance(compared_with, SemDedupIndex):
        known = compared_with.path, compared_with.state.content
    if index.rows_in and known != (index.path, index.state.content):
        raise SemDedupError(
            f"the rows were not compared with version {index.version} of the index {shown(index.path, 400)}: "
            "run(rows, against=index) first"
        )


def holds_for(keep_rule: str, asked: str | None) -> str:
    """Which rows an index must hold for a ``keepRule``. Raises ``SemDedupError`` where those asked for would not do."""
    needed = KEPT if keep_rule == "greedy" else ALL
    if asked == KEPT and needed == ALL:
        raise SemDedupError(
            "indexRows='kept' and keepRule='ranked' are both set: removed rows remove others with ranked, so later "
            "batches need them; set keepRule to greedy, or indexRows to all"
        )
    return asked or needed


def create_index(
    model: SemDedupModel,
    dataset: DataFrame,
    path: str,
    *,
    holds: str | None = None,
    run: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> SemDedupIndex:
    """A new index for rows such as ``dataset``'s, without any yet. ``holds``: which rows it will hold; ``about``:
    further settings to note."""
    rows = model.rows_of(dataset)
    return SemDedupIndex.create(
        dataset.sparkSession,
        path,
        model.fitted_centroids,
        schema=index_rows(rows.documents, model.fitted_centroids, rows.ranking, model).schema,
        ranking=rows.ranking,
        settings=settings_of(model) | dict(about or {}),
        holds=holds_for(model.value("keepRule"), holds),
        run=run,
    )


def add_to_index(
    model: SemDedupModel,
    dataset: DataFrame,
    duplicates: DataFrame,
    index: SemDedupIndex,
    *,
    ids: Ids | None = None,
    run: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> SemDedupIndex:
    """The next version of ``index``, with the valid rows of ``dataset`` as a batch; of an index of kept rows, those
    not in ``duplicates``. ``ids``: of the rows to be added; None: they are counted."""
    refuse_other_settings(index, settings_of(model))
    rows = model.rows_of(dataset)
    assigned = index_rows(rows.documents, model.fitted_centroids, rows.ranking, model)
    if index.holds_removed:
        gone = duplicates.select(F.col("id").alias("duplicate_id"))
        joined = assigned.join(gone, F.col("id") == F.col("duplicate_id"), "left")
        batch = joined.withColumn("kept", F.col("duplicate_id").isNull()).drop("duplicate_id")
    else:
        batch = without_ids(assigned, "id", duplicates).withColumn("kept", F.lit(True))
    return index.append(batch, ids, run=run, facts=facts)
