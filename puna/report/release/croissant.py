"""`croissant/NAME.json`: each data set that the model was made from, as Croissant 1.1 (JSON-LD over schema.org).

The data sets themselves do not go along; what is described are their files, by SHA-256, and the fields of their rows.
"""

from __future__ import annotations

import re
from typing import Any

from puna.report.release.facts import Facts

CONFORMS = "http://mlcommons.org/croissant/1.1"
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "arrayShape": "cr:arrayShape", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "containedIn": "cr:containedIn", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes",
    "isArray": "cr:isArray", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5",
    "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "samplingRate": "cr:samplingRate", "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source",
    "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
LINES = "application/jsonlines"
FIELDS = {LINES: ("id", "provenance"), "application/x-parquet": ("id", "source")}


def documents(facts: Facts) -> dict[str, dict[str, Any]]:
    """A description of every data set, by file name; of two with the same name the later one's has its digest."""
    found: dict[str, dict[str, Any]] = {}
    for data in facts.datasets:
        name = _plain(data["name"])
        taken = f"{name}.json" in found
        found[f"{name}-{data['digest'][:8]}.json" if taken else f"{name}.json"] = document(facts, data)
    return found


def document(facts: Facts, data: dict[str, Any]) -> dict[str, Any]:
    """One data set."""
    files = [_file(entry) for entry in data["files"]]
    licences = [licence for licence in data["licences"] if licence != "unknown"] or ["NOASSERTION"]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": _plain(data["name"]),
        "description": f"Artifact '{data['name']}' ({data['kind']}) of the run {facts.run}; {facts.name} was made from it.",
        "license": licences,
        "url": f"https://spdx.org/spdxdocs/puna-{data['digest'][:32]}",
        "version": "1.0.0",
        "datePublished": facts.created[:10],
        "creator": {"@type": "sc:Organization", "name": facts.supplier},
        "citeAs": f"{data['name']}, artifact {data['digest'][:32]}",
        "rai:dataCollection": f"Collected by Puna {facts.puna}; {data['rows']:,} rows of recorded sources.",
        "distribution": files,
        "recordSet": [record for entry in files if (record := _records(entry, data["name"]))],
    }


def _file(entry: dict[str, Any]) -> dict[str, Any]:
    lines = entry["name"].endswith(".jsonl")
    return {
        "@type": "cr:FileObject", "@id": entry["name"], "name": entry["name"], "contentUrl": entry["name"],
        "contentSize": f"{entry['bytes']} B", "sha256": entry["sha256"],
        "encodingFormat": LINES if lines else "application/x-parquet",
    }  # fmt: skip


def _records(file: dict[str, Any], dataset: str) -> dict[str, Any] | None:
    if file["@id"].startswith(("bad_rows", "dropped/")):
        return None
    name = _plain(f"{dataset}-{file['@id']}")
    lines = file["encodingFormat"] == LINES
    fields = []
    for column in FIELDS[file["encodingFormat"]]:
        extract = {"jsonPath": f"$.{column}"} if lines else {"column": column}
        source = {"fileObject": {"@id": file["@id"]}, "extract": extract}
        fields.append({"@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "dataType": "sc:Text", "source": source})
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)
