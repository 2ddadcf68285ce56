"""What an artifact is made from, under which licences, and what that asks of whoever passes it on.

Each stage declares the sources it read; an artifact carries those and the union of its inputs'. The result is a file of the
artifact (`lineage.json`), so that a changed licence upstream changes the digest and travels down like any other change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]  # {"source", "licence", "rows", and obligations a stage declared itself}

ATTRIBUTION, SHARE_ALIKE, NON_COMMERCIAL = "attribution", "share-alike", "non-commercial"
NO_DERIVATIVES, LLAMA_NAME, UNKNOWN = "no-derivatives", "llama-name", "unknown-licence"

_FREE = re.compile(r"CC0|PDDL|Unlicense|0BSD|MIT-0|public-domain|LicenseRef-public-domain|none-needed", re.IGNORECASE)
_SHARE = re.compile(r"-SA\b|^A?L?GPL|^ODbL|^MPL|^EPL|^EUPL|^CDLA-Sharing|^GFDL", re.IGNORECASE)
_NOTICE = re.compile(
    r"^CC-BY|^MIT|^BSD|^Apache|^PSF|^Python|^ISC|^ODC-By|^A?L?GPL|^ODbL|^MPL|^EPL|^EUPL|^CDLA|^GFDL|^Zlib|^BSL|^Artistic"
    r"|^X11|^OFL|^Unicode|llama",
    re.IGNORECASE,
)


def combine(own: Iterable[Row], inputs: Iterable[Iterable[Row]]) -> list[Row]:
    """Union of declared sources and of the inputs' sources.

    The same source under the same terms stands once. Rows a stage declared twice add up; along two paths from one origin
    they are the same rows, so between inputs the larger count stands.
    """
    merged: dict[str, Row] = {}
    for row in own:
        known = merged.setdefault(_key(row), {**row, "rows": 0})
        known["rows"] += row.get("rows", 0)
    for rows in inputs:
        for row in rows:
            known = merged.setdefault(_key(row), dict(row))
            known["rows"] = max(known.get("rows", 0), row.get("rows", 0))
    return [merged[key] for key in sorted(merged)]


def obligations(rows: Iterable[Row]) -> list[str]:
    """What the union of some sources obliges to, sorted: by licence, and what a stage declared beside it (`llama_name=True`)."""
    found: set[str] = set()
    for row in rows:
        found |= duties(str(row.get("licence") or "unknown"))
        found |= {
            key.replace("_", "-") for key, value in row.items() if key not in ("source", "licence", "rows") and value is True
        }
    return sorted(found)


def duties(licence: str) -> set[str]:
    """Obligations of an SPDX expression: `A AND B` asks for both, `A OR B` for the lighter one."""
    text = licence.replace("(", " ").replace(")", " ").strip()
    if " OR " in text:
        return min((duties(part) for part in text.split(" OR ")), key=lambda d: (UNKNOWN in d, len(d), sorted(d)))
    if " AND " in text:
        return set().union(*(duties(part) for part in text.split(" AND ")))
    name = text.split(" WITH ")[0].strip()
    if _FREE.search(name):
        return set()
    found = {ATTRIBUTION} if _NOTICE.search(name) else {UNKNOWN}
    found |= {SHARE_ALIKE} if _SHARE.search(name) else set()
    found |= {NON_COMMERCIAL} if re.search(r"-NC\b", name, re.IGNORECASE) else set()
    found |= {NO_DERIVATIVES} if re.search(r"-ND\b", name, re.IGNORECASE) else set()
    return found | ({LLAMA_NAME} if re.search(r"llama", name, re.IGNORECASE) else set())


def _key(row: Row) -> str:
    rest = sorted((key, str(value)) for key, value in row.items() if key not in ("source", "licence", "rows"))
    return repr((str(row.get("source")), str(row.get("licence")), rest))
