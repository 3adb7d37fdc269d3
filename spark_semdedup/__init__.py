"""Semantic deduplication of embeddings on Apache Spark, GPU-first.

>>> from spark_semdedup import SemDedup
>>> rows = [("a", [1.0, 0.0]), ("b", [0.999, 0.001]), ("c", [0.0, 1.0])]
>>> df = spark.createDataFrame(rows, "id string, embedding array<double>")
>>> SemDedup(k=1, whichToKeep="first").fit(df).transform(df).select("id").orderBy("id").show()
+---+
| id|
+---+
|  a|
|  c|
+---+
<BLANKLINE>
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spark_semdedup.redaction import Redacting

if TYPE_CHECKING:
    from spark_semdedup.clustering import EmbeddingKMeans, EmbeddingKMeansModel
    from spark_semdedup.duplicates import IdentifyDuplicates, RemoveDuplicates
    from spark_semdedup.errors import InvalidRowsError, ResultExistsError, SemDedupError
    from spark_semdedup.evaluation import Evaluation, MissedPair, evaluate
    from spark_semdedup.pairwise import PairwiseSimilarity
    from spark_semdedup.semdedup import SemDedup, SemDedupModel, SemDedupResult
    from spark_semdedup.sizing import Hardware, Sizing

__version__ = "0.1.0"

__all__ = [
    "EmbeddingKMeans",
    "EmbeddingKMeansModel",
    "Evaluation",
    "Hardware",
    "IdentifyDuplicates",
    "InvalidRowsError",
    "MissedPair",
    "PairwiseSimilarity",
    "RemoveDuplicates",
    "ResultExistsError",
    "SemDedup",
    "SemDedupError",
    "SemDedupModel",
    "SemDedupResult",
    "Sizing",
    "evaluate",
]

_HOME = {
    "EmbeddingKMeans": "clustering",
    "EmbeddingKMeansModel": "clustering",
    "Evaluation": "evaluation",
    "Hardware": "sizing",
    "IdentifyDuplicates": "duplicates",
    "InvalidRowsError": "errors",
    "MissedPair": "evaluation",
    "PairwiseSimilarity": "pairwise",
    "RemoveDuplicates": "duplicates",
    "ResultExistsError": "errors",
    "SemDedup": "semdedup",
    "SemDedupError": "errors",
    "SemDedupModel": "semdedup",
    "SemDedupResult": "semdedup",
    "Sizing": "sizing",
    "evaluate": "evaluation",
}
"""The module each public name lives in. Imported when first asked for (PEP 562), so that ``spark_semdedup.kernels``
can be used where pyspark is not installed: on a bare GPU machine."""


logging.getLogger("spark_semdedup").addFilter(Redacting())


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
