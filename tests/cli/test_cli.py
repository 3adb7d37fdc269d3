"""The command: what it writes, what it says, and what it refuses.

Most calls run ``main`` in this process, on the suite's Spark session; the programs themselves are started in the tests
marked slow.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from program import call, refusal, rows
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from spark_semdedup import EmbeddingKMeans, EmbeddingKMeansModel
from spark_semdedup.cli import commands, options
from spark_semdedup.cli import main as cli
from spark_semdedup.errors import AccountingError
from spark_semdedup.params import DEFAULTS, SemDedupStageParams
from spark_semdedup.runs import preflight, results, steps
from spark_semdedup.runs.progress import Progress
from spark_semdedup.spark import lock as locking
from spark_semdedup.spark.failures import one_line
from spark_semdedup.spark.files import Files
from spark_semdedup.spark.lock import Lock

DIM, GROUPS, ROWS = 16, 60, 240
COLUMNS = {"id": "id", "embedding": "embedding", "quality": "quality"}


def corpus(**names: str) -> pa.Table:
    """240 rows around 60 random directions, at distances from none to well above eps; ``names`` renames columns."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(GROUPS, DIM))
    noise = rng.normal(size=(ROWS, DIM)) * rng.choice([0.0, 0.05, 0.15, 0.4], size=(ROWS, 1))
    vectors = centres[np.arange(ROWS) % GROUPS] + noise
    name = {**COLUMNS, **names}
    return pa.table(
        {
            name["id"]: [f"doc {i:03}" for i in range(ROWS)],
            name["embedding"]: pa.array(vectors.tolist(), pa.list_(pa.float32())),
            name["quality"]: pa.array([None if i % 7 == 0 else i % 5 for i in range(ROWS)], pa.int32()),
            "text": [f"text of {i}" for i in range(ROWS)],
        }
    )


def with_embedding(table: pa.Table, row: int, value: list[float] | None) -> pa.Table:
    values = table["embedding"].to_pylist()
    values[row] = value
    at = table.column_names.index("embedding")
    return table.set_column(at, "embedding", pa.array(values, pa.list_(pa.float32())))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in put")
    table = corpus()
    pq.write_table(table.slice(0, 100), folder / "part-0.parquet")
    pq.write_table(table.slice(100), folder / "part-1.parquet")
    return folder


@pytest.fixture(scope="module")
def finished(spark, data, tmp_path_factory) -> tuple[Path, str, str]:
    """One run, which tests read only: its folder, and what it said on stdout and stderr."""
    output = tmp_path_factory.mktemp("result") / "out put"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert cli.main(["run", "--input", str(data), "--output", str(output), "--k", "8"]) == 0
    return output, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def done(finished) -> Path:
    return finished[0]


def ids(folder: Path) -> set[str]:
    return set(pq.read_table(folder, columns=["id"])["id"].to_pylist())


def manifest(folder: Path) -> dict:
    return json.loads((folder / "_semdedup.json").read_text("utf-8"))


# --- options ------------------------------------------------------------------------------------------------


def test_every_param_of_the_job_is_an_option_with_its_own_text_and_default(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["run", "--help"])
    assert left.value.code == 0
    help_ = " ".join(capsys.readouterr().out.split())
    for param in SemDedupStageParams().params:
        if param.name == "metadataCols":  # carried by the cluster step alone
            assert "--metadata-cols" not in help_
            continue
        assert options.option_name(param.name) in help_
        assert " ".join(param.doc.split()) in help_
        assert param.name not in DEFAULTS or f"(default: {DEFAULTS[param.name]})" in help_


def test_options_become_the_params_values():
    text = "--k 1e3 --seed -9007199254740993 --eps 0.1 --id-col 42 --init-mode random --rank-by a.b|desc c"
    arguments = ["run", "--input", "x", "--output", "y", *text.replace("|", " ").split()]
    arguments[arguments.index("a.b") : arguments.index("c")] = ["a.b desc"]
    args = cli.make_parser().parse_args(arguments)
    assert options.settings_from(args, commands.COMMANDS["run"].params) == {
        "k": 1000,
        "seed": -9007199254740993,
        "eps": 0.1,
        "idCol": "42",
        "initMode": "random",
        "rankBy": ["a.b desc", "c"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--eps 1.5", "--eps=1.5 cannot be used: it must be a number between 0 and 1, both excluded"),
        ("--eps much", "--eps='much' cannot be used: it must be a number between 0 and 1, both excluded"),
        ("--k 0", "--k=0 cannot be used: it must be a whole number of at least 1"),
        ("--k 2.5", "--k=2.5 cannot be used: it must be a whole number of at least 1"),
        (
            "--which-to-keep best",
            "--which-to-keep='best' cannot be used: it must be one of hard, easy, random, first",
        ),
        ("--eps 0.1 --threshold 0.9", "--eps=0.1 and --threshold=0.9 are both set; set one of them"),
        (
            "--rank-by quality --which-to-keep easy",
            "--rank-by=['quality'] and --which-to-keep='easy' are both set; set one of them: each ranks rows",
        ),
        ("--input-table t", "--input and --input-table are both set: give one"),
        ("--input-option header", "--input-option header: it must be NAME=VALUE"),
        ("--batch 7", "unrecognized arguments: --batch 7 (spark-semdedup --help lists all options)"),
        (
            "--local-cores 0",
            "argument --local-cores: 0 cannot be used: it must be a whole number of at least 1 (spark-semdedup run",
        ),
        ("--clusterer rapids --backend cpu", "contradicts --backend='cpu'"),
        ("--max-samples-per-batch 10 --backend cpu", "--max-samples-per-batch=10 cannot be honoured by clusterer"),
        ("--id-col name", "--id-col='name' is not among the columns: 'id', 'embedding', 'quality', 'text'"),
        ("--id-col embedding", "--id-col='embedding' is of type array<float>: it must be string, tinyint"),
        ("--embedding-col text", "--embedding-col='text' is of type string: it must be an array of numbers"),
        ("--rank-by worth", "--rank-by='worth' is not among the columns: 'id', 'embedding', 'quality', 'text'"),
        ("--init-mode nowhere", "--init-mode='nowhere' holds no saved model (no folder metadata): give"),
        ("--centroids nowhere", "--centroids='nowhere' holds no saved model (no folder metadata): give"),
        ("--centroids nowhere --k 3 --tol 0", "--centroids='nowhere' and k, tol are both set"),
        ("--output-format csv", "the rows cannot be written as csv: [UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE]"),
        ("--output-format nosuch", "the rows cannot be written as nosuch: [DATA_SOURCE_NOT_FOUND]"),
        ("--local-cores 2", "--local-cores and --local-memory are for a local session, but one is given"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_any_work(capsys, spark, data, tmp_path, arguments, message):
    output = tmp_path / "out"
    assert message in refusal(capsys, "run", "--input", data, "--output", output, *arguments.split())
    assert not output.exists() or not list(output.iterdir()), "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run", "--input", "x"], "--output is missing: give the folder to write to"),
        (["run", "--output", "x"], "--input and --input-table are both unset: give one"),
        (["identify", "--output", "x"], "the following arguments are required: --input"),
        (["remove", "--input", "x", "--output", "y"], "the following arguments are required: --duplicates"),
    ],
)
def test_a_command_that_is_not_complete_is_refused(capsys, arguments, message):
    assert message in refusal(capsys, *arguments)


# --- input that cannot be used ------------------------------------------------------------------------------


def test_a_missing_input_is_named(capsys, spark, tmp_path):
    message = refusal(capsys, "run", "--input", tmp_path / "no such", "--output", tmp_path / "out")
    assert message == f"--input='{tmp_path}/no such' does not exist: give a file, a folder or a pattern"


def test_input_that_is_not_of_its_format_is_refused(capsys, spark, data, tmp_path):
    message = refusal(capsys, "run", "--input", data, "--input-format", "nosuch", "--output", tmp_path / "out")
    assert message.startswith(f"--input='{data}' cannot be read as nosuch: [DATA_SOURCE_NOT_FOUND]")
    (tmp_path / "empty").mkdir()
    message = refusal(capsys, "run", "--input", tmp_path / "empty", "--output", tmp_path / "out")
    assert message.startswith(f"--input='{tmp_path}/empty' cannot be read as parquet: ")
    message = refusal(capsys, "run", "--input-table", "no_such_table", "--output", tmp_path / "out")
    assert message.startswith("--input-table='no_such_table' cannot be read: [TABLE_OR_VIEW_NOT_FOUND]")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.slice(0, 0), [], "the input is empty: it must have at least one row"),
        (lambda t: t, ["--k", "241"], "--k=241 is larger than the 240 rows: it must be at most the number of rows"),
        (lambda t: pa.concat_tables([t, t.slice(3, 1)]), [], "--id-col='id' is not unique: 1 ids are in more than one"),
        (
            lambda t: with_embedding(t, 5, [float("nan")] * DIM),
            [],
            "--embedding-col='embedding', row with id 'doc 005': embedding has a null, NaN or infinite element; fix it",
        ),
        (
            lambda t: with_embedding(t, 5, [1.0, 2.0]),
            ["--fit-sample-rows", "0"],
            "embeddings have mixed dimensions: 16",
        ),
    ],
)
def test_rows_that_cannot_be_used_fail_the_run_in_one_line(capsys, spark, tmp_path, change, options, message):
    pq.write_table(change(corpus()), tmp_path / "in.parquet")
    arguments = ["run", "--input", tmp_path / "in.parquet", "--output", tmp_path / "out", "--k", 4, *options]
    assert refusal(capsys, *arguments, status=1).startswith(message)
    assert not (tmp_path / "out" / "_manifest.json").exists(), "a run that failed leaves nothing that looks valid"


@pytest.mark.slow
@pytest.mark.parametrize("step", ["run", "cluster"])
def test_an_earlier_result_stays_where_a_row_that_no_fit_looks_at_is_invalid(capsys, spark, data, tmp_path, step):
    before = tmp_path / "in.parquet"
    pq.write_table(corpus(), before)
    order = F.xxhash64(F.col("id"), F.lit(DEFAULTS["seed"]))  # the fit takes the lowest
    (highest,) = spark.read.parquet(str(before)).select("id").orderBy(order.desc()).first()
    arguments = [step, "--output", tmp_path / "out", "--k", 2, "--fit-sample-rows", 30]
    assert call(capsys, *arguments, "--input", before)[0] == 0
    result = rows(tmp_path / "out" / "similarities") if step == "run" else ids(tmp_path / "out")
    pq.write_table(with_embedding(corpus(), int(highest[-3:]), [0.0] * DIM), tmp_path / "bad.parquet")
    message = refusal(capsys, *arguments, "--input", tmp_path / "bad.parquet", "--overwrite", status=1)
    assert message.startswith(f"--embedding-col='embedding', row with id '{highest}': embedding is zero; fix it")
    assert result == (rows(tmp_path / "out" / "similarities") if step == "run" else ids(tmp_path / "out"))
    assert (tmp_path / "out" / ("_manifest.json" if step == "run" else "_semdedup.json")).exists()


# --- what a run writes --------------------------------------------------------------------------------------


def test_a_run_writes_the_folders_of_its_contract(done, data):
    names = {path.name for path in done.iterdir() if not path.name.startswith(".")}
    assert names == {"centroids", "similarities", "duplicates", "deduplicated", "summary.json", "_manifest.json"}
    similarities, duplicates = pq.read_table(done / "similarities"), pq.read_table(done / "duplicates")
    assert similarities.schema.names == duplicates.schema.names == ["id", "max_id", "cosine_sim_score"]
    assert similarities["cosine_sim_score"].type == pa.float32()
    assert ids(done / "similarities") == ids(data)
    assert ids(done / "duplicates") | ids(done / "deduplicated") == ids(data)
    assert len(ids(done / "duplicates")) + len(ids(done / "deduplicated")) == ROWS
    assert 20 < duplicates.num_rows < 200, "the corpus has duplicates and others"
    expected = [
        row for row in similarities.to_pylist() if row["id"] != row["max_id"] and row["cosine_sim_score"] >= 1 - 0.05
    ]
    assert sorted(row["id"] for row in expected) == sorted(ids(done / "duplicates"))


def test_the_rows_that_remain_are_untouched(done):
    kept = ids(done / "deduplicated")
    expected = [row for row in corpus().to_pylist() if row["id"] in kept]
    assert sorted(pq.read_table(done / "deduplicated").to_pylist(), key=lambda row: row["id"]) == expected


def test_a_small_result_is_one_file(done):
    assert len(list((done / "similarities").glob("*.parquet"))) == 1
    assert len(list((done / "duplicates").glob("*.parquet"))) == 1


def test_the_summary_adds_up(done):
    summary = json.loads((done / "summary.json").read_text("utf-8"))
    assert summary["step"] == "run"
    assert summary["rows_in"] == ROWS == summary["kept"] + summary["duplicates"]
    assert summary["invalid"] == 0
    assert summary["duplicates"] == len(ids(done / "duplicates"))
    assert summary["clusters"] == 8
    # The first of each cluster is compared with none, the next with one, …
    assert ROWS < summary["pairs_compared"] < ROWS * (ROWS - 1) // 2
    assert (summary["eps"], summary["threshold"]) == (0.05, 0.95)
    assert (summary["coverage"], summary["complete_eps"]) == ("cluster", None)
    assert summary["parameters"]["k"] == 8
    assert summary["parameters"]["whichToKeep"] == "hard"
    assert {"spark_semdedup", "python", "spark", "pyspark", "numpy"} <= summary["versions"].keys()
    assert len(summary["seconds"]) == 6
    whole = json.loads((done / "_manifest.json").read_text("utf-8"))
    assert whole.pop("identity")["eps"] == 0.05
    assert whole == {"holds": "run", **summary, "finished": whole["finished"]}


def test_each_folder_of_rows_says_what_it_is(done):
    assert manifest(done / "similarities")["rows"] == ROWS
    assert manifest(done / "similarities")["holds"] == "similarities"
    assert manifest(done / "similarities")["coverage"] == "cluster"
    assert manifest(done / "similarities")["complete_eps"] is None
    assert manifest(done / "duplicates")["threshold"] == 0.95
    assert manifest(done / "deduplicated")["rows"] == len(ids(done / "deduplicated"))
    assert not list(done.rglob("_semdedup.unfinished"))


@pytest.mark.slow
def test_the_centroids_can_be_loaded_and_used_again(capsys, spark, done, data, tmp_path):
    model = EmbeddingKMeansModel.load(str(done / "centroids"))
    assert model.centroids.shape == (8, DIM)
    status, _, err = call(
        capsys, "run", "--input", data, "--output", tmp_path / "out", "--centroids", done / "centroids"
    )
    assert status == 0, err
    assert rows(tmp_path / "out" / "similarities") == rows(done / "similarities")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["parameters"]["centroids"] == str(done / "centroids")
    assert "maxIter" not in summary["parameters"], "nothing was fitted"


@pytest.mark.slow
def test_a_fit_can_go_on_from_saved_centroids(capsys, spark, done, data, tmp_path):
    start = ["--init-mode", done / "centroids", "--max-iter", 1]
    status, _, err = call(capsys, "run", "--input", data, "--output", tmp_path / "out", *start)
    assert status == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["parameters"]["initMode"] == str(done / "centroids")
    assert summary["clusters"] == 8
    message = refusal(capsys, "run", "--input", data, "--output", tmp_path / "out2", *start, "--k", 9)
    assert "8 centroids" in message
    assert "--k=9" in message


def test_progress_goes_to_stderr_and_the_summary_to_stdout(finished):
    output, out, err = finished
    lines = err.splitlines()
    assert [line[:5] for line in lines] == [f"[{stage}/5]" for stage in (1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5)]
    assert lines[2] == "[2/5] assign and compare ..."
    assert lines[3].startswith("[2/5] assign and compare ... cluster: each row in 1.0 of 8 clusters, ")
    assert lines[4].startswith("[2/5] assign and compare ... 240 rows, 8 clusters, ")
    assert lines[4].endswith(" s")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "rows in 240" in lines
    assert any(line.startswith("kept ") and line.endswith(" %") for line in lines)
    assert f"deduplicated {output}/deduplicated" in lines


def test_progress_on_a_terminal_is_one_line_per_stage():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    progress = Progress(Terminal())
    assert not progress.started
    progress.begin(2)
    with progress.phase("read") as counts:
        counts["rows"] = 12345
    with pytest.raises(ZeroDivisionError), progress.phase("divide"):
        raise ZeroDivisionError
    shown = re.sub(r"\d+\.\d s", "0.0 s", progress._stream.getvalue())
    assert shown == "[1/2] read ... 12,345 rows, 0.0 s\n[2/2] divide ... failed after 0.0 s\n"
    assert list(progress.seconds) == ["read"]
    assert progress.started


# --- a result that is there already -------------------------------------------------------------------------


def test_an_output_that_exists_is_not_touched_without_overwrite(capsys, spark, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    message = refusal(capsys, "run", "--input", data, "--output", tmp_path / "out")
    assert message == f"--output='{tmp_path}/out' exists already: give another folder, or --overwrite to replace it"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_overwrite_replaces_the_result_and_leaves_other_files(capsys, spark, done, data, tmp_path):
    output = shutil.copytree(done, tmp_path / "out")
    (output / "notes.txt").write_text("keep")
    message = refusal(capsys, "run", "--input", data, "--output", output, "--overwrite", "--id-col", "no")
    assert "--id-col='no'" in message
    assert rows(output / "duplicates") == rows(done / "duplicates"), "a call that is refused deletes nothing"
    assert (output / "_manifest.json").exists()
    options = ["--k", 3, "--eps", 0.3, "--overwrite"]
    assert call(capsys, "run", "--input", data, "--output", output, *options)[0] == 0
    assert len(ids(output / "duplicates")) > len(ids(done / "duplicates"))
    assert len(ids(output / "duplicates")) + len(ids(output / "deduplicated")) == ROWS
    assert json.loads((output / "summary.json").read_text("utf-8"))["clusters"] == 3
    assert (output / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("step", ["cluster", "pairwise"])
def test_a_step_never_deletes_what_is_no_result_of_ours(capsys, spark, data, tmp_path, step):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    message = refusal(capsys, step, "--input", data, "--output", tmp_path / "out", "--overwrite")
    assert message.startswith(f"--output='{tmp_path}/out' is no earlier result")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("output", ["{data}", "{data}/inner", "{data}/.."])
def test_output_and_input_may_not_overlap(capsys, spark, data, output):
    output = output.format(data=data)
    message = refusal(capsys, "run", "--input", f"{data}/*.parquet", data, "--output", output, "--overwrite")
    assert message.startswith(f"--output='{output}' and --input='")
    assert "overlap" in message
    assert len(ids(data)) == ROWS


def test_centroids_in_the_output_are_not_overwritten(capsys, spark, done, data):
    message = refusal(
        capsys, "run", "--input", data, "--output", done, "--overwrite", "--centroids", done / "centroids"
    )
    assert f"--centroids='{done}/centroids' overlap" in message
    assert (done / "_manifest.json").exists()


# --- step by step -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranking",
    [
        pytest.param(["--which-to-keep", "easy", "--distance-metric", "l2"], id="easy by l2", marks=pytest.mark.slow),
        pytest.param(["--rank-by", "quality desc"], id="rankBy"),
    ],
)
def test_the_steps_one_by_one_give_the_runs_answer(capsys, spark, tmp_path, ranking):
    """Some rows are invalid and set aside; columns have names with dots, spaces and capitals."""
    table = with_embedding(with_embedding(corpus(), 17, None), 60, [0.0] * DIM)
    table = table.rename_columns(["Doc.Id", "My Embedding", "quality", "te`xt"])
    source, out = tmp_path / "in put.parquet", tmp_path / "o u t"
    pq.write_table(table, source)
    columns = ["--id-col", "Doc.Id", "--embedding-col", "My Embedding"]
    read = ["--input", source, *columns]
    fit = ["--k", 8, "--handle-invalid", "skip"]
    carried = ranking if "--rank-by" in ranking else []
    run, clusters, scores, found, kept = (out / name for name in ("run", "clusters", "scores", "found", "kept"))
    aside = clusters / "_invalid"
    for arguments in (
        ["run", *read, "--output", run, *fit, *ranking],
        ["cluster", *read, "--output", clusters, *fit, *carried],
        ["pairwise", "--input", clusters, "--output", scores, *columns, *ranking],
        ["identify", "--input", scores, "--output", found],
        ["remove", *read[:4], "--duplicates", found, "--invalid", aside, "--output", kept],
    ):
        status, _, err = call(capsys, *arguments)
        assert status == 0, err
    assert rows(scores) == rows(run / "similarities")
    assert len(rows(scores)) == ROWS - 2
    assert rows(found) == rows(run / "duplicates")
    assert rows(kept) == rows(run / "deduplicated")
    assert rows(aside) == rows(run / "invalid")
    reasons = {row["Doc.Id"]: row["reason"] for row in pq.read_table(run / "invalid").to_pylist()}
    assert reasons == {"doc 017": "embedding is null", "doc 060": "embedding is zero"}
    assert manifest(clusters)["invalid"] == 2
    assert manifest(kept)["rows"] == len(rows(kept))
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert summary["rows_in"] == summary["kept"] + summary["duplicates"] + 2


def test_cluster_writes_one_file_per_centroid_and_its_model(capsys, spark, data, tmp_path):
    clusters = tmp_path / "clusters"
    options = ["--k", 5, "--metadata-cols", "text", "--rank-by", "quality"]
    assert call(capsys, "cluster", "--input", data, "--output", clusters, *options)[0] == 0
    folders = sorted(path.name for path in clusters.glob("centroid=*"))
    assert folders == [f"centroid={i}" for i in range(5)]
    assert {len(list(path.glob("*.parquet"))) for path in clusters.glob("centroid=*")} == {1}
    one = pq.read_table(next((clusters / "centroid=0").glob("*.parquet")))
    assert one.schema.names == ["id", "embedding", "text", "quality", "l2_dist_to_cent", "cosine_dist_to_cent"]
    norms = np.linalg.norm(np.array(one["embedding"].to_pylist()), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    assert EmbeddingKMeansModel.load(str(clusters / "_centroids")).centroids.shape == (5, DIM)
    assert manifest(clusters)["holds"] == "clusters"
    assert not (clusters / "_invalid").exists()


@pytest.mark.parametrize("part", [0, 1], ids=["valid", "invalid"])
def test_cluster_assigns_each_row_once(spark, data, done, part):
    """Spark would push the filter on validity below a deterministic function, and then run it twice."""
    model = EmbeddingKMeansModel.load(str(done / "centroids")).setHandleInvalid("skip")
    plan = model.clustered(spark.read.parquet(str(data)))[part]._jdf.queryExecution().executedPlan().toString()
    assert plan.count("ArrowEvalPython") == 1


@pytest.mark.slow
def test_keep_leaves_invalid_rows_in_the_result(capsys, spark, tmp_path):
    pq.write_table(with_embedding(corpus(), 3, None), tmp_path / "in.parquet")
    options = ["--k", 4, "--handle-invalid", "keep"]
    assert call(capsys, "run", "--input", tmp_path / "in.parquet", "--output", tmp_path / "out", *options)[0] == 0
    assert "doc 003" in ids(tmp_path / "out" / "deduplicated")
    assert "doc 003" not in ids(tmp_path / "out" / "similarities")
    assert not (tmp_path / "out" / "invalid").exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))["invalid"] == 1


def test_pairwise_reads_what_nemo_curator_wrote_and_says_that_it_is_foreign(capsys, spark, monkeypatch, tmp_path):
    """Its layout: ``centroid=N/``, float16 bits in uint16 lists, distances, no manifest."""
    vectors = np.eye(4, dtype=np.float16)[[0, 0, 1]]
    table = pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int64()),
            "embedding": pa.array(vectors.view(np.uint16).tolist(), pa.list_(pa.uint16())),
            "cosine_dist_to_cent": pa.array([0.3, 0.2, 0.1], pa.float32()),
        }
    )
    (tmp_path / "in" / "centroid=4").mkdir(parents=True)
    pq.write_table(table, tmp_path / "in" / "centroid=4" / "0.parquet")
    status, _, err = call(capsys, "pairwise", "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert status == 0, err
    assert err[0].startswith(f"spark-semdedup: warning: {tmp_path}/in has no _semdedup.json")
    found = {row["id"]: (row["max_id"], row["cosine_sim_score"]) for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert found == {1: (1, 0.0), 2: (1, 1.0), 3: (1, 0.0)}

    held = set(spark.sparkContext._jsc.getPersistentRDDs())
    monkeypatch.setattr(results, "write_similarities", lambda *_: 1 // 0)
    assert "ZeroDivisionError" in refusal(
        capsys, "pairwise", "--input", tmp_path / "in", "--output", tmp_path / "failed", status=1
    )
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) <= held


def copied(folder: Path, to: Path, **changes: object) -> Path:
    """A copy of a folder of similarities, its manifest changed."""
    to.mkdir()
    for file in folder.glob("*.parquet"):
        (to / file.name).write_bytes(file.read_bytes())
    (to / "_semdedup.json").write_text(json.dumps({**manifest(folder), **changes}))
    return to


def test_a_folder_that_another_step_wrote_meanwhile_is_left_as_it_is(capsys, spark, monkeypatch, done, tmp_path):
    arguments = ["identify", "--input", done / "similarities", "--output", tmp_path / "out"]
    count = steps.count_similarities

    def count_while_another_writes(df):
        copied(done / "duplicates", tmp_path / "out")
        return count(df)

    monkeypatch.setattr(steps, "count_similarities", count_while_another_writes)
    message = refusal(capsys, *arguments, status=1)
    assert message == (
        f"--output='{tmp_path}/out' was written by another run or step in between: give another folder, or --overwrite "
        "to replace it"
    )
    assert rows(tmp_path / "out") == rows(done / "duplicates")
    assert {path.name for path in (tmp_path / "out").glob("_*")} == {"_semdedup.json"}


@pytest.mark.parametrize("step", ["cluster", "pairwise", "identify", "remove"])
def test_a_step_does_not_write_into_a_folder_that_another_holds(capsys, spark, monkeypatch, done, data, tmp_path, step):
    monkeypatch.setattr(locking, "BEAT_SECONDS", 0.05)
    if step == "pairwise":
        assert call(capsys, "cluster", "--input", data, "--output", tmp_path / "clusters", "--k", 3)[0] == 0
    reads = {
        "cluster": ["--input", data, "--k", 3],
        "pairwise": ["--input", tmp_path / "clusters"],
        "identify": ["--input", done / "similarities"],
        "remove": ["--input", data, "--duplicates", done / "duplicates"],
    }
    out = copied(done / "duplicates", tmp_path / "out")
    with Lock(Files(spark), str(out), takeover=False):
        message = refusal(capsys, step, *reads[step], "--output", out, "--overwrite", status=1)
    assert message.startswith(f"--output='{out}' is being written by process {os.getpid()} on ")
    assert message.endswith(", and is alive: wait for its end, or give another folder")
    assert rows(out) == rows(done / "duplicates")
    assert [path.name for path in out.glob("_*")] == ["_semdedup.json"]


def test_a_step_that_has_lost_its_folder_does_not_call_it_whole(capsys, spark, monkeypatch, done, tmp_path):
    out, duplicates = tmp_path / "out", results.duplicates_to_write

    def duplicates_while_another_takes_over(*arguments):
        (out / "_semdedup.lock-0001").rename(out / "_semdedup.lock-0002")
        return duplicates(*arguments)

    monkeypatch.setattr(results, "duplicates_to_write", duplicates_while_another_takes_over)
    message = refusal(capsys, "identify", "--input", done / "similarities", "--output", out, status=1)
    assert ", and was taken over from this process, which was silent for long: " in message
    assert not (out / "_semdedup.json").exists()
    assert (out / "_semdedup.unfinished").exists()


def test_a_step_that_has_lost_its_folder_leaves_what_another_wrote(capsys, spark, monkeypatch, done, data, tmp_path):
    out, fit = copied(done / "duplicates", tmp_path / "out"), EmbeddingKMeans.fit

    def fit_while_another_begins_and_ends(stage, dataset):
        (out / "_semdedup.lock-0001").unlink()
        return fit(stage, dataset)

    monkeypatch.setattr(EmbeddingKMeans, "fit", fit_while_another_begins_and_ends)
    message = refusal(capsys, "cluster", "--input", data, "--output", out, "--k", 3, "--overwrite", status=1)
    assert ", and was taken over from this process, which was silent for long: " in message
    assert rows(out) == rows(done / "duplicates")
    assert manifest(out) == manifest(done / "duplicates")


@pytest.mark.parametrize("left", ["_semdedup.lock-0001", "_semdedup.unfinished"])
def test_a_step_is_repeated_plainly_where_one_was_killed_before_it_wrote(
    capsys, spark, monkeypatch, done, tmp_path, left
):
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).write_text("")
    assert call(capsys, "identify", "--input", done / "similarities", "--output", tmp_path / "out")[0] == 0
    assert rows(tmp_path / "out") == rows(done / "duplicates")
    assert {path.name for path in (tmp_path / "out").glob("_*")} == {"_semdedup.json", "_SUCCESS"}


def test_duplicates_that_two_steps_wrote_are_not_called_whole(capsys, spark, monkeypatch, done, tmp_path):
    """On stores that make a file where one is already."""
    write = results.write_dataset
    monkeypatch.setattr(
        results, "write_dataset", lambda files, found, *more: write(files, found.unionAll(found), *more)
    )
    found = len(ids(done / "duplicates"))
    message = refusal(capsys, "identify", "--input", done / "similarities", "--output", tmp_path / "out", status=1)
    assert f"{found} rows at first, {2 * found} when it was read again" in message
    assert not (tmp_path / "out" / "_semdedup.json").exists()


@pytest.mark.slow
def test_a_table_that_remove_wrote_in_vain_is_named(capsys, spark, monkeypatch, done, data):
    def unsound(*_):
        raise AccountingError("the input changed while it was read")

    monkeypatch.setattr(steps, "check_removed", unsound)
    command = ["remove", "--input", data, "--duplicates", done / "duplicates", "--output-table", "written_in_vain"]
    try:
        message = refusal(capsys, *command, status=1)
        assert message == (
            "--output-table='written_in_vain' was written, and must not be used: the input changed while it was read"
        )
    finally:
        spark.sql("DROP TABLE IF EXISTS written_in_vain")


def test_a_step_takes_over_what_one_left_that_was_killed(capsys, spark, monkeypatch, done, tmp_path):
    monkeypatch.setattr(locking, "SILENCE_SECONDS", 0.2)
    out = copied(done / "duplicates", tmp_path / "out")
    (out / "_semdedup.json").rename(out / "_semdedup.unfinished")
    (out / "_semdedup.lock-0001").write_text(
        json.dumps({"machine": "elsewhere", "host": "node-7", "pid": 1, "beat": 9})
    )
    arguments = ["identify", "--input", done / "similarities", "--output", out]
    assert refusal(capsys, *arguments) == (
        f"--output='{out}' holds a result that is not finished: give another folder, or --overwrite to replace it"
    )
    assert call(capsys, *arguments, "--overwrite")[0] == 0
    assert rows(out) == rows(done / "duplicates")
    assert {path.name for path in out.glob("_*")} == {"_semdedup.json", "_SUCCESS"}


def test_pairwise_refuses_what_no_cluster_step_wrote(capsys, spark, data, tmp_path):
    message = refusal(capsys, "pairwise", "--input", data, "--output", tmp_path / "out")
    assert message.startswith("column='centroid' is not among the columns: 'id', 'embedding'")
    assert not (tmp_path / "out").exists()


def test_cluster_of_invalid_rows_alone_writes_no_cluster_and_sets_them_aside(capsys, spark, done, tmp_path):
    nothing = pa.array([None, None], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": nothing}), tmp_path / "in.parquet")
    arguments = ["--input", tmp_path / "in.parquet", "--output", tmp_path / "out", "--centroids", done / "centroids"]
    status, _, err = call(capsys, "cluster", *arguments, "--handle-invalid", "skip")
    assert status == 0, err
    assert ids(tmp_path / "out" / "_invalid") == {"a", "b"}
    counts = {name: manifest(tmp_path / "out")[name] for name in ("rows_in", "invalid", "clusters", "rows")}
    assert counts == {"rows_in": 2, "invalid": 2, "clusters": 0, "rows": 0}
    message = refusal(capsys, "pairwise", "--input", tmp_path / "out", "--output", tmp_path / "scores", status=2)
    assert message.startswith(f"--input='{tmp_path}/out' ")


def test_cluster_with_given_centroids_refuses_ids_that_are_not_unique(capsys, spark, done, tmp_path):
    pq.write_table(pa.concat_tables([corpus(), corpus().slice(0, 2)]), tmp_path / "in.parquet")
    arguments = ["--input", tmp_path / "in.parquet", "--output", tmp_path / "out", "--centroids", done / "centroids"]
    message = refusal(capsys, "cluster", *arguments, status=1)
    assert message.startswith("--id-col='id' is not unique: 2 ids are in more than one row, for example 'doc 000'")


def test_identify_refuses_an_eps_that_the_scores_are_not_complete_for(capsys, spark, done, tmp_path):
    scores = copied(done / "similarities", tmp_path / "scores", coverage="exact", complete_eps=0.05)
    message = refusal(capsys, "identify", "--input", scores, "--output", tmp_path / "out", "--eps", 0.06)
    assert message.startswith(f"--eps=0.06 is larger than 0.05, up to which the scores in '{scores}' are complete")
    message = refusal(capsys, "identify", "--input", scores, "--output", tmp_path / "out", "--threshold", 0.94)
    assert message.startswith("--eps=0.06 is larger than 0.05")
    for eps in (0.05, 0.01):
        arguments = ["--input", scores, "--output", tmp_path / f"out {eps}", "--eps", eps]
        assert call(capsys, "identify", *arguments)[0] == 0
    assert rows(tmp_path / "out 0.05") == rows(done / "duplicates")
    assert ids(tmp_path / "out 0.01") < ids(done / "duplicates")


def test_a_folder_is_taken_for_what_it_is(capsys, spark, done, data, tmp_path):
    place, out = f"--duplicates='{done}", tmp_path / "out"
    message = refusal(capsys, "remove", "--input", data, "--duplicates", done / "similarities", "--output", out)
    assert message == f"{place}/similarities' holds similarities, not duplicates"
    message = refusal(capsys, "remove", "--input", data, "--duplicates", done, "--output", out)
    assert message == f"{place}' is the folder of a whole run: give {done}/duplicates"
    message = refusal(capsys, "identify", "--input", done / "none", "--output", out)
    assert message == f"--input='{done}/none' does not exist: give the folder of similarities"
    broken = copied(done / "similarities", tmp_path / "broken")
    (broken / "_semdedup.json").unlink()
    (broken / "_semdedup.unfinished").touch()
    message = refusal(capsys, "identify", "--input", broken, "--output", out)
    assert message == f"--input='{broken}' is not finished: the step that wrote it did not end; run it again"


@pytest.mark.parametrize(
    ("holds", "step", "param"),
    [
        ("similarities", ["identify", "--input"], "input"),
        ("duplicates", ["remove", "--input", "{data}", "--duplicates"], "duplicates"),
    ],
)
def test_a_folder_that_lost_rows_is_refused(capsys, spark, done, data, tmp_path, holds, step, param):
    written = manifest(done / holds)["rows"]
    folder = copied(done / holds, tmp_path / "copy", rows=written + 1)
    message = refusal(capsys, *(part.format(data=data) for part in step), folder, "--output", tmp_path / "out")
    assert message == (
        f"--{param}='{folder}' has {written} rows, but _semdedup.json in it says {written + 1}: files were added or "
        "lost; run the step that wrote it again"
    )
    assert not (tmp_path / "out").exists()


def test_duplicates_in_a_broken_file_are_not_kept_where_the_session_passes_over_such(
    capsys, spark, done, data, tmp_path
):
    (file,) = copied(done / "duplicates", tmp_path / "copy").glob("*.parquet")
    file.write_bytes(b"PAR1" + bytes(200) + file.read_bytes()[204:])  # its footer, which says how many rows, is whole
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    try:
        arguments = "--duplicates", tmp_path / "copy", "--output", tmp_path / "out"
        assert file.name in refusal(capsys, "remove", "--input", data, *arguments, status=1)
    finally:
        spark.conf.unset("spark.sql.files.ignoreCorruptFiles")


@pytest.mark.slow
def test_pairwise_refuses_a_folder_that_lost_rows(capsys, spark, exact, tmp_path):
    shutil.copytree(exact / "clusters", tmp_path / "clusters")
    lost = min((tmp_path / "clusters").glob("centroid=*"))
    shutil.rmtree(lost)
    left = ROWS - len(ids(exact / "clusters" / lost.name))
    message = refusal(capsys, "pairwise", "--input", tmp_path / "clusters", "--output", tmp_path / "out", status=1)
    assert message.startswith(f"--input='{tmp_path}/clusters' has {left} rows, but _semdedup.json in it says {ROWS}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("handle", "more"), [("error", 1), ("error", -1), ("skip", 1), ("keep", -1)])
def test_cluster_refuses_an_input_that_changes(capsys, spark, monkeypatch, data, tmp_path, handle, more):
    """The fit counted other rows than were assigned; with skip, those lost are not among the invalid ones."""
    fit = EmbeddingKMeans.fit

    def fit_of_others(stage, dataset):
        model = fit(stage, dataset)
        model.fitted_rows += more
        return model

    monkeypatch.setattr(EmbeddingKMeans, "fit", fit_of_others)
    options = ["--output", tmp_path / "out", "--k", 3, "--handle-invalid", handle]
    said = refusal(capsys, "cluster", "--input", data, *options, status=1)
    assert said.startswith(f"the input changed while it was read: {ROWS + more} rows at first, {ROWS} when it was read")
    assert not (tmp_path / "out" / "_semdedup.json").exists()


@pytest.mark.parametrize("step", ["cluster", "remove"])
def test_a_step_refuses_an_input_whose_files_are_replaced_by_as_many_rows(
    capsys, spark, monkeypatch, done, tmp_path, step
):
    source = tmp_path / "in.parquet"
    pq.write_table(corpus(), source)
    cleared = results.cleared_folder

    def cleared_and_replaced(*arguments):
        pq.write_table(corpus(), source)
        os.utime(source, (1, 1))
        return cleared(*arguments)

    monkeypatch.setattr(results, "cleared_folder", cleared_and_replaced)
    options = ["--k", 3] if step == "cluster" else ["--duplicates", done / "duplicates"]
    said = refusal(capsys, step, "--input", source, "--output", tmp_path / "out", *options, status=1)
    assert said.startswith("the input changed while it was read: its files, their sizes or their times are not those ")
    assert not (tmp_path / "out" / "_semdedup.json").exists()


def test_remove_writes_text_with_line_breaks_and_quotes_as_csv(capsys, spark, tmp_path):
    texts = ["gone", "a\nb", 'say "hi"\n', "ends with \\", "x,y"]
    table = pa.table({"id": list("abcde"), "text": texts})
    pq.write_table(table, tmp_path / "in.parquet")
    pq.write_table(table.select(["id"]).slice(0, 1), tmp_path / "found.parquet")
    reads = ["--input", tmp_path / "in.parquet", "--duplicates", tmp_path / "found.parquet"]
    status, _, err = call(capsys, "remove", *reads, "--output", tmp_path / "out", "--output-format", "csv")
    assert status == 0, err
    assert manifest(tmp_path / "out")["rows"] == 4
    read = spark.read.csv(str(tmp_path / "out"), schema="id string, text string", multiLine=True).collect()
    assert {row.id: row.text for row in read} == dict(zip("bcde", texts[1:], strict=True))


@pytest.mark.slow
def test_remove_tells_of_rows_it_did_not_find(capsys, spark, monkeypatch, done, data, tmp_path):
    command = ["remove", "--input", data, "--duplicates", done / "duplicates", "--output"]
    found = len(ids(done / "duplicates"))
    assert not any("warning" in line for line in call(capsys, *command, tmp_path / "once")[2])
    again = ["remove", "--input", tmp_path / "once", *command[3:], tmp_path / "twice"]
    status, _, err = call(capsys, *again)
    assert status == 0
    told = f"{found} of the {found} rows of duplicates are not in the input, or are named twice"
    assert f"spark-semdedup: warning: {told}" in err
    assert rows(tmp_path / "twice") == rows(tmp_path / "once")
    monkeypatch.setattr(preflight, "count_ids", lambda *_: ROWS + 1)
    said = refusal(capsys, *command, tmp_path / "changed", status=1)
    assert said.startswith(f"the input changed while it was read: {ROWS + 1} rows, of which {found} were to be removed")
    assert not (tmp_path / "changed" / "_semdedup.json").exists()


# --- coverage beyond the own cluster ------------------------------------------------------------------------


EXACT = ["--coverage", "exact", "--eps", 0.07, "--which-to-keep", "first"]


@pytest.fixture(scope="module")
def exact(spark, data, tmp_path_factory) -> Path:
    """A run with exact coverage and three clusters, and the same step by step: folders of each."""
    out = tmp_path_factory.mktemp("exact")
    for arguments in (
        ["run", "--input", data, "--output", out / "run", "--k", 3, *EXACT],
        ["cluster", "--input", data, "--output", out / "clusters", "--k", 3],
        ["pairwise", "--input", out / "clusters", "--output", out / "scores", *EXACT],
        ["identify", "--input", out / "scores", "--output", out / "found", "--eps", 0.07],
        ["remove", "--input", data, "--duplicates", out / "found", "--output", out / "kept"],
    ):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            assert cli.main([str(argument) for argument in arguments]) == 0, err.getvalue()
    return out


@pytest.mark.slow
def test_the_steps_with_exact_coverage_give_the_runs_answer(exact):
    assert rows(exact / "scores") == rows(exact / "run" / "similarities")
    assert rows(exact / "found") == rows(exact / "run" / "duplicates")
    assert rows(exact / "kept") == rows(exact / "run" / "deduplicated")
    assert len(rows(exact / "kept")) + len(rows(exact / "found")) == ROWS


@pytest.mark.slow
def test_exact_duplicates_are_the_same_for_other_given_centroids(capsys, spark, done, exact, data, tmp_path):
    """Those of all rows against all, from as few clusters as one, too."""
    arguments = ["--input", data, "--output", tmp_path / "out", "--centroids", done / "centroids", *EXACT]
    assert call(capsys, "run", *arguments)[0] == 0
    assert rows(tmp_path / "out" / "duplicates") == rows(exact / "run" / "duplicates")
    assert rows(tmp_path / "out" / "duplicates") != rows(done / "duplicates")


@pytest.mark.slow
def test_summary_and_manifests_say_from_where_on_scores_are_complete(exact):
    summary = json.loads((exact / "run" / "summary.json").read_text("utf-8"))
    words = "every pair of rows with a similarity of at least 0.93 was compared (proven, whatever the clusters)"
    for about in (summary, manifest(exact / "scores"), manifest(exact / "run" / "similarities")):
        assert (about["coverage"], about["complete_eps"]) == ("exact", 0.07)
        assert about["complete_from"] == 1 - 0.07
        assert about["coverage_in_words"].startswith(words)
    for folder in (exact / "found", exact / "run" / "duplicates"):
        assert (manifest(folder)["coverage"], manifest(folder)["complete_eps"]) == ("exact", 0.07)


@pytest.mark.slow
def test_probes_are_named_in_the_summary(capsys, spark, done, data, tmp_path):
    options = ["--centroids", done / "centroids", "--n-probe", 2]
    status, out, err = call(capsys, "run", "--input", data, "--output", tmp_path / "out", *options)
    assert status == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert (summary["coverage"], summary["complete_eps"], summary["parameters"]["nProbe"]) == ("probes", None, 2)
    assert "complete_from" not in summary
    assert "each row was compared with all rows of the 2 clusters nearest to it" in " ".join(out.split())
    assert manifest(tmp_path / "out" / "similarities")["complete_eps"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decided", "complete_eps", "complete_from"),
    [
        (["--eps", 0.07], 0.07, 0.93),
        (["--threshold", 0.93], 0.07, 1 - 0.07),
        (["--eps", 0.07], 0.07, 1 - 0.07),
        (["--threshold", 0.93], 0.07, 0.93),
    ],
)
def test_the_same_threshold_may_be_given_either_way(
    capsys, spark, exact, tmp_path, decided, complete_eps, complete_from
):
    """1 - 0.07 is a little less than 0.93 in double arithmetic, but no float32 score lies between."""
    assert 1 - 0.07 < 0.93
    complete = {"complete_eps": complete_eps, "complete_from": complete_from}
    scores = copied(exact / "scores", tmp_path / "scores", **complete)
    status, _, err = call(capsys, "identify", "--input", scores, "--output", tmp_path / "out", *decided)
    assert status == 0, err
    assert rows(tmp_path / "out") == rows(exact / "found")


@pytest.mark.slow
@pytest.mark.parametrize("decided", [["--eps", 0.0701], ["--threshold", 0.9299], ["--threshold", 0.9299999]])
def test_what_exact_scores_are_not_complete_for_is_refused(capsys, spark, exact, tmp_path, decided):
    message = refusal(capsys, "identify", "--input", exact / "scores", "--output", tmp_path / "out", *decided)
    assert " is larger than 0.07, up to which the scores in " in message
    assert not message.startswith("--eps=0.07 ")


@pytest.mark.parametrize(
    ("step", "arguments", "message"),
    [
        ("run", ["--coverage", "exact", "--n-probe", 2], "--coverage='exact' and --n-probe=2 are both set"),
        ("pairwise", ["--coverage", "exact", "--n-probe", 1], "--coverage='exact' and --n-probe=1 are both set"),
        ("pairwise", ["--n-probe", 2], "centroids is not set, and --input='{input}' has no _centroids: rows that are"),
        (
            "pairwise",
            ["--n-probe", 2, "--centroids", "nowhere"],
            "--centroids='nowhere' holds no saved model (no folder metadata)",
        ),
    ],
)
def test_coverage_that_cannot_be_had_is_refused(capsys, spark, data, tmp_path, step, arguments, message):
    got = refusal(capsys, step, "--input", data, "--output", tmp_path / "out", *arguments)
    assert got.startswith(message.format(input=data))
    assert not (tmp_path / "out").exists()


# --- formats and tables -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_json_lines_in_and_out(capsys, spark, done, tmp_path):
    """JSON numbers come as doubles. The float32 values that the Parquet file has are doubles too: the same answer."""
    (tmp_path / "in").mkdir()
    lines = "\n".join(json.dumps(row) for row in corpus().to_pylist())
    (tmp_path / "in" / "a.jsonl").write_text(lines)
    (tmp_path / "in" / "b.txt").write_text("not JSON")
    arguments = ["--input", tmp_path / "in", "--input-format", "json", "--input-glob", "*.jsonl"]
    arguments += ["--input-option", "mode=FAILFAST", "--output-format", "json", "--output-option", "compression=gzip"]
    status, _, err = call(capsys, "run", *arguments, "--output", tmp_path / "out", "--k", 8)
    assert status == 0, err
    assert rows(tmp_path / "out" / "similarities") == rows(done / "similarities")
    files = list((tmp_path / "out" / "deduplicated").glob("part-*.json.gz"))
    assert files
    kept = spark.read.json(str(tmp_path / "out" / "deduplicated"))
    assert {row.id for row in kept.collect()} == ids(done / "deduplicated")


@pytest.mark.slow
def test_tables_in_and_out(capsys, spark, done, data, tmp_path):
    spark.sql(f"CREATE DATABASE cli_test LOCATION '{tmp_path}/warehouse'")
    try:
        spark.read.parquet(str(data)).write.saveAsTable("cli_test.docs")
        tables = ["--input-table", "cli_test.docs", "--output-table", "cli_test.kept"]
        status, out, err = call(capsys, "run", *tables, "--output", tmp_path / "out", "--k", 8)
        assert status == 0, err
        assert "table cli_test.kept" in out
        kept = {row.id for row in spark.table("cli_test.kept").collect()}
        assert kept == ids(done / "deduplicated")
        assert not (tmp_path / "out" / "deduplicated").exists()

        step = ["remove", "--input-table", "cli_test.docs", "--duplicates", done / "duplicates"]
        message = refusal(capsys, *step, "--output-table", "cli_test.kept")
        assert message.startswith("--output-table='cli_test.kept' exists already")
        message = refusal(capsys, *step, "--output-table", "cli_test.docs", "--overwrite")
        assert message == "--output-table='cli_test.docs' is the table that is read: give another name"
        assert call(capsys, *step, "--output-table", "cli_test.kept", "--overwrite")[0] == 0
        assert spark.table("cli_test.kept").count() == len(kept)

        spark.sql(f"CREATE TABLE cli_test.earlier USING parquet LOCATION '{tmp_path}/out/similarities'")
        rerun = ["run", "--input-table", "cli_test.earlier", "--output", tmp_path / "out", "--overwrite"]
        message = refusal(capsys, *rerun)
        assert message.startswith(f"--output='{tmp_path}/out' holds files of --input-table='cli_test.earlier'")
        assert len(rows(tmp_path / "out" / "similarities")) == ROWS
    finally:
        spark.sql("DROP DATABASE cli_test CASCADE")


# --- ends that are not good ---------------------------------------------------------------------------------


def test_an_interruption_ends_with_130(capsys, spark, data, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.run, "run", interrupted)
    status, _, err = call(capsys, "run", "--input", data, "--output", tmp_path / "out")
    assert status == 130
    assert err == ["spark-semdedup: interrupted"]


def test_what_spark_reports_becomes_one_line(spark):
    with pytest.raises(PySparkException) as analysed:
        spark.range(1).select("x")
    assert one_line(analysed.value).startswith("[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column")

    def fails(batches):
        for batch in batches:
            if batch.num_rows:
                raise MemoryError("no room\nfor this")
            yield batch

    with pytest.raises(PySparkException) as failed:
        spark.range(1).mapInArrow(fails, "id long").collect()
    assert one_line(failed.value) == "a Python worker failed: MemoryError: no room"
    assert one_line(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
    assert one_line(KeyError("x")) == "KeyError: 'x'"


@pytest.mark.parametrize("verbose", [False, True])
def test_a_fault_of_the_program_is_one_line_and_a_traceback_with_verbose(
    capsys, spark, data, tmp_path, monkeypatch, verbose
):
    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(commands.run, "run", faulty)
    flags = ["--verbose"] if verbose else []
    status, _, err = call(capsys, "run", "--input", data, "--output", tmp_path / "out", *flags)
    assert status == 1
    assert err[-1].startswith("spark-semdedup: error: ZeroDivisionError: by design")
    assert ("Traceback (most recent call last):" in err) == verbose
    assert len(err) == 1 or verbose


# --- the programs themselves --------------------------------------------------------------------------------


def program(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """The console command, in a process of its own."""
    command = Path(sys.executable).with_name("spark-semdedup")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.slow
def test_steps_as_programs_give_the_answer_of_the_run(done, data, tmp_path):
    """Relative paths; nothing but progress on stderr. (All steps: ``test_the_steps_one_by_one_…``.)"""
    (tmp_path / "data").symlink_to(data)
    for arguments in (
        ["cluster", "--input", "data", "--output", "c", "--k", 8],
        ["pairwise", "--input", "c", "--output", "p"],
    ):
        ended = program(*arguments, "--local-cores", 2, "--local-memory", 1, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert all(line.startswith("[") for line in ended.stderr.splitlines()), ended.stderr
        assert ended.stdout.startswith(f"\nspark-semdedup {arguments[0]}\n")
    assert rows(tmp_path / "p") == rows(done / "similarities")


@pytest.mark.slow
def test_a_worker_that_fails_is_one_line_without_traceback(tmp_path):
    pq.write_table(with_embedding(corpus(), 9, [float("inf")] * DIM), tmp_path / "in.parquet")
    ended = program("run", "--input", "in.parquet", "--output", "out", "--k", 4, cwd=tmp_path)
    assert ended.returncode == 1
    _, progress, line = ended.stderr.splitlines()
    assert progress.startswith("[1/5] fit centroids ... failed after ")
    assert line.startswith("spark-semdedup: error: --embedding-col='embedding', row with id 'doc 009': embedding has a")


@pytest.mark.slow
def test_the_demo_shows_what_it_found(tmp_path):
    ended = program("demo", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    output = tmp_path / "demo-output"
    summary = json.loads((output / "summary.json").read_text("utf-8"))
    assert summary["rows_in"] == summary["kept"] + summary["duplicates"]
    assert f"{summary['kept']:,}" in ended.stdout
    assert "demo-output/deduplicated" in ended.stdout
    assert ended.stdout.count("kept: ") == ended.stdout.count("removed: ") == 6
    assert max(map(len, ended.stdout.splitlines())) <= 120


def test_the_demo_has_no_saved_centroids_to_start_from(capsys):
    message = refusal(capsys, "demo", "--init-mode", "kmeans++")
    assert message.startswith("argument --init-mode: 'kmeans++' cannot be used: it must be k-means||")


def test_the_demo_replaces_nothing_but_a_run(capsys, spark, data):
    message = refusal(capsys, "demo", "--output", data)
    assert message == f"--output='{data}' exists already and is not a run's result: give another folder"
    assert len(ids(data)) == ROWS


@pytest.mark.slow
def test_pairwise_reads_clusters_where_the_session_infers_no_types_of_partitions(capsys, spark, tmp_path):
    name = "spark.sql.sources.partitionColumnTypeInference.enabled"
    embeddings = pa.array([[1.0, 0.0], [0.999, 0.001], [0.0, 1.0]])
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "embedding": embeddings}), tmp_path / "in" / "part-0.parquet")
    assert call(capsys, "cluster", "--input", tmp_path / "in", "--output", tmp_path / "clusters", "--k", 2)[0] == 0
    assert call(capsys, "pairwise", "--input", tmp_path / "clusters", "--output", tmp_path / "typed")[0] == 0
    spark.conf.set(name, "false")
    try:
        status, _, err = call(capsys, "pairwise", "--input", tmp_path / "clusters", "--output", tmp_path / "text")
    finally:
        spark.conf.unset(name)
    assert status == 0, err
    assert rows(tmp_path / "text") == rows(tmp_path / "typed")
