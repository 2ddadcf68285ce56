"""Lineage: union of sources, and what licences oblige to."""

import pytest

from puna.core.lineage import combine, duties, obligations


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC0-1.0", set()),
        ("Unlicense", set()),
        ("MIT", {"attribution"}),
        ("Apache-2.0", {"attribution"}),
        ("PSF-2.0", {"attribution"}),
        ("CC-BY-4.0", {"attribution"}),
        ("CC-BY-SA-3.0", {"attribution", "share-alike"}),
        ("ODC-By-1.0", {"attribution"}),
        ("CC-BY-NC-4.0", {"attribution", "non-commercial"}),
        ("CC-BY-NC-ND-4.0", {"attribution", "non-commercial", "no-derivatives"}),
        ("GPL-3.0-or-later", {"attribution", "share-alike"}),
        ("LicenseRef-Llama-3.1", {"attribution", "llama-name"}),
        ("unknown", {"unknown-licence"}),
        ("MIT OR GPL-2.0-only", {"attribution"}),
        ("(MIT AND CC-BY-SA-4.0)", {"attribution", "share-alike"}),
        ("unknown OR GPL-2.0-only", {"attribution", "share-alike"}),
        ("(MIT OR GPL-3.0-only) AND CC-BY-NC-4.0", {"attribution", "non-commercial"}),
        ("MIT AND (CC-BY-SA-4.0 OR CC-BY-NC-4.0 AND MIT)", {"attribution", "non-commercial"}),
        ("MIT and unheard-of", {"attribution", "unknown-licence"}),
        ("mit or unheard-of", {"attribution"}),
        ("MIT AND", {"unknown-licence"}),
        ("(MIT OR CC0-1.0", {"unknown-licence"}),
        ("MIT OR CC0-1.0) AND MIT", {"unknown-licence"}),
        ("BSD (3-clause)", {"attribution"}),
        ("UNLICENSED", {"unknown-licence"}),
        ("not CC0", {"unknown-licence"}),
        ("LicenseRef-public-domain", set()),
    ],
)
def test_duties_by_spdx_identifier(licence, expected):
    assert duties(licence) == expected


def test_union_counts_rows_once_along_two_paths():
    web = {"source": "web", "licence": "CC-BY-4.0", "rows": 10}
    fewer = {**web, "rows": 7}
    own = [{"source": "gold", "licence": "MIT", "rows": 1}, {"source": "gold", "licence": "MIT", "rows": 2}]
    assert combine(own, [[web], [fewer]]) == [{"source": "gold", "licence": "MIT", "rows": 3}, web]
    assert combine([], [[web], [{**web, "licence": "CC0-1.0"}]]) == [web, {**web, "licence": "CC0-1.0"}]


def test_obligations_are_the_union_and_take_declared_ones():
    rows = [{"source": "a", "licence": "CC-BY-SA-4.0"}, {"source": "b", "licence": "CC0-1.0", "llama_name": True}]
    assert obligations(rows) == ["attribution", "llama-name", "share-alike"]
    assert obligations([]) == []
