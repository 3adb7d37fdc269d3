"""``Version``: what one version of an index consists of, as its JSON says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
from pyspark.sql import types as T

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.redaction import COLUMN_PARAMS, redacted_values

FORMAT = 1
"""Of the JSON. A version of a newer format is refused."""

KEPT, ALL = "kept", "all"
"""Which rows an index holds: the kept ones alone, or removed ones too."""


@dataclass(frozen=True)
class RowFile:
    """A Parquet file of rows, sorted by centroid."""

    path: str
    """Relative to the index."""
    rows: int
    bytes: int
    first: int
    """Lowest centroid in the file."""
    last: int
    """Highest centroid in the file."""


@dataclass(frozen=True)
class Batch:
    """Rows that were added together. Counts are of the rows that the index still has."""

    batch: int
    rows: int
    kept: int
    far: int
    """Rows farther from their centroid than 99 % of the rows at the fit (``FitFacts.p99``); 0 for those rows."""
    begun: str
    """Time, ISO 8601, UTC."""
    run: str | None = None
    """Digest of the run that added the batch."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the caller notes, such as the number of rows that it read."""


@dataclass(frozen=True, eq=False)
class FitFacts:
    """What was true of the first rows that the centroids got; later rows are measured against it."""

    p99: float
    """99th percentile of ``l2_dist_to_cent``."""
    cells: np.ndarray
    """Rows of each centroid, int64 (k,)."""
    next_batch: int
    """Number of the first batch after the fit."""


@dataclass(frozen=True, eq=False)
class Version:
    """One version of an index. Immutable, as are the files it names."""

    version: int
    content: int
    """The version that last changed rows or centroids. Compaction changes neither."""
    operation: str
    at: str
    """Time it was written, ISO 8601, UTC."""
    k: int
    dim: int
    spherical: bool
    history: tuple[float, ...]
    centroids: str
    """Folder of the centroids, relative to the index."""
    holds: str
    ranking: Ranking
    settings: Mapping[str, Any]
    schema: T.StructType
    """Of the rows."""
    cells: np.ndarray
    """Rows of each centroid, int64 (k,)."""
    run: str | None = None
    """Digest of the run that created the index."""
    margins: str | None = None
    """Folder of the cells' margins (``kernels.visits``), relative to the index; None where there are none."""
    fit: FitFacts | None = None
    """None until there are rows."""
    next_batch: int = 0
    batches: tuple[Batch, ...] = ()
    files: tuple[RowFile, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def id_type(self) -> T.DataType:
        return self.schema["id"].dataType

    def batch_of(self, run: str | None) -> Batch | None:
        """The batch that a run added, if it has."""
        return next((batch for batch in self.batches if run is not None and batch.run == run), None)

    def following(self, operation: str, *, changes_rows: bool = True, **changes: Any) -> Version:
        """The next version, with these changes."""
        number = self.version + 1
        content = number if changes_rows else self.content
        return replace(self, version=number, content=content, operation=operation, at=now(), **changes)

    def as_json(self) -> str:
        values: dict[str, Any] = {"index": "spark-semdedup", "format": FORMAT}
        values |= {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["settings"] = redacted_values(dict(self.settings), verbatim=COLUMN_PARAMS)
        values["schema"] = {field.name: field.dataType.simpleString() for field in self.schema}
        values["ranking"] = asdict(self.ranking)
        values["batches"] = [asdict(batch) for batch in self.batches]
        values["files"] = [asdict(file) for file in self.files]
        values["cells"] = self.cells.tolist()
        values["fit"] = self.fit and {**vars(self.fit), "cells": self.fit.cells.tolist()}
        return json.dumps(values, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, place: str) -> Version | None:
        """None for a text that was cut off. ``SemDedupError`` for another program's, or one of a newer format;
        ``place`` names it."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(values, dict) or values.get("index") != "spark-semdedup":
            raise SemDedupError(f"{place} is not the version of an index: spark-semdedup did not write it")
        format_ = values.get("format")
        if not isinstance(format_, int) or format_ > FORMAT:
            raise SemDedupError(
                f"{place} is of format {format_!r}, and this version of spark-semdedup reads up to {FORMAT}: update it"
            )
        try:
            return cls._from(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SemDedupError(f"{place} cannot be used: {type(error).__name__} ({error}) in its JSON") from None

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Version:
        ranking = dict(values["ranking"])
        ranking["by"] = tuple((name, bool(up)) for name, up in ranking["by"])
        fit = values["fit"]
        files = tuple(RowFile(**file) for file in values["files"])
        margins = values.get("margins")
        for path in (values["centroids"], *filter(None, [margins]), *(file.path for file in files)):
            if not _OWN_PATH.fullmatch(path):
                raise ValueError(f"path {shown(path)}")
        made: dict[str, Any] = {
            "history": tuple(values["history"]),
            "ranking": Ranking(**ranking),
            "schema": T.StructType([T.StructField(name, _type(text)) for name, text in values["schema"].items()]),
            "cells": np.asarray(values["cells"], np.int64),
            "fit": fit and FitFacts(**{**fit, "cells": np.asarray(fit["cells"], np.int64)}),
            "batches": tuple(Batch(**batch) for batch in values["batches"]),
            "margins": margins,
            "files": files,
        }
        return cls(**{name: made[name] if name in made else values[name] for name in cls.__dataclass_fields__})


_OWN_PATH = re.compile(r"rows/v\d+/part-[^/]+|(centroids|margins)/v\d+")

_TYPES: dict[str, T.DataType] = {
    type_.simpleString(): type_
    for type_ in (
        *(T.StringType(), T.ByteType(), T.ShortType(), T.IntegerType(), T.LongType()),
        *(T.FloatType(), T.DoubleType(), T.BinaryType(), T.BooleanType()),
    )
}


def _type(text: str) -> T.DataType:
    """A column's type by its name. (``StructType.fromJson`` would import a class that the JSON names.)"""
    decimal = re.fullmatch(r"decimal\((\d+),(\d+)\)", text)
    return T.DecimalType(int(decimal[1]), int(decimal[2])) if decimal else _TYPES[text]


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
