"""What a generator of synthetic data says to the driver: questions, programs, and how a story ends (paper 4.3).

A generator is a plain Python generator function, one call per item, so that it reads as the story it is: ask for a problem, ask
for a solution, run it, ask again with what went wrong. It yields an `Ask` (or several at once) or an `Execute` and is sent what
came of it, and returns `Accepted` or `Rejected`. The driver (`puna.post.synth.drive`) advances thousands of them together.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.tokenizer.dialog import MessageRow


@dataclass(frozen=True)
class Item:
    """What one story starts from.

    Attributes:
        key: names the item among those of its generator; its random stream hangs on it.
        source, licence: of what was given; they go into the provenance of every row.
        given: what the generator drew, in the generator's own form (a snippet, a task, a document).
        parents: ids of the rows or documents it came from. `lang` is its language.
    """

    key: str
    source: str
    licence: str
    given: Any
    parents: tuple[str, ...] = ()
    lang: str = "en"


@dataclass(frozen=True)
class Ask:
    """A question to the teacher, or with `role` "judge" to the judge.

    `tools`, as in `Dialog`, are offered with it. `template` and `slots` say which template the messages were filled from
    (`puna.post.synth.templates`).
    """

    messages: list[MessageRow]
    samples: int = 1
    temperature: float = 0.7
    max_tokens: int = 256
    role: str = "teacher"
    tools: str | None = None
    template: str = ""
    slots: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: what was written; empty where the question did not fit.
        finished: whether the teacher ended it itself.
        tool_calls: a call as JSON, as in `MessageRow`.
        read, written: tokens of the question (counted with the first of its samples) and of the answer.
    """

    text: str
    finished: bool
    tool_calls: str | None = None
    read: int = 0
    written: int = 0


@dataclass(frozen=True)
class Execute:
    """One program for the sandbox; what comes back is its `Outcome`."""

    code: str
    tests: tuple[str, ...] = ()
    language: str = "python"
    stdin: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Accepted:
    """The dialogs a story ends with, and by what they were checked.

    `tools`, `lang` and `capability` are those of every dialog; the item's language and the generator's capability where empty.
    """

    dialogs: list[list[MessageRow]]
    checks: dict[str, Any]
    tools: str | None = None
    lang: str = ""
    capability: str = ""


@dataclass(frozen=True)
class Rejected:
    """Why a story gave nothing: one of its generator's REASONS."""

    reason: str


# A story is sent the answers to an `Ask` as a list, the `Outcome` of an `Execute`, and a list of these for several at once.
Step = Ask | Execute | Sequence[Ask] | Sequence[Execute]
Story = Generator[Step, Any, Accepted | Rejected]


def user(text: str) -> MessageRow:
    """A user's message."""
    return MessageRow(role="user", content=text)


def assistant(text: str) -> MessageRow:
    """An assistant's message."""
    return MessageRow(role="assistant", content=text)
