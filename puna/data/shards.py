"""Token shards: documents as flat arrays of token ids, by group of the data mix, and the mix that training draws them in
(paper 3.1.2).

A shard is `.bin` (uint32, little-endian), `.idx` (int64, the end of every document) and `.json`, so training maps it into
memory and nothing is shuffled on disk; `.parquet` beside them names each document's id and source. Every document is [bos] + ids
+ [eos]. A share of the documents, chosen by the hash of their id, is held out of training and serves for perplexity by source.
`mix.json` is the manifest: weights, tokens and epochs by phase and source, and digests of tokenizer and shards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.errors import InputError
from puna.core.stage import StageContext
from puna.data.mix_manifest import Contents, GroupCount, MixSettings, write_manifest

KIND = "tokens"
REVISION = 2

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
BATCH_CHARS = 4 << 20  # text encoded at a time
SPLITS = ("train", "held")


class Settings(MixSettings):
    """How the corpus becomes tokens: the mix of each phase and the share held out, see `puna.data.mix_manifest`."""


@dataclass
class TokenShard:
    """A shard mapped into memory.

    Attributes:
        tokens: uint32 [tokens].
        ends: int64 [documents], the position after each document's last token.
        meta: the content of `.json`.
    """

    tokens: np.ndarray
    ends: np.ndarray
    meta: dict[str, Any]

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.ends)

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document with its begin and end tokens. Returns uint32 [length]."""
        start = int(self.ends[index - 1]) if index else 0
        return self.tokens[start : int(self.ends[index])]


def open_shard(path: str | Path) -> TokenShard:
    """Map the shard whose files are `path` + `.bin`, `.idx` and `.json`.

    Raises:
        InputError: a file is missing, or their sizes contradict one another.
    """
    path = Path(path)
    try:
        meta = json.loads(_file(path, "json").read_text())
        ends = np.fromfile(_file(path, "idx"), dtype="<i8")
        size = _file(path, "bin").stat().st_size
    except (OSError, ValueError) as error:
        raise InputError(f"this token shard cannot be read: {error}", where=str(path), fix="run `data.shards` again") from error
    if size != 4 * (int(ends[-1]) if len(ends) else 0) or np.any(np.diff(ends, prepend=0) < 0):
        raise InputError("the files of this token shard do not belong together", where=str(path), fix="run `data.shards` again")
    # an empty file cannot be mapped
    tokens = np.memmap(_file(path, "bin"), dtype="<u4", mode="r") if size else np.zeros(0, dtype="<u4")
    return TokenShard(tokens, ends, meta)


def write_shard(path: str | Path, docs: Iterable[list[int]], meta: dict[str, Any]) -> None:
    """Write documents (token ids, begin and end tokens included) as a shard; `meta` goes into `.json` with the counts."""
    builder = ShardBuilder(path)
    for ids in docs:
        builder.add(ids)
    builder.close(meta)


class ShardBuilder:
    """Writes a shard document by document; the files get their names when it is closed.

    Attributes:
        digest: of the tokens, and once closed of tokens and document ends (BLAKE2b, 16 bytes).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.ends: list[int] = []
        self.labels: list[tuple[str, str]] = []
        self.digest = hashlib.blake2b(digest_size=16)
        self._length = 0
        self._bin = _file(self.path, "bin.part").open("wb")

    def add(self, ids: list[int] | np.ndarray, label: tuple[str, str] | None = None) -> None:
        """Append one document, with its (id, source) if the shard says them; then every document needs one."""
        data = np.asarray(ids, dtype="<u4").tobytes()
        self._bin.write(data)
        self.digest.update(data)
        self._length += len(ids)
        self.ends.append(self._length)
        if label is not None:
            self.labels.append(label)

    def close(self, meta: dict[str, Any]) -> None:
        """Finish the files."""
        self._bin.close()
        ends = np.asarray(self.ends, dtype="<i8")
        ends.tofile(_file(self.path, "idx"))
        self.digest.update(ends.tobytes())
        if self.labels:
            _write_labels(_file(self.path, "parquet"), self.labels)
        text = json.dumps(
            {**meta, "documents": len(self.ends), "tokens": self._length, "dtype": "uint32"}, indent=1, sort_keys=True
        )
        _file(self.path, "json").write_text(text + "\n")
        _file(self.path, "bin.part").replace(_file(self.path, "bin"))


def _write_labels(path: Path, labels: list[tuple[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids, sources = zip(*labels, strict=True)
    table = pa.table({"id": pa.array(ids, "string"), "source": pa.array(sources, "string").dictionary_encode()})
    pq.write_table(table, path, compression="zstd")


def document_column(path: str | Path, column: str) -> np.ndarray:
    """What the shard at `path` says of each of its documents: their `id` or `source`, object array [documents].

    Raises InputError for a shard without these columns (written before they were).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _file(Path(path), "parquet")
    try:
        return pq.read_table(file, columns=[column], use_threads=False)[column].to_numpy()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError("this token shard does not say where its documents come from", where=str(file),
                         fix="run `data.shards` again") from error  # fmt: skip


def find_document(directory: Path, name: str) -> list[tuple[str, str, int]]:
    """Where the document with an id lies in a `tokens` artifact: (split, group, index in the shard), one row per copy."""
    found = []
    for path in sorted(Path(directory).glob("*.bin")):
        split, _, group = path.stem.partition("-")
        if _file(path.with_suffix(""), "parquet").exists():
            matches = np.flatnonzero(document_column(path.with_suffix(""), "id") == name)
            found += [(split, group, int(index)) for index in matches]
    return found


def _file(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Encode the kept documents into `train-<group>` and `held-<group>` shards and write `mix.json`.

    Raises:
        InputError: there is no document, or no group of the mix has any.
    """
    from puna.tokenizer.bpe import Tokenizer

    corpus, tokenizer_dir = ctx.inputs.one("documents"), ctx.inputs.one("tokenizer").path
    tokenizer = Tokenizer.load(tokenizer_dir)
    held = _held_out(corpus.path, settings.held)
    if not held:
        raise InputError(
            "there is no document to encode",
            where=f"{corpus.path}: {_dropped(corpus.summary())}",
            fix="loosen the limits of `data.curate`, or give more pages",
        )
    contents = _encode(corpus.path, tokenizer, held, ctx)
    copy_tokenizer(tokenizer_dir, ctx.out)
    return write_manifest(settings, ctx, contents, tokenizer)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Put the tokenizer's files beside the shards, so that the artifact can be read alone."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)


class GroupShards:
    """The `train-<group>` and `held-<group>` shards of several groups, written side by side."""

    def __init__(self, out: Path, groups: Iterable[str]):
        names = sorted(groups)
        self.builders = {(split, group): ShardBuilder(out / f"{split}-{group}") for group in names for split in SPLITS}
        self.contents = Contents({group: GroupCount() for group in names})

    def add(
        self, group: str, held: bool, ids: list[int] | np.ndarray, name: str, source: str, licence: str, characters: int
    ) -> None:
        """Append a document called `name`: ids with its begin and end tokens, of a text of `characters`."""
        self.builders[SPLITS[held], group].add(ids, (name, source))
        self.contents.add(group, source, licence, len(ids), characters, held)

    def close(self, tokenizer_digest: str) -> Contents:
        """Finish every shard and say what they hold."""
        for (split, group), builder in self.builders.items():
            sources = dict(sorted(self.contents.groups[group].sources.items()))
            builder.close({"split": split, "group": group, "tokenizer": tokenizer_digest, "sources": sources})
            self.contents.shards[builder.path.name] = builder.digest.hexdigest()
        return self.contents


def _dropped(summary: dict[str, Any]) -> str:
    return ", ".join(f"{reason} dropped {number}" for reason, number in summary.get("dropped", {}).items()) or "no documents"


def _held_out(directory: Path, share: float) -> dict[str, dict[str, bool]]:
    """For every group, which document ids are held out."""
    from puna.data.columns import documents

    names: dict[str, list[str]] = {}
    for row in documents(directory, ["id", "group"]):
        names.setdefault(row["group"], []).append(row["id"])
    return {group: choose_held(of_group, share) for group, of_group in names.items()}


def choose_held(names: Iterable[str], share: float) -> dict[str, bool]:
    """Which of a group's documents are held out, by hash of their id; of two or more, at least one."""
    hashes = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") / 2**64 for name in names}
    bound = max(share, min(hashes.values()) * (1 + 1e-12)) if share > 0 and len(hashes) > 1 else share
    return {name: value < bound for name, value in hashes.items()}


def _encode(directory: Path, tokenizer: Any, held: dict[str, dict[str, bool]], ctx: StageContext) -> Contents:
    """Write the shards of every group."""
    from puna.data.columns import documents

    shards = GroupShards(ctx.out, held)
    total, done = sum(map(len, held.values())), 0
    for batch in _batches(documents(directory, ["id", "group", "source", "licence", "text"])):
        for row, ids in zip(batch, tokenizer.encode_batch([row["text"] for row in batch]), strict=True):
            whole, out = [tokenizer.bos_id, *ids, tokenizer.eos_id], held[row["group"]][row["id"]]
            shards.add(row["group"], out, whole, row["id"], row["source"], row["licence"], len(row["text"]))
        done += len(batch)
        ctx.progress(done, total)
    return shards.close(tokenizer.digest)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["text"])
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
