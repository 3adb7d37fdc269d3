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
import sys
import time
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from spark_semdedup import jvm
from spark_semdedup.errors import SemDedupError, shown

_QUIET = "-Xlog:disable -Xlog:all=error:stderr"
"""Java warns on standard output of an archive it cannot use, and of each class it cannot keep."""

_ENDS_WITHIN_S = 600


def find() -> Path | None:
    """The archive for the session that would be started here; None where there is none to be trusted, and where the
    environment says itself which archive Java is to read or write."""
    if "Archive" in os.environ.get(jvm.SUBMIT_OPTIONS, ""):
        return None
    for path in _folder().glob(f"{_name()}-*.jsa"):
        if _is_private(path.parent) and _is_private(path) and path.name == _complete_name(path.stat().st_size):
            return path
    return None


def option(archive: Path | None) -> str:
    """With which Java reads that archive, if it is given (``jvm.started_with``)."""
    return f'"-XX:SharedArchiveFile={archive}" {_QUIET}' if archive else ""


def make() -> Path:
    """Runs a small job in a session of its own and keeps the classes that it took. Returns the archive.

    Raises ``SemDedupError`` where there is no JVM that can, or no room. pyspark's JVM ends with it.
    """
    from spark_semdedup import demo, session, steps  # which find archives here

    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(stat.S_IRWXU)
        for old in folder.glob(f"{_name()}-*"):
            old.unlink()
    except OSError as error:
        raise SemDedupError(f"class archive: {shown(str(folder), 400)} cannot be written: {error.strerror}") from error
    part = folder / f"{_name()}-{os.getpid()}.part"
    out = folder / f"job-{os.getpid()}"  # nobody else can enter it
    try:
        with jvm.started_with(f'"-XX:ArchiveClassesAtExit={part}" {_QUIET}'):
            spark = session.local_session(quiet=True)
        demo.run(steps.Job.of(spark), str(out), {"coverage": "exact"})
        _end(spark)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if not part.exists():
        raise SemDedupError(
            "class archive: Java wrote none; it takes HotSpot (OpenJDK), 400 MB of room in "
            f"{shown(str(folder), 400)}, and no SPARK_CONF_DIR or folder of classes on its class path"
        )
    part.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return part.rename(folder / _complete_name(part.stat().st_size))


def _end(spark: SparkSession) -> None:
    """Ends the session and its JVM, which writes the archive then, and waits for that."""
    gateway = spark.sparkContext._gateway
    spark.stop()
    gateway.shutdown()  # type: ignore[union-attr]
    process = gateway.proc  # type: ignore[union-attr]
    process.stdin.close()
    process.wait(_ENDS_WITHIN_S)


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
