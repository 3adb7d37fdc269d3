"""``SemDedup`` under its module name of version 0.1.0, for saved pipelines; it is defined in ``ml.semdedup``."""

from spark_semdedup._moved import stages_moved_from

__getattr__ = stages_moved_from(__name__, "SemDedup", "SemDedupModel")
