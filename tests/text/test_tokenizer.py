from __future__ import annotations

import pytest
import text_models
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="needs the extra text")

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text import words
from spark_semdedup.text.tokenizer import TextTokenizer

WORDS = [*text_models.WORDS[:7], "houses", "Ünknown", "  ", "\n", "x" * 150]


def texts():
    return st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


@settings(deadline=None)
@given(texts(), st.integers(5, 12), st.sampled_from(["", "red: ", "cat tr"]))
def test_chunks_joined_are_the_text_and_none_is_truncated(text, most, prompt):
    tokenizer = TextTokenizer(text_models.tokenizer(), most, prompt=prompt)
    chunks = tokenizer.split(text)
    assert "".join(chunks) == text
    assert not any(tokens.truncated for tokens in tokenizer.tokenize(chunks))
    (whole,) = tokenizer.tokenize([text])
    assert not whole.truncated or len(chunks) > 1
    assert prompt or whole.truncated == (len(chunks) > 1)  # with the prompt's end, a text's first word may be one token


def test_a_text_is_cut_to_the_limit_special_tokens_included():
    short, long = TextTokenizer(text_models.tokenizer(), 5).tokenize(["red cat", "red green blue cat dog"])
    words = {word: number for number, word in enumerate(text_models.VOCABULARY)}
    assert short.value.tolist() == [words[word] for word in ("[CLS]", "red", "cat", "[SEP]")]
    assert long.value.tolist() == [words[word] for word in ("[CLS]", "red", "green", "blue", "[SEP]")]
    assert (short.count, short.truncated, long.count, long.truncated) == (4, False, 5, True)


@pytest.mark.parametrize(
    ("most", "prompt", "message"),
    [
        (2, "", "maxTokens=2 leaves no token for a text: the model adds 2 special tokens; raise maxTokens"),
        (4, "red cat ", "the model adds 2 special tokens, and prompt='red cat ' has 2; .* or give a shorter prompt"),
    ],
)
def test_a_limit_without_room_for_a_text_is_refused(most, prompt, message):
    with pytest.raises(SemDedupError, match=message):
        TextTokenizer(text_models.tokenizer(), most, prompt=prompt)


def test_the_tokenizer_s_own_padding_and_limit_do_not_count():
    own = text_models.tokenizer()
    own.enable_padding(length=20)
    own.enable_truncation(3)
    (tokens,) = TextTokenizer(own, None).tokenize(["red green blue cat"])
    assert (tokens.count, tokens.truncated) == (6, False)


# --- words --------------------------------------------------------------------------------------------------

PIECES = [
    *WORDS,
    "red",
    "trees",
    ".",
    "(cat)",
    "c++",
    "[UNK]",
    "UNK]",
    "cafe\u0301",
    "\u0301",
    "猫",
    "İΣ",
    "\x1c",
    "\x85",
    "\u00a0",
    "\t",
]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), max_size=9), st.integers(1, 12) | st.none())
def test_words_looked_up_give_the_tokenizer_s_own_ids(texts, most):
    own = text_models.tokenizer()
    own.add_special_tokens(["[UNK]"])
    by_words = TextTokenizer(own, most, special_tokens=False)
    assert by_words._words is not None
    own = text_models.tokenizer()
    own.add_special_tokens(["[UNK]"])
    if most is not None:
        own.enable_truncation(most)
    for _ in range(2):  # words that are new, and known ones
        for text, tokens in zip(texts, by_words.tokenize(texts), strict=True):
            expected = own.encode(text, add_special_tokens=False)
            assert tokens.value.tolist() == expected.ids
            assert (tokens.count, tokens.truncated) == (len(expected.ids), bool(expected.overflowing))


def test_no_more_words_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(words, "_MOST_WORDS", 3)
    tokenizer = TextTokenizer(text_models.tokenizer(), None, special_tokens=False)
    expected = [tokens.value.tolist() for tokens in tokenizer.tokenize(["red green", "blue cat dog"])]
    for _ in range(3):
        assert [tokens.value.tolist() for tokens in tokenizer.tokenize(["red green", "blue cat dog"])] == expected
        tokenizer.tokenize(["tree house", "x" * 65, "y" * 64])
        assert len(tokenizer._words._known) <= 3 + 6
        assert "x" * 65 not in tokenizer._words._known


def test_other_tokenizers_go_through_whole_texts():
    from tokenizers import normalizers, pre_tokenizers

    spaced, joined, added = (text_models.tokenizer() for _ in range(3))
    spaced.pre_tokenizer = pre_tokenizers.Metaspace()
    joined.normalizer = normalizers.Replace(" ", "")
    added.add_tokens(["red cat"])
    for own in (spaced, joined, added):
        assert TextTokenizer(own, None, special_tokens=False)._words is None
    assert TextTokenizer(text_models.tokenizer(), None)._words is None, "special tokens are at a text's ends"
