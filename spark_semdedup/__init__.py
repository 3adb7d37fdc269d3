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

from spark_semdedup._version import __version__ as __version__
from spark_semdedup.redaction import Redacting

if TYPE_CHECKING:
    from spark_semdedup.analysis.evaluation import Evaluation as Evaluation
    from spark_semdedup.analysis.evaluation import MissedPair as MissedPair
    from spark_semdedup.analysis.explain import Explanation as Explanation
    from spark_semdedup.analysis.sizing import Hardware as Hardware
    from spark_semdedup.analysis.sizing import Sizing as Sizing
    from spark_semdedup.analysis.sweep import Sweep as Sweep
    from spark_semdedup.errors import InvalidRowsError as InvalidRowsError
    from spark_semdedup.errors import ResultExistsError as ResultExistsError
    from spark_semdedup.errors import SemDedupError as SemDedupError
    from spark_semdedup.index import SemDedupIndex as SemDedupIndex
    from spark_semdedup.ml.duplicates import IdentifyDuplicates as IdentifyDuplicates
    from spark_semdedup.ml.duplicates import RemoveDuplicates as RemoveDuplicates
    from spark_semdedup.ml.embedder import TextEmbedder as TextEmbedder
    from spark_semdedup.ml.kmeans import EmbeddingKMeans as EmbeddingKMeans
    from spark_semdedup.ml.kmeans import EmbeddingKMeansModel as EmbeddingKMeansModel
    from spark_semdedup.ml.pairwise import PairwiseSimilarity as PairwiseSimilarity
    from spark_semdedup.ml.remove_similar import RemoveSimilar as RemoveSimilar
    from spark_semdedup.ml.remove_similar import index_model as index_model
    from spark_semdedup.ml.semdedup import SemDedup as SemDedup
    from spark_semdedup.ml.semdedup import SemDedupModel as SemDedupModel
    from spark_semdedup.ml.semdedup import SemDedupResult as SemDedupResult
    from spark_semdedup.runs.evaluate import evaluate as evaluate
    from spark_semdedup.runs.explain import explain as explain
    from spark_semdedup.runs.sweep import sweep as sweep

_HOME = {
    "EmbeddingKMeans": "ml.kmeans",
    "EmbeddingKMeansModel": "ml.kmeans",
    "Evaluation": "analysis.evaluation",
    "Hardware": "analysis.sizing",
    "IdentifyDuplicates": "ml.duplicates",
    "Explanation": "analysis.explain",
    "InvalidRowsError": "errors",
    "MissedPair": "analysis.evaluation",
    "PairwiseSimilarity": "ml.pairwise",
    "RemoveDuplicates": "ml.duplicates",
    "RemoveSimilar": "ml.remove_similar",
    "ResultExistsError": "errors",
    "SemDedup": "ml.semdedup",
    "SemDedupError": "errors",
    "SemDedupIndex": "index",
    "SemDedupModel": "ml.semdedup",
    "SemDedupResult": "ml.semdedup",
    "Sizing": "analysis.sizing",
    "Sweep": "analysis.sweep",
    "TextEmbedder": "ml.embedder",
    "evaluate": "runs.evaluate",
    "explain": "runs.explain",
    "index_model": "ml.remove_similar",
    "sweep": "runs.sweep",
}
"""The module each public name lives in. Imported when first asked for (PEP 562), so that ``spark_semdedup.kernels``
can be used where pyspark is not installed: on a bare GPU machine."""

__all__ = [*_HOME]

logging.getLogger("spark_semdedup").addFilter(Redacting())


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
