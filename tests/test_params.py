"""The Params: what they accept, what they refuse and in which words, and the accessors made from them."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from pyspark.ml import Model
from pyspark.ml.param import Param

import spark_semdedup
from spark_semdedup import (
    EmbeddingKMeans,
    EmbeddingKMeansModel,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
    TextEmbedder,
)
from spark_semdedup.errors import InvalidRowsError, SemDedupError, error_from_worker, shown
from spark_semdedup.params import DEFAULTS

STAGES = [
    EmbeddingKMeans,
    EmbeddingKMeansModel,
    PairwiseSimilarity,
    IdentifyDuplicates,
    RemoveDuplicates,
    SemDedup,
    SemDedupModel,
    TextEmbedder,
]


def test_the_defaults_are_those_promised():
    stage = SemDedup()
    promised = {
        "maxIter": 20,
        "tol": 1e-4,
        "seed": 42,
        "initMode": "k-means||",
        "nInit": 1,
        "oversamplingFactor": 2.0,
        "maxSamplesPerBatch": 32768,
        "distanceMeasure": "euclidean",
        "batchSize": 1024,
        "whichToKeep": "hard",
        "distanceMetric": "cosine",
        "eps": 0.05,
        "idCol": "id",
        "embeddingCol": "embedding",
        "handleInvalid": "error",
        "backend": "auto",
        "clusterer": "auto",
    }
    for name, value in promised.items():
        assert stage.value(name) == value, name
    for name in ("k", "metadataCols", "fitSampleRows", "embeddingDim", "threshold", "rankBy"):
        assert stage.value(name) is None, name


@pytest.mark.parametrize("stage", STAGES)
def test_every_param_has_a_text_a_getter_and_a_setter_that_returns_the_stage(stage):
    instance = stage()
    assert instance.params
    for param in instance.params:
        assert param.doc
        suffix = param.name[0].upper() + param.name[1:]
        setter, getter = getattr(instance, f"set{suffix}"), getattr(instance, f"get{suffix}")
        if instance.isDefined(param):
            value = getter()
            assert setter(value) is instance
            assert instance.isSet(param)
            assert getter() == value
        assert param.name in instance.explainParams()


@pytest.mark.parametrize("stage", STAGES)
def test_the_constructor_takes_every_param_by_keyword_alone(stage):
    signature = inspect.signature(stage).parameters
    params = {name for name in dir(stage) if isinstance(getattr(stage, name, None), Param)}
    others = {"centroids", "history"} if issubclass(stage, Model) else {*stage.constructor_arguments}
    assert set(signature) == params | others
    assert {parameter.kind for parameter in signature.values()} == {inspect.Parameter.KEYWORD_ONLY}
    for name in params:
        assert signature[name].default == DEFAULTS.get(name), name
    with pytest.raises(TypeError):
        stage("id")


def test_every_default_belongs_to_a_param():
    names = {p.name for stage in STAGES for p in stage().params}
    assert set(DEFAULTS) <= names


def test_a_param_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(SemDedupError, match=r"IdentifyDuplicates has no Param 'epsilon'; it has eps, threshold"):
        IdentifyDuplicates(epsilon=0.1)
    with pytest.raises(SemDedupError, match=r"SemDedup has no Param 'n_clusters'"):
        SemDedup().setParams(n_clusters=4)


def test_none_leaves_a_param_as_it_is():
    stage = SemDedup(k=None, eps=None)
    assert not stage.isSet("k")
    assert stage.value("eps") == 0.05
    stage.setParams(k=3, seed=1).setParams(k=None)
    assert (stage.value("k"), stage.value("seed")) == (3, 1)


def test_settings_are_what_the_user_set_for_the_params_of_another_stage():
    stage = SemDedup(eps=0.1, k=5, whichToKeep="easy")
    assert stage.settings() == {"eps": 0.1, "k": 5, "whichToKeep": "easy"}
    assert stage.settings(EmbeddingKMeans) == {"k": 5}
    assert stage.settings(IdentifyDuplicates) == {"eps": 0.1}


GOOD = [
    ("k", 7, 7),
    ("k", np.int64(7), 7),
    ("k", 7.0, 7),
    ("seed", -(2**63), -(2**63)),
    ("seed", 2**63 - 1, 2**63 - 1),
    ("tol", 0, 0.0),
    ("tol", np.float32(0.5), 0.5),
    ("maxIter", 0, 0),
    ("fitSampleRows", 0, 0),
    ("eps", 1e-9, 1e-9),
    ("threshold", 0.9, 0.9),
    ("metadataCols", ("a", "b c"), ["a", "b c"]),
    ("rankBy", ["quality desc"], ["quality desc"]),
    ("initMode", "random", "random"),
    ("initMode", np.array([[1, 0], [0, 1]]), [[1.0, 0.0], [0.0, 1.0]]),
    ("idCol", "Doc Id.v2", "Doc Id.v2"),
]


@pytest.mark.parametrize(("name", "value", "kept"), GOOD)
def test_values_that_are_accepted(name, value, kept):
    found = SemDedup(**{name: value}).value(name)
    assert found == kept
    assert type(found) is type(kept)


BAD = [
    ("k", 0, "k=0 cannot be used: it must be a whole number of at least 1"),
    ("k", 2.5, "k=2.5 "),
    ("k", True, "k=True "),
    ("k", "7", "k='7' "),
    ("seed", 2**63, "seed=9223372036854775808 cannot be used: it must be a whole number from -2^63 to 2^63 - 1"),
    ("seed", -(2**63) - 1, "seed=-9223372036854775809 "),
    ("seed", 10**400, "seed=1000"),
    ("seed", float("nan"), "seed=nan "),
    ("seed", float("inf"), "seed=inf "),
    ("tol", -1, "tol=-1 cannot be used: it must be a number of at least 0"),
    ("tol", float("nan"), "tol=nan "),
    ("tol", float("inf"), "tol=inf "),
    ("maxIter", -1, "maxIter=-1 "),
    ("nInit", 0, "nInit=0 "),
    ("oversamplingFactor", 0, "oversamplingFactor=0 cannot be used: it must be a number above 0"),
    ("maxSamplesPerBatch", 0, "maxSamplesPerBatch=0 "),
    ("batchSize", 0, "batchSize=0 "),
    ("embeddingDim", 0, "embeddingDim=0 "),
    ("fitSampleRows", -1, "fitSampleRows=-1 "),
    ("eps", 0, "eps=0 cannot be used: it must be a number between 0 and 1, both excluded"),
    ("eps", 1, "eps=1 "),
    ("eps", 5, "eps=5 "),
    ("eps", float("nan"), "eps=nan "),
    ("eps", "0.1", "eps='0.1' "),
    ("threshold", 1.0, "threshold=1.0 "),
    ("whichToKeep", "best", "whichToKeep='best' cannot be used: it must be one of hard, easy, random, first"),
    ("whichToKeep", "Hard", "whichToKeep='Hard' "),
    ("distanceMetric", "euclidean", "distanceMetric='euclidean' cannot be used: it must be one of cosine, l2"),
    ("distanceMeasure", "l2", "distanceMeasure='l2' cannot be used: it must be one of euclidean, cosine"),
    ("handleInvalid", "drop", "handleInvalid='drop' cannot be used: it must be one of error, skip, keep"),
    ("backend", "cuda", "backend='cuda' cannot be used: it must be one of auto, gpu, cpu"),
    ("clusterer", "sklearn", "clusterer='sklearn' cannot be used: it must be one of auto, rapids, faiss, mllib, mini"),
    ("idCol", "", "idCol='' cannot be used: it must be a name"),
    ("idCol", 3, "idCol=3 "),
    ("metadataCols", "url", "metadataCols='url' cannot be used: it must be a list of names"),
    ("metadataCols", ["a", 3], "metadataCols=3 "),
    ("rankBy", "quality", "rankBy='quality' cannot be used: it must be a list of names"),
    ("initMode", "kmeans++", "initMode='kmeans++' cannot be used: it must be one of k-means"),
    ("initMode", [1.0, 2.0], "initMode='array of shape (2,)' cannot be used"),
    ("initMode", [[1.0], [float("nan")]], "initMode="),
    ("initMode", [[1.0], [2.0, 3.0]], "initMode="),
    ("initMode", np.zeros((0, 4)), "initMode="),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_values_that_are_refused_in_one_line(name, value, message):
    message = re.escape(message)
    with pytest.raises(SemDedupError, match=message) as caught:
        SemDedup(**{name: value})
    assert "\n" not in str(caught.value)
    setter = getattr(SemDedup(), f"set{name[0].upper()}{name[1:]}")
    with pytest.raises(SemDedupError, match=message):
        setter(value)


# --- eps and threshold --------------------------------------------------------------------------------------


def test_the_threshold_is_one_minus_eps_in_double_arithmetic():
    assert IdentifyDuplicates().similarity_threshold() == 1.0 - 0.05
    assert IdentifyDuplicates(eps=0.1).similarity_threshold() == 1.0 - 0.1
    assert IdentifyDuplicates(threshold=0.9).similarity_threshold() == 0.9
    assert 1.0 - 0.1 == 0.9
    assert 1.0 - 0.05 == 0.95


def test_eps_and_threshold_exclude_each_other():
    with pytest.raises(SemDedupError, match=r"eps=0.1 and threshold=0.9 are both set; set one of them"):
        IdentifyDuplicates(eps=0.1, threshold=0.9).similarity_threshold()


# --- the package's face -------------------------------------------------------------------------------------


def test_public_names_are_all_there():
    for name in spark_semdedup.__all__:
        assert getattr(spark_semdedup, name).__name__ == name
        assert name in dir(spark_semdedup)
    with pytest.raises(AttributeError, match="has no attribute 'Semdedup'"):
        spark_semdedup.Semdedup  # noqa: B018


def test_a_value_in_a_message_takes_one_short_line():
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 80
    assert [shown(v) for v in (np.int32(1), np.float64(0.5), np.str_("a"))] == ["1", "0.5", "'a'"]


def test_an_error_of_ours_is_found_in_what_spark_makes_of_it():
    text = "PythonException:\n  File ...\nspark_semdedup.errors.InvalidRowsError: id 'a' stands twice\n\tat org.apache"
    assert str(error_from_worker(RuntimeError(text))) == "id 'a' stands twice"
    assert type(error_from_worker(RuntimeError(text))) is InvalidRowsError
    assert type(error_from_worker(RuntimeError(text.replace("InvalidRows", "SemDedup")))) is SemDedupError
    assert error_from_worker(RuntimeError("java.lang.OutOfMemoryError")) is None
    ours = SemDedupError("x")
    assert error_from_worker(ours) is ours


def test_a_name_almost_right_is_answered_by_the_one_that_was_meant():
    for name, meant in (("id_col", "idCol"), ("embedding_col", "embeddingCol"), ("espilon", None), ("epss", "eps")):
        said = f"did you mean {meant}\\?$" if meant else "it has backend, "
        with pytest.raises(SemDedupError, match=f"^SemDedup has no Param '{name}'; {said}"):
            SemDedup(**{name: 1})


def test_a_models_repr_says_what_it_is(spark):
    assert repr(SemDedupModel(centroids=np.eye(3, 4), eps=0.1)) == "SemDedupModel(k=3, dim=4, eps=0.1)"
    assert str(EmbeddingKMeansModel(centroids=np.eye(3, 4))) == "EmbeddingKMeansModel(k=3, dim=4)"
