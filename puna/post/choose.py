"""What is kept of many answers to a prompt: accepted dialogs, preference pairs, and why an answer is neither (section 4.2.2).

Accepted is what the model ended itself, what passes the verifier (or, where there is none, what the reward model likes best),
what is in the language of its prompt if that is asked for, and what renders back to exactly the sampled ids. Of right answers
that reason alike one is kept: distinct paths are what teaches (Yuan et al. 2023, arXiv 2308.01825).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from puna.core.rng import python_stream
from puna.core.stage import StageContext
from puna.tokenizer.bpe import Tokenizer
from puna.tokenizer.chat import Message, parse, render
from puna.tokenizer.dialog import Candidate, Dialog, MessageRow, Preference, Provenance, Sample, Task, content_id
from puna.verify.language import main_script

if TYPE_CHECKING:
    from puna.post.reject import Settings

SURE = 0.8  # probability from which a text counts as being in a language

_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", **dict.fromkeys(",$€£", None)})  # of equations; thousands, currencies
_SPACES = re.compile(r"(?<=[-+*/^%=().\d])[ \t]+(?=[-+*/^%=().\d])")  # inside an equation, not between lines
_EQUATION = re.compile(r"(?<![-+*/^%().\d])(?=[-+*/^%().]*+\d)[-+*/^%().\d]++=[-+]?\d[\d.]*")  # linear in rows of digits


class Scorer(Protocol):
    """What the choice among passing answers needs of a reward model."""

    def score(self, dialogs: list[list[MessageRow]]) -> list[float]:
        """A reward per dialog."""
        ...


@dataclass
class Drawn:
    """A prompt with its samples and their parsed messages, in the order drawn."""

    task: Task
    samples: list[Sample]
    messages: list[Message]
    faithful: list[bool]
    system: str | None = None  # put before the prompt when the answers were drawn

    def prompt(self, steered: bool) -> list[MessageRow]:
        """The prompt, with the system message that steered the answers or without it."""
        return (
            [MessageRow(role="system", content=self.system), *self.task.prompt] if steered and self.system else self.task.prompt
        )

    def usable(self) -> list[int]:
        """Indices of the answers that the model ended and that render back to their ids."""
        return [i for i, sample in enumerate(self.samples) if sample.finished and self.faithful[i]]

    def distinct(self, passed: bool) -> list[int]:
        """Indices of usable answers that pass (or fail): of passing ones the first of each reasoning, of others of each text."""
        seen: dict[str, int] = {}
        for i in self.usable():
            if (self.samples[i].scores.get("verifier", 0.0) > 0) is passed:
                text = self.samples[i].text
                seen.setdefault(signature(text) if passed else _folded(text), i)
        return list(seen.values())


@dataclass(frozen=True)
class Author:
    """The policy by its digest, and the terms of what it writes where they are known."""

    digest: str
    terms: str | None = None


@dataclass
class Kept:
    """What rejection sampling leaves. `other_language` counts candidates that were not accepted for their language."""

    accepted: list[Dialog] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    raw: list[Dialog] = field(default_factory=list)
    other_language: int = 0


def drawn_from(tokenizer: Tokenizer, task: Task, samples: list[Sample], system: str | None = None) -> Drawn:
    """A prompt's samples, parsed and compared with what rendering gives."""
    messages = [parse(tokenizer, sample.ids) for sample in samples]
    faithful = [_faithful(tokenizer, m, s.ids) for m, s in zip(messages, samples, strict=True)]
    return Drawn(task, samples, messages, faithful, system)


def _faithful(tokenizer: Tokenizer, message: Message, ids: list[int]) -> bool:
    """Whether rendering the parsed message gives the sampled ids again (not so when a model spells a word in odd pieces)."""
    rendered = render(tokenizer, [message])
    return rendered.ids[rendered.spans[0][0] :] == ids


def signature(text: str) -> str:
    """What an answer's reasoning is known by: its equations in order, whatever the words between; without any, all its words."""
    plain = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return "; ".join(part.rstrip(".") for part in _EQUATION.findall(_SPACES.sub("", plain))) or _folded(text)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def same_language(prompt: str, answer: str) -> bool:
    """Whether an answer is in the language and the script of its prompt; texts too short to tell are taken to be."""
    from puna.data.language import identify

    scripts = {script for script in (main_script(prompt), main_script(answer)) if script}
    (asked, sure), (said, certain) = identify(prompt), identify(answer)
    return len(scripts) < 2 and (asked == said or min(sure, certain) < SURE)


def select(
    drawn: list[Drawn], scorer: Scorer | None, policy: str, settings: Settings, ctx: StageContext, terms: str | None = None
) -> Kept:
    """Accepted dialogs, preference pairs and, if wanted, raw dialogs. `terms`: those of what the policy writes."""
    author = Author(policy, terms)
    kept = Kept()
    candidates = [one.distinct(bool(one.task.verifier)) for one in drawn]
    if settings.match_language:
        matching = [[i for i in found if _matches(one, i)] for one, found in zip(drawn, candidates, strict=True)]
        kept.other_language = sum(map(len, candidates)) - sum(map(len, matching))
        candidates = matching
    scores = _scores(drawn, candidates, scorer)
    for one, passing, scored in zip(drawn, candidates, scores, strict=True):
        rng = python_stream(ctx.stream_seed("select"), one.task.id)
        order = sorted(passing, key=lambda i: (-scored[i], i)) if scored else rng.sample(passing, len(passing))
        if one.task.verifier:
            kept.accepted += [_dialog(one, i, author, settings, {"verifier": "pass"}) for i in order[: settings.cap]]
            failing = one.distinct(False) if order else []
            for i in rng.sample(failing, min(settings.pairs_per_prompt, len(failing))):
                kept.preferences.append(_pair(one, rng.choice(order), i, author, settings))
        elif scored:
            kept.accepted += [_dialog(one, i, author, settings, {"reward": "best of k"}) for i in order[: min(1, settings.cap)]]
        kept.raw += [_dialog(one, i, author, settings, {"verifier": "not checked"}) for i in one.usable()[:1]]
    return kept


def _matches(one: Drawn, i: int) -> bool:
    """Whether answer i is in the language of its prompt, or the verifier has seen to the language that the task wants."""
    if one.task.verifier in ("final_answer", "tool_call") or {"language", "answer_lang"} & set(one.task.constraint or {}):
        return True
    return same_language(one.task.prompt[-1].content, one.samples[i].text)


def _scores(drawn: list[Drawn], candidates: list[list[int]], scorer: Scorer | None) -> list[dict[int, float]]:
    """Reward of each candidate answer by its index, per prompt; empty without a reward model or where there is no choice."""
    chosen = [
        (place, i) for place, found in enumerate(candidates) for i in found if len(found) > 1 or not drawn[place].task.verifier
    ]
    scores: list[dict[int, float]] = [{} for _ in drawn]
    if scorer is not None and chosen:
        dialogs = [[*drawn[p].prompt(steered=True), MessageRow.model_validate(drawn[p].messages[i])] for p, i in chosen]
        for (place, i), value in zip(chosen, scorer.score(dialogs), strict=True):
            scores[place][i] = value
    return scores


def _dialog(one: Drawn, i: int, author: Author, settings: Settings, checks: dict[str, str]) -> Dialog:
    messages = [*one.prompt(settings.keep_system), MessageRow.model_validate(one.messages[i])]
    return Dialog(
        id=content_id(messages),
        messages=messages,
        lang=one.task.lang,
        capability=one.task.capability,
        provenance=_provenance(one, author, settings, checks),
    )


def _pair(one: Drawn, good: int, bad: int, author: Author, settings: Settings) -> Preference:
    candidates = [Candidate(messages=[MessageRow.model_validate(one.messages[i])], origin="policy") for i in (good, bad)]
    context = one.prompt(settings.keep_system)
    return Preference(
        id=content_id({"context": context, "candidates": candidates}),
        context=context,
        candidates=candidates,
        ranking=[0, 1],
        strength="significantly",
        kind="verifier",
        provenance=_provenance(one, author, settings, {"verifier": "pass over fail"}),
    )


def _provenance(one: Drawn, author: Author, settings: Settings, checks: dict[str, str]) -> Provenance:
    source = one.task.provenance
    return Provenance(
        source=source.source,
        licence=source.licence,
        licence_concluded=source.licence_concluded,
        evidence=source.evidence,
        teacher=author.digest or None,
        teacher_licence=author.terms,
        round=settings.round,
        parents=[one.task.id],
        checks=checks if one.system is None else {**checks, "system": one.system},
    )
