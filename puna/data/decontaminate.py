"""Documents that hold evaluation data: n-grams shared with the user's evaluation files (paper sections 3.1.3 and 5.1.4).

The paper measures contamination by 8-grams of tokens and keeps training sets of benchmarks out of annealing data. Here the
8-grams and 13-grams of words of every evaluation item are hashed into one sorted array; of each document it is told which share
of its words stands in such n-grams, and which item it shares most with. N-grams that many items share (the wording of the
task) accuse nobody and are left out. Words are letters in scripts without spaces; there n-grams are three times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash
from pydantic import NonNegativeInt, PositiveInt, field_validator, model_validator

from puna.core.errors import InputError
from puna.core.settings import Settings, Share, execution
from puna.data.open_file import STREAM_ERRORS, inner_suffix, open_bytes
from puna.data.words import Words, scan, utf8_of

if TYPE_CHECKING:
    import pyarrow as pa

LETTERS_A_WORD = 3  # an n-gram of a script without spaces has n times this many letters
FILTER_SLOTS = 16  # of the filter before the sorted array, for each n-gram: one in sixteen of other n-grams passes it
MOSTLY = 0.5  # a document with a larger share of evaluation data is dropped and never masked
ITEM_SHARE, BY = "contaminated_item_share", "contaminated_by"  # names of columns
NAMED_SHORT = 20  # items too short for an n-gram that are named, of all that are counted


class EvaluationSettings(Settings):
    """What counts as evaluation data.

    Attributes:
        files: JSONL, JSON, Parquet (every string of a row counts) or text files (blank lines part items), compressed or not.
        ngrams: lengths in words; the first decides which item a document is charged with.
        common_items: an n-gram of more items than this is wording of the task and not counted.
    """

    files: tuple[str, ...] = execution(())  # their content counts, see `evaluation_digests`
    ngrams: tuple[PositiveInt, ...] = (8, 13)
    common_items: NonNegativeInt = 10

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class DecontaminationSettings(EvaluationSettings):
    """What happens to a document that holds evaluation data.

    Attributes:
        max_shares: for each length the largest share of a document's words in shared n-grams that is let through.
        max_item_share: a document with more than this share of an item's n-grams holds the item, however long it is.
        mode: "drop" the document, or "mask": cut the shared words out of its text, unless they are more than half of it.
    """

    max_shares: tuple[Share, ...] = (0.2, 0.0)
    max_item_share: Share = 0.8
    mode: Literal["drop", "mask"] = "drop"

    def measured(self) -> EvaluationSettings:
        """The part that the measuring depends on."""
        return EvaluationSettings(files=self.files, ngrams=self.ngrams, common_items=self.common_items)

    @model_validator(mode="after")
    def _paired(self) -> DecontaminationSettings:
        if not self.ngrams or len(self.ngrams) != len(self.max_shares) or min(self.ngrams) < 2:
            raise ValueError("`ngrams` needs lengths of at least 2, and `max_shares` one share for each of them")
        return self


@dataclass(frozen=True)
class Grams:
    """The n-grams of one length.

    Attributes:
        keys: uint64, sorted distinct hashes.
        owners: int32, beside them, the first item with the n-gram.
        owned: int32 [items], n-grams that each item owns.
        maybe: bool, whether any key has a slot's top bits; a filter that keeps the search for the few.
    """

    keys: np.ndarray
    owners: np.ndarray
    owned: np.ndarray
    maybe: np.ndarray


@dataclass(frozen=True)
class EvaluationIndex:
    """N-grams of all evaluation items.

    Attributes:
        items: name of each, "FILE#number".
        ngrams: the lengths.
        grams: beside them.
        short: how many items are too short for any n-gram of the first length, and the first names of these.
    """

    items: list[str]
    ngrams: tuple[int, ...]
    grams: list[Grams]
    short: tuple[int, list[str]]

    def save(self, path: Path) -> None:
        """Write the index to one `.npz` file, by rename."""
        meta = json.dumps({"items": self.items, "ngrams": self.ngrams, "short": self.short}).encode()
        arrays = {f"{name}_{n}": getattr(gram, name) for n, gram in enumerate(self.grams) for name in ("keys", "owners", "owned")}
        partial = path.with_name(path.name + ".part")
        with partial.open("wb") as file:
            np.savez(file, meta=np.frombuffer(meta, dtype=np.uint8), **arrays)
        partial.replace(path)


@lru_cache(maxsize=2)
def load_index(path: Path) -> EvaluationIndex:
    """The index that `EvaluationIndex.save` wrote, kept for the life of the process."""
    with np.load(path, allow_pickle=False) as file:
        meta = json.loads(file["meta"].tobytes())
        grams = [_grams(file[f"keys_{n}"], file[f"owners_{n}"], file[f"owned_{n}"]) for n in range(len(meta["ngrams"]))]
    return EvaluationIndex(meta["items"], tuple(meta["ngrams"]), grams, (meta["short"][0], meta["short"][1]))


def evaluation_digests(settings: EvaluationSettings) -> dict[str, str]:
    """xxh3-128 of every evaluation file: what a stage's result depends on besides its settings."""
    digests = {}
    for number, path in enumerate(map(Path, settings.files)):
        try:
            digests[f"evaluation {number}: {path.name}"] = xxhash.xxh3_128_hexdigest(path.read_bytes())
        except OSError as error:
            raise _unreadable(path, error) from error
    return digests


def build_index(settings: EvaluationSettings) -> EvaluationIndex:
    """Read the evaluation files and hash their n-grams.

    Raises:
        InputError: a file cannot be read, is of no known kind, or holds no text; every file must say something.
    """
    items: list[str] = []
    parts: list[str] = []
    of_part: list[int] = []
    for path in map(Path, settings.files):
        before = len(items)
        for number, strings in _items(path):
            of_part += [len(items)] * len(strings)
            parts += strings
            items.append(f"{path.name}#{number}")
        if len(items) == before:
            raise InputError("this evaluation file holds no text", where=str(path), fix="name files of JSONL, Parquet or text")
    words, owners = scan(parts), np.array(of_part, dtype=np.int32)
    grams = [_index_grams(words, owners, n, len(items), settings.common_items) for n in settings.ngrams]
    has_any = np.zeros(len(items), dtype=bool)
    has_any[owners[words.counts >= _sizes(words, settings.ngrams[0])]] = True
    short = np.flatnonzero(~has_any).tolist()
    return EvaluationIndex(items, settings.ngrams, grams, (len(short), [items[item] for item in short[:NAMED_SHORT]]))


def _items(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and strings of every item of a file."""
    suffix = inner_suffix(path)
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: Any = pq.read_table(path, use_threads=False).to_pylist()
        else:
            with open_bytes(path) as file:
                text = file.read().decode("utf-8")
            if suffix in (".jsonl", ".ndjson"):
                rows = [json.loads(line) for line in text.split("\n") if line.strip()]
            elif suffix == ".json":
                loaded = json.loads(text)
                rows = loaded if isinstance(loaded, list) else [loaded]
            else:
                rows = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    except (*STREAM_ERRORS, ValueError) as error:
        raise _unreadable(path, error) from error
    for number, row in enumerate(rows, 1):
        strings = [string for string in _strings(row) if string.strip()]
        if strings:
            yield number, strings


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"this evaluation file cannot be read: {error}", where=str(path), fix="correct `decontaminate.files`")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _sizes(words: Words, n: int) -> np.ndarray:
    return np.where(words.letterwise(), LETTERS_A_WORD * n, n).astype(np.int32)


def _index_grams(words: Words, owners: np.ndarray, n: int, items: int, common_items: int) -> Grams:
    from puna.data.kernels.tokens import ngrams_of

    room = np.empty(int(words.counts.max(initial=1)), dtype=np.uint64)
    hashes, of = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int32)]
    ends = words.ends.tolist()
    for begin, end, size, owner in zip([0, *ends], ends, _sizes(words, n).tolist(), owners.tolist(), strict=False):
        distinct = np.unique(room[: ngrams_of(words.hashes, begin, end, size, room)])
        hashes.append(distinct)
        of.append(np.full(len(distinct), owner, dtype=np.int32))
    every, every_owner = np.concatenate(hashes), np.concatenate(of)
    order = np.lexsort((every_owner, every))
    every, every_owner = every[order], every_owner[order]
    new_pair = np.ones(len(every), dtype=bool)  # an item's parts may share an n-gram
    new_pair[1:] = (every[1:] != every[:-1]) | (every_owner[1:] != every_owner[:-1])
    keys, first, counts = np.unique(every[new_pair], return_index=True, return_counts=True)
    rare = counts <= common_items
    firsts = every_owner[new_pair][first[rare]]
    return _grams(keys[rare], firsts, np.bincount(firsts, minlength=items).astype(np.int32))


def _grams(keys: np.ndarray, owners: np.ndarray, owned: np.ndarray) -> Grams:
    from puna.data.kernels.tokens import SPREAD

    bits = max(8, int(np.ceil(np.log2(FILTER_SLOTS * max(len(keys), 1)))))
    maybe = np.zeros(1 << bits, dtype=bool)
    maybe[(keys * SPREAD) >> np.uint64(64 - bits)] = True
    return Grams(keys, owners, owned, maybe)


@dataclass(frozen=True)
class Overlap:
    """What a batch of documents shares with the evaluation items.

    Attributes:
        shares: float32 [lengths, documents], share of a document's words in shared n-grams of each length.
        item: int32 [documents], the item most shared with, -1 for none.
        item_share: float32 [documents], share of that item's n-grams of the first length.
        covered: bool [words], whether a word stands in a shared n-gram of any length.
    """

    shares: np.ndarray
    item: np.ndarray
    item_share: np.ndarray
    covered: np.ndarray

    def contaminated(self, settings: DecontaminationSettings) -> np.ndarray:
        """Which documents are over a limit. Returns bool [documents]."""
        return over_limits(self.shares, self.item_share, settings)

    def columns(self, index: EvaluationIndex) -> dict[str, pa.Array]:
        """Annotation columns: `contaminated_N` for each length, `contaminated_item_share`, `contaminated_by` (null: by none)."""
        import pyarrow as pa

        by = [index.items[item] if item >= 0 else None for item in self.item.tolist()]
        shares = dict(zip(share_columns(index.ngrams), map(pa.array, self.shares), strict=True))
        return shares | {ITEM_SHARE: pa.array(self.item_share), BY: pa.array(by, pa.string())}


def share_columns(ngrams: tuple[int, ...]) -> list[str]:
    """Names of the columns of shares, by length."""
    return [f"contaminated_{n}" for n in ngrams]


def over_limits(shares: np.ndarray, item_share: np.ndarray, settings: DecontaminationSettings) -> np.ndarray:
    """Which documents share too much; arguments as in `Overlap`, NaN where not judged. Returns bool [documents]."""
    over = shares > np.array(settings.max_shares, dtype=np.float32)[:, None]
    return over.any(axis=0) | (item_share > settings.max_item_share)


def overlap(words: Words, index: EvaluationIndex) -> Overlap:
    """Compare a batch of documents with the evaluation items."""
    from puna.data.kernels.tokens import shared_ngrams

    documents = len(words.ends)
    covered = np.zeros(len(words.hashes), dtype=bool)
    shares = np.zeros((len(index.ngrams), documents), dtype=np.float32)
    item = np.full((len(index.ngrams), documents), -1, dtype=np.int32)
    item_share = np.zeros((len(index.ngrams), documents), dtype=np.float32)
    for row, (n, grams) in enumerate(zip(index.ngrams, index.grams, strict=True)):
        shift = np.uint64(64 - int(np.log2(len(grams.maybe))))
        shared_ngrams(
            words.hashes, words.ends, _sizes(words, n), grams.keys, grams.owners, grams.owned, grams.maybe, shift,
            covered, shares[row], item[row], item_share[row],
        )  # fmt: skip
    first = np.argmax(item >= 0, axis=0)  # the shortest length that met an item
    return Overlap(shares, item[first, np.arange(documents)], item_share[0], covered)


def verdicts(table: pa.Table, settings: DecontaminationSettings) -> tuple[np.ndarray, np.ndarray]:
    """From a table's columns (of `Overlap.columns`) which documents to drop and which to mask. Returns two bool [documents]."""
    shares = np.stack([table[name].to_numpy() for name in share_columns(settings.ngrams)])
    over = over_limits(shares, table[ITEM_SHARE].to_numpy(), settings)
    drop = over & ((shares > MOSTLY).any(axis=0) | (settings.mode == "drop"))
    return drop, over & ~drop


def mask(texts: pa.Array | pa.ChunkedArray, words: Words, found: Overlap, among: np.ndarray) -> list[str | None]:
    """Texts of some documents without the words they share with evaluation items.

    Args:
        texts: the batch that `words` was scanned from.
        among: bool [documents], which to cut; the others get None.
    """
    data, offsets = utf8_of(texts)
    masked: list[str | None] = [None] * len(words.ends)
    for doc in np.flatnonzero(among).tolist():
        begin, end = int(words.ends[doc - 1]) if doc else 0, int(words.ends[doc])
        starts = np.append(words.starts[begin:end], offsets[doc + 1])
        flags = np.concatenate([[False], found.covered[begin:end], [False]]).astype(np.int8)
        edges = starts[np.flatnonzero(np.diff(flags))].tolist()  # begin and end of every cut
        kept = zip([int(offsets[doc]), *edges[1::2]], [*edges[::2], int(offsets[doc + 1])], strict=True)
        masked[doc] = b"".join(data[first:last].tobytes() for first, last in kept).decode("utf-8", "replace").strip()
    return masked
