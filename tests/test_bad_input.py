"""Every bad input of ``bad_inputs.py`` is refused in one line, with nothing written or lost, or answered as the oracle
answers it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables
from bad_inputs import CASES, FLOATS, Call, Case, Place

from spark_semdedup import SemDedup
from spark_semdedup.cli import main as cli
from spark_semdedup.errors import error_from_worker

ERROR = "spark-semdedup: error: "


PARAMETERS = [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in CASES]


@pytest.fixture
def place(spark, tmp_path):
    names = ("spark.sql.ansi.enabled", "spark.sql.autoBroadcastJoinThreshold")
    before = {name: spark.conf.get(name) for name in names}
    yield Place(spark, tmp_path)
    for name, value in before.items():
        spark.conf.set(name, value)
    if (tmp_path / "disk").is_mount():
        # Lazily: a stream that could not be closed, for want of room, keeps the disk busy.
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def made(case: Case, place: Place) -> Call:
    reason = case.skip(place)
    if reason:
        pytest.skip(reason)
    return case.call(place)


def contents(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_earlier_result(call: Call, place: Place) -> Call:
    """The same call, where an earlier result lies in its output and may be overwritten."""
    output = place.folder / "out"
    if not isinstance(call, list) or str(output) not in call or output.exists() or "--overwrite" in call:
        return call
    manifest = "_manifest.json" if call[0] == "run" else "_semdedup.json"
    for name in (manifest, "duplicates/part-0.parquet", "summary.json", "notes.txt"):
        place.text(f"out/{name}", '{"holds": "run"}' if name == "_manifest.json" else "earlier")
    return [*call, "--overwrite"]


def refusal(call: Call, capsys: pytest.CaptureFixture) -> tuple[str, int]:
    """What a call that is refused says, and the exit status (2 for a call of the Python API)."""
    if not isinstance(call, list):
        with pytest.raises(Exception, match=r".") as caught:
            call()
        error = error_from_worker(caught.value)
        assert error is not None, f"not one of ours: {caught.value!r}"
        return str(error), 2
    status = cli.main(call)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    lines = [line for line in said.err.split("\n") if line and not line.startswith(("[", "spark-semdedup: warning: "))]
    assert len(lines) == 1, said.err
    assert lines[0].startswith(ERROR)
    return lines[0].removeprefix(ERROR), status


def matches(said: str, template: str) -> bool:
    pattern = r"[^\n]*".join(map(re.escape, template.split("…")))
    return re.fullmatch(pattern, said) is not None


@pytest.mark.parametrize("case", [case for case in PARAMETERS if case.values[0].said is not None])
def test_it_is_refused_in_one_line_and_nothing_is_written_or_lost(place, capsys, case):
    call = made(case, place)
    if not case.writes:
        call = with_earlier_result(call, place)
    before = contents(place.folder)
    said, status = refusal(call, capsys)
    said = said.replace(f"{place.folder}/", "")
    assert matches(said, case.said), f"said:   {said}\nwanted: {case.said}"
    assert len(said.splitlines()) == 1
    assert len(said) < 1000
    assert status == case.status
    after = contents(place.folder)
    if case.writes:  # it was found after results had been begun
        output = Path(call[call.index("--output") + 1]).relative_to(place.folder).as_posix()
        assert not {f"{output}/_manifest.json", f"{output}/_semdedup.json"} & after.keys(), "it counts as no result"
        after = {name: content for name, content in after.items() if not name.startswith(f"{output}/")}
    assert after == before


# --- accepted -----------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """Rows as dictionaries."""

    deduplicated: list[dict]
    duplicates: list[dict]
    similarities: list[dict]
    invalid: list[dict]
    centroids: np.ndarray


@pytest.mark.parametrize("case", [case for case in PARAMETERS if case.values[0].said is None])
def test_it_is_accepted_and_every_row_is_accounted_for(place, capsys, case):
    call = made(case, place)
    before = contents(place.folder)
    if isinstance(call, list):
        found, output = by_program(call, capsys)
        after = {name: content for name, content in contents(place.folder).items() if name.split("/")[0] != output}
    else:
        found, after = by_stage(call, case), contents(place.folder)
    assert after == before, "the input is as it was"
    check(case, found)


def by_program(call: Call, capsys: pytest.CaptureFixture) -> tuple[Found, str]:
    assert cli.main(call) == 0, capsys.readouterr().err
    output = Path(call[call.index("--output") + 1])
    rows = {name: read(output / name) for name in Found._fields}
    centroids = sorted(read(output / "centroids" / "data"), key=lambda row: row["centroid"])
    vectors = np.array([row["vector"] for row in centroids], np.float32)
    return Found(**{**rows, "centroids": vectors}), output.name


def read(folder: Path) -> list[dict]:
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def by_stage(df: Any, case: Case) -> Found:
    first = {} if "rankBy" in case.params else {"whichToKeep": "first"}
    model = SemDedup(**case.params, **first).fit(df)
    result = model.run(df)
    try:
        tables = [[plain(row) for row in getattr(result, name).collect()] for name in Found._fields[:-1]]
    finally:
        result.unpersist()
    return Found(*tables, model.centroids)


def plain(row: Any) -> dict:
    """ML vectors as lists, and bytes as Parquet's readers give them."""
    values = {name: v.toArray().tolist() if hasattr(v, "toArray") else v for name, v in row.asDict().items()}
    return {name: bytes(v) if isinstance(v, bytearray) else v for name, v in values.items()}


def check(case: Case, found: Found) -> None:
    rows = {row[case.rows.id_name]: row for row in case.rows.table().to_pylist()}
    valid = {id_: row for id_, row in rows.items() if id_ not in case.invalid}
    expected = answer(case, valid, found.centroids)
    removed = {i for i, (other, score) in expected.items() if other != i and float(score) >= 0.95}
    assert len(removed) == case.removed, "what the case says"
    skipped = {} if case.params.get("handleInvalid") == "keep" else case.invalid
    assert {row["id"] for row in found.duplicates} == removed
    assert by_id(case, found.deduplicated) == {
        i: repr(row) for i, row in rows.items() if i not in removed | skipped.keys()
    }
    assert {row["id"]: row["reason"] for row in found.invalid} == case.invalid
    assert len(rows) == len(found.deduplicated) + len(found.duplicates) + len(skipped)
    if "coverage" not in case.params:  # smaller scores are lower bounds there
        assert {row["id"]: (row["max_id"], row["cosine_sim_score"]) for row in found.similarities} == expected


def answer(case: Case, valid: dict, centroids: np.ndarray) -> dict:
    """The oracle's: for each id its neighbour and score."""
    ids = list(valid)
    embeddings = [row[case.rows.name] for row in valid.values()]
    numbers = [json.loads(each) if isinstance(each, str) else each for each in embeddings]
    numbers = [np.frombuffer(each, "<f4") if isinstance(each, bytes) else each for each in numbers]
    element = np.float32 if case.rows.type in (FLOATS, pa.binary()) else np.float64
    vectors = np.array([np.ravel(each).astype(element) for each in numbers])
    by = [entry.split(" ") for entry in case.params.get("rankBy", [])]
    rank = [([row[name] for row in valid.values()], direction == "desc") for name, direction in by]
    probes = case.params.get("nProbe", 1)
    found = oracle.answer(ids, vectors, centroids, whichToKeep="first", rankBy=rank or None, nProbe=probes)
    return {id_: (other, float(score)) for id_, (other, score) in found.items()}


def by_id(case: Case, rows: list[dict]) -> dict:
    """Every column of every row, so that NaN equals NaN."""
    columns = case.rows.table().column_names
    assert all(list(row) == columns for row in rows)
    found = {row[case.rows.id_name]: repr(row) for row in rows}
    assert len(found) == len(rows)
    return found


# --- the table of the documentation -------------------------------------------------------------------------


def test_each_case_has_a_name_of_its_own_and_says_what_is_given():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.given, case.name) for case in CASES if case.given}) == len(CASES)
    assert all(case.said or case.done for case in CASES)


def test_the_committed_tables_are_up_to_date():
    text = tables.PAGE.read_text("utf-8")
    assert tables.rendered(text) == text, "run: python tests/tables.py"
    assert text.count("\n| ") > len(CASES)


def test_a_line_of_the_table_shows_text_as_it_is():
    assert tables._cell("`a|b` *x*\n<y>") == r"`a\|b` \*x\* \<y>"
    assert tables._cell("“a\\b `c`”") == r"“a\\b \`c\`”"
