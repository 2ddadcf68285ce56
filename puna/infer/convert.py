"""A checkpoint in another form: `hf` (FP8 widened), `bf16`, `fp8` (section 6.2), `meta` (Meta's own layout), `gguf` (llama.cpp).

The source is a Hugging Face directory or one in Meta's layout. Tokenizer, licence files and lineage go along.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import InputError, resource_error
from puna.infer.fp8 import quantize_model
from puna.model.checkpoint import GENERATION, load_model, read_json, save_model
from puna.model.gguf_file import WEIGHTS, save_gguf
from puna.model.llama import Llama
from puna.model.meta_layout import is_meta, load_meta, read_side, save_meta
from puna.tokenizer.bpe import MODEL_FILE, Tokenizer

FORMS = ("hf", "bf16", "fp8", "meta", "gguf")
GGUF_FILE = "model.gguf"
WEIGHT_FILES = ("*.safetensors", "*.pth", "*.gguf")
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", *LICENCES)
LINEAGE = "lineage.json"  # what the weights are made from: written by the run that made them


def convert(src: str | Path, dst: str | Path, to: str, weights: str | None = None) -> dict[str, Any]:
    """Write the model in `src` to the new directory `dst` in another form.

    Args:
        to: `hf` keeps the stored precision (FP8 becomes BF16), `bf16` rounds every weight, `fp8` quantises the feed-forward
            matrices of all but the first and last layer, `meta` writes `params.json` and `consolidated.00.pth` in the stored
            precision, `gguf` writes `model.gguf`.
        weights: of `gguf` only: `f32`, `bf16`, `f16` or `q8_0`; None keeps the stored precision.

    Returns:
        form, parameters, the bytes of weights before and after, and notes for the user. `dst` appears only when it is whole.

    Raises InputError for an unknown form, a source that is no model, and a destination that holds files; RunError
    for a full disk.
    """
    src, dst = Path(src), Path(dst)
    _check_arguments(dst, to, weights)
    model = load_meta(src, dtype=None) if is_meta(src) else load_model(src, dtype=None, dequantize=to != "fp8")
    if to == "fp8":
        model = model.to(torch.bfloat16)
        quantize_model(model)
    elif to != "gguf":
        widened = model.model.norm.weight.dtype  # norms are never FP8: the precision of the rest
        model = model.to(torch.bfloat16 if to == "bf16" else widened)
    partial = dst.with_name(dst.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        notes = _write(src, model, partial, to, weights)
        if (src / LINEAGE).is_file():
            shutil.copyfile(src / LINEAGE, partial / LINEAGE)
        if dst.exists():
            dst.rmdir()
        partial.rename(dst)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if (known := resource_error(error, dst)) is not None:
            raise known from error
        raise
    before, after = (sum(directory_bytes(path, pattern) for pattern in WEIGHT_FILES) for path in (src, dst))
    return {
        "to": to, "parameters": model.config.parameters(), "bytes_before": before, "bytes_after": after, "path": str(dst),
        "notes": notes,
    }  # fmt: skip


def write_like(source: str | Path, model: Llama, directory: str | Path) -> None:
    """Save `model` with the tokenizer, generation settings and licence files of the directory it came from."""
    source, directory = Path(source), Path(directory)
    tokenizer = Tokenizer.load(source) if (source / MODEL_FILE).is_file() else None
    save_model(model, directory, tokenizer=tokenizer, generation=generation_of(source))
    _copy(source, directory, COMPANIONS)


def generation_of(source: Path) -> dict[str, Any] | None:
    """Generation settings of a model directory in either layout; None where it has none."""
    if is_meta(source):
        return read_side(source).get("generation")
    return read_json(source / GENERATION) if (source / GENERATION).is_file() else None


def directory_bytes(directory: str | Path, pattern: str) -> int:
    """Bytes of the files in a directory that match a pattern."""
    return sum(path.stat().st_size for path in Path(directory).glob(pattern))


def _check_arguments(dst: Path, to: str, weights: str | None) -> None:
    if to not in FORMS:
        raise InputError(f"a model cannot be converted to '{to}'", fix=f"one of: {', '.join(FORMS)}")
    if weights is not None and (to != "gguf" or weights not in WEIGHTS):
        raise InputError(f"weights cannot be '{weights}' in the form {to}", where="--weights",
                         fix=f"with --to gguf, one of: {', '.join(WEIGHTS)}; bf16 and fp8 are forms of their own")  # fmt: skip
    if dst.suffix == ".gguf":
        raise InputError("the destination is a directory, also of a GGUF", where=str(dst),
                         fix=f"give a new directory; the file in it is {GGUF_FILE}, with the licence files beside")  # fmt: skip
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError("the destination is not empty", where=str(dst), fix="give a new directory")


def _write(src: Path, model: Llama, directory: Path, to: str, weights: str | None) -> list[str]:
    """Write one form into a directory; returns the notes for the user."""
    if to not in ("meta", "gguf"):
        write_like(src, model, directory)
        return []
    has_tokenizer = any((src / name).is_file() for name in (MODEL_FILE, "tokenizer.json"))
    tokenizer = Tokenizer.load(src) if has_tokenizer else None
    directory.mkdir(parents=True)
    _copy(src, directory, LICENCES)
    if to == "meta":
        return save_meta(model, directory, tokenizer=tokenizer, generation=generation_of(src))
    if tokenizer is None:
        raise InputError(
            "a GGUF file holds its tokenizer; this model has none", where=str(src), fix=f"copy its {MODEL_FILE} here"
        )
    return save_gguf(model, directory / GGUF_FILE, tokenizer=tokenizer, weights=weights, name=src.resolve().name)


def _copy(source: Path, directory: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not (directory / file.name).exists():
                shutil.copyfile(file, directory / file.name)
