"""Imported before workers are forked: what numba and pyarrow load at their first use in a process, 0.4 s of processor time."""

from __future__ import annotations

import pyarrow as pa
from numba.core.registry import cpu_target

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
pa.array([""])  # imports pandas, where it is installed
