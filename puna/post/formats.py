"""Readers for the row shapes people already have: each turns one JSON object into our rows, or says why it cannot.

Known shapes: our own Task, Dialog and Preference rows; GSM8K (`question`, `answer` ending in `#### N`); chat rows (`messages`, or
`conversations` with from/value); Open-Assistant trees (`prompt` with nested ranked `replies`); instruction rows (`instruction`
with `output`, or a plain `prompt` and `response`, Alpaca's wrapper removed). A reader never guesses a verifier: only rows with a
checkable answer become tasks, everything else is dialogs to imitate (paper, sections 4.1.2 and 4.1.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, Provenance, Task, content_id


@dataclass
class Rows:
    """What one source row gave."""

    tasks: list[Task] = field(default_factory=list)
    dialogs: list[Dialog] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)


class UnreadableRow(ValueError):
    """A row that fits no known shape, or misses what its shape needs; the message is the reason listed in bad_rows.jsonl."""


def read_row(row: Any, shape: str, provenance: Provenance) -> Rows:
    """Read one JSON object as `shape` (one of SHAPES, or 'auto' to recognise it); raises UnreadableRow."""
    if not isinstance(row, dict):
        raise UnreadableRow(f"a row must be a JSON object, this is {type(row).__name__}")
    shape = recognise(row) if shape == "auto" else shape
    try:
        return SHAPES[shape](row, provenance)
    except ValidationError as error:
        first = error.errors()[0]
        raise UnreadableRow(f"{shape} row: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnreadableRow):
            raise
        raise UnreadableRow(f"{shape} row: {type(error).__name__}: {error}") from error


def recognise(row: dict[str, Any]) -> str:
    """Name the shape of a row by its keys; raises UnreadableRow."""
    if "verifier" in row and isinstance(row.get("prompt"), list):
        return "task"
    if "context" in row and "candidates" in row:
        return "preference"
    if "messages" in row or "conversations" in row:
        return "dialog"
    if isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]:
        return "oasst"
    if "question" in row and "####" in str(row.get("answer", "")):
        return "gsm8k"
    if "instruction" in row or ("prompt" in row and "response" in row):
        return "instruction"
    raise UnreadableRow(f"no known row shape has the keys {sorted(row)[:8]}")


def _task(row: dict[str, Any], provenance: Provenance) -> Rows:
    given = {"id": content_id({"prompt": row["prompt"]}), "provenance": provenance.model_dump()}
    task = Task.model_validate({**given, **row})
    if not task.prompt:
        raise UnreadableRow("task row: the prompt has no messages")
    return Rows(tasks=[task])


def _preference(row: dict[str, Any], provenance: Provenance) -> Rows:
    return Rows(preferences=[Preference.model_validate({"provenance": provenance.model_dump(), **row})])


def _gsm8k(row: dict[str, Any], provenance: Provenance) -> Rows:
    question, answer = str(row["question"]).strip(), str(row["answer"])
    chain, _, number = answer.rpartition("####")
    number = number.strip().replace(",", "")
    if not question or not re.fullmatch(r"-?\d+(\.\d+)?", number):
        raise UnreadableRow(f"gsm8k row: no number after '####' in {answer[-40:]!r}")
    chain = re.sub(r"<<[^<>]*>>", "", chain).strip()  # calculator marks are not part of the published reasoning text
    prompt = [MessageRow(role="user", content=question)]
    gold = f"{chain}\nAnswer: {number}" if chain else f"Answer: {number}"
    task = Task(
        id=content_id({"prompt": question}),
        prompt=prompt,
        verifier="number",
        reference=number,
        family="gsm8k",
        capability="maths",
        lang=str(row.get("lang", "en")),
        gold=gold,
        provenance=provenance,
    )
    return Rows(tasks=[task])


Role = Literal["system", "user", "assistant", "ipython"]
_CHAT_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "ipython": "ipython",
    "tool": "ipython",
    "function": "ipython",
}


def _dialog(row: dict[str, Any], provenance: Provenance) -> Rows:
    source = row["messages"] if "messages" in row else row["conversations"]
    messages = []
    for message in source:
        name = str(message["role"] if "role" in message else message["from"])
        if name not in _CHAT_ROLES:
            raise UnreadableRow(f"dialog row: unknown role {name!r}")
        content = message["content"] if "content" in message else message.get("value", "")
        extra = {key: message[key] for key in ("tool_calls", "end", "train") if message.get(key) is not None}
        messages.append(MessageRow(role=_CHAT_ROLES[name], content="" if content is None else content, **extra))
    return Rows(dialogs=[_make_dialog(messages, row, provenance)])


def _oasst(row: dict[str, Any], provenance: Provenance) -> Rows:
    root = row["prompt"]
    best = _best_path(root)
    if len(best) < 2:
        raise UnreadableRow("oasst row: the tree has no usable reply")
    dialog = _make_dialog([_oasst_message(node) for node in best], root, provenance)
    return Rows(dialogs=[dialog], preferences=list(_oasst_preferences(root, [], provenance)))


def _usable(node: dict[str, Any]) -> bool:
    return not node.get("deleted") and node.get("review_result") is not False and bool(str(node.get("text", "")).strip())


def _replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Usable replies, best rank first; unranked ones keep their order at the end."""
    found = [reply for reply in node.get("replies") or [] if _usable(reply)]
    return sorted(found, key=lambda reply: reply["rank"] if reply.get("rank") is not None else len(found) + 1)


def _best_path(root: dict[str, Any]) -> list[dict[str, Any]]:
    """The best-ranked reply at every turn, ending with the assistant."""
    path, node = [], root if _usable(root) else None
    while node is not None:
        path.append(node)
        replies = _replies(node)
        node = replies[0] if replies else None
    while path and path[-1]["role"] != "assistant":
        path.pop()
    return path


def _oasst_message(node: dict[str, Any]) -> MessageRow:
    return MessageRow(role=_CHAT_ROLES[str(node["role"])], content=str(node["text"]))


def _oasst_preferences(node: dict[str, Any], context: list[MessageRow], provenance: Provenance) -> Iterator[Preference]:
    """Best against worst of every ranked set of answers in the tree."""
    context = [*context, _oasst_message(node)]
    replies = _replies(node)
    ranked = [reply for reply in replies if reply.get("rank") is not None and reply["role"] == "assistant"]
    if len(ranked) >= 2 and ranked[0]["text"] != ranked[-1]["text"]:
        pair = [Candidate(messages=[_oasst_message(reply)], origin="open-assistant") for reply in (ranked[0], ranked[-1])]
        identity = content_id({"context": context, "candidates": pair})
        yield Preference(
            id=identity, context=context, candidates=pair, ranking=[0, 1], strength="better", kind="human", provenance=provenance
        )
    for reply in replies:
        yield from _oasst_preferences(reply, context, provenance)


_ALPACA = re.compile(r"### Instruction:\n(?P<instruction>.*?)\n+(?:### Input:\n(?P<input>.*?)\n+)?### Response:\s*$", re.DOTALL)


def _instruction(row: dict[str, Any], provenance: Provenance) -> Rows:
    instances = row.get("instances") or [row]
    dialogs = [_instruction_dialog(row, instance, provenance) for instance in instances]
    return Rows(dialogs=dialogs)


def _instruction_dialog(row: dict[str, Any], instance: dict[str, Any], provenance: Provenance) -> Dialog:
    instruction = str(row["instruction"] if "instruction" in row else row["prompt"])
    given = str(instance.get("input") or row.get("context") or "")
    wrapped = _ALPACA.search(instruction)
    if wrapped:
        instruction, given = wrapped["instruction"], wrapped["input"] or given
    answer = next((str(instance[key]) for key in ("output", "response", "completion") if instance.get(key)), "")
    if not instruction.strip() or not answer.strip():
        raise UnreadableRow("instruction row: the instruction or the answer is empty")
    prompt = instruction.strip() + (f"\n\n{given.strip()}" if given.strip() else "")
    messages = [MessageRow(role="user", content=prompt), MessageRow(role="assistant", content=answer.strip())]
    return _make_dialog(messages, row, provenance)


def _make_dialog(messages: list[MessageRow], row: dict[str, Any], provenance: Provenance) -> Dialog:
    if not any(m.role == "assistant" and (m.content or m.tool_calls) for m in messages):
        raise UnreadableRow("dialog row: no assistant message to learn from")
    if messages[0].role == "assistant":
        raise UnreadableRow("dialog row: begins with the assistant")
    identity = content_id(messages)
    lang, capability = str(row.get("lang") or "en"), str(row.get("capability") or "general")
    tools = row.get("tools") if isinstance(row.get("tools"), str) else None
    return Dialog(id=identity, messages=messages, tools=tools, lang=lang, capability=capability, provenance=provenance)


SHAPES: dict[str, Callable[[dict[str, Any], Provenance], Rows]] = {
    "task": _task,
    "preference": _preference,
    "gsm8k": _gsm8k,
    "dialog": _dialog,
    "oasst": _oasst,
    "instruction": _instruction,
}
