"""Numbers that states give to people, in the countries of the eight languages: their printed forms and their check digits.

A number counts when its check digits hold and it is printed the way only such a number is; a bare run of digits, which any
other identifier could be, counts only after a word that names it. A social security number of the United States has no check
digit, so its form and its impossible ranges decide. Each rule cites the place its arithmetic is published at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from puna.data.pii_seeds import FISCAL, NUMBER, Seeds, about

LABEL_CHARS = 48  # looked at before a number for the word that names it
YEAR = range(1900, 2100)  # three years in a row look like an Aadhaar number
VERHOEFF_TIMES = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432",
                  "7659821043", "8765932104", "9876543210")  # fmt: skip
VERHOEFF_TURN = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")
DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
# codice fiscale, characters at odd places: the value of 0 to 9 and equally of A to J, then of K to Z (decree of 23 December 1976)
FISCALE_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


@dataclass(frozen=True)
class Rule:
    """One kind of number.

    Attributes:
        kind: name under which finds are counted.
        digits: the fewest that stand together in any form; 0 for a code, which has seeds of its own.
        shape: every form in print; a match in a group called `bare` needs the label.
        valid: tells from the digits and letters alone.
        label: the words that name it; None where every form stands for itself.
    """

    kind: str
    digits: int
    shape: re.Pattern[str]
    valid: Callable[[str], bool]
    label: re.Pattern[str] | None = None


def national_ids(text: str, seeds: Seeds | None = None) -> Iterator[tuple[int, int, str]]:
    """Every national number as (start, end, kind); `NATIONAL_KINDS` lists the kinds.

    Args:
        seeds: those of the text; None to look at all of it.
    """
    for rule in RULES:
        looked = [(0, len(text))] if seeds is None else about(seeds, NUMBER if rule.digits else FISCAL, rule.digits)
        for match in (match for low, high in looked for match in rule.shape.finditer(text, low, high)):
            compact = re.sub(r"[^0-9A-Za-z]", "", match[0]).upper()
            bare = "bare" in match.re.groupindex and match["bare"] is not None
            if not rule.valid(compact) or (bare and not _labelled(text, match.start(), rule.label)):
                continue
            yield match.start(), match.end(), rule.kind


def _labelled(text: str, start: int, label: re.Pattern[str] | None) -> bool:
    return label is not None and label.search(text[max(0, start - LABEL_CHARS) : start]) is not None


def ssn_valid(digits: str) -> bool:
    """United States: no area 000, 666 or 900 up, no group 00, no serial 0000 (Social Security Administration)."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def cpf_valid(digits: str) -> bool:
    """Brazil, persons: two check digits modulo 11 with weights falling to 2; equal digits are never given out."""
    return len(set(digits)) > 1 and all(_modulo_11(digits[:place], range(place + 1, 1, -1)) == digits[place] for place in (9, 10))


def cnpj_valid(digits: str) -> bool:
    """Brazil, firms: two check digits modulo 11 with weights 2 to 9 in turn from the right."""
    weights = {place: [2 + (place - 1 - index) % 8 for index in range(place)] for place in (12, 13)}
    return len(set(digits)) > 1 and all(_modulo_11(digits[:place], weights[place]) == digits[place] for place in (12, 13))


def _modulo_11(digits: str, weights: range | list[int]) -> str:
    rest = sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % 11
    return str(11 - rest if rest > 1 else 0)


def dni_valid(number: str) -> bool:
    """Spain, citizens (DNI) and foreigners (NIE): the letter is the number modulo 23; X, Y, Z before it stand for 0, 1, 2."""
    return DNI_LETTERS[int(number[:-1].translate(str.maketrans("XYZ", "012"))) % 23] == number[-1]


def nir_valid(number: str) -> bool:
    """France: the last two digits are 97 minus the rest modulo 97; Corsica's 2A and 2B stand for 19 and 18 (INSEE)."""
    value = int(number[:13].replace("2A", "19").replace("2B", "18"))
    return 97 - value % 97 == int(number[13:])


def steuer_id_valid(digits: str) -> bool:
    """Germany: ISO 7064 MOD 11,10, and one of the first ten digits comes twice or three times while the others come once."""
    counts = sorted((digits[:10].count(digit) for digit in set(digits[:10])), reverse=True)
    if digits[0] == "0" or counts[0] not in (2, 3) or counts[1] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def codice_fiscale_valid(code: str) -> bool:
    """Italy: the last letter is the sum of the others modulo 26, with values of their own for odd places."""
    values = [int(sign) if sign.isdigit() else ord(sign) - ord("A") for sign in code[:15]]
    total = sum(FISCALE_ODD[value] if index % 2 == 0 else value for index, value in enumerate(values))
    return chr(ord("A") + total % 26) == code[15]


def aadhaar_valid(digits: str) -> bool:
    """India: Verhoeff's check digit over the dihedral group; the first is 2 to 9; three years in a row are no number."""
    state = 0
    for index, digit in enumerate(reversed(digits)):
        state = int(VERHOEFF_TIMES[state][int(VERHOEFF_TURN[index % 8][int(digit)])])
    return state == 0 and not all(int(digits[start : start + 4]) in YEAR for start in (0, 4, 8))


def thai_id_valid(digits: str) -> bool:
    """Thailand: weights 13 to 2, check digit 11 minus the sum modulo 11, modulo 10."""
    total = sum(int(digit) * (13 - index) for index, digit in enumerate(digits[:12]))
    return (11 - total % 11) % 10 == int(digits[12])


_LEFT, _RIGHT = r"(?<![\w.,/+-])(?<!\d[ ])", r"(?![\w@]|[-.,:/]\w|[ ]\d)"
# codice fiscale: digits may be replaced by these letters where two people would get the same code
_F = "[0-9LMNPQRSTUV]"

RULES = (
    Rule(
        "ssn",
        9,
        re.compile(rf"{_LEFT}(?:\d{{3}}-\d\d-\d{{4}}|(?P<bare>\d{{3}} ?\d\d ?\d{{4}})){_RIGHT}", re.A),
        ssn_valid,
        re.compile(r"\bSSN\b|social security", re.I),
    ),
    Rule(
        "cpf",
        11,
        re.compile(rf"{_LEFT}(?:\d{{3}}\.\d{{3}}\.\d{{3}}-\d\d|(?P<bare>\d{{9}}-?\d\d)){_RIGHT}", re.A),
        cpf_valid,
        re.compile(r"\bCPF\b", re.I),
    ),
    Rule(
        "cnpj",
        14,
        re.compile(rf"{_LEFT}(?:\d\d\.\d{{3}}\.\d{{3}}/\d{{4}}-\d\d|(?P<bare>\d{{14}})){_RIGHT}", re.A),
        cnpj_valid,
        re.compile(r"\bCNPJ\b", re.I),
    ),
    Rule(
        "dni",
        7,
        re.compile(rf"{_LEFT}(?:\d{{8}}|\d\d\.\d{{3}}\.\d{{3}}|[XYZ]-?\d{{7}})-?[{DNI_LETTERS}]{_RIGHT}", re.A),
        dni_valid,
    ),
    Rule(
        "nir",
        8,
        re.compile(rf"{_LEFT}[1-478] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d\d|2[AB]) ?\d{{3}} ?\d{{3}} ?\d\d{_RIGHT}", re.A),
        nir_valid,
    ),
    Rule(
        "steuer_id",
        11,
        re.compile(rf"{_LEFT}(?P<bare>\d\d ?\d{{3}} ?\d{{3}} ?\d{{3}}){_RIGHT}", re.A),
        steuer_id_valid,
        re.compile(r"steuer-?\s?(?:id|identifikation)|\bIdNr|\bSt-?ID\b|\bTIN\b", re.I),
    ),
    Rule(
        "codice_fiscale",
        0,
        re.compile(rf"{_LEFT}[A-Z]{{6}} ?{_F}{{2}} ?[ABCDEHLMPRST]{_F}{{2}} ?[A-Z]{_F}{{3}} ?[A-Z](?!\w)", re.A),
        codice_fiscale_valid,
    ),
    Rule(
        "aadhaar",
        12,
        re.compile(
            rf"{_LEFT}(?:[2-9]\d{{3}} \d{{4}} \d{{4}}|[2-9]\d{{3}}-\d{{4}}-\d{{4}}|(?P<bare>[2-9]\d{{11}})){_RIGHT}", re.A
        ),
        aadhaar_valid,
        re.compile(r"aadha+r|\bUIDAI\b|\bUID\b|आधार", re.I),
    ),
    Rule(
        "thai_id",
        13,
        re.compile(rf"{_LEFT}(?:\d-\d{{4}}-\d{{5}}-\d\d-\d|\d \d{{4}} \d{{5}} \d\d \d|(?P<bare>\d{{13}})){_RIGHT}", re.A),
        thai_id_valid,
        re.compile(r"ประชาชน|thai (?:national )?id", re.I),
    ),
)
NATIONAL_KINDS = tuple(rule.kind for rule in RULES)
