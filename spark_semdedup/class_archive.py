"""An archive of the JVM's classes, with which a local session starts in three fifths of the time.

    python -m spark_semdedup.class_archive

Whenever a JVM starts Spark it finds, checks and links some 20,000 classes in 280 jars. HotSpot can keep classes as they
lie in its memory, in a file that is mapped the next time (dynamic class data sharing, JEP 350, Java 13 and newer). Here
a small job is run, and the classes it needed become such a file, 170 MB, in the user's cache folder; local sessions
find it there. It is never made unasked.

Java looks whether the file is of this very Java and of these jars, and goes on without it where it is not. That nobody
else can have written it, and that it is whole, is looked at here: what is in it is run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pyspark
from pyspark import SparkContext
from pyspark.sql import SparkSession

from spark_semdedup import jvm
from spark_semdedup.errors import SemDedupError, shown

_DUMP_QUIETLY = "-Xlog:disable -Xlog:all=error:stderr"
"""Java warns on standard output of each class it cannot keep."""

_READ_QUIETLY = "-Xlog:cds*=error"
"""And of an archive it cannot use."""

_JAVA_OPTIONS = (jvm.SUBMIT_OPTIONS, "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")

_ENDS_WITHIN_S = 600


def find() -> Path | None:
    """The archive for the session that would be started here; None where there is none to be trusted, and where the
    environment says itself which archive Java is to read or write."""
    if any("Archive" in os.environ.get(name, "") for name in _JAVA_OPTIONS) or _unspeakable(_folder()):
        return None
    try:
        for path in _folder().glob(f"{_name()}-*.jsa"):
            if _is_private(path.parent) and _is_private(path) and path.name == _complete_name(path.stat().st_size):
                return path
    except OSError:  # a folder that cannot be entered, or a file that is being replaced
        pass
    return None


def option(archive: Path | None) -> str:
    """With which Java reads that archive, if it is given (``jvm.started_with``)."""
    return f'"-XX:SharedArchiveFile={archive}" {_READ_QUIETLY}' if archive else ""


def make() -> Path:
    """Runs a small job in a session of its own and keeps the classes that it took. Returns the archive.

    Raises ``SemDedupError`` where Spark has been started in this process, where Java cannot write an archive, and where
    nobody would trust it. The session's JVM ends with it.
    """
    from spark_semdedup import demo, session, steps  # which find archives here

    started = SparkContext._gateway or os.environ.get("PYSPARK_GATEWAY_PORT") or os.environ.get("SPARK_REMOTE")
    if started:
        raise SemDedupError(
            "class archive: Spark is there already; make it in a process of its own, not by spark-submit"
        )
    folder = _private_folder()
    part, out = folder / f"{_name()}-{os.getpid()}.part", folder / f"job-{os.getpid()}"
    try:
        with jvm.started_with(f'"-XX:ArchiveClassesAtExit={part}" {_DUMP_QUIETLY}'):
            spark = session.local_session(quiet=True)
        demo.run(steps.Job.of(spark), str(out), {"coverage": "exact"})
        if not _ends_well(spark) or not part.exists():
            raise SemDedupError(
                "class archive: Java wrote none; it takes HotSpot (OpenJDK), 400 MB of room in "
                f"{shown(str(folder), 400)}, and no SPARK_CONF_DIR or folder of classes on its class path"
            )
        part.chmod(stat.S_IRUSR | stat.S_IWUSR)
        archive = part.rename(folder / _complete_name(part.stat().st_size))
    finally:
        shutil.rmtree(out, ignore_errors=True)
        part.unlink(missing_ok=True)
    for old in folder.glob(f"{_name()}-*.jsa"):
        if old != archive:
            old.unlink(missing_ok=True)
    return archive


def _private_folder() -> Path:
    """The cache folder, made where it is missing; refused where others could write, or Java could not read, there."""
    folder = _folder()
    if _unspeakable(folder):
        raise SemDedupError(
            f"class archive: {shown(str(folder), 400)} has a colon, quotation mark or backslash, which Java's options "
            "cannot name; set XDG_CACHE_HOME to another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(stat.S_IRWXU)
        private = _is_private(folder)
    except OSError as error:
        raise SemDedupError(f"class archive: {shown(str(folder), 400)} cannot be written: {error.strerror}") from error
    if not private:
        raise SemDedupError(
            f"class archive: {shown(str(folder), 400)} is a link or another user's; set XDG_CACHE_HOME to a folder of "
            "your own"
        )
    return folder


def _unspeakable(folder: Path) -> bool:
    return any(character in str(folder) for character in ':"\\')


def _ends_well(spark: SparkSession) -> bool:
    """Ends the session and its JVM, which writes the archive then, and waits for that."""
    gateway = spark.sparkContext._gateway
    spark.stop()
    gateway.shutdown()  # type: ignore[union-attr]
    process = gateway.proc  # type: ignore[union-attr]
    process.stdin.close()
    try:
        return bool(process.wait(_ENDS_WITHIN_S) == 0)
    except subprocess.TimeoutExpired:
        process.kill()
        return False


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "spark-semdedup")


def _name() -> str:
    """Of the archive for this Java and this Spark."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.realpath(os.path.join(home, "bin", "java") if home else shutil.which("java") or "")
    spark = os.environ.get("SPARK_HOME") or os.path.dirname(pyspark.__file__)
    try:
        changed = os.stat(java).st_mtime_ns
    except OSError:
        changed = 0
    what = "\0".join([java, str(changed), os.path.realpath(spark), pyspark.__version__])
    return "classes-" + hashlib.sha256(what.encode()).hexdigest()[:16]


def _complete_name(size: int) -> str:
    """With the size, as Java does not survive a file that was cut off."""
    return f"{_name()}-{size}.jsa"


def _is_private(path: Path) -> bool:
    """Whether nobody but this user, or root, can have written there."""
    found = path.lstat()
    ours = found.st_uid in (os.getuid(), 0)
    return ours and not stat.S_ISLNK(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spark_semdedup.class_archive", description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    began = time.monotonic()
    try:
        archive = make()
    except SemDedupError as error:
        print(f"spark-semdedup: error: {error}", file=sys.stderr)
        return 2
    size, seconds = archive.stat().st_size, time.monotonic() - began
    print(f"{archive}: {size / 2**20:,.0f} MiB, in {seconds:.0f} s; local sessions read it from now on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
