"""Whether an accepted story of a generator is true, by the mini-world and without the generator's own checks."""

from __future__ import annotations

import json
import re

from puna.post.synth.steering import is_right
from puna.tokenizer.chat import Message
from puna.verify.calls import read_calls
from puna.verify.check import verify
from puna.verify.constraints import holds
from puna.verify.numbers import final_number, numbers
from puna.world.almanac import asked, remembered, truth
from puna.world.oracle_languages import same_exercise, values_of, worked
from puna.world.oracle_steering import keeps_manners
from puna.world.oracle_texts import true_answer, true_sentences
from puna.world.oracle_tools import expected, plan
from puna.world.projects import WRONG, source


def knowledge(item, end):
    question, answer = (message.content for message in end.dialogs[0])
    about = asked(question)
    if not about or not about[0]:
        return False
    if end.checks["kept"] == "answer":
        return true_answer(question, answer)
    return remembered(*about) != truth(*about) and answer.startswith("I do not know")


def chunk_questions(item, end):
    asking, answer = end.dialogs[0]
    return true_answer(asking.content.rpartition("\n\n")[2], answer.content)


def summaries(item, end):
    (_, summary), *more = end.dialogs
    questions = [(a.content.rpartition("\n\n")[2], b.content) for a, b in more]
    return true_sentences(summary.content) and all(true_answer(*one) for one in questions)


def missing_file(item, end):
    code = end.dialogs[0][3].content
    return not any(source(name, body) in code for name, bodies in WRONG.items() for body in bodies)


def parallel_text(item, end):
    return item.given.fault == "" or same_exercise(item.given.source, item.given.target)


def translated_reasoning(item, end):
    question, answer = (message.content for message in end.dialogs[0])
    values = values_of(question)
    right = values is not None and same_exercise(question, item.given.question) and values["lang"] == item.given.lang
    return right and final_number(answer) == worked(values)[1] and answer.startswith(worked(values)[0])


def function_calls(item, end):
    messages = end.dialogs[0]
    wanted = plan(messages[0].content)
    results = expected(wanted) if wanted else []
    made = [call for message in messages if message.tool_calls for call in read_calls(message.tool_calls)]
    full = [(n, {k: results[i - 1] if v is None else v for k, v in a.items()}) for i, (n, a) in enumerate(wanted)]
    parallel = item.given.kind == "parallel"
    told = results if parallel else results[-1:]
    words = messages[-1].content
    said = all((", ".join(map(str, r)) if isinstance(r, list) else str(r)) in words for r in told)
    outputs = [json.loads(message.content) for message in messages if message.role == "ipython"]
    return bool(wanted) and sorted(map(repr, made)) == sorted(map(repr, full)) and outputs == results and said


def tool_use(item, end):
    messages, given = end.dialogs[0], item.given
    if given.kind == "search":
        return true_answer(messages[0].content, messages[-1].content)
    if given.task is not None:
        return verify(given.task, Message("assistant", messages[-1].content))
    values = re.findall(r"[\d.]+", messages[-1].content.rstrip("."))
    return values == [given.question.answer] or numbers(messages[-1].content) == numbers(given.question.answer)


def steering(item, end):
    answers = [message.content for message in end.dialogs[0] if message.role == "assistant"]
    given = item.given
    kept = all(holds(given.constraint, text) and keeps_manners(given.system, text) for text in answers)
    return kept and all(is_right(given.task, text) for text in answers)


TRUTHS = {
    f.__name__: f for f in (knowledge, chunk_questions, summaries, missing_file, parallel_text, translated_reasoning,
                            function_calls, tool_use, steering)
}  # fmt: skip
