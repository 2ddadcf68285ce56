"""`sbom.spdx.json`: the model and what it was trained and tested on, as SPDX 3.0.1 in JSON-LD (AI and Dataset profiles).

The AI profile wants one declared and one concluded licence for each package; both come from the lineage. Identifiers are made of
digests, so the same release gives the same file.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from puna.core.licences import terms_of
from puna.core.lineage import Row
from puna.core.lineage_graph import described
from puna.report.release.facts import Facts

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
CREATION = "_:creation"
PROFILES = ["core", "software", "ai", "dataset", "simpleLicensing"]
Element = dict[str, Any]


def document(facts: Facts, weights: dict[str, str]) -> dict[str, Any]:
    """The whole document. `weights`: SHA-256 of the files of weights by name."""
    writer = _Writer(facts)
    model = writer.model()
    for name, digest in sorted(weights.items()):
        writer.relate(model, "contains", [writer.file(name, digest)])
    trained = [writer.source(row) for row in facts.sources()]
    if trained:
        writer.relate(model, "trainedOn", trained)
    tested = [writer.tested(score) for score in facts.scores]
    if tested:
        writer.relate(model, "testedOn", tested)
    return {"@context": CONTEXT, "@graph": [writer.creation(), *writer.finished(model)]}


class _Writer:
    """Elements of one document."""

    def __init__(self, facts: Facts):
        self.facts = facts
        self.root = f"https://spdx.org/spdxdocs/puna-{facts.model['digest'][:32]}"
        self.time = spdx_time(facts.created)
        self.elements: dict[str, Element] = {}
        self.supplier = self.add("Agent", "supplier", name=facts.supplier)

    def add(self, kind: str, place: str, **properties: Any) -> str:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", place)
        apart = "" if plain == place else f"-{hashlib.blake2b(place.encode(), digest_size=4).hexdigest()}"
        identity = f"{self.root}/{plain}{apart}"
        self.elements.setdefault(identity, {"type": kind, "spdxId": identity, "creationInfo": CREATION, **properties})
        return identity

    def creation(self) -> Element:
        return {"@id": CREATION, "type": "CreationInfo", "specVersion": "3.0.1", "created": self.time,
                "createdBy": [self.supplier]}  # fmt: skip

    def finished(self, model: str) -> list[Element]:
        held = sorted(self.elements)
        document = self.add("SpdxDocument", "document", name=self.facts.name, profileConformance=PROFILES, rootElement=[model],
                            element=held)  # fmt: skip
        return [self.elements[document], *(self.elements[key] for key in held)]

    def model(self) -> str:
        facts, shape = self.facts, self.facts.config
        entries = [{"type": "DictionaryEntry", "key": key, "value": str(shape[key])} for key in sorted(shape)]
        metrics = [
            {"type": "DictionaryEntry", "key": f"accuracy {s['artifact']} {s['split']}",
             "value": str(s["result"]["overall"].get("accuracy"))}
            for s in facts.scores
        ]  # fmt: skip
        about: dict[str, Any] = {"ai_metric": metrics} if metrics else {}
        identity = self.add(
            "ai_AIPackage", f"model-{facts.name}", name=facts.name, **self._package(facts.model["digest"], "model"),
            ai_typeOfModel=["transformer decoder (Llama)"], ai_hyperparameter=entries,
            ai_informationAboutTraining=f"Puna {facts.puna}, run {facts.run}, stage {facts.model['name']}",
            ai_limitation="Safety was not measured.", ai_useSensitivePersonalInformation="noAssertion", **about,
        )  # fmt: skip
        self.licensed(identity, facts.licence, facts.licence)
        return identity

    def _package(self, version: str, purpose: str) -> dict[str, Any]:
        return {
            "software_packageVersion": version[:32], "software_downloadLocation": f"{self.root}/download",
            "software_primaryPurpose": purpose, "suppliedBy": self.supplier, "releaseTime": self.time, "builtTime": self.time,
        }  # fmt: skip

    def file(self, name: str, digest: str) -> str:
        hashed = [{"type": "Hash", "algorithm": "sha256", "hashValue": digest}]
        return self.add("software_File", f"file-{name}", name=name, software_primaryPurpose="model", verifiedUsing=hashed)

    def source(self, row: Row) -> str:
        """A source of the model: a model from elsewhere, or a data set."""
        licence, declared = str(row.get("licence", "unknown")), str(row.get("declared") or row.get("licence", "unknown"))
        place = f"{row.get('role') or row.get('use') or 'data'}-{row['source']}-{licence}-{declared}"
        about = {"name": str(row["source"]), "comment": described(row), **self._package("unstated", "data")}
        if row.get("use"):
            identity = self.add("ai_AIPackage", place, **{**about, "software_primaryPurpose": "model"})
        else:
            identity = self._dataset(place, about, rows=int(row.get("rows", 0)))
        self.licensed(identity, declared, licence)
        return identity

    def tested(self, score: dict[str, Any]) -> str:
        package = self._package(score["digest"], "data")
        identity = self._dataset(f"tested-{score['artifact']}", {"name": f"{score['artifact']}, {score['split']}", **package},
                                 rows=int(score["result"]["overall"].get("n", 0)))  # fmt: skip
        self.licensed(identity, "NOASSERTION", "NOASSERTION")
        return identity

    def _dataset(self, place: str, about: dict[str, Any], rows: int) -> str:
        return self.add(
            "dataset_DatasetPackage", place, **about, originatedBy=[self.supplier], dataset_datasetType=["text"],
            dataset_datasetSize=rows, dataset_hasSensitivePersonalInformation="noAssertion",
        )  # fmt: skip

    def licensed(self, package: str, declared: str, concluded: str) -> None:
        for kind, licence in (("hasDeclaredLicense", declared), ("hasConcludedLicense", concluded)):
            self.relate(package, kind, [self.expression(licence)])

    def expression(self, licence: str) -> str:
        """A licence expression; what SPDX does not list is a text of its own, which names the licence and does not hold it."""
        text = licence if licence.lower() not in ("unknown", "") else "NOASSERTION"
        custom = []
        for name in sorted(set(re.findall(r"LicenseRef-[A-Za-z0-9.-]+", text))):
            terms = terms_of(name)
            words = f"{terms.name if terms else name}: the text is not held in this document."
            known = self.add("simplelicensing_SimpleLicensingText", f"text-{name}", name=name, simplelicensing_licenseText=words)
            custom.append({"type": "DictionaryEntry", "key": name, "value": known})
        more: dict[str, Any] = {"simplelicensing_customIdToUri": custom} if custom else {}
        return self.add("simplelicensing_LicenseExpression", f"licence-{text}", simplelicensing_licenseExpression=text, **more)

    def relate(self, source: str, kind: str, targets: list[str]) -> None:
        ends = [target.removeprefix(self.root) for target in (source, *targets[:1])]
        self.add("Relationship", f"{kind}-{'-'.join(ends)}", relationshipType=kind, **{"from": source, "to": targets})


def spdx_time(stamp: str) -> str:
    """A time as SPDX writes it: UTC, whole seconds, Z."""
    return stamp[:19] + "Z"
