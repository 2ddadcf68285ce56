"""Web pages of the mini-world: eight languages, four groups, site furniture, and planted faults with known truth (paper 3.1).

A page is about twenty lines of base text (`puna.world.items`) under a natural opening that gives its language away, inside menus,
banners and footers that extraction must remove. Every page is a function of (seed, number) alone. Some pages carry exactly one
fault; the others are clean, and a good curation leaves them alone. Items held out for dev and test never stand on a page.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from puna.core.errors import InputError
from puna.core.rng import python_stream
from puna.world import faults as plant
from puna.world.items import GROUP_SHARES, line, owners, weighted
from puna.world.lexicon import LANGUAGES, NAMES, NOUNS, PLACES
from puna.world.sentences import CHROME, OPENINGS

FAULT_RATES = {
    "near_duplicate": 0.04, "exact_duplicate": 0.02, "url_duplicate": 0.02, "pii": 0.04, "spam": 0.03,
    "wrong_language": 0.03, "boilerplate": 0.03,
}  # fmt: skip
COPIES = (
    "near_duplicate",
    "exact_duplicate",
    "url_duplicate",
)  # faults that copy an earlier clean page, always with an older date
BOILERPLATE_REPEATS = 16  # pages that share a stock line, when there are that many: well above the paper's limit of six
OPENING_LINES = {"maths": 1, "general": 2, "multilingual": 4, "code": 1}  # of two natural sentences each
NEXT_LINE_SHARE = 0.5  # of solutions that could stand on the line after their exercise
SECTION_LINES = 8  # lines that agree on who has what; one table for a whole page trips the repetition rules
SITES = ("caderno", "lesson", "plaza", "livret", "heft", "quaderno", "kaksha", "baan")


@dataclass(frozen=True)
class Page:
    """One page as a crawl would hold it, with what is true of it.

    Attributes:
        date: ISO day; a copy is always older than its original.
        lines: the main content, one entry per line that extraction should find.
        fault: None for a clean page, else a key of FAULT_RATES.
        detail: what exactly was planted (JSON values); copies name their original under "of".
    """

    id: str
    url: str
    date: str
    html: str
    group: str
    lang: str
    fault: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Draft:
    """A page before it is rendered."""

    number: int
    url: str
    date: str
    group: str
    lang: str
    title: str
    lines: list[str]
    links: list[str] = field(default_factory=list)


def generate(
    pages: int, seed: int = 0, *, lines: tuple[int, int] = (30, 44), fault_rates: dict[str, float] | None = None
) -> Iterator[Page]:
    """Pages number 0 .. pages-1, in order.

    Args:
        pages: how many, planted ones included.
        lines: least and most lines of base text per page.
        fault_rates: share of pages per fault; faults left out are not planted; None takes FAULT_RATES, {} plants nothing.
    """
    rates = FAULT_RATES if fault_rates is None else fault_rates
    _check(pages, lines, rates)
    plan = _plan(pages, seed, rates)
    for number in range(pages):
        fault, origin, lang = plan.get(number, (None, None, None))
        draft = _draft(seed, number, lines, lang)
        detail: dict[str, Any] = {}
        if fault is not None:
            rng = python_stream(seed, "world", "fault", number)
            original = None if origin is None else _draft(seed, origin, lines)
            draft, detail = _copied(rng, fault, draft, original) if original else _PLANTERS[fault](rng, draft)
        yield _page(seed, draft, fault, detail)


def _check(pages: int, lines: tuple[int, int], rates: dict[str, float]) -> None:
    if pages < 0:
        raise InputError(f"the number of pages must not be negative, got {pages}", fix="set pages to 0 or more")
    if not 1 <= lines[0] <= lines[1]:
        raise InputError(f"lines must be two numbers, 1 <= least <= most, got {tuple(lines)}", fix="for example lines: [17, 25]")
    for name, rate in rates.items():
        if name not in FAULT_RATES:
            raise InputError(f"unknown fault '{name}'", fix=f"use one of: {', '.join(FAULT_RATES)}")
        if not 0 <= rate <= 1:
            raise InputError(f"the rate of fault '{name}' must lie between 0 and 1, got {rate}")
    if sum(rates.values()) > 0.5:
        raise InputError("more than half of the pages would be faulty", fix="lower fault_rates")


def _plan(pages: int, seed: int, rates: dict[str, float]) -> dict[int, tuple[str, int | None, str | None]]:
    """Page number -> (fault, number of the original, language): exact quotas at random places."""
    rng = python_stream(seed, "world", "plan")
    wanted = [name for name in FAULT_RATES for _ in range(round(rates.get(name, 0.0) * pages))]
    numbers = rng.sample(range(pages), len(wanted))
    faulty = set(numbers)
    clean = [n for n in range(pages) if n not in faulty]
    rng.shuffle(clean)
    plan: dict[int, tuple[str, int | None, str | None]] = {}
    planted = wanted.count("boilerplate")
    tongues = LANGUAGES[: max(1, planted // BOILERPLATE_REPEATS)]
    for number, fault in zip(numbers, wanted, strict=True):
        if fault in COPIES:
            origin = next((n for n in clean if n < number), None)
            if origin is None:  # nothing clean before it: this page stays clean
                continue
            clean.remove(origin)
            plan[number] = (fault, origin, None)
        elif fault == "boilerplate":
            plan[number] = (fault, None, tongues[len([p for p in plan.values() if p[0] == fault]) % len(tongues)])
        else:
            plan[number] = (fault, None, None)
    return plan


def _draft(seed: int, number: int, span: tuple[int, int], lang: str | None = None) -> _Draft:
    """The clean page of that number; `lang` overrides the language it would have had."""
    rng = python_stream(seed, "world", "page", number)
    drawn, group = rng.choice(LANGUAGES), weighted(rng, GROUP_SHARES)
    lang = lang or drawn
    title = _title(rng, lang)
    opening = _opening(rng, lang, OPENING_LINES[group])
    body = _body(rng, lang, group, rng.randint(*span))
    return _Draft(number, _url(rng, lang, number), _date(rng, 2019, 2024), group, lang, title, opening + body)


def _opening(rng: random.Random, lang: str, lines: int) -> list[str]:
    """Lines of two natural sentences; no sentence comes twice on a page."""
    sentences = []
    for template in rng.sample(OPENINGS[lang], 2 * lines):
        (n, m), (o, p), (x, y) = rng.sample(NAMES, 2), rng.sample(NOUNS[lang], 2), rng.sample(PLACES, 2)
        sentences.append(template.format(n=n, m=m, o=o, p=p, x=x, y=y))
    return [" ".join(pair) for pair in zip(sentences[::2], sentences[1::2], strict=True)]


def _body(rng: random.Random, lang: str, group: str, count: int) -> list[str]:
    """Lines of base text; every other solution is printed at the start of the line after its exercise, in the same section."""
    body: list[str] = []
    carried = ""
    for number in range(count):
        if number % SECTION_LINES == 0:
            owned = owners(rng)
        last = number + 1 == count or (number + 1) % SECTION_LINES == 0
        text, solution = line(rng, lang, group, owned)
        text, carried = f"{carried} {text}".strip(), ""
        if solution and not last and rng.random() < NEXT_LINE_SHARE:
            carried = solution
        else:
            text = f"{text} {solution}".strip()
        body.append(text)
    return body


def _title(rng: random.Random, lang: str) -> str:
    n, m = rng.sample(NAMES, 2)
    return f"{CHROME[lang].title}: {n} {rng.choice(NOUNS[lang])}, {m} {rng.choice(NOUNS[lang])}"


def _url(rng: random.Random, lang: str, number: int) -> str:
    return f"https://{rng.choice(SITES)}.example/{lang}/{rng.choice(NAMES).lower()}-{number:06d}.html"


def _date(rng: random.Random, first: int, last: int) -> str:
    return f"{rng.randint(first, last)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _copied(rng: random.Random, fault: str, draft: _Draft, original: _Draft) -> tuple[_Draft, dict[str, Any]]:
    """The original under this page's number; near and URL copies are changed a little, all but URL copies move."""
    lines = original.lines
    detail: dict[str, Any] = {}
    if fault != "exact_duplicate":
        lines, detail = plant.near_duplicate(rng, lines, original.lang)
    url = original.url if fault == "url_duplicate" else draft.url
    copy = replace(original, number=draft.number, url=url, date=_date(rng, 2012, 2017), lines=lines)
    return copy, {"of": _id(original.number), **detail}


def _with_personal_data(rng: random.Random, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
    extra, detail = plant.personal_lines(rng, draft.lang)
    return replace(draft, lines=_strewn(rng, draft.lines, extra)), detail


def _spam(rng: random.Random, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
    lines, links, detail = plant.spam_lines(rng, draft.lang, rng.randint(12, 24))
    return replace(draft, group="general", lines=lines, links=links), detail


def _wrong_language(rng: random.Random, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
    lines, lang, detail = plant.foreign_lines(rng, rng.randint(8, 14))
    url = draft.url.replace(f"/{draft.lang}/", f"/{lang}/")
    return replace(draft, group="general", lang=lang, url=url, title=lines[0], lines=lines[1:]), detail


def _with_stock_lines(rng: random.Random, draft: _Draft) -> tuple[_Draft, dict[str, Any]]:
    stock = list(CHROME[draft.lang].stock)
    return replace(draft, lines=_strewn(rng, draft.lines, stock)), {"lines": stock}


def _strewn(rng: random.Random, lines: list[str], extra: list[str]) -> list[str]:
    """The lines with the extra ones put in at random places below the opening."""
    mixed = list(lines)
    for text in extra:
        mixed.insert(rng.randint(2, len(mixed)), text)
    return mixed


_PLANTERS = {"pii": _with_personal_data, "spam": _spam, "wrong_language": _wrong_language, "boilerplate": _with_stock_lines}


def _id(number: int) -> str:
    return f"world-{number:06d}"


def _page(seed: int, draft: _Draft, fault: str | None, detail: dict[str, Any]) -> Page:
    # an exact copy must be a copy of the markup too, so the layout hangs on the text and not on the number
    rng = python_stream(seed, "world", "layout", draft.title)
    return Page(_id(draft.number), draft.url, draft.date, _html(rng, draft), draft.group, draft.lang, fault, detail,
                (draft.title, *draft.lines, *draft.links))  # fmt: skip


def _html(rng: random.Random, draft: _Draft) -> str:
    chrome = CHROME.get(draft.lang, CHROME["en"])
    menu = "".join(f'<li><a href="/{i}">{escape(entry)}</a></li>' for i, entry in enumerate(chrome.menu))
    related = "".join(f'<li><a href="/r/{i}">{escape(_title(rng, lang))}</a></li>'
                      for i, lang in enumerate([draft.lang if draft.lang in NOUNS else "en"] * 4))  # fmt: skip
    return (
        f'<!DOCTYPE html>\n<html lang="{draft.lang}"><head><meta charset="utf-8"><title>{escape(draft.title)}</title>'
        "<style>body{font-family:sans-serif}</style><script>var page=1;</script></head>\n<body>"
        f'<div id="cookie-banner" class="cookie-consent" role="dialog">{escape(chrome.cookies)}</div>\n'
        f'<header><nav><ul class="menu">{menu}</ul></nav></header>\n'
        f"<main><article><h1>{escape(draft.title)}</h1>\n{_content(rng, draft)}</article></main>\n"
        f'<aside class="sidebar"><h4>{escape(chrome.aside)}</h4><ul>{related}</ul></aside>\n'
        f"<footer><p>{escape(chrome.footer)}</p></footer></body></html>\n"
    )


def _content(rng: random.Random, draft: _Draft) -> str:
    """Main content: one line of text per block, in one of four layouts; links last."""
    opening = OPENING_LINES[draft.group]
    shown = [escape(text) for text in draft.lines]
    head = "".join(f"<p>{text}</p>\n" for text in shown[:opening])
    links = "".join(f'<p><a href="https://ads.example/{i}">{escape(text)}</a></p>\n' for i, text in enumerate(draft.links))
    return head + _LAYOUTS[rng.choice(sorted(_LAYOUTS))](shown[opening:]) + links


def _paragraphs(lines: list[str]) -> str:
    return "".join(f"<p>{text}</p>\n" for text in lines)


def _bullets(lines: list[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{text}</li>\n" for text in lines) + "</ul>\n"


def _table(lines: list[str]) -> str:
    return "<table>\n" + "".join(f"<tr><td>{text}</td></tr>\n" for text in lines) + "</table>\n"


def _divisions(lines: list[str]) -> str:
    return "<section>\n" + "".join(f"<div>{text}</div>\n" for text in lines) + "</section>\n"


_LAYOUTS = {"paragraphs": _paragraphs, "bullets": _bullets, "table": _table, "divisions": _divisions}
