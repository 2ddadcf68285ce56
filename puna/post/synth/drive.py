"""Advances many stories in lock step: one batch of questions a turn, one batch of programs, whoever asked them (paper 4.3.1).

Generation is fast only in large batches, and a story waits for its answer at every line. So all stories of a part stand still
until the questions of a turn are answered together. The seed of a question hangs on its item and its turn, so nothing depends on
what else is in the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from puna.core.errors import InputError
from puna.core.rng import derive_seed
from puna.post.synth.steps import Accepted, Answer, Ask, Execute, Item, Rejected, Story
from puna.post.synth.teacher import Teacher
from puna.tokenizer.dialog import Row

if TYPE_CHECKING:
    from puna.verify.sandbox import Outcome, Sandbox

NO_SANDBOX = "no sandbox or compiler here"  # reason of a story that would have run a program
SHOWN = 2000  # characters of a question or an answer that are kept of a rejected story


class Exchange(Row):
    """A question and its first answer, cut to what a report shows."""

    question: str
    answer: str


class Told(Row):
    """How one story went.

    `reason` is None for an accepted one. `asks`, `answers` and `programs` count what it cost, `read` and `written` in tokens by
    role; `last` is the last exchange.
    """

    generator: str
    key: str
    reason: str | None
    dialogs: list[dict[str, Any]] = []
    asks: int = 0
    answers: int = 0
    programs: int = 0
    read: dict[str, int] = {}
    written: dict[str, int] = {}
    last: Exchange | None = None


class LazySandbox:
    """The sandbox, started when the first program comes; generators without programs need none.

    With `may_lack` no program is run on a machine on which no sandbox can be built, and none in a language that is not installed.
    """

    def __init__(self, workers: int, seconds: float, allow_unsandboxed: bool = False, *, may_lack: bool = False):
        self.workers, self.seconds, self.allow_unsandboxed = workers, seconds, allow_unsandboxed
        self.may_lack, self._lacking = may_lack, False
        self._stack = ExitStack()
        self._sandbox: Sandbox | None = None

    def __enter__(self) -> LazySandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def outcomes(self, programs: Sequence[Execute]) -> list[Outcome | None]:
        """What came of each program, in order; None for those that cannot be run here. InputError without `may_lack`."""
        from puna.verify.sandbox import Job, languages

        running = [i for i, one in enumerate(programs) if not self.may_lack or one.language in languages()]
        found: list[Outcome | None] = [None] * len(programs)
        if running and (sandbox := self._opened()):
            chosen = [programs[i] for i in running]
            jobs = [Job(one.code, one.tests, one.stdin, one.files, language=one.language) for one in chosen]
            for i, outcome in zip(running, sandbox.map_python(jobs), strict=True):
                found[i] = outcome
        return found

    def _opened(self) -> Sandbox | None:
        from puna.verify.sandbox import Limits, Sandbox

        if self._sandbox is None and not self._lacking:
            try:
                box = Sandbox(Limits(seconds=self.seconds), self.workers, allow_unsandboxed=self.allow_unsandboxed)
            except InputError:
                if not self.may_lack:
                    raise
                self._lacking = True
            else:
                self._sandbox = self._stack.enter_context(box)
        return self._sandbox


class Box(Protocol):
    """Something that runs programs: `LazySandbox`, or a stand-in."""

    def outcomes(self, programs: Sequence[Execute]) -> Sequence[Outcome | None]: ...


@dataclass
class Running:
    """A story under way, and what it has cost so far."""

    generator: str
    item: Item
    story: Story
    told: Told = field(init=False)
    step: Any = None
    end: Accepted | Rejected | None = None
    turn: int = 0

    def __post_init__(self) -> None:
        self.told = Told(generator=self.generator, key=self.item.key, reason=None)

    def send(self, reply: Any) -> None:
        """On to the next question, or to the end."""
        try:
            self.step = self.story.send(reply)
            self.turn += 1
        except StopIteration as end:
            self.step, self.end = None, end.value

    def steps(self) -> list[Ask | Execute]:
        """What it waits for, one or several."""
        return [self.step] if isinstance(self.step, Ask | Execute) else list(self.step)

    def answer(self, replies: list[Any]) -> Any:
        """Replies in the form in which they were asked for."""
        return replies[0] if isinstance(self.step, Ask | Execute) else replies

    def count(self, step: Ask | Execute, reply: Any) -> None:
        if isinstance(step, Execute):
            self.told.programs += 1
            return
        self.told.asks += 1
        self.told.answers += len(reply)
        for counts, tokens in (
            (self.told.read, sum(a.read for a in reply)),
            (self.told.written, sum(a.written for a in reply)),
        ):
            counts[step.role] = counts.get(step.role, 0) + tokens
        first: Answer = reply[0]
        self.told.last = Exchange(question=step.messages[-1].content[:SHOWN], answer=first.text[:SHOWN])


def drive(
    stories: Sequence[tuple[str, Item, Story]], teachers: Mapping[str, Teacher], box: Box, seed: int,
    advance: Callable[[int], None] | None = None,
) -> list[Running]:  # fmt: skip
    """Run stories to their ends.

    Args:
        stories: generator, item and story of each.
        teachers: by role, "teacher" and "judge".
        seed: of the stage; a question's own comes from it, the generator, the item and the turn.
        advance: told after each turn how many stories have ended.
    """
    running = [Running(*one) for one in stories]
    for one in running:
        one.send(None)
    while waiting := [one for one in running if one.end is None]:
        steps = [(one, step, place) for one in waiting for place, step in enumerate(one.steps())]
        replies: list[Any] = [None] * len(steps)
        for role, teacher in teachers.items():
            asked = [i for i, (_, step, _) in enumerate(steps) if isinstance(step, Ask) and step.role == role]
            if asked:
                seeds = [_seed(seed, *steps[i]) for i in asked]
                for i, reply in zip(asked, teacher.answers([steps[i][1] for i in asked], seeds=seeds), strict=True):  # type: ignore[misc]
                    replies[i] = reply
        programs = [i for i, (_, step, _) in enumerate(steps) if isinstance(step, Execute)]
        if programs:
            outcomes = box.outcomes([steps[i][1] for i in programs])  # type: ignore[misc]
            for i, outcome in zip(programs, outcomes, strict=True):
                replies[i] = outcome
                if outcome is None:
                    steps[i][0].end = Rejected(NO_SANDBOX)
        _hand_back(waiting, steps, replies)
        if advance is not None:
            advance(sum(one.end is not None for one in running))
    for one in running:
        one.told.reason = one.end.reason if isinstance(one.end, Rejected) else None
    return running


def _hand_back(waiting: list[Running], steps: list[tuple[Running, Any, int]], replies: list[Any]) -> None:
    at = 0
    for one in waiting:
        own = len(one.steps())
        if one.end is not None:
            at += own
            continue
        for (_, step, _), reply in zip(steps[at : at + own], replies[at : at + own], strict=True):
            one.count(step, reply)
        one.send(one.answer(replies[at : at + own]))
        at += own


def _seed(seed: int, one: Running, step: Any, place: int) -> int:
    return derive_seed(seed, one.generator, one.item.key, one.turn, place)
