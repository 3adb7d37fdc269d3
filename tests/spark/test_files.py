"""Files through Hadoop's FileSystem."""

from __future__ import annotations

import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark.files import Files, is_within, join
from spark_semdedup.spark.parquet import count_rows


@pytest.fixture(scope="module")
def files(spark):
    return Files(spark)


def test_text_comes_back_as_written_from_paths_with_spaces_and_umlauts(files, tmp_path):
    path = join(str(tmp_path), "a b", "größe 1.json")
    files.write_text(path, "first\nzweite Zeile: ü €\n")
    assert files.read_text(path) == "first\nzweite Zeile: ü €\n"
    assert (tmp_path / "a b" / "größe 1.json").read_text("utf-8") == "first\nzweite Zeile: ü €\n"
    files.write_text(path, "anew")
    assert files.read_text(path) == "anew"


def test_settings_of_the_session_hold_as_they_do_for_sparks_readers(spark, tmp_path):
    """Such as the keys of object stores that a notebook sets."""
    (tmp_path / "in").mkdir()
    spark.range(3).coalesce(1).write.parquet(str(tmp_path / "in" / "rows"))
    mount = "fs.viewfs.mounttable.semdedup.link./d"
    spark.conf.set(mount, f"file://{tmp_path}")
    try:
        assert Files(spark).names("viewfs://semdedup/d/in") == ["rows"]
        assert count_rows(spark.read.parquet("viewfs://semdedup/d/in/rows")) == 3
    finally:
        spark.conf.unset(mount)


def test_names_lists_a_folder_in_order(files, tmp_path):
    for name in ("b", "a", "c d"):
        (tmp_path / name).mkdir()
    assert files.names(str(tmp_path)) == ["a", "b", "c d"]


def test_a_folder_is_vacant_until_something_is_in_it(files, tmp_path):
    folder = tmp_path / "out"
    assert files.is_vacant(str(folder))
    folder.mkdir()
    assert files.is_vacant(str(folder))
    (folder / "x").touch()
    assert not files.is_vacant(str(folder))
    assert not files.is_vacant(str(folder / "x")), "a file is in the way of a folder"


def test_delete_removes_all_that_a_folder_holds_and_forgives_nothing_being_there(files, tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    files.delete(str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()
    files.delete(str(tmp_path / "d"))


def test_what_cannot_be_deleted_is_an_error(files, tmp_path, monkeypatch):
    """What Hadoop says by a boolean; stale files would count as written."""

    class Stubborn:
        def delete(self, path, recursively):
            return False

        def exists(self, path):
            return path == "there"

    monkeypatch.setattr(Files, "_locate", lambda self, path: (Stubborn(), path))
    files.delete("gone")
    with pytest.raises(SemDedupError, match=r"^path 'there' cannot be deleted"):
        files.delete("there")


def test_matches_reads_patterns_as_spark_does(files, tmp_path):
    for name in ("part-1", "part-2", "other"):
        (tmp_path / name).touch()
    assert files.matches(f"{tmp_path}/part-*") == [f"file:{tmp_path}/part-1", f"file:{tmp_path}/part-2"]
    assert files.matches(f"{tmp_path}/{{other,none}}") == [f"file:{tmp_path}/other"]
    assert files.matches(f"{tmp_path}/none") == []
    assert files.matches(f"{tmp_path}/none-*") == []


def test_full_makes_spellings_of_one_place_equal(files, tmp_path):
    spellings = [str(tmp_path), f"{tmp_path}/", f"file:{tmp_path}", f"file://{tmp_path}", f"{tmp_path}/x/.."]
    assert {files.full(path) for path in spellings} == {f"file:{tmp_path}"}
    assert files.full("relative/x").endswith("/relative/x")
    assert files.full("relative/x").startswith("file:/")


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nosuch://bucket/x", 'No FileSystem for scheme "nosuch"'), ("a:b/c", "Relative path in absolute URI: a:b/c")],
)
def test_what_hadoop_refuses_is_one_line_that_names_the_path(files, path, reason):
    with pytest.raises(SemDedupError) as refused:
        files.exists(path)
    assert str(refused.value) == f"path {path!r} cannot be used: {reason}"


def test_join_and_is_within():
    assert join("s3a://bucket/out/", "a", "b") == "s3a://bucket/out/a/b"
    assert is_within("file:/a/b", "file:/a")
    assert is_within("file:/a", "file:/a/")
    assert not is_within("file:/ab", "file:/a")
    assert not is_within("file:/a", "file:/a/b")
