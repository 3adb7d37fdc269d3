"""Which texts make one forward pass: sorted by length, so that little is padding, and bounded in tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def token_batches(counts: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers of each batch, longest texts first; every row is in one batch.

    A batch of n rows whose longest has t tokens takes n·t ≤ ``batch_tokens`` places, padding included; a single row
    that is longer is a batch of its own. ``counts``: tokens of each row, int (n,).

    Longest first, a device whose memory does not suffice shows it at once.
    """
    order = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // max(1, int(counts[order[start]])))
        yield order[start : start + rows]
        start += rows
