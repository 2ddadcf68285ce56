"""Whether an engine computes with PyTorch or with the kernels of `puna.infer.kernels`, decided once for all of its steps.

Never by batch or step: the two round differently, and a request must not change between them when neighbours come and go. The
kernels take every row on its own, in prompts as in answers, so what they say is the same to the bit under any schedule.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Literal, get_args

from torch import Tensor

from puna.core.errors import InputError
from puna.infer.cache import PagedCache
from puna.infer.kernels.build import Unavailable, library
from puna.infer.kernels.pack import Compute
from puna.infer.kernels.step import NativeModel, why_not
from puna.infer.spans import Spans
from puna.model.llama import Llama

Kernels = Literal["auto", "torch", "native", "int8"]


def check_kernels(kernels: str) -> None:
    """InputError for kernels that do not exist."""
    if kernels not in get_args(Kernels):
        raise InputError(f"there are no kernels '{kernels}'", where="--kernels", fix=f"one of: {', '.join(get_args(Kernels))}")


def native_steps(model: Llama, cache: PagedCache, kernels: Kernels) -> NativeSteps | None:
    """The native steps of a model over `cache`, None for PyTorch's.

    `auto` takes the kernels for a model in bfloat16 (FP8 matrices included) on a CPU, and says so once where they cannot be
    compiled; a float32 model computes in float32, with PyTorch. `native` raises InputError for a model they cannot run and
    `Unavailable` without a compiler; `int8` is `native` with every matrix and what it multiplies rounded to 8 bits.
    """
    check_kernels(kernels)
    if kernels == "torch" or (kernels == "auto" and why_not(model) is not None):
        return None
    try:
        return NativeSteps(model, cache, compute="int8" if kernels == "int8" else "exact")
    except Unavailable as error:
        if kernels != "auto":
            raise
        say_once(f"decoding with PyTorch, several times slower than with the native kernels: {error.sentence()}")
        return None


def runs_native(model: Llama) -> bool:
    """Whether an engine computes this model with the kernels by itself. Compiles them where they are not yet, or says why not."""
    if why_not(model) is not None:
        return False
    try:
        library()
    except Unavailable as error:
        say_once(f"sampling in float32 with PyTorch, slower than the native kernels in bfloat16: {error.sentence()}")
        return False
    return True


@lru_cache(maxsize=16)
def say_once(line: str) -> None:
    """One line on the error stream, once for each process."""
    print(line, file=sys.stderr)


class NativeSteps:
    """Runs of tokens as `NativeModel` takes them. The weights are packed once, as they are now."""

    mixes = True

    def __init__(self, model: Llama, cache: PagedCache, *, level: str | None = None, compute: Compute = "exact"):
        self.model = NativeModel(model, cache, level=level, compute=compute)

    def logits(self, spans: Spans) -> Tensor:
        """Write the runs' keys and values to their pages; float32 logits [Q, V] after the tokens asked for."""
        return self.model.logits(spans.tokens, spans.positions, spans.sequence, spans.table, spans.wanted)
