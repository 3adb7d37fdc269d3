"""What the phases of a run compute: embed (texts only), fit, compare, identify, keep, pairs, groups, check.

Each phase writes its results to the run's folder and its metrics to the journal, and reads those of earlier phases from
there. So a run continues wherever another stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.duplicates.greedy import decided
from spark_semdedup.duplicates.groups import component_groups, tree_groups
from spark_semdedup.duplicates.threshold import without_ids
from spark_semdedup.errors import AccountingError, shown
from spark_semdedup.formatting import short, short_bytes
from spark_semdedup.ml.incremental import uncompared
from spark_semdedup.ml.semdedup import SemDedupModel, similarities_of
from spark_semdedup.pairwise.execute import Accept, Compared, any_size
from spark_semdedup.pairwise.integrity import check_neighbours
from spark_semdedup.pairwise.pairs import refuse_more_pairs
from spark_semdedup.pairwise.reference import with_references
from spark_semdedup.runs import checks, preflight, results
from spark_semdedup.runs.deduplication import COMPARED, REFERENCED, Deduplication
from spark_semdedup.runs.identity import fingerprint
from spark_semdedup.runs.incremental import RunReferences, count_found
from spark_semdedup.runs.journal import WRITING
from spark_semdedup.runs.manifest import EMBEDDINGS, RUN_MANIFEST
from spark_semdedup.runs.run import Attempt, Phase
from spark_semdedup.runs.texts import RunTexts
from spark_semdedup.spark.columns import id_column
from spark_semdedup.spark.determinism import reads_only_files
from spark_semdedup.spark.disk import LocalDisk, refuse_full_disk
from spark_semdedup.spark.ids import Ids
from spark_semdedup.spark.parquet import count_rows
from spark_semdedup.spark.small import is_small

_MUCH_TO_SHUFFLE = 1 << 30
"""Bytes from which on a run says before the fit what it will shuffle."""


def phases_of(work: Deduplication) -> list[Phase]:
    """The phases of a run, in order, for the results that it is to write."""
    similarities, duplicates, wanted = work.place("similarities"), work.place("duplicates"), work.wanted
    fit_title = "load centroids" if work.given else "fit centroids"
    keep_title = "write the kept rows" if "deduplicated" in wanted else "move invalid rows"
    phases = [
        Phase("embed", "embed texts", partial(embed, work, work.texts)) if work.texts else None,
        # Where texts are embedded, no earlier result is left to delete with the first centroids.
        Phase("fit", fit_title, partial(fit, work), ("centroids",) if work.texts else ()),
        Phase("compare", "assign and compare", partial(compare, work), (COMPARED, REFERENCED, similarities)),
        Phase("identify", "identify duplicates", partial(identify, work), (duplicates,)),
        Phase("keep", keep_title, partial(keep, work), ("invalid", "deduplicated")),
        Phase("pairs", "list similar pairs", partial(list_pairs, work), ("pairs",)) if "pairs" in wanted else None,
        Phase("groups", "group the rows", partial(group, work), ("groups",)) if "groups" in wanted else None,
        Phase(None, "check row counts", partial(check, work)),
        _index_phase(work),
    ]
    return [phase for phase in phases if phase is not None]


def _index_phase(work: Deduplication) -> Phase | None:
    """After the check: what is in an index stays."""
    references = work.references
    if references is None or not references.asked.adds:
        return None
    title = "write the index" if references.asked.write_to else "add to the index"
    return Phase("index", title, partial(index, work, references))


def embed(work: Deduplication, texts: RunTexts, attempt: Attempt) -> None:
    """Replaces an earlier result by ids, embeddings and rank columns of all rows."""
    rows, files, path = work.rows, work.job.files, work.path(EMBEDDINGS)
    total = preflight.count_ids(rows, work.estimator)  # before hours of embedding, and before the earlier result goes
    if work.estimator.value("handleInvalid") == "error":
        texts.embedder.refuse_blank(rows, work.estimator.value("idCol"))
    attempt.replace_result()
    about, check = texts.manifest("run"), partial(checks.check_read, total)
    counts = texts.embedder.write(files, rows, path, work.estimator, about=about, carried=texts.carried, check=check)
    attempt.counts |= counts
    attempt.metrics |= counts


def fit(work: Deduplication, attempt: Attempt) -> None:
    """Fits centroids, or takes those given, and, where it is the first phase, replaces an earlier result."""
    rows = work.documents
    if work.given is not None:
        preflight.count_ids(rows, work.estimator)  # which a fit does itself
    foresee = None if work.reference_only else partial(_foresee, work)
    model = work.with_centroids(work.given) if work.given else work.estimator.fit_foreseen(rows, foresee)
    if work.texts is None:
        if work.job.files.exists(work.path(RUN_MANIFEST)):  # validate all rows before the earlier result goes
            model.clustering.refuse_invalid(rows)
        attempt.replace_result()
    if model.cluster_choice is not None:
        work.job.progress.note(model.cluster_choice.in_words())
    model.clustering.save(work.path("centroids"))
    attempt.counts["centroids"] = attempt.metrics["centroids"] = len(model.centroids)
    work.fitted = model


def compare(work: Deduplication, attempt: Attempt) -> None:
    """Assigns rows to clusters, compares them, and merges the matches to one similarity per row."""
    metrics, model = attempt.metrics, work.model
    if work.references is not None:
        work.references.refuse_known(model, work.documents)
    if "pairs" in work.wanted:
        estimate = model.estimate_pairs(work.documents)  # too many are refused before hours of work
        work.job.progress.note(f"about {short(estimate)} similar pairs, estimated from a sample")
    comparison = None if work.reference_only else _planned(work, model)
    # All tasks compute the matches once, into files. With an executor Spark would lose those in its memory, and compute
    # them again, from a source that may give other rows the second time.
    matches = _alone(work, model) if comparison is None else comparison.entries.df
    matches.write.mode("append").parquet(work.path(COMPARED))
    work.schemas[COMPARED] = matches.schema
    found = _referenced(work, model, metrics)
    metrics |= work.matches.counts()
    metrics["pairs"] += comparison.plan.codes_compared if comparison else 0
    metrics["ids"] = Ids(metrics["rows"], metrics.pop("hashes")).facts()
    metrics["planned"] = None if comparison is None else comparison.workload.facts()
    path, manifest = work.path(work.place("similarities")), work.manifest("similarities")
    with _decided(work, comparison, metrics["further"], found) as rows:
        work.schemas["similarities"] = similarities_of(rows).schema
        valid = results.write_similarities(work.job.files, rows, metrics, path, manifest, attempt.assert_held)
    attempt.counts |= {"rows": valid, "clusters": metrics["clusters"], "pairs": metrics["pairs"]}


def _accepted(work: Deduplication) -> Accept:
    """What refuses a run that the local disk has no room for."""
    return any_size if work.target.force else partial(refuse_full_disk, work.job.spark)


def _foresee(work: Deduplication, least: float, estimate: float | None) -> None:
    """Before the fit: refuses a run that the local disk has no room for in any case, and says what is expected.

    Estimates go beyond the clusters that a sample was put into: the run refuses by what it counts, after the fit.
    """
    _accepted(work)(least)
    expected, disk = max(least, estimate or 0.0), LocalDisk.of(work.job.spark)
    lacks = disk.lacks(expected) if disk else None
    if lacks:
        work.job.progress.note(f"by an estimate from a sample {lacks}")
    elif expected >= _MUCH_TO_SHUFFLE:
        work.job.progress.note(f"the comparison will shuffle about {short_bytes(expected)}")


def _planned(work: Deduplication, model: SemDedupModel) -> Compared:
    comparison = model.compared(work.documents, _accepted(work))
    work.job.progress.note(comparison.workload.in_words())
    return comparison


def _alone(work: Deduplication, model: SemDedupModel) -> DataFrame:
    """Matches of rows that are not compared with one another."""
    return uncompared(model.rows_of(work.documents)).withColumn("own", F.lit(True))


def _referenced(work: Deduplication, model: SemDedupModel, metrics: dict[str, Any]) -> DataFrame | None:
    """Writes the best reference row of each row; None without reference rows."""
    references = work.references
    if references is None or not references.asked.compares:
        return None
    found = references.found(model, work.documents)
    found.write.mode("append").parquet(work.path(REFERENCED))
    work.schemas[REFERENCED] = found.schema
    written = work.read(REFERENCED)
    metrics["similar to references"] = count_found(written, work.estimator.similarity_threshold())
    return written


@contextmanager
def _decided(
    work: Deduplication, comparison: Compared | None, further: int, found: DataFrame | None
) -> Iterator[DataFrame]:
    """One entry for each row, of matches that are written."""
    if comparison is None:
        assert found is not None  # by reference rows alone
        yield with_references(work.matches.merged(0), found)
        return
    with decided(replace(comparison, entries=work.matches), further, work.estimator, found) as rows:
        yield rows


def identify(work: Deduplication, attempt: Attempt) -> None:
    """Writes the rows whose similarity makes them duplicates."""
    compared = work.journal.metrics("compare")
    valid = compared["rows"] - compared["invalid"]
    similarities = work.read("similarities")
    # A row whose similarity was lost would be kept, and all counts would be consistent.
    if (rows := count_rows(similarities)) != valid:
        raise AccountingError(
            f"output={shown(work.journal.folder, 400)}: {valid} similarities were written, but it has {rows}: "
            "files were lost or added; begin again with --overwrite"
        )
    args = (similarities, valid, work.estimator)
    duplicates = results.similar_to_write(*args) if work.reference_only else results.duplicates_to_write(*args)
    ids = work.write("duplicates", duplicates, "id")
    attempt.counts["duplicates"], attempt.metrics["ids"] = ids.rows, ids.facts()


def keep(work: Deduplication, attempt: Attempt) -> None:
    """Writes the kept rows, and with ``handleInvalid='skip'`` the invalid ones."""
    id_col, target = work.estimator.value("idCol"), work.target
    unwanted, skipped = work.read("duplicates").select("id"), Ids(0, 0)
    if work.skipped:
        skipped = work.write("invalid", work.invalid_rows(), id_col)
        invalid = work.read("invalid")
        unwanted = unwanted.unionAll(invalid.select(id_column(invalid, id_col).alias("id")))
    if "deduplicated" not in work.wanted:
        attempt.metrics |= {"skipped": skipped.facts(), "ids": _remaining(work, skipped).facts()}
        return
    if target.table is not None:
        target = replace(target, overwrite=work.may_replace)
        target.refuse_existing_table(work.job.spark)  # before the journal says that this table is the run's
        work.journal.commit(WRITING, {})
    all_rows = work.rows
    if is_small(all_rows) and is_small(work.read("duplicates")):
        all_rows, unwanted = all_rows.coalesce(1), unwanted.coalesce(1).hint("shuffle_hash")
    rows, path = without_ids(all_rows, id_col, unwanted), work.path("deduplicated")
    kept = results.write_kept(work.job, rows, id_col, target, path, work.manifest("deduplicated"))
    attempt.counts["kept"] = kept.rows
    attempt.metrics |= {"skipped": skipped.facts(), "ids": kept.facts()}


def _remaining(work: Deduplication, skipped: Ids) -> Ids:
    """The kept rows, where they are not written: all that are neither duplicates nor skipped."""
    all_, duplicates = (Ids.read(work.journal.metrics(phase)["ids"]) for phase in ("compare", "identify"))
    gone = duplicates + skipped
    return Ids(all_.rows - gone.rows, all_.hashes ^ gone.hashes)


def list_pairs(work: Deduplication, attempt: Attempt) -> None:
    """Writes every compared pair of rows that are similar enough."""
    most, threshold = work.estimator.value("maxPairs"), work.estimator.similarity_threshold()
    pairs = work.model.similar_rows(work.documents).pairs(most)

    def accept(written: int) -> None:
        refuse_more_pairs(written, most, threshold)
        attempt.assert_held()

    work.schemas["pairs"] = pairs.schema
    manifest = work.manifest("pairs")
    attempt.metrics["rows"] = results.write_dataset(work.job.files, pairs, work.path("pairs"), manifest, accept)
    attempt.counts["pairs"] = attempt.metrics["rows"]


def group(work: Deduplication, attempt: Attempt) -> None:
    """Writes the group of every valid row."""
    similarities, duplicates = work.read("similarities"), work.read("duplicates")
    if work.wanted.groups_by == "tree":
        groups = tree_groups(similarities, duplicates)
    else:
        stars, own = work.model.similar_rows(work.documents).stars(), work.matches.df.where(F.col("own"))
        ranks = own.select("id", *(name for name in own.columns if name.startswith("key_")))
        groups = component_groups(similarities, duplicates, stars, ranks, work.matches.ranking)
    compared = work.journal.metrics("compare")
    groups = groups.coalesce(results.files_for(compared["rows"]))
    manifest = {**work.manifest("groups"), "groups_by": work.wanted.groups_by}

    def accept(written: int) -> None:
        checks.check_grouped(written, compared["rows"] - compared["invalid"])
        attempt.assert_held()

    attempt.metrics["rows"] = results.write_dataset(work.job.files, groups, work.path("groups"), manifest, accept)
    groups_written = work.read("groups").select("group_id").distinct().count()
    attempt.counts["groups"] = attempt.metrics["groups"] = groups_written


def check(work: Deduplication, attempt: Attempt) -> None:
    """Raises ``AccountingError`` unless each row of the input is in exactly one result, and for a reason."""
    compared, kept = work.journal.metrics("compare"), work.journal.metrics("keep")
    check_neighbours(work.matches, compared)
    duplicates, skipped = Ids.read(work.journal.metrics("identify")["ids"]), Ids.read(kept["skipped"])
    checks.check_rows(Ids.read(compared["ids"]), Ids.read(kept["ids"]), duplicates, skipped)
    checks.check_skipped(skipped.rows, work.skipped)
    removed = work.read("duplicates")
    if work.estimator.value("keepRule") == "greedy" and not work.reference_only:  # ids of references are their own
        checks.check_representatives(removed)
    if "pairs" in work.wanted:
        checks.check_pairs(work.read("pairs"), removed)
    if reads_only_files(work.rows):
        now = work.source.read(work.job.spark, work.rows.schema)
        after = fingerprint(work.job.files, work.source, now, work.estimator, work.text_col)
        checks.check_unchanged(work.identity["input's data"], after)


def index(work: Deduplication, references: RunReferences, attempt: Attempt) -> None:
    """Adds the valid rows, or those kept, to the index as its next batch."""
    compared, model = work.journal.metrics("compare"), work.model
    valid = Ids.count(work.read("similarities"), F.col("id"))
    checks.check_merged(valid.rows, compared)
    gone = Ids.read(work.journal.metrics("identify")["ids"])
    about = {"text": work.texts.identity()} if work.texts else {}
    duplicates = work.read("duplicates")
    written = references.add(model, work.documents, duplicates, (valid, gone), work.index_run, about)
    batch = written.state.batch_of(work.index_run)
    assert batch is not None  # it has just been added, or was before
    attempt.counts["rows"] = attempt.metrics["rows"] = batch.rows
    attempt.metrics["version"] = written.version
