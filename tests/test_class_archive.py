"""The archive of the JVM's classes: made once, read by later sessions, and left alone where it is not to be trusted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from pyspark import SparkContext

from spark_semdedup import class_archive, demo, jvm, session, steps
from spark_semdedup.errors import SemDedupError

SIZE = 5


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(jvm.SUBMIT_OPTIONS, raising=False)
    folder = tmp_path / "spark-semdedup"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def archive(folder) -> Path:
    """What looks like an archive of this Java and this Spark."""
    path = folder / class_archive._complete_name(SIZE)
    path.write_bytes(b"x" * SIZE)
    path.chmod(0o600)
    return path


@pytest.fixture
def no_spark(monkeypatch) -> None:
    """As in a process that has not started Spark."""
    monkeypatch.setattr(SparkContext, "_gateway", None)
    monkeypatch.setattr(SparkContext, "_jvm", None)


# --- which archive is taken ---------------------------------------------------------------------------------


def test_there_is_none_at_first(folder):
    assert class_archive.find() is None
    folder.rmdir()
    assert class_archive.find() is None
    assert class_archive.option(None) == ""


def test_it_is_found_and_java_told(archive):
    assert class_archive.find() == archive
    assert f'"-XX:SharedArchiveFile={archive}"' in class_archive.option(archive)


def test_the_home_folder_has_the_cache_where_nothing_else_is_said(archive, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert class_archive.find() is None
    (tmp_path / "home" / ".cache").mkdir(parents=True)
    archive.parent.rename(tmp_path / "home" / ".cache" / "spark-semdedup")
    assert class_archive.find() == tmp_path / "home" / ".cache" / "spark-semdedup" / archive.name


def test_one_that_was_cut_off_is_not_taken(archive):
    archive.write_bytes(b"x" * (SIZE - 1))
    assert class_archive.find() is None


@pytest.mark.parametrize("which", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_one_that_others_can_write_is_not_taken(archive, which, mode):
    (archive if which == "file" else archive.parent).chmod(mode)
    assert class_archive.find() is None


@pytest.mark.parametrize("which", ["file", "folder"])
def test_one_of_another_user_is_not_taken(archive, which, monkeypatch):
    theirs, lstat = archive if which == "file" else archive.parent, Path.lstat

    def of_another(path: Path) -> os.stat_result:
        found = lstat(path)
        return os.stat_result([*found[:4], os.getuid() + 1, *found[5:10]]) if path == theirs else found

    monkeypatch.setattr(Path, "lstat", of_another)
    assert class_archive.find() is None


def test_a_link_is_not_taken(archive):
    archive.rename(archive.with_name("elsewhere"))
    archive.symlink_to("elsewhere")
    assert class_archive.find() is None


@pytest.mark.parametrize("name", ["JAVA_HOME", "SPARK_HOME"])
def test_one_of_another_java_or_spark_is_not_taken(archive, name, monkeypatch, tmp_path):
    monkeypatch.setenv(name, str(tmp_path / "another"))
    assert class_archive.find() is None


@pytest.mark.parametrize("name", [jvm.SUBMIT_OPTIONS, "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"])
def test_the_users_own_archive_has_precedence(archive, name, monkeypatch):
    monkeypatch.setenv(name, "-XX:SharedArchiveFile=mine.jsa")
    assert class_archive.find() is None


def test_a_folder_that_cannot_be_entered_has_none(archive, monkeypatch):
    def refused(path: Path, pattern: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "glob", refused)
    assert class_archive.find() is None


def test_one_that_is_being_replaced_is_not_taken(archive, monkeypatch):
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        archive.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert class_archive.find() is None


@pytest.mark.parametrize("name", ["a:b", 'a"b', "a\\b"])
def test_a_folder_that_no_option_can_name(monkeypatch, no_spark, tmp_path, name):
    """Java would take a colon for the end of the file's name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    with pytest.raises(SemDedupError, match=r"class archive: .* has a colon, quotation mark or backslash"):
        class_archive.make()
    assert not (tmp_path / name).exists()
    folder = tmp_path / name / "spark-semdedup"
    folder.mkdir(parents=True, mode=0o700)
    (folder / class_archive._complete_name(0)).touch(0o600)
    assert class_archive.find() is None


# --- options of the JVM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "", "-Dmine=1"])
def test_options_are_those_of_the_environment_again(monkeypatch, before):
    monkeypatch.delenv(jvm.SUBMIT_OPTIONS, raising=False)
    if before is not None:
        monkeypatch.setenv(jvm.SUBMIT_OPTIONS, before)
    with suppress(KeyError), jvm.started_with("-Da=1", "", "-Db=2"):
        assert os.environ[jvm.SUBMIT_OPTIONS] == f"-Da=1 -Db=2 {before or ''}".strip()
        raise KeyError
    assert os.environ.get(jvm.SUBMIT_OPTIONS) == before


def test_a_session_of_ours_compiles_later(spark):
    runtime = spark._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()
    assert set(jvm.COMPILE_LATER.split()) <= set(runtime.getInputArguments())


# --- failures -----------------------------------------------------------------------------------------------


def test_java_that_does_not_start_with_it_starts_without(archive, no_spark, monkeypatch, caplog):
    """As it would with a file of the right size that something else was written into."""
    tried = []

    def started(builder, quiet, given):
        tried.append(given)
        if given:
            monkeypatch.setattr(SparkContext, "_gateway", Gateway(ended=True))
            raise session.SessionError("Spark cannot be started: SIGBUS")
        assert SparkContext._gateway is None
        return "a session"

    monkeypatch.setattr(session, "_started", started)
    monkeypatch.setattr(session.log, "propagate", True)
    assert session.local_session("unused") == "a session"
    assert tried == [archive, None]
    assert f"Java does not start with the class archive {archive}: delete it" in caplog.text


def test_what_java_did_not_fail_at_is_not_tried_again(archive, no_spark, monkeypatch):
    tried = []

    def started(builder, quiet, given):
        tried.append(given)
        monkeypatch.setattr(SparkContext, "_gateway", Gateway(ended=False))
        raise session.SessionError("Spark cannot be started: a setting")

    monkeypatch.setattr(session, "_started", started)
    with pytest.raises(session.SessionError, match="a setting"):
        session.local_session("unused")
    assert tried == [archive]


def test_without_an_archive_a_session_that_does_not_start_is_not_tried_again(folder, monkeypatch):
    tried = []

    def started(builder, quiet, given):
        tried.append(given)
        raise session.SessionError("Spark cannot be started: no Java")

    monkeypatch.setattr(session, "_started", started)
    with pytest.raises(session.SessionError, match="no Java"):
        session.local_session("unused")
    assert tried == [None]


class Gateway:
    """To a JVM that has ended, or has not."""

    def __init__(self, *, ended: bool) -> None:
        self.proc = self
        self.poll = lambda: 134 if ended else None


def test_a_folder_that_cannot_be_made_is_one_line(folder, no_spark, capsys):
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(SemDedupError, match=r"class archive: .* cannot be written: File exists"):
        class_archive.make()
    assert class_archive.main([]) == 2
    assert capsys.readouterr().err.startswith("spark-semdedup: error: class archive: ")


def test_a_link_to_another_folder_is_refused_as_nobody_would_trust_it(folder, no_spark, tmp_path):
    folder.rename(tmp_path / "big-disk")
    folder.symlink_to(tmp_path / "big-disk")
    with pytest.raises(SemDedupError, match=r"class archive: .* is a link or another user's"):
        class_archive.make()


@pytest.mark.parametrize("name", ["PYSPARK_GATEWAY_PORT", "SPARK_REMOTE"])
def test_not_where_spark_was_started_by_somebody_else(archive, no_spark, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(SemDedupError, match="Spark is there already"):
        class_archive.make()
    assert archive.exists()


def test_not_where_there_is_a_session(archive, spark):
    with pytest.raises(SemDedupError, match="Spark is there already"):
        class_archive.make()
    assert spark.range(3).count() == 3
    assert archive.exists()


def test_java_that_writes_none_leaves_the_one_there_was(archive, no_spark, monkeypatch):
    """A part of one too, as where it is killed: its size would pass for the whole's."""

    def job(job, output, settings):
        (part,) = re.findall(r"ArchiveClassesAtExit=([^\"]*)", options)
        Path(part).write_bytes(b"x")

    def started(**_):
        nonlocal options
        options = os.environ[jvm.SUBMIT_OPTIONS]

    options = ""
    monkeypatch.setattr(session, "local_session", started)
    monkeypatch.setattr(steps.Job, "of", lambda spark: None)
    monkeypatch.setattr(demo, "run", job)
    monkeypatch.setattr(class_archive, "_ends_well", lambda spark: False)
    with pytest.raises(SemDedupError, match="class archive: Java wrote none; it takes HotSpot"):
        class_archive.make()
    assert [*archive.parent.iterdir()] == [archive]


# --- made and read ------------------------------------------------------------------------------------------

_CLASSES_FROM_IT = """
import sys
from spark_semdedup.session import local_session
local_session("test", cores=1, memory_gib=1).range(3).count()
"""


@pytest.mark.slow
def test_made_by_the_command_and_read_by_a_session(folder, tmp_path):
    """Java tells of each class where it has it from."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.parent)}
    made = subprocess.run(
        [sys.executable, "-m", "spark_semdedup.class_archive"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    (archive,) = folder.iterdir()
    assert re.fullmatch(rf"{re.escape(str(archive))}: \d+ MiB, in \d+ s; .*\n", made.stdout)
    assert archive.stat().st_mode & 0o777 == 0o600
    told = tmp_path / "classes.log"
    options = f"-Xlog:class+load:file={told}"
    subprocess.run(
        [sys.executable, "-c", _CLASSES_FROM_IT],
        env={**environment, jvm.SUBMIT_OPTIONS: options},
        check=True,
        timeout=120,
    )
    named = [line for line in told.read_text().splitlines() if " org.apache.spark." in line]
    lines = [line for line in named if "$$Lambda" not in line]  # made while it runs
    from_archive = [line for line in lines if "shared objects file (top)" in line]
    assert len(lines) > 1000
    assert len(from_archive) > 0.9 * len(lines)
