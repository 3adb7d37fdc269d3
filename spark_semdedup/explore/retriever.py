"""``ClusterRetriever``: search by meaning through the clusters nearest to the query.

A query is compared with the k centroids, then with the rows of the ``n_clusters`` nearest alone, as in an inverted file
(Sivic and Zisserman, ICCV 2003; FAISS calls the number ``nprobe``). ``evaluate`` says what that finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spark_semdedup.clustering.openblas import import_faiss
from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.explore import checks
from spark_semdedup.explore.cells import ArrayCells, FolderCells, is_saved
from spark_semdedup.explore.draw import draw_sample
from spark_semdedup.explore.memory import refuse_too_large
from spark_semdedup.explore.sample import SEED, Sample, clean_texts

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spark_semdedup.explore.draw import Sampling
    from spark_semdedup.explore.retrieval import RetrievalReport

Embedder = Callable[[list[str]], Any]
"""Texts → a matrix of one vector each."""

PRODUCT_BYTES = 64 << 20
"""Of the products of a cell with the queries that visit it, at once."""

FIT_ROWS_PER_CLUSTER = 256
"""Rows that centroids are fitted on."""


@dataclass(frozen=True)
class Hit:
    """A document found."""

    document: Any
    """Its text; its id where the index holds no texts."""
    score: float
    """Cosine similarity to the query, exact."""
    cluster: int
    id: Any


@dataclass(frozen=True, eq=False)
class NearestRows:
    """Of m queries the best rows: place in their cluster, cluster and score, (m, top_k), −1 where there are fewer."""

    places: np.ndarray
    clusters: np.ndarray
    scores: np.ndarray


class ClusterRetriever:
    """An index of documents by cluster.

    >>> texts = ["a red apple", "a green apple", "a fast car", "a slow car"]
    >>> vectors = np.array([[1, 0.1], [1, 0], [0.1, 1], [0, 1]])
    >>> retriever = ClusterRetriever().index(texts, vectors=vectors, n_clusters=2)
    >>> [hit.document for hit in retriever.search([1.0, 0.0], top_k=2, n_clusters=1)]
    ['a green apple', 'a red apple']

    Parameters
    ----------
    embedder
        Makes vectors of texts: a function ``list[str] -> matrix``, or an object with ``encode`` (a
        sentence-transformers or Model2Vec model). Needed where documents or queries are texts without vectors.
    """

    def __init__(self, embedder: Any = None) -> None:
        self.embedder = embedder
        self._store: ArrayCells | FolderCells | None = None

    # --- the index --------------------------------------------------------------------------------------

    def index(
        self,
        documents: Any,
        *,
        n_clusters: int = 10,
        vectors: Any = None,
        seed: int = SEED,
        **sampling: Unpack[Sampling],
    ) -> ClusterRetriever:
        """Indexes documents; returns itself.

        ``documents``: texts, with ``vectors`` (n, d) or an embedder; or anything that ``draw_sample`` takes, with its
        options. All rows are indexed unless ``sample_rows`` says fewer; rows that memory would not hold are refused.
        ``n_clusters`` spherical centroids are fitted by FAISS on at most 256 rows each.
        """
        n_clusters, seed = checks.whole_number("n_clusters", n_clusters, 1), checks.seed(seed)
        if _is_texts(documents):
            data = self._vectors_of(documents, vectors)
            options: Any = {"texts": documents} | sampling
        else:
            data, options = documents, dict(sampling)
            if vectors is not None:
                raise SemDedupError("vectors is set, but documents hold vectors already: give texts with vectors=")
        sample = draw_sample(data, seed=seed, **({"sample_rows": 0} | options))
        if n_clusters > len(sample):
            raise SemDedupError(f"n_clusters={n_clusters} is larger than the {len(sample):,} rows: lower it")
        refuse_too_large(len(sample), sample.dim, purpose="an index")
        centroids = _fit_centroids(sample, n_clusters, seed)
        from spark_semdedup.explore.kmeans import nearest

        labels = nearest(sample.units, centroids)
        self._store = ArrayCells.of(sample.units, labels, centroids, sample.ids, sample.texts)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index to a new folder; the embedder is not saved."""
        if not isinstance(self._cells, ArrayCells):
            raise SemDedupError(
                "this retriever serves from a run's files, which are its index: there is nothing to save"
            )
        self._cells.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], embedder: Any = None, **columns: Any) -> ClusterRetriever:
        """A retriever that ``save`` wrote, or one that serves from a run's files without a copy: the folder
        ``centroid=N/`` … of the ``cluster`` step (``columns``: ``id_col``, ``embedding_col``, ``text_col``). Neither
        loads the vectors: one maps its file, the other reads the clusters that a query visits."""
        retriever = cls(embedder)
        if is_saved(path):
            if columns:
                raise SemDedupError(
                    f"{', '.join(columns)} cannot be set for a saved retriever, which has its own columns"
                )
            retriever._store = ArrayCells.load(path)
        else:
            retriever._store = FolderCells(os.fspath(path), **columns)
        return retriever

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each cluster: int64 (k,)."""
        return self._cells.sizes

    @property
    def _cells(self) -> ArrayCells | FolderCells:
        if self._store is None:
            raise SemDedupError("the retriever has no index yet: call index(documents), or load(path)")
        return self._store

    def __len__(self) -> int:
        return 0 if self._store is None else int(self._store.sizes.sum())

    @property
    def n_clusters(self) -> int:
        return len(self._cells.centroids)

    # --- search -----------------------------------------------------------------------------------------

    def search(self, query: Any, *, top_k: int = 10, n_clusters: int = 3) -> Any:
        """The documents most similar to a query, best first.

        ``query``: a text or a vector, which gives a list of ``Hit``; or several of either, which give a list of such
        lists. ``n_clusters``: how many clusters to visit, of those that have rows.
        """
        is_one, vectors = self._queries(query)
        found = self.nearest_rows(vectors, top_k, n_clusters)
        hits = [_hits(self._cells, found, row) for row in range(len(vectors))]
        return hits[0] if is_one else hits

    def _queries(self, query: Any) -> tuple[bool, np.ndarray]:
        """Whether it is one, and unit vectors (m, d)."""
        is_text = isinstance(query, str)
        if is_text or _is_texts(query):
            texts = [query] if is_text else list(query)
            if any(not text.strip() for text in texts):
                raise SemDedupError("query is an empty text: it must have at least one word")
            matrix = np.asarray(self._vectors_of(texts, None))
            is_one = is_text
        else:
            try:
                matrix = np.asarray(query, np.float64)
            except (TypeError, ValueError):
                raise SemDedupError(f"query={shown(query)} cannot be used: give a text, a vector, or several") from None
            is_one = matrix.ndim == 1
            matrix = matrix[None] if is_one else matrix
        dim = self._cells.centroids.shape[1]
        if matrix.ndim != 2 or matrix.shape[1] != dim:
            raise SemDedupError(f"query has shape {np.shape(query)}: vectors must have length {dim}, as the index's")
        sample = draw_sample(matrix, sample_rows=0) if len(matrix) else None
        return is_one, np.empty((0, dim), np.float32) if sample is None else sample.units

    def _vectors_of(self, texts: Sequence[str], vectors: Any) -> Any:
        if vectors is not None:
            return vectors
        if self.embedder is None:
            raise SemDedupError(
                "texts need an embedder, or vectors: ClusterRetriever(embedder) takes a function or a model"
            )
        encode = getattr(self.embedder, "encode", self.embedder)
        made = encode([str(text) for text in clean_texts(texts)])
        if len(made) != len(texts):
            raise SemDedupError(
                f"the embedder returned {len(made)} vectors for {len(texts)} texts: it must return one each"
            )
        return made

    def nearest_rows(self, queries: np.ndarray, top_k: int, n_clusters: int) -> NearestRows:
        """The best rows of queries, float32 unit vectors (m, d), in the ``n_clusters`` nearest to each."""
        checks.whole_number("top_k", top_k, 1)
        checks.whole_number("n_clusters", n_clusters, 1)
        order = self.cluster_order(queries)[:, :n_clusters]
        wanted = min(top_k, max(len(self), 1))
        best = _Best.none(len(queries), wanted)
        for cluster in np.unique(order).tolist():
            visiting = np.flatnonzero((order == cluster).any(axis=1))
            units = self._cells.cell(cluster).units
            step = max(1, PRODUCT_BYTES // (4 * len(units)))
            for start in range(0, len(visiting), step):
                rows = visiting[start : start + step]
                found = _best_in_cell(units, queries[rows], wanted, best.scores[rows, -1])
                best.update(rows, cluster, *found)
        return best.found()

    def cluster_order(self, queries: np.ndarray) -> np.ndarray:
        """For each query, float32 unit vectors (m, d), the clusters with rows, the nearest first: int64 (m, k')."""
        cells = self._cells
        scores = queries @ cells.centroids.T
        if not cells.spherical:
            scores = scores - np.einsum("ij,ij->i", cells.centroids, cells.centroids) / 2
        order = np.argsort(-scores, axis=1, kind="stable")
        return order[(cells.sizes > 0)[order]].reshape(len(queries), int((cells.sizes > 0).sum()))

    # --- what it finds ----------------------------------------------------------------------------------

    def evaluate(
        self, queries: Any = None, *, top_k: int = 10, sample_queries: int = 200, seed: int = SEED
    ) -> RetrievalReport:
        """Recall against brute force, and the share of the rows looked at, for every number of clusters visited.

        ``queries``: texts or vectors; None draws ``sample_queries`` of the index's rows, none of which counts as an
        answer to itself.
        """
        from spark_semdedup.explore.retrieval import measure

        top_k, seed = checks.whole_number("top_k", top_k, 1), checks.seed(seed)
        sample_queries = checks.whole_number("sample_queries", sample_queries, 1)
        if queries is None:
            own, vectors = _drawn_queries(self._cells, sample_queries, seed)
        else:
            own, vectors = None, self._queries(queries)[1]
        if not len(vectors) or len(self) < 2:
            raise SemDedupError("evaluate needs at least one query and two rows")
        return measure(self, vectors, own, top_k)


def _hits(cells: ArrayCells | FolderCells, found: NearestRows, row: int) -> list[Hit]:
    hits = []
    for cluster, place, score in zip(found.clusters[row], found.places[row], found.scores[row], strict=True):
        if cluster >= 0:
            cell = cells.cell(int(cluster))
            id_ = cell.ids[place]
            document = id_ if cell.documents is None else cell.documents[place]
            hits.append(Hit(document, float(score), int(cluster), id_))
    return hits


def _drawn_queries(cells: ArrayCells | FolderCells, wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster and place of rows of the index, int64 (m, 2), and their vectors (m, d)."""
    total = int(cells.sizes.sum())
    rows = np.sort(np.random.default_rng(seed & 0x7FFFFFFF).choice(total, min(wanted, total), replace=False))
    ends = np.cumsum(cells.sizes)
    clusters = np.searchsorted(ends, rows, side="right")
    places = rows - (ends - cells.sizes)[clusters]
    vectors = [cells.cell(int(c)).units[p] for c, p in zip(clusters, places, strict=True)]
    return np.stack([clusters, places], axis=1), np.stack(vectors)


@dataclass
class _Best:
    """The best rows so far of each query: scores falling, −∞ where there are fewer."""

    scores: np.ndarray
    clusters: np.ndarray
    places: np.ndarray

    @classmethod
    def none(cls, queries: int, wanted: int) -> _Best:
        shape = queries, wanted
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1), np.full(shape, -1))

    def update(self, rows: np.ndarray, cluster: int, scores: np.ndarray, places: np.ndarray) -> None:
        """Takes candidates of one cluster in: (len(rows), m) each. Of equal scores the lowest cluster and place come
        first."""
        wanted = self.scores.shape[1]
        all_scores = np.hstack([self.scores[rows], scores])
        all_clusters = np.hstack([self.clusters[rows], np.full(scores.shape, cluster)])
        all_places = np.hstack([self.places[rows], places])
        order = np.lexsort((all_places, all_clusters, -all_scores), axis=1)[:, :wanted]
        self.scores[rows] = np.take_along_axis(all_scores, order, axis=1)
        self.clusters[rows] = np.take_along_axis(all_clusters, order, axis=1)
        self.places[rows] = np.take_along_axis(all_places, order, axis=1)

    def found(self) -> NearestRows:
        return NearestRows(self.places, self.clusters, self.scores)


def _best_in_cell(
    units: np.ndarray, queries: np.ndarray, wanted: int, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores and places of each query's best rows of a cell, the lowest places of equal ones: (m, wanted or
    fewer), −∞ and −1 where no more rows reach the query's ``floor``, float32 (m,).

    Products only screen. With e their error, ``wanted`` rows have a product of at least p, so exact scores of at least
    p − e, and what scores as much has a product of at least p − 2e.
    """
    from spark_semdedup.kernels.arithmetic import FLOAT32_ROUNDING, exact_pair_dots, screening_error

    products = queries @ units.T
    wanted = min(wanted, len(units))
    error = screening_error(units.shape[1]) + FLOAT32_ROUNDING  # of the subtraction
    least = np.partition(products, -wanted, axis=1)[:, -wanted] - 2 * error
    query, place = np.nonzero(products >= np.maximum(least, floor - error)[:, None])
    exact = exact_pair_dots(queries, units, query, place)
    order = np.lexsort((place, -exact, query))
    rank = np.arange(len(order)) - np.searchsorted(query, query)  # queries come in ascending order
    order, rank = order[rank < wanted], rank[rank < wanted]
    scores = np.full((len(queries), wanted), -np.inf, np.float32)
    places = np.full(scores.shape, -1)
    scores[query[order], rank], places[query[order], rank] = exact[order], place[order]
    return scores, places


def _is_texts(documents: Any) -> bool:
    """Whether it is a sequence of texts: a list, a tuple, an array or a Series of strings."""
    if isinstance(documents, (str, os.PathLike, Sample)) or hasattr(documents, "columns"):
        return False
    try:
        first = next(iter(documents), None)
    except TypeError:
        return False
    return isinstance(first, str)


def _fit_centroids(sample: Sample, n_clusters: int, seed: int) -> np.ndarray:
    """Unit centroids by FAISS: float32 (k, d)."""
    kmeans = import_faiss().Kmeans(
        sample.dim,
        n_clusters,
        niter=20,
        spherical=True,
        seed=seed & 0x7FFFFFFF,
        min_points_per_centroid=1,
        max_points_per_centroid=FIT_ROWS_PER_CLUSTER,
    )
    kmeans.train(np.ascontiguousarray(sample.units))
    return np.array(kmeans.centroids, np.float32)
