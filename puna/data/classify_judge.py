"""Labels from a language model behind an OpenAI-compatible address, as the paper labels with Llama 2 (section 3.1.1).

A prompt is data: classes, a system text and a user text with a place for the document. Every answer is appended to a journal
as it comes, keyed by model, prompt and text, so that a stopped run asks nothing twice and pays nothing twice; answers that name
no class, or several, are kept and counted and label nothing. Nothing is asked anywhere unless a recipe names an address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from puna.core.chat_api import post_json
from puna.core.errors import InputError, RunError
from puna.core.settings import Settings, execution

PROMPTS = Path(__file__).parent / "prompts"
PLACE = "{text}"


class Judge(Settings):
    """The model that labels, and how it is asked.

    Attributes:
        url: base address of the API, with its version ("http://127.0.0.1:8000/v1").
        model: its name there.
        prompt: one of the prompts that come with Puna (code, knowledge, maths, quality, rank), or a JSON file of the same form.
        documents: how many documents of the stage's input are labelled, drawn by the hash of their ids.
        max_chars: of a document's beginning that the model sees.
        max_tokens: of an answer.
        licence: terms of the model's output (SPDX id or a name), kept in the lineage of whatever the classifier touches.
        key_variable: environment variable that holds the key, where the address asks for one.
        price_in, price_out: money for a million tokens read and written, for the sum in the report.
        parallel, timeout_s, tries: requests at a time, seconds to wait for an answer, and attempts for each.
    """

    url: str = execution("")
    model: str
    prompt: str = "quality"
    documents: PositiveInt = 1000
    max_chars: PositiveInt = 4000
    max_tokens: PositiveInt = 16
    licence: str = "unknown"
    key_variable: str = execution("")
    price_in: NonNegativeFloat = execution(0.0)
    price_out: NonNegativeFloat = execution(0.0)
    parallel: int = execution(4, ge=1)
    timeout_s: PositiveFloat = execution(120.0)
    tries: int = execution(4, ge=1)


@dataclass(frozen=True)
class Prompt:
    """How a document is put before the model.

    Attributes:
        classes: the words it may answer with.
        positive: the class whose probability is the score; None for kinds or grades.
        system, user: the texts; `user` has `{text}` where the document goes.
    """

    classes: tuple[str, ...]
    positive: str | None
    system: str
    user: str

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat messages for one document."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user.replace(PLACE, text)}]

    def label(self, answer: str) -> str | None:
        """The class an answer names, None when it names none or more than one."""
        named = {name for name in self.classes if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer, re.IGNORECASE)}
        return named.pop() if len(named) == 1 else None


def load_prompt(name: str) -> Prompt:
    """A prompt by its name, or by the path of a JSON file.

    Raises:
        InputError: there is none, or it lacks classes or the place for the text.
    """
    path = PROMPTS / f"{name}.json" if re.fullmatch(r"\w+", name) else Path(name)
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        prompt = Prompt(tuple(map(str, row["classes"])), row.get("positive"), str(row["system"]), str(row["user"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(file.stem for file in PROMPTS.glob("*.json")))
        raise InputError(f"no prompt can be read here: {error!r}", where=str(path), fix=f"one of {known}, or a file") from error
    if len(prompt.classes) < 2 or PLACE not in prompt.user or (prompt.positive and prompt.positive not in prompt.classes):
        raise InputError(
            f"a prompt needs two classes or more, {PLACE} in `user`, and `positive` out of the classes", where=str(path)
        )
    return prompt


def prompt_digest(name: str) -> str:
    """Digest of a prompt's content: what a stage's result depends on besides the prompt's name."""
    prompt = load_prompt(name)
    return xxhash.xxh3_128_hexdigest(json.dumps([prompt.classes, prompt.positive, prompt.system, prompt.user]).encode())


def judge_texts(
    texts: Sequence[str], judge: Judge, journal: Path, *, done: Callable[[int, int], None] = lambda count, total: None
) -> list[dict[str, Any]]:
    """Label texts, going on from what the journal holds.

    Args:
        texts: the documents.
        journal: JSONL file that answers are appended to.
        done: called with the number of labelled texts and of all; what it raises ends the work, with nothing lost.

    Returns:
        For every text its journal row: `label` (None when the answer names no single class), `answer`, `tokens_in`, `tokens_out`.

    Raises:
        InputError: the address refuses the request. RunError: it does not answer, or not as a chat API does.
    """
    prompt = load_prompt(judge.prompt)
    keys = [_key(judge, prompt, text) for text in texts]
    rows = _read_journal(journal)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
    torn = journal.exists() and not journal.read_bytes().endswith(b"\n")
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n" if torn else "")
        for count, (key, row) in enumerate(_ask_all(missing, judge, prompt), 1):
            rows[key] = row
            file.write(json.dumps({"key": key, **row}, ensure_ascii=False) + "\n")
            file.flush()
            done(len(keys) - len(missing) + count, len(keys))
    return [rows[key] for key in keys]


def _key(judge: Judge, prompt: Prompt, text: str) -> str:
    asked = json.dumps([judge.model, judge.max_tokens, prompt.messages(text[: judge.max_chars])])
    return xxhash.xxh3_128_hexdigest(asked.encode())


def _read_journal(journal: Path) -> dict[str, dict[str, Any]]:
    rows = {}
    for line in journal.read_bytes().split(b"\n") if journal.exists() else []:
        try:
            row = json.loads(line)
            rows[row.pop("key")] = row
        except (ValueError, KeyError, AttributeError):
            continue  # a kill can cut the last line; its text is asked again
    return rows


def _ask_all(missing: dict[str, str], judge: Judge, prompt: Prompt) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows in the order in which answers come, with no more than `parallel` requests waiting."""
    waiting = iter(missing.items())
    pool = ThreadPoolExecutor(judge.parallel)
    running: dict[Future[dict[str, Any]], str] = {}
    try:
        while True:
            for key, text in waiting:
                running[pool.submit(_ask, text, judge, prompt)] = key
                if len(running) >= judge.parallel:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ask(text: str, judge: Judge, prompt: Prompt) -> dict[str, Any]:
    body = {
        "model": judge.model,
        "messages": prompt.messages(text[: judge.max_chars]),
        "temperature": 0,
        "max_tokens": judge.max_tokens,
    }
    reply = post_json(
        f"{judge.url.rstrip('/')}/chat/completions", body, key_variable=judge.key_variable, timeout_s=judge.timeout_s,
        tries=judge.tries, who="the labelling model", fix="check `judge`",
        again="start it and run again; the labels so far are kept",
    )  # fmt: skip
    try:
        answer, usage = str(reply["choices"][0]["message"]["content"] or ""), reply.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            "the labelling model did not answer as a chat API does", where=f"{judge.url}: {str(reply)[:200]}"
        ) from error
    return {"label": prompt.label(answer), "answer": answer, "tokens_in": tokens[0], "tokens_out": tokens[1]}
