from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spark_semdedup.text.batches import token_batches


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 1000))
def test_every_text_is_in_one_batch_and_batches_are_bounded(counts, batch_tokens):
    counts = np.array(counts, int)
    batches = list(token_batches(counts, batch_tokens))
    assert sorted(np.concatenate([np.zeros(0, int), *batches])) == list(range(len(counts)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * counts[batch].max() <= batch_tokens
    lengths = [int(count) for batch in batches for count in counts[batch]]
    assert lengths == sorted(lengths, reverse=True)


def test_batches_are_as_large_as_the_bound_lets_them_be():
    assert [list(batch) for batch in token_batches(np.array([3, 10, 4, 4, 1]), 12)] == [[1], [2, 3, 0], [4]]
