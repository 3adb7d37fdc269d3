"""What a type checker and an editor know of the stages: every Param's getter and setter, and what ``fit`` returns."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from test_params import STAGES

from spark_semdedup import EmbeddingKMeans, SemDedup, accessors

ROOT = Path(__file__).parents[1]

USE = """
from typing import assert_type
import numpy as np
from pyspark.sql import DataFrame, SparkSession
from spark_semdedup import EmbeddingKMeans, EmbeddingKMeansModel, SemDedup, SemDedupModel, SemDedupResult, TextEmbedder

spark = SparkSession.builder.getOrCreate()
documents = spark.read.parquet("documents")
assert_type(SemDedup(k=5).setEps(0.1).getEps(), float)
assert_type(SemDedup(k=5).setEps(0.1).setK(3), SemDedup)
assert_type(SemDedup().setRankBy(["date desc"]).getRankBy(), list[str])
SemDedup().setInitMode(np.eye(3)).setInitMode([[1.0, 0.0]]).setInitMode("random")
model = SemDedup(eps=0.05, whichToKeep="first").fit(documents)
assert_type(model, SemDedupModel)
assert_type(model.setMaxClusterRows(100).run(documents), SemDedupResult)
kept: DataFrame = model.transform(TextEmbedder(model="hashing").setCache(False).transform(documents))
assert_type(EmbeddingKMeans(k=60).fit(documents), EmbeddingKMeansModel)
"""

WRONG = {
    "SemDedup().setK('five')": 'incompatible type "str"; expected "int"',
    "SemDedup().setEpsilon(0.1)": 'has no attribute "setEpsilon"',
    "IdentifyDuplicates().setK(5)": 'has no attribute "setK"',
}


def checked(folder: Path, script: str) -> list[str]:
    """What ``mypy --strict`` says of a user's script, without any settings of this project."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "script.py"]
    environment = {"MYPYPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode < 2, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_mypy_accepts_right_use_refuses_wrong_use_and_knows_every_type(tmp_path):
    names = ", ".join(sorted(stage.__name__ for stage in STAGES))
    lines = [USE, f"from spark_semdedup import {names}"]
    asked = []
    for stage in STAGES:
        made = f"{stage.__name__}(centroids=np.eye(2))" if stage.__name__.endswith("Model") else f"{stage.__name__}()"
        for param in stage().params:
            suffix = param.name[0].upper() + param.name[1:]
            lines += [f"reveal_type({made}.get{suffix}())", f"reveal_type({made}.set{suffix}({made}.get{suffix}()))"]
            asked += [(stage.__name__, "get"), (stage.__name__, "set")]
    first_wrong = len("\n".join(lines).splitlines()) + 1
    found = checked(tmp_path, "\n".join([*lines, *WRONG]))
    errors = [line for line in found if ": error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == [first_wrong + i for i in range(len(WRONG))]
    for error, said in zip(errors, WRONG.values(), strict=True):
        assert said in error
    revealed = [line.split('"')[1] for line in found if "Revealed type is" in line]
    assert len(revealed) == len(asked) > 250
    for (stage, verb), type_ in zip(asked, revealed, strict=True):
        if verb == "get":
            assert type_ != "Any"
        else:
            assert type_.endswith(f".{stage}"), "a setter returns its own stage, so that calls can be chained"


def test_every_param_has_accessors_beside_it():
    """A getter and a setter by name, which editors complete without running anything."""
    for file in ("params.py", "text_params.py"):
        for group in ast.parse((ROOT / "spark_semdedup" / file).read_text("utf-8")).body:
            made, named = [], {}
            for node in group.body if isinstance(group, ast.ClassDef) else ():
                if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                    continue
                if node.value.func.id == "param_of":
                    made.append(node.targets[0].id)
                else:
                    named[node.value.args[0].id] = [name.id for name in node.targets[0].elts]
            assert named == {name: [f"{verb}{name[0].upper()}{name[1:]}" for verb in ("get", "set")] for name in made}


def test_accessors_carry_the_text_of_their_param():
    assert SemDedup.setEps.__doc__ == f"Sets ``eps``: {SemDedup.eps.doc}"
    assert EmbeddingKMeans.getK.__doc__ == f"Gets ``k``: {EmbeddingKMeans.k.doc}"
    assert (SemDedup.getK.__name__, SemDedup.getK.__module__) == ("getK", accessors.__name__)
