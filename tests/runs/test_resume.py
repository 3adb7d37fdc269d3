"""Runs on Spark that are killed and resumed: the same answer, or a refusal that says what differs.

``test_state_machine`` kills runs at every change to a file, without Spark.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import slow
from program import call, refusal, rows

from spark_semdedup.cli import main as cli
from spark_semdedup.errors import AccountingError
from spark_semdedup.ml.semdedup import SemDedup, SemDedupModel
from spark_semdedup.runs import deduplication, identity, manifest, phases, preflight
from spark_semdedup.runs.identity import fingerprint, fingerprint_of_files
from spark_semdedup.runs.source import Source
from spark_semdedup.runs.target import Target
from spark_semdedup.spark import lock as locking
from spark_semdedup.spark.files import Files

RESULTS = ("similarities", "duplicates", "deduplicated", "invalid")
ARGUMENTS = ("--k", 3, "--handle-invalid", "skip")


def corpus(n: int = 60) -> pa.Table:
    """Rows around ten directions, and two that cannot be compared."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((10, 6))[np.arange(n) % 10] + rng.choice([0.0, 0.1, 0.5], (n, 1)) * rng.standard_normal(
        (n, 6)
    )
    vectors = [*x.astype(np.float32).tolist(), None, [0.0] * 6]
    ids = [f"doc {i:03}" for i in range(n + 2)]
    return pa.table({"id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32())), "text": ids[::-1]})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    pq.write_table(corpus(), folder / "part-0.parquet")
    return folder


@pytest.fixture(autouse=True)
def short_silence(monkeypatch):
    """Runs killed in this very process leave locks that only silence tells to be dead."""
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.2)


def run(capsys, data: Path, output: Path, *arguments: object) -> list[str]:
    status, _, err = call(capsys, "run", "--input", data, "--output", output, *ARGUMENTS, *arguments)
    assert status == 0, err
    return err


def answer(output: Path) -> dict[str, list]:
    return {name: rows(output / name) for name in RESULTS}


def leftovers(output: Path) -> list[str]:
    return [path.name for path in output.iterdir() if path.name.startswith(("_semdedup", "_stages"))]


@pytest.fixture(scope="module")
def expected(spark, data, tmp_path_factory) -> dict[str, list]:
    output = tmp_path_factory.mktemp("whole") / "out"
    assert cli.main([str(a) for a in ("run", "--input", data, "--output", output, *ARGUMENTS)]) == 0
    found = answer(output)
    assert len(found["similarities"]) == 60
    assert len(found["invalid"]) == 2
    assert 5 < len(found["duplicates"]) == 62 - 2 - len(found["deduplicated"])
    return found


class Killed(BaseException):
    """What ends a process at once."""


class Killer:
    """Kills a run before the n-th of its changes to files. A dead process changes nothing any more, so all that it
    tries after that fails, too: the end of its lock, say."""

    def __init__(self, monkeypatch, moment: int) -> None:
        self.left = moment
        self.dead = False
        for name in ("write_text", "create_new", "delete"):
            monkeypatch.setattr(Files, name, self.before(getattr(Files, name)))

    def before(self, change):
        def changed(files, path, *text):
            if locking.PREFIX in path and not self.dead and path_is_beat(text):
                return change(files, path, *text)
            self.left -= 1
            if self.left < 0:
                self.dead = True
                raise Killed
            return change(files, path, *text)

        return changed


def path_is_beat(text: tuple) -> bool:
    """Beats come from a clock, so they are no moments of the run."""
    return bool(text) and json.loads(text[0])["beat"] > 0


def killed_run(monkeypatch, data: Path, output: Path, moment: int, *arguments: object) -> bool:
    """Whether the run was killed, or ended before that moment."""
    with monkeypatch.context() as patched:
        killer = Killer(patched, moment)
        try:
            assert cli.main([str(a) for a in ("run", "--input", data, "--output", output, *ARGUMENTS, *arguments)]) == 0
        except Killed:
            return True
        assert not killer.dead
    return False


def check_resumed(capsys, monkeypatch, data, output, expected, moment) -> bool:
    if not killed_run(monkeypatch, data, output, moment):
        return False
    if (output / "_manifest.json").exists():
        assert answer(output) == expected, "a result that counts is whole"
    run(capsys, data, output, "--resume")
    assert answer(output) == expected
    assert leftovers(output) == []
    assert json.loads((output / "summary.json").read_text())["rows_in"] == 62
    return True


@pytest.mark.parametrize("moment", [slow(5), 19, slow(30)], ids=["replaces", "compares", "keeps"])
def test_a_run_that_was_killed_goes_on(capsys, spark, monkeypatch, data, tmp_path, expected, moment):
    assert check_resumed(capsys, monkeypatch, data, tmp_path / "out", expected, moment)


@pytest.mark.slow
def test_a_run_can_be_killed_before_any_change_to_a_file(capsys, spark, monkeypatch, data, tmp_path, expected):
    """At every eighth of them; ``SEMDEDUP_EVERY=1``: at each."""
    moment = 0
    while check_resumed(capsys, monkeypatch, data, tmp_path / f"out {moment}", expected, moment):
        moment += int(os.environ.get("SEMDEDUP_EVERY", "8"))
    assert moment > 30, "what a run changes"


CHOSEN = ("--results", "duplicates,pairs,groups", "--groups-by", "components", "--keep-rule", "greedy")


@pytest.mark.slow
def test_a_run_of_chosen_results_can_be_killed(capsys, spark, monkeypatch, data, tmp_path):
    """Pairs and groups are whole or begun again; similarities, which only the journal holds here, are found there."""
    run(capsys, data, tmp_path / "whole", *CHOSEN)
    names = ("duplicates", "pairs", "groups", "invalid")
    whole = {name: rows(tmp_path / "whole" / name) for name in names}
    assert not {"similarities", "deduplicated"} & {path.name for path in (tmp_path / "whole").iterdir()}
    assert len(whole["groups"]) == 60
    moment = 10
    while killed_run(monkeypatch, data, output := tmp_path / f"out {moment}", moment, *CHOSEN):
        run(capsys, data, output, *CHOSEN, "--resume")
        assert {name: rows(output / name) for name in names} == whole
        assert leftovers(output) == []
        moment += int(os.environ.get("SEMDEDUP_EVERY", "12"))
    assert moment >= 40, "what a run changes"
    run(capsys, data, tmp_path / "whole", "--overwrite")
    assert not {"pairs", "groups"} & {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.slow
def test_a_run_can_be_killed_again_and_again(capsys, spark, monkeypatch, data, tmp_path, expected):
    """Each attempt is killed some changes further; what one has done the next does not do again."""
    moment = 6
    while killed_run(monkeypatch, data, tmp_path / "out", moment, "--resume"):
        moment += 2
        assert moment < 40, "each attempt must come further than the one before"
    assert answer(tmp_path / "out") == expected


@pytest.mark.slow
def test_what_was_done_is_not_done_again(capsys, spark, monkeypatch, data, tmp_path, expected):
    output = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("spark_semdedup.runs.results.duplicates_to_write", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            cli.main([str(a) for a in ("run", "--input", data, "--output", output, *ARGUMENTS)])
    monkeypatch.setattr(SemDedupModel, "compared", lambda *_: pytest.fail("compared again"))
    said = run(capsys, data, output, "--resume", "--batch-size", 7, "--execution", "streamed")
    assert [line for line in said if line.endswith("done before")] == [
        "[1/5] fit centroids ... done before",
        "[2/5] assign and compare ... done before",
    ]
    assert answer(output) == expected
    assert set(json.loads((output / "summary.json").read_text())["seconds"]) == {
        *("fit centroids", "assign and compare", "identify duplicates", "write the kept rows"),
        *("check row counts", "in all"),
    }


@pytest.fixture
def unfinished(spark, monkeypatch, data, tmp_path) -> Path:
    output = tmp_path / "unfinished"
    with monkeypatch.context() as patched:
        patched.setattr("spark_semdedup.runs.results.duplicates_to_write", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            cli.main([str(a) for a in ("run", "--input", data, "--output", output, *ARGUMENTS)])
    return output


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_another_run_is_refused_by_what_differs(capsys, monkeypatch, data, tmp_path, unfinished):
    before = snapshot(unfinished)

    def refused(*arguments: object, of: Path = data) -> str:
        said = refusal(capsys, "run", "--input", of, "--output", unfinished, *ARGUMENTS, "--resume", *arguments)
        assert snapshot(unfinished) == before
        return said.split("holds another run: ", 1)[1].split(";")[0]

    assert refused("--eps", 0.1) == "eps is 0.1, was 0.05"
    assert refused("--k", 4) == "k is 4, was 3"
    assert refused("--which-to-keep", "first") == "--which-to-keep is 'first', was 'hard'"
    assert refused("--output-format", "orc") == "output of the rows that remain differs"
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(corpus(), other / "part-0.parquet")
    assert refused(of=other) == "input differs"
    times = (data / "part-0.parquet").stat()
    try:
        os.utime(data / "part-0.parquet", (times.st_atime + 60, times.st_mtime + 60))
        assert refused() == "the input's data have changed (files, their sizes or times)"
    finally:
        os.utime(data / "part-0.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr("spark_semdedup._version.__version__", "9.9")
    assert refused() == "spark_semdedup is '9.9', was '0.1.0'"


@pytest.mark.slow
def test_an_unfinished_run_is_not_touched_unasked(capsys, data, unfinished, expected):
    before = snapshot(unfinished)
    said = refusal(capsys, "run", "--input", data, "--output", unfinished, *ARGUMENTS)
    assert "holds a run that has not ended: give another folder, --resume to continue it, or --overwrite" in said
    assert snapshot(unfinished) == before
    said = refusal(capsys, "evaluate", "--input", data, "--result", unfinished)
    assert "is not finished: the run that wrote it did not end" in said
    said = refusal(capsys, "run", "--input", data, "--output", unfinished, "--resume", "--overwrite")
    assert said.startswith("--resume and --overwrite are both set")
    run(capsys, data, unfinished, "--overwrite")
    assert answer(unfinished) == expected
    assert leftovers(unfinished) == []


@pytest.mark.slow
def test_resume_of_nothing_begins_and_of_a_finished_run_has_nothing_to_do(capsys, spark, data, tmp_path, expected):
    output = tmp_path / "out"
    run(capsys, data, output, "--resume", "--keep-stages")
    assert answer(output) == expected
    kept = pq.read_table(output / "_stages" / "compared").to_pydict()
    assert len(kept["id"]) == 62
    assert len(set(kept["centroid"])) >= 2
    before = {name: value for name, value in snapshot(output).items() if "_stages" not in name}
    said = run(capsys, data, output, "--resume")
    assert said == [f"spark-semdedup: warning: {output} holds this run, finished: nothing is left to do"]
    assert snapshot(output) == before
    assert "eps is 0.2, was 0.05" in refusal(
        capsys, "run", "--input", data, "--output", output, *ARGUMENTS, "--resume", "--eps", 0.2
    )


def test_a_folder_of_another_program_is_not_resumed_into(capsys, spark, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    said = refusal(capsys, "run", "--input", data, "--output", tmp_path / "out", *ARGUMENTS, "--resume")
    assert "exists already" in said
    assert snapshot(tmp_path / "out") == {"notes.txt": b"mine"}


@pytest.mark.slow
def test_a_finished_run_is_the_same_whatever_would_fit_it_now(capsys, spark, data, tmp_path, expected):
    """One that was fitted with FAISS, resumed where there are GPUs, say."""
    output = tmp_path / "out"
    run(capsys, data, output, "--clusterer", "faiss")
    for name in ("_manifest.json", "summary.json"):
        path = output / name
        path.write_text(path.read_text().replace('"clusterer": "faiss"', '"clusterer": "rapids"'))
        path.with_name(f".{name}.crc").unlink()
    assert '"clusterer": "rapids"' in (output / "_manifest.json").read_text()
    (said,) = run(capsys, data, output, "--resume")
    assert said.endswith("holds this run, finished: nothing is left to do")


def test_similarities_that_are_lost_meanwhile_are_missed(capsys, data, unfinished):
    """Their rows would be no duplicates of any, so they would remain, and the numbers would add up."""
    (file,) = (unfinished / "similarities").glob("part-*.parquet")
    pq.write_table(pq.read_table(file).slice(1), file)
    file.with_name(f".{file.name}.crc").unlink()
    said = refusal(capsys, "run", "--input", data, "--output", unfinished, *ARGUMENTS, "--resume", status=1)
    assert "60 similarities were written, but it has 59: files were lost or added; begin again with --over" in said
    assert not (unfinished / "_manifest.json").exists()


@pytest.mark.slow
def test_invalid_rows_that_are_lost_meanwhile_are_missed(capsys, monkeypatch, data, unfinished):
    """They would remain, and the numbers would add up."""
    invalid = deduplication.Deduplication.invalid_rows
    monkeypatch.setattr(deduplication.Deduplication, "invalid_rows", lambda self: invalid(self).limit(1))
    said = refusal(capsys, "run", "--input", data, "--output", unfinished, *ARGUMENTS, "--resume", status=1)
    assert said.startswith("the comparison is inconsistent: 2 rows are invalid, but 1 were skipped")
    assert not (unfinished / "_manifest.json").exists()


@pytest.mark.slow
def test_a_result_that_came_before_the_lock_was_had_is_not_touched(
    capsys, spark, monkeypatch, data, tmp_path, expected
):
    """A run that found the folder vacant may look at its input for long, while another begins and ends."""
    output = tmp_path / "out"
    read, others = preflight.read_input, []

    def read_slowly(*arguments):
        found = read(*arguments)
        if not others:
            others.append("begun")
            run(capsys, data, output)
            others.append(snapshot(output))
        return found

    monkeypatch.setattr(preflight, "read_input", read_slowly)
    said = refusal(capsys, "run", "--input", data, "--output", output, *ARGUMENTS)
    assert "was written by another run or step in between: give another folder" in said
    assert snapshot(output) == others[1]
    assert answer(output) == expected


def test_a_step_does_not_delete_a_run(capsys, data, unfinished):
    """Which has the mark of what is unfinished, as a step's folder has."""
    (unfinished / "notes.txt").write_text("mine")
    before = snapshot(unfinished)
    said = refusal(capsys, "cluster", "--input", data, "--output", unfinished, "--overwrite")
    assert said.endswith(
        "is the folder of a whole run and is not deleted, not even with --overwrite: give another folder"
    )
    assert snapshot(unfinished) == before


@pytest.mark.parametrize("mark", ["_semdedup.json", "_semdedup.unfinished"])
def test_a_step_does_not_replace_a_part_of_a_run(capsys, unfinished, mark):
    before = snapshot(unfinished)
    command = ["identify", "--input", unfinished / "similarities", "--output", unfinished / "duplicates", "--overwrite"]
    (unfinished / "duplicates").mkdir(exist_ok=True)
    (unfinished / "duplicates" / mark).write_text("{}")
    said = refusal(capsys, *command)
    assert said.endswith(
        "is a part of a run's result and is not deleted, not even with --overwrite: give another folder"
    )
    (unfinished / "duplicates" / mark).unlink()
    assert snapshot(unfinished) == before


@pytest.mark.slow
def test_a_run_killed_while_it_deletes_an_earlier_one_is_known_for_a_run(capsys, monkeypatch, data, expected, tmp_path):
    def killed(*_):
        raise Killed

    output = tmp_path / "out"
    run(capsys, data, output)
    (output / "notes.txt").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(manifest, "delete_results", killed)
        with pytest.raises(Killed):
            run(capsys, data, output, "--overwrite")
    before = snapshot(output)
    said = refusal(capsys, "cluster", "--input", data, "--output", output, "--overwrite")
    assert "is the folder of a whole run and is not deleted" in said
    said = refusal(capsys, "run", "--input", data, "--output", output, *ARGUMENTS)
    assert "holds a run that has not ended: give another folder, --resume to continue it, or" in said
    assert snapshot(output) == before
    run(capsys, data, output, "--resume")
    assert answer(output) == expected
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_table_of_a_run_that_did_not_add_up_is_written_again(capsys, spark, monkeypatch, data, expected, tmp_path):
    def unsound(*_):
        raise AccountingError("the comparison is inconsistent")

    name, output = "unsound_rows", tmp_path / "out"
    spark.sql(f"DROP TABLE IF EXISTS {name}")
    try:
        with monkeypatch.context() as patched:
            patched.setattr(phases, "check", unsound)
            arguments = ["run", "--input", data, "--output", output, *ARGUMENTS, "--output-table", name]
            assert refusal(capsys, *arguments, status=1) == "the comparison is inconsistent"
        assert spark.catalog.tableExists(name)
        spark.createDataFrame([(1,)], "n int").write.mode("overwrite").saveAsTable("of_others")
        other = ["run", "--input", data, "--output", output, *ARGUMENTS, "--output-table", "of_others", "--resume"]
        assert "--output-table='of_others' exists already" in refusal(capsys, *other)
        run(capsys, data, output, "--output-table", name, "--resume")
        assert spark.table(name).count() == len(expected["deduplicated"])
        assert spark.table("of_others").columns == ["n"]
    finally:
        spark.sql(f"DROP TABLE IF EXISTS {name}")
        spark.sql("DROP TABLE IF EXISTS of_others")


@pytest.mark.slow
def test_rows_that_a_view_makes_of_no_file_add_up(capsys, spark, tmp_path):
    made = spark.sql("SELECT explode(sequence(1, 30)) AS id")
    made.selectExpr("id", "array(id % 7, id % 5, 1.0D) AS embedding").createOrReplaceTempView("of_no_file")
    command = ["run", "--input-table", "of_no_file", "--output", tmp_path / "out", "--k", 2]
    status, _, err = call(capsys, *command)
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows_in"] == 30


def test_files_in_the_root_of_a_file_system_are_looked_up(spark, monkeypatch):
    monkeypatch.setattr(identity, "reads_only_files", lambda _: True)
    rows = SimpleNamespace(inputFiles=lambda: ["file:///no-such-file.parquet"])
    assert fingerprint_of_files(Files(spark), Source(("/no-such-file.parquet",)), rows) is None, "it is not there"


def test_rows_of_a_database_are_told_apart_by_what_ranks_them_too(spark):
    def of(quality: int, **settings) -> str:
        df = spark.createDataFrame(
            [("a", [1.0, 0.0], 1), ("b", [0.0, 1.0], quality)], "id string, embedding array<double>, q int"
        )
        return fingerprint(Files(spark), Source(table="rows"), df, SemDedup(**settings))

    assert of(2) == of(3)
    assert of(2, rankBy=["q desc"]) == of(2, rankBy=["q desc"])
    assert of(2, rankBy=["q desc"]) != of(3, rankBy=["q desc"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fit.json", "compare.json", "run.json"])
def test_a_record_that_was_cut_off_counts_for_nothing(capsys, data, unfinished, expected, name):
    """As a kill leaves it in the midst of writing."""
    (unfinished / "_stages" / name).write_text('{"ids"')
    (unfinished / "_stages" / f".{name}.crc").unlink()
    run(capsys, data, unfinished, "--resume")
    assert answer(unfinished) == expected


@pytest.mark.slow
def test_records_of_another_run_count_for_nothing(capsys, data, unfinished, expected):
    """Begun again with another eps, or without a word of what the records are from."""
    run(capsys, data, unfinished, "--overwrite", "--eps", 0.4, "--keep-stages")
    other = answer(unfinished)
    assert len(other["duplicates"]) > len(expected["duplicates"])
    run(capsys, data, unfinished, "--overwrite")
    assert answer(unfinished) == expected


@pytest.mark.slow
@pytest.mark.parametrize("moment", [3, 8, 25])
def test_a_run_that_replaces_another_can_be_killed(capsys, spark, monkeypatch, data, tmp_path, expected, moment):
    output = tmp_path / "out"
    run(capsys, data, output, "--eps", 0.4)
    assert killed_run(monkeypatch, data, output, moment, "--overwrite")
    if (output / "_manifest.json").exists():
        assert answer(output) != expected, "the earlier result is whole until it goes"
        run(capsys, data, output, "--overwrite")
    else:
        run(capsys, data, output, "--resume")
    assert answer(output) == expected
    assert leftovers(output) == []


@pytest.mark.slow
def test_two_runs_into_one_output(capsys, spark, monkeypatch, data, tmp_path, expected):
    """The second is started while the first compares: it is refused, whatever it was told, and harms nothing."""
    output = tmp_path / "out"
    monkeypatch.setattr(locking, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 5.0)
    compared, refusals = SemDedupModel.compared, []

    def compared_meanwhile(*args):
        command = ["run", "--input", data, "--output", output, *ARGUMENTS]
        refusals.extend(refusal(capsys, *command, *more) for more in ([], ["--resume"], ["--overwrite"]))
        return compared(*args)

    with monkeypatch.context() as patched:
        patched.setattr(SemDedupModel, "compared", compared_meanwhile)
        run(capsys, data, output)
    assert "holds a run that has not ended" in refusals[0]
    assert all("is being written by process" in said and "and is alive" in said for said in refusals[1:])
    assert answer(output) == expected
    assert leftovers(output) == []


@pytest.mark.slow
@pytest.mark.parametrize("change", [pytest.param("a file more", marks=pytest.mark.slow), "a file changed"])
def test_input_that_changes_while_it_is_read_gives_no_result(capsys, spark, monkeypatch, expected, tmp_path, change):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    pq.write_table(corpus(), source / "part-0.parquet")
    compared = SemDedupModel.compared

    def compared_then_changed(*args):
        found = compared(*args)
        times = (source / "part-0.parquet").stat()
        if change == "a file more":
            pq.write_table(corpus(5), source / "part-1.parquet")
        else:
            os.utime(source / "part-0.parquet", (times.st_atime + 9, times.st_mtime + 9))
        return found

    monkeypatch.setattr(SemDedupModel, "compared", compared_then_changed)
    said = refusal(capsys, "run", "--input", source, "--output", output, *ARGUMENTS, status=1)
    assert said.startswith("the input changed while it was read: ")
    assert not (output / "_manifest.json").exists()
    assert not (output / "summary.json").exists()
    if change == "a file changed":
        monkeypatch.undo()
        run(capsys, source, output, "--resume")  # which begins again, as nothing is there to go on with
        assert answer(output) == expected


@pytest.mark.slow
def test_a_table_is_written_again_by_the_run_that_began_to(capsys, spark, monkeypatch, data, expected, tmp_path):
    name = "resumed_rows"
    arguments = ("--output-table", name)
    spark.sql(f"DROP TABLE IF EXISTS {name}")
    try:
        for moment in (24, 26, 28):
            if not killed_run(monkeypatch, data, tmp_path / "out", moment, "--resume", *arguments):
                break
        run(capsys, data, tmp_path / "out", "--resume", *arguments)
        kept = {row.id for row in spark.table(name).select("id").collect()}
        assert len(kept) == spark.table(name).count() == len(expected["deduplicated"])
        said = refusal(capsys, "run", "--input", data, "--output", tmp_path / "two", *ARGUMENTS, *arguments)
        assert "--output-table='resumed_rows' exists already" in said
        assert killed_run(monkeypatch, data, tmp_path / "two", 20, "--overwrite", *arguments)
        run(capsys, data, tmp_path / "two", "--resume", *arguments)
        assert spark.table(name).count() == len(expected["deduplicated"])
    finally:
        spark.sql(f"DROP TABLE IF EXISTS {name}")


@pytest.mark.slow
def test_files_of_a_table_that_a_kill_left_without_its_name(capsys, spark, monkeypatch, data, expected, tmp_path):
    """Spark puts a table's name into its catalog after the table's files: it refuses to take such files for nothing."""

    def interrupted(target, rows):
        raise KeyboardInterrupt

    name, output = "half_written", tmp_path / "out"
    files = Path(spark.conf.get("spark.sql.warehouse.dir").removeprefix("file:")) / name
    try:
        monkeypatch.setattr(Target, "save_table", interrupted)
        arguments = ["run", "--input", data, "--output", output, *ARGUMENTS, "--output-table", name]
        assert call(capsys, *arguments)[0] == 130
        monkeypatch.undo()
        files.mkdir(parents=True)
        pq.write_table(corpus(3), files / "part-0.parquet")
        said = refusal(capsys, *arguments, "--resume", status=1)
        assert "[LOCATION_ALREADY_EXISTS]" in said
        assert str(files) in said
        assert pq.read_table(files / "part-0.parquet") == corpus(3)
        shutil.rmtree(files)
        run(capsys, data, output, "--resume", "--output-table", name)
        kept = sorted(row.id for row in spark.table(name).collect())
        assert kept == [row[0] for row in expected["deduplicated"]]
    finally:
        shutil.rmtree(files, ignore_errors=True)
        spark.sql(f"DROP TABLE IF EXISTS {name}")


KILLS = int(os.environ.get("SEMDEDUP_KILLS", "2"))


@pytest.mark.slow
def test_a_process_killed_at_random_moments_goes_on(data, expected, tmp_path):
    """The real thing: the program, its JVM and its workers killed with SIGKILL. ``SEMDEDUP_KILLS`` says how often."""
    command = [sys.executable, "-m", "spark_semdedup", "run", "--input", str(data)]
    options = [*map(str, ARGUMENTS), "--local-cores", "2", "--local-memory", "1"]
    moments = np.random.default_rng(20261121)
    for attempt in range(KILLS):
        output = tmp_path / f"out {attempt}"
        with subprocess.Popen(
            [*command, "--output", str(output), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            phase = moments.integers(1, 4)
            assert any(line.startswith(f"[{phase}/5]") for line in process.stderr), "the run ended before that phase"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.0, 0.5))
            os.killpg(process.pid, signal.SIGKILL)
        resumed = subprocess.run(
            [*command, "--output", str(output), "--resume", *options], capture_output=True, text=True, check=False
        )
        assert resumed.returncode == 0, resumed.stderr
        assert answer(output) == expected
        assert leftovers(output) == []
