"""Rows that later batches are compared with: unit vectors by cluster, in versions that readers see whole."""

from spark_semdedup.index.index import SemDedupIndex as SemDedupIndex
from spark_semdedup.index.rows import index_rows as index_rows
