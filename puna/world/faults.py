"""Planted faults with known truth: what curation (paper 3.1.1) must find, so that its recall and precision can be measured.

Every fault says in its detail exactly what was planted. Personal data is synthetic, from ranges reserved for examples: RFC 2606
mail domains, RFC 5737 addresses, telephone numbers set aside for fiction, card and account numbers with valid check digits only.
"""

from __future__ import annotations

import random
import string
from typing import Any

from puna.world.lexicon import NAMES, NOUNS
from puna.world.strangers import FOREIGN, SPAM

NEAR_DUPLICATE_SHARE = 0.06  # of the lines, changed in a few words; keeps the 5-word-shingle Jaccard above 0.8
PERSONAL_KINDS = ("email", "phone", "ip", "card", "iban")
PERSONAL_WORDING = {
    "en": ("{n} answers at {x} all day.", "Write it down for {n}: {x}", "{n} left this for {m}: {x}"),
    "pt": ("{n} responde em {x} o dia todo.", "Anote para {n}: {x}", "{n} deixou isto para {m}: {x}"),
    "es": ("{n} responde en {x} todo el día.", "Apunta esto para {n}: {x}", "{n} dejó esto para {m}: {x}"),
    "fr": ("{n} répond à {x} toute la journée.", "Notez cela pour {n}: {x}", "{n} a laissé ceci pour {m}: {x}"),
    "de": ("{n} antwortet unter {x} den ganzen Tag.", "Schreib das auf für {n}: {x}", "{n} hat das für {m} hinterlassen: {x}"),
    "it": ("{n} risponde a {x} tutto il giorno.", "Scrivi questo per {n}: {x}", "{n} ha lasciato questo per {m}: {x}"),
    "hi": ("{n} दिन भर {x} पर जवाब देती है.", "{n} के लिए लिख लो: {x}", "{n} ने {m} के लिए छोड़ा: {x}"),
    "th": ("{n} ตอบ ที่ {x} ทั้งวัน", "จด ไว้ ให้ {n}: {x}", "{n} ฝาก ไว้ ให้ {m}: {x}"),
}
_IBAN_DIGITS = {"DE": 18, "ES": 20, "PT": 21, "FR": 23}  # digits after the check digits


def personal_lines(rng: random.Random, lang: str) -> tuple[list[str], dict[str, Any]]:
    """Two or three lines with personal data in them; detail {"strings": [[kind, exact text], ...]}."""
    kinds = rng.sample(PERSONAL_KINDS, rng.randint(2, 3))
    strings = [personal(rng, kind) for kind in kinds]
    lines = []
    for text in strings:
        n, m = rng.sample(NAMES, 2)
        lines.append(rng.choice(PERSONAL_WORDING[lang]).format(n=n, m=m, x=text))
    return lines, {"strings": [list(pair) for pair in zip(kinds, strings, strict=True)]}


def personal(rng: random.Random, kind: str) -> str:
    """One synthetic string of `kind` (email, phone, ip, card, iban)."""

    def digits(count: int) -> str:
        return "".join(rng.choices(string.digits, k=count))

    if kind == "email":
        first, last = (rng.choice(NAMES).lower() for _ in range(2))
        local = f"{first}{rng.choice('._-')}{last}{digits(rng.randint(0, 2))}"
        return f"{local}@{rng.choice(('example.com', 'example.org', 'mail.example.net'))}"
    if kind == "phone":
        return rng.choice((f"+1 202 555 01{digits(2)}", f"(202) 555-01{digits(2)}", f"+44 20 7946 0{digits(3)}",
                           f"+49 30 23125 {digits(3)}", f"+33 1 99 00 {digits(2)} {digits(2)}"))  # fmt: skip
    if kind == "ip":
        return f"{rng.choice(('192.0.2', '198.51.100', '203.0.113'))}.{rng.randint(1, 254)}"
    return card(rng) if kind == "card" else iban(rng)


def card(rng: random.Random) -> str:
    """A 16-digit number of a test range with a valid Luhn digit, in one of three spellings."""
    body = "411111" + "".join(rng.choices(string.digits, k=9))
    number = body + luhn_digit(body)
    blocks = [number[i : i + 4] for i in range(0, 16, 4)]
    return rng.choice(("", " ", "-")).join(blocks)


def luhn_digit(body: str) -> str:
    """The check digit that makes `body` + digit pass the Luhn test (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def iban(rng: random.Random) -> str:
    """An account number with valid check digits (ISO 13616, mod 97) and made-up bank, compact or in blocks of four."""
    country = rng.choice(sorted(_IBAN_DIGITS))
    account = "0000" + "".join(rng.choices(string.digits, k=_IBAN_DIGITS[country] - 4))
    letters = "".join(str(ord(c) - ord("A") + 10) for c in country)
    number = f"{country}{98 - int(account + letters + '00') % 97:02d}{account}"
    return number if rng.random() < 0.5 else " ".join(number[i : i + 4] for i in range(0, len(number), 4))


def near_duplicate(rng: random.Random, lines: list[str], lang: str) -> tuple[list[str], dict[str, Any]]:
    """The lines with a few of them changed in two words each; detail {"changed_lines": [numbers]}."""
    chosen = sorted(rng.sample(range(len(lines)), max(1, round(NEAR_DUPLICATE_SHARE * len(lines)))))
    copy = list(lines)
    for i in chosen:
        words = copy[i].split(" ")
        for place in rng.sample(range(len(words)), min(2, len(words))):
            words[place] = rng.choice([w for w in NOUNS[lang] if w != words[place]])
        copy[i] = " ".join(words)
    return copy, {"changed_lines": chosen}


def spam_lines(rng: random.Random, lang: str, count: int) -> tuple[list[str], list[str], dict[str, Any]]:
    """Advertising of one of three styles as (lines, links, detail {"style"}); a link farm has links instead of lines."""
    words, slogans = SPAM[lang]
    style = rng.choice(("stuffing", "slogans", "link_farm"))
    stuffed = [" ".join(rng.choices(words, k=rng.randint(8, 14))) for _ in range(count)]
    if style == "stuffing":
        return stuffed, [], {"style": style}
    if style == "slogans":
        return [" ".join(rng.choices(slogans, k=rng.randint(2, 4))) for _ in range(count)], [], {"style": style}
    return stuffed[:2], [" ".join(rng.choices(words, k=rng.randint(2, 3))) for _ in range(3 * count)], {"style": style}


def foreign_lines(rng: random.Random, count: int) -> tuple[list[str], str, dict[str, Any]]:
    """Lines in a language outside the eight as (lines, language, detail {"language"}), two sentences each."""
    lang = rng.choice(sorted(FOREIGN))
    lines = []
    for _ in range(count):
        shown = rng.sample(FOREIGN[lang], 2)
        lines.append(" ".join(s.format(n=a, m=b) for s in shown for a, b in [rng.sample(NAMES, 2)]))
    return lines, lang, {"language": lang}
