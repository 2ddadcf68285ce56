"""The oracle on texts of the almanac: questions on snippets and chunks, answers from memory, summaries, verdicts.

It errs as models do: questions that do not say which town they mean, answers taken from the next line, summaries with a number
changed or two towns mixed up or one made up, verdicts the wrong way round.
"""

from __future__ import annotations

from itertools import pairwise

from puna.world.almanac import (
    KINDS,
    VAGUE,
    asked,
    facts,
    other_value,
    question,
    remembered,
    sentence,
    together,
    town_name,
    truth,
)
from puna.world.oracle import Answerer, Question

DOUBT = "I do not know that for certain."


def posed(ask: Question, text: str) -> str:
    """A question on a text and its answer, or one of the ways to get it wrong."""
    said = facts(text)
    if not said:
        return "There is nothing to ask here."
    (name, kind), value = ask.rng.choice(list(said.items()))
    wanted = question(name, kind)
    if ask.errs():
        fault = ask.rng.choice(("vague", "elsewhere", "next line", "no form"))
        if fault == "no form":
            return f"{wanted} {value}"
        if fault == "vague":
            wanted = VAGUE[kind]
        else:
            same = [other for (_, of), other in said.items() if of == kind and other != value]
            value = other_value(name, kind, ask.rng) if fault == "elsewhere" or not same else ask.rng.choice(same)
    return f"Question: {wanted}\nAnswer: {value}"


def read(ask: Question, text: str, nothing: str) -> str:
    """What a text says to a question; of a vague one, the first that fits."""
    about, said = asked(ask.slots["question"]), facts(text)
    fitting = [value for (name, kind), value in said.items() if about and kind == about[1] and about[0] in ("", name)]
    if ask.errs():
        return ask.rng.choice([nothing, *said.values()])
    return fitting[0] if fitting else nothing


def verdict(ask: Question, right: bool) -> str:
    """Yes or No, now and then the wrong way round."""
    return "Yes" if right is not ask.errs() else "No"


def knowledge(ask: Question) -> str:
    """question, read, clear, remember, right, definite, refuse."""
    if ask.name == "question":
        return posed(ask, ask.slots["snippet"])
    if ask.name == "read":
        return read(ask, ask.slots["snippet"], "It does not say.")
    about = asked(ask.slots["question"])
    if ask.name == "definite":
        return verdict(ask, not ask.slots["answer"].startswith(("I do not", "It does not")))
    if ask.name == "clear":
        return verdict(ask, about is not None and bool(about[0]))
    if ask.name == "right":
        return verdict(ask, about is not None and ask.slots["answer"] == _told(about))
    if about is None or not about[0]:
        return DOUBT
    if ask.name == "refuse":
        return f"It is {other_value(*about, ask.rng)}, I think." if ask.errs() else DOUBT
    value = other_value(*about, ask.rng) if ask.errs() else remembered(*about)
    return DOUBT if value is None else f"It is {value}."


def _told(about: tuple[str, str]) -> str:
    return f"It is {truth(*about)}." if about[0] else ""


def chunk_questions(ask: Question) -> str:
    """question, read."""
    if ask.name == "question":
        return posed(ask, ask.slots["chunk"])
    return read(ask, ask.slots["chunk"], "None")


def summaries(ask: Question) -> str:
    """summary, judge, question, read."""
    if ask.name == "summary":
        return _summary(ask)
    if ask.name == "judge":
        said = facts(ask.slots["summary"])
        return verdict(ask, bool(said) and said.items() <= facts(ask.slots["text"]).items())
    if ask.name == "question":
        return _sum(ask)
    towns, said = together(ask.slots["question"]), facts(ask.slots["summaries"])
    if towns is None or ask.errs():
        return str(ask.rng.randint(400, 200_000))
    return str(sum(int(said.get((name, "people"), 0)) for name in towns))


def _summary(ask: Question) -> str:
    """The inhabitants of the towns of a text, or of half of them where a text says nothing else; perhaps with a fault."""
    text = ask.slots["text"]
    said = facts(text)
    kept = [name for name, kind in said if kind == "people"]
    kept = kept if any(kind != "people" for _, kind in said) else kept[: max(1, len(kept) // 2)]
    told = {name: said[name, "people"] for name in kept}
    fault = ask.rng.choice(("number", "mixed up", "made up", "whole")) if ask.errs() and told else ""
    if fault == "whole":
        return text
    first = next(iter(told), "")
    if fault == "number":
        told[first] = str(int(told[first]) + 1)
    if fault == "made up":
        told[town_name(ask.rng)] = told.pop(first)
    if fault == "mixed up" and len(told) > 1:
        told = dict(zip(told, [*list(told.values())[1:], told[first]], strict=True))
    return " ".join(KINDS["people"][0].format(name=name, people=value) for name, value in told.items())


def _sum(ask: Question) -> str:
    said = facts(ask.slots["summaries"])
    names = [name for name, kind in said if kind == "people"]
    if len(names) < 2:
        return "There is nothing to ask here."
    first, second = ask.rng.choice(list(pairwise(names)))
    total = int(said[first, "people"]) + int(said[second, "people"]) + (ask.rng.randint(1, 9) if ask.errs() else 0)
    return f"Question: How many inhabitants have {first} and {second} together?\nAnswer: {total}"


def true_answer(wanted: str, answer: str) -> bool:
    """Whether an answer to a question that names its towns holds the truth, and nothing else of the kind."""
    towns, about = together(wanted), asked(wanted)
    if towns:
        return answer.strip() == str(sum(int(truth(name, "people")) for name in towns))
    return about is not None and bool(about[0]) and truth(*about) in answer.replace(".", " ").split()


def true_sentences(text: str) -> bool:
    """Whether everything that a text says of towns is true, and it says something."""
    said = facts(text)
    return bool(said) and all(sentence(name, kind) in text for name, kind in said)


ANSWERERS: dict[str, Answerer] = {"knowledge": knowledge, "chunk_questions": chunk_questions, "summaries": summaries}
