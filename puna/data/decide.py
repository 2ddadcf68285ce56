"""Last pass of curation, shard by shard: frequent lines go, personal data is redacted, quality is judged, kept documents are
written.

`documents/` and `annotations/` hold the kept documents in the same order; `dropped/` holds the annotations of the others with
the reason and the beginning of their text (redacted too), so that every decision can be looked at.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from puna.data.annotate import slice_of
from puna.data.columns import DOCUMENT_COLUMNS, read_shard_table, write_shard_table
from puna.data.dedup import without_lines
from puna.data.pii import KINDS, redact
from puna.data.signals import failed_rule, measure

OPENING_CHARS = 200  # of a dropped document's text that is kept to be looked at
SIGNALS = {
    "chars": "int64",
    "words": "int64",
    "mean_word_chars": "double",
    "symbols": "double",
    "alpha_words": "double",
    "stop_words": "int64",
    "unreadable": "double",
    "bullet_lines": "double",
    "ellipsis_lines": "double",
    "punctuated_lines": "double",
    "duplicate_lines": "double",
    "duplicate_line_chars": "double",
    **{f"top_{n}gram": "double" for n in (2, 3, 4)},
    **{f"duplicate_{n}gram": "double" for n in range(5, 11)},
}
ANNOTATIONS = {
    "id": "string",
    "keep": "bool",
    "reason": "string",
    "lang": "string",
    "lang_p": "double",
    "spam": "string",
    "advert_share": "double",
    "dirty_share": "double",
    "stuffing": "double",
    "links": "int64",
    "link_share": "double",
    "lines_removed": "int64",
    **{f"pii_{kind}": "int64" for kind in KINDS},
    **SIGNALS,
}
DROPPED = ANNOTATIONS | {"url": "string", "source": "string", "group": "string", "opening": "string"}


def decide_shard(job: tuple[Path, list[str], Path], *, facts_dir: Path, out: Path, settings: Any) -> dict[str, Any]:
    """Decide on every document of one shard and write its three files.

    Args:
        job: the shard, the reason found so far for each of its documents ("" for none), and the file of frequent lines.
        settings: `puna.data.curate.Settings`.

    Returns:
        Reason of each document ("" for kept) and characters of each before and after.
    """
    shard, reasons, frequent_path = job
    frequent = np.load(frequent_path, allow_pickle=False)
    with np.load(facts_dir / f"{shard.stem}.npz", allow_pickle=False) as file:
        lines = {"lines": file["lines"], "line_ends": file["line_ends"]}
    documents, kept, dropped, before, after = [], [], [], [], []
    for index, (fact, reason) in enumerate(zip(read_shard_table(facts_dir / shard.name), reasons, strict=True)):
        before.append(len(fact["text"]))
        annotation, text = _decide(fact, reason, slice_of(lines, "lines", "line_ends", index), frequent, settings)
        after.append(len(text) if annotation["keep"] else 0)
        if annotation["keep"]:
            documents.append({name: fact[name] for name in DOCUMENT_COLUMNS if name != "text"} | {"text": text})
            kept.append(annotation)
        else:
            opening = redact(text[: 2 * OPENING_CHARS])[0][:OPENING_CHARS]
            dropped.append(
                annotation | {"url": fact["url"], "source": fact["source"], "group": fact["group"], "opening": opening}
            )
        reasons[index] = annotation["reason"]
    write_shard_table(out / "annotations" / shard.name, kept, ANNOTATIONS)
    write_shard_table(out / "dropped" / shard.name, dropped, DROPPED)
    write_shard_table(out / "documents" / shard.name, documents, DOCUMENT_COLUMNS)
    return {
        "reasons": reasons,
        "before": before,
        "after": after,
        "lines_removed": sum(row["lines_removed"] for row in kept),
        "pii": dict(sum((Counter({kind: row[f"pii_{kind}"] for kind in KINDS}) for row in kept), Counter())),
    }


def _decide(
    fact: dict[str, Any], reason: str, keys: np.ndarray, frequent: np.ndarray, settings: Any
) -> tuple[dict[str, Any], str]:
    """Annotations of one document and its text as it would be kept; a document dropped before is not measured."""
    annotation = {name: fact.get(name) for name in ANNOTATIONS}
    text: str = fact["text"]
    found: dict[str, int] = {}
    if not reason:
        text, annotation["lines_removed"] = without_lines(text, keys, frequent)
        signals = measure(text, fact["lang"])
        rule = failed_rule(signals, settings.limits(fact["group"]))
        reason = f"quality:{rule}" if rule else ""
        annotation |= {name: signals[name] for name in SIGNALS}
        if settings.redact and not reason:
            text, found = redact(text)
        annotation |= {f"pii_{kind}": found.get(kind, 0) for kind in KINDS}
    return annotation | {"keep": not reason, "reason": reason}, text
