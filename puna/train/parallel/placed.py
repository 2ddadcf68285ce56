"""A model laid out over processes, as the training loop drives it: all axes composed, in the order of section 3.3.2.

Built on the meta device and pruned to the stage, then cut by tensor parallelism, recomputed and compiled block by block, then
sharded; only then does it take memory, and each weight is drawn (by its name, so in every layout alike) or copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from puna.model.attention import Mask
from puna.model.config import ModelConfig
from puna.model.llama import Attached, KVCache, Llama, init_weight
from puna.train.objectives import Objective
from puna.train.packing import Batch
from puna.train.parallel.context import ContextGather, gathered, local_rows, order
from puna.train.parallel.data import shard_weights, synchronise
from puna.train.parallel.float8 import use_float8
from puna.train.parallel.layout import Precision, resolved
from puna.train.parallel.meshes import Meshes
from puna.train.parallel.pipeline import Pipeline, prune
from puna.train.parallel.recompute import recompute_blocks
from puna.train.parallel.tensor import divide_matrices
from puna.train.place import add_up
from puna.train.shares import local, share_of, whole


class Part(Llama):
    """The network, or one stage of it, that asks other ranks for their keys and values where rows are shared."""

    gather: ContextGather | None = None

    def hidden(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None,
        attached: Attached | None = None,
    ) -> Tensor:  # fmt: skip
        return Llama.hidden(self, ids_BT, positions_BT=positions_BT, mask=mask, cache=self.gather, attached=attached)

    def forward(
        self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Mask | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """States, not logits: what the next stage reads, or the loss."""
        return Llama.hidden(self, ids_BT, positions_BT=positions_BT, mask=mask, cache=self.gather)


class Placed:
    """One process's share of a model, and the work on it.

    Args:
        config: of the whole model.
        weights: tensors of the whole model by name to copy; None draws them from `seed`.
        precision: of the products; weights, gradients and optimiser state are float32.
        materialise: take memory and fill it; else every share stays on the meta device, to be looked at.

    Raises:
        InputError: the model does not divide by the layout.
    """

    def __init__(self, config: ModelConfig, meshes: Meshes, *, seed: int = 0, weights: Mapping[str, Tensor] | None = None,
                 precision: Precision = "fp32", materialise: bool = True):  # fmt: skip
        self.config, self.meshes, self.layout = config, meshes, meshes.layout
        self.precision = resolved(precision, meshes.device.type)
        self.dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        self.layout.check_model(config)
        at = meshes.coordinate
        self.parts = [self._part(stage) for stage in self.layout.stages_of(at["pp"])]
        if materialise:
            self._fill(seed, weights)
        self.pipeline = None
        if self.layout.pp > 1:
            group = meshes.rows["pp"].get_group()
            self.pipeline = Pipeline(self.parts, self.layout, group, at["pp"], meshes.device)

    def _part(self, stage: int) -> Part:
        layout, meshes = self.layout, self.meshes
        with torch.device("meta"):
            part = Part(self.config, seed=None)
        if layout.pp > 1:
            prune(part, layout, stage)
        if layout.cp > 1:
            part.gather = ContextGather(meshes.rows["cp"])
        if self.precision == "fp8":
            use_float8(part)
        if layout.tp > 1:
            divide_matrices(part, meshes.params["tp"])
        layers = [layer for layer in part.model.layers if any(True for _ in layer.parameters())]
        recompute_blocks(layers, layout.recompute)
        for layer in layers if layout.compile else ():
            layer.compile(fullgraph=True)
        mesh = meshes.params["shard"] if layout.replicate == 1 else meshes.params["replicate", "shard"]
        shard_weights(part, layers, mesh, self.precision, reshard=layout.pp == 1)
        register_fsdp_forward_method(part, "hidden")
        return part

    @torch.no_grad()
    def _fill(self, seed: int, weights: Mapping[str, Tensor] | None) -> None:
        shapes = {name: weight.shape for name, weight in self.named().items()}
        for part in self.parts:
            part.to_empty(device=self.meshes.device)
        for name, mine in self.named().items():
            if weights is None:
                given = torch.empty(shapes[name], device=self.meshes.device)
                init_weight(given, name, self.config, seed)
            else:
                given = weights[name].to(self.meshes.device, torch.float32)
            local(mine).copy_(share_of(given, mine))

    def named(self) -> dict[str, nn.Parameter]:
        """This process's shares of the parameters, by name; of those of other stages, none."""
        return {name: weight for part in self.parts for name, weight in part.named_parameters()}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and this process's shares."""
        return iter(self.named().items())

    def parameters(self) -> Iterator[nn.Parameter]:
        """This process's shares of the parameters."""
        return iter(self.named().values())

    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the whole model's weights, by name."""
        with torch.device("meta"):
            return {name: weight.shape for name, weight in Llama(self.config, seed=None).named_parameters()}

    def train(self, training: bool = True) -> None:
        """Set the mode of every part."""
        for part in self.parts:
            part.train(training)

    def local(self, batch: Batch) -> Batch:
        """What this process reads of rows that its data parallel group reads."""
        self.layout.check_rows(batch.ids_BT.shape[1])
        return local_rows(batch, self.layout.cp, self.meshes.coordinate["cp"]) if self.layout.cp > 1 else batch

    def backward(
        self, objective: Objective, batches: list[Batch], scales: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the scaled sums of local batches, reduced over the ranks; returns those sums and their scaled total."""
        if self.pipeline is not None:
            return self.pipeline.backward(objective, batches, scales)
        (part,) = self.parts
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            synchronise(part, number == len(batches) - 1)
            terms, others = objective.sums(part, batch)
            loss = sum((terms[term] * scale for term, scale in scales.items()), start=torch.zeros((), device=self.meshes.device))
            loss.backward()  # type: ignore[union-attr]
            add_up(totals, {**terms, **others, "": loss})
        return totals, totals.pop("")

    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of the whole model."""
        gradients = [weight.grad for weight in self.named().values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        norm = whole(norm)
        if self.layout.pp > 1:
            norm = norm**2
            dist.all_reduce(norm, group=self.meshes.rows["pp"].get_group())
            norm = norm**0.5
        return norm

    # ---- reading with the model, whole rows in and whole rows out, the same on every process

    def hidden(self, ids_BT: Tensor, *, positions_BT: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States [B,T,D] after the final norm; arguments as `Llama.hidden` takes them, without a gradient."""
        length, padding = ids_BT.shape[1], -ids_BT.shape[1] % self._parts_of_rows()
        positions_BT = torch.arange(length, device=ids_BT.device).expand(ids_BT.shape) if positions_BT is None else positions_BT
        if padding:
            ids_BT, positions_BT = (nn.functional.pad(part, (0, padding)) for part in (ids_BT, positions_BT))
        mask = _padded(mask, length, padding, ids_BT.device) if mask is not None or padding or self.layout.cp > 1 else None
        with torch.no_grad():
            return self._states(ids_BT, positions_BT, mask)[:, :length]

    def _parts_of_rows(self) -> int:
        return self.layout.tp * (2 * self.layout.cp if self.layout.cp > 1 else 1)

    def _states(self, ids_BT: Tensor, positions_BT: Tensor, mask: Tensor | None) -> Tensor:
        layout, length = self.layout, ids_BT.shape[1]
        if layout.cp > 1:
            everyone = order(length, layout.cp).to(ids_BT.device)
            mine = everyone.chunk(layout.cp)[self.meshes.coordinate["cp"]]
            ids_BT, positions_BT = ids_BT[:, mine], positions_BT[:, mine]
            mask = None if mask is None else mask[:, :, mine][..., everyone]
        if self.pipeline is None:
            states = self.parts[0].hidden(ids_BT, positions_BT=positions_BT, mask=mask)
        else:
            shape = (len(ids_BT), ids_BT.shape[1] // layout.tp, self.config.dim)
            like = torch.empty((), dtype=self.dtype)
            states = self.pipeline.states(ids_BT, positions_BT, mask, shape, like)
        if layout.cp == 1:
            return states
        return gathered(states, self.meshes.rows["cp"], 1)[:, everyone.argsort()]

    def lm_head(self, states: Tensor) -> Tensor:
        """Logits [...,V] of states, whole on every process."""
        with torch.no_grad():
            if self.pipeline is None:
                return whole(self.parts[0].lm_head(states))
            last = self.layout.rank_of(self.layout.stages - 1) == self.meshes.coordinate["pp"]
            return self.pipeline.from_last(whole(self.parts[-1].lm_head(states)) if last else None)

    def whole(self) -> Llama | None:
        """The whole model on the CPU of process 0, float32; every process must ask."""
        weights = self.whole_weights()
        return self._filled(weights) if weights else None

    def copy(self) -> Llama:
        """The whole model on the CPU of every process, float32; not of a pipeline."""
        return self._filled(self._gathered())

    def _filled(self, weights: Mapping[str, Tensor]) -> Llama:
        model = Llama(self.config, seed=None)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(weights[name])
        return model

    def whole_weights(self) -> dict[str, Tensor]:
        """Every weight of the model on the CPU of process 0, in float32; nothing elsewhere."""
        mine = self._gathered()
        if self.layout.pp == 1:
            return mine if dist.get_rank() == 0 else {}
        found: list[Any] = [None] * self.layout.pp
        group = self.meshes.rows["pp"].get_group()
        dist.gather_object(mine, found if self.meshes.coordinate["pp"] == 0 else None, group=group, group_dst=0)
        return {name: weight for part in found for name, weight in part.items()} if dist.get_rank() == 0 else {}

    def _gathered(self) -> dict[str, Tensor]:
        """Every weight of the parts that are here, on the CPU."""
        return {name: whole(weight.detach()).cpu() for name, weight in self.named().items()}


def _padded(mask: Tensor | None, length: int, padding: int, device: torch.device) -> Tensor:
    """A mask for rows made longer: what was added sees itself alone."""
    total = length + padding
    whole = torch.eye(total, dtype=torch.bool, device=device)[None, None]
    rows = 1 if mask is None else len(mask)
    whole = whole.repeat(rows, 1, 1, 1)
    whole[:, :, :length, :length] = torch.ones(length, length, dtype=torch.bool, device=device).tril() if mask is None else mask
    return whole
