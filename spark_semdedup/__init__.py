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

from spark_semdedup.clustering import EmbeddingKMeans, EmbeddingKMeansModel
from spark_semdedup.duplicates import IdentifyDuplicates, RemoveDuplicates
from spark_semdedup.errors import InvalidRowsError, ResultExistsError, SemDedupError
from spark_semdedup.pairwise import PairwiseSimilarity
from spark_semdedup.semdedup import SemDedup, SemDedupModel, SemDedupResult

__version__ = "0.1.0"

__all__ = [
    "EmbeddingKMeans",
    "EmbeddingKMeansModel",
    "IdentifyDuplicates",
    "InvalidRowsError",
    "PairwiseSimilarity",
    "RemoveDuplicates",
    "ResultExistsError",
    "SemDedup",
    "SemDedupError",
    "SemDedupModel",
    "SemDedupResult",
]
