"""Maps, colours, representatives and outliers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.image import imread

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import draw_sample, map_2d, outliers, representatives
from spark_semdedup.explore import figures as figures_module
from spark_semdedup.explore.map2d import WIDEST_GAP, _without_gaps


@pytest.fixture
def no_umap(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("spark_semdedup.explore.map2d.is_installed", lambda _: False)


# --- maps ---------------------------------------------------------------------------------------------------


def test_pca_is_the_plane_of_largest_variance(debian):
    made = map_2d(debian, method="pca", output_file=None)
    centred = debian.units - debian.units.mean(axis=0, dtype=np.float64)
    singular = np.linalg.svd(centred, compute_uv=False)
    assert np.allclose((made.coordinates.astype(float) ** 2).sum(axis=0), singular[:2] ** 2, rtol=1e-3)
    assert made.note is None


def test_without_umap_the_map_says_that_it_is_pca(no_umap, blobs, caplog, tmp_path):
    made = map_2d(blobs[0], blobs[1], output_file=tmp_path / "clusters.png")
    assert made.method == "pca"
    assert "umap-learn is not installed: laid out by PCA" in made.note
    assert "umap-learn is not installed" in caplog.text
    assert "laid out by PCA" in made.plot().axes[0].get_xlabel()
    assert imread(tmp_path / "clusters.png").shape[:2] == (1200, 1500)  # 10 × 8 inches at 150 dpi


def test_umap_that_is_asked_for_and_missing_is_an_error(no_umap, blobs):
    with pytest.raises(SemDedupError, match=r"method='umap' needs umap, which .* pip install umap-learn"):
        map_2d(blobs[0], method="umap", output_file=None)


def test_few_rows_are_laid_out_by_pca():
    made = map_2d(np.eye(4), output_file=None)
    assert made.method == "pca"
    assert "4 rows are too few for UMAP" in made.note
    assert map_2d(np.ones((2, 1)), output_file=None).coordinates.shape == (2, 2)


@pytest.mark.slow
def test_umap_keeps_blobs_apart_and_is_seeded(blobs):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    vectors, labels = blobs
    one, same = (map_2d(vectors, labels, seed=3, output_file=None) for _ in range(2))
    assert one.method == "umap"
    assert np.array_equal(one.coordinates, same.coordinates)
    centres = np.stack([one.coordinates[labels == c].mean(axis=0) for c in range(5)])
    nearest = np.linalg.norm(one.coordinates[:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.98


def test_gaps_are_narrowed_and_order_is_kept():
    points = np.array([[0.0, 0], [1, 5], [2, 1], [3, 2], [4, 3], [1000, 4]] * 10)
    found = _without_gaps(points)
    for axis in range(2):
        order = np.argsort(points[:, axis], kind="stable")
        assert (np.diff(found[order, axis]) >= 0).all()
    low, high = np.quantile(points[:, 0], [0.05, 0.95])
    assert np.diff(np.sort(found[:, 0])).max() <= WIDEST_GAP * (high - low) + 1e-9


def test_noise_is_grey_clusters_are_not_and_topics_stand_at_their_clusters(blobs):
    vectors, labels = blobs
    labels = np.where(labels == 4, -1, labels)
    topics = {c: f"topic {c}" for c in range(4)} | {9: "of no cluster"}
    made = map_2d(vectors, labels, method="pca", topics=topics, output_file=None)
    axes = made.plot().axes[0]
    noise, clusters = axes.collections[:2]
    assert len(noise.get_offsets()) == (labels < 0).sum()
    assert figures_module.NOISE == "#b4b4b4"
    assert np.allclose(noise.get_facecolor()[0, :3], 0xB4 / 255, atol=0.01)
    assert len({tuple(c) for c in clusters.get_facecolor()}) == 4
    texts = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(texts) == {f"topic {c}" for c in range(4)}
    for c in range(4):
        middle = np.median(made.coordinates[labels == c], axis=0)
        assert np.linalg.norm(np.array(texts[f"topic {c}"]) - middle) < 1
    assert "60 rows of noise in grey" in axes.get_title(loc="left")


def test_labels_do_not_overlap():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 6))
    labels = np.arange(400) % 20
    made = map_2d(vectors, labels, method="pca", topics={c: f"a long topic {c}" for c in range(20)}, output_file=None)
    figure = made.plot()
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) >= 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_topics_are_drawn_on_axes_of_any_figure(blobs):
    from matplotlib.figure import Figure

    made = map_2d(*blobs, method="pca", topics={0: "a topic"}, output_file=None)
    axes = Figure().subplots()
    made.plot(axes)
    assert [text.get_text() for text in axes.texts] == ["a topic"]


def test_duplicates_are_marked(blobs):
    marks = np.zeros(300, bool)
    marks[[3, 77, 250]] = True
    for given in (marks, [3, 77, 250]):
        made = map_2d(blobs[0], blobs[1], method="pca", duplicates=given, output_file=None)
        axes = made.plot().axes[0]
        assert len(axes.collections[2].get_offsets()) == 3
        assert axes.get_legend().get_texts()[0].get_text() == "3 duplicates"
    assert made.table()["duplicate"] == marks.tolist()
    assert made.as_dict()["duplicates"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "hamming"}, "metric='hamming'"),
        ({"method": "tsne"}, "method='tsne' cannot be used: it must be one of auto, umap, cuml, pca"),
        ({"duplicates": [300]}, "must be 300 booleans, or positions below 300"),
        ({"duplicates": [True]}, "must be 300 booleans"),
        ({"labels": [1]}, "labels has 1 values"),
        ({"n_neighbors": 1}, "n_neighbors=1"),
        ({"output_file": "no/such/folder/x.png", "method": "pca"}, "cannot be written"),
    ],
)
def test_bad_input_is_refused_in_one_line(blobs, options, message):
    with pytest.raises(SemDedupError, match=message):
        map_2d(blobs[0], **({"output_file": None} | options))
    with pytest.raises(SemDedupError, match="map_2d needs at least 2 rows"):
        map_2d(np.ones((1, 3)), output_file=None)


# --- colours ------------------------------------------------------------------------------------------------


def test_colours_stay_apart_beyond_ten_clusters():
    for n, least in ((10, 25), (30, 25), (60, 20)):
        colours = figures_module.distinct_colours(n)
        rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
        lab = figures_module._lab(np.vstack([rgb, [[0.706] * 3, [1, 1, 1]]]))
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        assert distance[np.triu_indices(len(lab), 1)].min() > least, n
    assert len(figures_module.distinct_colours(5000)) == 5000


def test_lab_is_that_of_known_colours():
    known = {
        (1.0, 1.0, 1.0): (100, 0, 0),
        (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
        (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
    }
    found = figures_module._lab(np.array(list(known)))
    assert np.allclose(found, list(known.values()), atol=0.1)


# --- members ------------------------------------------------------------------------------------------------


def test_representatives_are_nearest_and_outliers_farthest(debian):
    labels = np.arange(len(debian)) % 4
    labels[labels == 3] = -1
    near, far = representatives(debian, labels, per_cluster=3), outliers(debian, labels, per_cluster=3)
    assert set(near.by_cluster) == set(far.by_cluster) == {0, 1, 2}
    for cluster in range(3):
        rows = np.flatnonzero(labels == cluster)
        mean = debian.units[rows].mean(axis=0, dtype=np.float64)
        cosine = debian.units[rows] @ (mean / np.linalg.norm(mean))
        order = rows[np.argsort(-cosine, kind="stable")]
        assert [m.position for m in near.by_cluster[cluster]] == order[:3].tolist()
        assert {m.position for m in far.by_cluster[cluster]} == set(order[-3:].tolist())
        assert far.by_cluster[cluster][0].similarity == pytest.approx(cosine.min(), abs=1e-6)
    member = near.by_cluster[0][0]
    assert member.text == debian.texts[member.position]
    assert str(member.id) in near.as_text()
    assert len(near.rows) == 9


def test_no_id_or_text_reaches_the_terminal_as_a_command():
    found = representatives(np.eye(2), [0, 0], ids=["a\x1b[31m\n", "b"], texts=["t\x1b[2J", "u\x9b1m"])
    assert all(line.isprintable() for line in found.as_text().splitlines())
    assert "a\N{REPLACEMENT CHARACTER}[31m  t\N{REPLACEMENT CHARACTER}[2J" in found.as_text()


def test_the_members_plot_marks_them(debian, tmp_path):
    found = outliers(debian, np.zeros(len(debian), int), per_cluster=4)
    axes = found.plot(output_file=tmp_path / "o.png").axes[0]
    marks = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert sorted(marks[-1].get_ydata()) == sorted(m.similarity for m in found.rows)


def test_a_cluster_whose_mean_is_zero_has_members():
    found = representatives(draw_sample(np.array([[1.0, 0], [-1, 0]])), [0, 0])
    assert [m.similarity for m in found.by_cluster[0]] == [0, 0]


# --- what is not installed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "call"), [
    ("matplotlib", lambda: map_2d(np.eye(4), method="pca")),
    ("sklearn.cluster", lambda: __import__("spark_semdedup.explore", fromlist=["hdbscan"]).hdbscan(np.eye(4))),
])  # fmt: skip
def test_a_missing_package_names_the_extra(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SemDedupError, match=r"pip install 'spark-semdedup\[explore\]'"):
        call()


def test_nothing_of_the_extra_is_imported_with_the_package():
    import subprocess

    code = (
        "import sys, spark_semdedup, spark_semdedup.explore as e; e.choose_k, e.map_2d, e.ClusterRetriever\n"
        "print(sorted({'sklearn', 'matplotlib', 'umap', 'openai', 'scipy', 'torch'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
