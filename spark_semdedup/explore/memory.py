"""What fits in this machine's memory, so that a sample that does not is refused before it is drawn."""

from __future__ import annotations

import math
import os
from pathlib import Path

from spark_semdedup.errors import SemDedupError

MEMORY_SHARE = 0.5
"""Share of the memory that is free, that a sample and what is computed from it may take."""


def available_memory() -> int:
    """Bytes of memory that this machine can still give; as many as it has where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 8 << 30


TEXT_COPIES = 4
"""Times the bytes of texts that they take: as Arrow's, as Python's, and while they are made clean."""


def refuse_too_large(
    rows: int, dim: int, *, bytes_per_pair: float = 0.0, text_bytes: float = 0.0, purpose: str = "the sample"
) -> None:
    """A ``SemDedupError`` where ``rows`` vectors, their texts of ``text_bytes`` in all, and ``bytes_per_pair`` for each
    pair, would not fit in memory."""
    per_row = 16 * dim + TEXT_COPIES * text_bytes / max(rows, 1)  # float32, its float64 source and a copy
    needed = rows * per_row + bytes_per_pair * rows * (rows - 1) / 2
    limit = MEMORY_SHARE * available_memory()
    if needed <= limit:
        return
    fits = int(limit / per_row) if not bytes_per_pair else int(math.sqrt(2 * limit / bytes_per_pair))
    raise SemDedupError(
        f"{purpose} of {rows:,} rows needs {needed / 2**30:,.1f} GiB, and {limit / 2**30:,.1f} GiB of memory may be "
        f"used: lower sample_rows to {max(fits, 1):,} or less"
    )
