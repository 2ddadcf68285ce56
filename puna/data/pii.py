"""Personal data: e-mail and IP addresses, phone, card, bank account and national numbers are found and replaced by placeholders.

The paper (section 3.1.1) removes domains with much personal data and filters the rest; redaction keeps the document. Numbers
must pass their check digits (Luhn, ISO 7064 and those of `puna.data.national_ids`), so sums and identifiers survive; a phone
number needs an international prefix, a national shape or a word like "tel" before it. In a batch one compiled pattern first
tells which texts hold anything that could be personal data, so that clean text costs next to nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING

import numpy as np

from puna.data.national_ids import NATIONAL_KINDS, national_ids

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("email", "phone", "ip", "card", "iban", *NATIONAL_KINDS)
PLACEHOLDERS = dict.fromkeys(NATIONAL_KINDS, "<national_id>") | {
    kind: f"<{kind}>" for kind in KINDS if kind not in NATIONAL_KINDS
}
# RE2, which has no look-around and reads half a gigabyte a second: whatever `find` finds, one of these is in it
FILTERS = {
    "email": r"@|(?i:[\[({]at[\])}])",
    # seven digits (cards, phones, national numbers), or a dotted address
    "number": r"(?:\p{Nd}[ ().\-/]{0,14}){7}|(?:[0-9]{1,3}\.){3}[0-9]",
    # an IPv6 address, an account number, a codice fiscale
    "code": r"[0-9A-Fa-f:]:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]|[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}"
    r"|[A-Z]{6} ?[0-9LMNPQRSTUV]{2} ?[ABCDEHLMPRST]",
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

# the patterns proper try every letter of a text; they are shown only what lies about these
SEEDS = {
    "email": re.compile(r"@|[\[({]at[\])}]", re.I),
    "number": re.compile(r"\d[\d ().\-/]{5,120}\d"),  # seven digits, or a dotted address
    "code": re.compile(FILTERS["code"]),
}
REACH = {"email": 320, "number": 96, "code": 96}  # characters on both sides: a longest address; a label before a number

Span = tuple[int, int, str]
Stretch = tuple[int, int]  # first and last+1 character


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
    maybe = {
        name: pc.match_substring_regex(texts, pattern).fill_null(False).to_numpy(zero_copy_only=False)
        for name, pattern in FILTERS.items()
    }
    changed = np.zeros(len(texts), dtype=bool)
    replacements = []
    for index in np.flatnonzero(np.logical_or.reduce(list(maybe.values()))).tolist():
        text, found = redact(texts[index].as_py(), [name for name in FILTERS if maybe[name][index]])
        if found:
            changed[index] = True
            replacements.append(text)
            for kind, count in found.items():
                counts[kind][index] = count
    if replacements:
        texts = pc.replace_with_mask(texts, pa.array(changed), pa.array(replacements, type=texts.type))
    return texts, counts


def redact(text: str, look: Collection[str] = tuple(FILTERS)) -> tuple[str, dict[str, int]]:
    """The text with every find replaced by its placeholder (`PLACEHOLDERS`), and the counts by kind; `look` as in `find`."""
    spans = find(text, look)
    if not spans:
        return text, {}
    parts, position = [], 0
    for start, end, kind in spans:
        parts += [text[position:start], PLACEHOLDERS[kind]]
        position = end
    return "".join([*parts, text[position:]]), dict(Counter(kind for _, _, kind in spans))


def find(text: str, look: Collection[str] = tuple(FILTERS)) -> list[Span]:
    """Every piece of personal data as (start, end, kind), in order and without overlap; the more certain kinds win.

    Args:
        look: which of `FILTERS` the text passed; the others' patterns are not tried.
    """
    taken: list[Span] = []
    for span in _candidates(text, look):
        if all(span[1] <= start or span[0] >= end for start, end, _ in taken):
            taken.append(span)
    return sorted(taken)


def _candidates(text: str, look: Collection[str]) -> Iterator[Span]:
    about = {name: _about(text, name) if name in look else [] for name in SEEDS}
    yield from ((match.start(), match.end(), "email") for match in _matches(EMAIL, text, about["email"]))
    yield from ((match.start(), match.end(), "email") for match in _matches(EMAIL_SPELLED, text, about["email"]))
    yield from ((match.start(), match.end(), "ip") for match in _matches(IPV6, text, about["code"]) if _is_address_6(match[0]))
    yield from ((start, end, "iban") for start, end in _ibans(text, about["code"]))
    yield from national_ids(text, _merged(about["number"] + about["code"]))
    numbers = about["number"]
    yield from ((match.start(), match.end(), "card") for match in _matches(CARD, text, numbers) if _is_card(match[0]))
    yield from ((match.start(), match.end(), "ip") for match in _matches(IPV4, text, numbers) if _is_address(text, match))
    labelled = _matches(PHONE_LABELLED, text, numbers)
    yield from ((*match.span(1), "phone") for match in labelled if _digits(match[1]) in PHONE_DIGITS)
    yield from ((match.start(), match.end(), "phone") for match in _matches(PHONE, text, numbers) if _is_phone(text, match))


def _about(text: str, name: str) -> list[Stretch]:
    reach = REACH[name]
    return _merged([(max(0, seed.start() - reach), seed.end() + reach) for seed in SEEDS[name].finditer(text)])


def _merged(stretches: list[Stretch]) -> list[Stretch]:
    """Stretches in order, those that touch as one."""
    merged: list[Stretch] = []
    for low, high in sorted(stretches):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


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
