"""Zero-shot function calling: functions mined from source, a request that needs them, the calls, their results (section 4.3.5).

Three kinds: `single` (one call), `parallel` (several in one turn) and `nested` (a later call needs an earlier result). The
teacher writes the request, then answers it as the assistant; other functions are offered beside those that are needed. A row is
kept if the calls parse, fit their descriptions, use no value that nobody gave, run in the sandbox, and the last answer tells the
result.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from puna.core.settings import Settings as BaseSettings
from puna.post.synth import tool_turns
from puna.post.synth.replies import fields, said_yes
from puna.post.synth.signatures import MODULES, Signature, installed, mine, source_of
from puna.post.synth.sources import Sources
from puna.post.synth.steps import Accepted, Execute, Item, Rejected, Story, user
from puna.post.synth.templates import Templates
from puna.post.synth.tool_turns import Setting, Talk, converse
from puna.verify.calls import Call
from puna.verify.follows import follows, stands_in

Kind = Literal["single", "parallel", "nested"]

CAPABILITY = "tools"
NO_REQUEST, OTHER_KIND, NOT_GIVEN = "no request", "calls of another kind", "argument not in the request"
NOT_FOLLOWING, JUDGED = "answer does not follow", "judged wrong"
REASONS = (NO_REQUEST, *tool_turns.REASONS, OTHER_KIND, NOT_GIVEN, NOT_FOLLOWING, JUDGED)


class Settings(BaseSettings):
    """How many, of which kinds, from which functions.

    Attributes:
        count: items; each gives at most one dialog.
        kinds: drawn evenly among these.
        modules: of the standard library, whose functions are taken.
        groups: of documents that are mined as well.
        offered: functions offered in a dialog.
        votes: samples of each turn, of which more than half must agree. `judge`: whether a judge reads the whole dialog.
    """

    count: PositiveInt = 200
    kinds: tuple[Kind, ...] = Field(("single", "parallel", "nested"), min_length=1)
    modules: tuple[str, ...] = MODULES
    groups: tuple[str, ...] = ()
    offered: int = Field(4, ge=1)
    votes: int = Field(3, ge=1)
    judge: bool = True
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 256
    prompts: str = ""


@dataclass(frozen=True)
class Given:
    """A kind of call, the functions it needs, and all that are offered."""

    kind: Kind
    needed: tuple[Signature, ...]
    offered: tuple[Signature, ...]


def outside(settings: Settings) -> list[Path]:
    """The sources of the modules: another Python has other functions."""
    return [source_of(name) for name in settings.modules]


def items(settings: Settings, sources: Sources, rng: random.Random) -> Iterator[Item]:
    """Functions drawn at random, in a random order among the others that are offered."""
    pool: list[tuple[Signature, str, str, tuple[str, ...]]]
    pool = [(signature, "python", "PSF-2.0", ()) for signature in installed(settings.modules)]
    if settings.groups:
        found = ((document, mine(document.text)) for document in sources.documents(*settings.groups))
        pool += [(s, document.source, document.licence, (document.id,)) for document, mined in found for s in mined]
    for number in range(settings.count if pool else 0):
        kind = rng.choice(settings.kinds)
        first, source, licence, parents = rng.choice(pool)
        others = [entry for entry in pool if entry[1] == source and entry[0].name != first.name]
        drawn = [entry[0] for entry in rng.sample(others, min(len(others), settings.offered - 1))]
        needed = (first,) if kind == "single" or not drawn or rng.random() < 0.5 else (first, drawn[0])
        offered = list({s.name: s for s in [first, *drawn]}.values())
        rng.shuffle(offered)
        yield Item(f"{number}", source, licence, Given(kind, needed, tuple(offered)), parents)


def story(item: Item, settings: Settings, templates: Templates) -> Story:
    """Request, calls and results, answer, verdict."""
    given: Given = item.given
    needed = json.dumps([function.description() for function in given.needed], ensure_ascii=False)
    (written,) = yield templates.ask(f"request_{given.kind}", functions=needed, max_tokens=settings.max_tokens)
    request = fields(written, "request")
    if request is None:
        return Rejected(NO_REQUEST)
    functions = {function.name: function for function in given.offered}

    def run(call: Call) -> Execute:
        return Execute(functions[call[0]].program(call[1]))

    offered = [function.description() for function in given.offered]
    setting = Setting(f"{templates.generator}.turn", offered, settings.votes, settings.temperature, settings.max_tokens,
                      slots={"request": request[0]})  # fmt: skip
    talk = yield from converse([user(request[0])], run, setting)
    if isinstance(talk, Rejected):
        return talk
    fault = _fault(talk, given.kind, request[0])
    if fault:
        return Rejected(fault)
    if settings.judge:
        called = "\n".join(f"{name}({json.dumps(of)}) = {output}" for turn in talk.turns for (name, of), output in turn)
        verdict = yield templates.ask("judge", role="judge", samples=settings.votes, max_tokens=8, functions=setting.tools,
                                      request=request[0], called=called, answer=talk.answer)  # fmt: skip
        if not said_yes(verdict):
            return Rejected(JUDGED)
    checks = {"kind": given.kind, "calls": len(talk.calls), "executed": True, "judged": settings.judge}
    return Accepted([talk.messages], checks, tools=setting.tools)


def _fault(talk: Talk, kind: Kind, request: str) -> str | None:
    if not _is_of(kind, talk, request):
        return OTHER_KIND
    known = request
    for turn in talk.turns:
        if not all(stands_in(value, known) for (_, arguments), _ in turn for value in arguments.values()):
            return NOT_GIVEN
        known = "\n".join([known, *(output for _, output in turn)])
    last = [output for _, output in talk.turns[-1]]
    return None if all(follows(output, talk.answer, known) for output in last) else NOT_FOLLOWING


def _is_of(kind: Kind, talk: Talk, request: str) -> bool:
    """Whether the calls are of a kind: a later turn of nested ones uses what the first gave and the request did not."""
    sizes = [len(turn) for turn in talk.turns]
    if kind == "nested":
        first, later = talk.turns[0][0][1], [call[1].values() for turn in talk.turns[1:] for call, _ in turn]
        given = [value for values in later for value in values if value is not None and not isinstance(value, bool)]
        return len(sizes) > 1 and set(sizes) == {1} and any(stands_in(v, first) and not stands_in(v, request) for v in given)
    return sizes == [1] if kind == "single" else len(sizes) == 1 and sizes[0] > 1
