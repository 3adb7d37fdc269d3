"""Which rows meet, and how similar they are."""

from spark_semdedup._moved import stages_moved_from

__getattr__ = stages_moved_from(__name__, "PairwiseSimilarity")
