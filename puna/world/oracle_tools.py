"""The oracle on tools: requests for functions, calls, questions about files and sums, missing files of projects.

It errs as models do: a wrong value or function, an argument left out or misnamed, broken JSON, a call forgotten, an answer that
is not what the tool said. Half of its errors are misunderstandings that all samples of a question share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from puna.core.rng import python_stream
from puna.tokenizer.tool_calls import calls_text
from puna.world.almanac import asked as asked_of
from puna.world.almanac import facts
from puna.world.lexicon import ANSWER_TAGS
from puna.world.oracle import Answerer, Question, Said
from puna.world.oracle_languages import values_of, worked
from puna.world.oracle_texts import posed
from puna.world.projects import FUNCTIONS, VALUES, WRONG, shared_file, value

Call = tuple[str, dict[str, Any]]

_PARAMETER = {name: parameters.split(":")[0] for name, (parameters, *_) in FUNCTIONS.items()}
_WORDS = {name: about.rstrip(".").lower().removeprefix("the ") for name, (_, about, _, _) in FUNCTIONS.items()}
_GIVES = {
    "total": "int", "largest": "int", "spread": "int", "doubled": "int", "backwards": "str", "initials": "str", "longest": "str",
    "evens": "list",
}  # fmt: skip
_ABOUT = {about: name for name, about in _WORDS.items()}
_WANTED = re.compile(rf"({'|'.join(sorted(_ABOUT, key=len, reverse=True))}) of (.*?)(?=, and the |, then the |\.$)")


def misled(ask: Question) -> bool:
    """Whether an answer is to be wrong: half of the time all samples are, else each on its own."""
    shared = python_stream(0, ask.name, *(f"{name}={text}" for name, text in sorted(ask.slots.items())))
    return shared.random() < ask.errors / 2 or ask.rng.random() < ask.errors / 2


def function_calls(ask: Question) -> str | Said:
    """request_single, request_parallel, request_nested, turn, judge."""
    if ask.name == "turn":
        return _turn(ask, plan(ask.slots["request"]), json.loads(ask.slots["done"]))
    if ask.name == "judge":
        right = _is_right(plan(ask.slots["request"]), ask.slots["called"], ask.slots["answer"])
        return "Yes" if right is not ask.errs() else "No"
    names = [one["name"] for one in json.loads(ask.slots["functions"]) if one["name"] in FUNCTIONS]
    if not names:
        return "I would not know what to ask."
    return _request(ask, ask.name.removeprefix("request_"), names)


def plan(request: str) -> list[Call]:
    """The calls a request needs, in order; the argument None stands for the result of the call before."""
    found = _WANTED.findall(request.lower())
    return [(_ABOUT[about], {_PARAMETER[_ABOUT[about]]: _loaded(said)}) for about, said in found]


def _loaded(said: str) -> Any:
    try:
        return None if said == "the result" else json.loads(said)
    except ValueError:
        return said


def _request(ask: Question, kind: str, names: list[str]) -> str:
    chosen: tuple[str, ...]
    if kind == "nested":
        chains = [(first, second) for first in names for second in names if _GIVES[first] == _takes(second)]
        if not chains:
            return "None of these can follow another."  # no request
        chosen, link = ask.rng.choice(chains), ", then the "
    else:
        chosen = (names[0],) if kind == "single" else (names[0], ask.rng.choice(names[1:] or names))
        link = ", and the "
    drawn = [json.dumps(_drawn(ask, name)) for name in chosen]
    given = [drawn[0], "the result"] if kind == "nested" else drawn
    parts = [f"{_WORDS[name]} of {argument}" for name, argument in zip(chosen, given, strict=True)]
    text = f"Request: Please tell me the {link.join(parts)}."
    return text.replace(" of [", " of some of [", 1) if ask.errs() else text


def _takes(name: str) -> str:
    return FUNCTIONS[name][0].split(": ")[1]


def _drawn(ask: Question, name: str) -> Any:
    kind = _takes(name)
    if kind == "int":
        return ask.rng.randint(2, 500)
    words = ask.rng.sample(["house", "pen", "letter", "bird", "fruit", "road"], 3)
    if kind == "str":
        return " ".join(words)
    return words if name == "longest" else [ask.rng.randint(1, 99) for _ in range(4)]


def _turn(ask: Question, calls: list[Call], done: list[list[Any]]) -> str | Said:
    """The next calls, or the answer; `done` holds the turns so far."""
    outputs = [json.loads(output) for turn in done for _, _, output in turn]
    if not calls:
        return "I cannot help with that."
    if len(outputs) >= len(calls):
        told = outputs[-1:] if any(None in arguments.values() for _, arguments in calls) else outputs
        if misled(ask):
            told = [f"{told[0]}{ask.rng.randint(1, 9)}" if ask.rng.random() < 0.5 else 17, *told[1:]]
        return "The answer is " + " and ".join(map(shown, told)) + "."
    nested = any(None in arguments.values() for _, arguments in calls)
    coming = calls[len(outputs) :][: 1 if nested else None]
    waiting = [
        (name, {k: outputs[-1] if given is None else given for k, given in arguments.items()}) for name, arguments in coming
    ]
    return _said(_spoilt(ask, waiting) if misled(ask) else waiting)


def _said(calls: Sequence[Call] | str) -> Said:
    return Said("", calls if isinstance(calls, str) else calls_text({"name": n, "arguments": a} for n, a in calls))


def shown(output: Any) -> str:
    """A result as the oracle says it."""
    return ", ".join(map(str, output)) if isinstance(output, list) else str(output)


def _spoilt(ask: Question, calls: list[Call]) -> list[Call] | str:
    (name, arguments), *rest = calls
    key, given = next(iter(arguments.items()))
    fault = ask.rng.choice(("value", "function", "missing", "misnamed", "broken", "forgotten", "order"))
    if fault == "broken":
        return calls_text([{"name": name, "arguments": arguments}])[:-1]
    if fault == "forgotten" and rest:
        return rest
    if fault == "function":
        return [(ask.rng.choice([other for other in FUNCTIONS if other != name]), arguments), *rest]
    if fault == "missing":
        return [(name, {}), *rest]
    if fault == "misnamed":
        return [(name, {f"the_{key}": given}), *rest]
    wrong = given[:-1] if isinstance(given, list | str) and fault == "order" else ask.rng.randint(501, 999)
    return [(name, {key: wrong}), *rest]


def _is_right(calls: list[Call], called: str, answer: str) -> bool:
    wanted = [f"{name}({json.dumps(arguments)}) = " for name, arguments in calls if None not in arguments.values()]
    return bool(calls) and all(line in called for line in wanted) and all(shown(v) in answer for v in expected(calls)[-1:])


def expected(calls: Sequence[Call]) -> list[Any]:
    """What the calls of a plan return, each result going into the next call that waits for one."""
    found: list[Any] = []
    for name, arguments in calls:
        given = next(iter(arguments.values()))
        found.append(value(name, found[-1] if given is None else given))
    return found


def tool_use(ask: Question) -> str | Said:
    """question, turn."""
    if ask.name == "question":
        return posed(ask, ask.slots["passage"])
    question, done = ask.slots["question"], json.loads(ask.slots["done"])
    if not ask.slots["file"]:
        return _search(ask, question, done) if asked_of(question) else _sum(ask, question, done)
    return _table(ask, question, done)


def _search(ask: Question, question: str, done: list[list[Any]]) -> str | Said:
    about = asked_of(question)
    if not done:
        query = question if not misled(ask) else "weather"
        return _said([("search", {"query": query})])
    said = facts(done[-1][0][2])
    value_of = said.get(about) if about else None
    if value_of is None or misled(ask):
        value_of = ask.rng.choice(list(said.values())) if said else "unknown"
    return f"It is {value_of}."


def _sum(ask: Question, question: str, done: list[list[Any]]) -> str | Said:
    """An exercise: straight from the head, or with the calculator where the sums are not easy."""
    values = values_of(question)
    if values is None:
        return "I do not know."
    chain, answer = worked(values)
    a, b, c = (int(values.get(slot, 0)) for slot in "abc")
    if not done and (answer + a) % 2:
        expression = f"{a} + {b} - {c}" if values["form"] == "change" else f"2 * {a} + {b}"
        return _said([("calculator", {"expression": expression + (" + 1" if misled(ask) else "")})])
    told = done[-1][0][2] if done else str(answer)
    return f"{chain} {ANSWER_TAGS[values['lang']]}: {told if not misled(ask) else ask.rng.randint(30, 99)}"


def _table(ask: Question, question: str, done: list[list[Any]]) -> str | Said:
    """Read the file and work it out where it must be, or write a program that does both; answer."""
    program = _program(question, ask.slots["file"])
    if program and not done:
        return _said([("python", {"code": program if not misled(ask) else program.replace("rows)", "rows[1:])")})])
    if program:
        return f"It is {done[0][0][2] if not misled(ask) else ask.rng.randint(1000, 9999)}."
    if not done:
        return _said([("read_file", {"name": ask.slots["file"] if not misled(ask) else "table.csv"})])
    expression = _expression(question, table_rows(done[0][0][2]))
    if expression is None:
        return "I do not know."
    if len(done) == 1 and not expression.isdigit():
        return _said([("calculator", {"expression": expression if not misled(ask) else f"1 + {expression}"})])
    told = expression if len(done) == 1 else done[-1][0][2]
    return f"It is {told}." if not misled(ask) else f"It is {ask.rng.randint(1000, 9999)}."


def table_rows(text: str) -> list[list[str]]:
    """The rows of a table as a tool shows it."""
    return [line.split(" | ") for line in text.splitlines()]


def table_answer(question: str, rows: list[list[str]]) -> Fraction | None:
    """The answer to a question about a table; None for another text."""
    cells = _cells(question, rows)
    if cells is None:
        return None
    form, values = cells
    total = sum(map(Fraction, values), Fraction())
    return {"cell": total, "total": total, "mean": total / len(values),
            "difference": abs(Fraction(values[0]) - Fraction(values[-1]))}[form]  # fmt: skip


def _expression(question: str, rows: list[list[str]]) -> str | None:
    """What a calculator is given for a question about a table, or the cell itself."""
    cells = _cells(question, rows)
    if cells is None:
        return None
    form, values = cells
    total = " + ".join(values)
    return {"cell": values[0], "total": total, "mean": f"({total}) / {len(values)}",
            "difference": f"abs({values[0]} - {values[-1]})"}[form]  # fmt: skip


def _program(question: str, file: str) -> str | None:
    """A program for the mean of a column; other questions go without one."""
    found = re.search(r"the mean of (\w+) in", question)
    if not found:
        return None
    delimiter = "\\t" if file.endswith(".tsv") else ","
    return (
        f"import csv\n\nwith open({file!r}) as table:\n    rows = list(csv.DictReader(table, delimiter='{delimiter}'))\n"
        f"print(sum(float(row[{found[1]!r}]) for row in rows) / len(rows))\n"
    )


def is_known_program(question: str, called: str) -> bool:
    """Whether a call runs the program that answers the question about a file."""
    file = re.search(r"\S+\.[ct]sv", question)
    return file is not None and json.loads(called)["parameters"]["code"] == _program(question, file[0].rstrip("?"))


def _cells(question: str, rows: list[list[str]]) -> tuple[str, list[str]] | None:
    """What is to be done with which cells of a table."""
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])} if rows else {}
    named = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    if found := re.search(r"what is the (\w+) of (\w+)\?", question):
        return "cell", [named[found[2]][found[1]]]
    if found := re.search(r"the (total|mean) of (\w+) in", question):
        return found[1], columns[found[2]]
    if found := re.search(r"do (\w+) and (\w+) differ in (\w+),", question):
        return "difference", [named[found[1]][found[3]], named[found[2]][found[3]]]
    return None


def missing_file(ask: Question) -> str:
    """write."""
    taken = re.findall(rf"from {ask.slots['missing'].removesuffix('.py')} import (.*)", ask.slots["project"])
    names = sorted({name.strip() for line in taken for name in line.split(",")} & set(VALUES))
    bodies = {}
    if ask.errs():
        fault, about = ask.rng.choice(("lacking", "wrong", "wrong", "subtle")), ask.rng.choice(names)
        if fault == "lacking":
            names.remove(about)
        else:
            bodies[about] = WRONG[about][fault == "subtle"]
    return f"Here it is.\n```python\n{shared_file(names, bodies)}```"


ANSWERERS: dict[str, Answerer] = {"function_calls": function_calls, "tool_use": tool_use, "missing_file": missing_file}
