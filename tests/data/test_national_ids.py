"""National numbers: published examples, every changed digit rejected, tables against their construction, and what stays."""

from __future__ import annotations

import pytest

from puna.data.national_ids import (
    FISCALE_ODD,
    NATIONAL_KINDS,
    VERHOEFF_TIMES,
    VERHOEFF_TURN,
    aadhaar_valid,
    cnpj_valid,
    cpf_valid,
    dni_valid,
    national_ids,
    nir_valid,
    steuer_id_valid,
    thai_id_valid,
)

PUBLISHED = {
    "ssn": ["078-05-1120", "SSN 219 09 9999"],
    "cpf": ["529.982.247-25", "111.444.777-35", "390.533.447-05", "CPF: 52998224725"],
    "cnpj": ["11.222.333/0001-81", "16.727.230/0001-97", "CNPJ 11222333000181"],
    "dni": ["12345678Z", "54362315-K", "X1234567L", "X-2482300-W", "12.345.678-Z"],
    "nir": ["2 95 10 99 126 111 93", "295109912611193"],
    "steuer_id": ["Steuer-ID: 36 574 261 809", "Steueridentifikationsnummer 86095742719", "IdNr. 47 036 892 816"],
    "codice_fiscale": ["RSSMRA85T10A562S", "RCCMNL83S18D969H", "MRTMTT25D09F205Z"],
    "aadhaar": ["2341 2341 2346", "Aadhaar 234123412346", "आधार संख्या 2341-2341-2346"],
    "thai_id": ["1-2345-45678-78-1", "เลขประจำตัวประชาชน 1234545678781", "1 2345 45678 78 1"],
}


def kinds(text: str) -> list[str]:
    return [kind for _, _, kind in national_ids(text)]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PUBLISHED.items() for text in texts])
def test_published_numbers_are_found_in_a_sentence(kind, text):
    assert kinds(text) == [kind]
    assert kinds(f"Number of the holder: {text}, checked.") == [kind]
    ((start, end, _),) = national_ids(text)
    assert text[start:end][-1] == text[-1] and text[start : start + 1].isalnum()


def test_every_kind_has_an_example():
    assert set(PUBLISHED) == set(NATIONAL_KINDS)


@pytest.mark.parametrize(("valid", "number"), [
    (cpf_valid, "52998224725"), (cnpj_valid, "11222333000181"), (dni_valid, "12345678Z"), (nir_valid, "295109912611193"),
    (aadhaar_valid, "234123412346"), (thai_id_valid, "1234545678781"), (steuer_id_valid, "86095742719"),
])  # fmt: skip
def test_every_changed_digit_is_rejected(valid, number):
    assert valid(number)
    for place, digit in enumerate(number):
        unchecked = valid is thai_id_valid and place == 2  # weight 11, modulo 11
        if digit.isdigit() and not unchecked:
            changed = [number[:place] + other + number[place + 1 :] for other in "0123456789" if other != digit]
            # Brazil's and Thailand's sums are modulo 11 and written with ten digits: a few changes pass
            assert sum(map(valid, changed)) <= (1 if valid in (thai_id_valid, cpf_valid, cnpj_valid) else 0), (place, changed)


def test_verhoeff_tables_are_those_of_the_dihedral_group():
    def times(j: int, k: int) -> int:
        if j < 5:
            return (j + k) % 5 if k < 5 else (j + k) % 5 + 5
        return (j - k) % 5 + 5 if k < 5 else (j - k) % 5

    assert tuple("".join(str(times(j, k)) for k in range(10)) for j in range(10)) == VERHOEFF_TIMES
    rows = [list(range(10))]
    for _ in range(7):
        rows.append([int("1576283094"[value]) for value in rows[-1]])
    assert tuple("".join(map(str, row)) for row in rows) == VERHOEFF_TURN
    assert sorted(FISCALE_ODD) == list(range(26))


@pytest.mark.parametrize("text", [
    "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000", "111.111.111-11", "12345678A", "RSSMRA85T10A562T",
    "2001 2002 2003 and 2018 2019 2020", "12 345 678 901 people", "86095742719", "234123412346", "1234545678781", "52998224725",
    "order 219099999 of May", "20201231T120000Z", "ISBN 978-3-16-148410-0", "1.234.567,89 and 529.982.247", "pi 3.14159265358979",
    "8.12345678Z", "2341 2341 2346 2347", "call 12345678Zebra", "e-12345678Z", "ABCDEF12G34H567I",
])  # fmt: skip
def test_what_is_no_national_number_stays(text):
    assert kinds(text) == []
