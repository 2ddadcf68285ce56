"""Histograms, limits and domains of a small curation against a plain recount of its annotation files."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from curating import collected, curated, digest
from hypothesis import given
from hypothesis import strategies as st

from puna.data.columns import read_shard_table, shard_paths, write_table
from puna.data.curate import Settings
from puna.data.decontaminate import DecontaminationSettings
from puna.data.domains import NO_HOST, shard_domains, write_domains
from puna.data.histograms import COUNTS, LENGTHS, SHARES, SMALL_SHARES, edges_of
from puna.data.signals import Limits
from puna.data.spam import SpamLimits
from puna.data.thresholds import Threshold, outside, quality_thresholds, shared_thresholds, spam_thresholds


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    root = tmp_path_factory.mktemp("histograms")
    collected(root / "pages", seed=5, sources=[{"world": {"pages": 160}}], pages_per_shard=50)
    curated(root / "pages", root / "docs", engine="serial", workers=1, general={"min_words": 420})
    return root / "docs"


@pytest.fixture(scope="module")
def rows(docs):
    """Every document of the curation with its signals, reason, address and group."""
    kept = []
    for annotated, written in zip(shard_paths(docs / "annotations"), shard_paths(docs / "documents"), strict=True):
        texts = {row["id"]: row for row in read_shard_table(written)}
        kept += [
            row | {"url": texts[row["id"]]["url"], "group": texts[row["id"]]["group"]} for row in read_shard_table(annotated)
        ]
    return kept + [row for path in shard_paths(docs / "dropped") for row in read_shard_table(path)]


@pytest.fixture(scope="module")
def signals(docs):
    return json.loads((docs / "histograms.json").read_text())["signals"]


def fate_of(row, rules):
    return "kept" if not row["reason"] else "failed" if row["reason"] in rules else "dropped"


@pytest.mark.parametrize(
    "signal", ["words", "advert_share", "mean_word_chars", "unreadable", "top_2gram", "lang_p", "similarity"]
)
def test_bins_count_every_document_once(rows, signals, signal):
    found = signals[signal]
    rules = {limit["rule"] for limit in found["thresholds"]}
    edges = np.array(found["edges"])
    expected = Counter()
    for row in rows:
        if row[signal] is not None:
            place = max(i for i, edge in enumerate(edges[:-1]) if i == 0 or row[signal] >= edge)
            expected[row["group"], fate_of(row, rules), place] += 1
    counted = Counter()
    for group, fates in found["groups"].items():
        for fate, counts in fates.items():
            counted += Counter({(group, fate, place): count for place, count in enumerate(counts) if count})
    assert counted == expected and sum(expected.values()) > 0


def test_the_documents_nearest_to_a_limit_are_named_on_both_sides(rows, signals):
    limit = next(row for row in signals["words"]["thresholds"] if row["value"] == 420)
    assert limit == {"rule": "quality:words", "side": "least", "value": 420, "group": "general", "langs": None}
    near = [row for row in signals["words"]["examples"] if row["limit"] == 420]
    for fate, reason in (("kept", ""), ("failed", "quality:words")):
        among = sorted(abs(row["words"] - 420) for row in rows if row["group"] == "general" and row["reason"] == reason)
        assert [abs(row["value"] - 420) for row in near if row["fate"] == fate] == among[:2]
    known = {row["id"]: row for row in rows}
    for example in near:
        row = known[example["id"]]
        assert (row["url"], row["words"]) == (example["url"], example["value"])
    dropped = next(row for row in near if row["fate"] == "failed")
    assert dropped["opening"] == known[dropped["id"]]["opening"][:160]


def test_limits_of_every_group_are_those_of_the_settings(rows, signals):
    groups = {row["group"] for row in rows}
    settings = Settings(general={"min_words": 420}).thresholds().limits
    for group in groups - {"general", "multilingual"}:  # languages may have limits of their own there
        for threshold in quality_thresholds(settings[group]):
            listed = {(t["side"], t["value"]) for t in signals[threshold.signal]["thresholds"] if t["group"] == group}
            assert set(threshold.sides) == listed


def test_domains_count_hosts(docs, rows):
    pages = Counter(row["url"].split("/")[2] for row in rows)
    kept = Counter(row["url"].split("/")[2] for row in rows if not row["reason"])
    found = json.loads((docs / "domains.json").read_text())
    assert found["hosts"] == len(pages)
    assert {row["domain"]: (row["pages"], row["kept"]) for row in found["in"]} == {h: (pages[h], n) for h, n in kept.items()}
    gone = [row["pages"] - row["kept"] for row in found["out"]]
    assert gone == sorted(gone, reverse=True) and min(gone) > 0


def test_hosts_are_read_from_any_address(tmp_path):
    urls = ["http://www.A.example:80/x?y", "https://u:p@a.example", "ftp://b.example/", "file.txt", "", "HTTP://A.example#f"]
    for folder, part in (("documents", urls[:4]), ("dropped", urls[4:])):
        (tmp_path / folder).mkdir()
        write_table(tmp_path / folder / "0.parquet", pa.table({"url": pa.array(part, pa.string())}))
    found = shard_domains("0.parquet", tmp_path)
    assert found == {"a.example": [3, 2], NO_HOST: [2, 1], "b.example": [1, 1]}
    write_domains(tmp_path, [found, {"a.example": [1, 0]}])
    assert json.loads((tmp_path / "domains.json").read_text())["out"][0] == {"domain": "a.example", "pages": 4, "kept": 2}


def test_a_shard_more_or_less_changes_nothing_in_sum(docs, tmp_path):
    collected(tmp_path / "pages", seed=5, sources=[{"world": {"pages": 160}}], pages_per_shard=1000)
    curated(tmp_path / "pages", tmp_path / "docs", engine="serial", workers=1, general={"min_words": 420})
    one, many = (json.loads((path / "histograms.json").read_text())["signals"] for path in (tmp_path / "docs", docs))
    for signal in one:
        assert one[signal]["groups"] == many[signal]["groups"], signal
        assert one[signal]["thresholds"] == many[signal]["thresholds"]
    assert digest(tmp_path / "docs")["domains.json"] == digest(docs)["domains.json"]


@given(st.sampled_from(["least", "most", "below"]), st.floats(-5, 5), st.floats(-5, 5))
def test_a_threshold_and_its_words_agree(side, limit, value):
    threshold = Threshold(rule="r", signal="s", **{side: limit})
    assert threshold.beyond(value) == {"least": value < limit, "most": value > limit, "below": value >= limit}[side]
    assert outside(side, limit, np.array([np.nan]))[0] == threshold.beyond(None) == threshold.beyond(float("nan")) is False
    assert threshold.words().startswith({"least": "at least", "most": "at most", "below": "below"}[side])


def test_thresholds_say_what_the_rules_ask():
    named = {t.signal: t for t in quality_thresholds(Limits())}
    assert named["words"].words() == "20 to 100,000" and named["words"].from_words == 0
    assert named["top_2gram"].from_words == 100 and named["duplicate_10gram"].sides == [("most", 0.2)]
    assert "braces" not in named
    farm = [t for t in spam_thresholds(SpamLimits()) if t.rule == "spam:link_farm"]
    assert {t.signal: t.below for t in farm} == {"links": 15, "link_share": 0.5, "advert_share": 0.04}
    assert farm[0].together == ("link_share", "advert_share")
    assert shared_thresholds(DecontaminationSettings()) == []
    shared = shared_thresholds(DecontaminationSettings(files=("x.jsonl",)))
    assert [(t.signal, t.most) for t in shared] == [
        ("contaminated_8", 0.2), ("contaminated_13", 0.0), ("contaminated_item_share", 0.8)
    ]  # fmt: skip


def test_bins_suit_the_signal():
    assert edges_of("unreadable", whole=False) is SMALL_SHARES and edges_of("kl", whole=False) is LENGTHS
    assert edges_of("words", whole=True) is COUNTS and edges_of("score.a.b", whole=False) is SHARES
    for edges in (SHARES, SMALL_SHARES, COUNTS, LENGTHS):
        assert (np.diff(edges) > 0).all()
