"""What the program tells its user: progress while it works, a summary at the end, errors in one line."""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any, TextIO

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

import spark_semdedup
from spark_semdedup.errors import SemDedupError, error_from_worker
from spark_semdedup.redaction import COLUMN_PARAMS, redacted, redacted_values

# --- progress -----------------------------------------------------------------------------------------------


class Progress:
    """Lines on stderr such as ``[2/4] assign and compare ... 63,905 rows, 250 clusters, 8.3 s``.

    On a terminal a line is begun when its stage begins. Elsewhere, where Spark's log may come between, it is written
    twice: its beginning, and when the stage has ended the whole. Only ASCII: spark-submit passes it on through the
    JVM, in whatever encoding that has.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._total = 0
        self._begun = ""
        self._born = time.monotonic()
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds of each stage that has ended."""

    @property
    def started(self) -> bool:
        """Whether checks are over and work has begun."""
        return self._total > 0

    @property
    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._born

    def begin(self, stages: int) -> None:
        """Says that checks are over, and how many stages there will be."""
        self._total = stages

    @contextmanager
    def stage(self, title: str) -> Iterator[dict[str, int]]:
        """Times a stage. What is put into the dictionary, counts by their names, ends the line."""
        counts: dict[str, int] = {}
        self._begun = begun = f"[{len(self.seconds) + 1}/{self._total}] {title} ... "
        on_terminal = self._stream.isatty()
        self._write(begun if on_terminal else begun.rstrip() + "\n")
        ending = "" if on_terminal else begun
        start = time.monotonic()
        try:
            yield counts
        except BaseException:
            self._write(f"{ending}failed after {time.monotonic() - start:.1f} s\n")
            raise
        self.seconds[title] = round(time.monotonic() - start, 3)
        facts = [*(f"{n:,} {what}" for what, n in counts.items()), f"{self.seconds[title]:.1f} s"]
        self._write(f"{ending}{', '.join(facts)}\n")

    def skip(self, title: str, seconds: float) -> None:
        """Says that an earlier run has done a stage, and how long that took."""
        self._write(f"[{len(self.seconds) + 1}/{self._total}] {title} ... done before\n")
        self.seconds[title] = seconds

    def note(self, text: str) -> None:
        """Tells something of the stage that runs, in a line of its own."""
        self._write(f"{text}\n{self._begun}" if self._stream.isatty() else f"{self._begun}{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(redacted(text))
        self._stream.flush()


# --- summary ------------------------------------------------------------------------------------------------


COUNTS = ("rows_in", "invalid", "clusters", "pairs_compared", "duplicates", "kept")


@dataclass
class Summary:
    """What a step did. ``as_dict`` is what ``summary.json`` and manifests hold, ``as_text`` what a person reads."""

    step: str
    counts: dict[str, int] = field(default_factory=dict)
    """Among ``COUNTS``."""
    parameters: dict[str, Any] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    """Path or table of each result."""
    seconds: dict[str, float] = field(default_factory=dict)
    eps: float | None = None
    threshold: float | None = None
    """The similarity from which a row is a duplicate: the double that scores were compared with."""
    coverage: str | None = None
    """Which pairs were compared: cluster, probes or exact; ``coverage_in_words`` says it so that it can be cited."""
    coverage_in_words: str | None = None
    complete_eps: float | None = None
    """The largest eps for which the scores are complete; None: any."""
    complete_from: float | None = None
    """The same as a similarity: the very double that was compared with."""
    planned: dict[str, Any] | None = None
    """What the comparison was estimated to take before it began (``Workload.facts``)."""
    backend: str | None = None
    clusterer: str | None = None
    input_version: int | None = None
    """The version of a Delta table that was read."""
    versions: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The counts at the top level, then everything else; without secrets that paths may hold."""
        rest = asdict(self)
        counts = rest.pop("counts")
        decided = {} if self.coverage is None else {"complete_eps": rest["complete_eps"]}
        del rest["complete_eps"]
        present = {name: value for name, value in rest.items() if value is not None}
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        whole = {"step": present.pop("step"), **counts, **present, **decided, "finished": finished}
        return dict(redacted_values(whole, verbatim=COLUMN_PARAMS))

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Summary:
        """The inverse of ``as_dict``; what else is said there is dropped."""
        names = {each.name for each in fields(cls)}
        counts = {name: said[name] for name in COUNTS if name in said}
        return cls(counts=counts, **{name: value for name, value in said.items() if name in names})

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def as_text(self) -> str:
        """The summary in aligned lines."""
        blocks = [
            aligned([(name.replace("_", " "), self._count(name)) for name in self.counts], right=True),
            aligned(self._decisions()),
            aligned([(stage, f"{seconds:,.1f} s") for stage, seconds in self.seconds.items()], right=True),
            aligned([(name, redacted(place)) for name, place in self.results.items()]),
        ]
        return "\n\n".join(block for block in blocks if block)

    def _count(self, name: str) -> str:
        count, rows = self.counts[name], self.counts.get("rows_in", 0)
        share = f"  {100 * count / rows:5.1f} %" if rows and name in ("duplicates", "kept") else " " * 9
        return f"{count:,}{share}"

    def _decisions(self) -> list[tuple[str, str]]:
        lines = []
        if self.threshold is not None:
            lines.append(("eps", f"{self.eps:.6g}: a row is a duplicate from a similarity of {self.threshold:.6g} on"))
        if self.coverage is not None:
            words = f": {self.coverage_in_words}" if self.coverage_in_words else ""
            lines.append(("coverage", f"{self.coverage}{words}"))
        if self.backend is not None:
            lines.append(("backend", {"cpu": "cpu: NumPy", "gpu": "gpu: CuPy on the executors"}[self.backend]))
        if self.clusterer is not None:
            lines.append(("clusterer", self.clusterer))
        if self.input_version is not None:
            lines.append(("input", f"version {self.input_version} of the Delta table"))
        return lines


def aligned(lines: Iterable[tuple[str, str]], *, right: bool = False) -> str:
    """Names and texts in two columns; ``right``: texts, numbers then, end at one place."""
    lines = list(lines)
    first = max((len(name) for name, _ in lines), default=0)
    second = max((len(text) for _, text in lines), default=0) if right else 0
    return "\n".join(f"  {name:<{first}}  {text:>{second}}".rstrip() for name, text in lines)


def versions(backend: str | None = None, clusterer: str | None = None, spark: str | None = None) -> dict[str, str]:
    """Versions of what the driver used. GPU libraries are named where the driver has them; executors need not agree."""
    found = {"spark_semdedup": spark_semdedup.__version__, "python": platform.python_version()}
    if spark is not None:
        found["spark"] = spark
    packages = ["pyspark", "pyarrow", "numpy", "pandas"]
    packages += ["faiss-cpu"] if clusterer == "faiss" else []
    packages += ["spark-rapids-ml", "cuml-cu12", "cuml-cu13"] if clusterer == "rapids" else []
    packages += ["cupy-cuda12x", "cupy-cuda13x"] if backend == "gpu" else []
    for package in packages:
        # A Spark distribution's pyspark is not an installed package; a driver may lack the GPU libraries.
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


# --- errors -------------------------------------------------------------------------------------------------

_JAVA_CLASS = re.compile(r"^(?:[a-z_]\w*\.)+[A-Z]\w*(?:Exception|Error): ")


def one_line(error: BaseException) -> str:
    """What went wrong, in one line: our own message, a Python worker's last word, or the first line Java gave."""
    ours = error_from_worker(error)
    if ours is not None:
        return _printable(str(ours))
    text = str(error).strip()
    if isinstance(error, Py4JJavaError):
        text = str(error.java_exception.getMessage() or error.java_exception.toString()).strip()
    elif not isinstance(error, (PySparkException, OSError)):
        return _printable(f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}")
    if "Traceback (most recent call last)" in text:
        return _printable(f"a Python worker failed: {_last_of_traceback(text)}")
    return _printable(_told_by_java(text, error)) if text else type(error).__name__


def _printable(text: str) -> str:
    """Blanks for line ends and for what a terminal would obey: a message may hold names of the user's."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _told_by_java(text: str, error: BaseException) -> str:
    """The first line, without what Spark puts before a task's own words; with the root cause where it says little.

    Where that line is of a driver's thread that waited (``toArrow``), the place is what a cause in between tells.
    """
    first = _bare(text.splitlines()[0])
    causes = list(map(_bare, _causes(error))) if first.startswith(_SAYS_NOTHING + _SAYS_WHERE) else []
    if not causes:
        return first
    root = causes.pop()
    place = next((line for line in (first, *causes) if line.startswith(_SAYS_WHERE)), None)
    return root if place is None else f"{_SQLSTATE.sub('', place).rstrip(' .:')}: {root}"


def _bare(line: str) -> str:
    return _JAVA_CLASS.sub("", _TASK_FAILED.sub("", line))


_TASK_FAILED = re.compile(r"^Job aborted due to stage failure: .*?\): (?=(?:[a-z_]\w*\.)+[A-Z])")
_SQLSTATE = re.compile(r" *SQLSTATE: \w+$")
_SAYS_NOTHING = ("Exception thrown in awaitResult", "Job aborted")
_SAYS_WHERE = ("[FAILED_READ_FILE", "Encountered error while reading", "[TASK_WRITE_FAILED", "[CANNOT_MERGE")


def _causes(error: BaseException) -> list[str]:
    """The first lines of the exceptions behind it, the root's last: of those in a stack trace, else of Java's own."""
    causes = [line.removeprefix("Caused by: ") for line in str(error).splitlines() if line.startswith("Caused by: ")]
    java: Any = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    inner = None if java is None or causes else java.getCause()
    while inner is not None:
        causes += str(inner.getMessage() or inner.toString()).strip().splitlines()[:1]
        inner = inner.getCause()
    return causes


def _last_of_traceback(text: str) -> str:
    """The line that names the exception: the first unindented one after the traceback's indented lines."""
    after = text.split("Traceback (most recent call last)", 1)[1].splitlines()[1:]
    return next((line.strip() for line in after if line and not line[0].isspace()), "no message")


def is_expected(error: BaseException) -> bool:
    """Whether an error is one that input or settings explain, not a fault in the program."""
    return isinstance(error, (SemDedupError, PySparkException, Py4JJavaError, OSError))
