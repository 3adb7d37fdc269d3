"""``plan``: what it says beside what runs have, how it goes on beyond its sample, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import slow
from pyspark.errors import PySparkException

from spark_semdedup import SemDedup, SemDedupError, SemDedupModel
from spark_semdedup.analysis.cost import PROBES, _some_files
from spark_semdedup.analysis.curve import Curve, Frame, Point, ladder
from spark_semdedup.analysis.sizing import FitCost, Hardware, seconds
from spark_semdedup.cli import main as cli
from spark_semdedup.clustering.settings import FIT_ROWS_PER_CENTROID
from spark_semdedup.ml.kmeans import EmbeddingKMeans
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.packing import default_max_rows, worker_bytes
from spark_semdedup.spark.arrow import collect_arrow, local_frame

N, D, K = 3000, 16, 48
LABELS = ["cluster", "nProbe 2", "nProbe 3", "nProbe 4", "exact from 0.95"]


def corpus() -> pa.Table:
    """Rows around 40 directions, of uneven number; half of them are stored at 3 times their length."""
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, D))
    weights = rng.exponential(size=40)
    x = centres[rng.choice(40, N, p=weights / weights.sum())] + 0.4 * rng.standard_normal((N, D))
    units = oracle.unit_vectors(x.astype(np.float32)) * np.where(np.arange(N) % 2, 1, 3)[:, None]
    return pa.table({"id": range(N), "embedding": pa.array(units.tolist(), pa.list_(pa.float32()))})


@pytest.fixture(scope="module")
def frame(spark):
    df = local_frame(spark, corpus()).repartition(2).persist()
    yield df
    df.unpersist()


@pytest.fixture(scope="module")
def half(frame):
    df = frame.where("id % 2 = 0").persist()
    yield df
    df.unpersist()


@pytest.fixture(scope="module")
def few(frame):
    """So few rows that a plan fits 4 clusters at most."""
    df = frame.where("id < 360").coalesce(1).persist()
    yield df
    df.unpersist()


@pytest.fixture(scope="module")
def model(frame) -> SemDedupModel:
    return SemDedup(k=K).fit(frame)


@pytest.fixture(scope="module")
def truth(frame, model) -> dict[str, tuple[dict, dict]]:
    """What runs with the model's centroids planned and counted, by label."""
    found = {}
    for label, params in zip(LABELS, [*({"nProbe": n} for n in PROBES), {"coverage": "exact"}], strict=True):
        result = SemDedupModel(centroids=model.centroids, **params).run(frame)
        found[label] = result.workload.facts(), result.counts()
        result.unpersist()
    return found


@pytest.fixture(scope="module")
def sizing(frame, model):
    return model.plan(frame, hardware=Hardware.gpus(2, 100, 25))


def by_label(sizing) -> dict[str, dict]:
    return {fact["coverage"]: fact for fact in sizing.facts()}


# --- beside runs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_with_a_models_centroids_and_all_rows_it_says_what_runs_have(frame, model, truth):
    """All rows are looked at, since 64 for each of 48 clusters are more than there are."""
    found = by_label(model.plan(frame))
    assert list(found) == LABELS
    for label, (planned, counts) in truth.items():
        assert found[label]["pairs"] == counts["pairs"]
        assert found[label].items() >= planned.items()
        assert (found[label]["rows"], found[label]["dimension"], found[label]["k"]) == (N, D, K)


@pytest.mark.slow
def test_a_half_of_the_rows_tells_of_all(half, model, truth):
    found = by_label(model.plan(half, rows=N))
    for label, (planned, counts) in truth.items():
        assert found[label]["pairs"] != counts["pairs"], "it is an estimate"
        assert found[label]["pairs"] == pytest.approx(counts["pairs"], rel=0.25)
        assert found[label]["shuffle_bytes"] == pytest.approx(planned["shuffle_bytes"], rel=0.25)


@pytest.mark.slow
def test_its_own_clusters_are_those_of_the_params(frame):
    sizes = {}
    for measure in ("euclidean", "cosine"):
        estimator = SemDedup(k=8, distanceMeasure=measure)
        sizing = estimator.plan(frame)
        result = estimator.fit(frame).run(frame)
        assert sizing.workloads[0].pairs == pytest.approx(result.counts()["pairs"], rel=0.25)
        result.unpersist()
        sizes[measure] = sizing.cluster_rows
    assert sizes["euclidean"] != sizes["cosine"]


def test_clusters_of_several_tiles_are_planned_as_they_are_run(frame, model):
    tiled = SemDedupModel(centroids=model.centroids[:2], maxClusterRows=300)
    result = tiled.run(frame)
    planned = result.workload.facts()
    found = by_label(tiled.plan(frame.limit(N), rows=N))["cluster"]
    assert planned["tasks_per_row"] > 3
    assert found["tasks_per_row"] == pytest.approx(planned["tasks_per_row"], rel=0.25)
    result.unpersist()


def test_initial_centroids_say_how_many_clusters(half, model):
    assert SemDedup(initMode=model.centroids[:7]).plan(half).workloads[0].k == 7
    with pytest.raises(SemDedupError, match="k=8 and initMode with 7 centroids contradict each other"):
        SemDedup(k=8, initMode=model.centroids[:7]).plan(half)


def test_rows_that_cannot_be_compared_do_not_count(spark):
    table = corpus().slice(0, 600)
    rows = [None if i % 3 == 0 else row for i, row in enumerate(table["embedding"].to_pylist())]
    df = local_frame(spark, table.set_column(1, "embedding", pa.array(rows, pa.list_(pa.float32())))).persist()
    assert SemDedup(k=10, handleInvalid="skip").plan(df).workloads[0].rows == 400
    assert SemDedup(k=3, handleInvalid="keep").plan(df, rows=6e6).workloads[0].rows == pytest.approx(4e6, rel=0.1)
    with pytest.raises(SemDedupError, match=r"^k=401 is larger than the 400 rows with a valid embedding: lower k$"):
        SemDedup(k=401, handleInvalid="skip").plan(df)
    with pytest.raises(PySparkException, match=r"row with id \d+: embedding is null"):
        SemDedup(k=10).plan(df)
    df.unpersist()


# --- beyond the sample --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [slow(None), 1000])
def test_more_rows_never_cost_less_and_a_task_stays_bounded(few, k):
    plans = [by_label(SemDedup(k=k).plan(few, rows=10.0**i, hardware=Hardware.gpus(8, 500, 25))) for i in range(5, 11)]
    for label in LABELS:
        # A k of the plan's own grows with the rows, so the largest task may be of fewer.
        for name in ("pairs", "shuffle_bytes", "tasks", "seconds", *(("task_bytes",) if k else ())):
            values = [plan[label][name] for plan in plans]
            assert values == sorted(values), (label, name)
        assert plans[-1][label]["task_bytes"] <= 1.5 * worker_bytes(2 * default_max_rows(D), D)
    for plan, i in zip(plans, range(5, 11), strict=True):
        for label in LABELS:
            used = plan[label]["k"]
            most = round(math.sqrt(10.0**i))
            assert used == k if k else most // 4 <= used <= 4 * most
            # Fewest where clusters are of equal size.
            assert 10.0 ** (2 * i) / 2 / used * 0.99 <= plan[label]["pairs"] <= 10.0 ** (2 * i)
            assert 1 <= plan[label]["clusters_per_row"] <= used
            # One for each task where that makes not too many: a few tasks more may need fewer.
            assert 1 <= plan[label]["partitions"] <= max(plan[label]["tasks"], plan[label]["shuffle_bytes"] / 2**20)
        pairs = [plan[label]["pairs"] for label in LABELS]
        assert pairs[:4] == sorted(pairs[:4])
        assert plan["exact from 0.95"]["pairs"] >= plan["cluster"]["pairs"]
        assert plan["exact from 0.95"]["shuffle_bytes"] >= plan["cluster"]["shuffle_bytes"]


def test_clusters_beyond_a_tasks_memory_are_sent_to_it_in_tiles(few):
    """A million rows in two clusters are some 500 tiles of 1,000 rows each, and a row meets those of its cluster."""
    found = by_label(SemDedup(k=2, maxClusterRows=1000).plan(few, rows=1e6))
    assert found["cluster"]["tasks_per_row"] == pytest.approx(500, rel=0.25)
    assert found["cluster"]["tasks"] == pytest.approx(2 * 500 * 501 / 2, rel=0.25)
    assert found["nProbe 2"]["tasks_per_row"] == pytest.approx(500 + 2 * 500, rel=0.25)
    assert found["nProbe 2"]["pairs"] == pytest.approx(1e12 / 4 + 1e12 / 2, rel=0.25)


@pytest.mark.parametrize("rows", [2, 50, 190])
def test_from_a_handful_of_rows_it_says_something(frame, rows):
    """Of 190 two clusters are fitted, of fewer one: beyond, pairs are those of clusters of equal size."""
    found = by_label(SemDedup().plan(frame.where(f"id < {rows}").coalesce(1), rows=1e8))
    assert found["cluster"]["k"] == 10_000
    assert 1e16 / 2 / 10_000 * 0.99 <= found["cluster"]["pairs"] < 1e15
    assert all(math.isfinite(value) for fact in found.values() for value in fact.values() if not isinstance(value, str))


def test_from_rows_for_one_cluster_it_claims_no_visits_that_it_cannot_know(frame):
    """Of 60 rows one cluster is fitted: nProbe says how many clusters a row visits, exact coverage does not."""
    sizing = SemDedup().plan(frame.where("id < 60").coalesce(1), rows=1e6)
    cells = {label: fact["clusters_per_row"] for label, fact in by_label(sizing).items()}
    assert [cells[label] for label in LABELS[:4]] == [1, 2, 3, 4]
    pairs = [fact["pairs"] for fact in by_label(sizing).values()]
    assert pairs[1] == pytest.approx(3 * pairs[0]), "home rows meet half as often as a home row and its probing rows"
    lines = sizing.as_text().splitlines()
    (exact,) = [line.split() for line in lines if "exact from 0.95" in line]
    assert set(exact[3:]) == {"?"}
    assert lines[-1].startswith("  ?: too few rows were looked at")
    assert "?" not in SemDedup().plan(frame).as_text()


def test_few_of_many_files_are_read(spark, tmp_path):
    """Those that are not chosen may even be deleted: Spark does not open them."""
    for i in range(40):
        pq.write_table(corpus().slice(10 * i, 10), tmp_path / f"part {i}.parquet")
    read = spark.read.parquet(str(tmp_path))
    some, rows = _some_files(read, 400, 50)
    assert rows == 120
    chosen = {row.id // 10 for row in some.select("id").collect()}
    assert len(chosen) == 12
    for i in set(range(40)) - chosen:
        (tmp_path / f"part {i}.parquet").unlink()
    assert collect_arrow(some.select("id", "embedding")).num_rows == 120
    with pytest.raises(Exception, match=r"does not exist|FILE_NOT_EXIST|FileNotFound"):
        collect_arrow(read.select("id", "embedding"))


def test_all_rows_are_read_where_files_cannot_tell(spark, frame, tmp_path):
    pq.write_table(corpus(), tmp_path / "one.parquet")
    one = spark.read.parquet(str(tmp_path))
    for df in (frame, one, one.unionByName(one), local_frame(spark, corpus())):
        assert _some_files(df, N, 50) == (df, N)


# --- hardware -----------------------------------------------------------------------------------------------


def test_gpus_by_hand():
    """Eight of 400 TFLOP/s reach half of that; 4 Gbit/s of network are less, 100 more than 8 cores pass on."""
    slow, fast = Hardware.gpus(8, 400, 4), Hardware.gpus(8, 400, 100)
    assert slow.flops == 8 * 200e12
    assert slow.bytes_per_second == 8 * 0.5e9
    assert fast.bytes_per_second == 8 * 8 * Hardware.CROSSING < 8 * 12.5e9
    assert (slow.slots, slow.described) == (8, "8 GPUs of 400 TFLOP/s, 4 Gbit/s and 8 cores each")


def test_this_machine_is_measured():
    here = Hardware.here(3)
    assert here.slots == 3
    assert 1e9 < here.flops < 1e14
    assert here.described.endswith(f" cores as those here, {here.flops / 1e9:,.0f} GFLOP/s")


def test_faster_hardware_takes_less_time_for_the_same_work(few):
    slow, fast = (by_label(SemDedup().plan(few, rows=1e8, hardware=Hardware.gpus(n, 500, 25))) for n in (1, 10))
    for label in LABELS:
        assert fast[label]["pairs"] == slow[label]["pairs"]
        assert fast[label]["seconds"] < slow[label]["seconds"]


# --- the fit in it ------------------------------------------------------------------------------------------


def cost(**params) -> FitCost:
    return FitCost.of(EmbeddingKMeans(**params))


def test_the_time_is_that_of_the_fit_that_is_asked_for(sizing):
    """1,000 rows, of 3,000, with 48 centroids, 16 products each, ten times."""
    work, hardware = sizing.workloads[0], Hardware(1e6, math.inf, 1, "")
    without = seconds(work, hardware, None)
    for params, iterations in (
        ({}, 10),
        ({"maxIter": 3}, 3),
        ({"nInit": 4}, 40),
        ({"nInit": 4, "initMode": np.eye(48, 16)}, 10),  # nothing is left to chance, so one fit is enough
        ({"maxIter": 0}, 0),
    ):
        took = seconds(work, hardware, cost(fitSampleRows=1000, **params)) - without
        assert took == pytest.approx(2 * 1000 * K * D * iterations / 1e6)


@pytest.mark.parametrize(("sample_rows", "k", "fitted"), [(None, 10, 640), (None, 48, N), (0, 10, N), (5000, 10, N)])
def test_a_fit_takes_no_more_rows_than_there_are(sizing, sample_rows, k, fitted):
    work = replace(sizing.workloads[0], k=k)
    assert cost(fitSampleRows=sample_rows).products(work) == fitted * k * D * 10


def test_a_k_that_the_fit_sample_is_too_small_for_is_not_advised(few):
    rows, hardware = 1e8, Hardware.gpus(8, 500, 25)
    free, bound = (
        by_label(SemDedup(k=10_000, fitSampleRows=sample).plan(few, rows=rows, hardware=hardware))
        for sample in (None, 12_000)
    )
    assert max(fact["best_k"] for fact in free.values()) > 12_000
    assert max(fact["best_k"] for fact in bound.values()) == 12_000
    for label in LABELS:
        assert bound[label]["seconds"] < free[label]["seconds"]  # 12,000 rows are fitted on, not 640,000


def test_a_plan_refuses_the_fit_sample_that_a_run_refuses(few):
    with pytest.raises(SemDedupError, match=r"^fitSampleRows=7 is smaller than k=8: it must be 0 \(all rows\)"):
        SemDedup(k=8, fitSampleRows=7).plan(few)


# --- the answer ---------------------------------------------------------------------------------------------


def test_the_text_is_aligned_and_ascii(sizing):
    text = sizing.as_text()
    assert text.isascii()
    facts, table, steps, notes = text.split("\n\n")
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line[2:17].strip() for line in lines] == ["coverage", *LABELS]
    assert facts.splitlines()[0] == "  rows      3,000 of dimension 16; 3,000 were looked at"
    assert facts.splitlines()[1].startswith("  clusters  48, of ")
    assert all(line.startswith("  ") and len(line) <= 120 for line in text.splitlines() if line)
    assert steps.splitlines()[0].split() == ["step", "bytes", "host", "GPUs", "network", "takes", "bound", "by"]
    names = ["steps", "pairs", "time", "k, best k", "choose k"]
    assert [line.split(":")[0].strip() for line in notes.splitlines()] == names


def test_the_facts_are_json(sizing):
    facts = json.loads(json.dumps(sizing.facts()))
    assert [fact["coverage"] for fact in facts] == LABELS
    for fact in facts:
        assert fact["seconds"] > 0
        assert 1 <= fact["best_k"] <= N / 8


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "in.parquet"
    pq.write_table(corpus().slice(0, 360), path)
    return path


def test_the_command_prints_the_table_and_writes_nothing(capsys, spark, data):
    assert cli.main(["plan", "--input", str(data), "--rows", "1e9", "--gpus", "64", "--eps", "0.01"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("\nspark-semdedup plan\n\n  rows      1 billion of dimension 16; 360 were looked at\n")
    assert "31,623 (more than the rows looked at can tell: extrapolated)" in said.out
    assert "64 GPUs of 500 TFLOP/s, 25 Gbit/s and 8 cores each" in said.out
    assert "\n  exact from 0.99  " in said.out
    assert (said.out + said.err).isascii()
    assert said.err.startswith("[1/1] look at a sample ...")
    assert [path.name for path in data.parent.iterdir()] == ["in.parquet"]


def test_the_command_plans_with_saved_centroids(capsys, spark, data, model, tmp_path):
    model.clustering.save(str(tmp_path / "model"))
    assert cli.main(["plan", "--input", str(data), "--centroids", str(tmp_path / "model")]) == 0
    assert "\n  clusters  48, of 0 to " in capsys.readouterr().out


def test_a_plan_with_centroids_of_another_length_is_refused(few):
    with pytest.raises(SemDedupError, match=r"^embeddings have length \d+, but the centroids have 3: give their own$"):
        SemDedupModel(centroids=np.eye(3)).plan(few)


@pytest.mark.parametrize("there", [64_010, 70_000, 500_000])
def test_rows_are_left_to_look_at_where_not_all_are_fitted(there):
    """Of a handful that are left, a plan would see no two in one cluster."""
    for k in (1000, 1010, 5000):
        fitted = FIT_ROWS_PER_CENTROID * ladder(k, there, 16, whole=True)[-1]
        assert fitted <= 0.75 * there
    assert FIT_ROWS_PER_CENTROID * ladder(5000, 64_000, 16, whole=True)[-1] == 64_000


@pytest.mark.parametrize(("dim", "most"), [(64, 1000), (384, 1000), (768, 721), (4096, 312)])
def test_of_long_vectors_fewer_clusters_are_fitted(dim, most):
    """A fit of k clusters takes k² times their length: of 4,096 numbers 1,000 would take half a minute."""
    assert ladder(5000, 4_000_000, dim, whole=True)[-1] == most


def test_a_row_that_was_not_fitted_does_not_speak_for_all(frame):
    """Of 65 rows 64 are fitted; alone the last would make no pair."""
    plan = SemDedup(k=10).plan(frame.where("id < 65"), rows=N)
    for fact in plan.facts():
        assert fact["pairs"] > 0


def test_rows_that_share_no_cluster_in_the_sample_are_planned_for():
    """Each is with itself at least: none of the counts is divided by 0."""
    frame = Frame(rows=1e9, dim=16, max_rows=1000, slots=4)
    points = [Point(k, cells_per_row=3.0, home_share=0.0, probing_share=0.5) for k in (10, 20)]
    work = Curve(Coverage(others=2), frame, points, (4, 2.0)).at(40)
    assert work.home_pairs == 0.5e9
    assert work.tasks > 0


def test_a_k_that_is_not_set_is_planned_for_the_valid_rows(spark):
    rows = [(i, [1.0, float(i)] if i % 8 == 0 else None) for i in range(40)]
    df = spark.createDataFrame(rows, "id int, embedding array<double>")
    assert {fact["k"] for fact in SemDedup(handleInvalid="skip").plan(df).facts()} == {2}
    with pytest.raises(SemDedupError, match=r"^k=6 is larger than the 5 rows with a valid embedding: lower k$"):
        SemDedup(k=6, handleInvalid="skip").plan(df)


COUNT = "cannot be used: it must be a whole number of at least 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--gpus 0", f"argument --gpus: 0 {COUNT}"),
        ("--gpus 1.5", f"argument --gpus: 1.5 {COUNT}"),
        ("--rows 0.5", f"argument --rows: 0.5 {COUNT}"),
        ("--rows 1e999", "argument --rows: 1e999 cannot be used: it must be a number above 0"),
        ("--gpus 1 --gpu-tflops x", "argument --gpu-tflops: x cannot be used: it must be a number above 0"),
        ("--gpus 1 --gpu-tflops nan", "argument --gpu-tflops: nan cannot be used: it must be a number above 0"),
        ("--network-gbps 25", "--gpu-tflops and --network-gbps describe GPUs: say how many with --gpus"),
        ("--output x", "unrecognized arguments: --output x"),
        ("--centroids nowhere", "--centroids='nowhere' holds no saved model"),
        ("--embedding-col id", "--embedding-col='id' is of type bigint"),
        ("--coverage exact --n-probe 2", "--coverage='exact' and --n-probe=2 are both set; set one of them"),
        ("--rows 359", "--rows=359 cannot be used: it must be at least 360, the rows of the input"),
        ("--rows 1e16", "and at most 1e+15"),
        ("--k 361", "--k=361 is larger than the 360 rows: it must be at most the number of rows"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(capsys, spark, data, options, message):
    assert cli.main(["plan", "--input", str(data), *options.split()]) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if not line.startswith("[")]
    assert line.startswith("spark-semdedup: error: ")
    assert message in line


def test_an_empty_input_is_refused(frame):
    with pytest.raises(SemDedupError, match=r"^the input is empty: it must have at least one row$"):
        SemDedup().plan(frame.limit(0))


@pytest.mark.parametrize("rows", [0, -1, math.nan, math.inf])
def test_impossible_numbers_of_rows_are_refused_in_python(few, rows):
    with pytest.raises(SemDedupError, match=r"^rows=.* cannot be used: it must be at least 360"):
        SemDedup().plan(few, rows=rows)
