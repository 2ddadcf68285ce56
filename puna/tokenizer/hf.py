"""The tokenizer as Hugging Face's tools read it, generated from the ranks: `tokenizer.json` and its two companions (paper 3.2).

A rank file names no merges, so they are recovered by replaying BPE inside each token: the last merge joins its last two parts.
A token that cannot be built that way (a reserved word) is reached only as a whole piece, which `ignore_merges` allows; tiktoken
does the same. `tests/tokenizer` holds transformers to the same ids on thousands of texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.tokenizer import special
from puna.tokenizer.bpe import SPLIT_PATTERN, Tokenizer
from puna.tokenizer.chat import PIECE_BREAK, jinja_template
from puna.tokenizer.ranks import merges

FAMILY = "give a Llama 3 tokenizer: tokenizer.model, or the tokenizer.json made from one"
IN_USE = (
    *(special.BEGIN_OF_TEXT, special.END_OF_TEXT, special.START_HEADER, special.END_HEADER),
    *(special.EOM, special.EOT, special.PYTHON_TAG),
)
MAX_LENGTH = 131_072  # context of the 3.1 release, in tokens (paper 3.4.2)


def write_files(tokenizer: Tokenizer, directory: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    _write(directory / "tokenizer.json", tokenizer_json(tokenizer))
    _write(directory / "tokenizer_config.json", tokenizer_config())
    _write(directory / "special_tokens_map.json", _named_tokens())


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fast-tokenizer description: byte-level BPE, the split pattern, 256 special tokens, BOS before a single text."""
    letters = byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in tokenizer.ranks}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(tokenizer.base_size + i, name) for i, name in enumerate(special.SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers()},
        "post_processor": {"type": "Sequence", "processors": [_byte_level(), _bos_template(tokenizer.bos_id)]},
        "decoder": _byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelled[token]: rank for token, rank in tokenizer.ranks.items()},
            "merges": [[spelled[left], spelled[right]] for left, right in merges(tokenizer.ranks)],
        },
    }


def tokenizer_config() -> dict[str, Any]:
    """Class, special roles and chat template; `eos_token` is the end of a turn, as chat tools expect."""
    return {
        **_named_tokens(),
        "chat_template": jinja_template(),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_LENGTH,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def read_ranks(file: Path) -> dict[bytes, int]:
    """Ranks out of a `tokenizer.json` of this family: byte-level BPE, the same split pattern, the same special ids.

    Raises InputError for any other tokenizer: reading it as ours would give wrong ids without a sign of it. A file that names no
    special tokens at all is taken, with the special slots after its tokens.
    """
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        vocab, model = described["model"]["vocab"], described["model"]
        splits = json.dumps(described["pre_tokenizer"])
        named = {token["content"]: token["id"] for token in described["added_tokens"]}
        of_letter = {letter: byte for byte, letter in enumerate(byte_letters())}

        def spelled(token: str) -> bytes:
            return bytes(of_letter[letter] for letter in token)

        ids = {spelled(token): rank for token, rank in vocab.items() if token not in named}
        pairs = [tuple(map(spelled, pair.split(" ") if isinstance(pair, str) else pair)) for pair in model["merges"]]
        ranks = dict(sorted(ids.items(), key=lambda item: item[1]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"tokenizer.json is no byte-level BPE tokenizer ({error!r})", where=str(file), fix=FAMILY) from None
    problem = _other_family(described, splits) or _other_specials(named, len(ranks)) or _other_merges(pairs, ranks, model)
    if problem:
        raise InputError(problem, where=str(file), fix=FAMILY)
    return ranks


def _other_family(described: dict[str, Any], splits: str) -> str | None:
    """What makes this description another kind of tokenizer."""
    model = described["model"]
    if json.dumps(SPLIT_PATTERN) not in splits:
        return "tokenizer.json splits text by another pattern"
    if described.get("normalizer") is not None:
        return "tokenizer.json changes the text before it splits it (`normalizer`)"
    if '"add_prefix_space": true' in splits:
        return "tokenizer.json puts a space before the text (`add_prefix_space`)"
    changing = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    return next((f"tokenizer.json sets `{name}` of its model" for name in changing if model.get(name)), None)


def _other_specials(named: dict[str, int], base_size: int) -> str | None:
    wrong = [name for name in IN_USE if named.get(name) != base_size + special.INDEX[name]]
    return f"{wrong[0]} does not have its id in tokenizer.json" if named and wrong else None


def _other_merges(pairs: list[tuple[bytes, ...]], ranks: dict[bytes, int], model: dict[str, Any]) -> str | None:
    """Why the listed merges would not join as the ranks do.

    They do when they follow the ranks of what they make and hold, for every token, the pair that replaying the ranks ends in.
    Further pairs for the same token (Meta's own file lists them) are never adjacent while they could be joined.
    """
    before = -1
    for pair in pairs:
        rank = ranks.get(b"".join(pair), -1)
        if len(pair) != 2 or rank < before:
            return f"the merges of tokenizer.json are not in the order of its ids: {b' '.join(pair)!r}"
        before = rank
    listed, replayed = set(pairs), merges(ranks)
    missing = next((pair for pair in replayed if pair not in listed), None)
    if missing:
        return f"the merges of tokenizer.json do not follow from its ids: {b' '.join(missing)!r} is not among them"
    whole = sum(len(token) > 1 for token in ranks) - len(replayed)
    if whole and not model.get("ignore_merges"):
        return f"{whole} tokens of tokenizer.json come out of no merge, and `ignore_merges` is not set"
    return None


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in `tokenizer.json` (GPT-2's byte-to-unicode table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + offset) for offset, byte in enumerate(others)})
    return [table[byte] for byte in range(256)]


def _pre_tokenizers() -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"String": PIECE_BREAK}, "behavior": "Removed", "invert": False},
        {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
        _byte_level(),
    ]


def _byte_level() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _bos_template(bos_id: int) -> dict[str, Any]:
    bos = special.BEGIN_OF_TEXT

    def text(name: str, kind: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": bos, "type_id": kind}}, {"Sequence": {"id": name, "type_id": kind}}]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }


def _added(token_id: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def _named_tokens() -> dict[str, str]:
    return {"bos_token": special.BEGIN_OF_TEXT, "eos_token": special.EOT, "pad_token": special.PAD}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")
