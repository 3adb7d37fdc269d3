"""Integrity checks of a run: every row of the input is in exactly one result, and for a reason.

Each raises ``AccountingError`` for numbers that do not add up. They count and hash rows in the *written* results.
``pairwise.integrity`` checks the neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

from spark_semdedup.errors import AccountingError
from spark_semdedup.pairwise.integrity import RUN_AGAIN
from spark_semdedup.spark.ids import Ids

_CHANGED, _WRONG = "the input changed while it was read", "the comparison does not add up"


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise AccountingError(f"{fault}; {RUN_AGAIN}")


def check_rows(all_: Ids, kept: Ids, duplicates: Ids, skipped: Ids) -> None:
    """The input's rows are those kept, removed as duplicates, and skipped, each once."""
    counts = f"{kept.rows} kept + {duplicates.rows} duplicates + {skipped.rows} skipped"
    results = kept + duplicates + skipped
    _require(results.rows == all_.rows, f"{_CHANGED}: {all_.rows} rows were compared, but {counts}")
    others = f"{all_.rows} rows were compared, and {counts}, but their ids are not those that were compared"
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


def check_merged(similarities: int, counts: Mapping[str, int]) -> None:
    """Each valid row has one similarity."""
    valid = counts["rows"] - counts["invalid"]
    _require(similarities == valid, f"{_WRONG}: {valid} rows were compared, but {similarities} similarities written")


def check_skipped(skipped: int, invalid: int) -> None:
    """All ``invalid`` rows were skipped: another would be among the kept rows, and all other numbers would add up."""
    _require(skipped == invalid, f"{_WRONG}: {invalid} rows are invalid, but {skipped} were set aside")
