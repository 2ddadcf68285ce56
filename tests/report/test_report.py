"""The report says what the intervals allow, escapes what models wrote, and opens without network."""

import json
import re

import pytest

from puna.core.stage import Artifact, local_context
from puna.report import charts, paper, results
from puna.report.claims import direction, sentence
from puna.report.page import Section, figure, page, table


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
    text = page("T", "lead & more", [section])
    body = text[: text.index("Plotly.newPlot")]
    shown = re.sub(r"<script>.*?</script>", "", body, flags=re.S)
    assert "<script>alert" not in text and "<img src=x" not in shown and "lead &amp; more" in text
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=['\"]?http", text)


def test_figures_carry_their_data_and_tables_align_numbers():
    spec = re.search(r"application/json'>(.*?)</script>", figure([{"y": [1, 2]}], {"x": 1}, "c"), re.S)
    assert json.loads(spec.group(1)) == {"data": [{"y": [1, 2]}], "layout": {"x": 1}}
    text = table(["name", "n"], [["a<", 3]])
    assert '<td>a&lt;</td><td class="n">3</td>' in text


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
    from puna.evals.one import write_items

    write_items([], tmp_path / "scores" / "items.parquet")
    summary = paper.run(paper.Settings(), ctx)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert summary["claims"] == {"a against b": "no difference shown"}
    assert any("Only 40 held-out tasks" in text for text in report["limits"])
    assert "no difference shown" in results.render(report)
    assert "Only 40 held-out tasks" in (tmp_path / "out" / "volatile" / "report.html").read_text()
