"""Token shards: documents as flat arrays of token ids, by group of the data mix, and the mix that training draws them in
(paper 3.1.2).

A shard is `.bin` (uint32, little-endian), `.idx` (int64, the end of every document) and `.json`, so training maps it into
memory and nothing is shuffled on disk. Every document is [bos] + ids + [eos]. A share of the documents, chosen by the hash of
their id, is held out of training and serves for perplexity by source.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext

KIND = "tokens"
REVISION = 1

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
BATCH_CHARS = 4 << 20  # text encoded at a time
PAPER_MIX = {"general": 0.50, "maths": 0.25, "code": 0.17, "multilingual": 0.08}  # paper section 3.1.2


class Settings(StageSettings):
    """How the corpus becomes tokens.

    Attributes:
        mix: weight of each group in pre-training, as shares of tokens; absent groups are left out and the rest scaled up.
        anneal_mix: the same for the annealing phase; by default maths and code up-sampled (paper section 3.1.3).
        held: share of documents held out of training, by hash of their id.
    """

    mix: dict[str, float] = PAPER_MIX
    anneal_mix: dict[str, float] = {"general": 0.30, "maths": 0.40, "code": 0.20, "multilingual": 0.10}
    held: float = 0.02


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
    """Writes a shard document by document; the files get their names when it is closed."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.ends: list[int] = []
        self._length = 0
        self._bin = _file(self.path, "bin.part").open("wb")

    def add(self, ids: list[int]) -> None:
        """Append one document."""
        self._bin.write(np.asarray(ids, dtype="<u4").tobytes())
        self._length += len(ids)
        self.ends.append(self._length)

    def close(self, meta: dict[str, Any]) -> None:
        """Finish the three files."""
        self._bin.close()
        np.asarray(self.ends, dtype="<i8").tofile(_file(self.path, "idx"))
        text = json.dumps(
            {**meta, "documents": len(self.ends), "tokens": self._length, "dtype": "uint32"}, indent=1, sort_keys=True
        )
        _file(self.path, "json").write_text(text + "\n")
        _file(self.path, "bin.part").replace(_file(self.path, "bin"))


def _file(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


@dataclass
class GroupCount:
    """What one group of the mix holds."""

    train: int = 0
    held: int = 0
    documents: int = 0
    held_documents: int = 0
    characters: int = 0
    sources: dict[str, int] = field(default_factory=dict)


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
    sources: dict[str, dict[str, Any]] = {}
    counts = _encode(corpus.path, tokenizer, held, ctx, sources)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).exists():
            shutil.copyfile(tokenizer_dir / name, ctx.out / name)
    present = [group for group in sorted(counts) if counts[group].train]
    mixes = {
        "mix": normalised_mix(settings.mix, present, "mix", ctx),
        "anneal_mix": normalised_mix(settings.anneal_mix, present, "anneal_mix", ctx),
    }
    groups = {group: _group_summary(counts[group]) for group in sorted(counts)}
    table = [{"source": name, **sources[name]} for name in sorted(sources)]
    manifest = {**mixes, "groups": groups, "sources": table, "tokenizer": tokenizer.digest, "vocab_size": tokenizer.vocab_size}
    (ctx.out / "mix.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in table:
        ctx.add_source(row["source"], row["licence"], rows=row["documents"])
    train = sum(count.train for count in counts.values())
    return {
        "tokens": train,
        "held_tokens": sum(count.held for count in counts.values()),
        "documents": sum(map(len, held.values())),
        "characters_per_token": round(
            sum(c.characters for c in counts.values()) / sum(c.train + c.held for c in counts.values()), 4
        ),
        "groups": groups,
        **mixes,
    }


def normalised_mix(weights: dict[str, float], present: list[str], name: str, ctx: StageContext) -> dict[str, float]:
    """Weights of the groups that have tokens, scaled to sum 1; what is left out is noted.

    Raises:
        InputError: a weight is negative, or no group with a weight is there.
    """
    if any(weight < 0 for weight in weights.values()):
        raise InputError(
            f"weights of `{name}` must not be negative", where=str(weights), fix=f"{name}: {{general: 0.5, maths: 0.25}}"
        )
    used = {group: weight for group, weight in sorted(weights.items()) if weight > 0 and group in present}
    if not used:
        raise InputError(
            f"no group of `{name}` has any document",
            where=f"{name}: {weights}; the corpus has: {', '.join(present)}",
            fix=f"{name}: {{{present[0] if present else 'general'}: 1}}",
        )
    absent = sorted(group for group, weight in weights.items() if weight > 0 and group not in present)
    if absent:
        ctx.note(f"{name}: no documents of {', '.join(absent)}; the other weights are scaled up")
    unused = sorted(group for group in present if not weights.get(group))
    if unused:
        ctx.note(f"{name}: {', '.join(unused)} has documents and no weight, so it is not trained on")
    total = sum(used.values())
    return {group: weight / total for group, weight in used.items()}


def _dropped(summary: dict[str, Any]) -> str:
    return ", ".join(f"{reason} dropped {number}" for reason, number in summary.get("dropped", {}).items()) or "no documents"


def _held_out(directory: Path, share: float) -> dict[str, dict[str, bool]]:
    """For every group, which document ids are held out; a group of two documents or more holds out one at least."""
    from puna.data.columns import documents

    hashes: dict[str, dict[str, float]] = {}
    for row in documents(directory, ["id", "group"]):
        digest = hashlib.blake2b(row["id"].encode(), digest_size=8).digest()
        hashes.setdefault(row["group"], {})[row["id"]] = int.from_bytes(digest, "little") / 2**64
    held = {}
    for group, by_id in hashes.items():
        bound = max(share, min(by_id.values()) * (1 + 1e-12)) if share > 0 and len(by_id) > 1 else share
        held[group] = {name: value < bound for name, value in by_id.items()}
    return held


def _encode(
    directory: Path, tokenizer: Any, held: dict[str, dict[str, bool]], ctx: StageContext, sources: dict[str, dict[str, Any]]
) -> dict[str, GroupCount]:
    """Write the shards of every group; `sources` takes documents and tokens by source."""
    from puna.data.columns import documents

    builders = {
        (split, group): ShardBuilder(ctx.out / f"{split}-{group}") for group in sorted(held) for split in ("train", "held")
    }
    counts = {group: GroupCount() for group in sorted(held)}
    total, done = sum(map(len, held.values())), 0
    for batch in _batches(documents(directory, ["id", "group", "source", "licence", "text"])):
        for row, ids in zip(batch, tokenizer.encode_batch([row["text"] for row in batch]), strict=True):
            out = held[row["group"]][row["id"]]
            whole = [tokenizer.bos_id, *ids, tokenizer.eos_id]
            builders["held" if out else "train", row["group"]].add(whole)
            _count(counts[row["group"]], sources, row, len(whole), out)
        done += len(batch)
        ctx.progress(done, total)
    for (split, group), builder in builders.items():
        builder.close(
            {
                "split": split,
                "group": group,
                "tokenizer": tokenizer.digest,
                "sources": dict(sorted(counts[group].sources.items())),
            }
        )
    return counts


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


def _count(count: GroupCount, sources: dict[str, dict[str, Any]], row: dict[str, Any], tokens: int, out: bool) -> None:
    source = sources.setdefault(row["source"], {"licence": row["licence"], "documents": 0, "tokens": 0})
    source["documents"] += 1
    source["tokens"] += tokens
    count.sources[row["source"]] = count.sources.get(row["source"], 0) + 1
    count.characters += len(row["text"])
    if out:
        count.held += tokens
        count.held_documents += 1
    else:
        count.train += tokens
        count.documents += 1


def _group_summary(count: GroupCount) -> dict[str, Any]:
    """Counts of one group as JSON values."""
    tokens = count.train + count.held
    return {
        "train_tokens": count.train,
        "held_tokens": count.held,
        "train_documents": count.documents,
        "held_documents": count.held_documents,
        "characters_per_token": round(count.characters / max(tokens, 1), 4),
        "sources": dict(sorted(count.sources.items())),
    }
