"""Semantic deduplication of embeddings on Apache Spark."""

__version__ = "0.1.0"
