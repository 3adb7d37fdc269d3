"""From embeddings to centroids, and from rows to their nearest centroid."""

from spark_semdedup._moved import stages_moved_from

__getattr__ = stages_moved_from(__name__, "EmbeddingKMeans", "EmbeddingKMeansModel")
