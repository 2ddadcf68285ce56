"""Optimisers: AdamW as in the paper, and Muon for the matrices of the hidden layers.

The paper trains with AdamW (section 3.4.1; betas, weight decay and clipping are not given, the values here are the field's). Muon
orthogonalises the momentum of every hidden matrix (Jordan 2024) and learns the embedded recipe's language in about half the
tokens, which is what makes it fit into minutes. Embedding, output matrix and norms stay with AdamW at the same learning rate:
the update is scaled by 0.2 sqrt(larger side), which gives it AdamW's usual size (Liu et al. 2025, arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.core.settings import Portion, Settings
from puna.train.shares import local, share_of, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the original Muon
NEWTON_SCHULZ_STEPS = 5
MUON_RMS = 0.2  # root mean square of a Muon update, close to AdamW's


class OptimSettings(Settings):
    """Which optimiser and how: `lr` is the peak, the schedule multiplies it.

    `clip` is the largest global gradient norm (0: no clipping); weight decay is decoupled and spares vectors (the norms). A step
    whose loss or gradient norm is so many standard deviations above those of the last `spike_window` steps is left out.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: NonNegativeFloat = 3e-4
    betas: tuple[Portion, Portion] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    momentum: Portion = 0.95
    clip: NonNegativeFloat = 1.0
    spike_deviations: PositiveFloat | None = None
    spike_window: PositiveInt = 128


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by five Newton-Schulz steps, batched over parameters of equal shape.

    Tiny models spend their time launching operations, so matrices of one shape go through as one [n, rows, columns] tensor. Of a
    model that is laid out over processes each gathers whole matrices, orthogonalises them, and keeps its shares.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.95,
        weight_decay: float = 0.1, dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in by_shape.items():
                self._update(shape, parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, shape: tuple[int, ...], parameters: list[nn.Parameter], lr: float, momentum: float, decay: float) -> None:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        weights: list[Tensor] = list(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        steps = torch._foreach_lerp(gradients, buffers, momentum)
        updates = orthogonalise(torch.stack([whole(step) for step in steps]), self.dtype).unbind()
        torch._foreach_mul_(weights, 1 - lr * decay)
        shares = [share_of(update, weight) for update, weight in zip(updates, weights, strict=True)]
        torch._foreach_add_([local(weight) for weight in weights], shares, alpha=-lr * MUON_RMS * max(shape) ** 0.5)


def orthogonalise(matrices_NRC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly (singular values end within about 0.7 to 1.2): the quintic iteration of Muon.

    It bears products in bf16, as its author runs it.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices_NRC.shape[-2] > matrices_NRC.shape[-1]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


class Optimizer:
    """One or two torch optimisers over the named parameters of a model, driven with a learning rate per step."""

    def __init__(self, parts: list[torch.optim.Optimizer], named: dict[str, nn.Parameter]):
        self.parts, self.named = parts, named

    def step(self, lr: float) -> None:
        """One update with learning rate `lr`; gradients are left for the caller to clear."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["rate"]
            part.step()

    @torch.no_grad()
    def prepare(self) -> None:
        """Make the state that the first update would make, so that one can be read into its places."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            part.step()
        for parameter in self.named.values():
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state as flat named tensors, `<parameter>/<key>`; nothing needs pickling."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            for part in self.parts:
                for key, value in sorted(part.state.get(parameter, {}).items()):
                    found[f"{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(float(value))
        return found

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put a state written by `state_tensors` back; InputError for a parameter this model does not have."""
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key in sorted(tensors):
            name, _, slot = key.rpartition("/")
            if name not in self.named:
                raise InputError(f"the optimiser state is for another model: it has '{name}'")
            parameter = self.named[name]
            value = tensors[key] if slot == "step" else tensors[key].to(parameter.device)
            owner[id(parameter)].state[parameter][slot] = value


def build(
    parameters: Mapping[str, nn.Parameter], settings: OptimSettings, dtype: torch.dtype = torch.float32,
    rates: Mapping[str, float] = {},
) -> Optimizer:  # fmt: skip
    """The optimiser of `settings` over those of the named parameters that want gradients.

    Muon takes the matrices inside `layers`; everything else, and everything under "adamw", goes to AdamW.

    Args:
        dtype: that of Muon's products.
        rates: factors of the learning rate by the beginning of a parameter's name; 1 for all others.
    """
    named = {name: p for name, p in parameters.items() if p.requires_grad}
    hidden = {name for name, p in named.items() if settings.name == "muon" and p.dim() == 2 and ".layers." in f".{name}"}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, p in named.items():
        rate = next((rate for part, rate in rates.items() if name.startswith(part)), 1.0)
        decay = settings.weight_decay if p.dim() >= 2 else 0.0
        groups.setdefault((name in hidden, decay, rate), []).append(p)
    of_hidden, of_rest = (
        [{"params": ps, "weight_decay": decay, "rate": rate} for (inside, decay, rate), ps in groups.items() if inside == which]
        for which in (True, False)
    )
    parts: list[torch.optim.Optimizer] = []
    if of_rest:
        parts.append(torch.optim.AdamW(of_rest, settings.lr, betas=settings.betas, eps=settings.eps, fused=True))
    if of_hidden:
        parts.append(Muon(of_hidden, settings.lr, settings.momentum, settings.weight_decay, dtype))
    return Optimizer(parts, named)
