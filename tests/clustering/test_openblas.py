"""FAISS is loaded with the products that suit the processor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spark_semdedup.clustering.openblas import CORE_TYPE, kind_of, processor_flags

AVX2 = {"sse2", "avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

LOADED = f"""
import os
from spark_semdedup.clustering.openblas import import_faiss
import_faiss()
from threadpoolctl import threadpool_info
print([each["architecture"] for each in threadpool_info() if "faiss" in each["filepath"] and "architecture" in each])
print(os.environ.get({CORE_TYPE!r}))
"""


@pytest.mark.parametrize(
    ("flags", "kind"),
    [(AVX512, "SkylakeX"), (AVX512 - {"avx512vl"}, "Haswell"), (AVX2, "Haswell"), (AVX2 - {"fma"}, None), ((), None)],
)
def test_products_are_those_of_the_processor_s_instructions(flags, kind):
    assert kind_of(flags) == kind


@pytest.mark.parametrize("chosen", [None, "Nehalem"])
def test_the_library_takes_them_unless_the_user_has_chosen(chosen):
    """And other libraries and processes, which know the processor better, are left alone."""
    pytest.importorskip("threadpoolctl")
    kind = kind_of(processor_flags())
    if kind is None:
        pytest.skip("this processor has no AVX2, or is no x86")
    environment = {name: value for name, value in os.environ.items() if name != CORE_TYPE}
    environment |= {CORE_TYPE: chosen} if chosen else {}
    done = subprocess.run([sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=True)
    architectures, left = done.stdout.splitlines()
    if architectures == "[]":
        pytest.skip("this faiss brings no OpenBLAS")
    assert architectures == str([chosen or kind])
    assert left == str(chosen)
