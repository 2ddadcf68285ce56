"""The path of one document through curation: where it came from, what was measured, which limit it met, and where it went.

Each part of curation keeps one row per page in the same order (`puna.data.lookup`), so a document's story is a handful of rows
read by number; nothing is computed again but the comparison with the limits. Personal data is redacted in whatever text is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.core.stage import Artifact
from puna.data.classify_scores import SCORE
from puna.data.columns import read_layout, read_table
from puna.data.curate import Settings
from puna.data.decontaminate import BY
from puna.data.dedup import url_key
from puna.data.language import UNKNOWN
from puna.data.lookup import find, trace
from puna.data.measure import KL_COLUMNS
from puna.data.pii import redact
from puna.data.shards import find_document, open_shard
from puna.data.signals import COLUMNS, limits_for
from puna.data.thresholds import Threshold, quality_thresholds

PARTS = ("pages", "facts", "duplicates", "signals")
CONTAMINATED = "contaminated_"  # begin of the columns of `puna.data.decontaminate`
SCANNED = 5_000_000  # documents that are searched for the other copies
COMPARED = 200_000  # documents whose addresses are compared with one that is not there
SHOWN_COPIES = 20
SHOWN_LINES = 3
LINE_CHARS = 120
SIMILAR = 0.7  # share of an address that has to agree for it to be proposed
PROPOSED = 5


@dataclass(frozen=True)
class Curation:
    """Directories of the parts of one curation, and what its documents were held against."""

    pages: Path
    facts: Path
    duplicates: Path
    signals: Path
    documents: Path
    settings: Settings


def curation_of(documents: Artifact) -> Curation:
    """The parts that a `documents` artifact was made of, from its record.

    Raises InputError for an artifact of another kind, or of a version that kept no facts.
    """
    inputs = {row["kind"]: (documents.path / row["path"]).resolve() for row in documents.record.get("inputs", [])}
    missing = [kind for kind in PARTS if not inputs.get(kind, Path("/nonexistent")).is_dir()]
    if missing:
        raise InputError(
            f"what this curation was made of is not there: {', '.join(missing)}", where=str(documents.path), fix="puna up"
        )
    settings = Settings.model_validate(documents.record["settings"])
    return Curation(**{kind: inputs[kind] for kind in PARTS}, documents=documents.path, settings=settings)


def explain(curation: Curation, key: str) -> list[dict[str, Any]]:
    """Everything that happened to the documents with an id or address (compared as duplicates are, where nothing is equal).

    Returns: one map per document, JSON values: `id`, `url`, `page`, `extraction`, `language`, `duplicates`, `lines`, `signals`
        (rows of signal, value, limit, rule, beyond, decisive), `scores`, `contamination` (None where there is none to look for),
        `pii`, `decision`. Empty when nothing is found.
    """
    if not find(curation.facts, key):
        return []
    found = trace(curation.facts, curation.duplicates, curation.signals, curation.documents, key)
    return [_told(curation, story) for story in found]


def _told(curation: Curation, story: dict[str, Any]) -> dict[str, Any]:
    fact, measured, settings = story["facts"], story["signals"], curation.settings
    reason = (story["decision"] or {}).get("reason") or ""
    wanted = fact["lang"] in (*settings.languages, UNKNOWN)
    return {
        "id": story["id"],
        "url": fact["url"],
        "page": _page(curation, story),
        "extraction": {"characters": fact["chars"], "links": fact["links"], "link_share": fact["link_share"]},
        "language": {
            "language": fact["lang"], "probability": fact["lang_p"], "wanted": wanted, "certain_from": settings.language_p,
            "dropped": reason == "language",
        },
        "duplicates": _duplicates(curation, story),
        "lines": _lines(curation, story),
        "signals": list(_signals(settings, fact, measured, reason)),
        "scores": _scores(measured, story["decision"] or {}),
        "contamination": _contamination(measured),
        "pii": {name.removeprefix("pii_"): n for name, n in measured.items() if name.startswith("pii_") and n},
        "decision": {
            "kept": not reason, "reason": reason, "shard": story["shard"], "row": story["output_row"],
            "characters": _kept_chars(curation, story),
        },
    }  # fmt: skip


def _scores(measured: Mapping[str, Any], decision: Mapping[str, Any]) -> dict[str, float | None]:
    """How unusual the words are, probabilities by classifier and class, and the rank within the language, where there are any."""
    found = {name: measured.get(name) for name in KL_COLUMNS}
    found |= {name.removeprefix(f"{SCORE}."): value for name, value in measured.items() if name.startswith(f"{SCORE}.")}
    return {name: value for name, value in (found | {"rank": decision.get("quality_rank")}).items() if value is not None}


def _contamination(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """Shares of the document's words in n-grams of evaluation files, of an item's n-grams that it holds, and which item."""
    names = [name for name in measured if name.startswith(CONTAMINATED)]
    shares = {name.removeprefix(CONTAMINATED): measured[name] for name in names if name != BY}
    return {"shares": shares, "item": measured[BY]} if any(value is not None for value in shares.values()) else None


def _page(curation: Curation, story: dict[str, Any]) -> dict[str, Any]:
    """The page as it was collected: same shard, same row."""
    row = read_table(curation.pages / "shards" / story["shard"]).slice(story["row"], 1).to_pylist()[0]
    content = row.pop("content")
    known = {name: value for name, value in row.items() if name not in ("id", "url")}
    return {**known, "group": story["facts"]["group"], "bytes": len(content or b""), "shard": story["shard"], "row": story["row"]}


def _signals(settings: Settings, fact: Mapping[str, Any], measured: Mapping[str, Any], reason: str) -> Iterator[dict[str, Any]]:
    """Spam, then quality signals in the order of the rules; then those that no rule looks at."""
    limits = limits_for(settings.thresholds().limits[fact["group"]], fact["group"], fact["lang"])
    held: list[Threshold] = [t for t in settings.other_thresholds() if t.signal in {**fact, **measured} and t.rule != "language"]
    held += quality_thresholds(limits)
    for threshold in held:
        value = measured.get(threshold.signal, fact.get(threshold.signal))
        applies = measured["words"] >= threshold.from_words
        beyond = applies and threshold.beyond(value)
        yield {
            "signal": threshold.signal, "value": value, "limit": threshold.words(), "rule": threshold.rule,
            "sides": dict(threshold.sides), "applies": applies, "beyond": beyond, "together": list(threshold.together),
            "decisive": beyond and threshold.rule == reason,
        }  # fmt: skip
    if measured["lorem_ipsum"]:
        yield _unlimited("lorem_ipsum", True) | {
            "limit": "absent", "rule": "quality:lorem_ipsum", "beyond": True, "decisive": reason == "quality:lorem_ipsum"
        }  # fmt: skip
    for name in (name for name in COLUMNS if name != "lorem_ipsum" and name not in {t.signal for t in held}):
        yield _unlimited(name, measured[name])


def _unlimited(name: str, value: Any) -> dict[str, Any]:
    return {
        "signal": name, "value": value, "limit": None, "rule": None, "sides": {}, "applies": False, "beyond": False,
        "together": [], "decisive": False,
    }  # fmt: skip


def _duplicates(curation: Curation, story: dict[str, Any]) -> dict[str, Any]:
    """Which document stands for this one, or which ones it stands for."""
    row = story["duplicates"]
    head = row["duplicate_of"]
    kind = row["reason"] if head is not None else None
    copies, complete = _copies(curation, head or story["id"])
    others = [copy for copy in copies if copy["id"] != story["id"] and (head is None or copy["kind"] == kind)]
    return {
        "kind": kind,
        "stands_for_it": _address(curation, head) if head is not None else None,
        "similarity": row["similarity"],
        "threshold": curation.settings.minhash.threshold,
        "cluster": len(others) + 1 + (head is not None) if others or head is not None else 0,
        "others": others[:SHOWN_COPIES],
        "complete": complete,
    }


def _copies(curation: Curation, head: str) -> tuple[list[dict[str, Any]], bool]:
    """The documents for which one stands, and whether the whole corpus was searched for them."""
    import pyarrow.compute as pc

    layout = read_layout(curation.facts)
    found: list[dict[str, Any]] = []
    for number, name in enumerate(layout.names):
        if layout.starts[number] >= SCANNED:
            return found, False
        table = read_table(curation.duplicates / "duplicates" / name, ["id", "reason", "duplicate_of", "similarity"])
        mine = table.filter(pc.equal(table["duplicate_of"], head))
        found += [
            _address(curation, row["id"]) | {"kind": row["reason"], "similarity": row["similarity"]} for row in mine.to_pylist()
        ]
    return found, True


def _address(curation: Curation, document: str) -> dict[str, Any]:
    """Id, address and date of a document."""
    layout = read_layout(curation.facts)
    shard, row = find(curation.facts, document)[0]
    return read_table(curation.facts / "facts" / layout.names[shard], ["id", "url", "date"]).slice(row, 1).to_pylist()[0]


def addresses(facts: Path, documents: list[str]) -> list[str]:
    """The addresses of some documents by id, in order."""
    layout, found = read_layout(facts), []
    for document in documents:
        shard, row = find(facts, document)[0]
        found.append(read_table(facts / "facts" / layout.names[shard], ["url"])["url"][row].as_py())
    return found


def _lines(curation: Curation, story: dict[str, Any]) -> dict[str, Any]:
    """How many frequent lines were removed, and the first of them."""
    numbers = story["duplicates"]["lines"] or []
    if not numbers:
        return {"removed": 0, "first": []}
    text = read_table(curation.facts / "text" / story["shard"], ["text"])["text"][story["row"]].as_py()
    lines = text.split("\n")
    return {"removed": len(numbers), "first": [redact(lines[n])[0][:LINE_CHARS] for n in numbers[:SHOWN_LINES]]}


def _kept_chars(curation: Curation, story: dict[str, Any]) -> int | None:
    """Characters of the document as it was written."""
    if story["output_row"] is None:
        return None
    texts = read_table(curation.documents / "documents" / story["shard"], ["text"])["text"]
    return len(texts[story["output_row"]].as_py())


def token_places(tokens: Path, document: str) -> list[dict[str, Any]]:
    """Where a document lies in a `tokens` artifact: `split` (train or held), `group`, `shard`, `index` in it, its `tokens`."""
    return [
        {
            "split": split, "group": group, "shard": f"{split}-{group}", "index": index,
            "tokens": len(open_shard(tokens / f"{split}-{group}").document(index)),
        }
        for split, group, index in find_document(tokens, document)
    ]  # fmt: skip


def similar(facts: Path, key: str) -> list[str]:
    """Addresses and ids that are nearly `key`, nearest first: what agrees at both ends makes up most of it."""
    layout = read_layout(facts)
    wanted = url_key(key)
    scores: dict[str, float] = {}
    for number, name in enumerate(layout.names):
        if layout.starts[number] >= COMPARED:
            break
        table = read_table(facts / "facts" / name, ["id", "url"])
        for known in (*table["url"].to_pylist(), *table["id"].to_pylist()):
            scores[known] = _agreement(wanted, url_key(known))
    best = sorted((score, known) for known, score in scores.items() if score >= SIMILAR)
    return [known for _, known in sorted(best, key=lambda row: (-row[0], row[1]))[:PROPOSED]]


def _agreement(one: str, other: str) -> float:
    """Share of the longer text that both have in common at their beginnings and ends."""
    longest, shortest = max(len(one), len(other)), min(len(one), len(other))
    start = len(commonprefix((one, other)))  # noqa: RUF071 (characters are meant)
    end = len(commonprefix((one[::-1], other[::-1])))  # noqa: RUF071
    return min(start + end, shortest) / max(longest, 1)
