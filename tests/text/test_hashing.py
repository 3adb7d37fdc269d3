from __future__ import annotations

import os
import subprocess
import sys
import zlib

import numpy as np
import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text.hashing import DEFAULT_DIM, HashingModel, hashing_dim


def vectors(*texts: str, dim: int = 512) -> np.ndarray:
    model = HashingModel(dim)
    return model.embed(model.tokenize(texts))


def test_each_word_and_pair_of_words_adds_its_weight_where_its_hash_says():
    expected = np.zeros(32)
    for feature, count in {"big": 2, "cat": 1, "big big": 1, "big cat": 1}.items():
        hash_ = zlib.crc32(feature.encode())
        expected[(hash_ >> 1) % 32] += (1 if hash_ & 1 else -1) * (1 + np.log(count))
    np.testing.assert_allclose(vectors("Big, BIG cat!", dim=32)[0], expected, rtol=1e-6)


def test_texts_that_share_words_are_more_similar():
    a, b, c = vectors("a fast editor for text", "a fast editor for plain text", "kernel modules for old hardware")
    assert cosine(a, b) > 0.6 > 0.3 > cosine(a, c)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_another_process_gives_the_same():
    code = (
        "from spark_semdedup.text.hashing import HashingModel as H; m = H(64);"
        "print(m.embed(m.tokenize(['some text in here'])).tobytes().hex())"
    )
    seeds = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert len({*seeds, vectors("some text in here", dim=64).tobytes().hex() + "\n"}) == 1


def test_the_name_says_the_dimension():
    assert hashing_dim("hashing") == DEFAULT_DIM
    assert hashing_dim("hashing:7") == 7
    assert hashing_dim("intfloat/e5-small") is None
    assert hashing_dim("hashing-model") is None


@pytest.mark.parametrize(
    "name", ["hashing:0", "hashing:x", "hashing:-1", "hashing:65537", "hashing:٣", "hashing:" + "9" * 5000]
)
def test_another_dimension_is_refused(name):
    with pytest.raises(SemDedupError, match="must be hashing:DIM, with DIM from 1 to 65536"):
        hashing_dim(name)
