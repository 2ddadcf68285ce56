"""Synthetic data in the report: acceptance with its interval, reasons, cost, and an example of each kind."""

import json

from puna.core.stage import Artifact, local_artifact, local_context
from puna.post import synthesise
from puna.report import paper
from puna.report.synth_sections import synth_section
from puna.tokenizer.dialog import write_rows
from puna.world.tasks import generate_tasks


def synthetic(root):
    (root / "tasks").mkdir()
    write_rows(root / "tasks" / "prompts.jsonl", generate_tasks(seed=1, gold=0, prompts=200, dev=0, test=0)["prompts"])
    ctx = local_context(root / "made", name="made", inputs=[local_artifact(root / "tasks", "tasks", "tasks")], seed=1)
    generators = {"maths_verified": {"count": 20}, "maths_corrections": {"count": 20}}
    teacher = {"use": "oracle", "errors": 0.3, "price_in": 100.0, "price_out": 100.0}
    summary = synthesise.run(synthesise.Settings.model_validate({"generators": generators, "teacher": teacher}), ctx)
    (ctx.out / "summary.json").write_text(json.dumps(summary))
    return Artifact("made", "samples", ctx.out, "0" * 32, {"stage": "post.synthesise"}), summary


def test_the_section_shows_rates_reasons_cost_and_examples(tmp_path):
    made, summary = synthetic(tmp_path)
    section = synth_section([made])
    assert section is not None and section.title == "Synthetic data"
    text = "\n".join(section.blocks)
    counts = summary["generators"]["maths_corrections"]
    assert 0 < counts["accepted"] < 20 and counts["reasons"]["never wrong"] > 0
    rate = counts["accepted_share"]
    assert f"{100 * rate['accuracy']:.1f} <small>{100 * rate['low']:.1f} to {100 * rate['high']:.1f}" in text
    assert "never wrong" in text and "teacher oracle:" in text
    assert f"for {summary['usage']['teacher']['cost']:.2f} in the currency" in text
    assert text.count("<pre>accepted") == 2 and "<pre>refused: never wrong" in text
    assert section.data["made"] == summary


def test_the_report_has_the_section_and_one_without_synthesis_has_not(tmp_path):
    made, summary = synthetic(tmp_path)
    ctx = local_context(tmp_path / "report", inputs=[made])
    assert "Synthetic data" in paper.run(paper.Settings(), ctx)["sections"]
    assert json.loads((ctx.out / "report.json").read_text())["sections"]["Synthetic data"] == {"made": summary}
    assert synth_section([]) is None
