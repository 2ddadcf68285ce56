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
COMPARED = ("token_type", "merges", "bos_token_id", "add_bos_token")  # what must be as our export writes it
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


def read_gguf_ranks(fields: dict[str, Any], where: str) -> dict[bytes, int]:
    """The ranks in the `tokenizer.*` metadata of a GGUF file that hold exactly what `gguf_fields` writes for them.

    Raises InputError for any other tokenizer: reading it as ours would give wrong ids without a sign of it.
    """
    of_letter = {letter: byte for byte, letter in enumerate(byte_letters())}
    tokens = fields.get("tokenizer.ggml.tokens")
    problem = None if isinstance(tokens, list) else "the file holds no tokenizer"
    for key, due in (("model", "gpt2"), ("pre", "llama-bpe")):
        if (found := fields.get(f"tokenizer.ggml.{key}")) != due:
            problem = problem or f"tokenizer.ggml.{key} is {found!r} and not {due!r}"
    size = len(tokens or ()) - special.SLOTS
    if problem is None and (size < 256 or list(tokens[size:]) != list(special.SPECIAL_TOKENS)):  # type: ignore[index]
        problem = "the last 256 tokens are not the special tokens of Llama 3"
    if problem is None:
        try:
            ranks = {bytes(of_letter[letter] for letter in token): rank for rank, token in enumerate(tokens[:size])}  # type: ignore[index]
            due_fields = gguf_fields(Tokenizer.from_ranks(ranks))
            compared = [key for key in due_fields if key.rpartition(".")[2] in COMPARED]
            differ = [key for key in compared if fields.get(key, []) != due_fields[key]]  # GGUF has no empty arrays
            problem = f"{differ[0]} does not follow from its tokens" if differ else None
        except (KeyError, TypeError):
            problem = "its tokens are not spelled in byte letters"
    if problem is not None:
        raise InputError(f"this tokenizer is not of the Llama 3 family ({problem})", where=where,
                         fix="give a GGUF file made from a Llama 3 tokenizer, as puna convert --to gguf writes it")  # fmt: skip
    return ranks


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
