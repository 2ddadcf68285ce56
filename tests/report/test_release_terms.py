"""Releases: terms in expressions, licences that fit their weights, inputs that are gone, and what is added to a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from release_toys import build, make, started, task
from test_release import reseal

from puna.commands.lineage import _tree
from puna.core import store
from puna.core.lineage import obligations
from puna.core.lineage_graph import Edge, Graph, Node, front_matter
from puna.report.release import croissant
from puna.report.release.bundle import release
from puna.report.release.check import check
from puna.report.release.refusals import ReleaseRefused

SAID = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}]


@pytest.fixture(scope="module")
def herd(tmp_path_factory):
    return build(tmp_path_factory.mktemp("terms"))


def test_every_licence_of_an_expression_is_displayed_and_goes_along(herd, tmp_path):
    taught = {"messages": SAID, "teacher": "ours", "teacher_licence": "LicenseRef-gemma AND LicenseRef-llama3.1"}
    model, _ = started(herd.root, "MIT", [*map(task, range(40)), taught], "both")
    with pytest.raises(ReleaseRefused) as refused:
        release(model, [], tmp_path / "out", name="Llama-both", run="test")
    assert [r.what for r in refused.value.reasons] == ["a copy of the Gemma Terms of Use must go along and is not held here"]
    text = tmp_path / "text"
    text.write_text("the terms as they came")
    release(model, [], tmp_path / "out", name="Llama-both", run="test", licence_files={"gemma": text})
    assert check(tmp_path / "out") == []
    notice = (tmp_path / "out" / "NOTICE").read_text()
    assert "Built with Llama" in notice and "Llama 3.1 is licensed" in notice and "Gemma is provided" in notice
    assert "**Built with Llama**" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "GPL-3.0-only"])
def test_weights_stay_under_their_own_licence(herd, tmp_path, licence):
    model, _ = started(herd.root, licence, [*map(task, range(40))], f"bound-{licence}")
    with pytest.raises(ReleaseRefused) as refused:
        release(model, [], tmp_path / "out", name="mine", run="test", profile="research", licence="Apache-2.0")
    (reason,) = refused.value.reasons
    assert reason.what == f"weights under {licence} cannot be released under Apache-2.0" and reason.fix == f"--licence {licence}"
    assert release(model, [], tmp_path / "out", name="mine", run="test", profile="research")["licence"] == licence
    assert check(tmp_path / "out") == []


def test_a_release_grants_no_commercial_use_that_its_data_do_not(herd, tmp_path):
    barred = {"messages": SAID, "teacher": "mystery", "teacher_licence": "CC-BY-NC-4.0"}
    model, _ = started(herd.root, "MIT", [*map(task, range(40)), barred], "barred")
    given = {"name": "mine", "run": "test", "profile": "research"}
    with pytest.raises(ReleaseRefused, match="forbids commercial use, which MIT grants") as refused:
        release(model, [], tmp_path / "out", licence="MIT", **given)
    assert [reason.fix for reason in refused.value.reasons] == ['--licence "CC-BY-NC-4.0 AND MIT"']
    assert release(model, [], tmp_path / "out", **given)["licence"] == "CC-BY-NC-4.0 AND MIT"
    head = front_matter(tmp_path / "out" / "README.md")
    assert (head["license"], head["license_name"]) == ("other", "CC-BY-NC-4.0 AND MIT") and check(tmp_path / "out") == []


def test_duties_outlive_the_inputs_they_came_through(herd, tmp_path):
    barred = {"messages": SAID, "teacher": "Llama-2-70b-chat"}
    model, tasks = started(herd.root, "MIT", [*map(task, range(40)), barred], "orphan")
    shutil.rmtree(tasks.path)
    graph = Graph()
    sources = graph.sources(graph.add(model))
    assert sources == model.record["lineage"] and obligations(sources) == model.record["obligations"]
    with pytest.raises(ReleaseRefused, match="forbids that its outputs improve another model"):
        release(model, [], tmp_path / "out", name="mine", run="test")


def test_adapters_beside_the_weights_are_part_of_a_release(herd, tmp_path):
    model = make(herd.root, "fake_tuned", "adapted", {"model": herd.model, "tasks": herd.tasks}, "adapter=true")
    release(model, [], tmp_path / "out", name="Llama-adapted", run="test")
    assert check(tmp_path / "out") == []
    adapter = tmp_path / "out" / "provenance" / "model" / "adapter" / "adapter_model.safetensors"
    assert adapter.read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["adapter_config.json", "more.safetensors", "modeling_llama.py"])
def test_what_loaders_would_take_besides_is_named_under_fitting_sums(herd, tmp_path, name):
    copy = Path(shutil.copytree(herd.bundle, tmp_path / "copy"))
    shutil.copyfile(copy / "config.json", copy / name)
    reseal(copy)
    assert f"{name}: no part of this release" in check(copy)


def test_test_prompts_are_looked_for_among_synthetic_rows(herd, tmp_path):
    asked = json.loads((herd.tasks.path / "test.jsonl").read_text().splitlines()[0])["prompt"]
    made = Path(shutil.copytree(herd.tasks.path, herd.root / "store" / "post.quality.select" / "made"))
    for path in (*made.glob("*.jsonl"), made / "split.json"):
        path.unlink()
    row = {"id": "1", "messages": [*asked, SAID[1]], "provenance": {"source": "mine", "licence": "MIT"}}
    (made / "accepted.jsonl").write_text(json.dumps(row) + "\n")
    digest, files = store.digest_files(made)
    record = {**herd.tasks.record, "kind": "samples", "digest": digest, "files": files}
    (made / "artifact.json").write_text(json.dumps(record))
    samples = store.read(made)
    assert samples is not None
    model = make(herd.root, "fake_tuned", "leaked", {"model": herd.model, "samples": samples})
    answers = make(herd.root, "evals.one", "leaks", {"fake_tuned": model, "tasks": herd.tasks}, "max_tokens=2")
    with pytest.raises(ReleaseRefused) as refused:
        release(model, [answers], tmp_path / "out", name="Llama-leaked", run="test")
    assert [r.what for r in refused.value.reasons] == ["1 evaluation prompts are in the training data (train/test)"]


def test_many_rounds_have_one_path_to_a_source():
    graph = Graph()
    taught = {"source": "elder", "licence": "llama3.1", "rows": 1, "use": "outputs"}
    graph.nodes["r0"] = Node("r0", "r0", "model", "post.sft", "", [taught])
    for number in range(1, 60):
        parts = [f"{letter}{number}" for letter in "abc"]
        graph.nodes |= {part: Node(part, part, "model", "post.sft", "", [], [Edge(f"r{number - 1}", True)]) for part in parts}
        graph.nodes[f"r{number}"] = Node(
            f"r{number}", f"r{number}", "model", "post.average", "", [], [Edge(p, True) for p in parts]
        )
    reason = graph.owing("r59", "llama-name")
    assert reason is not None
    (path,) = reason.paths(lambda node, row: row["source"])
    assert (len(path), path[:3], path[-1]) == (120, ("r59", "a59", "r58"), "elder")
    assert len(_tree(graph, reason, set())) == 59 * 6 + 1


def test_rows_are_read_once_for_all_sources_of_an_artifact(herd, monkeypatch):
    from puna.core import lineage_graph

    read, real = [], lineage_graph.groups
    monkeypatch.setattr(lineage_graph, "groups", lambda files: read.append(files) or real(files))
    graph = Graph()
    key = graph.add(herd.tasks)
    found = [graph.rows(key, row)[0].rows for row in graph.nodes[key].declared]
    assert (len(found), len(read)) == (3, 1) and sum(found) == sum(row["rows"] for row in herd.tasks.record["declared"])


def test_names_that_differ_in_signs_only_stay_apart_in_documents(herd, tmp_path):
    sources = ("my source", "my-source", "my/source")
    rows = [{**task(number), "provenance": {"source": sources[number % 3], "licence": "MIT"}} for number in range(40)]
    model, _ = started(herd.root, "MIT", rows, "signs")
    release(model, [], tmp_path / "out", name="signs", run="test")
    graph = json.loads((tmp_path / "out" / "sbom.spdx.json").read_text())["@graph"]
    data = {one["name"]: one["spdxId"] for one in graph if one["type"] == "dataset_DatasetPackage"}
    (trained,) = (one for one in graph if one.get("relationshipType") == "trainedOn")
    assert set(data) == set(sources) and set(data.values()) < set(trained["to"]) and len(set(data.values())) == 3
    entry = {"kind": "tasks", "files": [], "rows": 1, "licences": ["MIT"]}
    data_sets = [{**entry, "name": "a.b", "digest": "1" * 64}, {**entry, "name": "a-b", "digest": "2" * 64}]
    facts = SimpleNamespace(run="test", name="signs", created="2024-01-01", supplier="us", puna="1", datasets=data_sets)
    assert list(croissant.documents(facts)) == ["a-b.json", "a-b-22222222.json"]
