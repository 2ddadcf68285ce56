"""How the kernels of HTML are compiled: without reference counts, which a function that makes no array does not need.

numba counts references of the arrays at every call, with atomic steps; in functions of a few instructions for every tag that was
a third to a half of the time.
"""

from __future__ import annotations

from typing import Any

from numba import njit

OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}  # the last is numba's, and not among the documented ones

kernel = njit(**OPTIONS)
inlined = njit(**OPTIONS, forceinline=True)  # small, and called for every byte or tag
