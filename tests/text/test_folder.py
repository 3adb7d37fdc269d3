from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import text_models

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text import folder
from spark_semdedup.text.folder import ModelPlace, find_model, kind_of

ROOT = Path(__file__).parents[2]


def files(path: Path, **content: str) -> Path:
    for name, text in content.items():
        file = path / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


STATIC = json.dumps({"model_type": "model2vec"})
BERT = json.dumps({"model_type": "bert"})


@pytest.mark.parametrize(
    ("content", "transformers", "kind"),
    [
        ({"config_dot_json": STATIC, "model_dot_safetensors": ""}, True, "model2vec"),
        ({"config_dot_json": json.dumps({"architectures": ["StaticModel"]})}, True, "model2vec"),
        ({"config_dot_json": BERT, "model_dot_safetensors": ""}, False, "sentence-transformers"),
        ({"modules_dot_json": "[]"}, False, "sentence-transformers"),
        ({"model_dot_onnx": "", "tokenizer_dot_json": "{}"}, True, "onnx"),
        ({"onnx__model_dot_onnx": "", "model_dot_safetensors": ""}, False, "onnx"),
        ({"onnx__model_dot_onnx": "", "model_dot_safetensors": ""}, True, "sentence-transformers"),
        ({"model_O4_dot_onnx": ""}, True, "onnx"),
        ({"a_dot_onnx": "", "b_dot_onnx": ""}, True, None),
        ({"config_dot_json": "[broken"}, True, None),
        ({"README_dot_md": ""}, True, None),
    ],
)
def test_a_folder_s_files_say_which_kind_it_holds(tmp_path, monkeypatch, content, transformers, kind):
    monkeypatch.setattr(folder, "_has_package", lambda name: transformers)
    assert kind_of(files(tmp_path, **content)) == kind


def test_a_file_is_an_onnx_model_by_its_name(tmp_path):
    assert kind_of(files(tmp_path, a_dot_onnx="") / "a.onnx") == "onnx"
    assert kind_of(files(tmp_path, a_dot_txt="") / "a.txt") is None


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "~/none", "a/b/c", "none.onnx"])
def test_a_path_without_a_model_is_refused_with_the_ways_to_bring_one(name):
    with pytest.raises(SemDedupError, match=r"does not exist on .*local folder.*HF_HOME.*--archives"):
        find_model(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(SemDedupError, match="holds no model: it must have the files of"):
        find_model(str(tmp_path))


# --- the Hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """The Hub's client, whose ``snapshot_download`` the test sets."""
    return pytest.importorskip("huggingface_hub", reason="needs the extra text"), monkeypatch


def error_of(name: str) -> Exception:
    from huggingface_hub import errors

    class_ = getattr(errors, name)
    error = class_.__new__(class_)
    Exception.__init__(error, f"{name} says\nmore than a line")
    return error


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GatedRepoError", r"is gated: accept its terms .* set HF_TOKEN"),
        (
            "RepositoryNotFoundError",
            r"neither a local folder nor available .*\('RepositoryNotFoundError says'\).*HF_HOME",
        ),
        ("LocalEntryNotFoundError", r"neither a local folder nor available .*--archives"),
        ("HFValidationError", "does not exist: it must be a local folder"),
    ],
)
def test_what_the_hub_answers_becomes_one_line(hub, name, said):
    package, monkeypatch = hub

    def refuse(*_, **__):
        raise error_of(name)

    monkeypatch.setattr(package, "snapshot_download", refuse)
    with pytest.raises(SemDedupError, match=said) as caught:
        find_model("owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "transformers", "kind"),
    [
        ({"config_dot_json": STATIC}, True, "model2vec"),
        ({"config_dot_json": BERT}, True, "sentence-transformers"),
        ({"config_dot_json": BERT, "onnx__model_dot_onnx": ""}, False, "onnx"),
    ],
)
def test_a_name_s_configuration_says_which_kind_it_is(hub, tmp_path, content, transformers, kind):
    package, monkeypatch = hub
    monkeypatch.setattr(package, "snapshot_download", lambda name, allow_patterns: str(tmp_path))
    monkeypatch.setattr(folder, "_has_package", lambda name: transformers)
    files(tmp_path, **content)
    by_name = kind == "sentence-transformers"
    assert find_model("owner/name") == ModelPlace(kind, "owner/name" if by_name else str(tmp_path))


def test_a_transformer_without_its_package_names_the_extra(hub, tmp_path):
    package, monkeypatch = hub
    monkeypatch.setattr(package, "snapshot_download", lambda name, allow_patterns: str(tmp_path))
    monkeypatch.setattr(folder, "_has_package", lambda name: False)
    with pytest.raises(SemDedupError, match=r"spark-semdedup\[text-transformers\]"):
        find_model("owner/name")


def test_without_the_hub_s_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SemDedupError, match=r"needs huggingface_hub.*'spark-semdedup\[text\]'"):
        find_model("owner/name")


def test_a_model_in_the_cache_loads_offline(tmp_path):
    """``HF_HOME`` as the Hub's client lays it out, in a process that may not reach the Hub."""
    pytest.importorskip("model2vec", reason="needs the extra text")
    repository = tmp_path / "hub" / "models--owner--name"
    text_models.static_model(repository / "snapshots" / "abc")
    files(repository, refs__main="abc")
    code = (
        "from spark_semdedup.text.models import ModelSpec, load_model\n"
        "model = load_model(ModelSpec('owner/name'), 1, None)\n"
        "print(model.kind, model.embed(model.tokenize(['red cat'])).shape)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "model2vec (1, 8)\n", run.stderr
