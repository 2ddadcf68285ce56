"""Personal data: e-mail and IP addresses, phone, card, bank account and national numbers are found and replaced by placeholders.

The paper (section 3.1.1) removes domains with much personal data and filters the rest; redaction keeps the document. Numbers
must pass their check digits (Luhn, ISO 7064 and those of `puna.data.national_ids`), so sums and identifiers survive; a phone
number needs an international prefix, a national shape or a word like "tel" before it. The patterns see only what lies about
the seeds of their kind (`puna.data.pii_seeds`), so that clean text costs next to nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING

import numpy as np

from puna.data import pii_seeds as seed
from puna.data.national_ids import NATIONAL_KINDS, national_ids
from puna.data.pii_seeds import Seeds, Stretch, about, seeds_of, seeds_of_batch

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("email", "phone", "ip", "card", "iban", *NATIONAL_KINDS)
PLACEHOLDERS = dict.fromkeys(NATIONAL_KINDS, "<national_id>") | {
    kind: f"<{kind}>" for kind in KINDS if kind not in NATIONAL_KINDS
}

EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+'-]{0,63}@[A-Za-z0-9](?:[\w-]{0,62}\.)+[A-Za-z]{2,24}(?![\w-])")
EMAIL_SPELLED = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}\s?(?:\[at\]|\(at\)|\{at\})\s?[A-Za-z0-9][\w-]{0,62}"
    r"(?:\s?(?:\.|\[dot\]|\(dot\))\s?[\w-]{2,62}){1,4}",
    re.I,
)
OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
IPV4 = re.compile(rf"(?<![\w.])(?:{OCTET}\.){{3}}{OCTET}(?![\w]|\.\d)")
# unset, loopback, mask, and addresses of private networks, which name nobody; single digits are a version number
NO_ADDRESS = re.compile(r"^(?:0|10|127|255|169\.254|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.|^\d\.\d\.\d\.\d$")
VERSION_BEFORE = re.compile(r"(?:version|release|ver|v|sections?|chapter|§)\W{0,3}$", re.I)
DECIMAL = re.compile(r"^\+\d{1,3}\.\d{1,8}$")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:|:){2,8}(?:[0-9A-Fa-f]{1,4})?(?![\w:])", re.A)
MIN_IPV6_GROUPS = 3  # written out; "::1" is loopback, and a::b is a name in a program
CARD = re.compile(  # in one run, or in the groups that are printed on cards
    r"(?<![\w.,-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?!\w|[.,-]\d)"
)
CARD_DIGITS = 13  # of the shortest
CARD_FIRST = "23456"  # networks in use: 2 and 5 Mastercard, 3 Amex, JCB and Diners, 4 Visa, 6 Discover and UnionPay
UNION_PAY = "62"  # the one network with cards of 17 to 19 digits
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
# length of an account number by country (SWIFT IBAN registry)
IBAN_LENGTH = {
    "AD": 24,
    "AE": 23,
    "AT": 20,
    "BE": 16,
    "BG": 22,
    "BR": 29,
    "CH": 21,
    "CY": 28,
    "CZ": 24,
    "DE": 22,
    "DK": 18,
    "EE": 20,
    "ES": 24,
    "FI": 18,
    "FR": 27,
    "GB": 22,
    "GR": 27,
    "HR": 21,
    "HU": 28,
    "IE": 22,
    "IL": 23,
    "IS": 26,
    "IT": 27,
    "LI": 21,
    "LT": 20,
    "LU": 20,
    "LV": 21,
    "MC": 27,
    "MT": 31,
    "NL": 18,
    "NO": 15,
    "PL": 28,
    "PT": 25,
    "RO": 24,
    "SA": 24,
    "SE": 24,
    "SI": 19,
    "SK": 24,
    "SM": 27,
    "TN": 24,
    "TR": 26,
    "UA": 29,
}
PHONE_LABEL = (
    r"(?:tel(?:e?f(?:on|ono|one|oon))?|télé?(?:phone)?|teléfono|phone|call(?: us)?(?: at| on)?|mobile|mobil|cell|cellulare"
    r"|celular|móvil|movil|fax|handy|whatsapp|फ़ोन|फोन|मोबाइल|โทร(?:ศัพท์)?|เบอร์)"
)
PHONE = re.compile(
    r"(?<![\w.+@#/-])(?:"
    r"(?:\+|00)[1-9]\d{0,2}[ .\-/]?(?:\(0?\d{1,4}\)[ .\-/]?)?\d{1,5}(?:[ .\-/]?\d{2,5}){1,4}"  # +49 30 1234567
    r"|\(\d{2,5}\) ?\d{3,4}[ .-]?\d{3,5}"  # (030) 1234 567
    r"|\d{3}-\d{3}-\d{4}"  # 555-123-4567
    r"|0\d{1,4}[ /-]\d{2,4}(?:[ -]?\d{2,4}){1,4}"  # 030 123 45 67
    r")(?![\w@]|[.,-]\d)"
)
PHONE_LABELLED = re.compile(rf"(?<!\w){PHONE_LABEL}(?:\s*[.:#=]+\s*|\s+)(\+?\(?\d[\d ()./-]{{5,20}}\d)(?!\w)", re.I)
PHONE_DIGITS = range(7, 16)  # ITU E.164: at most 15
ARITHMETIC_BEFORE = re.compile(r"[=*×÷/+−]\s*$|\d\s*[-+]\s*$")
ARITHMETIC_AFTER = re.compile(r"^\s*[=*×÷+<>−]")
AFTER_DIGITS = re.compile(r"\d $")  # the rest of a longer number
DATE_LIKE = re.compile(
    r"^(?:0?\d|[12]\d|3[01])[-/ .](?:0?\d|1[0-2])[-/ .](?:19|20)\d\d\b|^(?:19|20)\d\d[-/ .]\d\d?[-/ .]\d\d?\b"
    r"|^\d{3,4}-(?:0\d|1[0-2])-(?:[0-2]\d|3[01])\b"
)
POSTCODE = re.compile(r"^\d{5}-\d{4}$")  # of the United States, when the letters of a state stand before it
STATE_BEFORE = re.compile(r"\b[A-Z]{2},?\s$")

HAS_DIGIT = re.compile(r"\d")

Span = tuple[int, int, str]


def redact_batch(texts: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Redact many texts.

    Args:
        texts: Arrow strings; nulls stay.

    Returns:
        The texts, of the same Arrow type, and for each of `KINDS` the finds in each text, int32 [texts].
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    counts = {kind: np.zeros(len(texts), dtype=np.int32) for kind in KINDS}
    changed = np.zeros(len(texts), dtype=bool)
    replacements = []
    for index, seeds in seeds_of_batch(texts):
        text, found = _redact(texts[index].as_py(), seeds)
        if found:
            changed[index] = True
            replacements.append(text)
            for kind, count in found.items():
                counts[kind][index] = count
    if replacements:
        texts = pc.replace_with_mask(texts, pa.array(changed), pa.array(replacements, type=texts.type))
    return texts, counts


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with every find replaced by its placeholder (`PLACEHOLDERS`), and the counts by kind."""
    return _redact(text, seeds_of(text))


def _redact(text: str, seeds: Seeds) -> tuple[str, dict[str, int]]:
    spans = _find(text, seeds)
    if not spans:
        return text, {}
    parts, position = [], 0
    for start, end, kind in spans:
        parts += [text[position:start], PLACEHOLDERS[kind]]
        position = end
    return "".join([*parts, text[position:]]), dict(Counter(kind for _, _, kind in spans))


def find(text: str) -> list[Span]:
    """Every piece of personal data as (start, end, kind), in order and without overlap; the more certain kinds win."""
    return _find(text, seeds_of(text))


def _find(text: str, seeds: Seeds) -> list[Span]:
    taken: list[Span] = []  # in order, none over another
    for span in _candidates(text, seeds):
        place = bisect_left(taken, span)
        free_before = place == 0 or taken[place - 1][1] <= span[0]
        if free_before and (place == len(taken) or span[1] <= taken[place][0]):
            taken.insert(place, span)
    return taken


def _candidates(text: str, seeds: Seeds) -> Iterator[Span]:
    def matches(pattern: re.Pattern[str], kind: int, digits: int = 0) -> Iterator[re.Match[str]]:
        return _matches(pattern, text, about(seeds, kind, digits))

    yield from ((match.start(), match.end(), "email") for match in matches(EMAIL, seed.EMAIL))
    yield from ((match.start(), match.end(), "email") for match in matches(EMAIL_SPELLED, seed.SPELLED))
    yield from ((match.start(), match.end(), "ip") for match in matches(IPV6, seed.HEXADECIMAL) if _is_address_6(match[0]))
    yield from ((start, end, "iban") for start, end in _ibans(text, about(seeds, seed.ACCOUNT)))
    yield from national_ids(text, seeds)
    cards = matches(CARD, seed.NUMBER, CARD_DIGITS)
    yield from ((match.start(), match.end(), "card") for match in cards if _is_card(match[0]))
    yield from ((match.start(), match.end(), "ip") for match in matches(IPV4, seed.DOTTED) if _is_address(text, match))
    labelled = matches(PHONE_LABELLED, seed.LABELLED)
    yield from ((*match.span(1), "phone") for match in labelled if _digits(match[1]) in PHONE_DIGITS)
    yield from ((match.start(), match.end(), "phone") for match in matches(PHONE, seed.NUMBER) if _is_phone(text, match))


def _matches(pattern: re.Pattern[str], text: str, stretches: list[Stretch]) -> Iterator[re.Match[str]]:
    for low, high in stretches:
        yield from pattern.finditer(text, low, high)


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _ibans(text: str, stretches: list[Stretch]) -> Iterator[tuple[int, int]]:
    for match in _matches(IBAN, text, stretches):
        # the shape may run into a following capital word; the country says how long the number is
        wanted, taken, end = IBAN_LENGTH.get(match[0][:2], 0), 0, match.start()
        while end < match.end() and taken < wanted:
            taken += text[end] != " "
            end += 1
        if taken == wanted and wanted and iban_valid(text[match.start() : end]):
            yield match.start(), end


def iban_valid(number: str) -> bool:
    """ISO 13616: the rearranged number is 1 modulo 97."""
    compact = number.replace(" ", "")
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _is_card(number: str) -> bool:
    compact = re.sub(r"\D", "", number)
    longest = 19 if compact.startswith(UNION_PAY) else 16
    return compact[0] in CARD_FIRST and len(compact) <= longest and len(set(compact)) > 1 and luhn_valid(compact)


def luhn_valid(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the sum of all digits is a multiple of 10."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_address(text: str, match: re.Match[str]) -> bool:
    return not NO_ADDRESS.search(match[0]) and not VERSION_BEFORE.search(text[max(0, match.start() - 12) : match.start()])


def _is_address_6(candidate: str) -> bool:
    groups = [group for group in candidate.split(":") if group]
    if len(groups) < MIN_IPV6_GROUPS or not HAS_DIGIT.search(candidate):
        return False
    try:
        IPv6Address(candidate)
    except AddressValueError:
        return False
    return True


def _is_phone(text: str, match: re.Match[str]) -> bool:
    number, before, after = match[0], text[max(0, match.start() - 6) : match.start()], text[match.end() : match.end() + 4]
    if not number.startswith("+") and AFTER_DIGITS.search(before):
        return False
    if ARITHMETIC_BEFORE.search(before) or ARITHMETIC_AFTER.search(after):
        return False
    if DATE_LIKE.search(number) or DECIMAL.search(number) or (POSTCODE.search(number) and STATE_BEFORE.search(before)):
        return False
    return _digits(number) in PHONE_DIGITS
