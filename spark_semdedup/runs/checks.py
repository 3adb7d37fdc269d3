"""Integrity checks of a run: every row of the input is in exactly one result, and for a reason.

Each raises ``AccountingError`` for inconsistent counts. They count and hash rows in the *written* results.
``pairwise.integrity`` checks the neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_semdedup.errors import AccountingError, shown
from spark_semdedup.pairwise.integrity import RUN_AGAIN
from spark_semdedup.spark.ids import Ids

_CHANGED, _WRONG = "the input changed while it was read", "the comparison is inconsistent"


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise AccountingError(f"{fault}; {RUN_AGAIN}")


def check_rows(all_: Ids, kept: Ids, duplicates: Ids, skipped: Ids) -> None:
    """The input's rows are those kept, removed as duplicates, and skipped, each once."""
    counts = f"{kept.rows} kept + {duplicates.rows} duplicates + {skipped.rows} skipped"
    results = kept + duplicates + skipped
    _require(results.rows == all_.rows, f"{_CHANGED}: {all_.rows} rows were compared, but {counts}")
    others = f"{all_.rows} rows were compared, and {counts}, but their ids differ from those compared"
    _require(results.hashes == all_.hashes, f"{_CHANGED}: {others}")


def check_read(before: int, now: int, *, may_lose: bool = False) -> None:
    """As many rows were read as ``before``, or, with ``may_lose``, fewer."""
    what = f"{before} rows at first, {now} when it was read again"
    _require(now == before or (may_lose and now < before), f"{_CHANGED}: {what}")


def check_unchanged(before: str | None, now: str | None) -> None:
    """The fingerprint of the input's files is what it was ``before``, if it had one."""
    what = "its files, their sizes or their times are not those of the beginning"
    _require(before is None or now == before, f"{_CHANGED}: {what}")


def check_removed(rows: int, named: int, kept: int) -> None:
    """No more rows are gone than were ``named`` to be removed, and none have come."""
    what = f"{rows} rows, of which {named} were to be removed, but {kept} remain"
    _require(rows - named <= kept <= rows, f"{_CHANGED}: {what}")


def check_grouped(grouped: int, valid: int) -> None:
    """Each valid row is in one group."""
    _require(grouped == valid, f"{_WRONG}: {valid} rows were compared, but {grouped} are in groups")


def check_representatives(duplicates: DataFrame) -> None:
    """The greedy rule: no row is removed for one that is itself removed."""
    gone = duplicates.select(F.col("id").alias("gone"))
    wrong = duplicates.join(gone, F.col("max_id") == F.col("gone"), "left_semi").head(1)
    what = f"the row with id {shown(wrong[0]['id'])} names a removed row" if wrong else ""
    _require(not wrong, f"{_WRONG}: {what}, which the greedy rule rules out")


def check_pairs(pairs: DataFrame, duplicates: DataFrame) -> None:
    """Every duplicate is the second of a pair, with its ``max_id`` and its score."""
    columns = [F.col(name).alias(f"of_{name}") for name in pairs.columns]
    same = (F.col("id") == F.col("of_id_b")) & (F.col("max_id") == F.col("of_id_a"))
    same &= F.col("cosine_sim_score") == F.col("of_cosine_sim_score")
    lost = duplicates.join(pairs.select(columns), same, "left_anti").head(1)
    what = f"the row with id {shown(lost[0]['id'])} and its max_id are not among the pairs" if lost else ""
    _require(not lost, f"{_WRONG}: {what}")


def check_merged(similarities: int, counts: Mapping[str, int]) -> None:
    """Each valid row has one similarity."""
    valid = counts["rows"] - counts["invalid"]
    _require(similarities == valid, f"{_WRONG}: {valid} rows were compared, but {similarities} similarities written")


def check_skipped(skipped: int, invalid: int) -> None:
    """All ``invalid`` rows were skipped: any other would be kept, and all other counts would be consistent."""
    _require(skipped == invalid, f"{_WRONG}: {invalid} rows are invalid, but {skipped} were skipped")
