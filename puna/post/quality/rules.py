"""Rules on how an answer sounds: emoji, exclamation marks, apologies that are said too often (paper 4.2.3).

A row is over a rule by itself (more exclamation marks than any answer needs), or because too many rows are alike: a model that
reads "I'm sorry" in one dialog of ten says it in one answer of ten. Of a language's rows that apologise a target share goes on,
chosen by the hash of the row, and the others are over the rule. What is over can be left out or rewritten; the rewriting takes
out emoji, surplus exclamation marks and sentences that apologise, and gives up where nothing would be left.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash
from pydantic import NonNegativeInt

from puna.core.settings import Settings, Share
from puna.post.quality.phrases import apologies
from puna.tokenizer.dialog import Dialog, MessageRow

# pictographs, dingbats, flags and the signs that join them; arrows and box drawing are no emoji
_PICTURE = "[\U0001f300-\U0001faff\U0001f1e6-\U0001f1ff\u2600-\u27bf\u2b50\u2b55]"
_EMOJI = re.compile(f"{_PICTURE}(?:[\ufe0f\u200d\U0001f3fb-\U0001f3ff]|{_PICTURE})*")
_EXCLAMATION = re.compile("[!！]")
_SURPLUS = re.compile("([!！])[!！]+")
_SENTENCE = re.compile(r"[^.!?।！？\n]*(?:[.!?।！？]+(?:\s+|$)|\n|$)")
_SPACES = re.compile("[ \t]{2,}")


class RuleSettings(Settings):
    """Largest numbers in the answers of a row, and the share of a language's rows that may apologise.

    Attributes:
        emoji: runs of emoji.
        exclamations: exclamation marks.
        apologies: phrases of apology (`puna.post.quality.phrases`).
        apologetic: share of a language's rows with any apology that goes on; the paper gives no number.
    """

    emoji: NonNegativeInt = 2
    exclamations: NonNegativeInt = 3
    apologies: NonNegativeInt = 1
    apologetic: Share = 0.01


class Manner(NamedTuple):
    """What is counted in the assistant's messages of a dialog."""

    emoji: int
    exclamations: int
    apologies: int


def manner(dialog: Dialog) -> Manner:
    """Count emoji, exclamation marks and apologies in what the assistant says."""
    said = [message.content for message in dialog.messages if message.role == "assistant"]
    sorry = apologies(dialog.lang)
    patterns = (_EMOJI, _EXCLAMATION, sorry)
    return Manner(*(sum(len(pattern.findall(text)) for text in said) for pattern in patterns))


def balanced(counts: np.ndarray, langs: Sequence[str], ids: Sequence[str], share: float) -> np.ndarray:
    """Which rows may keep their apologies so that no more than `share` of a language's rows have any.

    Args:
        counts: apologies of each row, int [N].

    Returns bool [N], True for rows without any; of the others those of lowest hash.
    """
    allowed = counts == 0
    sizes, sorry = Counter(langs), defaultdict(list)
    for row in np.flatnonzero(~allowed).tolist():
        sorry[langs[row]].append(row)
    for lang, rows in sorry.items():
        first = sorted(rows, key=lambda row: xxhash.xxh3_64_intdigest(ids[row].encode()))[: int(share * sizes[lang])]
        allowed[first] = True
    return allowed


def rewritten(dialog: Dialog) -> list[MessageRow] | None:
    """The messages with calmer answers; None where an answer would be empty or nothing changes."""
    sorry = apologies(dialog.lang)
    messages = [
        message.model_copy(update={"content": _calm(message.content, sorry)}) if message.role == "assistant" else message
        for message in dialog.messages
    ]
    emptied = any(old.content.strip() and not new.content for old, new in zip(dialog.messages, messages, strict=True))
    return None if emptied or messages == dialog.messages else messages


def calmed(dialog: Dialog, limits: RuleSettings) -> bool:
    """Whether a dialog can be rewritten and then keeps to every limit; exclamation marks that stand alone stay."""
    messages = rewritten(dialog)
    if messages is None:
        return False
    found = manner(dialog.model_copy(update={"messages": messages}))
    return all(count <= getattr(limits, name) for name, count in found._asdict().items())


def _calm(text: str, sorry: re.Pattern[str]) -> str:
    plain = _SURPLUS.sub(r"\1", _EMOJI.sub("", text))
    kept = [sentence for sentence in _SENTENCE.findall(plain) if not sorry.search(sentence)]
    return _SPACES.sub(" ", "".join(kept)).strip()
