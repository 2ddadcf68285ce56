"""What a pipeline's schedule costs (section 3.3.2): micro-batches whose activations wait at once, and the time ranks idle."""

from __future__ import annotations

from collections.abc import Sequence

from puna.plan.layout import Axes

COUNTED = ("1f1b", "interleaved_1f1b")  # schedules whose order is followed; of the others the bound of their authors is taken


def waiting(axes: Axes, rank: int, micro_batches: int, layers: Sequence[int]) -> list[int]:
    """Micro-batches of each stage of a rank whose activations are kept at once, when most layers' are.

    Args:
        rank: of the pipeline. micro_batches: of one optimiser step, for each data parallel group.
        layers: how many each of the rank's stages has.
    """
    stages = len(layers)
    if axes.pp == 1:
        return [1]
    if axes.schedule in ("gpipe", "looped_bfs"):
        return [micro_batches] * stages
    if axes.schedule in COUNTED:
        return _followed(axes, rank, micro_batches, layers)
    turn = {"interleaved_zero_bubble": stages * _turn(axes, micro_batches), "zbv_zero_bubble": 2 * axes.pp}
    most = min(turn.get(axes.schedule, 2 * axes.pp + 1), stages * micro_batches)
    return [-(-most // stages)] * stages


def _turn(axes: Axes, micro_batches: int) -> int:
    """Micro-batches that a stage runs before the rank's next stage has its turn (the paper's N; torch's schedules take pp)."""
    return micro_batches // max(1, micro_batches // axes.pp)


def _followed(axes: Axes, rank: int, micro_batches: int, layers: Sequence[int]) -> list[int]:
    """One forward, one backward after a warm-up, the stages of a rank in turns: followed pass by pass."""
    stages, turn = len(layers), _turn(axes, micro_batches)
    step = 1 if axes.schedule == "1f1b" else 2
    warm_up = min((stages - 1) * turn + step * (axes.pp - 1 - rank), stages * micro_batches)
    kept, most = [0] * stages, [0] * stages
    for forward in range(stages * micro_batches):
        kept[forward // turn % stages] += 1
        if _weight(kept, layers) > _weight(most, layers):
            most = list(kept)
        if forward >= warm_up:
            kept[stages - 1 - (forward - warm_up) // turn % stages] -= 1
    return most


def _weight(kept: list[int], layers: Sequence[int]) -> tuple[int, int]:
    return sum(number * count for number, count in zip(kept, layers, strict=True)), sum(kept)


def bubble(axes: Axes, micro_batches: int) -> float | None:
    """Time a rank idles over the time it computes: (pp - 1) / (stages of a rank * micro-batches), section 3.3.2.

    A third of it where the weights' gradients fill the gaps (zero bubble, ZB-H1: https://arxiv.org/abs/2401.10241); None for
    the V-shaped schedules, whose rest depends on how long each pass takes.
    """
    if axes.schedule in ("zbv_zero_bubble", "dualpipe_v") and axes.pp > 1:
        return None
    ratio = (axes.pp - 1) / (axes.virtual_stages * micro_batches)
    return ratio / 3 if axes.schedule == "interleaved_zero_bubble" else ratio
