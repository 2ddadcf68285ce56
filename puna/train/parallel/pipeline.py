"""Pipeline parallelism (section 3.3.2): the layers are divided over ranks, and micro-batches follow one another through them.

torch's schedules order the passes; any number of micro-batches goes, as the paper's own schedule allows. A stage is the same
network with the other stages' parts replaced by ones that pass on what they get, so parameters keep their names and a checkpoint
does not know where it was cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class

from puna.core.errors import InputError
from puna.model.attention import Mask
from puna.model.llama import Llama
from puna.train.objectives import Objective
from puna.train.packing import Batch, SharedRows
from puna.train.parallel.layout import Layout
from puna.train.place import add_up

SCHEDULES = {
    "gpipe": "GPipe", "1f1b": "1F1B", "looped_bfs": "LoopedBFS", "interleaved_1f1b": "Interleaved1F1B",
    "interleaved_zero_bubble": "InterleavedZeroBubble", "zbv_zero_bubble": "ZBVZeroBubble", "dualpipe_v": "DualPipeV",
}  # fmt: skip
BATCH_PARTS = ("ids_BT", "targets_BT", "positions_BT", "documents_BT")


class PassOn(nn.Module):
    """Stands where another stage has its part of the network."""

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return x


def prune(model: Llama, layout: Layout, stage: int) -> None:
    """Leave of a model only what one stage of the pipeline holds."""
    mine = layout.layers_of(stage, model.config.layers)
    for number in range(model.config.layers):
        if number not in mine:
            model.model.layers[number] = PassOn()
    if stage > 0:
        model.model.embed_tokens = PassOn()  # type: ignore[assignment]
    if stage < layout.stages - 1:
        model.model.norm = PassOn()  # type: ignore[assignment]
        model.lm_head = PassOn()  # type: ignore[assignment]


class Pipeline:
    """The stages of this rank, and the schedules that run them.

    Args:
        parts: modules of this rank's stages, in the order of `layout.stages_of`.
        group: ranks of the pipeline. rank: of this process in it.
    """

    def __init__(self, parts: list[Any], layout: Layout, group: dist.ProcessGroup, rank: int, device: torch.device):
        self.parts, self.layout, self.group, self.rank, self.device = parts, layout, group, rank, device
        self.numbers = layout.stages_of(rank)
        self._schedules: dict[tuple[int, ...], Any] = {}
        self._objective: Objective
        self._batches: list[Batch]
        self._scales: Mapping[str, float]
        self._found: dict[int, dict[str, Tensor]]

    def backward(
        self, objective: Objective, batches: list[Batch], scales: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Forward and backward of all micro-batches of a step; sums are those of the last stage, empty elsewhere.

        Raises:
            InputError: there are fewer micro-batches than stages of a rank's turn, or they are of unequal shapes.
        """
        self._objective, self._batches, self._scales, self._found = objective, batches, scales, {}
        shapes = {tuple(batch.ids_BT.shape) for batch in batches}
        if len(shapes) > 1 or len(batches) < self.layout.pp:
            raise InputError(
                f"a pipeline of {self.layout.pp} ranks has {len(batches)} micro-batches of {len(shapes)} shapes",
                where="micro_rows", fix="choose micro_rows so that the rows of a step make enough equal parts",
            )  # fmt: skip
        schedule = self._schedule(len(batches), *next(iter(shapes)))
        ids, positions, mask = joined(batches)
        given = {"positions_BT": positions} | ({} if mask is None else {"mask": mask})
        first, last = 0 in self.numbers, self.layout.stages - 1 in self.numbers
        which = torch.arange(len(batches), device=ids.device).repeat_interleave(len(batches[0].ids_BT)) if last else None
        schedule.step(*((ids,) if first else ()), target=which, return_outputs=False, **given)
        totals: dict[str, Tensor] = {}
        for number in sorted(self._found):
            add_up(totals, self._found[number])
        return totals, totals.pop("", torch.zeros((), device=self.device))

    def _schedule(self, *shape: int) -> Any:
        """The schedule for a number of micro-batches of one shape [B,T]; stages learn their shapes at the first step."""
        if shape not in self._schedules:
            stages = [
                PipelineStage(part, number, self.layout.stages, self.device, group=self.group)
                for part, number in zip(self.parts, self.numbers, strict=True)
            ]
            kind = get_schedule_class(SCHEDULES[self.layout.schedule])
            single = issubclass(kind, PipelineScheduleSingle)
            stage: Any = stages[0] if single else stages
            self._schedules = {shape: kind(stage, n_microbatches=shape[0], loss_fn=self._loss, scale_grads=False)}
        return self._schedules[shape]

    def _loss(self, states_BTD: Tensor, which_B: Tensor) -> Tensor:
        """Loss of one micro-batch at the last stage, whose number its targets carry; learning shapes asks once more."""
        number = int(which_B[0])
        batch = self._batches[number]
        terms, others = self._objective.sums(_Given(states_BTD, self.parts[-1].lm_head), batch)
        loss = sum(
            (terms[term] * scale for term, scale in self._scales.items()), start=states_BTD.new_zeros((), dtype=torch.float32)
        )
        self._found[number] = {key: torch.as_tensor(value).detach() for key, value in {**terms, **others, "": loss}.items()}
        return loss

    @torch.no_grad()
    def states(self, ids_BT: Tensor, positions_BT: Tensor, mask: Mask | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """States after the last stage, on every rank: one batch walks through the stages.

        Args:
            shape: of what stages hand on. like: a tensor of the dtype they hand on.
        """
        at: Tensor = ids_BT
        for stage in range(self.layout.stages):
            here, before = self.layout.rank_of(stage), self.layout.rank_of(max(stage - 1, 0))
            if before != here and self.rank == before:
                dist.send(at.contiguous(), group=self.group, group_dst=here)
            if self.rank == here:
                if before != here:
                    at = torch.empty(shape, dtype=like.dtype, device=self.device)
                    dist.recv(at, group=self.group, group_src=before)
                at = self.parts[self.numbers.index(stage)](at, positions_BT=positions_BT, mask=mask)
        return self.from_last(at if self.rank == self.layout.rank_of(self.layout.stages - 1) else None)

    def from_last(self, found: Tensor | None) -> Tensor:
        """What the rank of the last stage has, on every rank of the pipeline."""
        last = self.layout.rank_of(self.layout.stages - 1)
        shape: list[Any] = [None if found is None else (tuple(found.shape), found.dtype)]
        dist.broadcast_object_list(shape, group=self.group, group_src=last)
        size, kind = shape[0]
        whole = torch.empty(size, dtype=kind, device=self.device) if found is None else found.contiguous()
        dist.broadcast(whole, group=self.group, group_src=last)
        return whole


class _Given:
    """What an objective asks of a model, when the states are there already."""

    def __init__(self, states_BTD: Tensor, lm_head: nn.Module):
        self.states_BTD, self.lm_head = states_BTD, lm_head

    def hidden(self, *ids: Tensor, **others: Any) -> Tensor:
        return self.states_BTD


def joined(batches: list[Batch]) -> tuple[Tensor, Tensor, Mask | None]:
    """Ids, positions and mask of several micro-batches of one shape, row behind row; no mask where none needs one."""
    ids, targets, positions, documents = (torch.cat([getattr(batch, name) for batch in batches]) for name in BATCH_PARTS)
    shared = batches[0].shared
    if shared is not None:
        whole = torch.cat([batch.shared.documents_BT for batch in batches if batch.shared is not None])
        shared = SharedRows(whole, shared.queries, shared.keys)
    plain = all(batch.plain() for batch in batches)
    together = Batch(ids, targets, positions, documents, shared=shared, _plain=plain)
    return together.ids_BT, together.positions_BT, together.mask()
