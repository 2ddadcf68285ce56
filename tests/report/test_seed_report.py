"""Several base models in the report: their claims come first, with what each model showed and what a gate handed on."""

import json

from puna.core.stage import Artifact, local_context
from puna.evals.one import ITEMS_FILE, write_items
from puna.report import paper, results
from puna.report.claims import collect_claims, direction, sentence
from puna.report.seed_sections import seeds_section


def made(path, name, stage, files, digest=""):
    (path / name).mkdir()
    for file, content in files.items():
        (path / name / file).write_text(json.dumps(content))
    return Artifact(name=name, kind="model", path=path / name, digest=digest or name, record={"stage": stage})


def rate(passed):
    return {"passed": passed, "n": 100, "accuracy": passed / 100, "low": passed / 100 - 0.1, "high": passed / 100 + 0.1}


def run_of_two(tmp_path):
    artifacts = []
    for prefix, passed in (("", 60), ("b-", 70)):
        overall = {prefix + "chat.average": rate(passed), prefix + "base": rate(10)}
        models = {name: {"overall": value, "unfinished": 0} for name, value in overall.items()}
        scored = made(tmp_path, prefix + "scores", "evals.scores", {"scores.json": {"models": models, "comparisons": []}})
        item = {"task_id": "1", "model": prefix + "base", "family": "f", "capability": "c", "lang": "en", "text": ""}
        write_items([item | {"passed": True, "finished": True}], scored.path / ITEMS_FILE)
        artifacts.append(scored)
        kept = "average" if prefix else "chat.sft-a"
        summary = {"kept": kept, "parts": {prefix + "chat.sft-a": {}, prefix + "chat.sft-b": {}}}
        artifacts.append(made(tmp_path, prefix + "chat.average", "post.average", {"summary.json": summary}))
        artifacts.append(made(tmp_path, prefix + "chat.sft-a", "post.sft", {"summary.json": {}}))
    test = {"name": "averaging", "better": "chat.average", "control": "base", "difference": 0.55, "low": 0.4, "high": 0.7,
            "n": 100, "each": [0.5, 0.6]}  # fmt: skip
    found = {"scores": ["scores", "b-scores"], "comparisons": [test]}
    return [*artifacts, made(tmp_path, "seeds", "evals.seeds", {"seeds.json": found})]


def test_claims_over_base_models_come_first_and_show_each(tmp_path):
    *artifacts, seeds = run_of_two(tmp_path)
    found = json.loads((seeds.path / "seeds.json").read_text())
    found["comparisons"][0]["better"] = "base"
    (seeds.path / "seeds.json").write_text(json.dumps(found))
    claim = collect_claims([*artifacts, seeds])[0]
    assert claim["verdict"] == "helped" and claim["unchanged"] == 0
    assert sentence(claim) == (
        "2 base models: averaging: +55.0 points (+40.0 to +70.0, n = 100 items, each model +50.0, +60.0): helped."
    )
    assert direction({**claim, "differ": 5}) == 0 and direction({**claim, "differ": 6}) == 1


def test_an_average_that_was_refused_for_one_base_model_helped_nobody(tmp_path):
    claim = collect_claims(run_of_two(tmp_path))[0]
    assert claim["verdict"] == "refused for 1 of 2"
    assert "1 of them handed on by a gate): refused for 1 of 2." in sentence(claim)
    assert "1 handed on by a gate" in results.render({"headlines": [], "claims": [claim]})


def test_claims_of_copies_say_whose_they_are(tmp_path):
    artifacts = run_of_two(tmp_path)
    for name, better in (("scores", "chat.sft-a"), ("b-scores", "b-chat.sft-a")):
        path = tmp_path / name / "scores.json"
        test = {
            "name": "SFT",
            "better": better,
            "control": "base",
            "difference": 0.1,
            "low": 0.05,
            "high": 0.15,
            "n": 100,
            "p": 0.01,
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | {"comparisons": [test]}))
    assert [claim["name"] for claim in collect_claims(artifacts)[1:]] == ["SFT (scores)", "SFT (b-scores)"]


def test_the_section_has_every_model_of_every_seed(tmp_path):
    artifacts = run_of_two(tmp_path)
    text = "".join(seeds_section(artifacts, collect_claims(artifacts)).blocks)
    assert all(words in text for words in ("50.0 to 70.0", "60.0 to 80.0", "b-scores"))
    assert seeds_section(artifacts[:-1], []) is None


def test_the_page_is_written(tmp_path):
    context = local_context(tmp_path / "out", name="report", inputs=run_of_two(tmp_path))
    summary = paper.run(paper.Settings(), context)
    assert "Several base models" in summary["sections"] and summary["claims"]["2 base models: averaging"] == "refused for 1 of 2"
