"""Token shards made by other tools, taken over without tokenising again: Megatron (`.bin` + `.idx`) and datatrove (`.ds`).

Ids mean something only with their tokenizer, so the one they were made with must be among the inputs (`tokenizer.train` imports
it), and an id it does not have is an error. Every document becomes [bos] + ids + [eos] as everywhere here: the begin and end
tokens of the other tool are taken off first. The formats were read from the writers of Megatron-LM and of datatrove.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.data.mix_manifest import MixSettings, write_manifest
from puna.data.shards import GroupShards, choose_held, copy_tokenizer

KIND = "tokens"
REVISION = 1

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_HEADER = struct.Struct("<9sQBQQ")  # magic, version, code of the dtype, sequences, document bounds
MEGATRON_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats, which no token is
DATATROVE_DTYPES = {2: "<u2", 4: "<u4"}  # by bytes per token


class TokenFile(StageSettings):
    """A file (or every file of a pattern) of token ids.

    Attributes:
        path: the `.bin` or `.idx` of a Megatron pair, or a datatrove `.ds` with its `.ds.index` beside it.
        group: part of the mix its documents belong to.
        source, licence: recorded of every document; the source is by default the file's name.
        strip: ids taken off both ends of each document besides this tokenizer's own begin and end tokens.
    """

    path: str
    group: str = "general"
    source: str | None = None
    licence: str = "unknown"
    strip: tuple[NonNegativeInt, ...] = ()


class Settings(MixSettings):
    """Files to take over; the mix and the share held out are set as in `data.shards`."""

    files: tuple[TokenFile, ...]


def outside(settings: Settings) -> dict[str, Any]:
    """What the shards depend on besides settings and tokenizer: the content of the files."""
    from puna.data.sources import FileSource, file_digests

    companions = {".bin": ".idx", ".idx": ".bin", ".ds": ".ds.index"}
    found: dict[str, Any] = {}
    for number, file in enumerate(settings.files):
        for path in _paths(file.path):
            for part in (path, path.with_suffix(companions.get(path.suffix, path.suffix))):
                if part.exists():
                    found[f"{number}:{part.name}"] = file_digests(FileSource(path=str(part)))
    return found


class TokenDocuments:
    """The documents of one foreign file, mapped into memory. `bounds` [documents + 1] are places in `tokens`."""

    def __init__(self, tokens: np.ndarray, bounds: np.ndarray):
        self.tokens, self.bounds = tokens, bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, end in zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True):
            yield self.tokens[start:end]


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write the files' documents as shards of this package, with their manifest.

    Raises:
        InputError: a file is missing or broken, holds ids the tokenizer does not have, or there is no document.
    """
    from puna.tokenizer.bpe import Tokenizer

    directory = ctx.inputs.one("tokenizer").path
    tokenizer = Tokenizer.load(directory)
    files = [(file, path) for file in settings.files for path in _paths(file.path)]
    found = [(file, path, open_tokens(path)) for file, path in files]
    names: dict[str, list[str]] = {}
    for file, path, documents in found:
        names.setdefault(file.group, []).extend(_name(path, i) for i in range(len(documents)))
    if not any(names.values()):
        raise InputError("there is no document in these files", where=", ".join(str(path) for _, path in files))
    held = {group: choose_held(of_group, settings.held) if of_group else {} for group, of_group in names.items()}
    shards = GroupShards(ctx.out, names)
    characters = _characters(tokenizer)
    for done, (file, path, documents) in enumerate(found):
        _take_over(shards, file, path, documents, tokenizer, held[file.group], characters)
        ctx.progress(done + 1, len(found))
    contents = shards.close(tokenizer.digest)
    copy_tokenizer(directory, ctx.out)
    return write_manifest(settings, ctx, contents, tokenizer)


def open_tokens(path: Path) -> TokenDocuments:
    """The documents of a Megatron or datatrove file, by its name.

    Raises InputError for another name, a missing companion, or files that contradict one another.
    """
    path = Path(path)
    try:
        if path.suffix in (".bin", ".idx"):
            return _megatron(path.with_suffix(".bin"), path.with_suffix(".idx"))
        if path.suffix == ".ds":
            return _datatrove(path, path.with_name(f"{path.name}.index"))
    except OSError as error:
        raise InputError(
            f"these tokens cannot be read: {error}", where=str(path), fix="copy or convert the files again"
        ) from error
    raise InputError("this is no file of token ids that is known", where=str(path), fix="give a .bin with its .idx, or a .ds")


def _megatron(data: Path, index: Path) -> TokenDocuments:
    raw = index.read_bytes()
    if len(raw) < MEGATRON_HEADER.size or not raw.startswith(MEGATRON_MAGIC):
        raise _broken(index, "it does not begin as a Megatron index does")
    _, version, code, sequences, bounds = MEGATRON_HEADER.unpack_from(raw)
    if version != 1 or code not in MEGATRON_DTYPES:
        raise _broken(index, f"version {version} with dtype {code} is not known")
    if len(raw) < MEGATRON_HEADER.size + 12 * sequences + 8 * bounds:
        raise _broken(index, "it is cut short")
    lengths = np.frombuffer(raw, "<i4", sequences, MEGATRON_HEADER.size).astype(np.int64)
    pointers = np.frombuffer(raw, "<i8", sequences, MEGATRON_HEADER.size + 4 * sequences)
    documents = np.frombuffer(raw, "<i8", bounds, MEGATRON_HEADER.size + 12 * sequences)
    dtype = np.dtype(MEGATRON_DTYPES[code])
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if np.any(lengths < 0) or not np.array_equal(pointers, ends[:-1] * dtype.itemsize):
        raise _broken(index, "its sequences do not lie one behind the other")
    if bounds and (documents[0] != 0 or documents[-1] != sequences or np.any(np.diff(documents) < 0)):
        raise _broken(index, "its documents do not lie one behind the other")
    return _documents(data, dtype, ends[documents] if bounds else ends)


def _datatrove(data: Path, index: Path) -> TokenDocuments:
    raw = index.read_bytes()
    if len(raw) % 8:
        raise _broken(index, "it is cut short")
    bounds = np.concatenate([[0], np.frombuffer(raw, "<u8").astype(np.int64)])
    if np.any(np.diff(bounds) < 0):
        raise _broken(index, "its document ends do not grow")
    size = data.stat().st_size
    wide = size // int(bounds[-1]) if bounds[-1] else 2
    if wide not in DATATROVE_DTYPES:
        raise _broken(data, f"{size} bytes are no {bounds[-1]} tokens of 2 or 4")
    return _documents(data, np.dtype(DATATROVE_DTYPES[wide]), bounds)


def _documents(data: Path, dtype: np.dtype, bounds: np.ndarray) -> TokenDocuments:
    size, tokens = data.stat().st_size, int(bounds[-1])
    if size != tokens * dtype.itemsize:
        raise _broken(data, f"{size} bytes are not the {tokens} tokens of {dtype.itemsize} bytes its index speaks of")
    # an empty file cannot be mapped
    return TokenDocuments(np.memmap(data, dtype, mode="r") if size else np.zeros(0, dtype), bounds)


def _take_over(
    shards: GroupShards, file: TokenFile, path: Path, documents: TokenDocuments, tokenizer: Any, held: dict[str, bool],
    characters: np.ndarray,
) -> None:  # fmt: skip
    source = file.source or path.name
    off = np.array([tokenizer.bos_id, tokenizer.eos_id, *file.strip])
    for i, ids in enumerate(documents):
        inner = _stripped(ids.astype(np.int64), off)
        outside = inner[(inner < 0) | (inner >= tokenizer.vocab_size)]
        if len(outside):
            raise InputError(f"document {i} holds the id {outside[0]}, and this tokenizer has {tokenizer.vocab_size} ids",
                             where=str(path), fix="name the tokenizer these tokens were made with under `from`")  # fmt: skip
        whole = np.concatenate([[tokenizer.bos_id], inner, [tokenizer.eos_id]])
        name = _name(path, i)
        shards.add(file.group, held[name], whole, name, source, file.licence, int(characters[inner].sum()))


def _stripped(ids: np.ndarray, off: np.ndarray) -> np.ndarray:
    """`ids` without the ones in `off` at either end."""
    inside = np.flatnonzero(~np.isin(ids, off))
    return ids[inside[0] : inside[-1] + 1] if len(inside) else ids[:0]


def _characters(tokenizer: Any) -> np.ndarray:
    """Characters that begin in each token (bytes that continue a character count nothing), [vocab]; special tokens have none."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for i in range(tokenizer.vocab_size):
        if not tokenizer.is_special(i):
            counts[i] = sum(byte & 0xC0 != 0x80 for byte in tokenizer.token_bytes(i))
    return counts


def _paths(pattern: str) -> list[Path]:
    """Files of a pattern in order; of a Megatron pair only the `.bin`."""
    path = Path(pattern)
    found = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else [path]
    if not found:
        raise InputError("no file matches this pattern", where=pattern, fix="check the path (relative to where you run puna)")
    return [p for p in found if len(found) == 1 or p.suffix in (".bin", ".ds")]


def _name(path: Path, index: int) -> str:
    return f"{path.name}:{index}"


def _broken(path: Path, why: str) -> InputError:
    return InputError(f"this file of tokens is broken: {why}", where=str(path), fix="copy it again, or leave it out")
