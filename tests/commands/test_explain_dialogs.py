"""`puna explain ID` of a dialog: what every selection of a run says of it, as text and as JSON."""

import json

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from puna.cli import app
from puna.commands import explain_dialogs, latest
from puna.core import explain, store
from puna.core.stage import Artifact
from puna.data.columns import write_table
from puna.tokenizer.dialog import Dialog, MessageRow, Provenance, write_rows


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with one selection of two rows."""
    messages = [MessageRow(role="user", content="How many?"), MessageRow(role="assistant", content="I am sorry! 4")]
    provenance = Provenance(source="s", licence="CC0-1.0")
    write_rows(tmp_path / "rows.jsonl", [Dialog(id=key, messages=messages, provenance=provenance) for key in ("aa", "bb")])
    columns = {
        "id": ["aa", "bb"], "keep": [True, False], "reason": ["", "unique"], "rewritten": [True, False], "quality": [0.5, 1.0],
        "difficulty_level": [2.0, 1.0], "worth": [1.0, 1.0], "unique.value": [0.1, 0.91], "unique.limit": [0.82, 0.82],
        "unique.pass": [True, False], "unique.detail": ["", "aa"], "judge.value": pa.array([None, None], pa.float64()),
        "judge.limit": pa.array([None, None], pa.float64()), "judge.pass": pa.array([None, None], pa.bool_()),
    }  # fmt: skip
    write_table(tmp_path / "annotations.parquet", pa.table(columns))
    made = {"chosen": Artifact("chosen", "samples", tmp_path, "d", {"stage": "post.quality.select"})}
    monkeypatch.setattr(explain, "pointed", lambda run_dir: made)
    monkeypatch.setattr(latest, "run_dir", lambda directory, run: tmp_path)
    return tmp_path


def test_a_dialog_tells_why_it_is_out(run):
    text = CliRunner().invoke(app, ["explain", "bb"]).stdout
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("bb in chosen: left out: it fails `unique`")
    assert ["unique", "0.91", "0.82", "fails", "aa"] in lines and ["judge", "unknown", "unknown"] in lines
    assert "I am sorry! 4" in text


def test_and_why_it_is_in_for_programs(run):
    (story,) = json.loads(CliRunner().invoke(app, ["explain", "aa", "--json"]).stdout)
    assert story["keep"] and story["rewritten"] and story["selection"] == "chosen"
    assert [row["passes"] for row in story["predicates"]] == [True, None]
    assert "kept, rewritten" in explain_dialogs.text(story)


def test_what_no_selection_has_is_looked_for_among_the_pages(run):
    assert explain_dialogs.gather("cc", explain_dialogs.of_run(run)) == []
    done = CliRunner().invoke(app, ["explain", "cc"])
    assert done.exit_code != 0 and "curated nothing" in str(done.exception) + done.output


def test_a_selection_made_alone_is_named_by_its_directory(run, monkeypatch):
    alone = Artifact("picked", "samples", run, "d", {"stage": "post.quality.select"})
    monkeypatch.setattr(store, "read", lambda path: alone if path == run else None)
    assert CliRunner().invoke(app, ["explain", "bb", str(run)]).stdout.startswith("bb in picked: left out")
    done = CliRunner().invoke(app, ["explain", "cc", str(run)])
    assert done.exit_code != 0 and "no dialog of this selection" in str(done.exception) + done.output
