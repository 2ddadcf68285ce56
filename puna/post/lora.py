"""LoRA: small matrices learn beside frozen ones (Hu et al. 2021), so gradients and optimiser states of the model are not held.

y = W x + alpha / rank * B A x, with A [rank, K] drawn and B [N, rank] zero: training starts at the model itself, and with the
adapters off the model is still there, so that DPO's reference needs no second copy. The matrices of the layers are kept in fp32,
in bfloat16, or in FP8 by rows, our form of QLoRA (Dettmers et al. 2023), whose four bits we do not have. They are widened for
each product, as processors without BF16 units are many times slower in it. A stage leaves the adapter as PEFT writes it and, for
the stages after it, the whole model: the input's own weights, not the rounded ones, with the adapter merged in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn

from puna.core.rng import derive_seed
from puna.core.settings import Settings as BaseSettings
from puna.core.stage import Artifact, StageContext
from puna.infer.fp8 import LINEARS
from puna.infer.lora import ADAPTER, ADAPTER_CONFIG, PREFIX, A, Adapters, B, merge
from puna.model.checkpoint import load_model
from puna.model.fp8_linear import Fp8Linear, dequantize_rows
from puna.model.llama import Linear, Llama
from puna.post import checkpoints
from puna.tokenizer.bpe import Tokenizer

FOLDER = "adapter"  # of an artifact
Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Lora(BaseSettings):
    """Adapters of a `rank` on every layer's `targets`, counting alpha / rank; `base` is how frozen matrices are kept."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    targets: tuple[Target, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    base: Literal["fp32", "bf16", "fp8"] = "fp32"


class LoraLinear(nn.Module):
    """A frozen linear layer and what learns beside it, in float32.

    Attributes:
        on: False for the frozen layer alone.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, seed: int):
        super().__init__()
        rows, columns = base.weight.shape  # type: ignore[union-attr, misc]
        self.base, self.scale, self.on = base.requires_grad_(False), alpha / rank, True
        self.lora_A, self.lora_B = Linear(columns, rank), Linear(rank, rows)
        bound = columns**-0.5  # as PEFT: Kaiming's uniform distribution with a = sqrt(5)
        nn.init.uniform_(self.lora_A.weight, -bound, bound, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        if not self.on:
            return y
        return y + self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)) * self.scale).to(y.dtype)


class Fp8Frozen(Fp8Linear):
    """y = W x with W stored in FP8 and x as it is: it has a gradient for x, and keeps no wide weight for it."""

    def forward(self, x: Tensor) -> Tensor:
        return _WidenedProduct.apply(x, self.weight, self.weight_scale)


class Bf16Frozen(nn.Module):
    """The same with W stored in bfloat16."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return _WidenedProduct.apply(x, self.weight, None)


class _WidenedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, _wide(weight, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return gradients[0] @ _wide(weight, scale, gradients[0].dtype), None, None


def _wide(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (weight if scale is None else dequantize_rows(weight, scale)).to(dtype)


def load(artifact: Artifact, settings: Lora | None, ctx: StageContext) -> tuple[Llama, Tokenizer]:
    """What a stage trains: the artifact's model in fp32, or frozen with adapters that do nothing yet; and its tokenizer.

    Raises InputError for an FP8 model without adapters.
    """
    if settings is None:
        return checkpoints.load_to_train(artifact, f"set `lora`, or {checkpoints.TO_BF16}")
    model = load_model(artifact.path, dtype=_dtype(settings), dequantize=True).eval()
    return adapted(model, settings, derive_seed(ctx.seed, "post.lora")), Tokenizer.load(artifact.path)


def adapted(model: Llama, settings: Lora, seed: int) -> Llama:
    """Freeze a model and add adapters, in place; each is drawn from a stream of its own."""
    model.requires_grad_(False)
    matrices = [f"model.layers.{layer}.{matrix}" for layer in range(model.config.layers) for matrix in LINEARS["all"]]
    if settings.base != "fp32":
        form: Callable[[Any], nn.Module] = Fp8Frozen.from_weight if settings.base == "fp8" else Bf16Frozen
        for name in matrices:
            _replace(model, name, form(model.get_submodule(name).weight))
    for name, weight in model.named_parameters():
        if name.rpartition(".")[0] not in matrices or settings.base == "fp32":
            weight.data = weight.data.float()
    for name in matrices:
        if name.rpartition(".")[2] in settings.targets:
            own = LoraLinear(model.get_submodule(name), settings.rank, settings.alpha, derive_seed(seed, name))
            _replace(model, name, own)
    return model


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the one that was adapted; one without adapters is as it is."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.on = True


def finished(model: Llama, artifact: Artifact, settings: Lora | None, ctx: StageContext) -> Llama:
    """What a stage hands on: the trained model; one with adapters is written as those, and comes back merged.

    Merged are the weights of `artifact`, which `model` was loaded from, in fp32, or as stored where they were frozen in less.
    """
    if settings is None:
        return model
    save_adapter(model, settings, ctx.out / FOLDER)
    whole = load_model(artifact.path, dtype=_dtype(settings), dequantize=True)
    merge(whole, Adapters([(ctx.out / FOLDER, 1.0)]), whole.model.embed_tokens.weight.dtype)
    return whole.eval()


def save_adapter(model: nn.Module, settings: Lora, directory: Path) -> None:
    """Write the adapters of a model as PEFT's `adapter_config.json` and `adapter_model.safetensors`."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    tensors = {f"{PREFIX}{name}{A}": module.lora_A.weight for name, module in layers}
    tensors |= {f"{PREFIX}{name}{B}": module.lora_B.weight for name, module in layers}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": sorted(settings.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, directory / ADAPTER, {"format": "pt"})


def _dtype(settings: Lora) -> torch.dtype | None:
    """Of weights that are read; None is as they are stored."""
    return torch.float32 if settings.base == "fp32" else None


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
