"""Pairs of answers for people to compare: read from samples, from candidates in a file, or left for two models to write (4.2.1).

What is compared is one assistant message on each side. Where answers are several messages (a call, the tool's result, the answer
after it) the messages they share move into the context, and the first that differ are compared: the paper's choice at the level
of messages for dialogs with tools (section 4.3.5). What followed is shown and is no part of the row. Rows that leave nothing to
choose are counted.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.post.formats import UnreadableRow, listed_tools, read_messages
from puna.post.task_files import json_rows
from puna.tokenizer.dialog import Candidate, MessageRow, Provenance, Sample, Task, content_id, read_rows, reason_of

MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  # what a row of another form runs into
FORM = (
    'one JSON object a line: {"prompt": "...", "candidates": ["...", "..."]}, prompt and candidates as texts or messages; or'
    " preference rows; or lines of `puna generate` or sample rows, with their prompts named by --prompts"
)
PROMPT_FORM = 'one JSON object a line: {"prompt": "..."} or {"messages": [{"role": "user", "content": ...}], "tools": [...]}'
PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True)
class Comparison:
    """One thing to decide.

    Attributes:
        id: hash of context and candidates (of the context alone where models are still to write).
        candidates: two of one assistant message each, in the order of the source; empty where models are still to write.
        followed: what came after each in the source, to be shown only.
    """

    id: str
    context: list[MessageRow]
    tools: str | None
    candidates: tuple[Candidate, ...]
    provenance: Provenance
    followed: tuple[list[MessageRow], ...] = ()


@dataclass
class Read:
    """What a source holds: the comparisons, each once, and how many of its rows leave nothing to choose."""

    comparisons: list[Comparison] = field(default_factory=list)
    same: int = 0
    unfinished: int = 0
    repeated: int = 0
    _ids: set[str] = field(default_factory=set)

    def add(self, found: Comparison | None) -> None:
        """Keep one; None counts as a row whose answers do not differ."""
        if found is None:
            self.same += 1
        elif found.id in self._ids:
            self.repeated += 1
        else:
            self._ids.add(found.id)
            self.comparisons.append(found)

    def notes(self) -> list[str]:
        """Lines for the user about what was left out."""
        told = {
            "rows leave nothing to choose: one answer, or none that first differ in an assistant's message": self.same,
            "answers were cut at their longest and are not offered": self.unfinished,
            "rows are there twice": self.repeated,
        }
        return [f"{count} {what}" for what, count in told.items() if count]


def read_comparisons(source: Path, prompts: Path | None, licence: str, seed: int) -> Read:
    """Comparisons of a samples artifact or of a JSONL file.

    Args:
        prompts: what samples answer: a tasks artifact or a JSONL of prompts by `id` (or line). None: the tasks that the samples
            artifact was made from.
        seed: of the choice of two where a row has more answers.

    Raises InputError naming the first row that cannot be read, and when nothing is left to compare.
    """
    file = source / "samples.jsonl" if source.is_dir() else source
    if not file.is_file():
        fix = f"name a samples artifact, or a JSONL file: {FORM}"
        raise InputError("there are no answers to compare", where=str(file), fix=fix)
    first = _first_row(file)
    read = Read()
    if "task_id" in first:
        _add_samples(read, file, prompts, seed)
    else:
        known = dict(_prompts(prompts, licence)) if "samples" in first and prompts else {}
        for number, row in _rows(file):
            read.add(_from_row(row, number, known, file, licence, seed, read))
    return _not_empty(read, file)


def read_prompts(source: Path, licence: str, how: object = None) -> Read:
    """Prompts for models to answer: a JSONL file, or a tasks artifact's; `how` they answer is a part of each comparison's id."""
    read = Read()
    for _, asked in _prompts(source, licence):
        identity = content_id({"context": asked.context, "tools": asked.tools, "drawn": how})
        read.add(Comparison(identity, asked.context, asked.tools, (), asked.provenance))
    return _not_empty(read, source)


def level(
    context: list[MessageRow], tools: str | None, answers: Sequence[Candidate], provenance: Provenance
) -> Comparison | None:
    """The comparison of the first messages in which two answers differ; None if these are not both the assistant's."""
    messages = [answer.messages for answer in answers]
    shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*messages, strict=False))))
    heads = [found[shared : shared + 1] for found in messages]
    if not all(head and head[0].role == "assistant" for head in heads):
        return None
    context = [*context, *messages[0][:shared]]
    pair = tuple(
        Candidate(messages=head, origin=answer.origin, score=answer.score) for head, answer in zip(heads, answers, strict=True)
    )
    identity = content_id({"context": context, "tools": tools, "candidates": [head[0] for head in heads]})
    return Comparison(identity, context, tools, pair, provenance, tuple(found[shared + 1 :] for found in messages))


@dataclass(frozen=True)
class _Asked:
    context: list[MessageRow]
    tools: str | None
    provenance: Provenance


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    bad: list[dict[str, Any]] = []
    for number, row in json_rows(file, bad):
        if not isinstance(row, dict):
            bad.append({"line": number, "reason": "it is no JSON object"})
        _refuse(bad, file)
        yield number, row
    _refuse(bad, file)


def _refuse(bad: list[dict[str, Any]], file: Path) -> None:
    if bad:
        raise InputError(f"a row cannot be read: {bad[0]['reason']}", where=f"{file}:{bad[0]['line']}", fix=FORM)


def _first_row(file: Path) -> dict[str, Any]:
    return next((row for _, row in _rows(file)), {})


def _not_empty(read: Read, source: Path) -> Read:
    if not read.comparisons:
        told = "; ".join(read.notes())
        raise InputError("there is nothing to compare" + (f": {told}" if told else ""), where=str(source), fix=FORM)
    return read


def _from_row(
    row: dict[str, Any], number: int, known: dict[str, _Asked], file: Path, licence: str, seed: int, read: Read
) -> Comparison | None:
    """The comparison of one row of a file."""
    try:
        if "samples" in row:
            asked, answers = known.get(str(row.get("id", number))), _generated(row, read)
            if asked is None:
                raise UnreadableRow(f"its prompt (id {row.get('id', number)}) is not among --prompts")
        else:
            asked, answers = _asked(row, file.name, licence), _candidates(row)
    except MALFORMED as error:
        reason = reason_of(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"a row cannot be compared: {reason}", where=f"{file}:{number}", fix=FORM) from error
    return _choose(asked, answers, seed)


def _asked(row: dict[str, Any], name: str, licence: str) -> _Asked:
    """Context, tools and provenance of a row; UnreadableRow without a prompt."""
    prompt = next((row[key] for key in ("context", "prompt", "messages") if row.get(key)), None)
    context = read_messages(prompt)
    if not context or context[-1].role == "assistant":
        raise UnreadableRow("its prompt is empty or ends with the assistant")
    given = row.get("provenance")
    provenance = Provenance.model_validate(given) if given else Provenance(source=name, licence=licence)
    return _Asked(context, listed_tools(row.get("tools"), context), provenance)


def _candidates(row: dict[str, Any]) -> list[Candidate]:
    given: list[Any] = next((row[key] for key in ("candidates", "answers", "responses") if row.get(key)), [])
    found = []
    for answer in given:
        if isinstance(answer, dict) and "messages" in answer:
            origin, score = str(answer.get("origin", "")), answer.get("score")
            found.append(Candidate(messages=read_messages(answer["messages"]), origin=origin, score=score))
        else:
            found.append(Candidate(messages=read_messages(answer, role="assistant"), origin=""))
    return found


def _generated(row: dict[str, Any], read: Read) -> list[Candidate]:
    """Answers of a line of `puna generate` that their model ended itself."""
    ended = [sample for sample in row["samples"] if sample.get("finish_reason") == "stop"]
    read.unfinished += len(row["samples"]) - len(ended)
    return [
        Candidate(
            messages=[MessageRow(role="assistant", content=s["text"], tool_calls=s.get("tool_calls"))],
            origin="generated",
            score=s.get("score"),
        )
        for s in ended
    ]


def _choose(asked: _Asked, answers: list[Candidate], seed: int) -> Comparison | None:
    """Two answers that differ, drawn by the seed and the context; None if there are none."""
    different: dict[str, Candidate] = {}
    for answer in answers:
        different.setdefault(content_id(answer.messages), answer)
    order = list(different.values())
    if len(order) > 2:
        python_stream(seed, "annotate", content_id(asked.context)).shuffle(order)
    pairs = ((a, b) for i, a in enumerate(order) for b in order[i + 1 :])
    found = (level(asked.context, asked.tools, pair, asked.provenance) for pair in pairs)
    return next((comparison for comparison in found if comparison), None)


def _add_samples(read: Read, file: Path, prompts: Path | None, seed: int) -> None:
    """Two of the samples of each prompt."""
    known = sampled_prompts(file, prompts)
    answers: dict[str, list[Candidate]] = {}
    for sample in read_rows(file, Sample):
        read.unfinished += not sample.finished
        if sample.finished:
            answers.setdefault(sample.task_id, []).append(sampled_answer(sample))
    for task_id, found in answers.items():
        task = known.get(task_id)
        if task is None:
            what = f"the prompt of task {task_id} is not among the prompts"
            raise InputError(what, where=str(file), fix="name them with --prompts")
        read.add(_choose(_Asked(task.prompt, None, task.provenance), found, seed))


def sampled_answer(sample: Sample) -> Candidate:
    """A sample as an answer: what stands behind <|python_tag|> is its call."""
    text, tag, call = sample.text.partition(PYTHON_TAG)
    message = MessageRow(role="assistant", content=text, tool_calls=call if tag else None)
    return Candidate(messages=[message], origin=sample.policy, score=sample.scores.get("verifier"))


def sampled_prompts(file: Path, prompts: Path | None) -> dict[str, Task]:
    """The tasks that a file of samples answers, by id: those of `prompts`, or of the artifact that the samples' record names."""
    place = prompts or _recorded_tasks(file)
    place = place / "prompts.jsonl" if place.is_dir() else place
    return {task.id: task for task in read_rows(place, Task)}


def _recorded_tasks(file: Path) -> Path:
    record = file.parent / "artifact.json"
    inputs = json.loads(record.read_text()).get("inputs", []) if record.is_file() else []
    found = [(file.parent / entry["path"]).resolve() for entry in inputs if entry.get("kind") == "tasks" and entry.get("path")]
    if not found or not found[0].is_dir():
        raise InputError("the prompts of these samples are not known", where=str(file), fix="name them with --prompts TASKS")
    return found[0]


def _prompts(source: Path | None, licence: str) -> Iterator[tuple[str, _Asked]]:
    assert source is not None
    file = source / "prompts.jsonl" if source.is_dir() else source
    if not file.is_file():
        raise InputError("there is no such file of prompts", where=str(file), fix=PROMPT_FORM)
    for number, row in _rows(file):
        try:
            yield str(row.get("id", number)), _asked(row, file.name, licence)
        except MALFORMED as error:
            reason = reason_of(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"a row cannot be answered: {reason}", where=f"{file}:{number}", fix=PROMPT_FORM) from error
