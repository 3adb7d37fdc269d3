from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import text_models

pytest.importorskip("model2vec", reason="needs the extra text")

from model2vec import StaticModel

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text.models import ModelSpec, load_model

TEXTS = [
    "red cat",
    "cat red",
    "a house of unknown words",
    "houses and trees",
    "nothing that it has ever seen",
    " ".join(["red", "green", "tree"] * 20),
    "x" * 500 + " dog",
]


def embedded(path, texts, **spec):
    model = load_model(ModelSpec(str(path), **spec), 1, None)
    return model.embed(model.tokenize(texts))


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("max_length", [16, 4, None])
def test_it_gives_what_model2vec_gives(tmp_path, quantised, max_length):
    path = text_models.static_model(tmp_path / "model", quantised=quantised, max_length=max_length)
    expected = StaticModel.from_pretrained(path).encode(TEXTS, normalize=False)
    np.testing.assert_allclose(embedded(path, TEXTS), expected, atol=1e-6)
    assert not expected[4].any(), "a text of unknown words alone is zero"


def test_max_tokens_and_prompt_change_what_is_read(tmp_path):
    path = text_models.static_model(tmp_path / "model")
    rows = text_models.vectors()
    words = [text_models.VOCABULARY.index(word) for word in ("dog", "red", "green", "blue")]
    np.testing.assert_allclose(
        embedded(path, ["red green blue cat"], max_tokens=4, prompt="dog ")[0], rows[words].mean(axis=0), atol=1e-6
    )


def test_a_prompt_longer_than_the_model_reads_is_refused(tmp_path):
    path = text_models.static_model(tmp_path / "model")
    with pytest.raises(SemDedupError, match="maxTokens=2 leaves no token for a text"):
        embedded(path, ["cat"], max_tokens=2, prompt="red green ")
    with pytest.raises(SemDedupError, match="has 200 characters, and the model reads"):
        embedded(path, ["cat"], max_tokens=4, prompt="x" * 200)


@pytest.mark.parametrize("prompt", ["", "dog ", "dog red "])
def test_texts_cut_by_tokens_or_characters_count_as_truncated(tmp_path, prompt):
    spec = ModelSpec(str(text_models.static_model(tmp_path / "model", max_length=4)), prompt=prompt)
    model = load_model(spec, 1, None)
    room = 4 - len(prompt.split())
    texts = ["red " * room, "red " * (room + 1), "x" * 300, "red"]
    assert [tokens.truncated for tokens in model.tokenize(texts)] == [False, True, True, False]
    for text in texts:
        chunks = model.split(text)
        assert "".join(chunks) == text
        tokens = model.tokenize(chunks)
        assert not any(each.truncated for each in tokens)
        assert sum(each.count for each in tokens) == text.count("red") + len(chunks) * len(prompt.split())


@pytest.mark.slow
@text_models.no_potion
def test_a_real_model_gives_what_model2vec_gives():
    corpus = text_models.POTION.parent / "debian" / "part-0.parquet"
    texts = pq.read_table(corpus, columns=["text"])["text"].to_pylist()[:2000]
    expected = StaticModel.from_pretrained(text_models.POTION).encode(texts, normalize=False)
    np.testing.assert_allclose(embedded(text_models.POTION, texts), expected, rtol=1e-5, atol=1e-5)
