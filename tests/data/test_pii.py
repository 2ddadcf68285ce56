"""Personal data: what is found, what is left alone, and the check digits against independent arithmetic."""

from __future__ import annotations

import random

import pytest

from puna.data.pii import find, iban_valid, luhn_valid, redact


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
])  # fmt: skip
def test_redaction(text, expected):
    assert redact(text)[0] == expected


@pytest.mark.parametrize("text", [
    "2+5=7. 7-4=3. 12 + 345 = 357", "version 1.2.3.4 and 127.0.0.1 and 255.255.255.0", "3.14159265358979 and 1,234,567,890",
    "4111 1111 1111 1112", "2020-08-08 17:27:41", "12.03.2021 and 2019/2020", "ISBN 978-3-16-148410-0", "0.001 0.002 0.003",
    "100 200 300 400 500", "1234567890123456", "DE89 3704 0044 0532 0130 01", "555-123-4567 = 3", "pages 10-20 of 300",
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
