"""First pass of curation, shard by shard: the text of every page, and the facts from which everything later is decided.

Beside the Parquet file of texts and scalar facts lies one `.npz` of arrays: MinHash signatures, shingle hashes for exact
verification and line hashes, each flat with the end of every document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from puna.data.columns import read_shard_table, write_shard_table
from puna.data.dedup import line_keys, text_key, url_key
from puna.data.extract import extract
from puna.data.language import UNKNOWN, identify
from puna.data.minhash import EMPTY, shingles, signature
from puna.data.signals import letterwise, words_of
from puna.data.spam import spam_kind, spam_signals

FACT_COLUMNS = {
    "id": "string",
    "url": "string",
    "date": "string",
    "source": "string",
    "licence": "string",
    "group": "string",
    "lang": "string",
    "lang_p": "double",
    "url_key": "string",
    "text_key": "uint64",
    "spam": "string",
    "advert_share": "double",
    "dirty_share": "double",
    "stuffing": "double",
    "links": "int64",
    "link_share": "double",
    "text": "string",
}
SCALAR_COLUMNS = [name for name in FACT_COLUMNS if name != "text"]
CODE_LINE = re.compile(
    r"[{};]\s*$|^\s*(?:def |class |import |from \w+ import|return\b|#include|function |const |var |let |public |if \(|>>> )",
    re.M,
)
CODE_LINES = 0.25  # of the lines
MATHS_SHARE = 0.04  # of the characters
MATHS_SIGNS = re.compile(r"\d|[=+×÷√∑∫≤≥^]|\\frac|\\sum")


def annotate_shard(path: Path, *, out: Path, settings: Any) -> None:
    """Write `<shard>.npz` and then `<shard>.parquet` into `out`, unless they are there.

    Args:
        path: a Parquet shard of pages.
        settings: `puna.data.curate.Settings`.
    """
    if (out / path.name).exists():
        return
    rows, arrays = [], []
    for page in read_shard_table(path):
        row, array = _annotate(page, settings)
        rows.append(row)
        arrays.append(array)
    signatures, shingle_sets, lines = ([array[part] for array in arrays] for part in range(3))
    partial = out / f"{path.stem}.npz.part"
    with partial.open("wb") as file:
        np.savez(
            file,
            signatures=np.stack(signatures),
            shingles=_flat(shingle_sets),
            shingle_ends=_ends(shingle_sets),
            lines=_flat(lines),
            line_ends=_ends(lines),
        )
    partial.replace(out / f"{path.stem}.npz")
    write_shard_table(out / path.name, rows, FACT_COLUMNS)


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.uint64)


def _ends(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.cumsum([len(array) for array in arrays], dtype=np.int64)


def _annotate(page: dict[str, Any], settings: Any) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    found = extract(page["content"], page["format"], page["charset"], keep_markers=page["group"] == "code")
    lang, lang_p = identify(found.text)
    group = page["group"] or guess_group(found.text, lang)
    words = words_of(found.text)
    spam = spam_signals(words, lang, found.links, found.link_chars, found.seen_chars)
    row = {name: page[name] for name in ("id", "url", "date", "source", "licence")} | {
        "group": group,
        "lang": lang,
        "lang_p": lang_p,
        "url_key": url_key(page["url"]),
        "text": found.text,
        "text_key": text_key(found.text) if words else 0,
        "spam": spam_kind(spam, settings.spam),
    }
    row |= {name: spam[name] for name in ("advert_share", "dirty_share", "stuffing", "links", "link_share")}
    minhash = settings.minhash
    shingle_set = shingles(words, minhash.shingle_letters if letterwise(words) else minhash.shingle_words)
    permutations = settings.minhash.bands * settings.minhash.rows
    enough = len(shingle_set) >= settings.minhash.min_shingles
    marks = signature(shingle_set, permutations) if enough else np.full(permutations, EMPTY, dtype=np.uint32)
    keys = line_keys(
        found.text, lang, fold_digits=group not in settings.lines.keep_digits, min_letters=settings.lines.min_letters
    )
    return row, (marks, shingle_set, keys)


def guess_group(text: str, lang: str) -> str:
    """The part of the data mix a document of no declared group belongs to, by language and by its signs.

    Thresholds are read off samples: prose has under 0.01 mathematical signs per character, worked school problems 0.05 to 0.15.
    """
    if lang not in ("en", UNKNOWN):
        return "multilingual"
    if len(CODE_LINE.findall(text)) > CODE_LINES * (text.count("\n") + 1):
        return "code"
    return "maths" if len(MATHS_SIGNS.findall(text)) > MATHS_SHARE * len(text) else "general"


@dataclass
class Facts:
    """The facts of all shards, in order.

    Attributes:
        rows: scalar facts of every document.
        spans: first and last+1 document of every shard.
        paths: the `.npz` of every shard.
    """

    rows: list[dict[str, Any]]
    spans: list[tuple[int, int]]
    paths: list[Path]

    @cached_property
    def signatures(self) -> np.ndarray:
        """uint32 [documents, permutations]."""
        return np.concatenate([self._arrays[index]["signatures"] for index in range(len(self.paths))])

    @cached_property
    def _arrays(self) -> list[dict[str, np.ndarray]]:
        return [{name: file[name] for name in file.files} for file in map(np.load, self.paths)]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.array([start for start, _ in self.spans], dtype=np.int64)

    def shingles(self, index: int) -> np.ndarray:
        """Sorted distinct shingle hashes of one document. Returns uint64."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return slice_of(self._arrays[shard], "shingles", "shingle_ends", index - self.spans[shard][0])

    def line_keys(self, shard: int, kept: np.ndarray) -> np.ndarray:
        """Line hashes of the kept documents of a shard, each once per document. Returns uint64."""
        arrays, (start, end) = self._arrays[shard], self.spans[shard]
        parts = [np.unique(slice_of(arrays, "lines", "line_ends", index - start)) for index in range(start, end) if kept[index]]
        return _flat(parts)


def slice_of(arrays: dict[str, np.ndarray], values: str, ends: str, index: int) -> np.ndarray:
    """The part of a flat array that belongs to document `index`."""
    start = int(arrays[ends][index - 1]) if index else 0
    return arrays[values][start : int(arrays[ends][index])]


def load_facts(directory: Path, shards: list[Path]) -> Facts:
    """The facts that `annotate_shard` wrote for `shards`, in their order; arrays are read when first needed."""
    rows: list[dict[str, Any]] = []
    spans = []
    for shard in shards:
        start = len(rows)
        rows += read_shard_table(directory / shard.name, SCALAR_COLUMNS)
        spans.append((start, len(rows)))
    return Facts(rows, spans, [directory / f"{shard.stem}.npz" for shard in shards])
