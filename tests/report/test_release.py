"""Release bundles: what is in them, what refuses them, and forgeries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from release_toys import build, make, started, task
from typer.testing import CliRunner

from puna.cli import app
from puna.core.errors import InputError
from puna.core.lineage_graph import Graph, front_matter, read_any
from puna.model.weight_file import sha256_of
from puna.model.weight_source import recorded_sums, write_sums
from puna.report.release.bundle import release
from puna.report.release.check import check
from puna.report.release.refusals import ReleaseRefused


@pytest.fixture(scope="module")
def herd(tmp_path_factory):
    return build(tmp_path_factory.mktemp("herd"))


@pytest.fixture(scope="module")
def bundle(herd):
    return herd.bundle


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def reseal(path: Path) -> None:
    """What a forger does: checksums of the files as they are now."""
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p.name != "SHA256SUMS"]
    write_sums(path, {name: sha256_of(path / name) for name in names})


def forge(path: Path, **changed: object) -> list[str]:
    """The complaints about a card whose front matter says something else, under fitting checksums."""
    card = path / "README.md"
    text = card.read_text()
    head = {**front_matter(card), **changed}
    card.write_text("---\n" + yaml.safe_dump(head, sort_keys=False) + "---" + text[text.index("\n---", 3) + 4 :])
    reseal(path)
    return check(path)


def test_a_bundle_holds_and_says_what_it_is_made_of(bundle):
    assert check(bundle) == []
    head = front_matter(bundle / "README.md")
    assert (head["license"], head["base_model"], head["base_model_relation"]) == ("mit", "given", "finetune")
    assert head["datasets"] == ["mine", "shared"] and "synthetic-data" in head["tags"]
    result = head["model-index"][0]["results"][0]
    report = json.loads((bundle / "eval_report.json").read_text())
    overall = report["scores"][0]["result"]["overall"]
    assert overall["n"] == 10 and result["metrics"][0]["value"] == round(100 * overall["accuracy"], 2)
    assert report["contamination"] == {"measured": True, "shared_prompts": dict.fromkeys(
        ["train/prompts", "train/dev", "train/test", "prompts/dev", "prompts/test", "dev/test"], 0)}  # fmt: skip
    assert json.loads((bundle / "safety_report.json").read_text())["measured"] == []
    assert "CC-BY-4.0, declared as CC-BY-SA-4.0" in (bundle / "ATTRIBUTION.md").read_text()
    assert "Llama 3.3 is licensed under" in (bundle / "NOTICE").read_text()
    assert set(recorded_sums(bundle)) >= {"model.safetensors", "LICENSE", "croissant/collect.json", "provenance/graph.json"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"license": "apache-2.0"}, '`license` is "apache-2.0" and should be "mit"'),
        ({"base_model": "meta-llama/Llama-3.1-8B"}, "`base_model` is"),
        ({"datasets": ["nothing"]}, "`datasets` is"),
        ({"model-index": []}, "`model-index` is []"),
        ({"new_version": "other"}, '`new_version` is "other" and should be null'),
    ],
)
def test_a_forged_card_is_named_by_its_key(copy, changed, named):
    wrong = forge(copy, **changed)
    assert len(wrong) == 1 and wrong[0].startswith("README.md: ") and named in wrong[0]


def test_a_forged_figure_is_named(copy):
    index = front_matter(copy / "README.md")["model-index"]
    index[0]["results"][0]["metrics"][0]["value"] = 99.0
    assert ["`model-index`" in line for line in forge(copy, **{"model-index": index})] == [True]


def test_what_is_changed_missing_or_added_is_named(copy):
    (copy / "NOTICE").unlink()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    (copy / "more.txt").write_text("more")
    wrong = check(copy)
    assert {"NOTICE: missing", "model.safetensors: changed", "more.txt: not among the checksums",
            "model.safetensors: not the file that the model's record names"} <= set(wrong)  # fmt: skip
    reseal(copy)
    assert "model.safetensors: not the file that the model's record names" in check(copy)


def test_a_graph_without_the_teacher_is_found_out(copy):
    graph = copy / "provenance" / "graph.json"
    value = json.loads(graph.read_text())
    for node in value["nodes"]:
        node["declared"] = [row for row in node["declared"] if row.get("role") != "teacher"]
    graph.write_text(json.dumps(value))
    reseal(copy)
    assert any("not those recorded beside the weights" in line for line in check(copy))


def test_verify_is_one_verb_for_stores_and_releases(bundle, copy):
    told = CliRunner().invoke(app, ["verify", str(bundle), "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["wrong"] == []
    (copy / "LICENSE").write_text("mine")
    told = CliRunner().invoke(app, ["verify", str(copy)])
    assert told.exit_code == 1 and "LICENSE: changed" in told.stdout and "LICENSE: not what follows" in told.stdout
    (copy / "provenance" / "graph.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        check(copy)


def test_the_same_model_gives_the_same_bundle(herd, bundle, tmp_path):
    release(herd.model, [herd.scores], tmp_path / "again", name="Llama-tuned", run="test", supplier="Puna's tests")
    assert recorded_sums(tmp_path / "again") == recorded_sums(bundle)
    with pytest.raises(InputError, match="holds files already"):
        release(herd.model, [], tmp_path / "again", name="Llama-tuned", run="test")


def test_every_reason_is_given_at_once(herd, tmp_path):
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}]
    rows = [*map(task, range(30)), {"messages": said, "teacher": "gpt-4o"}]
    model, _ = started(herd.root, "LicenseRef-llama3.1", rows, "owing")
    with pytest.raises(ReleaseRefused) as refused:
        release(model, [], tmp_path / "out", name="mine", run="test", licence="MIT", unfinished=[model.name])
    whats = [reason.what for reason in refused.value.reasons]
    assert whats == [
        "the stage that makes this model is not finished",
        "a provider's terms forbid competing models",
        "the name 'mine' must begin with \"Llama\"",
        "a copy of the Llama 3.1 Community License must go along and is not held here",
        "weights under LicenseRef-llama3.1 cannot be released under MIT",
    ]
    assert all(reason.fix for reason in refused.value.reasons) and "gpt-4o" in refused.value.what
    text = tmp_path / "text"
    text.write_text("the agreement as it came")
    given = {"name": "Llama-mine", "run": "test", "licence_files": {"llama3.1": text}}
    assert release(model, [], tmp_path / "out", profile="research", **given)["licence"] == "LicenseRef-llama3.1"
    assert check(tmp_path / "out") == [] and front_matter(tmp_path / "out" / "README.md")["license"] == "llama3.1"
    assert (tmp_path / "out" / "licences" / "LicenseRef-llama3.1.txt").read_text() == text.read_text()
    with (model.path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(ReleaseRefused, match="not those that the record names"):
        release(model, [], tmp_path / "other", profile="research", **given)


def test_a_plain_directory_is_known_by_its_card_and_not_released(herd, tmp_path):
    plain = Path(shutil.copytree(herd.root / "given", tmp_path / "plain"))
    (plain / "README.md").write_text("---\nlicense: llama3.2\n---\n# A model\n")
    told = CliRunner().invoke(app, ["why-licence", str(plain), "--duty", "llama-name"])
    assert told.exit_code == 0 and "weights of plain [llama3.2]" in told.stdout
    told = CliRunner().invoke(app, ["release", str(plain), str(tmp_path / "out"), "--json"])
    assert told.exit_code == 2 and "no recorded artifact" in json.loads(told.stdout)["refused"][0]["what"]


def test_test_prompts_from_elsewhere_are_looked_for(herd, tmp_path):
    file = herd.root / "model.jsonl"
    other = make(herd.root, "post.collect", "other", {}, f"sources=[{{path: {file}, licence: MIT}}]",
                 "gold=1", "prompts=1", "dev=1", "test=37")  # fmt: skip
    answers = make(herd.root, "evals.one", "foreign", {"fake_tuned": herd.model, "tasks": other}, "max_tokens=2")
    with pytest.raises(ReleaseRefused) as refused:
        release(herd.model, [answers], tmp_path / "out", name="Llama-tuned", run="test")
    learnt, asked = ({json.loads(line)["prompt"][0]["content"] for line in (where / name).read_text().splitlines()}
                     for where, name in ((herd.tasks.path, "prompts.jsonl"), (other.path, "test.jsonl")))  # fmt: skip
    gold = {json.loads(line)["messages"][0]["content"] for line in (herd.tasks.path / "train.jsonl").read_text().splitlines()}
    shared = len((learnt | gold) & asked)
    assert shared > 10
    assert [r.what for r in refused.value.reasons] == [f"{shared} evaluation prompts are in the training data (train/test)"]


def test_facts_that_do_not_hold_together_are_bad_input(copy):
    facts = copy / "provenance" / "release.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "config": {}}))
    with pytest.raises(InputError, match="do not hold together"):
        check(copy)


def test_a_licence_that_nobody_knows_needs_its_text(herd, tmp_path):
    given = {"name": "Llama-tuned", "run": "test", "licence": "LicenseRef-ours"}
    with pytest.raises(ReleaseRefused, match="nothing is known of the licence 'LicenseRef-ours'"):
        release(herd.model, [herd.scores], tmp_path / "out", **given)
    text = tmp_path / "text"
    text.write_text("Do as you like.")
    release(herd.model, [herd.scores], tmp_path / "out", licence_files={"LicenseRef-ours": text}, **given)
    assert check(tmp_path / "out") == []


def test_an_artifact_is_verified_by_its_directory(herd, tmp_path):
    alone = Path(shutil.copytree(herd.tasks.path, tmp_path / "alone"))
    assert "1 artifact verified, 0 damaged" in CliRunner().invoke(app, ["verify", str(alone)]).stdout
    (alone / "test.jsonl").write_text("")
    told = CliRunner().invoke(app, ["verify", str(alone)])
    assert told.exit_code == 1 and "test.jsonl" in told.stdout


def test_a_release_taken_up_again_brings_its_sources_and_its_own_licence(bundle):
    lineage = json.loads((bundle / "provenance" / "model" / "lineage.json").read_text())["sources"]
    graph = Graph()
    found = graph.sources(graph.add(read_any(bundle)))
    own = {"source": bundle.name, "licence": "mit", "rows": 0, "use": "weights"}
    assert "Llama-3.3-70B-Instruct" in {row["source"] for row in lineage}  # a teacher that the card does not name as a base
    assert sorted(found, key=str) == sorted([own, *lineage], key=str)
