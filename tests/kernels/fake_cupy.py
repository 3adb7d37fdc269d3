"""As much of CuPy as the GPU's checks take, on NumPy: its arrays are of a class of their own, so that our code takes
the GPU's way, and our kernels run as ``emulation`` compiles them. Times mean nothing here."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kernels import emulation

from spark_semdedup.kernels import arrays

_MADE = ("arange", "array", "asarray", "concatenate", "empty", "full", "linspace", "repeat", "zeros")


class Array(np.ndarray):
    """An array on the "device"."""

    def get(self) -> np.ndarray:
        return np.array(self, subok=False)

    def set(self, values: np.ndarray) -> None:
        self[...] = values

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class _Event:
    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


class _Stream:
    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


def install() -> ModuleType:
    """Makes ``import cupy`` give this, for the rest of the process."""
    cupy = ModuleType("cupy")
    cupy.__dict__.update({name: value for name, value in vars(np).items() if not name.startswith("__")})
    cupy.__dict__.update({name: _made(getattr(np, name)) for name in _MADE})
    attributes = {"L2CacheSize": 50 << 20, "MultiProcessorCount": 1, "ComputeCapabilityMajor": 9}
    properties = {"name": b"emulated", "multiProcessorCount": 1, "l2CacheSize": 50 << 20, "major": 9, "minor": 0}
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda _: properties,
        runtimeGetVersion=lambda: 12000,
        driverGetVersion=lambda: 12000,
    )
    cupy.__version__ = "0 (emulated)"
    cupy.ndarray = Array
    cupy.asnumpy = lambda array: np.array(array, subok=False)
    cupy.ElementwiseKernel = lambda _in, _out, _code, name: _elementwise(name)
    cupy.cuda = SimpleNamespace(
        runtime=runtime,
        Device=lambda *_: SimpleNamespace(id=0, attributes=attributes, use=lambda: None, mem_info=(64 << 30, 80 << 30)),
        Event=_Event,
        Stream=_Stream,
        get_elapsed_time=lambda start, stop: 1000 * (stop.at - start.at),
    )
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    sys.modules["cupy"] = cupy
    device = emulation.Device(emulation.Compiler(Path(tempfile.mkdtemp())))
    device.install(pytest.MonkeyPatch())
    device.memory.empty = _made(device.memory.empty)
    device.memory.asarray = cupy.asarray
    device.memory.ascontiguousarray = _made(np.ascontiguousarray)
    return cupy


def _made(function: Any) -> Any:
    def make(*arguments: Any, **options: Any) -> Array:
        return np.asarray(function(*arguments, **options)).view(Array)

    return make


def _elementwise(name: str) -> Any:
    """What our elementwise kernels are by NumPy's own way of the same function."""
    function = getattr(arrays, name.removeprefix("spark_semdedup_"))

    def apply(*values: np.ndarray) -> Array:
        return function(*(np.asarray(value) for value in values)).view(Array)

    return apply
