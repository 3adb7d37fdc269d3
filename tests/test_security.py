"""What a hostile file, name or value can do: nothing but be refused, in one line."""

from __future__ import annotations

import ast
import functools
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark.ml import Pipeline
from pyspark.sql import functions as F

import spark_semdedup
from spark_semdedup import (
    EmbeddingKMeans,
    EmbeddingKMeansModel,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
)
from spark_semdedup.cli import main as cli
from spark_semdedup.clustering.saved import MOST_NUMBERS
from spark_semdedup.errors import SemDedupError
from spark_semdedup.spark import session
from spark_semdedup.spark.columns import field, id_column, quoted
from spark_semdedup.spark.disk import local_folders

STAGES = [EmbeddingKMeans, IdentifyDuplicates, PairwiseSimilarity, RemoveDuplicates, SemDedup]
MODELS = [EmbeddingKMeansModel, SemDedupModel]
CENTROIDS = pa.table(
    {"centroid": pa.array([0, 1], pa.int32()), "vector": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32()))}
)


def saved(
    folder: Path, cls: type, text: str | None = None, data: pa.Table | None = CENTROIDS, **changes: object
) -> str:
    """A saved stage, written by hand: its metadata with ``changes``, or ``text`` in their place."""
    metadata = {
        "class": f"{cls.__module__}.{cls.__name__}",
        "timestamp": 1,
        "sparkVersion": "4.0.3",
        "uid": f"{cls.__name__}_1",
        "paramMap": {},
        "defaultParamMap": {},
        "history": [],
    }
    (folder / "metadata").mkdir(parents=True)
    metadata |= changes
    (folder / "metadata" / "part-00000.txt").write_text(json.dumps(metadata) if text is None else text)
    if data is not None:
        (folder / "data").mkdir()
        pq.write_table(data, folder / "data" / "part-0.parquet")
    return str(folder)


def refusal(cls: type, path: str) -> str:
    with pytest.raises(SemDedupError) as refused:
        cls.load(path)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


# --- loading executes nothing -------------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """A module ``trapdoor``, with a class ``Stage``, that leaves a file behind when it is imported."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trapdoor.py").write_text(f"open({str(sprung)!r}, 'w').close()\nclass Stage: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trapdoor", raising=False)
    return sprung


@pytest.mark.parametrize("cls", [*STAGES, *MODELS])
def test_a_class_that_a_file_names_is_not_imported(spark, tmp_path, trap, cls):
    message = refusal(cls, saved(tmp_path / "m", cls, **{"class": "trapdoor.Stage"}))
    assert f"holds a 'trapdoor.Stage', not a {cls.__module__}.{cls.__name__}" in message
    assert not trap.exists()
    __import__("trapdoor")
    assert trap.exists(), "an import would have been seen"


def test_a_stage_of_ours_is_not_taken_for_another(spark, tmp_path):
    path = saved(tmp_path / "m", SemDedup)
    assert "holds a 'spark_semdedup.SemDedup', not a" in refusal(EmbeddingKMeans, path)
    assert isinstance(SemDedup.load(path), SemDedup)


def test_stages_and_models_written_by_hand_load_with_their_params(spark, tmp_path):
    for cls in STAGES:
        params = {} if cls in (RemoveDuplicates,) else {"eps": 0.25} if cls is not EmbeddingKMeans else {"k": 9}
        stage = cls.load(saved(tmp_path / cls.__name__, cls, paramMap=params, uid="mine"))
        assert (type(stage), stage.uid, stage.settings()) == (cls, "mine", params)
    for cls in MODELS:
        model = cls.load(saved(tmp_path / cls.__name__, cls, paramMap={"idCol": "doc"}, history=[2, 1.5]))
        assert model.centroids.tolist() == [[1, 0], [0, 1]]
        assert (model.history, model.value("idCol")) == ((2, 1.5), "doc")


@pytest.mark.parametrize("of", [pa.float32(), pa.float64()], ids=str)
def test_centroids_stand_in_the_order_of_their_numbers(spark, tmp_path, of):
    """Whatever file they come from and in whatever order they stand there."""
    path = saved(
        tmp_path / "m", EmbeddingKMeansModel, data=table([4, 1, 3], [[4, 0.5], [1, 0.5], [3, 0.5]], pa.list_(of))
    )
    pq.write_table(table([2, 0], [[2, 0.5], [0, 0.5]], pa.list_(of)), tmp_path / "m" / "data" / "part-1.parquet")
    centroids = EmbeddingKMeansModel.load(path).centroids
    assert centroids.dtype == np.float32
    assert centroids.tolist() == [[number, 0.5] for number in range(5)]


def test_a_pipeline_gives_back_its_stages(spark, tmp_path):
    Pipeline(stages=[SemDedup(eps=0.25), IdentifyDuplicates()]).write().save(str(tmp_path / "p"))
    first, second = Pipeline.load(str(tmp_path / "p")).getStages()
    assert (type(first), first.value("eps"), type(second)) == (SemDedup, 0.25, IdentifyDuplicates)


# --- hostile metadata and centroids -------------------------------------------------------------------------

HOSTILE_TEXTS = [
    "",
    "{",
    "[]",
    "null",
    "3",
    '"x"',
    "[" * 100_000,
    '{"a": ' + "9" * 10_000 + "}",
    "\x00",
    '{"class": 1}',
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: text[:12] or "empty")
def test_metadata_that_is_not_metadata_is_refused(spark, tmp_path, text):
    assert "m" in refusal(SemDedup, saved(tmp_path / "m", SemDedup, text))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class": None}, "holds a None"),
        ({"class": ["spark_semdedup.SemDedupModel"]}, "holds a ['spark"),
        ({"uid": 7}, "uid in it is 7"),
        ({"sparkVersion": None}, "sparkVersion in it is None"),
        ({"paramMap": []}, "paramMap in it is []"),
        ({"paramMap": {"k": "many"}}, "k='many' cannot be used: it must be a whole number"),
        ({"paramMap": {"k": 10**400}}, "k=1000"),
        ({"paramMap": {"eps": None}}, "eps=None cannot be used"),
        ({"paramMap": {"eps": {"__class__": "x"}}}, "eps={'__class__': 'x'} cannot be used"),
        ({"paramMap": {"idCol": ["id"]}}, "idCol=['id'] cannot be used"),
        ({"paramMap": {"__class__": "x"}}, "has no Param '__class__'"),
        ({"paramMap": {"fit": 1}}, "has no Param 'fit'"),
        ({"defaultParamMap": {"eps": None}}, "eps=None cannot be used"),
        ({"defaultParamMap": {"transform": 1}}, "has no Param 'transform'"),
        ({"defaultParamMap": {"seed": 2**70}}, "seed=1180591620717411303424 cannot be used"),
        ({"history": "long"}, "history in it is no list of numbers"),
        ({"history": [1, "x"]}, "history in it is no list of numbers"),
        ({"history": [float("nan")]}, "history in it is no list of numbers"),
    ],
)
def test_hostile_metadata_is_refused(spark, tmp_path, changes, said):
    assert said in refusal(SemDedupModel, saved(tmp_path / "m", SemDedupModel, **changes))


def table(numbers: list, vectors: list, of: pa.DataType | None = None) -> pa.Table:
    of = of or pa.list_(pa.float64())
    return pa.table({"centroid": pa.array(numbers, pa.int32()), "vector": pa.array(vectors, of)})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (table([], []), "there are no rows"),
        (table([0, 1], [[1.0], [1.0, 2.0]]), "2 vectors of lengths 1 to 2"),
        (table([0, 1], [[1.0], None]), "2 vectors of lengths -1 to 1"),
        (table([0], [[]]), "1 vectors of lengths 0 to 0"),
        (table([0, 2], [[1.0], [2.0]]), "their numbers are not 0 to 1, each once"),
        (table([0, 0], [[1.0], [2.0]]), "their numbers are not 0 to 1, each once"),
        (table([None, 1], [[1.0], [2.0]]), "their numbers are not 0 to 1, each once"),
        (table([0], [[float("nan")]]), "centroid 0 has a NaN or infinite element: all must be finite"),
        (table([0], [[float("inf")]]), "centroid 0 has a NaN or infinite element: all must be finite"),
        (table([0], [[1e300]]), "centroid 0 has a NaN or infinite element: all must be finite"),
        (table([0], [[None, 1.0]]), "centroid 0 has a NaN or infinite element: all must be finite"),
        (table([0], ["x"], pa.string()), "it must have the columns centroid int and vector array<float>"),
        (table([0], [[["x"]]], pa.list_(pa.list_(pa.string()))), "it must have the columns"),
        (pa.table({"centroid": ["0"], "vector": [[1.0]]}), "it must have the columns"),
        (pa.table({"x": [1]}), "it must have the columns"),
    ],
)
def test_hostile_centroids_are_refused(spark, tmp_path, data, said):
    path = saved(tmp_path / "m", EmbeddingKMeansModel, data=data)
    message = refusal(EmbeddingKMeansModel, path)
    assert message.startswith(f"'{path}/data' holds no centroids that can be used: ")
    assert said in message


def test_centroids_of_an_absurd_size_are_refused_before_they_are_collected(spark, tmp_path, monkeypatch):
    assert MOST_NUMBERS * 4 == 8 * 2**30
    monkeypatch.setattr("spark_semdedup.clustering.saved.MOST_NUMBERS", 3)
    assert "2 vectors of lengths 2 to 2" in refusal(EmbeddingKMeansModel, saved(tmp_path / "m", EmbeddingKMeansModel))


# --- text never becomes code --------------------------------------------------------------------------------

PACKAGE = Path(spark_semdedup.__file__).parent
RUNS_TEXT = {"expr", "selectExpr", "sql", "system", "popen", "registerJavaFunction", "pickle", "marshal", "subprocess"}
RUNS_TEXT |= {"eval", "exec", "compile", "__import__", "shelve", "ctypes"}


def code_from_text(tree: ast.AST) -> list[str]:
    """Where Python code runs a text: by the names of what does so, and conditions that are given as texts."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [f"{node.lineno}: import {name}" for name in modules if name.split(".")[0] in RUNS_TEXT]
        if not isinstance(node, ast.Call):
            continue
        named, owner = node.func, getattr(getattr(node.func, "value", None), "id", None)
        name = getattr(named, "attr", None) or getattr(named, "id", "")
        if name in RUNS_TEXT and not (name == "compile" and owner == "re"):
            found.append(f"{node.lineno}: {name}")
        first = node.args[0] if node.args else None
        text = isinstance(first, ast.JoinedStr) or isinstance(getattr(first, "value", None), str)
        if name in ("where", "filter") and owner not in ("np", "xp", "cp", "pc") and text:
            found.append(f"{node.lineno}: {name} of a text")
    return found


def test_no_text_is_run_as_sql_shell_or_python():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 30
    found = {str(file.relative_to(PACKAGE)): code_from_text(ast.parse(file.read_text("utf-8"))) for file in files}
    assert {name: {place.split(": ")[1] for place in places} for name, places in found.items() if places} == ALLOWED


ALLOWED = {
    "runs/source.py": {"sql"},  # one statement, in which a table's name is a parameter
    "doctor/probe.py": {"import subprocess"},  # nvidia-smi and java, by lists of fixed arguments
    "index/files.py": {"expr"},  # ranges of clusters: integers alone, which a long IN of columns would take seconds for
    "runs/index.py": {"expr"},  # a cast to the type of the index's ids, which is one of Spark's own names
    "kernels/cuda/launch.py": {"compile"},  # CuPy's name for compiling a kernel's source, a file of the package
    "text/transformer.py": {"eval"},  # PyTorch's name for the mode of inference
    "spark/interpreter.py": {"import subprocess"},  # the workers' Python, which the user's settings name; fixed code
}


@pytest.mark.parametrize(
    "code",
    [
        *("F.expr(x)", "spark.sql(f'{x}')", "df.where(f'{x} > 1')", "df.filter('a > 1')", "df.selectExpr(x)"),
        *("import pickle", "eval(x)", "from subprocess import run", "os.system(x)"),
    ],
)
def test_the_search_for_text_that_is_run_finds_it(code):
    assert code_from_text(ast.parse(code))


HOSTILE_NAMES = [
    "id`) OR 1=1 --",
    "a.b`c",
    "'; DROP TABLE x; --",
    "$(touch sprung)",
    "id\nx",
    "${spark.app.name}",
    "ü*",
]


def test_hostile_names_of_columns_are_names_and_no_more(spark):
    rows = spark.createDataFrame([tuple(range(len(HOSTILE_NAMES)))], ", ".join(f"c{i} int" for i in range(7)))
    df = functools.reduce(lambda df, i: df.withColumnRenamed(f"c{i}", HOSTILE_NAMES[i]), range(7), rows)
    found = df.select(*(id_column(df, name).alias(f"v{i}") for i, name in enumerate(HOSTILE_NAMES))).first()
    assert list(found) == list(range(7))
    assert df.where(quoted(HOSTILE_NAMES[0]) == F.lit(1)).count() == 0, "were it read as a condition, all rows"
    for name in ("id`) OR 1=1", "*", "id; --"):
        with pytest.raises(SemDedupError, match="is not among the columns"):
            field(df, name, "idCol")


# --- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "s3a://KEY:hunter2hunter2@bucket/x"],
        ["--input", "nosuch://user:hunter2hunter2@host/x"],
        ["--input", "IN", "--input-format", "jdbc", "--input-option", "url=jdbc:no://h?password=hunter2hunter2"],
        ["--input", "IN", "--input-option", "password: hunter2hunter2"],
        ["--input", "IN", "--input-option", "=hunter2hunter2"],
        ["--input", "IN", "--centroids", "https://h/x?sig=hunter2hunter2"],
        ["--input", "IN", "--id-col", "password=hunter2hunter2"],
        ["--input", "IN", "--verbose", "--centroids", "nosuch://a:hunter2hunter2@b/c"],
    ],
)
def test_errors_of_the_program_show_no_secret(capfd, spark, tmp_path, arguments):
    pq.write_table(pa.table({"id": [1], "embedding": [[1.0]]}), tmp_path / "in.parquet")
    arguments = [str(tmp_path / "in.parquet") if text == "IN" else text for text in arguments]
    assert cli.main(["run", *arguments, "--output", str(tmp_path / "out")]) == 2
    out, err = capfd.readouterr()
    assert "spark-semdedup: error: " in err
    assert "hunter2" not in out + err


@pytest.mark.slow
def test_a_run_writes_no_secret_and_works_with_the_path_as_given(spark, tmp_path, capfd):
    """Folders whose names look like secrets: what is written is where it was asked to be, and not told."""
    pq.write_table(
        pa.table({"id": [1, 2, 3], "embedding": [[1.0, 0.0], [1.0, 0.001], [0.0, 1.0]]}), tmp_path / "in.parquet"
    )
    output = tmp_path / "token=hunter2hunter2"
    arguments = ["--input", tmp_path / "in.parquet", "--output", output, "--k", 1]
    assert cli.main(["run", *map(str, arguments)]) == 0
    arguments = ["--input", tmp_path / "in.parquet", "--result", output, "--output", output]
    assert cli.main(["evaluate", *map(str, arguments)]) == 0
    said = capfd.readouterr()
    assert "token=***" in said.out
    assert "hunter2" not in said.out + said.err
    texts = [*output.rglob("*.json")]
    assert {"summary.json", "_manifest.json", "_semdedup.json", "evaluation.json"} == {path.name for path in texts}
    assert all("hunter2" not in path.read_text("utf-8") for path in texts)
    assert json.loads((output / "summary.json").read_text("utf-8"))["kept"] == 2


# --- files that others must not read ------------------------------------------------------------------------


def test_sockets_of_workers_are_private(spark):
    folder = spark.conf.get("spark.python.unix.domain.socket.dir", None)
    if folder is None:
        assert pyspark.__version__ < "4.1", "before, workers speak over TCP, with a secret"
    else:
        spark.range(1).mapInArrow(lambda batches: batches, "id long").collect()
        assert any(name.endswith(".sock") for name in os.listdir(folder))
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@pytest.mark.parametrize(("version", "folder"), [("4.0.3", ""), ("4.1.1", "a" * 40), ("4.1.1", "")])
def test_workers_have_sockets_where_spark_knows_them_and_their_names_fit(monkeypatch, tmp_path, version, folder):
    monkeypatch.setattr(session.pyspark, "__version__", version)
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: f"/{folder}")
    monkeypatch.setattr(session.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(session.atexit, "register", lambda *_, **__: None)
    found = session._worker_sockets()
    assert found.get("spark.python.unix.domain.socket.dir") == (
        str(tmp_path) if (version, folder) == ("4.1.1", "") else None
    )


def test_folders_for_shuffled_rows_are_private(spark):
    (root,) = map(Path, local_folders(spark))
    shuffled = list(root.glob("blockmgr-*"))
    folders = [*shuffled, os.path.dirname(spark.sparkContext._temp_dir)]
    assert len(shuffled) == 1
    assert {stat.S_IMODE(os.stat(folder).st_mode) for folder in folders} == {0o700}


def test_the_package_makes_no_temporary_files_but_a_private_folder_of_sockets():
    for file in PACKAGE.rglob("*.py"):
        names = {
            getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(ast.parse(file.read_text("utf-8")))
        }
        made = names & {"tempfile", "mkstemp", "mktemp", "mkdtemp", "gettempdir"}
        assert made == ({"tempfile", "mkdtemp", "gettempdir"} if file.name == "session.py" else set()), file.name


def test_models_hold_no_code(spark, tmp_path):
    model = EmbeddingKMeansModel(centroids=np.eye(2, dtype=np.float32))
    model.save(str(tmp_path / "m"))
    files = {
        path.suffix for path in (tmp_path / "m").rglob("*") if path.is_file() and not path.name.startswith(("_", "."))
    }
    assert files == {".txt", ".parquet"}
    assert (EmbeddingKMeansModel.load(str(tmp_path / "m")).centroids == np.eye(2)).all()
