"""`puna explain` and the curation part of `puna diff` on a small finished run, by its command line."""

import json
import os
import subprocess
import sys

import pytest

from puna.commands.explain import gather, readings
from puna.commands.explain_fates import lines
from puna.core.explain import pointed
from puna.core.stage import local_context
from puna.data.columns import documents
from puna.report import paper

RECIPE = """name: {name}
seed: 3
stages:
  pages: {{uses: data.collect, sources: [{{world: {{pages: 100}}}}]}}
  docs: {{uses: data.curate, from: pages, general: {{min_words: {words}}}}}
"""
MODEL = """  tokenizer: {uses: tokenizer.train, from: docs, vocab: 560}
  tokens: {uses: data.shards, from: [docs, tokenizer], held: 0.1}
  base:
    uses: train.pretrain
    from: tokens
    model: {layers: 1, dim: 16, heads: 2, kv_heads: 1}
    steps: 20
    batch_tokens: 256
    seq_len: 64
    piece_tokens: 1
"""


def puna(root, *words):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "puna", *words], cwd=root, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("explained")
    for name, words, model in (("one", 20, MODEL), ("two", 500, "")):
        (root / f"{name}.yaml").write_text(RECIPE.format(name=name, words=words) + model)
        code, _, err = puna(root, "up", f"{name}.yaml", "--no-page")
        assert code == 0, err
    return root


@pytest.fixture(scope="module")
def kept(root):
    """Documents of the first run."""
    return list(documents(pointed(root / "runs" / "one")["docs"].path, ["id", "url", "group"]))


def test_a_path_from_page_to_training_steps(root, kept):
    stories = []
    for row in kept[:40]:
        (story,) = [story for story in gather(row["id"], root / "runs" / "one") if story["id"] == row["id"]]
        (place,) = story["tokens"]
        assert (place["stage"], place["group"]) == ("tokens", row["group"])
        stories.append((story, place))
    story = next(story for story, place in stories if place["split"] == "train" and place["group"] == "general")
    (stage,) = readings(story, root / "runs" / "one")
    assert stage["stage"] == "base" and stage["steps"] == sorted({row["step"] for row in stage["rows"]})
    assert stage["tokens_read"] == sum(row["tokens"] for row in stage["rows"]) and all(step < 20 for step in stage["steps"])
    held = next(story for story, place in stories if place["split"] == "held")
    assert readings(held, root / "runs" / "one") == []


def test_the_verb_prints_the_whole_path(root, kept):
    code, out, err = puna(root, "explain", kept[0]["id"], "one")
    assert code == 0, err
    headings = [line.split()[0] for line in out.splitlines() if line and not line.startswith(" ")]
    wanted = [
        "id",
        "decision",
        "page",
        "extraction",
        "language",
        "duplicates",
        "lines",
        "signals",
        "scores",
        "shared",
        "personal",
    ]
    assert headings[1:] == [*wanted, "tokens", "training"] and headings[0] == kept[0]["url"]
    code, out, _ = puna(root, "explain", kept[0]["url"], "one", "--json", "--no-training")
    (story,) = [story for story in json.loads(out) if story["id"] == kept[0]["id"]]
    assert code == 0 and story["curation"] == "docs" and story["training"] == [] and story["decision"]["kept"]


def test_an_unknown_address_proposes_others(root, kept):
    code, _, err = puna(root, "explain", kept[0]["url"].replace(".html", ".htm"), "one")
    assert code == 2 and f"did you mean {kept[0]['url']}" in err
    code, _, err = puna(root, "explain", "gopher://nowhere", "one")
    assert code == 2 and "give an id, or an address as it was collected" in err


def test_diff_names_the_documents_that_changed_fate(root, kept):
    code, out, _ = puna(root, "diff", "one", "two", "--json")
    (row,) = [row for row in json.loads(out) if row["stage"] == "docs"]
    counts = {(change["before"], change["after"]): change["documents"] for change in row["fates"]["changes"]}
    left = len(list(documents(pointed(root / "runs" / "two")["docs"].path, ["id"])))
    assert code == 0 and counts == {("kept", "quality:words"): len(kept) - left} and len(kept) > left
    text = puna(root, "diff", "one", "two")[1]
    assert all(line in text for line in lines(row["fates"])) and "kept -> quality:words" in text


def test_the_report_shows_the_curation(root, tmp_path, kept):
    made = list(pointed(root / "runs" / "two").values())
    paper.run(paper.Settings(), local_context(tmp_path / "report", name="report", inputs=made))
    page = (tmp_path / "report" / "volatile" / "report.html").read_text()
    page = page[: page.index("</main>")]
    for words in (
        "By source",
        "By language",
        "Signals and their limits",
        "Duplicates",
        "Domains",
        "Cost",
        "dropped by this limit",
    ):
        assert words in page, words
    data = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]["Data"]
    assert data["docs.signals"]["words"]["dropped"] == data["docs"]["dropped"]["quality:words"] > 0
    assert "wall_s" not in json.dumps(data) and len(page) < 600_000
    assert page.index("<summary>words <small>") < page.index("<summary>links <small>")  # what dropped most comes first
