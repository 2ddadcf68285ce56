"""The report says what the intervals allow, escapes what models wrote, and opens without network."""

import json
import re
from dataclasses import replace

import pytest

from puna.core.stage import Artifact, local_context
from puna.evals.one import ITEMS_FILE, write_items
from puna.report import charts, paper, post_sections, results
from puna.report.claims import direction, sentence
from puna.report.opening import opening
from puna.report.page import Section, figure, page, table
from puna.report.training_sections import one_after_the_other


def claim(**changes):
    base = {"name": "a against b", "better": "a", "control": "b", "n": 1500, "difference": 0.05, "low": 0.02, "high": 0.08,
            "wins": 100, "losses": 25, "p": 1e-9}  # fmt: skip
    return base | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 1), ({"low": -0.01}, 0), ({"low": -0.08, "high": -0.02}, -1), ({"low": 0.0}, 0), ({"n": 0}, 0), ({"p": 0.125}, 0)],
)
def test_only_an_interval_without_zero_is_a_difference(changes, expected):
    assert direction(claim(**changes)) == expected


def test_a_claim_is_told_with_its_numbers():
    text = sentence(claim(verdict="helped"))
    assert text == "a against b: +5.0 points (+2.0 to +8.0, n = 1500, McNemar p = 1e-09): helped."


def test_page_escapes_text_and_needs_no_network():
    section = Section("Hostile <b>", "3.1")
    section.text("<script>alert(1)</script>")
    section.listing("answers", ["</pre><img src=x onerror=alert(1)>"])
    section.figure(*charts.bars(["</script>"], [1.0], [0.5], [1.5], "percent"), 'a "caption"')
    text = page("T", "lead & more", ["<dl></dl>"], [section])
    body = text[: text.index("Plotly.newPlot")]
    shown = re.sub(r"<script>.*?</script>", "", body, flags=re.S)
    assert "<script>alert" not in text and "<img src=x" not in shown and "lead &amp; more" in text
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=['\"]?http", text)


def test_figures_carry_their_data_and_tables_align_numbers():
    spec = re.search(r"application/json'>(.*?)</script>", figure([{"y": [1, 2]}], {"x": 1}, "c"), re.S)
    assert json.loads(spec.group(1)) == {"data": [{"y": [1, 2]}], "layout": {"x": 1}}
    text = table(["name", "n"], [["a<", 3]])
    assert '<td>a&lt;</td><td class="n">3</td>' in text


def test_an_interval_stands_under_its_value_and_a_missing_number_leaves_its_column_numeric():
    text = table(["model", "accuracy", "loss"], [["a", "63.3 (60.8 to 65.7)", "1.2"], ["b", "not measured", "–"]])
    assert '<td class="n">63.3 <small>60.8 to 65.7</small></td><td class="n">1.2</td>' in text
    assert '<td class="n">not measured</td><td class="n">–</td>' in text and "<td>a</td>" in text
    assert '<td class="n">12,345</td>' in table(["n"], [[12345]])
    assert "<td>–</td>" in table(["n"], [["–"]])


def test_no_two_lines_of_a_chart_look_alike():
    data, layout = charts.lines({str(i): ([0], [1]) for i in range(20)}, "step", "loss")
    strokes = {(trace["line"]["color"], trace["line"]["dash"]) for trace in data}
    assert len(strokes) == 20 and "legend" not in layout


def trained(path, name, stage, rows, digest="", inputs=()):
    (path / name).mkdir()
    (path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"stage": stage, "inputs": [{"digest": given} for given in inputs]}
    return Artifact(name=name, kind="model", path=path / name, digest=digest, record=record)


def test_stages_of_one_model_stand_one_after_the_other(tmp_path):
    first = trained(tmp_path, "m", "train.pretrain", [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}], "m")
    long = trained(tmp_path, "m-long", "train.long_context", [{"step": 5, "held_loss": 2.5}], "l", ["tokens", "m"])
    last = trained(tmp_path, "m-base", "train.anneal", [{"step": 7, "loss": 1.0}], "b", ["l"])
    other = trained(tmp_path, "s", "train.pretrain", [{"step": 10, "loss": 4.0}], "s")
    models = [first, long, last, other]
    assert one_after_the_other(models, "loss") == {"m": ([10, 20], [3.0, 2.0]), "m-base": ([32], [1.0]), "s": ([10], [4.0])}
    assert one_after_the_other(models, "held_loss") == {"m-long": ([25], [2.5])}


def test_losses_of_different_kinds_stand_in_charts_of_their_own(tmp_path):
    parts = [trained(tmp_path, name, f"post.{name}", [{"step": 1, "loss": 1.0}]) for name in ("sft", "dpo", "reward")]
    section = Section("Rounds", "4.1")
    post_sections._losses(section, parts)
    drawn = [json.loads(re.search(r"application/json'>(.*?)</script>", block, re.S).group(1)) for block in section.blocks]
    assert [[trace["name"] for trace in spec["data"]] for spec in drawn] == [["sft"], ["dpo"], ["reward"]]
    assert len({spec["layout"]["yaxis"]["title"]["text"] for spec in drawn}) == 3


def test_fp8_measures_are_told_in_words_with_units(tmp_path):
    path = tmp_path / "fp8"
    path.mkdir()
    (path / "summary.json").write_text(
        json.dumps({"kl_max": 0.18196, "greedy": {"equal_prefix_share": 0.7958}, "compared_on": "t"})
    )
    text = post_sections.fp8_section([Artifact("fp8", "model", path, "d", {"stage": "infer.quantize"})], []).blocks[0]
    assert '<td>divergence of FP8 from BF16, worst token</td><td class="n">0.182</td><td>nats</td>' in text
    assert '<td class="n">0.796</td><td>share</td>' in text and "kl" not in text and "equal_prefix" not in text


def test_fp8_of_a_random_model_is_told_with_its_limits(tmp_path):
    def errors(output):
        return {"weight_error": 0.026, "output_error": output, "rows_over_bound": 0.0}

    def column(std, change):
        return {"logit_std": std, "perplexity_change": change, "kl_mean": change, "kl_max": 0.1, "perplexity": 80.4,
                "perplexity_reference": 80.0, "first_choice_agreement": 0.9355, "tokens": 512}  # fmt: skip

    layers = {f"model.layers.{i}.mlp.up_proj": errors(0.03 + i / 100) for i in (1, 2)}
    random = {
        "shape": {"parameters": 17930752, "dim": 512, "layers": 6}, "tokens": 512, "layers_share": 0.343, "state_error": 0.035,
        "sharpness": [column(1.5, 0.00137), column(4.0, 0.00707)], "layers": layers,
        "greedy": {"continuations": 16, "equal": 7, "equal_prefix_share": 0.5938},
    }  # fmt: skip
    path = tmp_path / "fp8"
    path.mkdir()
    (path / "summary.json").write_text(json.dumps({"compared_on": "t", "layers": layers, "random_model": random}))
    blocks = post_sections.fp8_section([Artifact("fp8", "model", path, "d", {"stage": "infer.quantize"})], []).blocks
    text = "".join(blocks)
    assert "random model of 17.9 million parameters" in text and "not a trained model" in text and "n = 512 tokens" in text
    assert "below 0.5% are aimed at: met at std 1.5." in text and "7 of 16 greedy continuations are the same" in text
    row = '<td>change of the perplexity</td><td class="n">0.00137</td><td class="n">0.00707</td><td>share</td>'
    assert row in text and "logits of std 4" in text
    matrix = '<td>up_proj</td><td class="n">2</td><td class="n">0.0260</td><td class="n">0.0450</td><td class="n">0.0500</td>'
    assert text.count(matrix) == 2  # the run's model and the random one


def test_the_opening_says_which_run_this_is_and_shows_its_numbers(tmp_path):
    def at(name, wall, ended, stage="x", **files):
        made = artifact(tmp_path / name, name, stage, {f"{file}.json": value for file, value in files.items()})
        return replace(made, record=made.record | {"wall_s": wall, "finished_at": f"2026-11-24T{ended}+00:00"})

    overall = {"passed": 1018, "n": 1500, "accuracy": 0.6787, "low": 0.6546, "high": 0.7018}
    scores = {"models": {"chat": {"overall": overall}, "chat.sft": {"overall": overall}}}
    parts = [
        at("pages", 30.0, "10:00:30"), at("chat", 100.0, "10:05:00", "post.rounds"),
        at("scores", 5.0, "10:09:00", "evals.scores", scores=scores),
    ]  # fmt: skip
    text = "".join(opening(parts, {"name": "cria", "recipe": "recipes/<cria>.yaml"}, 7))
    assert "<dd>recipes/&lt;cria&gt;.yaml</dd>" in text and "<dd>7</dd>" in text
    assert "2026-11-24 10:00 to 10:09 UTC" in text and "2 min 15 s of work in 3 stages" in text
    tile = "<div><b>67.9 %</b><span>held-out accuracy of chat</span><span>65.5 to 70.2, n = 1,500</span></div>"
    assert tile in text and "chat.sft" not in text


def test_models_handed_on_by_a_gate_are_named_beside_their_scores(tmp_path):
    refused = artifact(tmp_path / "avg", "avg", "post.average", {"summary.json": {"kept": "b", "parts": {"b": {}}}})
    rate = {"passed": 1, "n": 2, "accuracy": 0.5, "low": 0.1, "high": 0.9}
    models = {"avg": {"overall": rate, "unfinished": 0, "family": {}, "capability": {}, "lang": {}}}
    scored = artifact(tmp_path / "scores", "scores", "evals.scores", {"scores.json": {"models": models}})
    write_items([], scored.path / ITEMS_FILE)
    assert "Handed on by a gate: avg is b unchanged." in post_sections.scores_section([refused, scored]).blocks[0]


def test_an_interval_becomes_error_bars():
    data, _ = charts.bars(["a"], [10.0], [8.0], [13.0], "percent")
    assert data[0]["error_y"]["array"] == [3.0] and data[0]["error_y"]["arrayminus"] == [2.0]


def artifact(path, name, stage, files):
    path.mkdir()
    for file, value in files.items():
        (path / file).write_text(json.dumps(value))
    return Artifact(name=name, kind="scores", path=path, digest="d" * 64, record={"stage": stage, "lineage": []})


def test_a_run_with_few_items_says_what_it_cannot_show(tmp_path):
    overall = {"passed": 1, "n": 40, "accuracy": 0.025, "low": 0.004, "high": 0.13}
    scores = {"models": {"m": {"overall": overall, "unfinished": 0, "family": {}, "capability": {}, "lang": {}}},
              "comparisons": [claim(low=-0.1)]}  # fmt: skip
    made = artifact(tmp_path / "scores", "scores", "evals.scores", {"scores.json": scores})
    (tmp_path / "scores" / "items.parquet").write_bytes(b"")
    ctx = local_context(tmp_path / "out", name="report", inputs=[made])
    write_items([], tmp_path / "scores" / "items.parquet")
    summary = paper.run(paper.Settings(), ctx)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert summary["claims"] == {"a against b": "no difference shown"}
    assert any("Only 40 held-out tasks" in text for text in report["limits"])
    assert "no difference shown" in results.render(report)
    assert "Only 40 held-out tasks" in (tmp_path / "out" / "volatile" / "report.html").read_text()
