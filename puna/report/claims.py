"""What may be said: each comparison named in the recipe, put into words by its interval alone.

A difference whose 95 % interval excludes zero, with an exact p below 0.05, helped or hurt; anything else did not show a
difference at this size, and is reported as that and not left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from puna.core.stage import Artifact
from puna.report.sources import read_json

SIGNIFICANT = 0.05
SHOWN = {1: "helped", 0: "no difference shown", -1: "hurt"}


def collect_claims(artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    """Every paired test of the run's `scores` and `needle` artifacts, each with a `verdict`."""
    claims = []
    for artifact in artifacts:
        for file in ("scores.json", "needle.json"):
            for found in read_json(artifact, file).get("comparisons", []):
                title = f"{found['name']}, {found['length']} tokens" if "length" in found else found["name"]
                claims.append({**found, "name": title, "stage": artifact.name, "verdict": SHOWN[direction(found)]})
    return claims


def direction(test: dict[str, Any]) -> int:
    """1 when the interval lies above zero and the exact test agrees (p < 0.05), -1 below, 0 otherwise.

    The interval is approximate where few items differ: four wins and no loss exclude zero at p = 0.125.
    """
    if test["n"] == 0 or test["p"] >= SIGNIFICANT:
        return 0
    return 1 if test["low"] > 0 else -1 if test["high"] < 0 else 0


def sentence(claim: dict[str, Any]) -> str:
    """A claim in words, with its numbers."""
    return (
        f"{claim['name']}: {100 * claim['difference']:+.1f} points ({100 * claim['low']:+.1f} to {100 * claim['high']:+.1f}, "
        f"n = {claim['n']}, McNemar p = {claim['p']:.2g}): {claim['verdict']}."
    )
