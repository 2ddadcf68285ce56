"""Who answers the generators' questions: a model of ours, any OpenAI-compatible address, or the mini-world's oracle (paper 4.3).

The paper's teacher is an earlier Llama 3. Ours is whatever a recipe names; the oracle knows the mini-world's truth and errs at a
given rate, so that what the checkers let through can be counted. Each question has a seed of its own, and no answer depends on
what else is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import NonNegativeFloat, PositiveFloat

from puna.core.chat_api import post_json
from puna.core.errors import InputError, RunError
from puna.core.licences import NOTHING
from puna.core.settings import Settings, Share, execution
from puna.core.stage import Artifact, StageContext
from puna.post import checkpoints
from puna.post.gate import MAX_RUNNING
from puna.post.row_lineage import terms_of_outputs
from puna.post.synth.steps import Answer, Ask
from puna.tokenizer.chat import parse, with_tools
from puna.tokenizer.dialog import MessageRow
from puna.verify.calls import read_calls


class Asked(Settings):
    """Who is asked.

    Attributes:
        use: `model` is one of the stage's inputs, `url` an address, `oracle` the mini-world's.
        input: name of the model input; empty where there is one.
        url, model: base address of the API with its version ("http://127.0.0.1:8000/v1"), and the model's name there.
        licence: terms of the output of a model behind an address (SPDX id or a name, docs/lineage.md); it goes into every row.
        key_variable: environment variable that holds the key, where the address asks for one.
        price_in, price_out: money for a million tokens read and written, for the sum in the report.
        errors: share of the oracle's answers that are wrong.
        parallel, timeout_s, tries: requests at a time, seconds to wait for an answer, and attempts for each.
        precision, device: of a model of ours, as in `post.reject`.
    """

    use: Literal["model", "url", "oracle"] = "model"
    input: str = ""
    url: str = execution("")
    model: str = ""
    licence: str = "unknown"
    key_variable: str = execution("")
    price_in: NonNegativeFloat = execution(0.0)
    price_out: NonNegativeFloat = execution(0.0)
    errors: Share = 0.2
    parallel: int = execution(4, ge=1)
    timeout_s: PositiveFloat = execution(120.0)
    tries: int = execution(4, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: str = execution("cpu")


@dataclass
class Usage:
    """What was asked so far: requests, tokens of questions and of answers."""

    requests: int = 0
    read: int = 0
    written: int = 0

    def add(self, answers: Sequence[Sequence[Answer]]) -> None:
        self.requests += len(answers)
        self.read += sum(answer.read for several in answers for answer in several)
        self.written += sum(answer.written for several in answers for answer in several)

    def price(self, asked: Asked) -> float:
        """Money, by the million tokens."""
        return (self.read * asked.price_in + self.written * asked.price_out) / 1e6


class Teacher(Protocol):
    """Whoever answers.

    Attributes:
        name: stands in the provenance of every row (a model's digest, a name behind an address, "oracle").
        licence: terms of its answers, `none-needed` where nothing is asked; empty where nobody knows.
        usage: what was asked of it so far.
    """

    name: str
    licence: str
    usage: Usage

    def answers(self, asks: Sequence[Ask], *, seeds: Sequence[int]) -> list[list[Answer]]:
        """As many answers to each question as it wants samples, in order."""
        ...


def open_teacher(asked: Asked, ctx: StageContext, role: str) -> Teacher:
    """The teacher that settings name; `role` names the setting in messages. InputError when it is not there."""
    if asked.use == "oracle":
        return OracleTeacher(asked.errors)
    if asked.use == "url":
        if not asked.url or not asked.model:
            raise InputError(f"a {role} behind an address needs `url` and `model`", where=f"{ctx.name}, {role}",
                             fix=f"{role}: {{use: url, url: 'http://127.0.0.1:8000/v1', model: NAME}}")  # fmt: skip
        return UrlTeacher(asked)
    return ModelTeacher(ctx.inputs.named(asked.input) if asked.input else ctx.inputs.one("model"), asked)


class ModelTeacher:
    """A model artifact in our engine; a question that leaves it no room is answered by nothing."""

    def __init__(self, artifact: Artifact, asked: Asked):
        from puna.infer.engine import Engine
        from puna.post.reject import Drawing, open_policy

        self.name, self.licence, self.usage = artifact.digest or artifact.name, terms_of_outputs(artifact) or "", Usage()
        self.ancestors = checkpoints.ancestors(artifact)
        drawing = Drawing.model_validate({"precision": asked.precision, "device": asked.device})
        self.model, self.tokenizer = open_policy(artifact, drawing)
        self.engine = Engine(self.model, stop_ids=self.tokenizer.stop_ids, max_running=MAX_RUNNING)

    def answers(self, asks: Sequence[Ask], *, seeds: Sequence[int]) -> list[list[Answer]]:
        from puna.infer.engine import Request
        from puna.post.reject import prompt_ids

        prompts = [prompt_ids(self.tokenizer, with_tools([row.message() for row in ask.messages], ask.tools)) for ask in asks]
        limit = self.model.config.max_seq_len
        fitting = [i for i, ids in enumerate(prompts) if len(ids) < limit]
        requests = [
            Request(prompts[i], n=asks[i].samples, temperature=asks[i].temperature, max_tokens=asks[i].max_tokens, seed=seeds[i])
            for i in fitting
        ]
        found = [[Answer("", False)] * ask.samples for ask in asks]
        for i, completions in zip(fitting, self.engine.generate(requests), strict=True):
            found[i] = [self._answer(one, len(prompts[i]) * (n == 0)) for n, one in enumerate(completions)]
        self.usage.add(found)
        return found

    def _answer(self, completion: Any, read: int) -> Answer:
        message = parse(self.tokenizer, completion.drawn)
        return Answer(message.content, completion.finished, message.tool_calls, read, len(completion.ids))


class UrlTeacher:
    """A model behind an OpenAI-compatible address, `parallel` requests at a time."""

    def __init__(self, asked: Asked):
        self.asked, self.name, self.licence, self.usage = asked, asked.model, asked.licence, Usage()

    def answers(self, asks: Sequence[Ask], *, seeds: Sequence[int]) -> list[list[Answer]]:
        pool = ThreadPoolExecutor(self.asked.parallel)
        try:
            found = list(pool.map(self._samples, asks, seeds))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self.usage.add(found)
        return found

    def _samples(self, ask: Ask, seed: int) -> list[Answer]:
        """All samples of a question: in one request, or one by one from a server that takes no `n`."""
        found: list[Answer] = []
        while len(found) < ask.samples:
            found += self._request(ask, ask.samples - len(found) if not found else 1, seed + len(found))
        return found[: ask.samples]

    def _request(self, ask: Ask, n: int, seed: int) -> list[Answer]:
        asked = self.asked
        body = {
            "model": asked.model,
            "messages": _wire(ask.messages),
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
            "seed": seed % 2**31,
            **({"n": n} if n > 1 else {}),
            **({"tools": json.loads(ask.tools)} if ask.tools else {}),
        }
        address = f"{asked.url.rstrip('/')}/chat/completions"
        reply = post_json(address, body, key_variable=asked.key_variable, timeout_s=asked.timeout_s, tries=asked.tries,
                          again="start it and run again; what is finished is kept")  # fmt: skip
        try:
            usage = reply.get("usage") or {}
            read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            answers = [_from_choice(choice) for choice in reply["choices"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError("the model did not answer as a chat API does", where=f"{address}: {str(reply)[:200]}") from error
        if not answers:
            raise RunError("the model answered with no choice", where=address, fix="look into the log of the server")
        return [Answer(answers[0].text, answers[0].finished, answers[0].tool_calls, read, written), *answers[1:]]


def _wire(rows: Sequence[MessageRow]) -> list[dict[str, Any]]:
    """Messages as the API takes them: results are joined to the calls before them, in their order, by ids."""
    sent: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for number, row in enumerate(rows):
        if row.role == "ipython":
            sent.append({"role": "tool", "content": row.content, "tool_call_id": open_calls.pop(0) if open_calls else ""})
        elif row.tool_calls is None:
            sent.append({"role": row.role, "content": row.content})
        else:
            calls: list[dict[str, Any]] = [
                {"id": f"call_{number}_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(parameters)}}
                for i, (name, parameters) in enumerate(read_calls(row.tool_calls) or [])
            ]
            open_calls = [call["id"] for call in calls]
            sent.append({"role": "assistant", "content": row.content, "tool_calls": calls})
    return sent


def _from_choice(choice: dict[str, Any]) -> Answer:
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or []]
    lines = [f'{{"name": {json.dumps(call["name"])}, "parameters": {call["arguments"] or "{}"}}}' for call in calls]
    finished = choice.get("finish_reason") in ("stop", "tool_calls", "end_turn")
    return Answer(str(message.get("content") or ""), finished, "\n".join(lines) or None)


@dataclass
class OracleTeacher:
    """The mini-world's oracle (`puna.world.oracle`): the truth of the generators' own templates, and errors of known kinds."""

    errors: float
    name: str = "oracle"
    licence: str = NOTHING
    usage: Usage = field(default_factory=Usage)

    def answers(self, asks: Sequence[Ask], *, seeds: Sequence[int]) -> list[list[Answer]]:
        from puna.world.oracle import answer

        found = []
        for ask, seed in zip(asks, seeds, strict=True):
            turns = [(row.role, row.content) for row in ask.messages]
            read = sum(len(content.split()) for _, content in turns)
            said = [answer(ask.template, ask.slots, seed + number, self.errors, turns) for number in range(ask.samples)]
            found.append([Answer(s.text, True, s.call, read * (n == 0), len(s.text.split())) for n, s in enumerate(said)])
        self.usage.add(found)
        return found
