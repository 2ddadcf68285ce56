"""LoRA adapters merged into a model's weights when it is loaded: W + weight * scale * B A, in float32, rounded once.

Read is what PEFT writes: `adapter_config.json` and `adapter_model.safetensors`. The scale is alpha / r, or alpha / sqrt(r) with
`use_rslora`. What changes the function otherwise (DoRA, biases, transposed weights, whole modules) is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puna.core.errors import InputError
from puna.model.llama import Llama
from puna.model.weight_file import read_header
from puna.model.weight_source import Weights

ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
HARMLESS_STARTS = (
    True,
    False,
    None,
    "gaussian",
    "eva",
    "orthogonal",
)  # others (pissa, olora, loftq, ...) change the base as well
REFUSED: dict[str, tuple[Any, ...]] = {  # entries that change what the tensors mean, with the values that do not
    "use_dora": (False, None), "fan_in_fan_out": (False, None), "bias": ("none", None), "lora_bias": (False, None),
    "modules_to_save": (None, []), "use_qalora": (False, None), "trainable_token_indices": (None, []),
    "init_lora_weights": HARMLESS_STARTS,
    "alora_invocation_tokens": (None, []), "layer_replication": (None, []), "target_parameters": (None, []),
    "arrow_config": (None,), "use_bdlora": (None, False), "lora_ga_config": (None,), "monteclora_config": (None,),
}  # fmt: skip


@dataclass
class Adapter:
    """One adapter: by name of a weight, A [r, K], B [N, r] and what their product is multiplied by."""

    directory: Path
    pairs: dict[str, tuple[Tensor, Tensor, float]]


class Adapters:
    """Adapters in the order they are added.

    Raises InputError for a directory that holds no adapter, or one that cannot be merged.
    """

    def __init__(self, found: Sequence[tuple[str | Path, float]]):
        """`found`: directories, and by how much each adapter counts (1 is as it was trained)."""
        self.adapters = [read_adapter(directory, weight) for directory, weight in found]
        self.names = {name for adapter in self.adapters for name in adapter.pairs}

    def check(self, state: Mapping[str, Tensor], tied: bool) -> None:
        """InputError unless every adapter fits the weights it changes; `state` tells their shapes and types."""
        for adapter in self.adapters:
            where = str(adapter.directory)
            for name, (a, b, _) in adapter.pairs.items():
                if name not in state or (tied and name == "lm_head.weight"):
                    raise InputError(f"the adapter changes {name}, which this model does not have of its own", where=where,
                                     fix="use the model the adapter was trained on")  # fmt: skip
                weight = state[name]
                if weight.dtype == torch.float8_e4m3fn:
                    raise InputError(f"{name} is FP8, and an adapter is merged before rounding", where=where,
                                     fix="use the model's BF16 weights")  # fmt: skip
                if (b.shape[0], a.shape[1]) != tuple(weight.shape):
                    made = (b.shape[0], a.shape[1])
                    raise InputError(f"the adapter makes {name} {made} and the model has {tuple(weight.shape)}", where=where,
                                     fix="use the model the adapter was trained on")  # fmt: skip

    def merged(self, name: str, rows: Tensor, first: int = 0) -> Tensor:
        """Rows of a weight from row `first` on, [n, K], with every adapter added: float32."""
        total, last = rows.float(), first + len(rows)
        for adapter in self.adapters:
            if name in adapter.pairs:
                a, b, scale = adapter.pairs[name]
                total = torch.addmm(total, b[first:last].to(total.device), a.to(total.device), alpha=scale)
        return total


class MergedWeights:
    """A model's tensors on disk with adapters added as they are read; those they change come in float32."""

    def __init__(self, weights: Weights, adapters: Adapters):
        adapters.check(weights.state, weights.config.tied)
        self.weights, self.adapters = weights, adapters
        self.config, self.state = weights.config, weights.state
        self.bound, self.fp8_format = weights.bound, weights.fp8_format

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of a tensor, merged."""
        rows = self.weights.rows(name, first, last)
        return self.adapters.merged(name, rows, first) if name in self.adapters.names else rows

    def place(self, name: str) -> str:
        """The file a tensor lies in."""
        return self.weights.place(name)

    def identity(self) -> Any:
        """The identity of the weights, and of the adapters their files and factors."""
        return [self.weights.identity(), [_stated(adapter) for adapter in self.adapters.adapters]]


@torch.no_grad()
def merge(model: Llama, adapters: Adapters, dtype: torch.dtype) -> None:
    """Add adapters to a model whose weights are as stored, and cast it to `dtype`; FP8 weights are never cast."""
    state = dict(model.named_parameters())
    adapters.check(state, model.config.tied)
    for name in adapters.names:
        module = model.get_submodule(name.rpartition(".")[0])
        module.weight = nn.Parameter(adapters.merged(name, state[name]).to(dtype), requires_grad=state[name].requires_grad)
    model.to(dtype)


def read_adapter(directory: str | Path, weight: float = 1.0) -> Adapter:
    """A PEFT directory; InputError names what is missing, or what of it this network cannot merge."""
    directory = Path(directory)
    config = _config(directory)
    tensors = {name: entry.rows(0, entry.shape[0]).float() for name, entry in read_header(directory / ADAPTER).items()}
    pairs: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in sorted(tensors):
        module = name.removeprefix(PREFIX).removesuffix(A)
        if name.endswith(B) and f"{name.removesuffix(B)}{A}" in tensors:
            continue
        other = f"{name.removesuffix(A)}{B}"
        if not name.startswith(PREFIX) or not name.endswith(A) or other not in tensors:
            raise InputError(f"{name} is no half of a LoRA pair of a linear layer", where=str(directory / ADAPTER),
                             fix="use an adapter of linear layers alone")  # fmt: skip
        a, b = tensors[name], tensors[other]
        rank = _of_pattern(config.get("rank_pattern"), module, config["r"])
        if a.dim() != 2 or b.dim() != 2 or not len(a) == b.shape[1] == rank:
            raise InputError(f"{module} has A {tuple(a.shape)} and B {tuple(b.shape)}, and the configuration rank {rank}",
                             where=str(directory))  # fmt: skip
        alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        pairs[f"{module}.weight"] = a, b, weight * scale
    if not pairs:
        raise InputError("the adapter is empty", where=str(directory / ADAPTER))
    return Adapter(directory, pairs)


def adapter_and_weight(text: str) -> tuple[str, float]:
    """`DIR` or `DIR:WEIGHT`, as the command line takes it."""
    directory, colon, number = text.rpartition(":")
    try:
        return (directory, float(number)) if colon and directory else (text, 1.0)
    except ValueError:
        return text, 1.0


def _config(directory: Path) -> dict[str, Any]:
    path = directory / ADAPTER_CONFIG
    if not path.is_file():
        raise InputError(f"there is no {ADAPTER_CONFIG} here, so this is no adapter", where=str(directory),
                         fix="give a directory that PEFT has saved")  # fmt: skip
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{ADAPTER_CONFIG} is not a JSON object ({error})", where=str(path)) from None
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise InputError(f"this is an adapter of type {config.get('peft_type')!r}, not LoRA", where=str(path))
    for key, plain in REFUSED.items():
        if config.get(key) not in plain:
            raise InputError(f"{key} = {config[key]!r} cannot be merged", where=str(path), fix="merge it with PEFT")
    if not all(isinstance(config.get(key), int | float) and config[key] > 0 for key in ("r", "lora_alpha")):
        raise InputError("r and lora_alpha must be positive numbers", where=str(path))
    return config


def _stated(adapter: Adapter) -> list[Any]:
    """Names, sizes and times of an adapter's files, and by how much each of its pairs counts."""
    files = [
        (name, (found := (adapter.directory / name).stat()).st_size, found.st_mtime_ns) for name in (ADAPTER_CONFIG, ADAPTER)
    ]
    return [files, {name: scale for name, (_, _, scale) in adapter.pairs.items()}]


def _of_pattern(pattern: dict[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first key that is the end of the module's name, as a regular expression after a dot."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)
