"""The rows of a batch job: prompts of a JSONL file, all checked before any is answered, and cut into windows.

A window is what is answered together and written at once, so memory does not depend on the file, and every window's answers are
the same wherever and after whatever it is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from puna.core.errors import InputError
from puna.core.json_numbers import Number, Whole
from puna.infer.grammar import Grammar, json_grammar, regex_grammar
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, render
from puna.tokenizer.dialog import MessageRow, Provenance, Task, reason_of
from puna.tokenizer.tool_calls import ROLE_OF, calls_text
from puna.verify.check import VERIFIERS, verify

FORM = 'one JSON object a line: {"prompt": "text to continue"} or {"messages": [{"role": "user", "content": ...}]}'
MOST_SAMPLES = 4096  # of one row: they are answered and held together
LIKE = 0.85  # from 0 to 1, how alike a field's name must be to one that exists to be taken for a mistake
BadRow = Callable[[int, str], None]


class PromptRow(BaseModel):
    """One row. A text is continued, messages are answered in the chat format; what is not given is the job's. Other fields are
    passed over, so rows of tasks (`prompt` as messages, `verifier`, `reference`, `constraint`) are rows too.
    """

    model_config = ConfigDict(extra="allow")

    id: str | int | None = None
    prompt: str | list[MessageRow] | None = None
    messages: list[MessageRow] | None = None
    n: Whole | None = Field(default=None, ge=1, le=MOST_SAMPLES)
    temperature: Number | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    max_tokens: Whole | None = Field(default=None, ge=1)
    seed: Whole | None = None
    guided_json: dict[str, Any] | None = None
    guided_regex: str | None = None
    verifier: str | None = None
    reference: Any = None
    constraint: dict[str, Any] | None = None
    lang: str = "en"

    @model_validator(mode="before")
    @classmethod
    def _other_forms(cls, row: Any) -> Any:
        """GSM8K's question and answer as messages with a verifier; roles and calls of messages as the OpenAI API has them."""
        if not isinstance(row, dict):
            return row
        question, number = row.get("question"), str(row.get("answer", "")).rpartition("####")
        if isinstance(question, str) and "prompt" not in row and "messages" not in row:
            checked = {"verifier": "number", "reference": number[2].strip().replace(",", "")} if number[1] else {}
            row = {**checked, **row, "prompt": [{"role": "user", "content": question.strip()}]}
        lists = {name: row[name] for name in ("prompt", "messages") if isinstance(row.get(name), list)}
        return {**row, **{name: [_message(one) for one in messages] for name, messages in lists.items()}}

    @model_validator(mode="after")
    def _one_prompt(self) -> PromptRow:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("a row has either a prompt or messages")
        if not (self.prompt or self.messages):
            raise ValueError("the prompt is empty")
        if self.guided_json is not None and self.guided_regex is not None:
            raise ValueError("an answer has one form: guided_json or guided_regex")
        for name in self.model_extra or {}:
            if meant := get_close_matches(name, type(self).model_fields, 1, LIKE):
                raise ValueError(f"there is no field '{name}'; '{meant[0]}' may be meant")
        return self

    @property
    def dialog(self) -> list[MessageRow] | None:
        """The messages to answer; None where a text is to be continued."""
        return self.prompt if isinstance(self.prompt, list) else self.messages

    def prompt_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the prompt, BOS first."""
        if self.dialog is None:
            return [tokenizer.bos_id, *tokenizer.encode(str(self.prompt))]
        return render(tokenizer, self.dialog, generation_prompt=True).ids

    def grammar(self, tokenizer: Tokenizer) -> Grammar | None:
        """The form the answers must have; InputError for one that cannot be enforced."""
        if self.guided_json is not None:
            return json_grammar(tokenizer, self.guided_json)
        return None if self.guided_regex is None else regex_grammar(tokenizer, self.guided_regex)

    def task(self, line: int) -> Task:
        """The row as a task, for its verifier."""
        assert self.verifier is not None and self.dialog is not None
        return Task(
            id=str(line), prompt=self.dialog, verifier=self.verifier, reference=self.reference, constraint=self.constraint,
            lang=self.lang, provenance=Provenance(source="batch", licence="NOASSERTION"),
        )  # fmt: skip


def _message(given: Any) -> Any:
    """A message with our name of its role and its calls as text."""
    if not isinstance(given, dict):
        return given
    calls, content = given.get("tool_calls"), given.get("content")
    said = {
        **given,
        "role": ROLE_OF.get(str(given.get("role")), given.get("role")),
        "content": "" if content is None else content,
    }
    said.pop("tool_call_id", None)
    return {**said, "tool_calls": calls_text(calls)} if isinstance(calls, list) else said


@dataclass(frozen=True)
class Reader:
    """Reads and checks rows; a worker's reader says the same of every row as the one that went through the file first.

    Attributes:
        context: most tokens of prompt and answer.
        score: "", "verify" or "reward:DIR"; says which fields a row needs.
    """

    path: Path
    tokenizer: Tokenizer
    context: int
    score: str

    def rows(self, start: int, line: int, bad: BadRow) -> Iterator[tuple[int, PromptRow, list[int]]]:
        """(line number, row, prompt ids) of the good rows from byte `start`, where line `line` begins; `bad(line, reason)`."""
        with self.path.open("rb") as file:
            file.seek(start)
            for number, text in enumerate(file, start=line):
                if not text.strip():
                    continue
                try:
                    row = PromptRow.model_validate_json(text)
                    ids = row.prompt_ids(self.tokenizer)
                    self._check(row, ids)
                except ValidationError as error:
                    bad(number, reason_of(error))
                except InputError as error:
                    bad(number, error.what)
                else:
                    yield number, row, ids

    def _check(self, row: PromptRow, ids: list[int]) -> None:
        row.grammar(self.tokenizer)
        if len(ids) >= self.context:
            raise InputError(f"the prompt has {len(ids)} tokens and the model reads {self.context}, answer included")
        if self.score and row.dialog is None:
            raise InputError("only answers to messages can be scored, and this row is a text to continue")
        if self.score == "verify" and row.verifier not in VERIFIERS:
            raise InputError(f"the row's verifier is '{row.verifier}' and not one of {', '.join(VERIFIERS)}")
        if self.score == "verify":
            verify(row.task(0), Message("assistant", ""))  # refuses a reference that cannot be compared with


@dataclass(frozen=True)
class Window:
    """Rows that are answered together: `rows` of them from byte `start` on, where line `line` begins."""

    index: int
    start: int
    line: int
    rows: int


@dataclass
class Plan:
    """What a file holds: its windows, in order, its good rows, and the SHA-256 of its bytes."""

    windows: list[Window]
    rows: int
    digest: str


def plan_windows(reader: Reader, rows_per_window: int, skipped: Path | None) -> Plan:
    """Check every row and cut the file into windows.

    Args:
        skipped: takes the bad rows as JSONL of line and reason; None raises InputError with the line of the first.
    """
    if not reader.path.is_file():
        raise InputError("there is no such file of prompts", where=str(reader.path), fix=FORM)
    found: list[dict[str, Any]] = []

    def bad(line: int, reason: str) -> None:
        if skipped is None:
            raise InputError(f"a row cannot be answered: {reason}", where=f"{reader.path}:{line}", fix=f"{FORM}; or --skip-bad")
        found.append({"line": line, "reason": reason})

    good = [line for line, _, _ in reader.rows(0, 1, bad)]
    if not good:
        raise InputError("there are no rows to answer", where=str(reader.path), fix=FORM)
    if skipped is not None:
        skipped.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    firsts = good[::rows_per_window]
    starts, digest = _starts(reader.path, firsts)
    sizes = [len(good[at : at + rows_per_window]) for at in range(0, len(good), rows_per_window)]
    return Plan([Window(i, *found) for i, found in enumerate(zip(starts, firsts, sizes, strict=True))], len(good), digest)


def _starts(path: Path, lines: list[int]) -> tuple[list[int], str]:
    """The bytes at which lines begin, and the SHA-256 of the file."""
    wanted, starts, at, digest = set(lines), [], 0, hashlib.sha256()
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if number in wanted:
                starts.append(at)
            at += len(text)
            digest.update(text)
    return starts, digest.hexdigest()
