"""First part of curation, shard by shard: the text of every page, and the facts from which everything later is decided.

Nothing is decided here and no threshold is read, so this part, nine tenths of the work, is done once. `text/` holds the texts;
`facts/` the scalar facts and signals (same names, same rows); `hashes/` flat arrays with the end of every document: MinHash
signatures, shingles for exact verification, lines. `index/` finds a document by its id or address.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from pydantic import NonNegativeInt, PositiveInt

from puna.core.settings import Settings as StageSettings
from puna.core.settings import execution
from puna.core.stage import StageContext
from puna.data.columns import (
    PAGE_FACTS,
    batches,
    layout_of,
    shard_paths,
    typed_columns,
    write_layout,
    write_table,
)
from puna.data.dedup import line_keys_batch, text_keys, url_key
from puna.data.engine import EngineSettings, save_array
from puna.data.extract import extract_batch
from puna.data.fasttext import model_digest
from puna.data.groups import guess_groups
from puna.data.language import identify_batch
from puna.data.lookup import index_partitions, index_rows, sorted_index
from puna.data.minhash import MinHashSettings, signatures
from puna.data.signals import COLUMNS, measure_batch
from puna.data.spam import spam_batch
from puna.data.words import Words, scan
from puna.data.workforce import Workforce

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "facts"
REVISION = 3
CORES = 2

SPAM_COLUMNS = {
    "advert_share": "double",
    "advert_terms": "int64",
    "dirty_share": "double",
    "dirty_terms": "int64",
    "stuffing": "double",
    "links": "int64",
    "link_share": "double",
}
SLICE_PAGES = 64  # held at a time: three megabytes of crawled pages, half a gigabyte of the largest there may be
DATE_DIGITS = 14  # year to second


class Settings(StageSettings):
    """What is computed of each page; `data.curate` fills these in.

    Attributes:
        permutations: of the MinHash signature.
        shingle_words, shingle_letters: words of a shingle, and letters where the script has no spaces.
        line_min_letters: shorter lines never count as frequent ones.
        line_keep_digits: groups whose lines are compared with their digits and signs.
        language_model: a classifier in fastText's format that names languages instead of Puna's own; empty for none.
    """

    permutations: PositiveInt = 112
    shingle_words: PositiveInt = 5
    shingle_letters: PositiveInt = 12
    line_min_letters: NonNegativeInt = 12
    line_keep_digits: tuple[str, ...] = ("maths", "code")
    language_model: str = execution("")  # its content counts, see `outside`
    engine: EngineSettings = execution(EngineSettings())
    workers: PositiveInt = execution(2)


def outside(settings: Settings) -> dict[str, Any]:
    """What the facts depend on besides settings and pages: the language model, if one is given."""
    return {"language_model": model_digest(Path(settings.language_model))} if settings.language_model else {}


def run(settings: Settings, ctx: StageContext) -> dict[str, Any]:
    """Write `text/`, `facts/`, `hashes/`, `index/` and `layout.json`."""
    shards = shard_paths(ctx.inputs.one("pages").path / "shards")
    work = Workforce(settings.engine, settings.workers, ctx, phases=3)
    for name in ("text", "facts", "hashes"):
        (ctx.scratch / name).mkdir(exist_ok=True)
    work.map(partial(facts_of_shard, out=ctx.scratch, settings=settings), shards)
    layout = layout_of(ctx.scratch / "facts")
    jobs = [(ctx.scratch / "facts" / name, int(start)) for name, start in zip(layout.names, layout.starts, strict=False)]
    partitions = index_partitions(layout.documents)
    work.shuffle(index_rows, jobs, sorted_index, out=ctx.scratch / "index", partitions=partitions)
    work.keep("facts", "text", "hashes", "index")  # first what says that a shard is done
    write_layout(ctx.out, layout)
    return {"pages": layout.documents, "shards": len(shards)}


def facts_of_shard(shard: Path, *, out: Path, settings: Settings) -> None:
    """Write the files of one shard of pages, `facts/` last."""
    import pyarrow as pa

    path = out / "facts" / shard.name
    if path.exists():
        return
    parts = [facts_of_pages(pages, settings) for pages in batches(shard, SLICE_PAGES)]
    for kind in ("signatures", "shingles", "lines"):
        save_array(hash_path(out, shard.name, kind), np.concatenate([part.hashes[kind] for part in parts]))
    for kind in ("shingle_counts", "line_counts"):
        ends = np.cumsum(np.concatenate([part.hashes[kind] for part in parts]), dtype=np.int64)
        save_array(hash_path(out, shard.name, kind.replace("counts", "ends")), ends)
    write_table(out / "text" / shard.name, pa.concat_tables([part.text for part in parts]))
    write_table(path, pa.concat_tables([part.facts for part in parts]))


@dataclass(frozen=True)
class Found:
    """What is found out about some pages: texts, facts and hashes, row for row."""

    text: pa.Table
    facts: pa.Table
    hashes: dict[str, np.ndarray]


def facts_of_pages(pages: pa.Table, settings: Settings) -> Found:
    """Extract some pages and compute everything there is to know of each of them alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = extract_batch(*(pages[name].to_pylist() for name in ("content", "format", "charset", "group")))
    texts = found["text"].combine_chunks()
    columns = {name: pages[name] for name in PAGE_FACTS} | _language_columns(texts, pages["group"], settings.language_model)
    words = scan(texts)
    columns["blocked"] = pc.not_equal(pages["blocked"].fill_null(""), "")
    columns |= _keys(texts, pages, words.ends)
    columns |= _spam_columns(words, columns["lang"], found)
    columns |= typed_columns(measure_batch(texts, words, columns["lang"]), COLUMNS)
    text = pa.table({"id": pages["id"], "text": texts})
    return Found(text, pa.table(columns), _hashes(texts, columns, words, settings))


def hash_path(facts: Path, name: str, kind: str) -> Path:
    """File of one kind of hashes (signatures, shingles, shingle_ends, lines, line_ends) of the shard called `name`."""
    return facts / "hashes" / f"{Path(name).stem}.{kind}.npy"


def _hashes(texts: pa.Array, columns: dict[str, Any], words: Words, settings: Settings) -> dict[str, np.ndarray]:
    everything = MinHashSettings(
        shingle_words=settings.shingle_words,
        shingle_letters=settings.shingle_letters,
        bands=settings.permutations,
        rows=1,
        min_shingles=1,
    )
    fold_digits = ~np.isin(columns["group"].to_numpy(zero_copy_only=False), settings.line_keep_digits)
    marks, shingles, shingle_ends = signatures(words, everything)
    lines, line_ends = line_keys_batch(texts, columns["lang"], fold_digits, settings.line_min_letters)
    counts = {"shingle_counts": np.diff(shingle_ends, prepend=0), "line_counts": np.diff(line_ends, prepend=0)}
    return {"signatures": marks, "shingles": shingles, "lines": lines, **counts}


def _language_columns(texts: pa.Array, groups: pa.ChunkedArray, model: str) -> dict[str, pa.Array]:
    import pyarrow as pa

    langs, shares = identify_batch(texts, Path(model) if model else None)
    given, guessed = groups.to_pylist(), guess_groups(texts, langs)
    return {
        "group": pa.array([group or guess for group, guess in zip(given, guessed, strict=True)], pa.string()),
        "lang": pa.array(langs, pa.string()),
        "lang_p": pa.array(shares, pa.float32()),
    }


def _keys(texts: pa.Array, pages: pa.Table, ends: np.ndarray) -> dict[str, pa.Array]:
    """64-bit keys of address and text (0 for a text without words), and dates as numbers that sort."""
    import pyarrow as pa

    addresses = [xxhash.xxh3_64_intdigest(url_key(url).encode("utf-8", "replace")) for url in pages["url"].to_pylist()]
    contents = np.where(np.diff(ends, prepend=0) > 0, text_keys(texts), np.uint64(0))
    return {
        "url_key": pa.array(addresses, pa.uint64()),
        "text_key": pa.array(contents),
        "date_key": date_keys(pages["date"]),
    }


def date_keys(dates: pa.Array | pa.ChunkedArray) -> pa.Array:
    """ISO dates as int64 whose order is that of the texts: YYYYMMDDHHMMSS, shorter dates filled with zeros, none is 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = pc.utf8_slice_codeunits(pc.replace_substring_regex(dates, r"[^0-9]+", ""), 0, DATE_DIGITS)
    filled = pc.utf8_rpad(digits, DATE_DIGITS, "0").cast(pa.int64())
    return filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled


def _spam_columns(words: Words, langs: pa.Array, found: pa.Table) -> dict[str, pa.Array]:
    links, link_chars, seen_chars = (found[name].to_numpy() for name in ("links", "link_chars", "seen_chars"))
    signals = spam_batch(words, langs) | {"links": links, "link_share": link_chars / np.maximum(seen_chars, 1)}
    return typed_columns(signals, SPAM_COLUMNS)
