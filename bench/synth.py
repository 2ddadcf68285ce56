"""What the checkers of the synthetic-data generators let through, against the mini-world's truth.

    python bench/synth.py [--quick] [--check] [--items N] [--only NAME ...] [--errors 0.2]

Every generator of `post.synthesise` runs from end to end with the mini-world's oracle as teacher and judge, which errs in known
ways at the given rate, and with the real sandbox. Acceptance is the share of items that gave a row; precision is the share of
accepted rows that are right by the mini-world's truth, which no checker sees. Rows are counted before equal ones are merged:
right rows of so small a world repeat and wrong ones do not. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from puna.core.intervals import wilson  # noqa: E402
from puna.core.stage import Artifact, local_artifact, local_context  # noqa: E402
from puna.data.columns import DOCUMENT_COLUMNS, write_shard_table  # noqa: E402
from puna.post import synthesise  # noqa: E402
from puna.post.collect import gold_dialog  # noqa: E402
from puna.post.synth.catalogue import GENERATORS  # noqa: E402
from puna.post.synth.drive import Told  # noqa: E402
from puna.tokenizer.dialog import Dialog, read_rows, write_rows  # noqa: E402
from puna.verify.sandbox import languages  # noqa: E402
from puna.world import almanac, projects  # noqa: E402
from puna.world.lexicon import LANGUAGES, PLACES  # noqa: E402
from puna.world.oracle_facts import fact, question  # noqa: E402
from puna.world.oracle_languages import same_exercise  # noqa: E402
from puna.world.programs import PROGRAMS  # noqa: E402
from puna.world.tasks import generate_tasks, task  # noqa: E402
from puna.world.truth import TRUTH  # noqa: E402
from puna.world.truth_talk import TRUTH as TALK  # noqa: E402

STRICT, OTHERS = 0.99, 0.95  # goals of precision: code and maths, and the others
ITEMS, QUICK_ITEMS = 400, 60
SLOW = {"code_translate": 10, "missing_file": 2}  # generators that compile or run much: so many times fewer items
ALMANAC = {"groups": ["almanac"]}
OWN: dict[str, dict[str, Any]] = {  # where they begin, and documents as short as the mini-world's
    "instructions": {"snippets": {"groups": ["general"]}},
    "knowledge": {"snippets": ALMANAC},
    "chunk_questions": {"lengths": {**ALMANAC, "characters": [1200, 2400], "passage": 600}, "per_document": 3},
    "summaries": {"lengths": {**ALMANAC, "characters": [1200, 2000], "passage": 600}},
    "function_calls": {"modules": [], "groups": ["functions"]},
    "tool_use": {**ALMANAC, "kinds": ["calculate", "unused", "lookup", "analysis", "search"]},
    "parallel_text": {"faults": 0.2},
    "steering": {"capabilities": ["maths"]},
}


def documents(root: Path, name: str, texts: list[str], group: str) -> Artifact:
    """A documents artifact of texts."""
    (root / name / "documents").mkdir(parents=True)
    rows = [
        {
            "id": f"{name}{i}",
            "url": "",
            "date": "",
            "source": "world",
            "licence": "CC0-1.0",
            "group": group,
            "lang": "en",
            "text": t,
        }
        for i, t in enumerate(texts)
    ]
    write_shard_table(root / name / "documents" / "part-0.parquet", rows, DOCUMENT_COLUMNS)
    return local_artifact(root / name, "documents", name)


def fact_page(number: int, place: str, lang: str) -> str:
    """A page that says what is known of a place, more than once."""
    told = fact(place, lang)
    return "\n".join([f"{number}. {place}", told, f"{question(place, lang)} {told}", f"{place}: {told}", f"{number + 1}."])


def world_inputs(root: Path, items: int) -> list[Artifact]:
    """Documents with programs and with facts, and tasks, of the mini-world."""
    programs = [PROGRAMS[name].python() for name in list(PROGRAMS)[:: max(1, len(PROGRAMS) // items)]]
    facts = [fact_page(i, PLACES[i % len(PLACES)], LANGUAGES[i // len(PLACES) % len(LANGUAGES)]) for i in range(items)]
    (root / "tasks").mkdir()
    tasks = generate_tasks(seed=1, gold=0, prompts=8 * items, dev=0, test=0)
    write_rows(root / "tasks" / "prompts.jsonl", tasks["prompts"])
    write_rows(root / "tasks" / "train.jsonl", [])
    code, general = documents(root, "programs", programs, "code"), documents(root, "facts", facts, "general")
    return [code, general, local_artifact(root / "tasks", "tasks", "tasks")]


def talk_inputs(root: Path, items: int) -> list[Artifact]:
    """What the generators of TALK draw from as well: functions, pages of the almanac, gold dialogs of exercises."""
    drawing, pages = random.Random(2), random.Random(3)
    drawn = [task(drawing, "math", "gold", "en") for _ in range(2 * items)]
    (root / "gold").mkdir()
    write_rows(root / "gold" / "train.jsonl", filter(None, (gold_dialog(one) for one in drawn if not one.constraint)))
    write_rows(root / "gold" / "prompts.jsonl", [])
    functions = "\n\n".join(map(projects.source, projects.FUNCTIONS))
    almanac_pages = [almanac.page(pages, 4) for _ in range(6 * items)]
    found = documents(root, "functions", [functions], "functions"), documents(root, "almanac", almanac_pages, "almanac")
    return [*found, local_artifact(root / "gold", "tasks", "gold")]


def settings_of(name: str, count: int) -> dict[str, Any]:
    """Those of the generator: its own defaults, where it begins, and languages that can be run here."""
    own: dict[str, Any] = {"count": max(8, count // SLOW.get(name, 1)), **OWN.get(name, {})}
    if name == "code_translate":
        own["languages"] = [found for found in ("javascript", "java", "c") if found in languages()]
    return own


def measure(root: Path, name: str, inputs: list[Artifact], count: int, errors: float) -> dict[str, Any]:
    """One generator from end to end."""
    ctx = local_context(root / f"made-{name}", name="synth", inputs=inputs, seed=5)
    began = time.perf_counter()
    settings = {"generators": {name: settings_of(name, count)}, "teacher": {"use": "oracle", "errors": errors}}
    summary = synthesise.run(synthesise.Settings.model_validate(settings), ctx)
    counts = summary["generators"][name]
    stories = [told for path in sorted(ctx.scratch.glob("stories-*.jsonl")) for told in read_rows(path, Told)]
    rows = [Dialog.model_validate(row) for told in stories for row in told.dialogs]
    gold = {row.id: row.messages[0].content for row in read_rows(root / "gold" / "train.jsonl", Dialog)}
    right = sum(TRUTH[name](row.messages) and is_faithful(row, gold) for row in rows)
    low, high = wilson(right, len(rows))
    return {
        "items": counts["items"], "accepted": counts["accepted"], "acceptance": counts["accepted"] / max(1, counts["items"]),
        "rows": len(rows), "right": right, "precision": right / max(1, len(rows)), "low": low, "high": high,
        "seconds": round(time.perf_counter() - began, 1), "programs": counts["programs"], "reasons": counts["reasons"],
    }  # fmt: skip


def is_faithful(row: Dialog, gold: dict[str, str]) -> bool:
    """Whether a translation of a gold dialog is of that dialog; true for every other row."""
    questions = [gold[parent] for parent in row.provenance.parents if parent in gold]
    return all(same_exercise(question, row.messages[0].content) for question in questions)


def show(found: dict[str, dict[str, Any]]) -> None:
    head = ("items", 6), ("accepted", 9), ("share", 6), ("rows", 6), ("precision (95 %)", 24), ("programs", 9), ("s", 7)
    print(f"{'generator':20}" + "".join(f"{word:>{width}}" for word, width in head))
    for name, one in found.items():
        precision = f"{one['precision']:.4f} ({one['low']:.3f} to {one['high']:.3f})"
        counts = f"{one['items']:6}{one['accepted']:9}{one['acceptance']:6.2f}{one['rows']:6}"
        print(f"{name:20}{counts}{precision:>24}{one['programs']:9}{one['seconds']:7}")
        print(f"{'':20}{', '.join(f'{reason} {n}' for reason, n in one['reasons'].items())}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--errors", type=float, default=0.2)
    args = parser.parse_args()
    count = args.items or (QUICK_ITEMS if args.quick else ITEMS)
    names = args.only or [name for name in GENERATORS if name in TRUTH]
    with tempfile.TemporaryDirectory() as folder:
        inputs = world_inputs(Path(folder), count)
        more = talk_inputs(Path(folder), count)
        given = {name: inputs + more if name in TALK else inputs for name in names}
        found = {name: measure(Path(folder), name, given[name], count, args.errors) for name in names}
    show(found)
    goals = {name: STRICT if name.startswith(("code", "maths")) else OTHERS for name in found}
    missed = [
        f"{name}: precision {one['precision']:.4f} < {goals[name]}"
        for name, one in found.items()
        if one["precision"] < goals[name]
    ]
    missed += [f"{name}: nothing was accepted" for name, one in found.items() if not one["rows"]]
    told = {"bench": "synth", "ratios": {name: round(one["precision"], 5) for name, one in found.items()}, "limits": goals}
    machine = {"cpus": os.cpu_count(), "platform": platform.platform()}
    versions = {"python": platform.python_version(), "pydantic": version("pydantic")}
    print(json.dumps({**told, "found": found, "errors": args.errors, "machine": machine, "versions": versions}))
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
