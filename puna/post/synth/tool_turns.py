"""A conversation with tools, turn by turn: a call is asked for, checked and run, its output goes back (section 4.3.5).

Every turn is asked for several times; the calls most samples agree on are taken, and without a majority the story ends. A call
must parse, fit the description of its function and run. The paper drops about 30 % of its tool dialogs for the last two reasons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from puna.post.synth.steps import Answer, Ask, Execute, Rejected
from puna.post.tools.failure import ToolFailed
from puna.tokenizer.dialog import MessageRow
from puna.tokenizer.tool_calls import calls_text
from puna.verify.arguments import misfit
from puna.verify.calls import Call, read_calls, same_calls
from puna.verify.numbers import final_number

if TYPE_CHECKING:
    from puna.verify.sandbox import Outcome

UNFINISHED, UNPARSABLE, MISFIT, FAILED = "unfinished answer", "call does not parse", "call does not fit", "call failed"
DISAGREE, TOO_LONG, NO_CALL = "samples disagree", "too many turns", "no call"
REASONS = (UNFINISHED, UNPARSABLE, MISFIT, FAILED, DISAGREE, TOO_LONG, NO_CALL)

MAX_OUTPUT = 2000  # characters of a tool's output that go back to the model

Run = Callable[[Call], "Execute | str"]  # a program for the sandbox, or the output itself; may raise ToolFailed


@dataclass(frozen=True)
class Setting:
    """What a conversation takes place in.

    Attributes:
        template: name of the question in the generator's templates, for the record.
        offered: descriptions of the functions.
        votes: samples of each turn. `temperature`, `max_tokens`: of each sample.
        turns: most turns of the assistant. `needed`: whether an answer without any call ends the story.
        slots: passed on with each question, beside what was called so far.
    """

    template: str
    offered: Sequence[dict[str, Any]]
    votes: int = 3
    temperature: float = 0.7
    max_tokens: int = 256
    turns: int = 6
    needed: bool = True
    slots: dict[str, str] = field(default_factory=dict)

    @property
    def tools(self) -> str:
        """The descriptions as `Dialog.tools` keeps them and OpenAI's API takes them."""
        return json.dumps([{"type": "function", "function": one} for one in self.offered], ensure_ascii=False)


@dataclass
class Talk:
    """A finished conversation: its messages, and what was called in each turn with what came out of it."""

    messages: list[MessageRow]
    turns: list[list[tuple[Call, str]]]

    @property
    def answer(self) -> str:
        return self.messages[-1].content

    @property
    def outputs(self) -> list[str]:
        return [output for turn in self.turns for _, output in turn]

    @property
    def calls(self) -> list[Call]:
        return [call for turn in self.turns for call, _ in turn]


def converse(prompt: list[MessageRow], run: Run, setting: Setting) -> Generator[Any, Any, Talk | Rejected]:
    """Talk until the assistant answers without a call; to be used with `yield from` in a story."""
    talk = Talk(list(prompt), [])
    for _ in range(setting.turns):
        chosen = _agreed((yield _ask(talk, setting)))
        if isinstance(chosen, Rejected):
            return chosen
        if isinstance(chosen, str):
            talk.messages.append(MessageRow(role="assistant", content=chosen))
            return talk if talk.turns or not setting.needed else Rejected(NO_CALL)
        if any(misfit(call, setting.offered) for call in chosen):
            return Rejected(MISFIT)
        outputs = yield from _outputs(chosen, run)
        if outputs is None:
            return Rejected(FAILED)
        talk.turns.append(list(zip(chosen, outputs, strict=True)))
        talk.messages.append(MessageRow(role="assistant", tool_calls=_spelled(chosen)))
        talk.messages += [MessageRow(role="ipython", content=output) for output in outputs]
    return Rejected(TOO_LONG)


def _ask(talk: Talk, setting: Setting) -> Ask:
    done = json.dumps([[[name, arguments, output] for (name, arguments), output in turn] for turn in talk.turns])
    slots = {**setting.slots, "done": done}
    return Ask(list(talk.messages), setting.votes, setting.temperature, setting.max_tokens, tools=setting.tools,
               template=setting.template, slots=slots)  # fmt: skip


def _agreed(answers: Sequence[Answer]) -> list[Call] | str | Rejected:
    """The calls, or the final text, that more than half of the samples say; texts agree if their last numbers do."""
    finished = [answer for answer in answers if answer.finished]
    if 2 * len(finished) <= len(answers):
        return Rejected(UNFINISHED)
    read = [_read(answer) for answer in finished]
    for one in read:
        if one is not None and 2 * sum(_same(one, other) for other in read) > len(answers):
            return one
    return Rejected(UNPARSABLE if 2 * sum(one is None for one in read) > len(answers) else DISAGREE)


def _read(answer: Answer) -> list[Call] | str | None:
    """Calls, a text, or None for something that was meant as a call and is none."""
    if answer.tool_calls is not None:
        return read_calls(answer.tool_calls)
    text = answer.text.strip()
    calls = read_calls(text)
    if calls is not None:
        return calls
    return None if not text or text[0] in "{[<" else text


def _same(one: list[Call] | str, other: list[Call] | str | None) -> bool:
    if isinstance(one, str) or not isinstance(other, list):
        return isinstance(one, str) and isinstance(other, str) and final_number(one) == final_number(other)
    return same_calls(one, other)


def _outputs(calls: Sequence[Call], run: Run) -> Generator[Any, Any, list[str] | None]:
    """The output of every call of a turn; None if one failed. Programs run together."""
    try:
        started = [run(call) for call in calls]
    except ToolFailed:
        return None
    programs = [one for one in started if isinstance(one, Execute)]
    outcomes = iter((yield programs) if programs else [])
    outputs = []
    for one in started:
        output = one if isinstance(one, str) else _printed(next(outcomes))
        if not output:
            return None
        outputs.append(output[:MAX_OUTPUT])
    return outputs


def _printed(outcome: Outcome) -> str:
    """What a program printed, empty if it failed."""
    return outcome.stdout.strip() if outcome.passed else ""


def _spelled(calls: Sequence[Call]) -> str:
    return calls_text({"name": name, "arguments": arguments} for name, arguments in calls)
