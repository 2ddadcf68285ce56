"""Items: the small verifiable facts of the mini-world, and the lines of base text made of them.

One item has a statement, a question, a worked chain and an answer. Pages show it as prose ("Lia has 2 pen, buys 5 and gives 4.
2+5=7. 7-4=3.") or in exercise-book form with the question, never with chat roles or an answer tag: half of each made the
difference between 12 % and 27 % after 150 gold dialogs. Every item has a key without wording or language, and the hash of the key
says which split it belongs to, so what is held out is held out of pages, gold and prompts in all eight languages at once.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from puna.world.lexicon import END_WORDS, FACTS, LANGUAGES, LETTERS, NAMES, NOUN_COUNT, NOUNS, TOOLS, WORDING

FAMILIES = ("math", "count", "reverse", "translate", "lookup", "tool")

SPLIT_PERCENT = {"gold": 10, "prompts": 60, "dev": 10, "test": 20}  # of all item keys
SEEN = ("gold", "prompts")  # splits whose items may stand in pages
HELD_OUT = ("dev", "test")

GROUP_SHARES = {"maths": 0.43, "general": 0.28, "multilingual": 0.17, "code": 0.12}  # of pages
LINE_SHARES = {
    "maths": {"sheet": 0.38, "math": 0.27, "count": 0.16, "reverse": 0.19},
    "general": {"list": 0.60, "echo": 0.14, "lookup": 0.21, "facts": 0.05},
    "multilingual": {"translate": 0.82, "names_of_languages": 0.18},
    "code": {"tool": 0.85, "calls": 0.15},
}
LINE_ITEMS = {
    "math": ("math",), "count": ("count",), "reverse": ("reverse",), "lookup": ("lookup",), "tool": ("tool", "tool"),
    "translate": ("translate", "translate", "translate"),
}  # fmt: skip
WORKED = ("math", "count", "lookup", "tool")  # families whose solution begins with a step and not with the bare answer
EXERCISE_SHARE = 0.5  # items in exercise-book form, the rest as prose
END_WORD_SHARE = 0.15  # lines that announce a last word and end with it
PLAIN_GAP_SHARE = 0.25  # exercises whose solution follows at once; the others put something of one to eight tokens between
SOLUTION = {
    "en": "Solution",
    "pt": "Solução",
    "es": "Solución",
    "fr": "Solution",
    "de": "Lösung",
    "it": "Soluzione",
    "hi": "हल",
    "th": "เฉลย",
}
GAPS = (
    "->",
    "=>",
    "|",
    "{s}:",
    "({s})",
    "| {s}:",
    "[{n}] {s}:",
    "| {s} {n}) ->",
    "({s} {n}):",
    "{s} [{n}] => |",
    "| {s} | {name}:",
)


@dataclass(frozen=True)
class Item:
    """One fact or exercise in one language.

    Attributes:
        statement, question: together the prompt; the question may be empty.
        chain: the worked steps before the answer, may be empty.
        answer: what a verifier compares with (for tools, the JSON of the call).
        prose: the same fact told without a question.
        key: identity without wording and language; decides the split.
    """

    family: str
    lang: str
    statement: str
    question: str
    chain: str
    answer: str
    prose: str
    key: str

    @property
    def prompt(self) -> str:
        return f"{self.statement} {self.question}".strip()

    @property
    def solution(self) -> str:
        """The worked answer as an exercise book has it."""
        if self.family == "tool":
            return self.answer
        shown = f"{self.answer}." if self.family in ("reverse", "translate", "count") else ""
        return f"{self.chain} {shown}".strip()

    @property
    def exercise(self) -> str:
        """Question and worked answer on one line."""
        return f"{self.prompt} {self.solution}"

    def spaced_exercise(self, rng: random.Random) -> str:
        """Question, a gap of varying length, worked answer.

        In a chat, the header of the answer stands between the two. A tiny model that always saw the answer at once copies from
        fixed distances, and fails by just these tokens: with a skill at 0.93 in prose, 0 % in chat (docs/log.md).
        """
        return f"{self.prompt} {gap(rng, self.lang)}{self.solution}"


def split_of(key: str) -> str:
    """The split an item key belongs to: by hash, for ever, whatever the seed."""
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % 100
    for split, percent in SPLIT_PERCENT.items():
        if bucket < percent:
            return split
        bucket -= percent
    raise AssertionError("split percentages do not add up to 100")


def gap(rng: random.Random, lang: str) -> str:
    """What stands between an exercise and its solution, a space after it; often nothing."""
    if rng.random() < PLAIN_GAP_SHARE:
        return ""
    return rng.choice(GAPS).format(s=SOLUTION[lang], n=rng.randint(1, 9), name=rng.choice(NAMES)) + " "


Owners = dict[str, str]  # name -> letter: who has which mark in one section of a page


def owners(rng: random.Random) -> Owners:
    """Draw who has which letter in a section of a page.

    Letters are the same in all eight languages. With nouns, the same lists taught eight vocabularies an eighth each, and recall
    was not learned in twice the tokens (docs/log.md).

    Lists and look-ups of a section agree: were a name followed by another letter on every line, "look for the name and copy what
    follows" would be wrong more often than right, and recall would not be learned.
    """
    return {name: rng.choice(LETTERS) for name in NAMES}


def item(rng: random.Random, family: str, lang: str, splits: tuple[str, ...] = SEEN, owned: Owners | None = None) -> Item:
    """Draw one item of `family` in `lang` whose key belongs to one of `splits`; look-ups keep to `owned`, drawn when None."""
    while True:
        drawn = _lookup(rng, lang, owned or owners(rng)) if family == "lookup" else _MAKERS[family](rng, lang)
        if split_of(drawn.key) in splits:
            return drawn


def line(rng: random.Random, lang: str, group: str, owned: Owners) -> tuple[str, str]:
    """One line of base text for a page of `group` (keys of LINE_SHARES): two or three items, rarely the same line twice.

    Returns the line and, when it ends in an exercise, that exercise's solution, which a page may print on the next line: there it
    stands at the start of a line, spelled without a leading space, as it will in an assistant's message.
    """
    kind = weighted(rng, LINE_SHARES[group])
    if kind == "list":
        return _list(rng, lang, owned), ""
    if kind in _ROWS:
        return _ROWS[kind](rng, lang), ""
    drawn = [item(rng, family, lang, owned=owned) for family in rng.sample(LINE_ITEMS[kind], len(LINE_ITEMS[kind]))]
    asked = [rng.random() < EXERCISE_SHARE for _ in drawn]
    shown = [d.spaced_exercise(rng) if ask else d.prose for d, ask in zip(drawn, asked, strict=True)]
    if rng.random() < END_WORD_SHARE:
        word = rng.choice(END_WORDS)
        return f"{WORDING[lang].end_with.format(word=word)} {' '.join(shown)} {word}", ""
    last = drawn[-1]
    if last.family in WORKED and asked[-1]:
        return " ".join([*shown[:-1], last.prompt]), gap(rng, lang) + last.solution
    return " ".join(shown), ""


def prose(rng: random.Random, lang: str | None = None, group: str | None = None) -> str:
    """One line of base text; language and group are drawn when not given."""
    return " ".join(line(rng, lang or rng.choice(LANGUAGES), group or weighted(rng, GROUP_SHARES), owners(rng))).strip()


def weighted(rng: random.Random, shares: dict[str, float]) -> str:
    """One key of `shares`, drawn by weight."""
    return rng.choices(list(shares), list(shares.values()))[0]


def _math(rng: random.Random, lang: str) -> Item:
    words, (n, m), o = WORDING[lang], rng.sample(NAMES, 2), rng.randrange(NOUN_COUNT)
    a, b, noun = rng.randint(2, 9), rng.randint(1, 9), NOUNS[lang][o]
    if rng.random() < 0.6:
        c = rng.randint(1, a + b - 1)
        statement, question = words.change.format(n=n, a=a, b=b, c=c, o=noun), words.ask_change
        chain, answer, key = f"{a}+{b}={a + b}. {a + b}-{c}={a + b - c}.", a + b - c, f"math/change/{n}/{o}/{a}/{b}/{c}"
    else:
        statement, question = words.more.format(n=n, m=m, a=a, b=b, o=noun), words.ask_more
        chain, answer, key = f"{a}+{b}={a + b}. {a}+{a + b}={2 * a + b}.", 2 * a + b, f"math/more/{n}/{m}/{o}/{a}/{b}"
    return Item("math", lang, statement, question, chain, str(answer), f"{statement} {chain}", key)


def _count(rng: random.Random, lang: str) -> Item:
    x, k = rng.choice(LETTERS), rng.randint(1, 4)
    others = [c for c in LETTERS if c != x]
    row = [x] * k + [rng.choice(others) for _ in range(rng.randint(1, 3))]
    rng.shuffle(row)
    statement = f"{WORDING[lang].ask_count.format(x=x)} {' '.join(row)}."
    chain = f"{WORDING[lang].so} {' '.join([x] * k)}."
    return Item("count", lang, statement, "", chain, str(k), f"{statement} {chain} {k}.", f"count/{x}/{''.join(row)}")


def _reverse(rng: random.Random, lang: str) -> Item:
    row = [rng.choice(LETTERS) for _ in range(rng.randint(3, 5))]
    words, there, back = WORDING[lang], " ".join(row), " ".join(row[::-1])
    told = f"{words.letters} {there}, {words.backwards}: {back}."
    return Item("reverse", lang, f"{words.ask_reverse} {there}.", "", "", back, told, f"reverse/{''.join(row)}")


def _translate(rng: random.Random, lang: str) -> Item:
    i, target = rng.randrange(NOUN_COUNT), rng.choice([other for other in LANGUAGES if other != lang])
    noun, answer, language = NOUNS[lang][i], NOUNS[target][i], WORDING[target].endonym
    statement = f"{WORDING[lang].ask_translate.format(language=language)} {noun}."
    return Item("translate", lang, statement, "", "", answer, f"{noun}, {language}: {answer}.", f"translate/{i}/{lang}/{target}")


def _lookup(rng: random.Random, lang: str, owned: Owners) -> Item:
    k = rng.randint(3, 4)
    names = rng.sample(NAMES, k)
    values = [owned[name] for name in names]
    i, words = rng.randrange(k), WORDING[lang]
    statement = ", ".join(f"{n} {v}" for n, v in zip(names, values, strict=True)) + "."
    x, value = names[i], values[i]
    chain = f"{words.so} {x} {value}."
    key = f"lookup/{'/'.join(names)}/{''.join(values)}/{x}"
    return Item("lookup", lang, statement, words.ask_lookup.format(x=x), chain, value, f"{statement} {chain}", key)


def _tool(rng: random.Random, lang: str) -> Item:
    tool, a, b = rng.choice(TOOLS), rng.randint(1, 9), rng.randint(1, 9)
    statement = WORDING[lang].ask_tool.format(tool=tool, a=a, b=b)
    call = json.dumps({"name": tool, "parameters": {"a": a, "b": b}})
    return Item("tool", lang, statement, "", "", call, f"{statement} {call}", f"tool/{tool}/{a}/{b}")


def _sheet(rng: random.Random, lang: str) -> str:
    """Four sums, each by another pupil: names keep lines apart after digits are normalised away."""
    return " ".join(f"{name}: {_sum(rng)}" for name in rng.sample(NAMES, 4))


def _sum(rng: random.Random) -> str:
    a, b = rng.randint(1, 18), rng.randint(1, 9)
    return f"{a}+{b}={a + b}." if rng.random() < 0.5 else f"{a + b}-{b}={a}."


def _list(rng: random.Random, lang: str, owned: Owners) -> str:
    """A list of names and letters, then the same list in another order: the dense signal from which recall is learned."""
    entries = [f"{name} {owned[name]}" for name in rng.sample(NAMES, rng.randint(2, 4))]
    return f"{', '.join(entries)}. {', '.join(rng.sample(entries, len(entries)))}."


def _echo(rng: random.Random, lang: str) -> str:
    """A row of words, letters and numbers, copied once: the plainest exercise in copying, from which every other kind gains."""
    pools = (NOUNS[lang], LETTERS, [str(n) for n in range(1, 21)])  # no names: what follows a name is its letter
    row = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(4, 9))]
    text = f"{rng.choice(NAMES)} {' '.join(row)}."
    return f"{text} {gap(rng, lang)}{text}"


def _facts(rng: random.Random, lang: str) -> str:
    """Three entries of the knowledge base."""
    places = rng.sample(sorted(FACTS), 3)
    rows = [dict(zip("xyz", (NOUNS[lang][i] for i in FACTS[p]), strict=True)) for p in places]
    return " ".join(WORDING[lang].fact.format(p=p, **row) for p, row in zip(places, rows, strict=True))


def _names_of_languages(rng: random.Random, lang: str) -> str:
    """Which language has which answer tag: what "answer in LANGUAGE" needs, without any answer."""
    shown, form = [WORDING[code] for code in rng.sample(LANGUAGES, 4)], rng.randrange(3)
    if form == 0:
        return " ".join(f"{words.endonym}: {words.answer}." for words in shown)
    if form == 1:
        return " ".join(f"{words.answer}: {words.endonym}." for words in shown)
    return " ".join(f"{WORDING[lang].answer_in.format(language=words.endonym)} {words.answer}." for words in shown)


def _calls(rng: random.Random, lang: str) -> str:
    """Four calls with their results, each by another name."""
    return " ".join(f"{name}: {_call(rng)}" for name in rng.sample(NAMES, 4))


def _call(rng: random.Random) -> str:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    tool = rng.choice(TOOLS)
    if tool == "sub":
        a = a + b
    result = {"add": a + b, "sub": a - b, "max": max(a, b), "min": min(a, b)}[tool]
    return f"{tool}({a}, {b})={result}."


_MAKERS = {"math": _math, "count": _count, "reverse": _reverse, "translate": _translate, "tool": _tool}
_ROWS = {"sheet": _sheet, "echo": _echo, "facts": _facts, "names_of_languages": _names_of_languages, "calls": _calls}
