"""A vision model in another form: `hf` (Mllama), `bf16`, `meta` (Meta's own layout), `text` (its text part alone).

The source is in either layout. Tokenizer, generation settings, licence files and lineage go along. What comes out as `text` has
the weights that went in, to the bit: adapters never touch them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from puna.core.errors import InputError
from puna.infer.convert import LICENCES, check_destination, check_job, copy_beside, generation_of, write_whole
from puna.infer.stream import Job
from puna.model.checkpoint import MAX_SHARD_BYTES, save_model
from puna.model.fp8_formats import FBGEMM
from puna.post.checkpoints import weights_digest
from puna.vision.eyes import sees
from puna.vision.hf import image_shape_of, load_vision, read_shapes, save_vision, tokenizer_beside
from puna.vision.meta import is_meta_vision, load_meta_vision, save_meta_vision
from puna.vision.model import VisionLlama

FORMS = ("hf", "bf16", "meta", "text")


def is_vision(source: str | Path) -> bool:
    """Whether a directory holds a vision model, in either layout."""
    return is_meta_vision(source) or sees(source)


def convert_vision(
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
    """Write the vision model in `src` to the new directory `dst` in another form; else as `puna.infer.convert.convert`.

    Args:
        to: `hf`, `meta` and `text` keep the stored precision, `bf16` rounds every weight.
        weights, fp8_format, linears: of forms that a vision model does not take; InputError unless left as they are.
        max_shard_bytes: bound of an output file in Hugging Face's layout, unless one tensor is larger.
    """
    src, dst = Path(src), Path(dst)
    if to not in FORMS or weights is not None:
        raise InputError(f"a vision model cannot be converted to '{to}'", where=str(src),
                         fix=f"one of: {', '.join(FORMS)}; its text part, taken out with --to text, to any other")  # fmt: skip
    check_job(Job(to, fp8_format, linears, max_shard_bytes))
    check_destination(dst)
    return {"to": to, **write_whole(src, dst, lambda partial: _write(src, partial, to, max_shard_bytes, say))}


def _write(src: Path, directory: Path, to: str, max_shard_bytes: int, say: Callable[[str], None]) -> tuple[int, list[str]]:
    meta = is_meta_vision(src)
    model = load_meta_vision(src, dtype=None) if meta else load_vision(src, dtype=None)
    count, text = (sum(weight.numel() for weight in part.parameters()) for part in (model, model.text))
    say(f"{count:,} parameters, {text:,} of them the text model's, become {to}")
    tokenizer, generation = tokenizer_beside(src), generation_of(src)
    notes = []
    if to == "meta":
        notes = save_meta_vision(model, directory, tokenizer=tokenizer, generation=generation)
    elif to == "text":
        count = text
        notes = [] if meta else _digest_notes(model, src)
        save_model(model.text, directory, tokenizer=tokenizer, generation=generation, max_shard_bytes=max_shard_bytes)
    else:
        model = model.to(torch.bfloat16) if to == "bf16" else model
        save_vision(
            model, directory, tokenizer=tokenizer, generation=generation, max_shard_bytes=max_shard_bytes,
            image_shape=image_shape_of(model, src),
        )  # fmt: skip
    copy_beside(src, directory, LICENCES)
    return count, notes


def _digest_notes(model: VisionLlama, src: Path) -> list[str]:
    recorded = read_shapes(src).text_digest
    if recorded in (None, weights_digest(model.text)):
        return []
    return ["the text weights are not those that Puna wrote here: another tool has changed them"]
