"""Dialogs with the real tools: calculator, Python, search over local documents, reading files (section 4.3.5).

Five kinds. `calculate` and `unused` take tasks whose answer is known: in the first the assistant must call the calculator or
Python, in the second it must see that it needs no tool. `lookup` and `analysis` ask about a table in a file, with an answer that
was computed beside; analysis takes two calls or a program. `search` asks what a passage says, and the passage must be found.
Every call runs, and the last answer must be the known one and stand in what the tools gave back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.errors import InputError
from puna.core.settings import Settings as BaseSettings
from puna.post.synth import tool_turns
from puna.post.synth.passages import passages
from puna.post.synth.replies import fields
from puna.post.synth.sources import Document, Sources
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, user
from puna.post.synth.table_questions import TableQuestion, ask_table
from puna.post.synth.templates import Templates
from puna.post.synth.tool_turns import Setting, Talk, converse
from puna.post.tools.calculator import shown
from puna.post.tools.failure import ToolFailed
from puna.post.tools.files import table
from puna.post.tools.search import Search
from puna.post.tools.toolbox import PYTHON, TOOLS, Workspace
from puna.tokenizer.chat import Message
from puna.tokenizer.dialog import Task
from puna.verify.calls import Call
from puna.verify.check import verify
from puna.verify.constraints import fold
from puna.verify.numbers import final_number, numbers, to_fraction
from puna.world.tables import TABLE_LICENCE, draw_table

Kind = Literal["calculate", "unused", "lookup", "analysis", "search"]

CAPABILITY = "tools"
NO_QUESTION, WRONG, NOT_FOUND = "no question", "wrong answer", "answer not in the output"
FEW_CALLS, CALLED = "too few calls", "needless call"
REASONS = (NO_QUESTION, *tool_turns.REASONS, WRONG, NOT_FOUND, FEW_CALLS, CALLED)


class Settings(BaseSettings):
    """How many, of which kinds, over what.

    Attributes:
        count: items, shared out evenly among `kinds`.
        files: folder of csv, tsv and xlsx files to ask about; empty draws tables of the mini-world.
        index: documents in the index of a search. `groups`: of the data mix, empty for all.
        passage: characters of the passage that a search is to find.
        votes: samples of each turn, of which more than half must agree.
    """

    count: PositiveInt = 200
    kinds: tuple[Kind, ...] = Field(("calculate", "unused", "lookup", "analysis"), min_length=1)
    files: str = ""
    index: int = Field(1000, ge=2)
    groups: tuple[str, ...] = ()
    passage: int = Field(600, ge=50)
    votes: int = Field(3, ge=1)
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 256
    prompts: str = ""


@dataclass(frozen=True)
class Given:
    """What is asked, and what the tools work on: a task, a question about a table, or a passage to ask about."""

    kind: Kind
    workspace: Workspace
    task: Task | None = None
    question: TableQuestion | None = None
    file: str = ""
    passage: str = ""


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Kinds in turn, each from its own source, until one source is used up."""
    makers = {
        "calculate": partial(_from_tasks, "calculate", sources, 0),
        "unused": partial(_from_tasks, "unused", sources, 1),
        "lookup": partial(_from_tables, "lookup", settings, rng),
        "analysis": partial(_from_tables, "analysis", settings, rng),
        "search": partial(_from_passages, settings, sources, rng),
    }
    drawing = [makers[kind]() for kind in settings.kinds]
    for number in range(settings.count):
        item = next(drawing[number % len(drawing)], None)
        if item is None:
            return
        yield item


def outside(settings: Settings) -> list[Path]:
    """The user's files that the items are drawn from."""
    if not settings.files:
        return []
    found = sorted(path for path in Path(settings.files).rglob("*") if path.suffix.lower() in (".csv", ".tsv", ".xlsx"))
    if not found:
        raise InputError("no csv, tsv or xlsx file lies here", where=settings.files, fix="check `files`")
    return found


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Question, calls and results, answer."""
    given: Given = item.given
    asked = yield from _question(given, settings, templates)
    if isinstance(asked, Rejected):
        return asked
    prompt, answer = asked
    offered = [TOOLS[name] for name in _offered(given)]
    slots, needed = {"question": prompt[-1].content, "file": given.file}, given.kind != "unused"
    setting = Setting(f"{templates.generator}.turn", offered, settings.votes, settings.temperature, settings.max_tokens,
                      needed=needed, slots=slots)  # fmt: skip
    talk = yield from converse(prompt, partial(_run, given.workspace), setting)
    if isinstance(talk, Rejected):
        return talk
    fault = _fault(talk, given, answer)
    if fault:
        return Rejected(fault)
    checks = {"kind": given.kind, "calls": len(talk.calls), "executed": True, "verified": answer is None or "answer"}
    return Accepted([talk.messages], checks, tools=setting.tools)


def _from_tasks(kind: Kind, sources: Sources, first: int) -> Iterator[Item]:
    """Every other task with one number as its answer, from the `first`: no task is asked for two kinds."""
    for task in islice((task for task in sources.tasks() if _is_numeric(task)), first, None, 2):
        origin = task.provenance
        yield Item(f"{kind}-{task.id}", origin.source, origin.licence, Given(kind, Workspace(), task=task), (task.id,), task.lang)


def _is_numeric(task: Task) -> bool:
    tagged = task.verifier == "final_answer" and to_fraction(task.reference["answer"]) is not None
    return tagged or task.verifier == "number"


def _from_tables(kind: Kind, settings: Settings, rng: random.Random) -> Iterator[Item]:
    """Tables of the user's files, over and over with other questions, or of the mini-world."""
    paths, number, idle = outside(settings), 0, 0
    while idle <= 10 * max(1, len(paths)):
        path = paths[number % len(paths)] if paths else None
        name, content = (path.name, path.read_bytes()) if path else draw_table(rng)
        question = ask_table(_read_table(path or name, content), rng, worked=kind == "analysis")
        number += 1
        if question is None:
            idle += 1
            continue
        given = Given(kind, Workspace({name: content}), question=question, file=name)
        yield Item(f"{kind}-{number}", name if path else "world", "unknown" if path else TABLE_LICENCE, given)


def _read_table(path: Path | str, content: bytes) -> list[list[str]]:
    try:
        return table(str(path), content)
    except ToolFailed as error:
        raise InputError(
            f"the table cannot be read: {error}", where=str(path), fix="mend it or move it out of `files`"
        ) from error


def _from_passages(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    documents: list[Document] = list(islice(sources.documents(*settings.groups), settings.index))
    found = Search((document.id, document.text) for document in documents)
    while documents:
        document = rng.choice(documents)
        passage = rng.choice(passages(document.text, settings.passage))
        given = Given("search", Workspace(documents=found), passage=passage)
        key, lang = f"search-{document.id}-{rng.getrandbits(32):08x}", document.lang or "en"
        yield Item(key, document.source, document.licence, given, (document.id,), lang)


def _question(given: Given, settings: Settings, templates: Templates) -> Any:
    """The prompt and the known answer (None where a task's own verifier knows), or why there is none."""
    if given.task is not None:
        return list(given.task.prompt), None
    if given.question is not None:
        text = templates.text(given.question.template, **given.question.slots, file=given.file)
        return [user(text)], given.question.answer
    (written,) = yield templates.ask("question", passage=given.passage, max_tokens=settings.max_tokens)
    found = fields(written, "question", "answer")
    if found is None or fold(found[1]) not in fold(given.passage) or fold(found[1]) in fold(found[0]):
        return Rejected(NO_QUESTION)
    return [user(found[0])], found[1]


def _offered(given: Given) -> tuple[str, ...]:
    if given.kind == "search":
        return ("search", "calculator")
    return ("read_file", "calculator", PYTHON) if given.file else ("calculator", PYTHON, "search")


def _run(workspace: Workspace, call: Call) -> Execute | str:
    name, arguments = call
    if name == PYTHON:
        return Execute(str(arguments["code"]), files=workspace.files)
    return workspace.use(name, arguments)


def _fault(talk: Talk, given: Given, answer: str | None) -> str | None:
    if given.kind == "unused" and talk.calls:
        return CALLED
    if given.task is not None and not verify(given.task, Message("assistant", talk.answer)):
        return WRONG
    if given.kind == "unused":
        return None
    if given.kind == "analysis" and len(talk.turns) < 2 and talk.calls[0][0] != PYTHON:
        return FEW_CALLS
    outputs = "\n".join(talk.outputs)
    if given.kind == "search":
        said = fold(answer or "") in fold(talk.answer)
        return None if said and fold(answer or "") in fold(outputs) else NOT_FOUND
    told = final_number(talk.answer)
    if told is None or (answer is not None and not agrees(told, answer)):
        return WRONG
    return None if any(agrees(told, shown(number)) for number in numbers(outputs)) else NOT_FOUND


def agrees(told: Fraction, known: str) -> bool:
    """Whether a number is the known one; of one with more than two decimals, rounded to two or closer."""
    wanted = to_fraction(known)
    if wanted is None:
        return False
    return told == wanted if (100 * wanted).denominator == 1 else abs(told - wanted) <= Fraction(1, 200)
