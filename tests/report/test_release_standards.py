"""SPDX, CycloneDX and Croissant files of a bundle, read by the validators of those who made the formats."""

from __future__ import annotations

import pytest
from release_toys import build


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return build(tmp_path_factory.mktemp("herd")).bundle


def test_spdx_is_what_the_official_model_reads(bundle):
    model = pytest.importorskip("spdx_python_model", reason="pip install puna[test]").v3_0_1
    objects = model.SHACLObjectSet()
    with (bundle / "sbom.spdx.json").open("rb") as file:
        model.JSONLDDeserializer().read(file, objects)
    assert not objects.missing_ids
    packages = {package.name: package for package in objects.foreach_type("ai_AIPackage")}
    assert set(packages) == {"Llama-tuned", "given", "Llama-3.3-70B-Instruct"}
    licensed = {(kind, rel.from_.name): rel.to[0].simplelicensing_licenseExpression
                for rel in objects.foreach_type("Relationship")
                for kind in ("Declared", "Concluded") if rel.relationshipType.endswith(f"has{kind}License")}  # fmt: skip
    assert licensed["Declared", "mine"] == "CC-BY-SA-4.0" and licensed["Concluded", "mine"] == "CC-BY-4.0"
    every = [*packages, *(package.name for package in objects.foreach_type("dataset_DatasetPackage"))]
    assert set(licensed) == {(kind, name) for name in every for kind in ("Declared", "Concluded")}


def test_cyclonedx_holds_to_its_schema(bundle):
    validation = pytest.importorskip("cyclonedx.validation.json", reason="pip install puna[test]")
    from cyclonedx.schema import SchemaVersion

    text = (bundle / "mlbom.cdx.json").read_text()
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"component"', '"part"')) is not None


def test_croissant_is_read_without_a_complaint(bundle):
    mlcroissant = pytest.importorskip("mlcroissant", reason="pip install puna[test]")
    found = mlcroissant.Dataset(jsonld=str(bundle / "croissant" / "collect.json"))
    assert not found.metadata.ctx.issues.errors and not found.metadata.ctx.issues.warnings
    files = {file.name: file.sha256 for file in found.metadata.distribution}
    assert {"train.jsonl", "test.jsonl", "lineage.parquet"} <= set(files) and all(len(value) == 64 for value in files.values())
