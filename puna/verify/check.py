"""What counts as right (paper 4.3): named checks of an assistant's message against a task's reference and constraint.

A check looks at the last answer and at the constraint, never at the chain of thought, and never raises on what a model wrote; a
task that is itself wrong (unknown verifier or constraint, missing reference) raises InputError. Tasks name their check:

    final_answer     {"answer": "8", "lang": "de"}: one answer tag, that language's, then exactly the answer, then the text's end
    number           72 or "1,200" or "3/4": GSM8K style, after the last #### or the last number of the text
    tool_call        {"name": ..., "parameters": {...}} or a list of these
    exact, contains  a text or a list of texts (exact: any of them; contains: all of them)
    multiple_choice  the letter of the choice
    code             {"tests": ["assert add(1, 2) == 3"]}: a program that passes them, run in the sandbox (`puna.verify.code`)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from puna.core.errors import InputError
from puna.tokenizer.chat import Message
from puna.tokenizer.dialog import Task
from puna.verify.calls import read_calls, same_calls
from puna.verify.code import code, code_many
from puna.verify.constraints import fold, holds
from puna.verify.language import answer_tags
from puna.verify.numbers import final_number, to_fraction

_CHOICE_SAID = re.compile(
    r"\b(?:answer|option|choice)\b[^A-Za-z\n]{0,4}(?:is\b)?[^A-Za-z\n]{0,4}([A-Z])\b(?!['’])", re.IGNORECASE
)
_CHOICE_FIRST = re.compile(r"^\W{0,3}([A-Z])(?:[).:\]*]|\s*$|\s*\n)")
_CHOICE_MARKED = re.compile(r"\(([A-Z])\)|\\boxed\{([A-Z])\}")


def verify(task: Task, message: Message) -> bool:
    """Whether `message` answers `task` rightly and meets its constraint."""
    if task.verifier not in VERIFIERS:
        known = ", ".join(VERIFIERS)
        raise InputError(f"unknown verifier '{task.verifier}'", where=f"task {task.id}", fix=f"use one of: {known}")
    if task.verifier == "tool_call":
        return tool_call(task.reference, message) and holds(task.constraint, message.content)
    if task.verifier == "code":
        return _may_hold(task, message) and code(task.reference, message.content)
    if message.tool_calls is not None:
        return False
    text = message.content.strip()
    ending = (task.constraint or {}).get("end_word")
    return holds(task.constraint, text) and VERIFIERS[task.verifier](task.reference, _without_end(text, ending))


def verify_many(pairs: Sequence[tuple[Task, Message]]) -> list[bool]:
    """`verify` of many answers, in order; programs run side by side."""
    programs = [i for i, (task, message) in enumerate(pairs) if task.verifier == "code" and _may_hold(task, message)]
    judged = dict(zip(programs, code_many((pairs[i][0].reference, pairs[i][1].content) for i in programs), strict=True))
    return [
        judged[i] if i in judged else task.verifier != "code" and verify(task, message) for i, (task, message) in enumerate(pairs)
    ]


def _may_hold(task: Task, message: Message) -> bool:
    """Whether an answer to a task of `code` is worth running."""
    return message.tool_calls is None and holds(task.constraint, message.content)


def final_answer(reference: dict[str, str], text: str) -> bool:
    """Exactly one answer tag, of the wanted language, followed by exactly the answer and nothing else."""
    if not isinstance(reference, dict) or not {"answer", "lang"} <= reference.keys():
        raise InputError(
            "final_answer needs a reference with 'answer' and 'lang'",
            where=repr(reference)[:80],
            fix='reference: {"answer": "7", "lang": "en"}',
        )
    tags = answer_tags(text)
    return len(tags) == 1 and tags[0][0] == reference["lang"] and text[tags[0][2] :].split() == reference["answer"].split()


def number(reference: Any, text: str) -> bool:
    """The final number equals the reference exactly, as fractions."""
    wanted = to_fraction(reference)
    if wanted is None:
        raise InputError("the reference of a 'number' task holds no number", where=repr(reference)[:80], fix="reference: 7")
    return final_number(text) == wanted


def tool_call(reference: Any, message: Message) -> bool:
    """The message calls exactly the wanted functions with the wanted arguments."""
    references = reference if isinstance(reference, list) else [reference]
    try:
        wanted = [(r["name"], r["parameters"]) for r in references]
    except (TypeError, KeyError):
        raise InputError(
            "tool_call needs a reference with 'name' and 'parameters'",
            where=repr(reference)[:80],
            fix='reference: {"name": "add", "parameters": {"a": 7}}',
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # ast.parse comments on odd literals such as "1if"
        found = read_calls(message.tool_calls if message.tool_calls is not None else message.content)
    return found is not None and same_calls(found, wanted)


def exact(reference: str | list[str], text: str) -> bool:
    """The text equals one of the references, case and white space ignored."""
    return fold(text) in [fold(r) for r in ([reference] if isinstance(reference, str) else reference)]


def contains(reference: str | list[str], text: str) -> bool:
    """Every reference stands in the text, case and white space ignored."""
    return all(fold(r) in fold(text) for r in ([reference] if isinstance(reference, str) else reference))


def multiple_choice(reference: str, text: str) -> bool:
    """The chosen letter: the last "answer is X" or tagged answer, else a leading letter, else the last (X)."""
    return chosen_letter(text) == reference.strip().strip("().").upper()


def chosen_letter(text: str) -> str | None:
    """The letter an answer to a multiple-choice question settles on, None if it names none."""
    text = text.strip()
    tags = answer_tags(text)
    if tags and (match := re.match(r"\W{0,4}([A-Z])\b", text[tags[-1][2] :])):
        return match.group(1)
    said = [m for m in _CHOICE_SAID.findall(text) if m.isupper()]
    if said:
        return said[-1]
    if first := _CHOICE_FIRST.match(text):
        return first.group(1)
    marked = _CHOICE_MARKED.findall(text)
    return (marked[-1][0] or marked[-1][1]) if marked else None


def _without_end(text: str, ending: str | None) -> str:
    """The text before the last word a constraint asked for: that word is no part of the answer."""
    return text[: -len(ending)].rstrip() if ending and text.endswith(ending) else text


# tool_call reads the message, the others its text
VERIFIERS: dict[str, Callable[[Any, Any], bool]] = {
    "final_answer": final_answer, "number": number, "tool_call": tool_call, "exact": exact, "contains": contains,
    "multiple_choice": multiple_choice, "code": code,
}  # fmt: skip
