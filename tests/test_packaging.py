"""What a user gets: metadata that agrees with the code, the shipped sample, the check of the machine, the wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import spark_semdedup
from benchmarks import make_sample

ROOT = Path(__file__).parents[1]
CHECK = ROOT / ".ci" / "check-requirements.sh"


# --- metadata -----------------------------------------------------------------------------------------------


def test_version_is_the_same_in_metadata_code_and_changelog():
    assert metadata.version("spark-semdedup") == spark_semdedup.__version__
    assert f"[{spark_semdedup.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_what_kmeans_needs_of_faiss_is_there():
    import faiss

    clustering = faiss.ClusteringParameters()
    assert hasattr(clustering, "init_method")
    assert hasattr(clustering, "early_stop_threshold")


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text


# --- the sample ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample() -> pa.Table:
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        return pq.read_table(path)


def test_sample_has_rows_that_can_be_used(sample: pa.Table):
    ids = sample["id"].to_pylist()
    assert ids == sorted(set(ids))
    assert sample["text"].null_count == 0
    assert sample.schema.field("embedding").type == pa.list_(pa.float32())
    embeddings = sample["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 384)
    assert len(embeddings) == sample.num_rows
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_sample_is_what_its_readme_says(sample: pa.Table):
    folder = ROOT / "spark_semdedup" / "data"
    readme = (folder / "README.md").read_text()
    content = (folder / "debian-sample.parquet").read_bytes()
    assert len(content) <= 5_000_000
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{sample.num_rows:,} rows" in readme
    assert f"{len(content):,} bytes" in readme

    embeddings = sample["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 384)
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    for least in (0.90, 0.95):
        share = 100 * (similarity.max(axis=1) >= least).mean()
        assert f"| {least:.2f} | {share:.1f} % |" in readme


def corpus_of_pairs(pairs: int = 30, singles: int = 40) -> tuple[pa.Table, pa.Table]:
    ids = [f"row{i:03}" for i in range(2 * pairs + singles)]
    embeddings = np.random.default_rng(0).standard_normal((len(ids), 4)).astype(np.float32)
    corpus = pa.table({"id": ids, "text": [f"text of {i}" for i in ids], "embedding": embeddings.tolist(), "more": ids})
    return corpus, pa.table({"id_a": ids[:pairs], "id_b": ids[pairs : 2 * pairs]})


def test_make_sample_keeps_pairs_together_whatever_the_order_of_rows(tmp_path: Path):
    corpus, pairs = corpus_of_pairs()
    written = []
    for name, order in (("forward", slice(None)), ("backward", slice(None, None, -1))):
        pq.write_table(corpus.take(np.arange(len(corpus))[order]), tmp_path / f"{name}.parquet")
        pq.write_table(pairs.take(np.arange(len(pairs))[order]), tmp_path / f"{name}-pairs.parquet")
        files = {"--input": f"{name}.parquet", "--pairs": f"{name}-pairs.parquet", "--output": f"{name}-sample.parquet"}
        paths = [text for option, file in files.items() for text in (option, str(tmp_path / file))]
        make_sample.main([*paths, "--rows", "50"])
        written.append(tmp_path / files["--output"])

    assert written[0].read_bytes() == written[1].read_bytes()
    sample = pq.read_table(written[0])
    assert sample.column_names == ["id", "text", "embedding"]
    drawn = sample["id"].to_pylist()
    assert 49 <= len(drawn) <= 50  # at most one row of room is left, or the next group would have fitted
    assert drawn == sorted(drawn)
    for a, b in zip(pairs["id_a"].to_pylist(), pairs["id_b"].to_pylist(), strict=True):
        assert (a in drawn) == (b in drawn)
    row = sample.slice(17, 1)
    assert row.to_pylist() == [r for r in corpus.select(sample.column_names).to_pylist() if r["id"] == drawn[17]]


# --- the check of the machine -------------------------------------------------------------------------------


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def java(folder: Path, version: str) -> Path:
    return program(folder, "java", f"echo 'Picked up X' >&2; echo 'openjdk version \"{version}\" 2025-01-01' >&2")


def python(folder: Path, name: str, version: str, *, venv: bool = True) -> Path:
    """This Python, telling that it is another version, and without ``ensurepip`` where ``venv`` is false."""
    lie = f"import sys; sys.version_info = ({version.replace('.', ',')}, 0, 'final', 0);"
    hide = "" if venv else "sys.modules['ensurepip'] = None;"
    return program(folder, name, f'exec {sys.executable} -c "{lie}{hide} exec(sys.argv[1])" "$2"')


def check(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the check with nothing but ``path`` on PATH."""
    return subprocess.run(
        ["/bin/sh", CHECK], env={"PATH": str(path), **environment}, capture_output=True, text=True, check=False
    )


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for part in (*parts, "Debian/Ubuntu: ", "RHEL: ", "macOS: "):
        assert part in result.stderr


@pytest.mark.parametrize("version", ["17", "17.0.15", "21-ea", "22.0.2"])
def test_suitable_java_and_python_are_accepted(tmp_path: Path, version: str):
    java(tmp_path, version)
    python(tmp_path, "python3", "3.12")
    result = check(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "python3\n", "")


@pytest.mark.parametrize("version", ["1.8.0_442", "11.0.27", "16", "23.0.1", "25"])
def test_java_of_another_version_is_refused(tmp_path: Path, version: str):
    java(tmp_path, version)
    python(tmp_path, "python3", "3.12")
    assert_refused(check(tmp_path), "Java 17 to 22 is needed", f"the java on PATH is {version}.")


@pytest.mark.parametrize("spark", ["4.2.0", "4.3.0"])
def test_newer_java_is_accepted_where_spark_supports_it(tmp_path: Path, spark: str):
    java(tmp_path, "25.0.3")
    python(tmp_path, "python3", "3.12")
    assert check(tmp_path, PYSPARK=spark).returncode == 0
    java(tmp_path, "26")
    assert_refused(check(tmp_path, PYSPARK=spark), "Java 17 to 25 is needed", "the java on PATH is 26.")


def test_missing_java_is_refused(tmp_path: Path):
    python(tmp_path, "python3", "3.12")
    assert_refused(check(tmp_path), "Java 17 to 22 is needed", "the java on PATH does not run")


def test_a_java_that_only_says_that_there_is_none_is_refused(tmp_path: Path):
    """As macOS has it."""
    program(tmp_path, "java", "echo 'Unable to locate a Java Runtime.' >&2; exit 1")
    python(tmp_path, "python3", "3.12")
    assert_refused(check(tmp_path), "the java on PATH does not run")


def test_java_home_comes_before_path(tmp_path: Path):
    java(tmp_path, "11.0.1")
    java(tmp_path / "jdk" / "bin", "17.0.1")
    python(tmp_path, "python3", "3.12")
    assert check(tmp_path, JAVA_HOME=str(tmp_path / "jdk")).returncode == 0

    java(tmp_path, "17.0.1")
    java(tmp_path / "jdk" / "bin", "11.0.1")
    assert_refused(check(tmp_path, JAVA_HOME=str(tmp_path / "jdk")), f"JAVA_HOME={tmp_path}/jdk is 11.0.1")
    assert_refused(check(tmp_path, JAVA_HOME=str(tmp_path / "no")), f"JAVA_HOME={tmp_path}/no does not run")


def test_the_newest_suitable_python_is_chosen(tmp_path: Path):
    java(tmp_path, "17.0.1")
    python(tmp_path, "python3", "3.14")
    python(tmp_path, "python3.10", "3.10")
    python(tmp_path, "python3.11", "3.11")
    program(tmp_path, "python3.13", "exit 127")  # a pyenv shim of a version that is not in use
    assert check(tmp_path).stdout == "python3.11\n"
    python(tmp_path, "python3.12", "3.12")
    assert check(tmp_path).stdout == "python3.12\n"
    assert check(tmp_path, PYSPARK="3.5.8").stdout == "python3.11\n"


def test_python_that_the_version_of_spark_needs_is_asked_for(tmp_path: Path):
    java(tmp_path, "17.0.1")
    python(tmp_path, "python3", "3.10")
    assert check(tmp_path, PYSPARK="4.2.0").stdout == "python3\n"
    assert_refused(check(tmp_path, PYSPARK="4.3.0"), "Python 3.11 to 3.13 is needed", "python3 is 3.10")


def test_python_is_taken_from_the_variable(tmp_path: Path):
    java(tmp_path, "17.0.1")
    python(tmp_path, "python3.12", "3.12")
    mine = python(tmp_path / "with space", "mine", "3.10")
    assert check(tmp_path, PYTHON=str(mine)).stdout == f"{mine}\n"
    old = python(tmp_path, "old", "3.9")
    assert_refused(check(tmp_path, PYTHON=str(old)), "Python 3.10 to 3.13 is needed", f"{old} is 3.9")
    assert_refused(check(tmp_path, PYTHON="/no/python"), "PYTHON=/no/python does not run")


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.14"])
def test_python_of_another_version_is_refused(tmp_path: Path, version: str):
    java(tmp_path, "17.0.1")
    python(tmp_path, "python3", version)
    assert_refused(check(tmp_path), "Python 3.10 to 3.13 is needed", f"python3 is {version}")


def test_missing_python_is_refused(tmp_path: Path):
    java(tmp_path, "17.0.1")
    assert_refused(check(tmp_path), "Python 3.10 to 3.13 is needed", "there is no python3 on PATH")


def test_python_without_venv_is_passed_over_or_refused(tmp_path: Path):
    """Debian and Ubuntu ship venv as a package of its own."""
    java(tmp_path, "17.0.1")
    python(tmp_path, "python3.12", "3.12", venv=False)
    assert_refused(check(tmp_path), "python3.12 has none", "apt-get install python3.12-venv")
    python(tmp_path, "python3.11", "3.11")
    assert check(tmp_path).stdout == "python3.11\n"


def test_make_stops_at_a_machine_that_cannot_run_spark(tmp_path: Path):
    jdk = tmp_path / "jdk"
    java(jdk / "bin", "11.0.1")
    environment = {**os.environ, "JAVA_HOME": str(jdk)}
    result = subprocess.run(
        ["make", "--no-print-directory", "demo", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "Java 17 to 22 is needed" in result.stderr
    assert not (tmp_path / "venv").exists()


# --- the wheel ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_wheel_has_the_sample_the_licence_and_the_command(tmp_path: Path):
    source = tmp_path / "source"  # a copy: a build leaves its own copies of modules behind, which the next one packs
    shutil.copytree(ROOT / "spark_semdedup", source / "spark_semdedup")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    builder = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(builder, check=True, capture_output=True)
    (wheel,) = tmp_path.glob(f"spark_semdedup-{spark_semdedup.__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"spark_semdedup-{spark_semdedup.__version__}.dist-info"
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        described = archive.read(f"{info}/METADATA").decode()
    assert "spark_semdedup/data/debian-sample.parquet" in names
    assert "spark_semdedup/kernels/__init__.py" in names
    assert f"{info}/licenses/LICENSE" in names
    assert {name.split("/")[0] for name in names} == {"spark_semdedup", info}
    assert "spark-semdedup = spark_semdedup.cli.main:main" in entry_points
    assert "License-Expression: Apache-2.0" in described
    for extra in ("gpu-cu12", "gpu-cu13", "dev", "notebooks"):
        assert f"Provides-Extra: {extra}\n" in described
