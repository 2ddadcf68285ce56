"""Dialogs and preferences in the forms other tools read: the way back from `puna.post.formats`.

    hf        `messages` with roles, content and listed tool calls, `tools` as JSON (Hugging Face chat templates, TRL, OpenAI)
    sharegpt  `conversations` of from and value, `tools` as JSON (LLaMA-Factory, axolotl)
    alpaca    `instruction`, `output`, `system`, `history` (Alpaca, LLaMA-Factory)
    trl       `prompt`, `chosen`, `rejected` as messages (TRL's preference rows)

A row is written only if reading it back gives the same row; what a form cannot say is listed with the reason and counted, never
bent. Id, language, capability and provenance go along as columns. Tools and provenance are JSON *strings*: columnar readers fill
the missing keys of nested objects with nulls.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from puna.core.errors import InputError
from puna.post.collect import gold_dialog
from puna.post.comparisons import sampled_answer, sampled_prompts
from puna.post.formats import Rows, UnreadableRow, read_row
from puna.post.task_files import json_rows
from puna.tokenizer.dialog import Dialog, MessageRow, Preference, Provenance, Sample, Task, content_id, reason_of
from puna.tokenizer.tool_calls import calls_list

Form = Literal["hf", "sharegpt", "alpaca", "trl"]
ROLES = {"ipython": "tool"}
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "ipython": "observation"}
CALLER = "function_call"
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")  # what a reason says of one row alone
KIND_LETTERS = 100


class UnsayableRow(ValueError):
    """A row that a form has no words for; the message is the reason listed in OUT.left_out.jsonl."""


@dataclass
class Report:
    """What came of an export: lines written, rows left out by kind of reason, rankings of several answers written as pairs, and
    rows whose unranked answers have no place in them.
    """

    written: int = 0
    as_pairs: int = 0
    unranked: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        counts = {"written": self.written, "rankings_as_pairs": self.as_pairs, "unranked": self.unranked}
        return {**counts, "left_out": dict(self.left_out.most_common())}


def export(source: Path, out: Path, form: Form, *, prompts: Path | None = None) -> Report:
    """Write the dialogs of `source` (its preferences for the form trl) as JSONL.

    Args:
        source: a tasks or samples artifact, or JSONL of any shape that is read (`puna.post.formats`), or of samples.
        out: replaced when everything is written; rows left out are listed in OUT.left_out.jsonl.
        prompts: what samples answer, see `puna.post.comparisons.sampled_prompts`.

    Raises InputError for an unknown form, a missing source, and when not one row could be written.
    """
    if form not in get_args(Form):
        raise InputError(f"there is no form '{form}'", where="--as", fix=", ".join(get_args(Form)))
    file = _file(source, form)
    report, partial = Report(), out.with_name(out.name + ".partial")
    left = out.with_name(out.name + ".left_out.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as written, left.open("w", encoding="utf-8") as listed:
        for line, row in _rows(file, form, prompts):
            try:
                if isinstance(row, UnreadableRow):
                    raise row
                found = said(row, form)
            except (UnsayableRow, UnreadableRow) as error:
                report.left_out[_kind(error)] += 1
                listed.write(json.dumps({"line": line, "reason": str(error)}, ensure_ascii=False) + "\n")
                continue
            report.as_pairs += len(found) > 1
            report.unranked += isinstance(row, Preference) and len(row.ranking) < len(row.candidates)
            report.written += len(found)
            written.writelines(text + "\n" for text in found)
    if not report.left_out:
        left.unlink()
    if not report.written:
        partial.unlink()
        why = f": {report.left_out.most_common(1)[0][0]}" if report.left_out else ""
        raise InputError(f"nothing could be written as {form}{why}", where=str(file), fix="choose another --as")
    partial.replace(out)
    return report


def _kind(error: Exception) -> str:
    """A reason without what it quotes of its row, so that a million bad rows are a few kinds."""
    return QUOTED.sub("...", str(error).partition("\n")[0])[:KIND_LETTERS]


def said(row: Dialog | Preference, form: Form) -> list[str]:
    """The lines that say a row in a form, one but for rankings of several answers; UnsayableRow where reading differs."""
    if isinstance(row, Preference):
        return [_checked(pair, _trl(pair)) for pair in _pairs(row)]
    writers: dict[str, Callable[[Dialog], dict[str, Any]]] = {"hf": _hf, "sharegpt": _sharegpt, "alpaca": _alpaca}
    return [_checked(row, writers[form](row))]


def _checked(row: Dialog | Preference, made: dict[str, Any]) -> str:
    text = json.dumps(made, ensure_ascii=False)
    try:
        back = read_row(json.loads(text), "auto", row.provenance)
    except UnreadableRow as error:
        raise UnsayableRow(f"it would not be read back: {error}") from None
    if row not in (*back.dialogs, *back.preferences):
        raise UnsayableRow("white space or an empty text would be lost")
    return text


def _file(source: Path, form: Form) -> Path:
    if not source.is_dir():
        found = source
    elif form == "trl":
        found = source / "preferences.jsonl"
    else:
        found = next((source / name for name in ("train.jsonl", "accepted.jsonl") if (source / name).is_file()), source)
    if not found.is_file():
        raise InputError("there are no such rows", where=str(found), fix="name a tasks or samples artifact, or a JSONL file")
    return found


def _rows(file: Path, form: Form, prompts: Path | None) -> Iterator[tuple[int, Dialog | Preference | UnreadableRow]]:
    """(line, row) of every row of the kind the form is for; of another kind, or unreadable, the reason in its place."""
    provenance, bad = Provenance(source=file.name, licence="unknown"), list[dict[str, Any]]()
    tasks: dict[str, Task] | None = None
    for line, row in json_rows(file, bad):
        try:
            if isinstance(row, dict) and "task_id" in row:
                tasks = sampled_prompts(file, prompts) if tasks is None else tasks
                found = Rows(dialogs=[_sampled(row, tasks)])
            else:
                found = read_row(row, "auto", provenance)
        except UnreadableRow as error:
            yield line, error
            continue
        dialogs = found.dialogs + [dialog for dialog in map(gold_dialog, found.tasks) if dialog]
        wanted: list[Any] = list(found.preferences if form == "trl" else dialogs)
        yield from ((line, one) for one in wanted)
        if not wanted:
            yield line, UnreadableRow(_other_kind(found, form))
    yield from ((row["line"], UnreadableRow(row["reason"])) for row in bad)


def _other_kind(found: Rows, form: Form) -> str:
    if found.preferences:
        return "it is a preference (--as trl)"
    return "it is no preference" if form == "trl" else "it is a task without a worked answer"


def _sampled(row: dict[str, Any], tasks: dict[str, Task]) -> Dialog:
    """A sample as a dialog; how it was drawn and scored is in its provenance."""
    try:
        sample = Sample.model_validate(row)
    except ValidationError as error:
        raise UnreadableRow(f"sample row: {reason_of(error)}") from error
    if sample.task_id not in tasks:
        raise UnreadableRow("sample row: its prompt is not among the prompts")
    if not sample.finished:
        raise UnreadableRow("sample row: the model did not end it")
    task = tasks[sample.task_id]
    messages = [*task.prompt, *sampled_answer(sample).messages]
    checks = {"temperature": sample.temperature, "seed": sample.seed, **sample.scores}
    provenance = task.provenance.model_copy(update={"teacher": sample.policy, "parents": [task.id], "checks": checks})
    return Dialog(id=content_id(messages), messages=messages, lang=task.lang, capability=task.capability, provenance=provenance)


def _columns(dialog: Dialog) -> dict[str, Any]:
    """What goes along with the messages."""
    columns = {"id": dialog.id, "lang": dialog.lang, "capability": dialog.capability}
    tools = {} if dialog.tools is None else {"tools": dialog.tools}
    return {**tools, **columns, "provenance": dialog.provenance.model_dump_json()}


def _hf(dialog: Dialog) -> dict[str, Any]:
    return {"messages": [_hf_message(message) for message in dialog.messages], **_columns(dialog)}


def _hf_message(message: MessageRow) -> dict[str, Any]:
    """Roles and listed calls as chat templates take them; a call that is no such list stays text, which ours takes too."""
    made: dict[str, Any] = {"role": ROLES.get(message.role, message.role), "content": message.content}
    if message.tool_calls is not None:
        made["tool_calls"] = calls_list(message.tool_calls) or message.tool_calls
    elif message.end != "eot":
        made["end"] = message.end
    return made if message.train is None else {**made, "train": message.train}


def _sharegpt(dialog: Dialog) -> dict[str, Any]:
    return {"conversations": [_sharegpt_message(message) for message in dialog.messages], **_columns(dialog)}


def _sharegpt_message(message: MessageRow) -> dict[str, str]:
    _plain(message)
    if message.tool_calls is None:
        return {"from": SHAREGPT[message.role], "value": message.content}
    if message.content:
        raise UnsayableRow("a message has both a text and a call")
    return {"from": CALLER, "value": _called(message.tool_calls)}


def _called(text: str) -> str:
    """LLaMA-Factory's writing of a call; code as it is."""
    calls = calls_list(text)
    if calls is None:
        return text
    parsed = [{"name": c["function"]["name"], "arguments": json.loads(c["function"]["arguments"])} for c in calls]
    return json.dumps(parsed[0] if len(parsed) == 1 else parsed, ensure_ascii=False)


def _alpaca(dialog: Dialog) -> dict[str, Any]:
    messages = list(dialog.messages)
    system = messages.pop(0).content if messages and messages[0].role == "system" else None
    turns = [messages[i : i + 2] for i in range(0, len(messages), 2)]
    if not turns or any([message.role for message in turn] != ["user", "assistant"] for turn in turns):
        raise UnsayableRow("its turns are not question and answer in turn")
    for message in dialog.messages:
        _plain(message)
        if message.tool_calls is not None:
            raise UnsayableRow("a message calls a tool")
    texts = [[message.content for message in turn] for turn in turns]
    made: dict[str, Any] = {"instruction": texts[-1][0], "input": "", "output": texts[-1][1]}
    made |= {} if system is None else {"system": system}
    return {**made, **({"history": texts[:-1]} if texts[:-1] else {}), **_columns(dialog)}


def _plain(message: MessageRow) -> None:
    """UnsayableRow for what only our rows and the form hf can say of a message."""
    if message.train is not None:
        raise UnsayableRow("a message says whether it is trained on")
    if message.end == "eom" and message.tool_calls is None:
        raise UnsayableRow("a message without a call leaves the turn open")


def _pairs(row: Preference) -> list[Preference]:
    """The row with its answers best first; one row for each two of them where there are more, without its id."""
    ranked = [row.candidates[i] for i in row.ranking]
    pairs = [(a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :]]
    return [
        row.model_copy(
            update={
                "id": row.id if len(pairs) == 1 else content_id({"context": row.context, "candidates": pair}),
                "candidates": list(pair),
                "ranking": [0, 1],
            }
        )
        for pair in pairs
    ]


def _trl(pair: Preference) -> dict[str, Any]:
    chosen, rejected = pair.candidates
    made: dict[str, Any] = {
        "prompt": [_hf_message(message) for message in pair.context],
        "chosen": [_hf_message(message) for message in chosen.messages],
        "rejected": [_hf_message(message) for message in rejected.messages],
    }
    if pair.tools is not None:
        made["tools"] = pair.tools
    scores = {"score_chosen": chosen.score, "score_rejected": rejected.score}
    made |= {name: score for name, score in scores.items() if score is not None}
    about = {"id": pair.id, "strength": pair.strength, "kind": pair.kind, "origins": [chosen.origin, rejected.origin]}
    return {**made, **about, "provenance": pair.provenance.model_dump_json()}
