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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from puna.core.errors import InputError
from puna.core.settings import Settings as StageSettings
from puna.core.stage import StageContext
from puna.data.mix import MAX_EPOCHS, PHASES, VERSION, Holding, Phase, phase_plan, too_often, weights_by_source

KIND = "tokens"
REVISION = 2

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
BATCH_CHARS = 4 << 20  # text encoded at a time
PAPER_MIX = {"general": 0.50, "maths": 0.25, "code": 0.17, "multilingual": 0.08}  # paper section 3.1.2


class Settings(StageSettings):
    """How the corpus becomes tokens.

    Attributes:
        mix: weight of each group in pre-training, as shares of tokens; absent groups are left out and the rest scaled up.
        anneal_mix: the same for the annealing phase; by default maths and code up-sampled (paper section 3.1.3).
        long_mix: the same for the long-context phase; None goes on with `mix`.
        source_weights: by phase and source (or `group/source`), how much more often than by its size a source is read within its
            group: {anneal: {wiki: 3, forum: 0}}. Sources not named count 1.
        planned_tokens: tokens each phase will train on, from which the epochs of every source follow.
        max_epochs: a source that would be read more often is named in a note.
        held: share of documents held out of training, by hash of their id.
    """

    mix: dict[str, float] = PAPER_MIX
    anneal_mix: dict[str, float] = {"general": 0.30, "maths": 0.40, "code": 0.20, "multilingual": 0.10}
    long_mix: dict[str, float] | None = None
    source_weights: dict[Phase, dict[str, float]] = {}
    planned_tokens: dict[Phase, float] = {}
    max_epochs: float = Field(MAX_EPOCHS, gt=0)
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


@dataclass
class GroupCount:
    """What one group of the mix holds."""

    train: int = 0
    held: int = 0
    documents: int = 0
    held_documents: int = 0
    characters: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    by_source: dict[str, tuple[int, int]] = field(default_factory=dict)  # (documents, tokens) for training


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
    counts, digests = _encode(corpus.path, tokenizer, held, ctx, sources)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).exists():
            shutil.copyfile(tokenizer_dir / name, ctx.out / name)
    table = [{"source": name, **sources[name]} for name in sorted(sources)]
    manifest = {
        "version": VERSION,
        **_mixes(settings, counts, ctx),
        "groups": {group: _group_summary(counts[group]) for group in sorted(counts)},
        "sources": table,
        "shards": digests,
        "tokenizer": tokenizer.digest,
        "vocab_size": tokenizer.vocab_size,
    }
    (ctx.out / "mix.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for row in table:
        ctx.add_source(row["source"], row["licence"], rows=row["documents"])
    return {
        "tokens": sum(count.train for count in counts.values()),
        "held_tokens": sum(count.held for count in counts.values()),
        "documents": sum(map(len, held.values())),
        "characters_per_token": round(
            sum(c.characters for c in counts.values()) / sum(c.train + c.held for c in counts.values()), 4
        ),
        **{key: manifest[key] for key in ("groups", "mix", "anneal_mix")},
    }


def _mixes(settings: Settings, counts: dict[str, GroupCount], ctx: StageContext) -> dict[str, Any]:
    """Weights by group of the two mixes every reader knows, and the plan of each phase by source."""
    present = [group for group in sorted(counts) if counts[group].train]
    mix = normalised_mix(settings.mix, present, "mix", ctx)
    anneal = normalised_mix(settings.anneal_mix, present, "anneal_mix", ctx)
    long = mix if settings.long_mix is None else normalised_mix(settings.long_mix, present, "long_mix", ctx)
    holdings = [
        Holding(group, source, *documents_and_tokens)
        for group in present
        for source, documents_and_tokens in sorted(counts[group].by_source.items())
    ]
    phases = {}
    for phase, groups in zip(PHASES, (mix, long, anneal), strict=True):
        weights = weights_by_source(groups, settings.source_weights.get(phase, {}), holdings, f"source_weights.{phase}")
        phases[phase] = phase_plan(weights, holdings, settings.planned_tokens.get(phase))
    for warning in too_often(phases, settings.max_epochs):
        ctx.note(warning)
    return {"mix": mix, "anneal_mix": anneal, "phases": phases}


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
) -> tuple[dict[str, GroupCount], dict[str, str]]:
    """Write the shards of every group; `sources` takes documents and tokens by source. Returns counts, and digest by shard."""
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
            builders["held" if out else "train", row["group"]].add(whole, (row["id"], row["source"]))
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
    return counts, {builder.path.name: builder.digest.hexdigest() for builder in builders.values()}


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
        documents, there = count.by_source.get(row["source"], (0, 0))
        count.by_source[row["source"]] = (documents + 1, there + tokens)


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
