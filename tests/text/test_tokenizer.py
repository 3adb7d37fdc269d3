from __future__ import annotations

import pytest
import text_models
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra text")

from spark_semdedup.text.tokenizer import TextTokenizer

WORDS = [*text_models.WORDS[:7], "houses", "Ünknown", "  ", "\n", "x" * 150]


def texts():
    return st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


@settings(deadline=None)
@given(texts(), st.integers(3, 12))
def test_chunks_joined_are_the_text_and_none_is_truncated(text, most):
    tokenizer = TextTokenizer(text_models.tokenizer(), most)
    chunks = tokenizer.split(text)
    assert "".join(chunks) == text
    assert not any(tokens.truncated for tokens in tokenizer.tokenize(chunks))
    (whole,) = tokenizer.tokenize([text])
    assert whole.truncated == (len(chunks) > 1)


def test_a_text_is_cut_to_the_limit_special_tokens_included():
    short, long = TextTokenizer(text_models.tokenizer(), 5).tokenize(["red cat", "red green blue cat dog"])
    words = {word: number for number, word in enumerate(text_models.VOCABULARY)}
    assert short.value.tolist() == [words[word] for word in ("[CLS]", "red", "cat", "[SEP]")]
    assert long.value.tolist() == [words[word] for word in ("[CLS]", "red", "green", "blue", "[SEP]")]
    assert (short.count, short.truncated, long.count, long.truncated) == (4, False, 5, True)


def test_the_tokenizer_s_own_padding_and_limit_do_not_count():
    own = text_models.tokenizer()
    own.enable_padding(length=20)
    own.enable_truncation(3)
    (tokens,) = TextTokenizer(own, None).tokenize(["red green blue cat"])
    assert (tokens.count, tokens.truncated) == (6, False)
