"""Readers for the row shapes people already have: each turns one JSON object into our rows, or says why it cannot.

Known shapes: our own Task, Dialog and Preference rows; GSM8K (`question`, `answer` ending in `#### N`); HumanEval and MBPP
(`puna.post.code_formats`); chat rows (`messages` as Hugging Face and OpenAI write them, ShareGPT's `conversations`);
Open-Assistant trees (`prompt` with nested ranked `replies`); instruction rows (`instruction` with `output`, `system` and
`history` as in Alpaca and LLaMA-Factory, or a plain `prompt` with `response` or `completion`, Alpaca's wrapper removed); pairs
(`chosen` and `rejected` as TRL has them: texts, messages, or transcripts as in Anthropic's HH-RLHF, with or without `prompt`).
A reader never guesses a verifier: only rows with a checkable answer become tasks, everything else is dialogs to imitate (paper,
sections 4.1.2 and 4.1.3). `puna.post.export` writes them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from puna.post.code_formats import humaneval, mbpp
from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, Provenance, Task, content_id, read_parts, reason_of
from puna.tokenizer.tool_calls import calls_text


@dataclass
class Rows:
    """What one source row gave."""

    tasks: list[Task] = field(default_factory=list)
    dialogs: list[Dialog] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)

    def messages(self) -> Iterator[MessageRow]:
        """Every message."""
        for task in self.tasks:
            yield from task.prompt + task.gold_messages()
        for dialog in self.dialogs:
            yield from dialog.messages
        for preference in self.preferences:
            yield from itertools.chain(preference.context, *(candidate.messages for candidate in preference.candidates))


class UnreadableRow(ValueError):
    """A row that fits no known shape, or misses what its shape needs; the message is the reason listed in bad_rows.jsonl."""


NAMED = ("teacher", "teacher_licence", "judge", "judge_licence")


def read_row(row: Any, shape: str, provenance: Provenance, *, media: bool = False) -> Rows:
    """Read one JSON object as `shape` (one of SHAPES, or 'auto' to recognise it); raises UnreadableRow.

    A row without a provenance of its own may still name its teacher and judge, and the terms of what these write (NAMED). Rows
    with pictures or videos are read where the caller can use them (`media`).
    """
    if not isinstance(row, dict):
        raise UnreadableRow(f"a row must be a JSON object, this is {type(row).__name__}")
    if named := {name: row[name] for name in NAMED if isinstance(row.get(name), str) and row[name]}:
        provenance = provenance.model_copy(update=named)
    shape = recognise(row) if shape == "auto" else shape
    try:
        rows = SHAPES[shape](row, provenance)
    except ValidationError as error:
        raise UnreadableRow(f"{shape} row: {reason_of(error)}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UnreadableRow):
            raise
        raise UnreadableRow(f"{shape} row: {type(error).__name__}: {error}") from error
    if not media and any(message.media for message in rows.messages()):
        raise UnreadableRow(f"{shape} row: a content part that is no text (vision.pictures reads pictures, speech.sounds sounds)")
    return rows


def recognise(row: dict[str, Any]) -> str:
    """Name the shape of a row by its keys; raises UnreadableRow."""
    if "verifier" in row and isinstance(row.get("prompt"), list):
        return "task"
    if "context" in row and "candidates" in row:
        return "preference"
    if "chosen" in row and "rejected" in row:
        return "pair"
    if "messages" in row or "conversations" in row:
        return "dialog"
    if isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]:
        return "oasst"
    if {"prompt", "test", "entry_point"} <= row.keys():
        return "humaneval"
    if "test_list" in row:
        return "mbpp"
    if "question" in row and "####" in str(row.get("answer", "")):
        return "gsm8k"
    if "instruction" in row or ("prompt" in row and ("response" in row or "completion" in row)):
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
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "ipython": "ipython",
    "tool": "ipython",
    "function": "ipython",
    "observation": "ipython",
}


def read_messages(source: Any, role: Role = "user") -> list[MessageRow]:
    """Messages of any spelling, one or several; a text is a message of `role`, None is none. UnreadableRow for a foreign role."""
    if source is None:
        return []
    if isinstance(source, str):
        return [MessageRow(role=role, content=source)]
    return [_message(message) for message in ([source] if isinstance(source, dict) else source)]


def _message(message: dict[str, Any]) -> MessageRow:
    name = str(message["role"] if "role" in message else message["from"])
    if name not in _CHAT_ROLES:
        raise UnreadableRow(f"dialog row: unknown role {name!r}")
    content = message["content"] if "content" in message else message.get("value", "")
    content, media = read_parts(content) if isinstance(content, list) else (content, [])  # OpenAI's parts
    extra = {key: message[key] for key in ("end", "train") if message.get(key) is not None}
    if message.get("weight") == 0:  # OpenAI's way to leave a message out of the loss
        extra["train"] = False
    calls = message.get("tool_calls") or None
    if name == "function_call":
        content, calls = "", _function_call(str(content))
    elif isinstance(calls, list):
        calls = calls_text(calls)
    if calls is not None and _CHAT_ROLES[name] != "assistant":
        raise UnreadableRow(f"dialog row: a message of role {name!r} calls a tool")
    content = "" if content is None else content
    return MessageRow.model_validate(
        {"role": _CHAT_ROLES[name], "content": content, "tool_calls": calls, "media": media, **extra}
    )


def _function_call(value: str) -> str:
    """LLaMA-Factory's call (name and `arguments`, one or a list of them) as the chat format's; anything else as it is."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    calls = parsed if isinstance(parsed, list) else [parsed]
    named = all(isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call for call in calls)
    return calls_text(calls) if calls and named else value


def listed_tools(tools: Any, messages: list[MessageRow]) -> str | None:
    """Descriptions of functions, as a list or as JSON, in our form; UnreadableRow where they cannot be offered."""
    if not tools:
        return None
    text = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
    listed = json.loads(text)
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise UnreadableRow("tools are no list of objects")
    if not any(message.role == "user" for message in messages):
        raise UnreadableRow("tools are offered and no user message carries them")
    return text if listed else None


def _dialog(row: dict[str, Any], provenance: Provenance) -> Rows:
    messages = read_messages(row["messages"] if "messages" in row else row["conversations"])
    return Rows(dialogs=[_make_dialog(_with_system(row, messages), row, provenance)])


def _with_system(row: dict[str, Any], messages: list[MessageRow]) -> list[MessageRow]:
    """`system` of LLaMA-Factory's rows as the first message, unless there is one."""
    if not row.get("system") or (messages and messages[0].role == "system"):
        return messages
    return [MessageRow(role="system", content=str(row["system"])), *messages]


def _pair(row: dict[str, Any], provenance: Provenance) -> Rows:
    sides = [_side(row[name]) for name in ("chosen", "rejected")]
    given = read_messages(row.get("prompt") or row.get("question"))
    shared = [a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*sides, strict=False))]
    context = given or shared
    opening = context if shared[: len(context)] == context else []
    answers = [side[len(opening) :] for side in sides]
    if not context or context[-1].role not in ("user", "ipython"):
        raise UnreadableRow("pair row: there is no prompt that the two answer")
    context = _with_system(row, context)
    if not all(answer and answer[0].role == "assistant" for answer in answers):
        raise UnreadableRow("pair row: an answer does not begin with the assistant")
    if answers[0] == answers[1]:
        raise UnreadableRow("pair row: chosen and rejected are the same")
    origins, scores = row.get("origins") or ["", ""], (row.get("score_chosen"), row.get("score_rejected"))
    candidates = [Candidate(messages=m, origin=str(o), score=s) for m, o, s in zip(answers, origins, scores, strict=True)]
    preference = Preference(
        id=_own(row, "id") or content_id({"context": context, "candidates": candidates}),
        context=context,
        tools=listed_tools(row.get("tools"), context),
        candidates=candidates,
        ranking=[0, 1],
        strength=row.get("strength") or "better",
        kind=str(row.get("kind") or "pairs"),
        provenance=_provenance(row, provenance),
    )
    return Rows(preferences=[preference])


_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def _side(answer: Any) -> list[MessageRow]:
    """One side of a pair: messages, a text, or a transcript of HH-RLHF with the prompt in it."""
    if not isinstance(answer, str) or not answer.startswith("\n\nHuman:"):
        return read_messages(answer, role="assistant")
    parts = _TURN.split(answer)[1:]
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    return [MessageRow(role=roles[who], content=text.strip()) for who, text in zip(parts[::2], parts[1::2], strict=True)]


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
    if isinstance(row.get("prompt"), list):  # TRL's prompt and completion as messages
        messages = [*read_messages(row["prompt"]), *read_messages(row.get("completion", row.get("response")), role="assistant")]
        return Rows(dialogs=[_make_dialog(messages, row, provenance)])
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
    turns = [*(row.get("history") or []), (prompt, answer.strip())]
    roles: tuple[Role, Role] = ("user", "assistant")
    messages = [MessageRow(role=role, content=str(text)) for turn in turns for role, text in zip(roles, turn, strict=True)]
    return _make_dialog(_with_system(row, messages), row, provenance)


def _make_dialog(messages: list[MessageRow], row: dict[str, Any], provenance: Provenance) -> Dialog:
    if not any(m.role == "assistant" and (m.content or m.tool_calls) for m in messages):
        raise UnreadableRow("dialog row: no assistant message to learn from")
    if messages[0].role == "assistant":
        raise UnreadableRow("dialog row: begins with the assistant")
    lang, capability = str(row.get("lang") or "en"), str(row.get("capability") or "general")
    tools = listed_tools(row.get("tools"), messages)
    identity = _own(row, "id") or content_id(messages if tools is None else {"messages": messages, "tools": tools})
    return Dialog(
        id=identity, messages=messages, tools=tools, lang=lang, capability=capability, provenance=_provenance(row, provenance)
    )


def _provenance(row: dict[str, Any], otherwise: Provenance) -> Provenance:
    """The row's own provenance, an object or JSON (`puna.post.export` writes that), or else the source's."""
    return _own_provenance(row) or otherwise


def _own_provenance(row: dict[str, Any]) -> Provenance | None:
    """None where there is no such column, or one that means something else."""
    given = row.get("provenance")
    try:
        return Provenance.model_validate_json(given) if isinstance(given, str) else Provenance.model_validate(given)
    except ValidationError:
        return None


def _own(row: dict[str, Any], key: str) -> str | None:
    """A field of a row that was ours before: other people's ids are not hashes of the content."""
    return str(row[key]) if row.get(key) and _own_provenance(row) else None


SHAPES: dict[str, Callable[[dict[str, Any], Provenance], Rows]] = {
    "task": _task,
    "preference": _preference,
    "gsm8k": _gsm8k,
    "humaneval": lambda row, provenance: Rows(tasks=[humaneval(row, provenance)]),
    "mbpp": lambda row, provenance: Rows(tasks=[mbpp(row, provenance)]),
    "dialog": _dialog,
    "pair": _pair,
    "oasst": _oasst,
    "instruction": _instruction,
}
