"""What each clusterer makes of our Params, and that the fits are sound."""

from __future__ import annotations

import builtins
import logging
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from spark_semdedup.clustering import fit, rapids
from spark_semdedup.clustering import settings as clusterers
from spark_semdedup.clustering.faiss import fit_faiss
from spark_semdedup.clustering.rapids import fit_lloyd
from spark_semdedup.clustering.settings import FitSettings, choose_clusterer, refuse_unsupported
from spark_semdedup.errors import SemDedupError
from spark_semdedup.params import ClusteringParams

D = 16

needs_spark_rapids_ml = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="spark-rapids-ml has no release for Python 3.10"
)


def units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_units(n: int, seed: int = 0, d: int = D) -> np.ndarray:
    return units(np.random.default_rng(seed).normal(size=(n, d)))


def blobs(k: int, per_cluster: int, spread: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(3)
    label = rng.permutation(np.repeat(np.arange(k), per_cluster))
    return units(np.eye(D)[label] + spread * rng.normal(size=(len(label), D)))


def settings(k: int = 5, **params) -> FitSettings:
    return FitSettings.from_params(ClusteringParams(**params), k)


def vectors_frame(spark, x: np.ndarray, partitions: int = 3):
    frame = spark.createDataFrame([(row.tolist(),) for row in x], "unit array<float>")
    return frame.repartition(partitions) if partitions > 1 else frame.coalesce(1)


@dataclass(frozen=True)
class Sample:
    """What ``fit`` asks of a ``FitSample``, around a matrix."""

    x: np.ndarray
    spark: object = None
    is_held: bool = True

    @property
    def size(self) -> int:
        return self.x.shape[0]

    @property
    def dim(self) -> int:
        return self.x.shape[1]

    @property
    def array(self) -> np.ndarray:
        return self.x

    def dataframe(self, *, in_order: bool = True):
        return vectors_frame(self.spark, self.x)


def assert_separates(x: np.ndarray, centroids: np.ndarray, k: int) -> None:
    """One centre for each of the clusters of ``blobs``."""
    assert centroids.dtype == np.float32
    assert centroids.shape == (k, D)
    found = (x @ centroids.T).argmax(1)
    assert len(set(zip(x.argmax(1).tolist(), found.tolist(), strict=True))) == k


# --- settings -----------------------------------------------------------------------------------------------


def test_settings_take_values_and_know_which_the_user_set():
    found = settings(7, maxIter=3, seed=-5, initMode="random")
    assert (found.k, found.maxIter, found.tol, found.initMode, found.nInit) == (7, 3, 1e-4, "random", 1)
    assert found.set_by_user == {"maxIter", "seed", "initMode"}


@pytest.mark.parametrize(
    ("seed", "folded"),
    [(42, 42), (0, 0), (-1, 2**31 - 1), (2**31, 0), (2**31 + 5, 5), (2**63 - 1, 2**31 - 1), (-(2**63), 0)],
)
def test_seeds_are_folded_to_31_bits(seed, folded):
    assert settings(seed=seed).seed31 == folded


def test_initial_centroids_become_float32_and_must_be_k():
    given = random_units(5)
    found = settings(5, initMode=given)
    assert found.given_centroids.dtype == np.float32
    np.testing.assert_array_equal(found.given_centroids, given)
    with pytest.raises(SemDedupError, match=r"initMode has 5 centroids, k=6"):
        settings(6, initMode=given)


def test_each_fit_has_its_own_seed_the_first_is_the_one_given():
    seeds = settings(nInit=4, seed=9).fit_seeds()
    assert seeds[0] == 9
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(settings(5, nInit=4, initMode=random_units(5)).fit_seeds()) == 1


# --- choice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "chosen"), [("gpu", "rapids"), ("cpu", "faiss")])
def test_auto_follows_the_backend_and_says_so(backend, chosen, caplog):
    with caplog.at_level(logging.INFO, logger="spark_semdedup"):
        assert choose_clusterer("auto", backend) == chosen
    assert f"clusterer auto → {chosen}" in caplog.text
    assert backend in caplog.text


@pytest.mark.parametrize(
    ("clusterer", "backend", "requested"),
    [("faiss", "cpu", "auto"), ("mllib", "cpu", "cpu"), ("rapids", "gpu", "gpu"), ("faiss", "gpu", "auto")],
)
def test_a_chosen_clusterer_stands(clusterer, backend, requested):
    assert choose_clusterer(clusterer, backend, requested) == clusterer


@pytest.mark.parametrize(
    ("clusterer", "backend", "requested"),
    [("rapids", "cpu", "cpu"), ("rapids", "cpu", "auto"), ("faiss", "gpu", "gpu"), ("mllib", "gpu", "gpu")],
)
def test_contradictions_name_both(clusterer, backend, requested):
    with pytest.raises(SemDedupError, match=f"clusterer='{clusterer}' contradicts backend='{backend}'") as error:
        choose_clusterer(clusterer, backend, requested)
    assert "\n" not in str(error.value)


# --- what cannot be honoured --------------------------------------------------------------------------------

REFUSED = [
    ("faiss", {"initMode": "k-means||"}, "k-means++, random, an array"),
    ("faiss", {"initMode": "scalable-k-means++"}, "k-means++, random, an array"),
    ("faiss", {"oversamplingFactor": 2.0}, "leave it unset"),
    ("faiss", {"maxSamplesPerBatch": 1024}, "leave it unset"),
    ("mllib", {"initMode": "k-means++"}, "k-means||, random"),
    ("mllib", {"initMode": "scalable-k-means++"}, "k-means||, random"),
    ("mllib", {"initMode": random_units(5)}, "k-means||, random"),
    ("mllib", {"nInit": 3}, "it must be 1"),
    ("mllib", {"oversamplingFactor": 2.0}, "leave it unset"),
    ("mllib", {"maxSamplesPerBatch": 1024}, "leave it unset"),
]


@pytest.mark.parametrize(("clusterer", "params", "right"), REFUSED)
def test_what_a_clusterer_cannot_honour_is_an_error_that_names_both(clusterer, params, right):
    with pytest.raises(SemDedupError) as error:
        refuse_unsupported(clusterer, settings(5, **params))
    message = str(error.value)
    assert message.startswith(f"{next(iter(params))}=")
    assert repr(clusterer) in message
    assert right in message
    assert "\n" not in message


HONOURED = [
    ("faiss", {}),
    ("faiss", {"initMode": "k-means++", "tol": 0.1, "nInit": 3, "distanceMeasure": "cosine", "maxIter": 1, "seed": 1}),
    ("faiss", {"initMode": "random"}),
    ("faiss", {"initMode": random_units(5)}),
    ("mllib", {}),
    ("mllib", {"initMode": "k-means||", "nInit": 1, "tol": 0.1, "distanceMeasure": "cosine", "maxIter": 1, "seed": 1}),
    ("mllib", {"initMode": "random"}),
    *[("rapids", params) for _, params, _ in REFUSED],
    ("rapids", {"distanceMeasure": "cosine"}),
]


@pytest.mark.parametrize(("clusterer", "params"), HONOURED)
def test_what_a_clusterer_honours_passes(clusterer, params):
    refuse_unsupported(clusterer, settings(5, **params))


def test_fit_refuses_before_it_fits():
    with pytest.raises(SemDedupError, match="nInit=2 cannot be honoured by clusterer 'mllib'"):
        fit.fit_centroids("mllib", Sample(random_units(9)), settings(5, nInit=2))


@pytest.mark.parametrize("clusterer", ["faiss", "mllib", "rapids"])
def test_fewer_rows_than_clusters_are_refused(clusterer):
    with pytest.raises(SemDedupError, match="k=5 is larger than the 4 rows"):
        fit.fit_centroids(clusterer, Sample(random_units(4)), settings(5))


def test_initial_centroids_of_another_length_are_refused():
    with pytest.raises(SemDedupError, match="initMode has centroids of length 8, but embeddings have length 16"):
        fit.fit_centroids("faiss", Sample(random_units(9)), settings(5, initMode=random_units(5, d=8)))


# --- faiss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["k-means||", "random"])
def test_faiss_recovers_separated_clusters(measure, init):
    x = blobs(k=5, per_cluster=40)
    chosen = settings(5, distanceMeasure=measure, nInit=20)
    found = fit.fit_centroids("faiss", Sample(x), replace(chosen, initMode=init))
    assert_separates(x, found.centroids, 5)
    assert (found.clusterer, found.rows) == ("faiss", 200)


@pytest.mark.parametrize("k", [5, 10, 20, 35, 50])
def test_every_separated_blob_is_a_cluster_of_its_own_by_default(k):
    """Random rows merged some in 36 of 40 such fits, FAISS's own k-means++ in 20."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        centres, label = random_units(k, seed=seed + 100, d=64), rng.permutation(np.repeat(np.arange(k), 64))
        x = units(centres[label] + 0.02 * rng.normal(size=(len(label), 64)))
        fitted = fit_faiss(x, settings(k, seed=seed)).centroids
        nearest = (x @ fitted.T - (fitted**2).sum(axis=1) / 2).argmax(axis=1)
        assert len(set(zip(nearest, label, strict=True))) == len(set(nearest)) == k


def test_the_default_start_is_k_means_plus_plus_up_to_64_clusters_and_says_so(caplog):
    x = random_units(300)
    with caplog.at_level(logging.INFO, logger="spark_semdedup"):
        default = fit_faiss(x, settings())
    assert "initMode k-means|| (default), k = 5 → k-means++" in caplog.text
    np.testing.assert_array_equal(default.centroids, fit_faiss(x, settings(initMode="k-means++")).centroids)
    assert (default.centroids != fit_faiss(x, settings(initMode="random")).centroids).any()


def test_beyond_64_clusters_faiss_starts_from_random_rows_by_default_and_says_so(caplog):
    x = random_units(300)
    with caplog.at_level(logging.INFO, logger="spark_semdedup"):
        default = fit_faiss(x, settings(65))
    assert "initMode k-means|| (default), k = 65 → random" in caplog.text
    np.testing.assert_array_equal(default.centroids, fit_faiss(x, settings(65, initMode="random")).centroids)
    assert (default.centroids != fit_faiss(x, settings(65, initMode="k-means++")).centroids).any()


def test_faiss_stops_at_a_thousandth_unless_tol_is_set(caplog):
    x = random_units(500)
    with caplog.at_level(logging.INFO, logger="spark_semdedup"):
        default = fit_faiss(x, settings(8))
    assert "improves by less than the fraction 0.001" in caplog.text
    assert default.history == fit_faiss(x, settings(8, tol=1e-3)).history
    assert len(default.history) < len(fit_faiss(x, settings(8, tol=1e-4)).history)


def test_faiss_history_is_the_mean_objective():
    x = random_units(500)
    euclidean = fit_faiss(x, settings(8, maxIter=12, tol=0.0))
    squared = ((x[:, None, :] - euclidean.centroids[None]) ** 2).sum(-1).min(1).mean()
    assert len(euclidean.history) == 12
    assert (np.diff(euclidean.history) <= 1e-6).all()
    assert euclidean.history[-1] == pytest.approx(squared, rel=5e-3)
    cosine = fit_faiss(x, settings(8, maxIter=12, tol=0.0, distanceMeasure="cosine"))
    assert (np.diff(cosine.history) >= -1e-6).all()
    assert cosine.history[-1] == pytest.approx((x @ cosine.centroids.T).max(1).mean(), rel=5e-3)
    np.testing.assert_allclose(np.linalg.norm(cosine.centroids, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_faiss_tol_stops_early(measure):
    x = random_units(500)
    iterations = [len(fit_faiss(x, settings(8, tol=tol, distanceMeasure=measure)).history) for tol in (0.0, 1e-2, 1e9)]
    assert 2 <= iterations[1] < iterations[0] <= 20
    assert iterations[2] == 2  # one improvement has to be seen


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_faiss_keeps_the_best_of_n_init(measure):
    x = random_units(400)
    several = settings(12, maxIter=10, nInit=5, distanceMeasure=measure, seed=3, initMode="random")
    single = [fit_faiss(x, replace(several, nInit=1, seed=seed)) for seed in several.fit_seeds()]
    last = [found.history[-1] for found in single]
    best = int(np.argmax(last) if measure == "cosine" else np.argmin(last))
    assert best != 0, "the first of several must not be the best, or this shows nothing"
    found = fit_faiss(x, several)
    np.testing.assert_array_equal(found.centroids, single[best].centroids)
    assert found.history == single[best].history


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_faiss_starts_from_given_centroids_where_there_are_as_many_rows(measure):
    """FAISS itself would give back the rows."""
    x, given = random_units(5), random_units(5, seed=8)
    chosen = settings(5, initMode=given, maxIter=0, distanceMeasure=measure)
    np.testing.assert_allclose(fit_faiss(x, chosen).centroids, given, atol=1e-6)
    found = fit_faiss(x, replace(chosen, maxIter=20))
    assert found.clusterer == "faiss"
    nearest = ((x[:, None, :] - found.centroids[None]) ** 2).sum(-1).argmin(1)
    for centroid in set(nearest.tolist()):
        mean = x[nearest == centroid].astype(np.float64).mean(0)
        expected = mean / np.linalg.norm(mean) if measure == "cosine" else mean
        np.testing.assert_allclose(found.centroids[centroid], expected, atol=1e-6)


def test_faiss_starts_from_given_centroids():
    x, given = random_units(300), random_units(5, seed=8)
    np.testing.assert_array_equal(fit_faiss(x, settings(5, initMode=given, maxIter=0)).centroids, given)
    nearest = ((x[:, None, :] - given[None]) ** 2).sum(-1).argmin(1)
    means = [x[nearest == j].astype(np.float64).mean(0) for j in range(5)]
    np.testing.assert_allclose(fit_faiss(x, settings(5, initMode=given, maxIter=1)).centroids, means, atol=1e-6)


def test_faiss_gives_the_same_bits_every_time_and_for_any_number_of_threads():
    x = random_units(4000, d=64)
    before = faiss.omp_get_max_threads()
    try:
        found = []
        for threads in (1, 2, 2, 3):
            faiss.omp_set_num_threads(threads)
            found.append(fit_faiss(x, settings(60)).centroids)
    finally:
        faiss.omp_set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("seed", [-1, -(2**40), 2**31, 2**40 + 3])
def test_any_seed_fits(seed):
    x = random_units(200)
    found = fit_faiss(x, settings(5, seed=seed))
    np.testing.assert_array_equal(found.centroids, fit_faiss(x, settings(5, seed=seed & 0x7FFFFFFF)).centroids)
    assert np.isfinite(fit_lloyd(x, settings(5, seed=seed)).centroids).all()


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_faiss_with_one_cluster_all_clusters_and_equal_rows(measure, init):
    x = random_units(30)
    common = {"distanceMeasure": measure, "initMode": init}
    one = fit_faiss(x, settings(1, **common)).centroids[0]
    mean = x.astype(np.float64).mean(0)
    np.testing.assert_allclose(one, mean / np.linalg.norm(mean) if measure == "cosine" else mean, atol=1e-6)
    every = fit_faiss(x, settings(30, **common)).centroids
    assert {row.tobytes() for row in every} == {row.tobytes() for row in x}
    equal = np.repeat(random_units(3), 20, axis=0)
    for k in (10, 59):
        centroids = fit_faiss(equal, settings(k, **common)).centroids
        assert centroids.shape == (k, D)
        assert np.isfinite(centroids).all()
        # Each distinct row has a centre of its own, near enough to it (split centres lie 1/1024 apart).
        assert ((equal[:, None, :] - centroids[None]) ** 2).sum(-1).min(1).max() < 1e-5


def test_faiss_says_nothing_on_the_console():
    """In a process of its own, where nothing else writes: of so few rows FAISS would warn."""
    fit = (
        "import numpy as np; from spark_semdedup.clustering.faiss import fit_faiss;"
        "from spark_semdedup.clustering.settings import FitSettings;"
        "from spark_semdedup import EmbeddingKMeans;"
        "x = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32);"
        "assert len(fit_faiss(x, FitSettings.from_params(EmbeddingKMeans(), 20)).centroids) == 20"
    )
    ended = subprocess.run([sys.executable, "-c", fit], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


# --- mllib --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_mllib_recovers_separated_clusters(spark, measure):
    x = blobs(k=4, per_cluster=25)
    found = fit.fit_centroids("mllib", Sample(x, spark), settings(4, distanceMeasure=measure, seed=2**40 + 1))
    assert_separates(x, found.centroids, 4)
    assert (found.history, found.clusterer, found.rows) == ((), "mllib", 100)


def test_mllib_uses_fewer_centroids_where_rows_are_equal_and_warns(spark, caplog):
    x = np.repeat(random_units(3), 10, axis=0)
    with caplog.at_level(logging.WARNING, logger="spark_semdedup"):
        found = fit.fit_centroids("mllib", Sample(x, spark), settings(6))
    assert found.centroids.shape == (3, D)
    assert "3 distinct centroids instead of k=6" in caplog.text


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_mllib_fits_a_single_centroid_too_which_its_own_kmeans_refuses(spark, measure):
    x = random_units(20)
    found = fit.fit_centroids("mllib", Sample(x, spark), settings(1, distanceMeasure=measure))
    mean = x.astype(np.float64).mean(axis=0)
    expected = mean / np.linalg.norm(mean) if measure == "cosine" else mean
    np.testing.assert_allclose(found.centroids, expected[None, :], rtol=1e-5, atol=1e-7)
    assert (found.clusterer, found.rows) == ("mllib", 20)


# --- rapids -------------------------------------------------------------------------------------------------


@needs_spark_rapids_ml
def test_every_value_reaches_cuml(spark):
    chosen = settings(
        123,
        maxIter=7,
        tol=0.25,
        seed=-3,
        initMode="random",
        oversamplingFactor=3.5,
        maxSamplesPerBatch=4096,
    )
    assert rapids.why_lloyd(chosen) is None
    estimator = rapids.rapids_estimator(chosen, "unit")
    assert estimator.getFeaturesCol() == "unit"
    assert estimator.cuml_params == {
        "n_clusters": 123,
        "max_iter": 7,
        "tol": 0.25,
        "random_state": 2**31 - 3,
        "init": "random",
        "n_init": 1,
        "oversampling_factor": 3.5,
        "max_samples_per_batch": 4096,
        "verbose": False,
    }


@needs_spark_rapids_ml
@pytest.mark.parametrize("init", ["k-means||", "scalable-k-means++", "random"])
def test_spark_rapids_mls_own_check_accepts_what_it_is_given(spark, init):
    """Before a fit it has pyspark.ml's KMeans check the Params, in the JVM: no GPU is needed for that."""
    chosen = settings(2, initMode=init)
    assert rapids.why_lloyd(chosen) is None
    rapids.rapids_estimator(chosen, "unit")._validate_parameters()
    assert rapids.why_lloyd(settings(1, initMode=init)) == "k is 1"


@pytest.mark.parametrize(
    ("master", "gpus", "rows", "k", "used"),
    [
        ("spark://node-1:7077", 8, 64_000, 1000, 8),
        ("spark://node-1:7077", 8, 5_000, 1000, 2),
        ("spark://node-1:7077", 128, 64_000, 1000, 32),
        ("yarn", 4, 3, 2, 1),
        ("local[4]", 8, 64_000, 1000, 4),
    ],
)
def test_no_gpu_gets_fewer_rows_than_clusters(master, gpus, rows, k, used):
    context = SimpleNamespace(master=master, defaultParallelism=4)
    assert rapids.gpus_to_fit_on(context, gpus, rows, k) == used


@needs_spark_rapids_ml
def test_our_defaults_reach_cuml(spark):
    estimator = rapids.rapids_estimator(settings(9), "unit")
    assert estimator.cuml_params == {
        "n_clusters": 9,
        "max_iter": 20,
        "tol": 1e-4,
        "random_state": 42,
        "init": "k-means||",
        "n_init": 1,
        "oversampling_factor": 2.0,
        "max_samples_per_batch": 32768,
        "verbose": False,
    }


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"distanceMeasure": "cosine"}, "cosine"),
        ({"initMode": random_units(5)}, "given"),
        ({"initMode": "k-means++"}, "k-means\\+\\+"),
        ({"maxIter": 0}, "maxIter"),
        ({"nInit": 2}, "nInit is 2"),
    ],
)
def test_what_spark_rapids_ml_does_not_offer_goes_to_the_lloyd_loop(monkeypatch, params, why):
    called = []
    monkeypatch.setattr(fit, "fit_lloyd_on_executor", lambda *a, backend: called.append(backend))
    monkeypatch.setattr(fit, "fit_rapids", lambda *a: called.append("rapids"))
    monkeypatch.setattr(Sample, "dataframe", lambda self, **_: None)
    chosen = settings(5, **params)
    assert re.search(why, rapids.why_lloyd(chosen))
    fit.fit_centroids("rapids", Sample(random_units(9)), chosen)
    fit.fit_centroids("rapids", Sample(random_units(9)), settings(5))
    assert called == ["gpu", "rapids"]


@pytest.mark.parametrize(("rows", "told"), [(2_000_000, []), (200_000_000, [200_000_000])])
def test_a_fit_of_very_many_rows_says_what_memory_it_takes(monkeypatch, caplog, rows, told):
    """All rows, on eight GPUs: nothing is counted, and none of them are read but by the fit."""
    read = []
    estimator = SimpleNamespace(
        num_workers=8, fit=lambda df: read.append(df) or SimpleNamespace(cluster_centers_=[[1]])
    )
    monkeypatch.setattr(rapids, "rapids_estimator", lambda *_: estimator)
    context = SimpleNamespace(master="yarn")
    frame = SimpleNamespace(columns=["unit"], sparkSession=SimpleNamespace(sparkContext=context))
    found = rapids.fit_rapids(frame, settings(5), rows, 768)
    assert (found.rows, read) == (rows, [frame])
    said = re.findall(r"holds 71.5 GiB of vectors on each of 8 GPUs, .* lower fitSampleRows from (\d+)", caplog.text)
    assert list(map(int, said)) == told


def test_a_missing_spark_rapids_ml_is_answered_by_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("spark_rapids_ml"):
            raise ImportError("No module named 'spark_rapids_ml'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SemDedupError, match=r"pip install 'spark-semdedup\[gpu-cu12\]'"):
        rapids.rapids_estimator(settings(), "unit")


# --- the Lloyd loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["k-means||", "scalable-k-means++", "k-means++", "random"])
@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_lloyd_recovers_separated_clusters(init, measure):
    x = blobs(k=5, per_cluster=40)
    found = fit_lloyd(x, settings(5, initMode=init, distanceMeasure=measure, nInit=20, maxSamplesPerBatch=50))
    assert_separates(x, found.centroids, 5)


@pytest.mark.parametrize("k", [1, 30])
def test_lloyd_with_one_cluster_and_all_clusters(k):
    x = random_units(30)
    centroids = fit_lloyd(x, settings(k)).centroids
    expected = x.astype(np.float64).mean(0)[None] if k == 1 else x
    distance = ((expected[:, None, :] - centroids[None]) ** 2).sum(-1)
    assert distance.min(1).max() < 1e-10


def test_lloyd_in_a_task_gives_the_same_bits_as_here_whatever_the_partitions(spark):
    x = random_units(500)
    chosen = settings(8, distanceMeasure="cosine", initMode="random", maxIter=6, nInit=2)
    here = fit_lloyd(x, chosen)
    numbered = spark.createDataFrame([(i, row.tolist()) for i, row in enumerate(x)], "i int, unit array<float>")
    for partitions in (1, 4):
        frame = numbered.repartition(partitions).orderBy("i").select("unit")
        found = rapids.fit_lloyd_on_executor(frame, chosen, backend="cpu")
        np.testing.assert_array_equal(found.centroids, here.centroids)
        assert found.history == here.history
        assert (found.clusterer, found.rows) == ("rapids (Lloyd loop)", 500)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)


def test_lloyd_in_a_task_starts_from_given_centroids(spark):
    x, given = random_units(100), random_units(4, seed=5)
    frame = vectors_frame(spark, x)
    found = rapids.fit_lloyd_on_executor(frame, settings(4, initMode=given, maxIter=0), backend="cpu")
    np.testing.assert_array_equal(found.centroids, given)


@pytest.mark.parametrize("rows", [0, 3])
def test_too_few_rows_in_a_task_are_one_clear_line(spark, rows):
    frame = vectors_frame(spark, random_units(3)).limit(rows)
    with pytest.raises(SemDedupError, match=f"k=5 is larger than the {rows} rows") as error:
        rapids.fit_lloyd_on_executor(frame, settings(5), backend="cpu")
    assert "\n" not in str(error.value)


def test_centroids_that_are_not_finite_are_never_returned():
    with pytest.raises(SemDedupError, match="'rapids' returned centroids that are not finite"):
        clusterers.checked(clusterers.Fit(np.full((2, 2), np.nan, np.float32), (), "rapids", 5))
