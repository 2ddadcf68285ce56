"""The compile step after an installation: every kernel that a curation calls afterwards is on disk."""

from __future__ import annotations

from puna.commands.kernels import compile_kernels, recipes


def test_the_small_runs_end_and_say_nothing_but_what_they_do(capfd):
    assert compile_kernels() == 0
    out, err = capfd.readouterr()
    assert out.startswith("compiling the kernels") and out.count("\n") == 1 and not err


def test_both_runs_go_through_all_parts_of_curation(tmp_path):
    for stages in recipes(tmp_path).values():
        assert {stage["uses"] for stage in stages.values()} >= {"data.collect", "data.curate"}
