"""Which rows are removed."""

from spark_semdedup._moved import stages_moved_from

__getattr__ = stages_moved_from(__name__, "IdentifyDuplicates", "RemoveDuplicates")
