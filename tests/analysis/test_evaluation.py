"""``evaluate``: what it says of a result equals brute force over all pairs; what it refuses.

Results are made by the oracle, so that only the evaluation runs on Spark; the command is tested on a run of its own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vectors

from spark_semdedup import EmbeddingKMeansModel, Evaluation, MissedPair, SemDedupError, SemDedupModel, evaluate
from spark_semdedup.analysis import recall as evaluation
from spark_semdedup.analysis.evaluation import wilson_interval
from spark_semdedup.analysis.recall import Evaluator
from spark_semdedup.cli import main as cli
from spark_semdedup.pairwise.ranking import Ranking
from spark_semdedup.pairwise.rows import UnassignedRows
from spark_semdedup.params import RankingParams
from spark_semdedup.runs import manifest, preflight
from spark_semdedup.spark.arrow import local_frame
from spark_semdedup.spark.documents import Documents

D = 12
THRESHOLD = 0.9


class Corpus:
    """Rows with near-duplicates, equal rows, ties in rank and score, and rows nobody resembles; four centroids, two of
    them near one another, so that many pairs lie across a boundary."""

    def __init__(self) -> None:
        kinds = (("near_duplicates", 80), ("lattice", 60), ("equal", 30), ("last_bit", 30), ("random", 30))
        parts = [vectors.make(kind, n, D, seed) for seed, (kind, n) in enumerate(kinds)]
        blurred = parts[0] + 0.12 * np.random.default_rng(9).standard_normal(parts[0].shape)
        self.units = oracle.unit_vectors(np.concatenate([*parts, blurred]).astype(np.float32))
        n = len(self.units)
        order = np.random.default_rng(1).permutation(n)
        self.ids = [f"{'äZ🙂a'[i % 4]}{i:03}" for i in order]
        self.numbers = [int(i) * 1_000_003 - 2**31 for i in order]
        self.quality = [None if i % 7 == 0 else float(i % 5) for i in range(n)]
        self.centroids = np.concatenate([self.units[[0, 85, 140]], self.units[:1] + np.float32(0.02)])

    def table(self, embeddings: list | None = None) -> pa.Table:
        embeddings = self.units.tolist() if embeddings is None else embeddings
        columns = {"id": self.ids, "embedding": pa.array(embeddings, pa.list_(pa.float32()))}
        return pa.table({**columns, "quality": pa.array(self.quality, pa.float64()), "number": self.numbers})


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def frame(spark, corpus):
    df = local_frame(spark, corpus.table()).repartition(3).persist()
    yield df
    df.unpersist()


RANKINGS = {
    "hard": {},
    "easy by l2, spherical": {"whichToKeep": "easy", "distanceMetric": "l2", "distanceMeasure": "cosine"},
    "first": {"whichToKeep": "first"},
    "random": {"whichToKeep": "random", "seed": -(2**50)},
    "rankBy": {"rankBy": ["quality desc"]},
}


class Truth:
    """The oracle's answers: of the run, inside clusters, and over all pairs."""

    def __init__(self, corpus: Corpus, ids: list, params: dict) -> None:
        assigned = oracle.assignment(
            corpus.units, corpus.centroids, spherical=params.get("distanceMeasure") == "cosine"
        )
        self.ids, self.label = ids, assigned.centroid
        self.order = {
            "hard": lambda: oracle.order_hard(ids, assigned.cosine_dist_to_cent),
            "easy": lambda: oracle.order_easy(ids, assigned.l2_dist_to_cent),
            "first": lambda: oracle.order_first(ids),
            "random": lambda: oracle.order_random(ids, params["seed"]),
            "rankBy": lambda: oracle.order_rank_by(ids, (corpus.quality, True)),
        }["rankBy" if "rankBy" in params else params.get("whichToKeep", "hard")]()
        self.run = oracle.similarities(corpus.units, self.label, self.order)
        self.all = oracle.similarities(corpus.units, np.zeros(len(ids)), self.order)
        self.removed = self.duplicates(self.run)
        self.due = self.duplicates(self.all)

    def duplicates(self, found: oracle.Similarities) -> np.ndarray:
        others = found.neighbour != np.arange(len(self.ids))
        return others & (found.score.astype(np.float64) >= THRESHOLD)

    def similarities(self, rows: np.ndarray) -> pa.Table:
        """``rows`` of the run's answer, as it is stored."""
        max_ids = [self.ids[j] for j in self.run.neighbour[rows]]
        return pa.table(
            {"id": [self.ids[i] for i in rows], "max_id": max_ids, "cosine_sim_score": self.run.score[rows]}
        )

    def missed(self, sample: np.ndarray) -> list[MissedPair]:
        rank = np.empty(len(self.ids), np.int64)
        rank[self.order] = np.arange(len(self.ids))
        lost = [i for i in sample if self.due[i] and not self.removed[i]]
        lost.sort(key=lambda i: (-self.all.score[i], rank[i]))
        return [self.pair(i, self.all.neighbour[i]) for i in lost]

    def pair(self, i: int, j: int) -> MissedPair:
        return MissedPair(self.ids[i], self.ids[j], float(self.all.score[i]), int(self.label[i]), int(self.label[j]))


def assigned_by(model: EmbeddingKMeansModel, df, ranking: Ranking | None = None) -> UnassignedRows:
    documents = Documents.of(df, model.getIdCol(), model.getEmbeddingCol())
    return UnassignedRows(documents, model.fitted_centroids, ranking or Ranking(), model)


def evaluator(spark, df, corpus: Corpus, truth: Truth, params: dict, removed: np.ndarray | None = None) -> Evaluator:
    removed = truth.removed if removed is None else removed
    settings = {n: v for n, v in params.items() if hasattr(EmbeddingKMeansModel, n)}
    ranking = Ranking.of(RankingParams(**{n: v for n, v in params.items() if n != "distanceMeasure"}))
    return Evaluator(
        rows=assigned_by(EmbeddingKMeansModel(centroids=corpus.centroids, **settings), df, ranking),
        similarities=local_frame(spark, truth.similarities(np.arange(len(truth.ids)))),
        duplicates=local_frame(spark, truth.similarities(np.flatnonzero(removed))),
        threshold=THRESHOLD,
    )


def lowest_hashes(ids: list, wanted: int, seed: int) -> np.ndarray:
    def signed(h: int) -> int:
        return h - 2**64 if h >= 2**63 else h

    def hashed(id_: str) -> int:
        h = oracle.xxh64(id_.encode(), 42)
        for number in (evaluation._SEED_OF_ITS_OWN, seed):
            h = oracle.xxh64(number.to_bytes(4, "little", signed=True), h)
        return signed(h)

    return np.argsort([hashed(id_) for id_ in ids])[:wanted]


# --- against brute force ------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", RANKINGS.values(), ids=RANKINGS)
def test_of_all_rows_it_says_what_brute_force_says(spark, frame, corpus, params):
    first = params.get("whichToKeep") == "first"  # with integer ids
    ids, df = (corpus.numbers, frame.drop("id").withColumnRenamed("number", "id")) if first else (corpus.ids, frame)
    truth = Truth(corpus, ids, params)
    judge = evaluator(spark, df, corpus, truth, params)
    found = judge.compare(judge.sample(10**6), missed=10**6)
    assert (found.rows, found.sample_rows) == (len(ids), len(ids))
    assert found.to_remove == truth.due.sum()
    assert found.removed == found.found == truth.removed.sum()
    assert list(found.missed) == truth.missed(np.arange(len(ids)))
    assert len(found.missed) >= 5, "the corpus has pairs across clusters"
    assert {type(id_) for pair in found.missed for id_ in (pair.id, pair.max_id)} == {type(ids[0])}
    assert found.recall == truth.removed.sum() / truth.due.sum()
    assert found.interval == (found.recall, found.recall), "nothing was estimated"
    assert found.faults == []


def test_a_sample_is_the_rows_with_the_lowest_hashes_whatever_the_partitions(spark, frame, corpus):
    truth = Truth(corpus, corpus.ids, {})
    rows = lowest_hashes(corpus.ids, 90, seed=7)
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    answers = []
    try:
        for df, batch in ((frame, before), (frame.orderBy("quality").coalesce(1), "13")):
            spark.conf.set(name, batch)
            judge = evaluator(spark, df, corpus, truth, {})
            sample = judge.sample(90, seed=7)
            assert sorted(sample.ids.to_pylist()) == sorted(corpus.ids[i] for i in rows)
            answers.append(judge.compare(sample))
    finally:
        spark.conf.set(name, before)
    assert answers[0] == answers[1]
    found = answers[0]
    assert (found.sample_rows, found.to_remove) == (90, truth.due[rows].sum())
    assert (found.found, found.removed) == (truth.removed[rows].sum(),) * 2
    assert list(found.missed) == truth.missed(rows)[:10]
    assert found.interval == wilson_interval(found.found, found.to_remove)
    assert {corpus.ids[i] for i in lowest_hashes(corpus.ids, 90, seed=8)} != set(sample.ids.to_pylist())


def test_the_sample_is_not_the_one_that_centroids_are_fitted_on(corpus):
    fitted_on = np.argsort([oracle.spark_hash(i, 42) for i in corpus.ids])[:60]
    assert len(set(fitted_on) & set(lowest_hashes(corpus.ids, 60, seed=42))) < 30


def test_thousands_of_equal_rows_give_each_sampled_row_the_first_of_them(spark):
    """Half of them are equal, the others differ from these in the last bit of one element."""
    n = 3000
    units = np.concatenate([vectors.make(kind, n // 2, D) for kind in ("equal", "last_bit")])
    ids = [int(i) for i in np.random.default_rng(3).permutation(n)]
    table = pa.table({"id": ids, "embedding": pa.array(units.tolist(), pa.list_(pa.float32()))})
    own = pa.table({"id": ids, "max_id": ids, "cosine_sim_score": np.zeros(n, np.float32)})
    judge = Evaluator(
        rows=assigned_by(EmbeddingKMeansModel(centroids=units[:1]), local_frame(spark, table).repartition(2)),
        similarities=local_frame(spark, own),
        duplicates=local_frame(spark, own).where("false"),
        threshold=THRESHOLD,
    )
    sample = judge.sample(40)
    found = {pair.id: (pair.max_id, pair.cosine_sim_score) for pair in judge.compare(sample, missed=n).missed}
    by_id = oracle.unit_vectors(units)[np.argsort(ids)].astype(np.float64)
    expected = {}
    for i in (i for i in sample.ids.to_pylist() if i > 0):
        scores = oracle.tree_add((by_id[:i] * by_id[i]).T).astype(np.float32)
        expected[i] = (int(np.argmax(scores)), float(scores.max()))
    assert found == expected


# --- by construction ----------------------------------------------------------------------------------------

AXES = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def degrees(*angles: float) -> list[list[float]]:
    return [[float(np.cos(a)), float(np.sin(a)), 0.0] for a in np.deg2rad(angles)]


def small(spark, embeddings: list, removed: str, **params) -> Evaluator:
    """For rows a, b, … on two clusters, split at 45°, ranked by id, of which a run ``removed`` some."""
    names = "abcdefgh"[: len(embeddings)]
    df = spark.createDataFrame(list(zip(names, embeddings, strict=True)), "id string, embedding array<double>")
    valid = [name for name, row in zip(names, embeddings, strict=True) if row and len(row) == 3 and any(row)]
    return Evaluator(
        rows=assigned_by(EmbeddingKMeansModel(centroids=AXES, **params), df.coalesce(1)),
        similarities=local_frame(spark, pa.table({"id": valid})),
        duplicates=local_frame(spark, pa.table({"id": pa.array(list(removed), pa.string())})),
        threshold=0.99,
    )


@pytest.mark.slow
def test_pairs_across_a_boundary_are_missed_and_named(spark):
    """b goes because of a, e because of d. d, 1 degree beyond c and the boundary, is missed; f and g are alone."""
    df = spark.createDataFrame(
        list(zip("abcdefg", degrees(0, 1, 44.5, 45.5, 50, 62, 80), strict=True)), "id string, embedding array<double>"
    ).coalesce(1)
    model = SemDedupModel(centroids=AXES, threshold=0.99, whichToKeep="first")
    result = model.run(df)
    found = model.evaluate(df, result)
    assert [(p.id, p.max_id, p.centroid, p.max_centroid) for p in found.missed] == [("d", "c", 1, 0)]
    assert found.missed[0].cosine_sim_score == pytest.approx(np.cos(np.deg2rad(1)))
    assert (found.rows, found.to_remove, found.found, found.missed_within) == (7, 3, 2, 0)
    result.unpersist()


def test_invalid_rows_that_were_kept_are_neither_sampled_nor_compared(spark):
    judge = small(spark, [*degrees(44.5, 45.5), None, [0.0] * 3, [1.0], *degrees(44.6)], "f", handleInvalid="keep")
    found = judge.compare(judge.sample())
    assert (found.rows, found.sample_rows) == (3, 3)
    assert [(p.id, p.max_id) for p in found.missed] == [("b", "a")]
    assert (found.to_remove, found.found) == (2, 1), "f, because of a"


def test_the_threshold_itself_is_a_duplicate_in_double_arithmetic(spark):
    units = oracle.unit_vectors(np.array(degrees(30, 38)))
    score = float(oracle.similarity(*units))
    judge = small(spark, units.tolist(), "b")
    sample = judge.sample()
    assert replace(judge, threshold=score).compare(sample).found == 1
    found = replace(judge, threshold=float(np.nextafter(score, 1))).compare(sample)
    assert (found.to_remove, found.unexpected) == (0, ("b",))


def test_without_a_row_to_be_removed_the_recall_is_unknown(spark):
    judge = small(spark, degrees(0, 30, 60), "")
    found = judge.compare(judge.sample())
    assert (found.recall, found.interval, found.precision) == (None, None, None)
    assert json.loads(found.as_json())["recall"] is None
    text = " ".join(found.as_text().split())
    assert "recall unknown: no row has a duplicate precision unknown: no sampled row was removed" in text
    text = " ".join(replace(found, sample_rows=1000, rows=9999).as_text().split())
    assert "recall unknown: no sampled row has a duplicate (at most 0.3 % of all rows do, 95 % confidence)" in text
    text = " ".join(replace(found, sample_rows=2, rows=9999).as_text().split())
    assert "(at most 100 % of all rows do, 95 % confidence)" in text


def test_a_result_that_was_changed_is_told_loudly(spark, caplog, monkeypatch):
    """c was removed without reason; b, which has a in its own cluster, was not."""
    judge = small(spark, degrees(0, 1, 30, 31), "cd")
    found = judge.compare(judge.sample())
    assert (found.unexpected, found.missed_within) == (("c",), 1)
    assert (found.precision, found.recall) == (0.5, 0.5)
    assert found.as_text().count("WARNING  ") == 2
    assert "1 removed rows have no duplicate that precedes them ('c')" in found.as_text()
    monkeypatch.setattr(evaluation.log, "propagate", True)
    evaluation.noting_faults(found)
    assert "1 missed pairs lie inside one cluster" in caplog.text


# --- the answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 3), (90, 100), (994, 1050), (7, 7)])
def test_the_interval_ends_where_the_share_is_1_96_standard_errors_away(k, n):
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        assert abs(k / n - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n), rel=1e-6)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_a_pair_that_exact_coverage_missed_is_a_fault():
    """Of one cluster and its neighbours it may be, of all rows that are similar enough it may not."""
    found = Evaluation(90_000, 30_000, 20_000, 19_999, 19_999, 0, 0.95, 42, coverage="probes")
    assert found.faults == []
    assert replace(found, coverage="exact").faults == ["1 rows to be removed were missed, which exact coverage finds"]
    assert replace(found, coverage="exact", found=20_000, removed=20_000).faults == []


def test_the_text_is_aligned_and_rounds_no_miss_away():
    pairs = (MissedPair("doc 1", "x" * 60, 0.99, 3, 12), MissedPair(7, "y", 0.95, 125, 4))
    found = Evaluation(90_000, 30_000, 20_000, 19_999, 19_999, 0, 0.95, 42, missed=pairs, coverage="cluster")
    lines = found.as_text().splitlines()
    assert lines[:5] == [
        "  rows              90,000",
        "  sampled rows      30,000",
        "  to be removed     20,000   66.7 %",
        "  of these removed  19,999",
        "  of these missed        1",
    ]
    assert lines[6] == "  recall     99.9 % (99.9-99.9, 95 % Wilson)"
    assert lines[7] == "  precision  100 % (19,999 of the 19,999 sampled rows that were removed)"
    assert lines[-3:] == [
        "  similarity  missed row  cluster  most similar preferred row                cluster",
        "    0.990000  doc 1             3  " + "x" * 39 + "…       12",
        "    0.950000  7               125  y                                               4",
    ]
    assert "100 % (" in replace(found, found=20_000, removed=20_000).as_text()


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory) -> Path:
    """The corpus under other names, some rows invalid, which the run sets aside."""
    folder = tmp_path_factory.mktemp("in put")
    embeddings = corpus.units.tolist()
    embeddings[3], embeddings[70] = None, [0.0] * D
    table = corpus.table(embeddings=embeddings).rename_columns(["Doc.Id", "My Embedding", "quality", "number"])
    pq.write_table(table.slice(0, 100), folder / "part-0.parquet")
    pq.write_table(table.slice(100), folder / "part-1.parquet")
    return folder


@pytest.fixture(scope="module")
def done(spark, data, corpus, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("result") / "out put"
    columns = ["--id-col", "Doc.Id", "--embedding-col", "My Embedding", "--handle-invalid", "skip"]
    EmbeddingKMeansModel(centroids=corpus.centroids, distanceMeasure="cosine").save(str(output.parent / "model"))
    options = ["--centroids", str(output.parent / "model"), "--threshold", str(THRESHOLD), "--rank-by", "quality desc"]
    assert cli.main(["run", "--input", str(data), "--output", str(output), *columns, *options]) == 0
    return output


def call(capsys, *arguments: object) -> tuple[int, str, list[str]]:
    status = cli.main(["evaluate", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()


def refusal(capsys, *arguments: object) -> str:
    """The one line that a call ends with; lines of progress may stand before it."""
    status, out, err = call(capsys, *arguments)
    lines = [line for line in err if not line.startswith("[")]
    assert status in (1, 2), err
    assert out == ""
    assert len(lines) == 1, err
    return lines[0].removeprefix("spark-semdedup: error: ")


@pytest.mark.slow
def test_the_command_says_what_brute_force_says(capsys, spark, data, done, corpus, tmp_path):
    status, out, err = call(
        capsys, "--input", data, "--result", done, "--missed", 9999, "--output", tmp_path / "e.json"
    )
    assert status == 0, err
    said = json.loads((tmp_path / "e.json").read_text("utf-8"))
    valid = np.array([i for i in range(len(corpus.ids)) if i not in (3, 70)])
    ids, quality = [corpus.ids[i] for i in valid], [corpus.quality[i] for i in valid]
    order = oracle.order_rank_by(ids, (quality, True))
    found = oracle.similarities(corpus.units[valid], np.zeros(len(ids)), order)
    due = {ids[i] for i in np.flatnonzero(found.score.astype(float) >= THRESHOLD)}
    removed = set(pq.read_table(done / "duplicates")["id"].to_pylist())
    assert (said["rows"], said["sample_rows"]) == (len(ids), len(ids))
    assert (said["to_remove"], said["found"], said["removed"]) == (len(due), len(removed), len(removed))
    assert removed < due
    assert {pair["id"] for pair in said["missed"]} == due - removed
    best = {i: (ids[j], float(s)) for i, j, s in zip(ids, found.neighbour, found.score, strict=True)}
    for pair in said["missed"]:
        assert (pair["max_id"], pair["cosine_sim_score"]) == best[pair["id"]]
        assert pair["centroid"] != pair["max_centroid"]
    assert (said["recall"], said["precision"]) == (len(removed) / len(due), 1.0)
    assert (said["threshold"], said["faults"], said["coverage"]) == (THRESHOLD, [], "cluster")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1] == "spark-semdedup evaluate"
    assert f"recall {100 * said['recall']:.1f} % (all rows were looked at: no estimate)" in lines
    assert err[-1].startswith(f"[2/2] compare with all rows ... {len(ids)} rows, {len(due)} to be removed, ")


@pytest.mark.slow
def test_the_function_and_the_command_agree(capsys, spark, data, done, tmp_path):
    options = ["--sample-rows", 120, "--seed", -5, "--missed", 3, "--output", tmp_path]
    assert call(capsys, "--input", data, "--result", done, *options)[0] == 0
    said = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    found = evaluate(spark.read.parquet(str(data)), str(done), sample_rows=120, seed=-5, missed=3)
    own = json.loads(found.as_json())
    assert {n for n in own if own[n] != said[n]} <= {"seconds", "finished"}
    assert (said["sample_rows"], len(said["missed"])) == (120, 3)
    assert said["recall_interval_95"] == list(wilson_interval(said["found"], said["to_remove"]))
    message = refusal(capsys, "--input", data, "--result", done, *options)
    assert message.startswith(f"--output='{tmp_path}/evaluation.json' exists already")
    own = ["--output", done / "_manifest.json", "--overwrite"]
    message = refusal(capsys, "--input", data, "--result", done, *own)
    assert message == f"--output='{done}/_manifest.json' is a part of the run's result: give another file"


def test_an_evaluation_goes_when_its_run_is_overwritten(spark, tmp_path):
    for name in ("evaluation.json", "summary.json", "mine.json"):
        (tmp_path / name).touch()
    manifest.delete_results(preflight.Job.of(spark).files, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--result {tmp}/nowhere", "--result='{tmp}/nowhere' does not exist: give the folder that a run wrote"),
        (
            "--result {data}",
            "--result='{data}' is not the folder of a run (it has no _manifest.json): give what run wrote",
        ),
        ("--result {done}/similarities", "--result='{done}/similarities' is not the folder of a run"),
        ("--result {done} --sample-rows 0", "argument --sample-rows: 0 cannot be used: it must be a whole number"),
        ("--result {done} --seed x", "argument --seed: invalid int value: 'x'"),
        ("--result {done} --seed 9223372036854775808", "--seed=9223372036854775808 cannot be used: it must be a whole"),
        (
            "--result {done} --output {done}/duplicates/e.json",
            "--output='{done}/duplicates/e.json' and --result='{done}/dup",
        ),
        ("--result {done} --output {data}", "--output='{data}/evaluation.json' and --input='{data}' overlap"),
        ("--result {done} --backend tpu", "--backend='tpu' cannot be used: it must be one of auto, gpu"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(capsys, spark, data, done, tmp_path, arguments, message):
    places = {"tmp": tmp_path, "data": data, "done": done}
    given = [argument.format(**places) for argument in arguments.split(" ")]
    assert refusal(capsys, "--input", data, *given).startswith(message.format(**places))


def test_a_run_that_did_not_end_is_not_evaluated(capsys, spark, data, tmp_path):
    (tmp_path / "_semdedup.unfinished").touch()
    message = refusal(capsys, "--input", data, "--result", tmp_path)
    assert message == f"--result='{tmp_path}' is not finished: the run that wrote it did not end; run it again"


def drop(table: pa.Table, name: str) -> pa.Table:
    return table.drop_columns([name])


def renamed_ids(table: pa.Table) -> pa.Table:
    return table.set_column(0, "Doc.Id", pa.array([f"other {i}" for i in range(table.num_rows)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(1), "it has 309 rows, but the run's had 310; give the input that the run had"),
        (renamed_ids, "the row with id '"),
        (
            lambda t: t.set_column(0, "Doc.Id", pa.array(range(t.num_rows))),
            "idCol is bigint there, but the ids are str",
        ),
        (lambda t: drop(t, "Doc.Id"), "idCol='Doc.Id' is not among the columns: 'My Embedding', 'quality', 'nu"),
        (
            lambda t: drop(t, "My Embedding"),
            "embeddingCol='My Embedding' is not among the columns: 'Doc.Id', 'quality'",
        ),
        (lambda t: drop(t, "quality"), "rankBy='quality' is not among the columns: 'Doc.Id', 'My Embedding'"),
    ],
    ids=["fewer rows", "other ids", "other type of ids", "no ids", "no embeddings", "no rank key"],
)
def test_an_input_that_is_not_the_runs_is_refused_in_one_line(capsys, spark, data, done, tmp_path, change, message):
    pq.write_table(change(pq.read_table(data)), tmp_path / "in.parquet")
    said = refusal(capsys, "--input", tmp_path / "in.parquet", "--result", done, "--output", tmp_path / "e.json")
    assert message in said
    assert "is not among the columns" in said or said.startswith(f"the input is not the run's of --result='{done}': ")
    assert not (tmp_path / "e.json").exists()


def test_numbers_that_cannot_be_used_are_refused_in_python(frame):
    with pytest.raises(SemDedupError, match=r"^sample_rows=0 cannot be used"):
        evaluate(frame, "nowhere", sample_rows=0)
    with pytest.raises(SemDedupError, match=r"^sample_rows=1000001 cannot be used: it must be at most 1000000"):
        evaluate(frame, "nowhere", sample_rows=1_000_001)
    with pytest.raises(SemDedupError, match=r"^missed=-1 cannot be used"):
        evaluate(frame, "nowhere", missed=-1)
