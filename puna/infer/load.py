"""From a model directory to an engine ready to answer: weights (BF16, FP32 or FP8), tokenizer, and where answers end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from puna.core.errors import InputError
from puna.infer.engine import Engine
from puna.infer.lora import Adapters, merge
from puna.infer.native import Kernels, check_kernels
from puna.infer.scheduler import Admission
from puna.infer.sight import Eyes
from puna.infer.speculate import PromptLookup
from puna.model.checkpoint import load_model, read_config
from puna.model.llama import Llama
from puna.tokenizer.bpe import Tokenizer

Opener = Callable[[Path, torch.dtype | None, str], tuple[Llama, Eyes | None]]  # (directory, dtype, device)


def load_engine(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    page_size: int = 16,
    pages: int | None = None,
    max_running: int = 256,
    prefill_tokens: int = 2048,
    kernels: Kernels = "auto",
    prefix_cache: bool = True,
    admission: Admission = "reserve",
    draft: str | Path | Llama | PromptLookup | None = None,
    guesses: int = 4,
    lora: Sequence[tuple[str | Path, float]] = (),
    opener: Opener | None = None,
) -> tuple[Engine, Tokenizer]:
    """Engine and tokenizer of a Hugging Face directory, FP8 ones included; InputError names what is missing.

    Answers end at the ids of `generation_config.json` (`eos_token_id`), or at the tokenizer's stop tokens where it names none.
    `dtype` is that of the weights that are not FP8; None takes bfloat16 for a model that is stored so, on a GPU and for
    native kernels, and float32 for others. `draft` is the directory of a smaller model with the same tokenizer
    (InputError for another), or a look-up. `lora` are adapters to merge and by how much each counts (`puna.infer.lora`).
    `opener` reads directories of another kind, such as models that see. The other arguments are those of `Engine`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError("there is no model directory here", where=str(directory), fix="give a directory with a config.json")
    check_device(device)
    check_kernels(kernels)
    tokenizer = Tokenizer.load(directory)
    if isinstance(draft, str | Path) and Tokenizer.load(draft).digest != tokenizer.digest:
        fix = "give a model of the same herd"
        raise InputError("the draft model has another tokenizer than the model", where=str(draft), fix=fix)
    dtype = dtype or (torch.bfloat16 if kernels in ("native", "int8") or device != "cpu" else stored_dtype(directory))
    model, eyes = (opener or _text)(directory, None if lora else dtype, device)
    if lora:
        merge(model, Adapters(lora), dtype)
        if eyes is not None:
            eyes.to(dtype)
    if isinstance(draft, str | Path):
        draft = load_model(Path(draft), dtype=dtype, device=device).eval()
    engine = Engine(
        model,
        stop_ids=stop_ids(directory) or tokenizer.stop_ids,
        page_size=page_size,
        pages=pages,
        max_running=max_running,
        prefill_tokens=prefill_tokens,
        kernels=kernels,
        prefix_cache=prefix_cache,
        admission=admission,
        draft=draft,
        guesses=guesses,
        eyes=eyes,
    )
    return engine, tokenizer


def _text(directory: Path, dtype: torch.dtype | None, device: str) -> tuple[Llama, Eyes | None]:
    return load_model(directory, dtype=dtype, device=device).eval(), None


def stored_dtype(directory: Path) -> torch.dtype:
    """bfloat16 where `config.json` says that the weights are, else float32, which holds all others exactly."""
    config = read_config(directory)
    return torch.bfloat16 if config.get("dtype", config.get("torch_dtype")) == "bfloat16" else torch.float32


def check_device(name: str, where: str = "--device") -> None:
    """InputError for a device that is none, or that this machine does not have."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise InputError(f"there is no device '{name}'", where=where, fix="cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("PyTorch finds no GPU on this machine", where=f"{where} {name}", fix="leave it out: the CPU is used")


def stop_ids(directory: Path) -> tuple[int, ...]:
    """The `eos_token_id` entries of `generation_config.json`; empty without that file or entry."""
    path = directory / "generation_config.json"
    if not path.exists():
        return ()
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise InputError(f"generation_config.json is not a JSON object ({error})", where=str(path)) from None
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(i, int) for i in ids):
        raise InputError(f"eos_token_id must be token ids and is {found!r}", where=str(path))
    return tuple(ids)
