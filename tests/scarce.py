"""Arrays in short supply: NumPy's, but for an error that CuPy raises where one would take too many bytes."""

from __future__ import annotations

import numpy as np

CupysError = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})


class Scarce(np.ndarray):
    """An array of which none derived, temporaries included, may take more than ``limit`` bytes; as on a small GPU."""

    limit = 0

    def __array_finalize__(self, source) -> None:
        self._refuse(self)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        plain = [np.asarray(x) if isinstance(x, Scarce) else x for x in inputs]
        if out is not None:
            settings["out"] = tuple(np.asarray(x) if isinstance(x, Scarce) else x for x in out)
        found = getattr(ufunc, method)(*plain, **settings)
        if out is not None:
            return out[0]
        if not isinstance(found, np.ndarray):
            return found
        self._refuse(found)
        return found.view(Scarce)

    @staticmethod
    def _refuse(array: np.ndarray) -> None:
        if array.base is None and array.nbytes > Scarce.limit:
            raise CupysError(f"Out of memory allocating {array.nbytes} bytes")
