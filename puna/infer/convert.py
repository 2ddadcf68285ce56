"""A checkpoint in another form: `hf` (FP8 widened), `bf16`, `fp8` (section 6.2), `meta` (Meta's own layout), `gguf` (llama.cpp).

The source is a Hugging Face directory or one in Meta's layout. Tokenizer, licence files and lineage go along.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import InputError, resource_error
from puna.core.lease import Lease
from puna.infer.fp8 import LINEARS, quantize_model
from puna.infer.stream import JOURNAL, Job, make_plan, write_weights
from puna.model.checkpoint import (
    GENERATION,
    MAX_SHARD_BYTES,
    check_vocabulary,
    load_model,
    read_json,
    save_model,
    write_description,
)
from puna.model.fp8_formats import COMPRESSED, FBGEMM, FORMATS, UNBOUNDED
from puna.model.fp8_linear import Fp8Linear
from puna.model.gguf_file import WEIGHTS, save_gguf
from puna.model.gguf_source import GgufWeights
from puna.model.llama import Llama
from puna.model.meta_layout import is_meta, load_meta, read_side, save_meta
from puna.model.weight_file import sha256_of
from puna.model.weight_source import DirectoryWeights, Weights, write_sums
from puna.tokenizer.bpe import MODEL_FILE, Tokenizer

FORMS = ("hf", "bf16", "fp8", "meta", "gguf")
STREAMED = ("hf", "bf16", "fp8")
PARTIAL, LOCK = ".partial", ".lock"  # added to the destination's name while it is written
GGUF_FILE = "model.gguf"
WEIGHT_FILES = ("*.safetensors", "*.pth", "*.gguf")
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", *LICENCES)
LINEAGE = "lineage.json"  # what the weights are made from: written by the run that made them


def convert(
    src: str | Path,
    dst: str | Path,
    to: str = "hf",
    weights: str | None = None,
    *,
    fp8_format: str = FBGEMM,
    linears: str = "ffn",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write the model in `src` to the new directory `dst` in another form.

    From a Hugging Face directory or a GGUF file, `hf`, `bf16` and `fp8` are streamed (`puna.infer.stream`): memory of some
    megabytes, and a killed conversion goes on where it was.

    Args:
        to: `hf` keeps the stored precision (FP8 becomes BF16), `bf16` rounds every weight, `fp8` quantises the feed-forward
            matrices of all but the first and last layer, `meta` writes `params.json` and `consolidated.00.pth` in the stored
            precision, `gguf` writes `model.gguf`.
        weights: of `gguf` only: `f32`, `bf16`, `f16` or `q8_0`; None keeps the stored precision.
        fp8_format: of `fp8`: `fbgemm_fp8` or `compressed-tensors`. linears: of `fp8`: `ffn` or `all` (see `quantize_model`).
        max_shard_bytes: bound of an output file, unless one tensor is larger. say: told the plan, in one line.

    Returns:
        form, parameters, the bytes of weights before and after, and notes for the user. `dst` appears only when it is whole.

    Raises InputError for an unknown form, a source that is no model or damaged, a destination that holds files, and one that
    another process is writing; RunError for a full disk.
    """
    src, dst = Path(src), Path(dst)
    _check_arguments(dst, to, weights)
    job = Job(to, fp8_format, linears, max_shard_bytes)
    check_job(job)
    return {"to": to, **write_whole(src, dst, lambda partial: _write(src, partial, job, weights, say))}


def write_whole(src: Path, dst: Path, write: Callable[[Path], tuple[int, list[str]]]) -> dict[str, Any]:
    """Let `write` fill a directory beside the destination, which appears when all is there; reports and errors as of `convert`.

    Args:
        write: gets the directory; returns the number of parameters and notes for the user.
    """
    lease = Lease(dst.with_name(dst.name + LOCK))
    with lease.held("the destination", fix="wait for that process or stop it, or give another destination"):
        check_destination(dst)  # another conversion may have ended since
        parameters, notes = _write_and_rename(src, dst, write)
    before, after = (sum(directory_bytes(path, pattern) for pattern in WEIGHT_FILES) for path in (src, dst))
    return {
        "parameters": parameters, "bytes_before": src.stat().st_size if src.is_file() else before, "bytes_after": after,
        "path": str(dst), "notes": notes,
    }  # fmt: skip


def _write_and_rename(src: Path, dst: Path, write: Callable[[Path], tuple[int, list[str]]]) -> tuple[int, list[str]]:
    """Write beside the destination, then give it its name; returns what `write` does. A streamed half stays for the next."""
    partial = dst.with_name(dst.name + PARTIAL)
    try:
        written = write(partial)
        if (src / LINEAGE).is_file():
            shutil.copyfile(src / LINEAGE, partial / LINEAGE)
        (partial / JOURNAL).unlink(missing_ok=True)
        if dst.exists():
            dst.rmdir()
        partial.rename(dst)
    except BaseException as error:
        if isinstance(error, InputError) or not (partial / JOURNAL).is_file():
            shutil.rmtree(partial, ignore_errors=True)
        if (known := resource_error(error, dst)) is not None:
            raise known from error
        raise
    return written


def write_like(source: str | Path, model: Llama, directory: str | Path, **settings: Any) -> None:
    """Save `model` with the tokenizer, generation settings and licence files of the directory it came from.

    `settings` are further ones of `save_model`.
    """
    source, directory = Path(source), Path(directory)
    save_model(model, directory, tokenizer=_tokenizer_beside(source), generation=generation_of(source), **settings)
    copy_beside(source, directory, COMPANIONS)


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
    check_destination(dst)


def check_destination(dst: Path) -> None:
    """InputError for a destination that holds files."""
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError("the destination is not empty", where=str(dst), fix="give a new directory")


def check_job(job: Job) -> None:
    """InputError for an FP8 format or a choice of layers that there is not, or beside another form."""
    if job.fp8_format not in FORMATS:
        raise InputError(f"FP8 has no format '{job.fp8_format}'", where="--format", fix=f"one of: {', '.join(FORMATS)}")
    if job.linears not in LINEARS:
        raise InputError(f"no linear layers are called '{job.linears}'", where="--linears", fix=f"one of: {', '.join(LINEARS)}")
    if job.to != "fp8" and (job.fp8_format, job.linears) != (FBGEMM, "ffn"):
        raise InputError(f"--format and --linears belong to --to fp8, not to {job.to}", fix="leave them out")


def _write(src: Path, directory: Path, job: Job, weights: str | None, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Write one form into a directory; returns the number of parameters and the notes for the user."""
    if not is_meta(src) and job.to in STREAMED:
        return _write_streamed(src, directory, job, say)
    if src.is_file():
        raise InputError(f"a GGUF file is not converted to {job.to} at once", where=str(src), fix="convert it to hf first")
    shutil.rmtree(directory, ignore_errors=True)
    model = load_meta(src, dtype=None) if is_meta(src) else load_model(src, dtype=None, dequantize=True)
    if job.to == "fp8":
        quantize_model(model.to(torch.bfloat16), linears=job.linears)
    elif job.to != "gguf":
        model = model.to(torch.bfloat16 if job.to == "bf16" else model.model.norm.weight.dtype)
    notes = _write_whole(src, model, directory, job, weights)
    return model.config.parameters(), notes


def _write_streamed(src: Path, directory: Path, job: Job, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """A Hugging Face directory or a GGUF file, block by block."""
    source: Weights
    tokenizer: Tokenizer | None
    if src.is_file():
        source = gguf = GgufWeights(src)
        tokenizer, generation, beside = gguf.tokenizer(), None, src.parent
        check_vocabulary(source.config, tokenizer.vocab_size, str(src))
    else:
        source, beside = DirectoryWeights(src), src
        tokenizer, generation = _tokenizer_beside(src), generation_of(src)
    plan = make_plan(source, job, src)
    write_weights(source, plan, directory, job, say)
    write_description(plan.model, directory, tokenizer=tokenizer, generation=generation, fp8_format=job.fp8_format)
    copy_beside(beside, directory, LICENCES if src.is_file() else COMPANIONS)
    return plan.model.config.parameters(), _bound_notes(plan.model, job)


def _bound_notes(model: Llama, job: Job) -> list[str]:
    """What compressed-tensors cannot say of the activations."""
    bound = next((module.activation_bound for module in model.modules() if isinstance(module, Fp8Linear)), math.inf)
    if job.fp8_format != COMPRESSED or bound >= UNBOUNDED:
        return []
    return [f"compressed-tensors cannot say that activations are bounded at {bound:g}: Puna alone does"]


def _write_whole(src: Path, model: Llama, directory: Path, job: Job, weights: str | None) -> list[str]:
    """Write a model in memory in one form; returns the notes for the user."""
    if job.to in STREAMED:
        write_like(src, model, directory, fp8_format=job.fp8_format, max_shard_bytes=job.max_shard_bytes)
        write_sums(directory, {path.name: sha256_of(path) for path in directory.glob("*.safetensors")})
        return _bound_notes(model, job)
    has_tokenizer = any((src / name).is_file() for name in (MODEL_FILE, "tokenizer.json"))
    tokenizer = Tokenizer.load(src) if has_tokenizer else None
    directory.mkdir(parents=True)
    copy_beside(src, directory, LICENCES)
    if job.to == "meta":
        return save_meta(model, directory, tokenizer=tokenizer, generation=generation_of(src))
    if tokenizer is None:
        raise InputError(
            "a GGUF file holds its tokenizer; this model has none", where=str(src), fix=f"copy its {MODEL_FILE} here"
        )
    return save_gguf(model, directory / GGUF_FILE, tokenizer=tokenizer, weights=weights, name=src.resolve().name)


def _tokenizer_beside(source: Path) -> Tokenizer | None:
    return Tokenizer.load(source) if (source / MODEL_FILE).is_file() else None


def copy_beside(source: Path, directory: Path, patterns: tuple[str, ...]) -> None:
    """Copy files by their patterns, those that are there and not yet in the directory."""
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not (directory / file.name).exists():
                shutil.copyfile(file, directory / file.name)
