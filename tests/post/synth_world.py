"""The mini-world as the generators' input, and the truth of what they accept: for tests and for `bench/synth.py`."""

from __future__ import annotations

import random
import sys
from types import ModuleType, SimpleNamespace

from synth_toys import TrustedBox

from puna.core.rng import python_stream
from puna.post.synth.catalogue import GENERATORS
from puna.post.synth.drive import drive
from puna.post.synth.sources import Document
from puna.post.synth.steps import Accepted
from puna.post.synth.teacher import OracleTeacher
from puna.post.synth.templates import load_templates
from puna.tokenizer.dialog import Dialog, content_id
from puna.world.almanac import ALMANAC_LICENCE, page
from puna.world.projects import FUNCTIONS, source
from puna.world.tasks import task


class ProjectBox(TrustedBox):
    """Runs Python in this process beside the files that come with it, for programs that the oracle wrote."""

    def _run(self, program):
        modules = {name.removesuffix(".py"): ModuleType(name) for name in program.files if name.endswith(".py")}
        held = {name: sys.modules.get(name) for name in modules}
        imported = [line.split()[1] for line in program.code.splitlines() if line.startswith("from ")]
        for name in filter(modules.__contains__, imported):
            sys.modules[name] = modules[name]
            exec(program.files[f"{name}.py"].decode(), vars(modules[name]))
        try:
            return super()._run(program)
        finally:
            for name, before in held.items():
                sys.modules.pop(name, None)
                if before:
                    sys.modules[name] = before


class WorldInputs:
    """Documents of the almanac (and one of code), tasks and gold dialogs of the mini-world, as `Sources` gives them."""

    def __init__(self, seed: int, documents: int = 400, tasks: int = 400, towns: int = 4):
        rng = random.Random(seed)
        self._documents = [self._document(f"a{i}", page(rng, towns), "general") for i in range(documents)]
        self._documents.append(self._document("code", "\n\n".join(map(source, FUNCTIONS)), "code"))
        self._tasks = [task(rng, "math", "prompts") for _ in range(tasks)]
        drawn = (task(rng, "math", "gold", "en") for _ in range(2 * tasks))
        self._gold = [one for one in drawn if not one.constraint][:tasks]

    @staticmethod
    def _document(name: str, text: str, group: str) -> Document:
        return Document(name, text, "world", ALMANAC_LICENCE, "en", group)

    def documents(self, *groups: str):
        return (one for one in self._documents if not groups or one.group in groups)

    def tasks(self):
        return iter(self._tasks)

    def dialogs(self):
        for one in self._gold:
            messages = [*one.prompt, *one.gold_messages()]
            yield Dialog(id=content_id(messages), messages=messages, capability="maths", provenance=one.provenance)


def told(name: str, settings: dict, inputs, box, errors: float = 0.2, seed: int = 0):
    """The stories of one generator with the oracle as teacher and judge, run to their ends."""
    generator = GENERATORS[name]
    own = generator.Settings.model_validate(settings)
    templates = load_templates(getattr(generator, "TEMPLATES", name), own.prompts)
    items = list(generator.items(own, inputs, python_stream(seed, "items", name)))
    oracle = OracleTeacher(errors)
    stories = [(name, item, generator.story(item, own, templates)) for item in items]
    return drive(stories, {"teacher": oracle, "judge": oracle}, box, seed)


def counted(running, is_true) -> SimpleNamespace:
    """Items, accepted, accepted and true, reasons."""
    accepted = [one for one in running if isinstance(one.end, Accepted)]
    wrong = [one for one in accepted if not is_true(one.item, one.end)]
    reasons: dict[str, int] = {}
    for one in running:
        if one.told.reason:
            reasons[one.told.reason] = reasons.get(one.told.reason, 0) + 1
    return SimpleNamespace(
        items=len(running), accepted=len(accepted), true=len(accepted) - len(wrong), wrong=wrong, reasons=reasons
    )
