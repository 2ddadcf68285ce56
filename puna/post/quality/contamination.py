"""Rows that hold a held-out task: the same prompt, or most of the 8-grams of one (paper 4.2.3, 5.1.4).

The measure is that of `puna.data.decontaminate`, over the dev and test tasks of the artifact and the user's evaluation files.
Prompts shorter than eight words have no 8-gram, so an equal prompt (`puna.post.prompts.prompt_key`) is looked for as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from puna.core.stage import Artifact
from puna.data.decontaminate import EvaluationIndex, EvaluationSettings, build_index, overlap
from puna.data.words import scan
from puna.post.prompts import prompt_key
from puna.post.quality.rows import text_of
from puna.tokenizer.dialog import Dialog, Task, read_rows

NGRAM = 8  # words, the paper's for most benchmarks
EXACT = 1.0  # share of an item that a row with its very prompt holds


@dataclass(frozen=True)
class Held:
    """What no row may hold: prompts by key, and an index of 8-grams where any text is long enough for one."""

    prompts: dict[str, str]
    index: EvaluationIndex | None

    def shares(self, dialogs: Sequence[Dialog]) -> list[tuple[float, str]]:
        """Of each row the largest share of a held-out item's 8-grams in it, 0 to 1, and that item's name ("" for none)."""
        found = [(0.0, "")] * len(dialogs)
        if self.index is not None:
            met = overlap(scan([text_of(dialog) for dialog in dialogs]), self.index)
            items = self.index.items
            pairs = zip(met.item_share.tolist(), met.item.tolist(), strict=True)
            found = [(float(share), items[item] if item >= 0 else "") for share, item in pairs]
        for row, dialog in enumerate(dialogs):
            name = self.prompts.get(prompt_key(dialog.messages))
            if name is not None:
                found[row] = (EXACT, name)
        return found


def held_out(tasks: Artifact | None, files: Sequence[str]) -> Held:
    """The dev and test tasks of an artifact and the user's evaluation files.

    Raises InputError for a file that cannot be read or holds no text.
    """
    prompts: dict[str, str] = {}
    paths = [Path(path) for path in files]
    for split in ("dev", "test") if tasks is not None else ():
        assert tasks is not None
        path = tasks.path / f"{split}.jsonl"
        rows = list(read_rows(path, Task)) if path.is_file() else []
        prompts |= {prompt_key(task.prompt): f"{path.name}#{number}" for number, task in enumerate(rows, 1)}
        paths += [path] if rows else []
    settings = EvaluationSettings(files=tuple(map(str, paths)), ngrams=(NGRAM,))
    return Held(prompts, build_index(settings) if paths else None)
