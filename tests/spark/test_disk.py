"""A comparison whose shuffle does not fit on the local disk is refused before it begins."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from program import call, refusal

from spark_semdedup.errors import SemDedupError
from spark_semdedup.formatting import short_bytes
from spark_semdedup.spark.disk import LocalDisk, _is_local, local_folders, refuse_full_disk


def test_folders_of_one_disk_count_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    disk = LocalDisk.at([str(tmp_path / "a"), str(tmp_path / "b")])
    system = os.statvfs(tmp_path)
    assert disk.folders == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert disk.free == pytest.approx(system.f_bavail * system.f_frsize, rel=0.1)
    assert LocalDisk.at([str(tmp_path / "nowhere")]) is None


def test_what_is_lacking_is_said_with_folder_and_sizes():
    disk = LocalDisk(("/scratch", "/scratch"), 80 * 2**30)
    assert disk.lacks(79 * 2**30) is None
    needed, free = short_bytes(278 * 2**30), short_bytes(80 * 2**30)
    assert disk.lacks(278 * 2**30) == (
        f"the shuffle takes about {needed}, but /scratch (spark.local.dir) has {free} free"
    )


@pytest.mark.parametrize(
    ("master", "local"), [("local", True), ("local[4]", True), ("local-cluster[2,1,512]", False), ("yarn", False)]
)
def test_only_a_local_master_shuffles_to_this_machine(master, local):
    assert _is_local(master) == local


def test_the_sessions_folders_are_looked_at(spark):
    found = LocalDisk.of(spark)
    assert found.free > 0
    assert list(found.folders) == local_folders(spark)
    refuse_full_disk(spark, 1)
    with pytest.raises(SemDedupError, match=r"takes about .*, but /.* \(spark.local.dir\) has .* free: set"):
        refuse_full_disk(spark, 1e30)


@pytest.mark.slow
def test_run_refuses_and_force_and_resume_run(spark, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    vectors = pa.array([[1.0, 0.0], [2.0, 0.01], [0.0, 1.0]])
    pq.write_table(pa.table({"id": ["a", "b", "c"], "embedding": vectors}), tmp_path / "in" / "part-0.parquet")
    monkeypatch.setattr(LocalDisk, "of", classmethod(lambda cls, spark: LocalDisk(("/scratch",), 10)))
    arguments = ["run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--k", 1]
    assert "(spark.local.dir) has 0 KiB free: set SPARK_LOCAL_DIRS" in refusal(capsys, *arguments, status=1)
    assert not (tmp_path / "out" / "centroids").exists()  # refused before the fit
    status, out, _ = call(capsys, "plan", "--input", tmp_path / "in", "--k", 1)
    assert status == 0
    assert "has 0 KiB free; run refuses without --force" in out
    assert call(capsys, *arguments, "--resume", "--force")[0] == 0
    assert (tmp_path / "out" / "_manifest.json").exists()
