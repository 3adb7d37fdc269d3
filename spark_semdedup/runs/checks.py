"""Integrity checks of a run: every row of the input is in exactly one result, and for a reason.

Rows are counted and their ids hashed in what was *written*. ``pairwise.integrity`` checks the neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping

from spark_semdedup.errors import AccountingError
from spark_semdedup.pairwise.integrity import RUN_AGAIN
from spark_semdedup.spark.ids import Ids


def check_rows(all_: Ids, kept: Ids, duplicates: Ids, skipped: Ids) -> None:
    """Raises ``AccountingError`` unless the rows in are those kept, removed as duplicates, and skipped, each once."""
    told = f"{kept.rows} kept + {duplicates.rows} duplicates + {skipped.rows} skipped"
    found = kept + duplicates + skipped
    if found.rows != all_.rows:
        raise AccountingError(
            f"the input changed while it was read: {all_.rows} rows were compared, but {told}; {RUN_AGAIN}"
        )
    if found.hashes != all_.hashes:
        raise AccountingError(
            f"the input changed while it was read: {all_.rows} rows were compared, and {told}, but their ids are not "
            f"those that were compared; {RUN_AGAIN}"
        )


def check_read(at_first: int, then: int, *, may_lose: bool = False) -> None:
    """Raises ``AccountingError`` unless as many rows were read as ``at_first``, or, with ``may_lose``, fewer."""
    if then > at_first or (then < at_first and not may_lose):
        raise AccountingError(
            f"the input changed while it was read: {at_first} rows at first, {then} when it was read again; {RUN_AGAIN}"
        )


def check_unchanged(at_first: str | None, then: str | None) -> None:
    """Raises ``AccountingError`` unless the fingerprint of the input's files is what it was ``at_first``, if it had
    one."""
    if at_first is not None and then != at_first:
        raise AccountingError(
            "the input changed while it was read: its files, their sizes or their times are not those of the "
            f"beginning; {RUN_AGAIN}"
        )


def check_removed(rows: int, named: int, kept: int) -> None:
    """Raises ``AccountingError`` where more rows are gone than were ``named`` to be removed, or some have come."""
    if not rows - named <= kept <= rows:
        raise AccountingError(
            f"the input changed while it was read: {rows} rows, of which {named} were to be removed, but {kept} "
            f"remain; {RUN_AGAIN}"
        )


def check_merged(similarities: int, counts: Mapping[str, int]) -> None:
    """Raises ``AccountingError`` unless each valid row has one similarity."""
    valid = counts["rows"] - counts["invalid"]
    if similarities != valid:
        raise AccountingError(
            f"the comparison does not add up: {valid} rows were compared, but {similarities} similarities written; "
            f"{RUN_AGAIN}"
        )


def check_set_aside(skipped: int, invalid: int) -> None:
    """Raises ``AccountingError`` unless all ``invalid`` rows that are to be set aside were: one that was not would be
    among the rows that remain, and the numbers would add up."""
    if skipped != invalid:
        raise AccountingError(
            f"the comparison does not add up: {invalid} rows are invalid, but {skipped} were set aside; {RUN_AGAIN}"
        )
