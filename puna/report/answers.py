"""Answers to look at: the first held-out items, with what each model wrote and whether the verifier took it."""

from __future__ import annotations

from collections import defaultdict

from puna.core.stage import Artifact


def sampled_answers(scores: Artifact, count: int) -> list[tuple[str, list[str]]]:
    """The first `count` answers of every model as text, by model, in the order of the items."""
    from puna.evals.one import ITEMS_FILE, read_items

    texts: dict[str, list[str]] = defaultdict(list)
    for item in read_items(scores.path / ITEMS_FILE):
        if len(texts[item["model"]]) < count:
            verdict = "right" if item["passed"] else "wrong" if item["finished"] else "not finished"
            texts[item["model"]].append(f"[{verdict}] {item['family']}, {item['lang']}\n{item['text']}")
    return list(texts.items())
