"""The attack script against every tier, as root and as another user, and against no walls at all, where it gets through."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from as_nobody import run_as_nobody

from puna.core.errors import InputError
from puna.verify.box import syscalls
from puna.verify.sandbox import tiers
from puna.verify.sandbox.attacks import Attacked, attack
from puna.verify.sandbox.forgeries import EXPECTED, FORGERIES

pytestmark = pytest.mark.skipif(not syscalls.supported(), reason="the sandbox needs Linux on x86_64 or aarch64")
ATTACK = """
import json, sys
from puna.verify.sandbox.attacks import attack
print(json.dumps([one.__dict__ for one in attack(sys.argv[1])]))
"""
ATTACKS = {"honest program", "files", "environment", "network", "signals", "privileges", "fork bomb", "memory", "disk",
           "output flood", "forged results", "timeouts", "survivors", "traces left"}  # fmt: skip


def attacked_as_nobody(tier: str) -> list[Attacked]:
    if os.getuid() != 0:
        pytest.skip("only root can become another user: this user's own case is the other one")
    done = run_as_nobody(ATTACK, tier)
    if tier in tiers.WALLED and "cannot be built here" in done.stderr:
        pytest.skip(f"no box of tier {tier} here: {done.stderr[-300:]}")
    return [Attacked(**one) for one in json.loads(done.stdout)]


@pytest.mark.cores
@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("tier", tiers.WALLED)
def test_a_tier_that_is_offered_stops_every_attack(tier, user):
    if tier == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        found = attacked_as_nobody(tier) if user == "nobody" else attack(tier)
    except InputError as error:
        pytest.skip(f"no box of tier {tier} here: {error}")
    assert {one.name for one in found} == ATTACKS
    assert [one for one in found if not one.stopped] == []


@pytest.mark.cores
def test_without_walls_the_same_attacks_get_through_and_the_bounds_still_hold():
    found = {one.name: one for one in attacked_as_nobody("rlimits")}
    assert {"files", "network", "signals", "privileges"} <= {name for name, one in found.items() if not one.stopped}
    assert "puna-secret" in found["files"].seen and "a connection arrived" in found["network"].seen
    for name in ("honest program", "memory", "output flood", "forged results", "timeouts", "survivors"):
        assert found[name].stopped, found[name]


def test_forgeries_would_pass_a_judge_in_their_own_process():
    fooled = []
    for name in ("ends with code 0 as it loads", "equals everything", "hands out an object that equals everything"):
        script = FORGERIES[name] + f"\nassert f(1) == {EXPECTED}\n"
        fooled += [name] if subprocess.run([sys.executable, "-S", "-c", script], timeout=20).returncode == 0 else []
    assert len(fooled) == 3
    assert not any(str(EXPECTED) in code for code in FORGERIES.values())
