"""Tensor and sequence parallelism (section 3.3.2): each matrix is divided over the ranks of an axis, and between two pairs of
matrices the sequence is.

Matrices that read the residual stream are cut by columns (heads, hidden units), those that write it by rows; norms work on a
part of the sequence. Embedding and output are cut by vocabulary, and logits stay cut (`puna.train.vocabulary`).
"""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from puna.model.llama import Llama

WHOLE, SEQUENCE, LAST = Replicate(), Shard(1), Shard(-1)


def block_plan() -> dict[str, ParallelStyle]:
    """How the parts of one block are divided; x comes in and goes out as a part of the sequence, [B,T/tp,D]."""
    columns = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
    columns |= {f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")}
    rows = {name: RowwiseParallel(output_layouts=SEQUENCE) for name in ("self_attn.o_proj", "mlp.down_proj")}
    return {
        "input_layernorm": SequenceParallel(),
        "self_attn": PrepareModuleInput(
            input_layouts=(SEQUENCE, None, None, None), desired_input_layouts=(WHOLE, None, None, None)
        ),
        "post_attention_layernorm": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=(SEQUENCE,), desired_input_layouts=(WHOLE,)),
        **columns,
        **rows,
    }


def divide_matrices(model: Llama, mesh: DeviceMesh) -> None:
    """Divide the matrices of a model, or of a stage of it, over the ranks of `mesh` (one dimension)."""
    ends: dict[str, ParallelStyle] = {
        "model.embed_tokens": RowwiseParallel(input_layouts=WHOLE, output_layouts=SEQUENCE),
        "model.norm": SequenceParallel(),
        "model": PrepareModuleOutput(output_layouts=SEQUENCE, desired_output_layouts=WHOLE),
        "lm_head": ColwiseParallel(input_layouts=WHOLE, output_layouts=LAST, use_local_output=False),
    }
    if not _holds_weights(model, "model.embed_tokens"):
        del ends["model.embed_tokens"]
    if not _holds_weights(model, "lm_head"):
        ends = {name: style for name, style in ends.items() if name == "model.embed_tokens"}
    for layer in model.model.layers:
        if any(True for _ in layer.parameters()):
            parallelize_module(layer, mesh, block_plan())
    parallelize_module(model, mesh, ends)
    if model.config.tied:
        model.tie()


def _holds_weights(model: Llama, name: str) -> bool:
    return any(True for _ in model.get_submodule(name).parameters())
