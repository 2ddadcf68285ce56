"""Whether a synthetic dialog about the almanac, an exercise in another language, a tool or a system prompt is right.

As in `puna.world.truth`: from the mini-world alone, and never from a generator's own checks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction

from puna.tokenizer.chat import MessageLike
from puna.verify.calls import read_calls, same_calls
from puna.verify.numbers import final_number, numbers
from puna.world.almanac import asked, remembered, truth
from puna.world.lexicon import ANSWER_TAGS, WORDING
from puna.world.oracle_languages import ENGLISH_NAMES, same_exercise, values_of, worked
from puna.world.oracle_steering import keeps_demands
from puna.world.oracle_texts import true_answer, true_sentences
from puna.world.oracle_tools import expected, is_known_program, plan, shown, table_answer, table_rows
from puna.world.projects import WRONG, source

Messages = Sequence[MessageLike]


def knowledge(messages: Messages) -> bool:
    """A question that names its town, with its true answer, or with a refusal where memory is empty or wrong."""
    about, answer = asked(messages[0].content), messages[-1].content
    if about is None or not about[0]:
        return False
    refused = answer.startswith("I do not know")
    return remembered(*about) != truth(*about) if refused else true_answer(messages[0].content, answer)


def chunk_questions(messages: Messages) -> bool:
    """A question that names its town, after the document, with the true answer."""
    return true_answer(messages[0].content.rpartition("\n\n")[2], messages[-1].content)


def summaries(messages: Messages) -> bool:
    """A summary that says nothing untrue, or the true answer to a question."""
    last = messages[0].content.rpartition("\n\n")[2]
    return true_sentences(messages[-1].content) if last.startswith("Sum up") else true_answer(last, messages[-1].content)


def missing_file(messages: Messages) -> bool:
    """A file without any wrong function, and the files that name it, no others."""
    code = messages[3].content
    module = messages[2].content.split()[1].removesuffix(".py")
    parts = messages[0].content.split("\n```\n")
    users = sorted(part.split("\n```")[0].split()[-1] for part in parts if f"from {module} import" in part)
    listed = sorted(line.removeprefix("- ") for line in messages[1].content.splitlines())
    return users == listed and not any(source(name, body) in code for name, bodies in WRONG.items() for body in bodies)


def parallel_text(messages: Messages) -> bool:
    """The same exercise in the language that is asked for."""
    prompt, answer = messages[0].content, values_of(messages[-1].content)
    if answer is None:
        return False
    names = [name for name, code in ENGLISH_NAMES.items() if code == answer["lang"]]
    wanted = any(name in prompt for name in (*names, WORDING[answer["lang"]].endonym))
    texts = [*prompt.splitlines(), prompt.partition(": ")[2]]
    return wanted and any(same_exercise(text, messages[-1].content) for text in texts)


def translated_reasoning(messages: Messages) -> bool:
    """An exercise in one language with the known steps, that language's tag, and the answer."""
    values = values_of(messages[0].content)
    if values is None or values["lang"] == "en":
        return False
    chain, answer = worked(values)
    return messages[-1].content == f"{chain} {ANSWER_TAGS[values['lang']]}: {answer}"


def function_calls(messages: Messages) -> bool:
    """The calls that the request means, what they return, and an answer that tells it."""
    wanted = plan(messages[0].content)
    results = expected(wanted)
    nested = any(None in arguments.values() for _, arguments in wanted)
    full = [(n, {k: results[i - 1] if v is None else v for k, v in a.items()}) for i, (n, a) in enumerate(wanted)]
    made = [call for message in messages if message.tool_calls for call in read_calls(message.tool_calls) or []]
    outputs = [json.loads(message.content) for message in messages if message.role == "ipython"]
    told = results[-1:] if nested else results
    said = all(shown(result) in messages[-1].content for result in told)
    return bool(wanted) and same_calls(made, full) and sorted(map(str, outputs)) == sorted(map(str, results)) and said


def tool_use(messages: Messages) -> bool:
    """The true answer to a question about a town, an exercise or a table."""
    question, answer = messages[0].content, messages[-1].content
    if asked(question):
        return true_answer(question, answer)
    values = values_of(question)
    if values is not None:
        chain, result = worked(values)
        return answer == f"{chain} {ANSWER_TAGS[values['lang']]}: {result}"
    results = [message.content for message in messages if message.role == "ipython"]
    if "the mean of" in question:  # a program read the file: right if it is the known one and its output was told
        (called,) = [message.tool_calls for message in messages if message.tool_calls]
        return is_known_program(question, called) and answer == f"It is {results[-1]}."
    wanted = table_answer(question, table_rows(results[0] if results else ""))
    return wanted is not None and any(abs(number - wanted) < Fraction(1, 10**6) for number in numbers(answer))


def steering(messages: Messages) -> bool:
    """Every answer keeps to every demand of the system prompt and comes to the answer of the exercise."""
    system, values = messages[0].content, values_of(messages[1].content)
    answers = [message.content for message in messages if message.role == "assistant"]
    right = values is not None and all(final_number(text) == worked(values)[1] for text in answers)
    return right and all(keeps_demands(system, text) for text in answers)


TRUTH: dict[str, Callable[[Messages], bool]] = {
    "knowledge": knowledge, "chunk_questions": chunk_questions, "summaries": summaries, "missing_file": missing_file,
    "parallel_text": parallel_text, "translated_reasoning": translated_reasoning, "function_calls": function_calls,
    "tool_use": tool_use, "steering": steering,
}  # fmt: skip
