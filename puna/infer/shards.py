"""One rank's part of a model (section 6.1): tensor parallel within a node, pipeline parallel across nodes.

A rank holds the layers of its stage, and of each of them its heads, its hidden units and its columns or rows of every matrix:
columns where a matrix reads the residual stream, rows where it writes it, and there the ranks' products are added. Embedding and
output are cut by vocabulary. Every rank reads only its own slices from the disk, so no process needs room for the whole model.

Ranks are numbered stage by stage, so those that share a layer are neighbours. Shape legend as in `puna.model.llama`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.infer.lora import Adapters, MergedWeights
from puna.model.attention import Mask, additive
from puna.model.checkpoint import SCALE, build_model, fill
from puna.model.config import ModelConfig
from puna.model.fp8_linear import ACTIVATION_BOUND, Fp8Linear, quantize_rows, row_maxima
from puna.model.llama import Attached, Block, KVCache, Llama
from puna.model.weight_file import row_blocks
from puna.model.weight_source import DirectoryWeights, Weights
from puna.plan.layout import Axes

COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # cut by output, so are their scales
ROWS = ("o_proj", "down_proj")  # cut by input; their scales are whole
ENDS = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight")


@dataclass(frozen=True)
class Layout:
    """How a model is spread over ranks.

    Attributes:
        tensor: ranks that share each layer. pipeline: stages, each with layers of its own.
        micro_batches: pieces of a call that are in the pipeline at once; None is one for each stage.
        seconds: a rank that waits longer for the others gives up.
    """

    tensor: int = 1
    pipeline: int = 1
    micro_batches: int | None = None
    seconds: float = 600.0

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.tensor * self.pipeline

    def check(self, config: ModelConfig) -> None:
        """InputError when a model does not divide by this layout."""
        if min(self.tensor, self.pipeline, self.micro_batches or 1) < 1:
            raise InputError("a layout needs at least one rank each way and one micro-batch", where="--tensor, --pipeline")
        sizes = {"heads": config.heads, "kv_heads": config.kv_heads, "ffn_dim": config.ffn_dim}
        wrong = [f"{name} {size}" for name, size in sizes.items() if size % self.tensor]
        if wrong:
            raise InputError(f"{self.tensor} tensor parallel ranks do not divide {', '.join(wrong)}", where="--tensor",
                             fix=f"at most --tensor {config.kv_heads}, and --pipeline for the rest")  # fmt: skip
        if self.pipeline > config.layers:
            raise InputError(f"{config.layers} layers are too few for {self.pipeline} stages", where="--pipeline",
                             fix=f"at most --pipeline {config.layers}")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """This process in a layout.

    Attributes:
        tensor_group: the ranks of its stage. talk: all ranks, on the CPU. answers: all ranks, for logits on their way to rank 0.
    """

    layout: Layout
    rank: int
    device: torch.device
    tensor_group: dist.ProcessGroup | None = None
    talk: dist.ProcessGroup | None = None
    answers: dist.ProcessGroup | None = None

    @property
    def stage(self) -> int:
        """Stage of the pipeline."""
        return self.rank // self.layout.tensor

    @property
    def part(self) -> int:
        """Which part of each matrix."""
        return self.rank % self.layout.tensor

    @property
    def first(self) -> bool:
        """Whether this stage has the embedding."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether this stage has the output matrix."""
        return self.stage == self.layout.pipeline - 1

    def layers(self, config: ModelConfig) -> range:
        """The layers of this stage."""
        return Axes(pp=self.layout.pipeline).layers_of(self.stage, config.layers)

    def vocabulary(self, config: ModelConfig, part: int | None = None) -> range:
        """The ids of this rank's part, or of another, of embedding and output."""
        part, parts = self.part if part is None else part, self.layout.tensor
        return range(config.vocab_size * part // parts, config.vocab_size * (part + 1) // parts)

    def shape(self, config: ModelConfig) -> ModelConfig:
        """The shape of this rank's part, as if it were a model of its own."""
        parts = self.layout.tensor
        return replace(
            config, layers=len(self.layers(config)), heads=config.heads // parts, kv_heads=config.kv_heads // parts,
            head_dim=config.head_size, ffn_dim=config.ffn_dim // parts, vocab_size=len(self.vocabulary(config)), tied=False,
        )  # fmt: skip

    def sum(self, x: Tensor) -> Tensor:
        """Sum of x over the ranks of the stage, in float32 and in the order of ranks.

        A ring or a tree would add in an order that depends on where in the message a number stands, hence on the neighbours.
        """
        if self.layout.tensor == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.layout.tensor)]
        dist.all_gather(parts, x.contiguous(), group=self.tensor_group)
        total = parts[0].float()
        for part in parts[1:]:
            total += part
        return total.to(x.dtype)

    def largest(self, x: Tensor) -> Tensor:
        """Elementwise maximum of x over the ranks of the stage, in place."""
        if self.layout.tensor > 1:
            dist.all_reduce(x, op=dist.ReduceOp.MAX, group=self.tensor_group)
        return x


class RowParallel(nn.Module):
    """A matrix cut by its inputs: each rank multiplies its part, the sum is whole on every rank."""

    def __init__(self, linear: nn.Module, place: Place):
        super().__init__()
        self.linear, self.place = linear, place

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.linear, Fp8Linear):
            return self.place.sum(self.linear(x))
        amax = self.place.largest(row_maxima(x))  # a token's scale belongs to the whole token
        quantized, scale = quantize_rows(x, self.linear.activation_bound, amax)
        if x.is_cuda:
            return self.place.sum(self.linear.product(quantized, scale, x.dtype))
        return self.linear.scaled(self.place.sum(self.linear.products(quantized)), scale).to(x.dtype)


class Pipe:
    """Hidden states between this rank and those of the same part in the stages before and after."""

    def __init__(self, place: Place, dim: int, dtype: torch.dtype):
        self.place, self.dim, self.dtype = place, dim, dtype
        self._arriving: deque[tuple[dist.Work | None, Tensor]] = deque()
        self._leaving: list[tuple[dist.Work | None, Tensor]] = []

    def expect(self, shapes: list[tuple[int, int]]) -> None:
        """Get ready for states [B, T, D] of these B and T, in order."""
        for shape in shapes if not self.place.first else ():
            buffer = torch.empty(*shape, self.dim, dtype=self.dtype, device=self.place.device)
            self._arriving.append((dist.irecv(buffer, self.place.rank - self.place.layout.tensor), buffer))

    def take(self) -> Tensor:
        """The next states of those expected."""
        work, buffer = self._arriving.popleft()
        if work is not None:
            work.wait()
        return buffer

    def send(self, x_BTD: Tensor) -> None:
        """Hand states to the next stage without waiting."""
        x_BTD = x_BTD.contiguous()
        self._leaving.append((dist.isend(x_BTD, self.place.rank + self.place.layout.tensor), x_BTD))

    def flush(self) -> None:
        """Wait until everything sent has left."""
        for work, _ in self._leaving:
            if work is not None:
                work.wait()
        self._leaving.clear()


class Stage(Llama):
    """The layers of one rank; `hidden` reads tokens in the first stage and another rank's states in the others.

    Attributes:
        config: of the whole model. shape: of this part.
        dtype: of the states, and of keys and values.
    """

    pipe: Pipe
    dtype: torch.dtype

    def __init__(self, config: ModelConfig, place: Place):
        shape = place.shape(config)
        super().__init__(shape, seed=None)
        self.config, self.shape, self.place = config, shape, place
        if not place.first:
            del self.model.embed_tokens
        if not place.last:
            del self.model.norm, self.lm_head

    def join(self) -> None:
        """Make the matrices that write the residual stream add over ranks, and open the pipe; once the weights are there."""
        for layer in self.model.layers:
            assert isinstance(layer, Block)
            layer.self_attn.o_proj = RowParallel(layer.self_attn.o_proj, self.place)  # type: ignore[assignment]
            layer.mlp.down_proj = RowParallel(layer.mlp.down_proj, self.place)  # type: ignore[assignment]
            self.dtype = layer.input_layernorm.weight.dtype
        self.pipe = Pipe(self.place, self.config.dim, self.dtype)

    def hidden(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None,
        attached: Attached | None = None,
    ) -> Tensor:  # fmt: skip
        assert attached is None, "adapters belong to models that are whole in one process"
        x_BTD = self._embedded(ids_BT) if self.place.first else self.pipe.take()
        rotation = self.model.rope(ids_BT.shape[1], positions_BT, x_BTD.device)
        bias = None if mask is None else additive(mask, x_BTD.dtype)
        for layer in self.model.layers:
            x_BTD = layer(x_BTD, rotation, bias, cache)
        if self.place.last:
            return self.model.norm(x_BTD)
        self.pipe.send(x_BTD)
        return x_BTD

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        own = self.place.vocabulary(self.config)
        elsewhere_BT = (ids_BT < own.start) | (ids_BT >= own.stop)
        x_BTD = self.model.embed_tokens((ids_BT - own.start).masked_fill(elsewhere_BT, 0))
        return self.place.sum(x_BTD.masked_fill(elsewhere_BT[..., None], 0.0))


def load_stage(
    directory: str | Path, place: Place, *, dtype: torch.dtype, lora: Sequence[tuple[str | Path, float]] = ()
) -> Stage:
    """This rank's part of a Hugging Face directory, FP8 ones included, on the device of `place`.

    Args:
        dtype: what weights are cast to. FP8 weights and their scales are never cast.
        lora: as in `load_engine`.

    Raises InputError for whatever `load_engine` refuses, and for a model that does not divide by the layout.
    """
    directory = Path(directory)
    weights: Weights = DirectoryWeights(directory)
    if lora:
        weights = MergedWeights(weights, Adapters(lora))
    config, bound = weights.config, weights.bound or ACTIVATION_BOUND
    place.layout.check(config)
    build_model(config, dict(weights.state), directory, dtype=None, device="meta", activation_bound=bound)  # the whole is right
    with torch.device("meta"):
        stage = Stage(config, place)
    state = {}
    for name in weights.state:
        mine = _own_name(name, config, place)
        if mine is not None:
            part = _own_part(weights, name, place)
            keep = part.dtype == torch.float8_e4m3fn or name.endswith(SCALE)
            state[mine] = part.to(place.device, part.dtype if keep else dtype)
    fill(stage, state, directory, dtype=dtype, device=place.device, activation_bound=bound)
    if config.tied and place.first and place.last:
        stage.tie()
    stage.join()
    return stage.eval()


def _own_name(name: str, config: ModelConfig, place: Place) -> str | None:
    """What a tensor of the model is called in this rank's part; None for one of another stage."""
    if name in ENDS:
        here = place.first if name == ENDS[0] else place.last
        return name if here else None
    head, number, rest = name.removeprefix("model.").split(".", 2)
    layers = place.layers(config)
    return f"model.{head}.{layers.index(int(number))}.{rest}" if int(number) in layers else None


def _own_part(weights: Weights, name: str, place: Place) -> Tensor:
    """This rank's slice of a tensor, read by rows."""
    shape = weights.state[name].shape
    module = name.split(".")[-2]
    parts, part = place.layout.tensor, place.part
    if name in ENDS[:2]:
        own = place.vocabulary(weights.config)
        return weights.rows(ENDS[0] if weights.config.tied else name, own.start, own.stop)  # of a tied pair one is stored
    if module in COLUMNS:
        each = shape[0] // parts
        return weights.rows(name, part * each, (part + 1) * each)
    if module not in ROWS or name.endswith(SCALE):
        return weights.rows(name, 0, shape[0])
    each = shape[1] // parts
    blocks = row_blocks(weights.state[name])
    return torch.cat([weights.rows(name, a, b)[:, part * each : (part + 1) * each].clone() for a, b in blocks])
