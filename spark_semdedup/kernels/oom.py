"""What is done where a GPU's memory does not suffice: the same again, in blocks half as large.

No answer here depends on the size of the blocks it is computed in. So work that runs out of memory begins anew as a
whole: it is a function of its inputs, nothing half done is kept, and all but its inputs is free again. How often blocks
were halved is known wherever they are made (``halved``), however deep inside the work, and to nothing else.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


_HALVINGS: ContextVar[int] = ContextVar("halvings", default=0)
"""Of the work being done: 0, but inside ``OomRetry.fitted``."""


def shrink(size: int) -> int:
    """Rows or bytes to work on at once, usually ``size``, after the halvings so far; at least 1."""
    return max(1, size >> _HALVINGS.get())


@dataclass
class OomRetry:
    """How often blocks were halved: they are never doubled again, so one of these belongs to each task."""

    halvings: int = 0

    def fitted(self, work: Callable[[], T], batch_size: int) -> T:
        """``work()``; where the GPU's memory does not suffice, again in blocks half as large, until it does.

        ``work`` gives the same whenever it is called. Raises what it raised when a batch, of ``batch_size`` rows at
        first, is down to one.
        """
        while True:
            outer = _HALVINGS.set(self.halvings)
            try:
                return work()
            except Exception as error:
                if not lacks_device_memory(error) or shrink(batch_size) == 1:
                    raise
            finally:
                _HALVINGS.reset(outer)
            # Not before: the exception, gone now, held the frames of the work, and they its arrays.
            release_cached()
            self.halvings += 1

    def left_of(self, batch_size: int) -> int:
        """Rows of a batch that had ``batch_size`` at first."""
        return max(1, batch_size >> self.halvings)


_OUT_OF_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED")
"""What CUDA's runtime, its driver, and cuBLAS or cuSOLVER say when they find no memory of their own."""


def lacks_device_memory(error: BaseException) -> bool:
    """Whether an exception means that a GPU's memory did not suffice (not the host's)."""
    if type(error) is MemoryError and "bad_alloc" in str(error):
        # Of a sort: CuPy gives Thrust no memory, Thrust throws, Cython makes this of it (``cupy/cuda/thrust.pyx``).
        return "cupy" in sys.modules
    if not type(error).__module__.startswith("cupy"):
        return False
    return isinstance(error, MemoryError) or any(status in str(error) for status in _OUT_OF_MEMORY)


def release_cached() -> None:
    """Gives back what CuPy keeps of freed arrays: in pieces of the wrong size, it counts against the pool's limit."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()


@contextmanager
def released_at_end() -> Iterator[None]:
    """Gives back at the end of a partition what CuPy keeps of its freed arrays: other tasks' workers lack it while this
    one is idle."""
    try:
        yield
    finally:
        release_cached()


class AtTaskEnd:
    """Gives it back for a function that Spark calls for one group at a time, and does not tell which is the last.

    The function's closure holds this. pyspark forgets the function, and so this, when the task ends, before the worker
    waits for another task.
    """

    def __init__(self, release: Callable[[], object] = release_cached) -> None:
        self._release = release
        self._watched = False

    def watch(self) -> None:
        """From now on, in this process."""
        if not self._watched:
            self._watched = True
            weakref.finalize(self, self._release).atexit = False
