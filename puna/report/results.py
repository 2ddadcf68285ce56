"""The table at the end of a run: one line per claim and per headline number, from what the report stage wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = 84  # characters of a claim's name


def table(run_dir: Path) -> str:
    """The run's results as plain text, empty when its report has not been written."""
    found = sorted(Path(run_dir).glob("*/report.json"))
    return render(json.loads(found[-1].read_text())) if found else ""


def render(report: dict[str, Any]) -> str:
    """Headline numbers, then every claim with its difference, interval, n, p and verdict, or with what a gate did."""
    lines = [f"{row['what']:<58} {row['value']}" for row in report["headlines"]]
    if report["claims"]:
        lines += ["", f"{'claim (same items)':<{NAME}} {'points':>8}  {'95 % interval':<16} {'n':>5}  {'p':>8}  verdict"]
        lines += [_claim(claim) for claim in report["claims"]]
    return "\n".join(lines)


def _claim(claim: dict[str, Any]) -> str:
    if "outcome" in claim:
        return f"{claim['name'][:NAME]:<{NAME}} {claim['outcome']}"
    interval = f"{100 * claim['low']:+.1f} to {100 * claim['high']:+.1f}"
    p = f"{claim['p']:.2g}" if "p" in claim else "–"
    verdict = f"{claim['verdict']}, {claim['unchanged']} handed on by a gate" if claim.get("unchanged") else claim["verdict"]
    figures = f"{100 * claim['difference']:>+8.1f}  {interval:<16} {claim['n']:>5}  {p:>8}"
    return f"{claim['name'][:NAME]:<{NAME}} {figures}  {verdict}"
