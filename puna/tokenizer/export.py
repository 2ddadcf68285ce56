"""The tokenizer for other engines: Hugging Face files, a tiktoken file, GGUF metadata (paper 3.2; formats of those projects).

All are generated from the ranks and give the same ids. GGUF names the split pattern (`llama-bpe`) instead of holding it, and
llama.cpp takes a piece that is a token whole for that name, as tiktoken does; its merges are the ones recovered from the ranks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.tokenizer import special
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer, model_bytes
from puna.tokenizer.chat import jinja_template
from puna.tokenizer.hf import byte_letters
from puna.tokenizer.ranks import merges

FORMATS = ("hf", "tiktoken", "gguf")
NAME = "tokenizer"
NORMAL, CONTROL = 1, 3  # token types of GGUF (llama.cpp's llama_token_type)


def export(tokenizer: Tokenizer, directory: str | Path, to: str) -> list[Path]:
    """Write the files of one format into a directory; returns them. InputError for an unknown format.

    `hf`: the four files of a tokenizer directory. `tiktoken`: `tokenizer.tiktoken` and `tokenizer.tiktoken.json`, which names
    pattern and special tokens. `gguf`: `tokenizer.gguf`, metadata without tensors.
    """
    directory = Path(directory)
    if to not in FORMATS:
        raise InputError(f"there is no tokenizer format '{to}'", where="--to", fix=f"give one of {', '.join(FORMATS)}")
    directory.mkdir(parents=True, exist_ok=True)
    if to == "hf":
        tokenizer.save(directory)
        names = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
        return [directory / name for name in names]
    if to == "tiktoken":
        ranks, described = directory / f"{NAME}.tiktoken", directory / f"{NAME}.tiktoken.json"
        ranks.write_bytes(model_bytes(tokenizer.ranks))
        described.write_text(json.dumps(tiktoken_settings(tokenizer), indent=1) + "\n", encoding="utf-8")
        return [ranks, described]
    file = directory / f"{NAME}.gguf"
    write_gguf(tokenizer, file)
    return [file]


def tiktoken_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tiktoken.Encoding` takes beside the ranks: name, split pattern, special tokens."""
    ids = {name: tokenizer.special_id(name) for name in special.SPECIAL_TOKENS}
    return {"name": "puna", "pat_str": SPLIT_PATTERN, "special_tokens": ids}


def gguf_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """The `tokenizer.*` metadata of a GGUF file: strings, numbers, and lists of equal type; tokens in byte letters."""
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokens = [*map(spell, tokenizer.ranks), *special.SPECIAL_TOKENS]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * tokenizer.base_size + [CONTROL] * special.SLOTS,
        "tokenizer.ggml.merges": [f"{spell(left)} {spell(right)}" for left, right in merges(tokenizer.ranks)],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eot_id,  # as in tokenizer_config.json: the end of a turn stops a chat
        "tokenizer.ggml.eot_token_id": tokenizer.eot_id,
        "tokenizer.ggml.eom_token_id": tokenizer.eom_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": jinja_template(piece_break=""),  # llama.cpp has no pre-tokenizer that would remove it
    }


def write_gguf(tokenizer: Tokenizer, file: Path) -> None:
    """Write a GGUF file that holds the tokenizer and no tensors, by rename."""
    partial = file.with_name(file.name + ".part")
    writer = gguf_writer(partial, {"llama.vocab_size": tokenizer.vocab_size, **gguf_fields(tokenizer)})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    partial.replace(file)


def gguf_writer(file: Path, fields: dict[str, Any]) -> Any:
    """A `gguf.GGUFWriter` of the architecture `llama` with metadata: strings, booleans, uint32, float32, lists of one type."""
    try:
        import gguf
    except ImportError as error:
        raise InputError("writing GGUF needs the gguf package", fix="pip install gguf") from error
    writer = gguf.GGUFWriter(file, "llama")
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add: dict[type, Any] = {list: writer.add_array, **kinds}
    for key, value in fields.items():
        add[type(value)](key, value)
    return writer
