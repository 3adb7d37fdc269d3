"""Runs over real Delta tables, in a process of its own: Delta's jar and extension must be there when the JVM starts.

    python tests/delta_scenarios.py FOLDER          # needs `make delta-jars`

Each scenario notes what it found in ``FOLDER/found.json``; ``test_delta.py`` says what that must be.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
from pyspark.sql import DataFrame, SparkSession

from spark_semdedup.cli import main as cli
from spark_semdedup.runs import run as whole_run
from spark_semdedup.spark import lock as locking
from spark_semdedup.spark.session import local_session

ROOT = Path(__file__).parents[1]
ROWS, EPS = 120, 0.05
ALL = ("--eps", EPS, "--which-to-keep", "first", "--coverage", "exact", "--k", 4)
"""The duplicates are then those of all rows against all, whatever the centroids."""


def jars() -> list[Path]:
    """Delta's jars that ``make delta-jars`` has fetched for the installed Spark; empty where any is missing."""
    scala = "2.12" if pyspark.__version__.startswith("3.") else "2.13"
    lines = {"3.5": "3.3", "4.0": "4.0", "4.1": "4.1", "4.2": "4.4"}  # there is none yet for Spark 4.3
    line = lines.get(".".join(pyspark.__version__.split(".")[:2]), "none")
    folder = ROOT / "build" / "jars"
    found = [sorted(folder.glob(f"{name}-{line}.*.jar")) for name in (f"delta-spark_{scala}", "delta-storage")]
    return [versions[-1] for versions in found] if all(found) else []


def delta_session(name: str) -> SparkSession:
    """A local session that knows Delta."""
    return local_session(
        name,
        cores=2,
        memory_gib=1,
        quiet=True,
        conf={
            "spark.jars": ",".join(map(str, jars())),
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            # Small data, many queries.
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        },
    )


def corpus(first: int = 0, rows: int = ROWS) -> pa.Table:
    """Rows around twenty directions, at distances from none to well above eps, numbered from ``first``."""
    centres = np.random.default_rng(3).standard_normal((20, 8))
    rng = np.random.default_rng([3, first])
    noise = rng.standard_normal((rows, 8)) * rng.choice([0.0, 0.05, 0.15, 0.4], (rows, 1))
    vectors = (centres[np.arange(rows) % 20] + noise).astype(np.float32)
    ids = [f"doc {first + i:03}" for i in range(rows)]
    return pa.table(
        {
            "id": ids,
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
            "text": [id_[::-1] for id_ in ids],
            "quality": pa.array([None if i % 7 == 0 else i % 5 for i in range(rows)], pa.int32()),
        }
    )


class Scenarios:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spark = delta_session("delta scenarios")
        self.found: dict[str, Any] = {}
        pq.write_table(corpus(), folder / "documents.parquet")
        pq.write_table(corpus(first=900, rows=20), folder / "later.parquet")
        self.documents = self.spark.read.parquet(str(folder / "documents.parquet"))
        self.later = self.spark.read.parquet(str(folder / "later.parquet"))
        self.spark.sql("CREATE SCHEMA corpus")

    # --- tools ---

    def call(self, *arguments: object) -> dict[str, Any]:
        """What the program answered."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.main([str(argument) for argument in arguments])
        print(*arguments, err.getvalue(), f"status {status}", sep="\n", flush=True)
        return {"status": status, "out": out.getvalue(), "err": err.getvalue()}

    def summary(self, output: Path) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((output / "summary.json").read_text())
        return {name: said.get(name) for name in ("rows_in", "duplicates", "kept", "input_version")}

    def delta(self, path: object) -> DataFrame:
        return self.spark.read.format("delta").load(str(path))

    def versions(self, table: str) -> list[str]:
        """The operation of each version, from the first."""
        history = self.spark.sql(f"DESCRIBE HISTORY {table}").orderBy("version")
        return [row["operation"] for row in history.collect()]

    def new_table(self, name: str, **properties: str) -> str:
        self.documents.write.format("delta").options(**properties).saveAsTable(f"corpus.{name}")
        return f"corpus.{name}"

    # --- scenarios ---

    def by_path(self) -> dict[str, Any]:
        """A path with characters that a URI would have to spell otherwise; two versions, of which the newest counts."""
        table, output = self.folder / "in put" / "100%20 docs", self.folder / "by path"
        self.documents.limit(50).write.format("delta").save(str(table))
        self.documents.write.format("delta").mode("overwrite").save(str(table))
        arguments = ("run", "--input", table, "--input-format", "delta", "--output", output, *ALL)
        delta = ("--output-format", "delta")
        found = self.call(*arguments, *delta)
        kept = self.delta(output / "deduplicated")
        found |= {
            "summary": self.summary(output),
            "kept": ids(kept),
            "duplicates": ids(self.spark.read.parquet(str(output / "duplicates"))),
            "same_columns": kept.schema == self.documents.schema,
            "in_folder": sorted(path.name for path in output.iterdir() if not path.name.endswith(".crc")),
            "same_rows": kept.exceptAll(self.documents).count(),
        }
        # Delta remembers, in this process, the tables it has written; here they are deleted and written once more.
        found["again"] = self.call(*arguments, *delta, "--overwrite")
        found["kept_again"] = ids(self.delta(output / "deduplicated"))
        found["finished"] = self.call(*arguments, *delta, "--resume")
        self.later.write.format("delta").mode("append").save(str(table))
        found["moved_on"] = self.call(*arguments, *delta, "--resume")
        old = self.folder / "old version"
        as_of = ("--output", old, "--input-option", "versionAsOf=0")
        found["old"] = self.call("run", "--input", table, "--input-format", "delta", *as_of, *ALL)
        return found | {"old_summary": self.summary(old)}

    def by_name(self) -> dict[str, Any]:
        """Then rows are deleted, which only marks them, beside files that stay (deletion vectors)."""
        name, output = self.new_table("documents", **{"delta.enableDeletionVectors": "true"}), self.folder / "by name"
        to = ("--output-format", "delta", "--output-table", "corpus.deduplicated")
        arguments = ("run", "--input-table", name, *to, *ALL)
        found = self.call(*arguments, "--output", output)
        files = self.spark.table(name).inputFiles()
        self.spark.sql(f"DELETE FROM {name} WHERE id < 'doc 040'")  # noqa: S608
        same_files = sorted(self.spark.table(name).inputFiles()) == sorted(files)
        moved_on = self.call(*arguments, "--output", output, "--resume")
        old, pin = self.folder / "by name, old", ("--input-option", "versionAsOf=0")
        return found | {
            "summary": self.summary(output),
            "same_files": same_files,
            "moved_on": moved_on,
            "old": self.call(*arguments, *pin, "--output", old, "--overwrite"),
            "old_summary": self.summary(old),
            "kept": ids(self.spark.table("corpus.deduplicated")),
            "versions": self.versions("corpus.deduplicated"),
        }

    def merged(self) -> dict[str, Any]:
        """What docs/delta.md says, in its own words: duplicates deleted in place, the table as it was, and back."""
        self.new_table("live")
        merge, before, restore = (self.localised(text, table="corpus.live") for text in self.page("sql"))
        output = self.folder / "result"
        found = self.call("run", "--input-table", "corpus.live", "--output", output, *ALL)
        found["deleted"] = self.spark.sql(merge).first().asDict()
        found["left"] = ids(self.spark.table("corpus.live"))
        found["deleted_again"] = self.spark.sql(merge).first().asDict()
        found["before"] = ids(self.spark.sql(before))
        self.spark.sql(restore)
        found["restored"] = ids(self.spark.table("corpus.live"))
        return found | {"versions": self.versions("corpus.live")}

    def streamed(self) -> dict[str, Any]:
        """The page's stream; then batches given twice, as by a stream that was killed."""
        names: dict[str, Any] = {"spark": self.spark}
        self.new_table("arriving")
        for text in self.page("python"):
            exec(compile(self.localised(text, table="corpus.arriving"), "delta.md", "exec"), names)
        found = {"streamed": ids(self.spark.table("corpus.kept"))}
        for step, batch_id in (("batch 0 again", 0), ("batch 1", 1), ("batch 1 again", 1)):
            names["keep_new"](self.later, batch_id)
            found[step] = ids(self.spark.table("corpus.kept"))
        # Rows without embeddings and rows that came before are dropped, in a batch of nothing else, too.
        names["keep_new"](self.later.limit(1), 2)
        nothing = self.later.limit(2).selectExpr("concat('no ', id) AS id", "NULL AS embedding", "text", "quality")
        names["keep_new"](nothing.withColumn("embedding", nothing["embedding"].cast("array<float>")), 3)
        return found | {"unusable": ids(self.spark.table("corpus.kept"))}

    def page(self, kind: str) -> list[str]:
        """The examples of docs/delta.md in a language."""
        return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "docs" / "delta.md").read_text(), re.DOTALL)

    def localised(self, text: str, table: str) -> str:
        """An example with this session's names and places (Unity Catalog's names have three parts), and version 0."""
        here = text.replace("main.corpus.documents", table).replace("main.corpus.kept", "corpus.kept")
        here = here.replace("/Volumes/main/corpus", str(self.folder)).replace("VERSION AS OF 12", "VERSION AS OF 0")
        return here.strip().rstrip(";")

    def resumed(self) -> dict[str, Any]:
        """A run is stopped after the comparison; the table loses rows and gets others; the run goes on."""
        name, output = self.new_table("moving", **{"delta.enableDeletionVectors": "true"}), self.folder / "resumed"
        arguments = ("run", "--input-table", name, "--output", output, *ALL)
        with mock.patch.object(whole_run._Run, "identify", side_effect=RuntimeError("stopped")):
            stopped = self.call(*arguments)
        self.spark.sql(f"DELETE FROM {name} WHERE id < 'doc 060'")  # noqa: S608
        self.later.write.format("delta").mode("append").saveAsTable(name)
        found = self.call(*arguments, "--resume")
        return found | {
            "stopped": stopped,
            "summary": self.summary(output),
            "kept": ids(self.spark.read.parquet(str(output / "deduplicated"))),
            "rows_now": self.spark.table(name).count(),
        }

    def changed_meanwhile(self) -> dict[str, Any]:
        """Rows arrive while a run reads the table."""
        name, output = self.new_table("busy"), self.folder / "busy"
        identify = whole_run._Run.identify

        def after_an_append(run: Any, lock: Any) -> None:
            self.later.write.format("delta").mode("append").saveAsTable(name)
            identify(run, lock)

        with mock.patch.object(whole_run._Run, "identify", after_an_append):
            found = self.call("run", "--input-table", name, "--output", output, *ALL)
        return found | {"summary": self.summary(output), "rows_now": self.spark.table(name).count()}

    def refused(self) -> dict[str, Any]:
        """One line each, and nothing is left behind."""
        output = self.folder / "refused"
        spaced = self.folder / "spaced.parquet"
        pq.write_table(corpus(rows=4).rename_columns(["id", "embedding", "my text", "quality"]), spaced)
        parquet = str(self.folder / "documents.parquet")
        table = str(self.folder / "in put" / "100%20 docs")
        to = ("--output", output, "--k", 1)
        return {
            "not a table": self.call("run", "--input", parquet, "--input-format", "delta", *to),
            "two paths": self.call("run", "--input", table, parquet, "--input-format", "delta", *to),
            "no such version": self.call(
                "run", "--input", table, "--input-format", "delta", "--input-option", "versionAsOf=77", *to
            ),
            "column": self.call("run", "--input", spaced, "--output-format", "delta", *to),
            "left": sorted(path.name for path in output.iterdir()) if output.exists() else [],
        }


def ids(rows: DataFrame) -> list[str]:
    return sorted(row["id"] for row in rows.select("id").collect())


SCENARIOS: tuple[Callable[[Scenarios], dict[str, Any]], ...] = (
    Scenarios.by_path,
    Scenarios.by_name,
    Scenarios.merged,
    Scenarios.streamed,
    Scenarios.resumed,
    Scenarios.changed_meanwhile,
    Scenarios.refused,
)


def main(folder: Path, names: list[str]) -> None:
    locking.SILENCE_SECONDS = 0.2  # runs stopped in this very process leave locks that only silence tells to be dead
    scenarios = Scenarios(folder)
    for scenario in SCENARIOS:
        if not names or scenario.__name__ in names:
            scenarios.found[scenario.__name__] = scenario(scenarios)
            print(scenario.__name__, flush=True)
    (folder / "found.json").write_text(json.dumps(scenarios.found))
    scenarios.spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
