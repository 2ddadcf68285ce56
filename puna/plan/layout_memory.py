"""Bytes that one process needs under a layout: the closed form of what `puna.train.parallel` holds (section 3.3.2).

Weights, gradients and both AdamW moments are float32 and spread over tp and the sharding ranks. Products read gathered copies; a
pipeline keeps those of its stages. Gradients of several micro-batches add up unsharded in float32 and are reduced once. What
autograd keeps is that of torch's composite operations; fused kernels keep less. Tests hold every part to models really placed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from puna.model.config import ModelConfig
from puna.plan.layout import Axes, Recompute
from puna.plan.pipeline import waiting

FP32 = 4  # bytes


@dataclass(frozen=True)
class Work:
    """What the processes run.

    Attributes:
        seq_len: tokens of a row, before context parallelism divides them.
        micro_batches: of one optimiser step in each data parallel group, `rows` rows each.
        element: bytes of one number in products: 2 in BF16, 4 in FP32.
        loss_chunk: positions whose logits exist at a time; None: all of a micro-batch.
        dense_mask: attention reads a number for every pair of positions, as it does on a CPU where rows hold several documents
            or are shared; block masks on a GPU are small.
    """

    seq_len: int
    micro_batches: int
    rows: int = 1
    element: int = 2
    loss_chunk: int | None = None
    dense_mask: bool = False


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one process by part.

    Attributes:
        weights, gradients, moments: its float32 shares.
        gathered: whole weights for the products. summed: unsharded gradients of micro-batches.
        activations: kept for the backward pass by all micro-batches on their way, and one layer while it is computed again.
        passed: what stages of a pipeline hand to one another. logits: of one micro-batch or chunk, with softmax and gradient.
    """

    weights: int
    gradients: int
    moments: int
    gathered: int
    summed: int
    activations: int
    passed: int
    logits: int

    @property
    def state(self) -> int:
        """The float32 shares: what a checkpoint writes, and the gradients."""
        return self.weights + self.gradients + self.moments

    @property
    def total(self) -> int:
        """All parts at once."""
        return sum(asdict(self).values())


def rank_memory(config: ModelConfig, axes: Axes, work: Work, rank: int) -> RankMemory:
    """Bytes of a process at place `rank` of the pipeline; all with that place need the same."""
    share = FP32 * sum(stage_shares(config, axes, stage) for stage in axes.stages_of(rank))
    gathered, summed = _whole(config, axes, work, rank)
    return RankMemory(
        weights=share, gradients=share, moments=2 * share, gathered=work.element * gathered, summed=FP32 * summed,
        activations=_activations(config, axes, work, rank), passed=_passed(config, axes, work, rank),
        logits=_logits(config, axes, work) if _has_end(axes, rank) else 0,
    )  # fmt: skip


def peak(config: ModelConfig, axes: Axes, work: Work) -> tuple[int, RankMemory]:
    """The place in the pipeline that needs most, and how much that is."""
    return max(((rank, rank_memory(config, axes, work, rank)) for rank in range(axes.pp)), key=lambda found: found[1].total)


# ---- parameters


def _layer(config: ModelConfig, axes: Axes) -> tuple[int, int]:
    """Parameters of one layer on a tensor parallel rank: of matrices, which tp divides, and of norms, which it does not."""
    norms = 2 * config.dim
    return (config.layer_parameters() - norms) // axes.tp, norms


def stage_parameters(config: ModelConfig, axes: Axes, stage: int) -> tuple[int, int]:
    """Parameters of one stage on a tensor parallel rank before sharding: (matrices, norms)."""
    layers = len(axes.layers_of(stage, config.layers))
    matrices, norms = (layers * part for part in _layer(config, axes))
    first, last = stage == 0, stage == axes.stages - 1
    if first or last:
        tables = 1 if config.tied else first + last
        matrices += tables * -(-config.vocab_size // axes.tp) * config.dim
    return matrices, norms + (config.dim if last else 0)


def stage_shares(config: ModelConfig, axes: Axes, stage: int) -> int:
    """Parameters of one stage that one process keeps, rounded up where they do not divide."""
    return -(-sum(stage_parameters(config, axes, stage)) // axes.shards)


def _whole(config: ModelConfig, axes: Axes, work: Work, rank: int) -> tuple[int, int]:
    """Numbers of unsharded weights and of unsharded gradients at once.

    Without a pipeline a layer's weights are there while it computes, and the next one's already; embedding and output stay. The
    gradient of the embedding is not divided by tp: torch's lookup in rows of a cut table makes a gradient of all rows.
    """
    everything = sum(sum(stage_parameters(config, axes, stage)) for stage in axes.stages_of(rank))
    layer = sum(_layer(config, axes))
    ends = everything - sum(_layers(config, axes, rank)) * layer
    lookup = (config.vocab_size - -(-config.vocab_size // axes.tp)) * config.dim if rank == 0 else 0
    weights = everything if axes.pp > 1 else ends + min(2, config.layers) * layer
    gradients = everything if axes.pp > 1 or work.micro_batches > 1 else max(ends, layer)
    return weights, gradients + lookup


def _layers(config: ModelConfig, axes: Axes, rank: int) -> list[int]:
    return [len(axes.layers_of(stage, config.layers)) for stage in axes.stages_of(rank)]


def _has_end(axes: Axes, rank: int) -> bool:
    return axes.stages - 1 in axes.stages_of(rank)


# ---- activations


def layer_bytes(config: ModelConfig, axes: Axes, element: int, recompute: Recompute) -> int:
    """Bytes that one layer keeps of one token of a rank's rows between forward and backward.

    Norms work on a part of the sequence and keep their input (in float32) and what they multiply with their weight. What they
    put out is gathered over tp and kept whole, once for attention and once for the feed-forward part. Queries, attention's
    output and the feed-forward numbers (gate, its silu, up, their product) are divided by tp; so are keys and values, which
    context parallelism gathers. "selective" keeps the layer's input and the results of products, those of the two that write
    the residual stream before tp sums them; "full" keeps the input.
    """
    tp, dim = axes.tp, config.dim
    heads, kv = config.heads * config.head_size, config.kv_heads * config.head_size
    entry, sums = element * dim // tp, FP32 * config.heads // tp  # of the softmax, one number a head
    if recompute == "full":
        return entry
    if recompute == "selective":
        return entry + element * ((2 * heads + 2 * kv + 2 * config.ffn_dim) // tp + 2 * dim) + sums
    norms = 2 * (FP32 + element) * dim // tp + 2 * element * dim
    return norms + element * (2 * heads + 2 * kv * axes.cp + 4 * config.ffn_dim) // tp + sums


def _activations(config: ModelConfig, axes: Axes, work: Work, rank: int) -> int:
    layers, tokens = _layers(config, axes, rank), work.rows * work.seq_len // axes.cp
    kept = waiting(axes, rank, work.micro_batches, layers)
    each = layer_bytes(config, axes, work.element, axes.recompute)
    again = layer_bytes(config, axes, work.element, "none") if axes.recompute != "none" else 0
    rope = 2 * FP32 * config.head_size
    mask = work.element * work.seq_len if work.dense_mask else 0
    total = sum(count * (depth * each + rope + mask) for count, depth in zip(kept, layers, strict=True)) + again
    if axes.recompute != "none" or work.element == FP32:  # the first layer keeps what the stage received: see `_passed`
        received = sum(count for count, stage in zip(kept, axes.stages_of(rank), strict=True) if stage > 0)
        total -= received * work.element * config.dim // axes.tp
    if _has_end(axes, rank):
        end = (FP32 + work.element) * config.dim // axes.tp + 2 * work.element * config.dim  # norm; states, those learnt from
        total += kept[axes.stages_of(rank).index(axes.stages - 1)] * end
    return tokens * total


def _passed(config: ModelConfig, axes: Axes, work: Work, rank: int) -> int:
    """Outputs that wait with their micro-batch, and a place for every input and every gradient a stage will receive."""
    if axes.pp == 1:
        return 0
    stages = axes.stages_of(rank)
    one = work.element * work.rows * work.seq_len // (axes.cp * axes.tp) * config.dim
    received = sum((stage > 0) + (stage < axes.stages - 1) for stage in stages)
    kept = waiting(axes, rank, work.micro_batches, _layers(config, axes, rank))
    sent = sum(count for count, stage in zip(kept, stages, strict=True) if stage < axes.stages - 1)
    return one * (work.micro_batches * received + sent)


def _logits(config: ModelConfig, axes: Axes, work: Work) -> int:
    """At their most: whole ones as logarithms with two gradients, cut ones as shares with theirs (and its copy in BF16)."""
    positions = work.rows * work.seq_len // axes.cp
    positions = min(positions, work.loss_chunk or positions)
    each = 3 * FP32 if axes.tp == 1 else 2 * FP32 + (work.element if work.element < FP32 else 0)
    return positions * -(-config.vocab_size // axes.tp) * each
