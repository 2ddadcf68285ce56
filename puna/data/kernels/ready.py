"""Imported before workers are forked: what numba loads for its first function in a process, 0.2 s of processor time."""

from __future__ import annotations

from numba.core.registry import cpu_target

cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
