"""What the files of a result look like."""

from __future__ import annotations

import pyarrow.parquet as pq
import pyspark
import pytest

from spark_semdedup.runs.target import Target

ELEMENTS = ("embedding.list.element", "others.list.element")


def statistics(spark, folder, **options):
    """Of each column of a file that ``Target`` wrote: whether it has statistics, and an index of its pages."""
    columns = ["id", "cast(id as float) as score", "array(float(id), 1f) as embedding", "array(1d) as others"]
    columns += ["array(id) as numbers", "array(cast(id as string)) as words"]
    Target(str(folder), options=options).save(spark.range(0, 9, 1, 1).selectExpr(*columns), str(folder))
    (file,) = folder.glob("*.parquet")
    group = pq.ParquetFile(file).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    return {chunk.path_in_schema: (chunk.is_stats_set, chunk.has_offset_index) for chunk in chunks}


@pytest.mark.skipif(pyspark.__version__ < "4", reason="Spark 3.5's Parquet writes statistics of every column")
def test_elements_of_vectors_have_no_statistics_and_all_else_has(spark, tmp_path):
    found = statistics(spark, tmp_path / "out")
    assert {path for path, (has_them, _) in found.items() if not has_them} == set(ELEMENTS)
    assert all(is_indexed for _, is_indexed in found.values()), "pages are still found by rows, to be passed over"
    assert len(found) == 6


def test_options_of_the_user_come_first(spark, tmp_path):
    found = statistics(spark, tmp_path / "out", **{f"parquet.column.statistics.enabled#{ELEMENTS[0]}": "true"})
    assert found[ELEMENTS[0]] == (True, True)
