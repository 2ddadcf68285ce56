"""Which of the implementations of `logits(spans)` an engine takes, with the cache it computes over."""

from __future__ import annotations

import torch

from puna.infer.cache import PagedCache
from puna.infer.native import Kernels, native_steps, say_once
from puna.infer.rank_steps import RankSteps
from puna.infer.shards import Stage
from puna.infer.sight import Eyes, SightSteps
from puna.infer.spans import Steps
from puna.infer.torch_steps import TorchSteps
from puna.model.llama import Llama


def open_steps(model: Llama, *, pages: int, page_size: int, kernels: Kernels, eyes: Eyes | None) -> tuple[PagedCache, Steps]:
    """A cache of `pages` pages and the steps of a model over it; `kernels` and `eyes` as in `Engine`.

    Steps are those of all ranks for a part of a model, of the GPU for bfloat16 on one, else native or PyTorch's.
    """
    if isinstance(model, Stage):
        ranks = RankSteps(model, pages, page_size)
        return ranks.cache, ranks
    config, weight = model.config, model.model.embed_tokens.weight
    cache = PagedCache(
        layers=config.layers, pages=pages, page_size=page_size, kv_heads=config.kv_heads, head_dim=config.head_size,
        dtype=weight.dtype, device=weight.device,
    )  # fmt: skip
    steps: Steps = _cuda_steps(model, cache, kernels) or native_steps(model, cache, kernels) or TorchSteps(model, cache)
    return cache, steps if eyes is None else SightSteps(steps, TorchSteps(model, cache, eyes.attach))


def _cuda_steps(model: Llama, cache: PagedCache, kernels: Kernels) -> Steps | None:
    """The GPU's steps, None for a model that is not in bfloat16 on one, and, said once, where triton is missing."""
    if kernels != "auto" or not cache.storage.is_cuda or cache.storage.dtype != torch.bfloat16:
        return None
    try:
        import triton  # noqa: F401
    except ImportError:
        say_once("computing with PyTorch alone, slower than with Triton's kernels: triton is not installed")
        return None
    from puna.infer.cuda_steps import CudaSteps

    return CudaSteps(model, cache)
