"""Collection and curation whole: planted faults, equal bytes from every back end, real files through to tokens, bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from curating import collected, curated, digest

from puna.core.errors import InputError
from puna.core.intervals import wilson
from puna.core.stage import local_artifact, local_context
from puna.data import collect, curate, shards
from puna.data.columns import documents, read_shard_table, shard_paths
from puna.data.signals import CODE, MATHS, PROSE

DATA = Path(__file__).parents[2].parent / "shared" / "data"
RIVER = (
    "The river rises in the hills above the town and flows for ninety miles to the sea. Two mills still stand on its "
    "lower course; one of them was built in 1780 and grinds flour today. Visitors come for the walks along the water. "
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    collected(root / "pages", seed=11, sources=[{"world": {"pages": 1000}}], pages_per_shard=300)
    (root / "summary.json").write_text(json.dumps(curated(root / "pages", root / "docs", workers=1)))
    return root


def test_planted_faults_are_found_and_clean_pages_kept(world):
    planted = json.loads((world / "docs" / "planted.json").read_text())
    assert planted == json.loads((world / "summary.json").read_text())["planted"]
    pages = {"near_duplicate": 0.95, "exact_duplicate": 0.95, "url_duplicate": 0.95, "spam": 0.9, "wrong_language": 0.9}
    goals = pages | {"pii": 0.95, "boilerplate": 0.95}
    for fault, recall in goals.items():
        score = planted[fault]
        assert score["planted"] >= 20 and score["recall"] >= recall and score["precision"] >= 0.95, (fault, score)
        assert score["recall_interval"][0] <= score["recall"] <= score["recall_interval"][1]
    truth = read_shard_table(world / "pages" / "truth.parquet")
    kept = {row["id"] for row in documents(world / "docs", ["id"])}
    clean = [row["id"] for row in truth if not row["fault"]]
    assert sum(name in kept for name in clean) >= 0.97 * len(clean)


def test_documents_hold_the_main_content_line_by_line(world):
    from puna.world.pages import generate

    texts = {row["id"]: row["text"].split("\n") for row in documents(world / "docs", ["id", "text"])}
    wanted = found = 0
    for page in generate(1000, 11):
        if page.fault is None and page.id in texts:
            wanted += len(page.lines)
            found += sum(line in texts[page.id] for line in page.lines)
            extra = [line for line in texts[page.id] if line and line not in page.lines]
            assert not extra
    assert found / wanted > 0.95  # frequent lines are gone on purpose


def test_annotations_lie_beside_the_documents(world):
    out = world / "docs"
    for path in shard_paths(out / "documents"):
        notes = read_shard_table(out / "annotations" / path.name)
        assert [row["id"] for row in notes] == [row["id"] for row in read_shard_table(path)]
        assert all(row["keep"] and row["reason"] == "" and row["words"] > 0 for row in notes)
        assert all(row["reason"] and not row["keep"] for row in read_shard_table(out / "dropped" / path.name))
    funnel = json.loads((out / "funnel.json").read_text())
    counts = [step["documents"] for step in funnel["steps"]]
    assert counts[0] == 1000 and counts == sorted(counts, reverse=True) and counts[-1] == funnel["documents"]
    assert funnel["examples"]["language"][0]["opening"]


def test_collection_is_repeatable_and_in_order(tmp_path):
    rows = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(10))
    (tmp_path / "a.jsonl").write_text(rows + "broken\n")
    for name in ("one", "two"):
        summary, _ = collected(tmp_path / name, sources=[str(tmp_path / "a.jsonl")], pages_per_shard=4)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert summary["pages"] == 10 and summary["shards"] == 3 and summary["bad_rows"] == 1
    content = [row["content"] for path in shard_paths(tmp_path / "one" / "shards") for row in read_shard_table(path)]
    assert content == [f"row {i}".encode() for i in range(10)]
    bad = json.loads((tmp_path / "one" / "bad_rows.jsonl").read_text())
    assert (bad["source"], bad["file"], bad["position"]) == ("a.jsonl", "a.jsonl", "line 11")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in (tmp_path / "one").rglob("*.*") if path.is_file())


def test_a_changed_file_changes_what_the_pages_depend_on(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    settings = collect.Settings(sources=[str(tmp_path / "a.txt"), "pydoc"])
    before = collect.outside(settings)
    (tmp_path / "a.txt").write_text("two")
    after = collect.outside(settings)
    assert before["0:a.txt"] != after["0:a.txt"] and before["1:pydoc"] == after["1:pydoc"]


def test_short_and_long_forms_of_sources():
    assert collect.Settings(sources="world").sources == collect.Settings(sources=[{"world": None}]).sources
    forms = collect.Settings(sources=["pydoc", {"world": {"pages": 5}}, "a/*.txt", {"path": "b", "licence": "MIT"}]).sources
    assert [type(form).__name__ for form in forms] == ["PydocSource", "WorldSource", "FileSource", "FileSource"]
    assert forms[1].world.pages == 5 and forms[3].licence == "MIT" and forms[2].path == "a/*.txt"
    with pytest.raises(ValueError, match="licens"):
        collect.Settings(sources=[{"path": "b", "licens": "MIT"}])


@pytest.mark.parametrize(("name", "content", "match"), [
    ("absent.jsonl", None, "no file is there"),
    ("empty.jsonl", b"", "gave not one page"),
    ("bad.jsonl", b"not json\n", "gave not one page"),
    ("cut.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 5, mtime=0)[:12], "gave not one page"),
    ("a.png", b"\x89PNG", "gave not one page"),
    ("a.zip", b"PK nothing", "zip archive cannot be read"),
    ("a.warc", b"no warc at all", "gave not one page"),
])  # fmt: skip
def test_bad_input_is_one_message(tmp_path, name, content, match):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match) as error:
        collected(tmp_path / "pages", sources=[str(tmp_path / name)])
    assert error.value.where and error.value.fix


def test_nothing_left_says_which_rule_dropped_it(tmp_path):
    (tmp_path / "a.txt").write_text("x y")
    collected(tmp_path / "pages", sources=[str(tmp_path / "a.txt")])
    with pytest.raises(InputError, match="left no document") as error:
        curated(tmp_path / "pages", tmp_path / "docs", workers=1)
    assert "quality:words 1" in error.value.where


def test_personal_data_is_redacted_in_kept_and_dropped_documents(tmp_path):
    rows = [{"text": RIVER + "Write to jane.roe@mail.example.org for more."}, {"text": "jane.roe@mail.example.org"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    collected(tmp_path / "pages", sources=[str(tmp_path / "a.jsonl")])
    curated(tmp_path / "pages", tmp_path / "docs", workers=1)
    [document] = documents(tmp_path / "docs")
    assert document["text"].endswith("Write to <email> for more.") and document["group"] == "general"
    assert not any(b"jane.roe" in path.read_bytes() for path in (tmp_path / "docs").rglob("*.json"))
    [dropped] = read_shard_table(tmp_path / "docs" / "dropped" / "00000.parquet")
    assert dropped["opening"] == "<email>"


def test_wilson_interval_against_published_values():
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29 by the score method without correction
    for k, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(9, 9)[1] == 1.0


@pytest.mark.skipif(not DATA.exists(), reason="the real sample files are not at ../shared/data")
def test_real_files_run_through_to_tokens(tmp_path):
    from puna.tokenizer.bpe import Tokenizer

    names = [
        "warc_resiliparse",
        "warc_warcio",
        "warc_commoncrawl",
        "text_en/inaugural.zip",
        "udhr/*.xml",
        "oasst_trees/en_60_tree.jsonl",
    ]
    summary, pages = collected(tmp_path / "pages", sources=[str(DATA / name) for name in names])
    assert summary["bad_rows"] == 2 and summary["sources"]["warc_resiliparse"]["pages"] == 78
    result = curated(pages, tmp_path / "docs", workers=1)
    languages = {lang for lang, count in result["languages"].items() if count["kept"]}
    assert (
        {"en", "de", "fr", "it", "pt", "hi", "es", "th"} <= languages <= {"en", "de", "fr", "it", "pt", "hi", "es", "th", "und"}
    )
    declarations = {row["url"].rsplit("/", 1)[-1][:8] for row in documents(tmp_path / "docs", ["url"]) if "udhr_" in row["url"]}
    assert declarations == {"udhr_eng", "udhr_deu", "udhr_fra", "udhr_ita", "udhr_por", "udhr_hin", "udhr_spa", "udhr_tha"}
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)}).save(tokenizer)
    inputs = [local_artifact(tmp_path / "docs", "documents"), local_artifact(tokenizer, "tokenizer")]
    tokens = shards.run(shards.Settings(), local_context(tmp_path / "tokens", inputs=inputs))
    assert tokens["documents"] == result["documents"] and {"general", "multilingual"} <= set(tokens["mix"])


def test_one_limit_of_a_group_keeps_the_others():
    settings = curate.Settings.model_validate({"maths": {"min_words": 3}, "general": {"max_duplicate_ngrams": None}})
    assert settings.maths == MATHS.model_copy(update={"min_words": 3}) and settings.code == CODE
    assert settings.general == PROSE.model_copy(update={"max_duplicate_ngrams": None})
    with pytest.raises(ValueError, match="min_word"):
        curate.Settings.model_validate({"maths": {"min_word": 3}})
