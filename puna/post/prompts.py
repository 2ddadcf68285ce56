"""What names a prompt, whoever answers it, and the proof that no prompt is in two splits.

A prompt is known by the hash of its canonical text, so the same question in other spacing or case is the same prompt; what is
held out is held out by that name in every stage and round.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puna.post.spool import digests_of
from puna.tokenizer.dialog import Dialog, MessageRow, Task, read_rows

SPLITS = ("test", "dev", "gold", "prompts")  # in the order they are served when a source is small
NGRAM = 13  # words; the usual unit of contamination checks (GPT-3, appendix C; posttraining uses 8 to 13)


def prompt_key(messages: list[MessageRow]) -> str:
    """The id by which a prompt is held out: of what was asked, whatever system message steered the answers."""
    return prompt_id([message for message in opening(messages) if message.role != "system"])


def prompt_text(messages: Iterable[MessageRow]) -> str:
    """A prompt in canonical form: roles and contents, compatibility-normalised, case and white space folded, and media by url."""
    parts = (
        (f"{m.role}: {unicodedata.normalize('NFKC', m.content)}", [f" <{o.kind} {o.url}>" for o in m.media]) for m in messages
    )
    return "\n".join(" ".join(part.casefold().split()) + "".join(shown) for part, shown in parts)


def prompt_id(messages: Iterable[MessageRow]) -> str:
    """32 hex digits that name a prompt, whoever wrote the answer."""
    return hashlib.blake2b(prompt_text(messages).encode(), digest_size=16).hexdigest()


def opening(messages: list[MessageRow]) -> list[MessageRow]:
    """The messages before the assistant first speaks: the prompt a dialog or a preference grew from."""
    first = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    return messages[:first]


def split_proof(tasks: Mapping[str, Sequence[Task]], train: Path) -> dict[str, Any]:
    """Counted from the rows as written: prompts per split, prompts two splits share, long word runs of test seen elsewhere.

    `tasks` are those of every one of SPLITS, `train` is the file of dialogs, which is read row by row.
    """
    keys = {split: digests_of(prompt_id(task.prompt) for task in tasks[split]) for split in SPLITS}
    tested = [_ngrams(task.prompt) for task in tasks["test"]]
    wanted, known, learnt = set().union(*tested), set(), bytearray()
    for dialog in read_rows(train, Dialog):
        prompt = opening(dialog.messages)
        learnt += bytes.fromhex(prompt_id(prompt))
        known |= _ngrams(prompt) & wanted if wanted else set()
    for task in tasks["prompts"] if wanted else ():
        known |= _ngrams(task.prompt) & wanted
    keys["train"] = np.frombuffer(learnt, keys["test"].dtype)
    names = ("train", "prompts", "dev", "test")
    overlap = {f"{a}/{b}": len(np.intersect1d(keys[a], keys[b])) for i, a in enumerate(names) for b in names[i + 1 :]}
    return {
        "tasks": {split: len(tasks[split]) for split in SPLITS},
        "different_prompts": {name: len(np.unique(keys[name])) for name in names},
        "overlap": overlap,
        f"test_prompts_sharing_{NGRAM}_words": sum(bool(grams & known) for grams in tested),
        "split_by": "blake2b of the canonical prompt",
    }


def _ngrams(messages: Iterable[MessageRow]) -> set[str]:
    """Runs of NGRAM words inside one message; its role is no word of it."""
    contents = [re.findall(r"\w+", unicodedata.normalize("NFKC", message.content).casefold()) for message in messages]
    return {" ".join(words[i : i + NGRAM]) for words in contents for i in range(len(words) - NGRAM + 1)}
