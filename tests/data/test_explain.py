"""A document's story against the files of the curation, read the plain way."""

import json
from collections import Counter

import pytest
from curating import collected, curated

from puna.core.errors import InputError
from puna.core.stage import Artifact
from puna.data.columns import read_shard_table, shard_paths
from puna.data.curate import Settings
from puna.data.explain import addresses, curation_of, explain, similar, token_places
from puna.data.shards import ShardBuilder

PARTS = {"pages": "pages", "facts": "docs.facts", "duplicates": "docs.duplicates", "signals": "docs.signals"}
GIVEN = {"engine": "serial", "workers": 1, "general": {"min_words": 420}, "lines": {"limit": 2}, "words": {"max_deviations": 2.5}}


def artifact(path, inputs, **settings):
    rows = [{"kind": kind, "path": f"../{name}"} for kind, name in inputs.items()]
    settings = Settings(**settings).model_dump(mode="json")
    return Artifact("docs", "documents", path, "", {"stage": "data.curate", "inputs": rows, "settings": settings})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    collected(root / "pages", seed=5, sources=[{"world": {"pages": 160}}], pages_per_shard=50)
    curated(root / "pages", root / "docs", **GIVEN)
    return root


@pytest.fixture(scope="module")
def curation(root):
    return curation_of(artifact(root / "docs", PARTS, **GIVEN))


@pytest.fixture(scope="module")
def fates(root):
    """Row of `annotations/` or `dropped/` by id."""
    paths = [path for folder in ("annotations", "dropped") for path in shard_paths(root / "docs" / folder)]
    return {row["id"]: row for path in paths for row in read_shard_table(path)}


@pytest.fixture(scope="module")
def truth(root):
    return [row | {"detail": json.loads(row["detail"])} for row in read_shard_table(root / "pages" / "truth.parquet")]


def test_every_document_is_told_as_it_was_decided(curation, fates):
    reasons = Counter(row["reason"] for row in fates.values())
    assert {"", "quality:words", "quality:unusual_words", "near_duplicate", "spam:advert", "language"} <= set(reasons)
    for name, row in fates.items():
        (story,) = [story for story in explain(curation, name) if story["id"] == name]
        assert story["decision"]["reason"] == (row["reason"] or "") and story["decision"]["kept"] == (not row["reason"])
        decisive = {signal["rule"] for signal in story["signals"] if signal["decisive"]}
        assert decisive == ({row["reason"]} if row["reason"].startswith(("quality:", "spam:")) else set())
        assert story["language"]["dropped"] == (row["reason"] == "language")
        assert set(story["pii"]) == {k[4:] for k, v in row.items() if k.startswith("pii_") and v}
        if story["decision"]["kept"]:  # no quality rule that holds for a kept document is failed
            assert not any(signal["beyond"] for signal in story["signals"] if not signal["together"])


def test_a_kept_document_is_found_where_it_is_said_to_be(root, curation, fates):
    name = next(name for name, row in fates.items() if not row["reason"])
    (story,) = explain(curation, name)
    place = story["decision"]
    written = read_shard_table(root / "docs" / "documents" / place["shard"])[place["row"]]
    assert written["id"] == name and len(written["text"]) == place["characters"]
    page = read_shard_table(root / "pages" / "shards" / story["page"]["shard"])[story["page"]["row"]]
    assert page["id"] == name and len(page["content"]) == story["page"]["bytes"] and page["licence"] == story["page"]["licence"]
    assert "content" not in story["page"]


def test_signals_stand_beside_the_limits_of_their_group(curation, fates):
    for group, least in (("general", 420), ("maths", 8)):
        name = next(n for n in fates if explain(curation, n)[0]["page"]["group"] == group and fates[n]["lang"] == "en")
        rows = {row["signal"]: row for row in explain(curation, name)[0]["signals"]}
        assert rows["words"]["sides"] == {"least": least, "most": 100_000} and rows["words"]["value"] == fates[name]["words"]
        assert rows["braces"]["limit"] is None


def test_copies_and_the_one_that_stays_know_each_other(curation, truth, fates):
    kinds = set()
    for row in (row for row in truth if row["fault"].endswith("_duplicate")):
        for name in (row["id"], row["detail"]["of"]):
            head = fates[name]["duplicate_of"]
            if head is None:
                continue
            kinds.add(fates[name]["reason"])
            (story,) = [s for s in explain(curation, name) if s["id"] == name]
            found = story["duplicates"]
            same = {n for n, r in fates.items() if r["duplicate_of"] == head and r["reason"] == fates[name]["reason"]}
            assert found["stands_for_it"]["id"] == head and found["kind"] == fates[name]["reason"] and found["complete"]
            assert {copy["id"] for copy in found["others"]} == same - {name} and found["cluster"] == len(same) + 1
            assert found["similarity"] == fates[name]["similarity"]
            (stays,) = [s for s in explain(curation, head) if s["id"] == head]
            assert name in {copy["id"] for copy in stays["duplicates"]["others"]}
    assert kinds == {"url_duplicate", "exact_duplicate", "near_duplicate"}


def test_removed_lines_are_shown(root, curation, fates):
    name = next(name for name, row in fates.items() if row["lines_removed"] and not row["reason"])
    (story,) = explain(curation, name)
    place = story["decision"]
    before = {row["id"]: row["text"] for row in read_shard_table(root / "docs.facts" / "text" / place["shard"])}[name]
    after = read_shard_table(root / "docs" / "documents" / place["shard"])[place["row"]]["text"]
    gone = [line for line in before.split("\n") if line not in after.split("\n")]
    assert story["lines"]["removed"] == fates[name]["lines_removed"] == len(gone)
    assert story["lines"]["first"] == [line[:120] for line in gone[:3]]


def test_shared_evaluation_data_is_told(root, curation, fates, tmp_path):
    source = next(name for name, row in fates.items() if not row["reason"] and row["lang"] == "en")
    shard = explain(curation, source)[0]["decision"]
    text = read_shard_table(root / "docs" / "documents" / shard["shard"])[shard["row"]]["text"]
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": text}))
    given = {"engine": "serial", "workers": 1, "decontaminate": {"files": [str(tmp_path / "exam.jsonl")]}}
    curated(root / "pages", tmp_path / "docs", **given)
    parts = PARTS | {"pages": str(root / "pages")}
    rows = [{"kind": kind, "path": path if kind == "pages" else f"../{path}"} for kind, path in parts.items()]
    record = {"inputs": rows, "settings": Settings(**given).model_dump(mode="json")}
    (story,) = explain(curation_of(Artifact("docs", "documents", tmp_path / "docs", "", record)), source)
    assert story["decision"]["reason"] == "contaminated" and story["contamination"]["item"].startswith("exam.jsonl")
    assert story["contamination"]["shares"]["8"] > 0.9 and explain(curation, source)[0]["contamination"] is None
    assert {row["signal"] for row in story["signals"] if row["decisive"]} >= {"contaminated_8", "contaminated_13"}


def test_an_address_is_found_in_other_spellings(curation, fates):
    (story,) = explain(curation, next(name for name, row in fates.items() if not row["reason"]))
    host, path = story["url"].removeprefix("https://").split("/", 1)
    for spelling in (story["url"], f"http://www.{host.upper()}/{path}#part", f"https://{host}/{path}?utm_source=x"):
        assert story["id"] in {found["id"] for found in explain(curation, spelling)}


def test_what_is_not_there_finds_its_neighbours(curation, fates):
    (story,) = explain(curation, next(iter(fates)))
    wrong = story["url"].replace(".html", "x.html")
    assert explain(curation, wrong) == [] and similar(curation.facts, wrong)[0] == story["url"]
    assert similar(curation.facts, "quite something else") == []
    assert addresses(curation.facts, [story["id"]]) == [story["url"]]


def test_a_curation_without_its_parts_is_an_input_error(root):
    with pytest.raises(InputError, match="not there: facts, duplicates, signals"):
        curation_of(artifact(root / "docs", {"pages": "pages"}))


def test_token_places_count_tokens(tmp_path):
    for split, names in (("train", "ab"), ("held", "c")):
        builder = ShardBuilder(tmp_path / f"{split}-code")
        for length, name in enumerate(names, 3):
            builder.add([1] * length, (name, "source"))
        builder.close({})
    expected = {"split": "train", "group": "code", "shard": "train-code", "index": 1, "tokens": 4}
    assert token_places(tmp_path, "b") == [expected]
    assert [place["split"] for place in token_places(tmp_path, "c")] == ["held"] and token_places(tmp_path, "d") == []
