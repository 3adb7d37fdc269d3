"""Files and folders wherever Spark reads and writes them: every path goes through Hadoop's FileSystem.

So ``s3a://``, ``abfss://``, ``hdfs://``, ``file:`` and plain paths, relative ones included, mean here what they mean
to Spark. No operation relies on a rename being atomic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from spark_semdedup.errors import SemDedupError, shown


class Files:
    """The file systems that a Spark session knows.

    Every method takes a path as the user wrote it and raises a ``SemDedupError`` that names it where its file system
    is unknown or refuses.
    """

    def __init__(self, spark: SparkSession) -> None:
        jvm: Any = getattr(spark, "_jvm", None)
        if jvm is None:
            raise SemDedupError("files need a classic Spark session: a Spark Connect client has no file systems")
        # Looked up once: each part of a Java name is a call of the JVM.
        self._path, self._file, self._uri = jvm.org.apache.hadoop.fs.Path, jvm.java.io.File, jvm.java.net.URI
        self._conf = hadoop_conf(spark)

    def exists(self, path: str) -> bool:
        with _named(path):
            system, hadoop_path = self._locate(path)
            return bool(system.exists(hadoop_path))

    def is_vacant(self, path: str) -> bool:
        """Nothing is there, or a folder without entries."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            if not system.exists(hadoop_path):
                return True
            status = system.getFileStatus(hadoop_path)
            return bool(status.isDirectory()) and len(system.listStatus(hadoop_path)) == 0

    def names(self, path: str) -> list[str]:
        """Names of a folder's entries, sorted."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            return sorted(status.getPath().getName() for status in system.listStatus(hadoop_path))

    def matches(self, pattern: str) -> list[str]:
        """Full paths that a path or glob pattern stands for, as Spark's readers take it; empty where there are none."""
        with _named(pattern):
            system, hadoop_path = self._locate(pattern)
            return [status.getPath().toString() for status in system.globStatus(hadoop_path) or ()]

    def folder_of(self, path: str) -> str:
        """A folder itself, or the one that a file lies in. ``path``: a full path."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            is_folder = system.getFileStatus(hadoop_path).isDirectory()
            return str((hadoop_path if is_folder else hadoop_path.getParent()).toString())

    def full(self, path: str) -> str:
        """The path with scheme, authority and working directory: two spellings of one place come out equal."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            return str(system.makeQualified(hadoop_path).toString())

    def real(self, path: str) -> str:
        """The full path, links of a local file system followed; other file systems have none or keep them to
        themselves."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            uri = system.makeQualified(hadoop_path).toUri()
            if uri.getScheme() != "file":
                return str(uri.toString())
            return f"file:{self._file(uri.getPath()).getCanonicalPath()}"

    def delete(self, path: str) -> None:
        """Removes a file, or a folder with all it holds; nothing happens where nothing is."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            if not system.delete(hadoop_path, True) and system.exists(hadoop_path):
                raise SemDedupError(f"path {shown(path, 400)} cannot be deleted: the file system says no more")

    def write_text(self, path: str, text: str) -> None:
        """Writes a small UTF-8 file, in place of one that may be there."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            stream = system.create(hadoop_path, True)
            try:
                stream.write(bytearray(text, "utf-8"))
            finally:
                stream.close()

    def create_new(self, path: str, text: str) -> bool:
        """Writes a small UTF-8 file where none is; False, with nothing written, where one is.

        Of several that try at once one succeeds: on local disks, and where the store creates only if absent (HDFS,
        ABFS, GCS; S3 with a connector that writes conditionally, Hadoop 3.4.2 and ``fs.s3a.performance.flags=create``,
        HADOOP-19256). Elsewhere two may.
        """
        with _named(path):
            system, hadoop_path = self._locate(path)
            parent = hadoop_path.getParent()
            if parent is not None:
                system.mkdirs(parent)
            local = hadoop_path.makeQualified(system.getUri(), system.getWorkingDirectory()).toUri()
            if local.getScheme() == "file":
                # Hadoop's local file system looks first and creates then; this is one call of the kernel.
                if not self._file(local.getPath()).createNewFile():
                    return False
                self.write_text(path, text)
                return True
            if system.exists(hadoop_path):
                return False
            try:
                stream = system.create(hadoop_path, False)
                stream.write(bytearray(text, "utf-8"))
                stream.close()  # an object store may find only here that there is one already
            except Py4JJavaError as error:
                if system.exists(hadoop_path) and "Exists" in error.java_exception.getClass().getName():
                    return False
                raise
            return True

    def sizes_and_times(self, folder: str) -> dict[str, tuple[int, int]]:
        """Length in bytes and time of the last change, milliseconds, of each file in a folder, by name. ``folder``: a
        URI."""
        with _named(folder):
            hadoop_path = self._path(self._uri(folder))
            found = hadoop_path.getFileSystem(self._conf).listStatus(hadoop_path)
            return {
                str(s.getPath().toUri().getRawPath()).rsplit("/", 1)[-1]: (s.getLen(), s.getModificationTime())
                for s in found
                if s.isFile()
            }

    def read_text(self, path: str) -> str:
        """The text of a small UTF-8 file."""
        with _named(path):
            system, hadoop_path = self._locate(path)
            stream = system.open(hadoop_path)
            try:
                return bytes(stream.readAllBytes()).decode("utf-8")
            finally:
                stream.close()

    def _locate(self, path: str) -> tuple[Any, Any]:
        hadoop_path = self._path(path)
        return hadoop_path.getFileSystem(self._conf), hadoop_path


def hadoop_conf(spark: SparkSession) -> Any:
    """Hadoop's settings as Spark's readers and writers have them: with those of the session, such as the keys of object
    stores that a notebook sets by ``spark.conf.set``."""
    return spark._jsparkSession.sessionState().newHadoopConf()  # type: ignore[attr-defined]


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Java's exceptions as errors of one line that name the path."""
    try:
        path.encode()  # half a surrogate pair cannot be sent to the JVM: the connection to it would break
        yield
    except Py4JJavaError as error:
        reason = str(error.java_exception.getMessage() or error.java_exception.toString())
        raise _unusable(path, reason) from error
    except PySparkException as error:
        raise _unusable(path, str(error)) from error
    except UnicodeEncodeError as error:
        raise _unusable(path, "it is not valid Unicode") from error


def _unusable(path: str, reason: str) -> SemDedupError:
    first = (reason.strip().splitlines() or ["no reason given"])[0].removeprefix("java.net.URISyntaxException: ")
    return SemDedupError(f"path {shown(path, 400)} cannot be used: {first}")


def join(path: str, *names: str) -> str:
    """A path below another one, whatever its file system.

    >>> join("s3a://bucket/out/", "similarities")
    's3a://bucket/out/similarities'
    """
    return "/".join([path.rstrip("/"), *names])


def is_within(inner: str, outer: str) -> bool:
    """Whether one full path (``Files.full``) is the other or lies below it.

    >>> is_within("file:/a/b", "file:/a"), is_within("file:/ab", "file:/a"), is_within("file:/a", "file:/a")
    (True, False, True)
    """
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def escaped(path: str) -> str:
    """A path as a pattern that matches it alone."""
    return re.sub(r"([{}\[\]*?\\])", r"\\\1", path)
