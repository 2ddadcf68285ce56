"""The verb `puna explain`: a document's whole path, from the page it was to the training steps that read it; a dialog's verdicts.

What happened is gathered by `puna.data.explain` and `puna.train.reads`; here it is only joined for one run and printed.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puna.commands import explain_dialogs, latest
from puna.commands.options import HERE, Dir, Json, show, size, table
from puna.core.errors import InputError

if TYPE_CHECKING:
    from puna.core.stage import Artifact

SHOWN_STEPS = 8  # training steps named before the rest is counted
REST_CHARS = 100  # of a line of signals without a limit
INDENT = 12  # of what stands behind a heading


def explain(
    key: Annotated[str, typer.Argument(metavar="URL|ID", help="Address or id of a page, or id of a dialog.")],
    run: Annotated[
        str | None, typer.Argument(help="A run, or the directory of a quality selection (default: the last run).")
    ] = None,
    directory: Dir = HERE,
    training: Annotated[bool, typer.Option("--training/--no-training", help="Also find the steps that read it.")] = True,
    as_json: Json = False,
) -> None:
    """A document's whole path: source, signals and limits, duplicates, decision, token shard, training steps.

    Of a dialog: whether each quality selection keeps it, and by which predicates.
    """
    alone = explain_dialogs.selection(run)
    run_dir = latest.run_dir(directory, run) if alone is None else alone.path
    if told := explain_dialogs.gather(key, explain_dialogs.of_run(run_dir) if alone is None else [alone]):
        show(told, "\n\n".join(map(explain_dialogs.text, told)), as_json)
        return
    if alone is not None:
        raise InputError(f"no dialog of this selection has the id '{key}'", where=str(run_dir), fix="ids stand in rows.jsonl")
    stories = gather(key, run_dir)
    for number, story in enumerate(stories):
        if not as_json:
            typer.echo("\n" * bool(number) + "\n".join(_lines(story)))
        story["training"] = readings(story, run_dir) if training else []
        if not as_json and story["training"]:
            typer.echo("\n".join(f"{'training':<{INDENT}}{_training(stage)}" for stage in story["training"]))
    if as_json:
        show(stories, "", as_json)


def gather(key: str, run_dir: Path) -> list[dict[str, Any]]:
    """What every curation of a run knows of a document, with `curation` and `tokens` added (see `puna.data.explain`).

    Raises InputError for a document that no curation of the run has; the message proposes similar addresses.
    """
    from puna.core.explain import pointed
    from puna.data import explain as data

    made = pointed(run_dir)
    curated = [a for a in made.values() if a.record.get("stage") == "data.curate"]
    if not curated:
        raise InputError("this run has curated nothing yet", where=str(run_dir), fix="puna up")
    curations = {artifact.name: data.curation_of(artifact) for artifact in curated}
    stories = [
        story | {"curation": artifact.name, "tokens": _token_places(story, artifact, list(made.values()))}
        for artifact in curated
        for story in data.explain(curations[artifact.name], key)
    ]
    if not stories:
        near = [address for curation in curations.values() for address in data.similar(curation.facts, key)]
        fix = f"did you mean {'  or  '.join(near)}?" if near else "give an id, or an address as it was collected"
        raise InputError(f"no page of this run has the id or address '{key}'", where=str(run_dir), fix=fix)
    return stories


def _token_places(story: dict[str, Any], documents: Artifact, made: list[Artifact]) -> list[dict[str, Any]]:
    """Where a document lies in the token shards made of it; nothing for a dropped one."""
    from puna.data.explain import token_places

    shards = _made_of(documents, made, "tokens") if story["decision"]["kept"] else []
    return [{"stage": tokens.name, **place} for tokens in shards for place in token_places(tokens.path, story["id"])]


def readings(story: dict[str, Any], run_dir: Path) -> list[dict[str, Any]]:
    """What each training stage of a run read of a document: `stage`, `tokens_read`, `steps`, and the `rows`.

    Apart from `gather`, because it has to load the training code, which takes longer than all the rest.
    """
    from puna.core.explain import pointed

    made, found = pointed(run_dir), []
    for name in dict.fromkeys(place["stage"] for place in story["tokens"] if place["split"] == "train"):
        for stage in _made_of(made[name], list(made.values()), "model"):
            from puna.train.reads import STAGES, steps_that_read

            if stage.record.get("stage") in STAGES:
                rows = steps_that_read(stage, made[name].path, story["id"])
                steps = sorted({row["step"] for row in rows})
                found.append(
                    {"stage": stage.name, "tokens_read": sum(row["tokens"] for row in rows), "steps": steps, "rows": rows}
                )
    return found


def _made_of(source: Artifact, made: list[Artifact], kind: str) -> list[Artifact]:
    """The artifacts of one kind that have `source` among their inputs."""
    return [a for a in made if a.kind == kind and any(row["digest"] == source.digest for row in a.record.get("inputs", []))]


def _lines(story: dict[str, Any]) -> list[str]:
    """A story as text."""
    told = [
        ("decision", _decision(story["decision"])),
        ("page", _page(story["page"])),
        ("extraction", _extraction(story["extraction"])),
        ("language", _language(story["language"])),
        ("duplicates", *_duplicates(story["duplicates"])),
        ("lines", *_removed(story["lines"])),
        ("signals", *_signals(story)),
        ("scores", ", ".join(f"{name} {_number(value)}" for name, value in story["scores"].items()) or "none"),
        ("shared", _shared(story["contamination"])),
        ("personal", ", ".join(f"{kind} {count}" for kind, count in story["pii"].items()) or "nothing found"),
        *[("tokens", _tokens(place)) for place in story["tokens"]],
    ]
    lines = [story["url"] or story["id"], f"{'id':<{INDENT}}{story['id']}"]
    for heading, *rows in told:
        lines += [f"{heading if number == 0 else '':<{INDENT}}{row}" for number, row in enumerate(rows)]
    return lines


def _page(page: dict[str, Any]) -> str:
    kind = " ".join(part for part in (page.get("format"), page.get("charset")) if part)
    facts = (page["source"], page["licence"] or "no licence known", page["date"] or "no date", kind, size(page["bytes"]))
    return f"{', '.join(fact for fact in facts if fact)}; group {page['group']} ({page['shard']}, row {page['row']})"


def _extraction(found: dict[str, Any]) -> str:
    share = "" if found["link_share"] is None else f" with {100 * found['link_share']:.0f} % of what is seen"
    return f"{found['characters']:,} characters, {found['links']} links{share}"


def _language(found: dict[str, Any]) -> str:
    state = "wanted" if found["wanted"] else "not wanted"
    others = f"(others are dropped from {found['certain_from']:g})"
    return f"{found['language']}, probability {found['probability']:.3f}; {state} {others}"


def _duplicates(found: dict[str, Any]) -> list[str]:
    lines = []
    if head := found["stands_for_it"]:
        likeness = f", similarity {found['similarity']:.3f} (limit {found['threshold']:g})" if found["similarity"] else ""
        lines.append(f"{found['kind'].replace('_', ' ')} of {head['id']}  {head['url']}{likeness}; cluster of {found['cluster']}")
    for copy in found["others"]:
        likeness = f", similarity {copy['similarity']:.3f}" if copy["similarity"] else ""
        who = "also" if found["stands_for_it"] else "stands for"
        lines.append(f"{who} {copy['id']}  {copy['url']} ({copy['kind'].replace('_', ' ')}{likeness})")
    if not found["complete"]:
        lines.append("only a part of the corpus was searched for more copies")
    return lines or ["none"]


def _removed(found: dict[str, Any]) -> list[str]:
    if not found["removed"]:
        return ["none removed"]
    return [f"{found['removed']} frequent ones removed, such as", *(f"  {line}" for line in found["first"])]


def _signals(story: dict[str, Any]) -> list[str]:
    """A row per limit, and the signals without one on a line of their own."""
    cells = [[row["signal"], _number(row["value"]), _limit(row), _mark(row)] for row in story["signals"] if row["limit"]]
    free = [f"{row['signal']} {_number(row['value'])}" for row in story["signals"] if not row["limit"]]
    limits = f"limit for {story['page']['group']}, {story['language']['language']}"
    lines = table(cells, ["signal", "value", limits, ""]).split("\n")
    rest = textwrap.wrap("no limit: " + ", ".join(free), width=REST_CHARS) if free else []
    return [*lines, *rest]


def _mark(row: dict[str, Any]) -> str:
    if row["decisive"]:
        return "<- dropped for this"
    if row["beyond"]:
        return "over it, alone not enough" if row["together"] else "beyond"
    return "" if row["applies"] else "too short to ask"


def _limit(row: dict[str, Any]) -> str:
    return f"{row['limit']} or {', '.join(row['together'])} below theirs" if row["together"] else row["limit"]


def _shared(found: dict[str, Any] | None) -> str:
    if found is None:
        return "no evaluation files to compare with"
    shares = ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in found["shares"].items())
    return f"{shares}; {found['item'] or 'no evaluation item'}"


def _decision(found: dict[str, Any]) -> str:
    if not found["kept"]:
        return f"dropped: {found['reason']}"
    return f"kept: row {found['row']} of documents/{found['shard']}, {found['characters']:,} characters"


def _tokens(place: dict[str, Any]) -> str:
    held = ", held out of training" if place["split"] == "held" else ""
    return f"{place['stage']}: document {place['index']} of {place['shard']}, {place['tokens']:,} tokens{held}"


def _training(stage: dict[str, Any]) -> str:
    steps = stage["steps"]
    if not steps:
        return f"{stage['stage']}: never read"
    named = ", ".join(map(str, steps[:SHOWN_STEPS]))
    rest = f" and {len(steps) - SHOWN_STEPS:,} more to step {steps[-1]}" if len(steps) > SHOWN_STEPS else ""
    return f"{stage['stage']}: {stage['tokens_read']:,} tokens read at step{'s' * (len(steps) > 1)} {named}{rest} (from 0)"


def _number(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
