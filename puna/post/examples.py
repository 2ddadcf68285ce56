"""Rows of dialogs and preferences as token ids with masks: the one place where post-training tokenises.

Everything goes through `puna.tokenizer.chat.render`, the renderer that chat and evaluation use, so a model is trained on
exactly the ids it will be asked with (section 4.1.1). Nothing is cut: a row that does not fit is left out, counted and
reported, because half an answer teaches to stop half-way and a pair with an empty side has no log-ratio.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from puna.post.prompts import prompt_key
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import render, with_tools
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, read_rows

ROW = 128  # tokens; rows are this long or a power of two times it
STRONG = ("significantly", "better")  # strengths that the paper keeps (4.1.2); closer calls are noise


class Encoded:
    """Ids of one dialog; `loss_mask` 1 where learnt, `format_mask` 1 on headers, tags and terminators.

    Lists when they are read and six bytes a token while they are kept, since all preferences of a run are.
    """

    __slots__ = ("_format", "_ids", "_loss")

    def __init__(self, ids: Iterable[int], loss_mask: Iterable[int], format_mask: Iterable[int]):
        self._ids, self._loss, self._format = array("i", ids), bytes(loss_mask), bytes(format_mask)

    @property
    def ids(self) -> list[int]:
        return self._ids.tolist()

    @property
    def loss_mask(self) -> list[int]:
        return list(self._loss)

    @property
    def format_mask(self) -> list[int]:
        return list(self._format)


@dataclass
class Left:
    """Rows left out, by reason."""

    overlong: int = 0
    empty: int = 0

    def text(self, of: int, length: int) -> str:
        """One line for the user."""
        return f"{self.overlong} of {of} rows are longer than {length} tokens and {self.empty} have nothing to learn: left out"


@dataclass
class Ranked:
    """Two or three answers to one prompt, best first, as ids. `key` names the prompt, `identity` the row."""

    identity: str
    key: str
    answers: list[Encoded]


@dataclass
class RankedRows:
    """Preference rows ready to train on, and what was left out."""

    rows: list[Ranked] = field(default_factory=list)
    left: Left = field(default_factory=Left)
    weak: int = 0


def encode_dialog(tokenizer: Tokenizer, dialog: Dialog, sounds: Sequence[int] = ()) -> Encoded:
    """Ids and masks of a dialog, its tools offered the way chat offers them; `sounds` are the tokens of each sound in it."""
    messages = with_tools([row.message() for row in dialog.messages], dialog.tools)
    rendered = render(tokenizer, messages, sounds=sounds)
    return Encoded(rendered.ids, rendered.loss_mask, rendered.format_mask)


def encode_dialogs(tokenizer: Tokenizer, dialogs: Iterable[Dialog], length: int) -> tuple[list[Encoded], Left]:
    """Every dialog that fits `length` tokens and teaches something, in order, and the count of the others."""
    kept, left = [], Left()
    for dialog in dialogs:
        encoded = encode_dialog(tokenizer, dialog)
        if len(encoded.ids) > length:
            left.overlong += 1
        elif not any(encoded.loss_mask):
            left.empty += 1
        else:
            kept.append(encoded)
    return kept, left


def encode_answer(
    tokenizer: Tokenizer, context: list[MessageRow], answer: list[MessageRow], tools: str | None = None
) -> tuple[Encoded, int]:
    """`context` + `answer` with only the answer to learn, and the length of the context: earlier turns must not enter a sum."""
    offered = with_tools([row.message() for row in context], tools)
    prompt = len(render(tokenizer, offered, generation_prompt=True).ids)
    rendered = render(tokenizer, [*offered, *(row.message() for row in answer)])
    loss_mask = [0] * prompt + rendered.loss_mask[prompt:]
    return Encoded(rendered.ids, loss_mask, rendered.format_mask), prompt


def encode_preferences(tokenizer: Tokenizer, preferences: Iterable[Preference], length: int, ranks: int = 3) -> RankedRows:
    """Preference rows as ranked ids: the best `ranks - 1` answers and the worst, only of the strengths the paper keeps.

    A row with one over-long or empty answer is left out whole: the others have nothing to be compared with.
    """
    found = RankedRows()
    for preference in preferences:
        if preference.strength not in STRONG:
            found.weak += 1
            continue
        order = (
            preference.ranking if len(preference.ranking) <= ranks else [*preference.ranking[: ranks - 1], preference.ranking[-1]]
        )
        answers = [
            encode_answer(tokenizer, preference.context, preference.candidates[i].messages, preference.tools)[0] for i in order
        ]
        if any(len(answer.ids) > length for answer in answers):
            found.left.overlong += 1
        elif not all(_has_content(answer) for answer in answers):
            found.left.empty += 1
        else:
            key = prompt_key(preference.context)
            found.rows.append(Ranked(preference.id, key, answers))
    return found


def _has_content(answer: Encoded) -> bool:
    """Whether something besides format is learnt: otherwise the pair's sum is empty and its log-ratio always 0."""
    return any(learnt and not form for learnt, form in zip(answer.loss_mask, answer.format_mask, strict=True))


def read_preferences(paths: Iterable[Path]) -> list[Preference]:
    """Preference rows of several files, in order, each row once."""
    found: dict[str, Preference] = {}
    for path in paths:
        if path.exists():
            for row in read_rows(path, Preference):
                found.setdefault(row.id, row)
    return list(found.values())


def row_length(longest: int, limit: int) -> int:
    """Length of packed rows: the shortest power of two times ROW that holds `longest` tokens, never over `limit`."""
    length = ROW
    while length < longest and length < limit:
        length *= 2
    return min(length, limit)
