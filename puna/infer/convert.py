"""A checkpoint in another form: `hf` (FP8 widened), `bf16` or `fp8` (section 6.2). Tokenizer and licence files go along."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import InputError, resource_error
from puna.infer.fp8 import quantize_model
from puna.model.checkpoint import GENERATION, load_model, read_json, save_model
from puna.model.llama import Llama
from puna.tokenizer.bpe import MODEL_FILE, Tokenizer

FORMS = ("hf", "bf16", "fp8")
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
              "LICENSE*", "NOTICE*", "USE_POLICY*")  # fmt: skip


def convert(src: str | Path, dst: str | Path, to: str) -> dict[str, Any]:
    """Write the model in `src` to the new directory `dst` in another form.

    Args:
        to: `hf` keeps the stored precision (FP8 becomes BF16), `bf16` rounds every weight, `fp8` quantises the feed-forward
            matrices of all but the first and last layer.

    Returns:
        form, parameters, and the bytes of weights before and after. `dst` appears only when it is whole.

    Raises InputError for an unknown form, a source that is no model, and a destination that holds files; RunError
    for a full disk.
    """
    src, dst = Path(src), Path(dst)
    if to not in FORMS:
        raise InputError(f"a model cannot be converted to '{to}'", fix=f"one of: {', '.join(FORMS)}")
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError("the destination is not empty", where=str(dst), fix="give a new directory")
    model = load_model(src, dtype=None, dequantize=to != "fp8")
    if to == "fp8":
        model = model.to(torch.bfloat16)
        quantize_model(model)
    else:
        widened = model.model.norm.weight.dtype  # norms are never FP8: the precision of the rest
        model = model.to(torch.bfloat16 if to == "bf16" else widened)
    partial = dst.with_name(dst.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_like(src, model, partial)
        if dst.exists():
            dst.rmdir()
        partial.rename(dst)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (known := resource_error(error, dst)) is not None:
            raise known from error
        raise
    before, after = (directory_bytes(path, "*.safetensors") for path in (src, dst))
    return {"to": to, "parameters": model.config.parameters(), "bytes_before": before, "bytes_after": after, "path": str(dst)}


def write_like(source: str | Path, model: Llama, directory: str | Path) -> None:
    """Save `model` with the tokenizer, generation settings and licence files of the directory it came from."""
    source, directory = Path(source), Path(directory)
    tokenizer = Tokenizer.load(source) if (source / MODEL_FILE).is_file() else None
    generation = read_json(source / GENERATION) if (source / GENERATION).is_file() else None
    save_model(model, directory, tokenizer=tokenizer, generation=generation)
    for pattern in COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not (directory / file.name).exists():
                shutil.copyfile(file, directory / file.name)


def directory_bytes(directory: str | Path, pattern: str) -> int:
    """Bytes of the files in a directory that match a pattern."""
    return sum(path.stat().st_size for path in Path(directory).glob(pattern))
