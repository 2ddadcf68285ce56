"""The compile step after an installation."""

from __future__ import annotations

from puna.commands.kernels import compile_kernels


def test_the_small_runs_end_and_say_nothing_but_what_they_do(capfd):
    assert compile_kernels() == 0
    out, err = capfd.readouterr()
    assert out.startswith("compiling the kernels")
    assert out.count("\n") == 1
    assert not err
