"""Personal data: what is found, what is left alone, and the check digits against independent arithmetic."""

from __future__ import annotations

import random
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.data import pii, pii_seeds
from puna.data.pii import KINDS, find, iban_valid, luhn_valid, redact, redact_batch
from puna.data.pii_seeds import seeds_of, seeds_of_batch


@pytest.mark.parametrize(("text", "expected"), [
    ("write to jo.doe+x@mail.example.com.", "write to <email>."),
    ("jane (at) example (dot) org", "<email>"),
    ("from 203.0.113.77 again", "from <ip> again"),
    ("card 4111 1111 1111 1111 or 4111-1111-1111-1111", "card <card> or <card>"),
    ("Amex 378282246310005", "Amex <card>"),
    ("IBAN DE89 3704 0044 0532 0130 00 today", "IBAN <iban> today"),
    ("GB82WEST12345698765432", "<iban>"),
    ("call +49 30 901820 now", "call <phone> now"),
    ("(202) 555-0143", "<phone>"),
    ("Tel.: 06131 123456", "Tel.: <phone>"),
    ("+33 1 99 00 12 34", "<phone>"),
    ("โทร 02 123 4567", "โทร <phone>"),
    ("555-123-4567", "<phone>"),
    ("from 2001:db8::8a2e:370:7334, again", "from <ip>, again"),
    ("fe80:0:0:0:200:f8ff:fe21:67cf", "<ip>"),
    ("SSN 078-05-1120 and CPF 529.982.247-25", "SSN <national_id> and CPF <national_id>"),
    ("codice fiscale RSSMRA85T10A562S.", "codice fiscale <national_id>."),
])  # fmt: skip
def test_redaction(text, expected):
    assert redact(text)[0] == expected


@pytest.mark.parametrize("text", [
    "2+5=7. 7-4=3. 12 + 345 = 357", "version 1.2.3.4 and 127.0.0.1 and 255.255.255.0", "3.14159265358979 and 1,234,567,890",
    "4111 1111 1111 1112", "2020-08-08 17:27:41", "12.03.2021 and 2019/2020", "ISBN 978-3-16-148410-0", "0.001 0.002 0.003",
    "100 200 300 400 500", "1234567890123456", "DE89 3704 0044 0532 0130 01", "555-123-4567 = 3", "pages 10-20 of 300",
    "2000000-400000=1600000", "8abbe477-9547-4822-863a-438ee9", "+3.140000", "in sections 8.2.4.44 of it", "4111 111 1111 11111",
    "192.168.0.17 and 10.0.0.0/8 and 172.16.4.2", "0001-01-01 and 0300-12-31", "[573763426263223372, 4220315081820346526]",
    "Boston, MA 02110-1301, USA", "std::vector::at and a::b::c and ::1 and ::", "at 12:30:45 or 00:1A:2B:3C:4D:5E",
    "1.0.0-rc.1, v10.0.19045.3693", "$1,299.00 or 1.299 €",
    "6.02214076e23 and 1.602176634e-19", "10.1038/s41586-021-03819-2", "2021-03-04T05:06:07.123456Z", "ISBN-10 0-306-40615-2",
    "0x7ffe1234 and 1e10", "chapter 1.2.3.4.5 of 6", "45,678,901 votes; 12 345 678 more", "550e8400-e29b-41d4-a716-446655440000",
    "RFC 2822 and PEP 484", "the years 1914 1918 1939 1945", "look at example dot com at noon", "def f(x: int) -> str: @property",
])  # fmt: skip
def test_what_is_no_personal_data_stays(text):
    assert redact(text) == (text, {})


def test_counts_and_order():
    text = "a@b.org 203.0.113.9 c@d.org"
    assert [kind for _, _, kind in find(text)] == ["email", "ip", "email"]
    assert redact(text) == ("<email> <ip> <email>", {"email": 2, "ip": 1})


def test_luhn_and_iban_reject_every_changed_digit():
    rng = random.Random(1)
    number = "4539578763621486"
    assert luhn_valid(number)
    for place in range(len(number)):
        other = rng.choice([digit for digit in "0123456789" if digit != number[place]])
        assert not luhn_valid(number[:place] + other + number[place + 1 :])
    iban = "FR1420041010050500013M02606"
    assert iban_valid(iban)
    for place in range(4, len(iban)):
        if iban[place].isdigit():
            assert not iban_valid(iban[:place] + str((int(iban[place]) + 1) % 10) + iban[place + 1 :])


FINDS = [
    "jo@mail.example.org", "a (at) b (dot) org", "203.0.113.77", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00",
    "+49 30 901820", "(202) 555-0143", "Tel.: 06131 123456", "tel 1      23 45    678", "2001:db8::8a2e:370:7334",
    "078-05-1120", "X1234567L", "RSSMRA85T10A562S", "2341 2341 2346", "1-2345-45678-78-1", "โทร ๐๒ ๑๒๓ ๔๕๖๗",
]  # fmt: skip
FILLING = st.text(st.sampled_from("ab .,:;1290-()/@\n+ é"), max_size=12)


@settings(deadline=None)  # the first call imports Arrow's functions
@given(st.lists(st.tuples(FILLING, st.sampled_from(["", *FINDS]), FILLING), min_size=1, max_size=4))
def test_a_batch_is_what_single_texts_give(pieces):
    texts = [" ".join(piece) for piece in pieces] + [None]
    redacted, counts = redact_batch(pa.array(texts))
    assert redacted.to_pylist() == [text if text is None else redact(text)[0] for text in texts]
    assert list(counts) == list(KINDS) and all(column.dtype == "int32" for column in counts.values())
    for index, text in enumerate(texts):
        assert {kind: int(column[index]) for kind, column in counts.items() if column[index]} == (redact(text)[1] if text else {})


def test_clean_text_has_no_seeds():
    texts = [
        "A page of 12 lines, 3 tables and 1,400 words.",
        "def f(x): return x[0]",
        "SUMME DER ZAHLEN: 48/2 = 24",
        "@property at 12:30:45 or 00:1A:2B:3C:4D:5E, std::vector::at and a::b",
        "été 2019-20, 12 345, ٣٤٥ à 漢字",
    ]
    assert list(seeds_of_batch(pa.array(texts))) == []


def test_a_batch_keeps_its_arrow_type():
    column = pa.chunked_array([["a@b.org"], ["none"]], type=pa.large_string())
    redacted, counts = redact_batch(column)
    assert redacted.type == pa.large_string() and redacted.to_pylist() == ["<email>", "none"]
    assert counts["email"].tolist() == [1, 0]


PIECES = (
    "+49 30 1234567", "tel: 030 123 45 67", "a.b@c.example.org", "x [at] y.org", "123-45-6789", "4111 1111 1111 1111",
    "192.0.2.77", "DE89 3704 0044 0532 0130 00", "2001:db8::8a2e:370:7334", "RSSMRA85T10A562S", "529.982.247-25", "2026-01-02",
    "3.14159", " ", "  ", "\n", "word", "-", ".", "(", "7", "CPF ", "version ",
)  # fmt: skip


def everywhere(text: str) -> pii_seeds.Seeds:
    """Seeds that have every pattern look at the whole text."""
    return {kind: [(0, len(text), len(text))] for kind in pii_seeds.KINDS}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(0, 400))
def test_looking_about_the_seeds_finds_what_looking_everywhere_finds(pieces, gap):
    text = (" word" * gap).join(["".join(pieces[::2]), "".join(pieces[1::2]), "".join(pieces)])
    assert pii.find(text) == pii._find(text, everywhere(text))


# what each kind of seed is, for a machine that may look around and go back
ORACLE = {
    pii_seeds.EMAIL: r"(?<=[A-Za-z0-9_.+'\-\x80-\U0010ffff])@(?=[A-Za-z0-9_])",
    pii_seeds.SPELLED: r"[\[({][Aa][Tt][\])}]",
    pii_seeds.ACCOUNT: r"(?<![A-Za-z0-9_])[A-Z](?=[A-Z]\d\d(?: ?[A-Z0-9]{4}){2})",
    pii_seeds.FISCAL: r"(?<![A-Za-z0-9_])[A-Z](?=[A-Z]{5} ?[0-9L-NP-V]{2} ?[A-EHLMPRST][0-9L-NP-V]{2}"
    r" ?[A-Z][0-9L-NP-V]{3} ?[A-Z])",
    pii_seeds.NUMBER: r"\d(?:[ ().\-/]{0,2}\d){6,}",
    pii_seeds.LABELLED: r"(?<=[lnoestrxypLNOESTRXYP]|[^\x00-\x7f\s\d])[\s.:#=+(]*\d(?:[ ().\-/]{0,15}\d){6,}",
}
DOTTED = r"(?<!\d)(?:\d{1,3}\.){3}\d"
# by these, whole texts were once chosen: personal data is only where one of them is
FILTERS = (
    r"@|[\[({][Aa][Tt][\])}]|\d(?:[ ().\-/]{0,15}\d){6}|(?:\d{1,3}\.){3}\d|[0-9A-Fa-f:]:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]"
    r"|[A-Z]{2}\d\d ?[A-Z0-9]{4}|[A-Z]{6} ?[0-9LMNPQRSTUV]{2} ?[ABCDEHLMPRST]"
)
SIGNS = (
    *FINDS, *PIECES, *"0123456789 ().-/:@+#,'_XZ", "  ", "12", "2345678", "٣", "٤٥٦٧", "१२", "é", "漢字", "🙂", "\u00a0",
    "\u3000", "tel", "télé", "मोबाइल", "::", "a:b", "0:1:2:3", "fe80", "DE", "GB82 WEST", "RSSMRA", "85T10", "L", "[at]", "(AT)",
    "{at}", "\ud800",
)  # fmt: skip


def scrambled(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(SIGNS, k=rng.randrange(1, 16))) for _ in range(count)]


def hexadecimal(text: str) -> list[tuple[int, int]]:
    found = []
    for match in re.finditer(r"(?<![A-Za-z0-9_:.])[0-9A-Fa-f:]+(?![A-Za-z0-9_:])", text):
        groups = [group for group in match[0].split(":") if group]
        if len(groups) >= 3 and max(map(len, groups)) <= 4 and ("::" in match[0] or match[0].count(":") == 7):
            found.append(match.span())
    return found


def test_seeds_are_those_of_plain_patterns_in_characters():
    seen = set()
    for text in scrambled(6000, seed=1):
        seeds = seeds_of(text)
        seen |= set(seeds)
        expected = {kind: [match.span() for match in re.finditer(pattern, text)] for kind, pattern in ORACLE.items()}
        expected[pii_seeds.HEXADECIMAL] = hexadecimal(text)
        for kind, spans in expected.items():
            assert [(start, end) for start, end, _ in seeds.get(kind, [])] == spans, (kind, text)
        assert bool(re.search(DOTTED, text)) == (pii_seeds.DOTTED in seeds), text
        for start, end, digits in seeds.get(pii_seeds.NUMBER, []):
            assert digits == sum(sign.isdecimal() for sign in text[start:end])
    assert seen == set(pii_seeds.KINDS)


def test_no_find_without_a_seed_and_no_seed_outside_the_filters():
    texts = [text for text in scrambled(3000, seed=2) if "\ud800" not in text]
    seeds = dict(seeds_of_batch(pa.array(["", *texts, None]).slice(1)))
    kinds = set()
    for index, text in enumerate(texts):
        found = pii._find(text, everywhere(text))
        assert found == pii._find(text, seeds.get(index, {})) == find(text), text
        assert re.search(FILTERS, text) or index not in seeds, text
        kinds |= {kind for _, _, kind in found}
    assert kinds >= {"email", "ip", "phone", "card", "iban", "ssn", "dni", "codice_fiscale"}
