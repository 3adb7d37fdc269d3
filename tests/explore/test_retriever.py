"""Search through clusters: against brute force, by texts and vectors, saved, and from a run's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import ClusterRetriever, Hit, draw_sample
from spark_semdedup.explore import cells as cells_module
from spark_semdedup.kernels import exact_dots

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "debian"


def hashed(texts: list[str]) -> np.ndarray:
    """An encoder that needs no model: counts of hashed words."""
    rows = np.zeros((len(texts), 64))
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row[sum(map(ord, word)) % 64] += 1
    return rows


@pytest.fixture(scope="module")
def retriever(debian) -> ClusterRetriever:
    return ClusterRetriever().index(debian, n_clusters=58)


def brute_force(units: np.ndarray, query: np.ndarray, top_k: int) -> list[tuple[float, int]]:
    scores = exact_dots(np.broadcast_to(query, units.shape).copy(), units)
    order = np.lexsort((np.arange(len(units)), -scores))[:top_k]
    return [(float(scores[i]), int(i)) for i in order]


def test_visiting_all_clusters_is_brute_force(debian, retriever):
    for row in range(0, 3350, 271):
        hits = retriever.search(debian.vectors[row], top_k=7, n_clusters=58)
        expected = brute_force(debian.units, debian.units[row], 7)
        assert [hit.score for hit in hits] == [score for score, _ in expected]
        by_score: dict[float, set] = {}
        for score, position in brute_force(debian.units, debian.units[row], 40):
            by_score.setdefault(score, set()).add(debian.ids[position])
        assert all(hit.id in by_score[hit.score] for hit in hits)


def test_visiting_some_clusters_is_brute_force_within_them(debian, retriever):
    labels = {hit.id: hit.cluster for hit in retriever.search(debian.vectors[0], top_k=3350, n_clusters=58)}
    assert len(labels) == 3350
    own = np.array([labels[id_] for id_ in debian.ids])
    for row in range(5, 3350, 333):
        hits = retriever.search(debian.vectors[row], top_k=10, n_clusters=3)
        visited = retriever.cluster_order(debian.units[row : row + 1])[0, :3]
        inside = np.isin(own, visited)
        expected = brute_force(debian.units[inside], debian.units[row], 10)
        assert [hit.score for hit in hits] == [score for score, _ in expected]
        assert {hit.cluster for hit in hits} <= set(visited.tolist())
        assert all(hit.document == debian.texts[debian.ids.tolist().index(hit.id)] for hit in hits)


@pytest.mark.parametrize("noise", [0, 1e-7], ids=["equal", "nearly equal"])
def test_of_equal_rows_the_first_are_found_and_near_ties_are_ordered_exactly(noise):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, 48))
    alike = np.sort(rng.choice(600, 100, replace=False))
    vectors[alike] = vectors[alike[0]] + noise * rng.normal(size=(100, 48))
    sample = draw_sample(vectors)
    found = ClusterRetriever().index(sample, n_clusters=1)
    queries = vectors[alike[0]] + 0.1 * rng.normal(size=(20, 48))
    for query, hits in zip(draw_sample(queries).units, found.search(queries, top_k=3), strict=True):
        expected = brute_force(sample.units, query, 3)
        assert [hit.score for hit in hits] == [score for score, _ in expected]
        assert noise or [hit.id for hit in hits] == alike[:3].tolist()


def test_batches_give_what_single_queries_give(debian, retriever, monkeypatch):
    monkeypatch.setattr("spark_semdedup.explore.retriever.PRODUCT_BYTES", 5000)
    queries = debian.vectors[::97]
    batch = retriever.search(queries, top_k=5)
    assert batch == [retriever.search(query, top_k=5) for query in queries]
    assert retriever.search(np.zeros((0, 384))) == []


def test_the_report_is_what_searches_find(debian, retriever):
    report = retriever.evaluate(debian.vectors[:40] + 0.01, top_k=5)
    for visited in (1, 4, 20):
        found = retriever.search(debian.vectors[:40] + 0.01, top_k=5, n_clusters=visited)
        truth = retriever.search(debian.vectors[:40] + 0.01, top_k=5, n_clusters=58)
        common = sum(len({h.id for h in a} & {h.id for h in b}) for a, b in zip(found, truth, strict=True))
        recall, looked_at = report.at(visited)
        assert recall == pytest.approx(common / 200, abs=0.011)  # equal rows may stand for each other
        order = retriever.cluster_order((debian.vectors[:40] + 0.01).astype(np.float32))[:, :visited]
        assert looked_at == pytest.approx(retriever.sizes[order].sum(axis=1).mean() / 3350, rel=0.02)
    assert report.recall[-1] == report.looked_at[-1] == 1
    assert (np.diff(report.recall) >= 0).all()
    assert report.at(report.clusters_for(0.9))[0] >= 0.9 > report.at(report.clusters_for(0.9) - 1)[0]


def test_rows_of_the_index_are_no_answers_to_themselves():
    vectors = np.eye(6) + 0.1
    retriever = ClusterRetriever().index(vectors, n_clusters=6)
    report = retriever.evaluate(top_k=1)
    assert report.recall[0] == 0  # each cluster has one row: its own
    assert report.recall[-1] == 1


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.exists(), reason="the whole corpus is not on this machine")
def test_nineteen_of_twenty_neighbours_from_a_tenth_of_the_rows():
    from pyarrow import dataset

    table = dataset.dataset(CORPUS, format="parquet").to_table(columns=["id", "embedding"])
    report = ClusterRetriever().index(table, n_clusters=250).evaluate(top_k=10, sample_queries=1000)
    assert report.rows == 63_905
    visited = int(np.flatnonzero(report.looked_at <= 0.1)[-1]) + 1
    recall, looked_at = report.at(visited)
    assert recall >= 0.95
    assert looked_at <= 0.1


# --- texts --------------------------------------------------------------------------------------------------

TEXTS = ["red apple pie", "green apple tart", "fast red car", "slow old car", "apple juice"]


def test_texts_are_found_by_texts():
    retriever = ClusterRetriever(hashed).index(TEXTS, n_clusters=2)
    hits = retriever.search("apple pie", top_k=3, n_clusters=2)
    assert isinstance(hits[0], Hit)
    assert hits[0].document == "red apple pie"
    assert [len(found) for found in retriever.search(["car", "apple"], top_k=2)] == [2, 2]
    vectors = ClusterRetriever().index(TEXTS, vectors=hashed(TEXTS), n_clusters=2)
    assert [h.document for h in vectors.search(hashed(["apple pie"])[0], top_k=3, n_clusters=2)] == [
        h.document for h in hits
    ]


def test_a_model_with_encode_is_an_embedder():
    class Model:
        def encode(self, texts: list[str]) -> np.ndarray:
            return hashed(texts)

    assert (
        ClusterRetriever(Model()).index(TEXTS, n_clusters=1).search("slow car", top_k=1)[0].document == "slow old car"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ClusterRetriever().index(TEXTS), "texts need an embedder, or vectors"),
        (lambda: ClusterRetriever(hashed).index(TEXTS), "n_clusters=10 is larger than the 5 rows"),
        (lambda: ClusterRetriever(hashed).index(TEXTS, n_clusters=0), "n_clusters=0"),
        (lambda: ClusterRetriever(lambda t: [[1.0]]).index(TEXTS, n_clusters=1), "returned 1 vectors for 5 texts"),
        (
            lambda: ClusterRetriever().index(np.eye(3), vectors=np.eye(3), n_clusters=1),
            "documents hold vectors already",
        ),
        (lambda: ClusterRetriever().search([1.0]), "has no index yet"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).search([1.0]), "vectors must have length 3"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).search([np.nan, 0, 0]), "NaN or infinite"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).search([0, 0, 0]), "is zero"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).search("a text"), "texts need an embedder"),
        (lambda: ClusterRetriever(hashed).index(TEXTS, n_clusters=1).search("  "), "query is an empty text"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).search(np.eye(3), top_k=0), "top_k=0"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).evaluate().clusters_for(2), "recall=2"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).evaluate(top_k=0), "top_k=0"),
        (lambda: ClusterRetriever().index(np.eye(3), n_clusters=1).evaluate(top_k="3"), "top_k='3'"),
        (lambda: ClusterRetriever().index(np.ones((1, 3)), n_clusters=1).evaluate(), "two rows"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(SemDedupError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_fewer_rows_than_asked_for():
    hits = ClusterRetriever().index(np.eye(3), n_clusters=3).search([1, 0, 0], top_k=10, n_clusters=99)
    assert [hit.score for hit in hits] == [1.0, 0.0, 0.0]


# --- saved --------------------------------------------------------------------------------------------------


def test_a_saved_index_is_mapped_and_answers_alike(debian, retriever, tmp_path):
    retriever.save(tmp_path / "index")
    loaded = ClusterRetriever.load(tmp_path / "index")
    assert isinstance(loaded._cells.units, np.memmap)
    assert len(loaded) == 3350
    queries = debian.vectors[:30]
    assert loaded.search(queries) == retriever.search(queries)
    with pytest.raises(SemDedupError, match="is not empty: give a new folder"):
        retriever.save(tmp_path / "index")


@pytest.mark.parametrize("spoil", ["units.npy", "rows.parquet", "retriever.json", "starts.npy"])
def test_a_spoilt_folder_is_refused(retriever, tmp_path, spoil):
    retriever.save(tmp_path)
    if spoil == "starts.npy":
        np.save(tmp_path / spoil, np.arange(59))
    else:
        (tmp_path / spoil).write_bytes(b"{}")
    with pytest.raises(SemDedupError, match=r"cannot be loaded|holds no saved retriever"):
        ClusterRetriever.load(tmp_path)


def test_no_pickle_is_loaded(retriever, tmp_path):
    retriever.save(tmp_path)
    np.save(tmp_path / "centroids.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(SemDedupError, match="cannot be loaded"):
        ClusterRetriever.load(tmp_path)


def test_ids_of_mixed_types_are_refused_before_anything_is_written(tmp_path):
    mixed = ClusterRetriever().index(np.eye(4), ids=[1, "a", 2, "b"], n_clusters=2)
    with pytest.raises(SemDedupError, match="ids cannot be saved, they must be of one type") as error:
        mixed.save(tmp_path / "index")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "index").exists()


# --- a run's own files --------------------------------------------------------------------------------------


@pytest.fixture
def clusters_folder(debian, retriever, tmp_path) -> Path:
    """The first 600 rows by cluster, laid out as the ``cluster`` step writes them, -1 among them."""
    labels = {h.id: h.cluster for h in retriever.search(debian.vectors[0], top_k=3350, n_clusters=58)}
    for position in range(600):
        label = -1 if position < 5 else labels[debian.ids[position]] % 12
        folder = tmp_path / "clusters" / f"centroid={label}"
        folder.mkdir(parents=True, exist_ok=True)
        row = {"id": [debian.ids[position]], "embedding": [debian.units[position]], "text": [debian.texts[position]]}
        pq.write_table(pa.table(row), folder / f"part-{position}.parquet")
    return tmp_path / "clusters"


def test_a_run_s_clusters_are_served_where_they_lie(debian, clusters_folder, monkeypatch):
    served = ClusterRetriever.load(clusters_folder)
    assert len(served) == 595
    hits = served.search(debian.vectors[77], top_k=6, n_clusters=12)
    expected = brute_force(debian.units[5:600], debian.units[77], 6)
    assert [hit.score for hit in hits] == [score for score, _ in expected]
    assert hits[0].document == debian.texts[77]
    reads: list[int] = []
    read = cells_module.FolderCells._read
    monkeypatch.setattr(cells_module.FolderCells, "_read", lambda self, c: reads.append(c) or read(self, c))
    fresh = ClusterRetriever.load(clusters_folder)
    reads.clear()
    for _ in range(2):
        fresh.search(debian.vectors[77], top_k=6, n_clusters=2)
    assert len(reads) == 2  # the clusters visited, once each
    with pytest.raises(SemDedupError, match="there is nothing to save"):
        fresh.save(clusters_folder / "copy")


@pytest.fixture
def small_folder(tmp_path) -> Path:
    """Three clusters of two rows, each row with a text of 10,000 characters."""
    for number in range(3):
        folder = tmp_path / f"centroid={number}"
        folder.mkdir()
        vectors = pa.array([np.eye(3)[number]] * 2, pa.list_(pa.float32()))
        table = pa.table({"id": [2 * number, 2 * number + 1], "embedding": vectors, "text": ["x" * 10_000] * 2})
        pq.write_table(table, folder / "part.parquet")
    return tmp_path


def test_texts_count_among_what_is_kept(small_folder, monkeypatch):
    monkeypatch.setattr(cells_module, "CACHE_BYTES", 50_000)
    served = ClusterRetriever.load(small_folder)
    assert len(served.search([1.0, 0.5, 0.2], n_clusters=3)) == 6
    assert len(served._cells._cache) == 2


def test_a_broken_file_is_one_line(small_folder):
    served = ClusterRetriever.load(small_folder)
    (small_folder / "centroid=1" / "part.parquet").write_bytes(b"PAR1garbage")
    for call in (lambda: served.search([0.0, 1.0, 0.0]), lambda: ClusterRetriever.load(small_folder)):
        with pytest.raises(SemDedupError, match="cannot be read as clusters: ") as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read as clusters|holds no rows"),
        (lambda path: pq.write_table(pa.table({"id": [1]}), path / "a.parquet"), "not laid out by cluster"),
    ],
)
def test_other_folders_are_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(SemDedupError, match=message):
        ClusterRetriever.load(tmp_path)
    with pytest.raises(SemDedupError, match="cannot be read as clusters"):
        ClusterRetriever.load(tmp_path / "absent")


def test_the_recall_plot(retriever, tmp_path):
    report = retriever.evaluate(sample_queries=20)
    (line,) = report.plot(output_file=tmp_path / "r.png").axes[0].get_lines()
    assert line.get_ydata() == pytest.approx(100 * report.recall)
    assert "recall@10 of 20 queries on 3,350 rows in 58 clusters" in report.as_text()
