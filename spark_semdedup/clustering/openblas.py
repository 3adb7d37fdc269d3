"""FAISS, whose matrix products are as fast as the processor: ``import_faiss``."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

CORE_TYPE = "OPENBLAS_CORETYPE"

_KINDS = {
    "SkylakeX": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "Haswell": {"avx2", "fma"},
}
"""What OpenBLAS calls its products for processors with such instructions, the fastest first."""


@functools.cache
def import_faiss() -> ModuleType:
    """The package ``faiss``. A ``CORE_TYPE`` that the user has set stays.

    FAISS's wheels bring OpenBLAS 0.3.15 of 2021, which takes a processor that it does not know, such as Intel's since
    2023, for one of 2004 without AVX: products then take 4.5 times as long. It reads the variable as it is loaded.
    """
    kind = None if CORE_TYPE in os.environ else kind_of(processor_flags())
    if kind:
        os.environ[CORE_TYPE] = kind
    try:
        import faiss
    finally:
        if kind:
            del os.environ[CORE_TYPE]
    return faiss  # type: ignore[no-any-return, unused-ignore]


def kind_of(flags: Collection[str]) -> str | None:
    """OpenBLAS's name for a processor with these instructions; None where it may choose by itself."""
    return next((kind for kind, needed in _KINDS.items() if needed <= set(flags)), None)


def processor_flags() -> set[str]:
    """Instructions of this processor, as Linux names them; none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
