"""The generators' questions as data: one YAML file per generator, filled in by name (paper 4.3.1).

A template is a `user` text and perhaps a `system` text with {names} where the values go. The digest of a file stands in the
provenance of every row that came of it, and in the identity of the stage, so a reworded question makes other rows.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.core.source import load_text
from puna.post.synth.steps import Ask
from puna.tokenizer.dialog import MessageRow

PROMPTS = Path(__file__).parent / "prompts"
_SLOT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Templates:
    """The templates of one generator: `texts` by name, each with `user` and perhaps `system`; `digest` is that of the file."""

    generator: str
    texts: dict[str, dict[str, str]]
    digest: str

    def ask(self, name: str, *, samples: int = 1, temperature: float = 0.7, max_tokens: int = 256, role: str = "teacher",
            **slots: str) -> Ask:  # fmt: skip
        """The question called `name`, with a value for each of its slots."""
        text = self.texts[name]
        messages = [MessageRow(role=who, content=_fill(text[who], slots)) for who in ("system", "user") if who in text]
        return Ask(messages, samples, temperature, max_tokens, role, None, f"{self.generator}.{name}", slots)

    def text(self, name: str, part: str = "user", **slots: str) -> str:
        """A text of its own, filled in: what a dialog says and no teacher is asked."""
        return _fill(self.texts[name][part], slots)


def load_templates(generator: str, path: str = "") -> Templates:
    """The templates of a generator: those that come with Puna, or a user's own file of the same form.

    Raises InputError for a file that is missing, no YAML, lacks one of the templates that Puna's own has or one of its slots, or
    has a slot that nothing fills.
    """
    own = _read(PROMPTS / f"{generator}.yaml", generator)
    if not path:
        return own
    found = _read(Path(path), generator)
    for name, text in own.texts.items():
        lacking = _slots(text) - _slots(found.texts.get(name, {}))
        if name not in found.texts or lacking:
            what = f"the template '{name}' lacks " + ", ".join(f"{{{slot}}}" for slot in sorted(lacking or _slots(text)))
            raise InputError(what, where=path, fix=f"begin from a copy of {PROMPTS.name}/{generator}.yaml")
    every = set().union(*map(_slots, own.texts.values()))
    for name, text in found.texts.items():
        filled = _slots(own.texts[name]) if name in own.texts else every
        if unknown := sorted(_slots(text) - filled):
            raise InputError(f"nothing fills {{{unknown[0]}}} in the template '{name}'", where=path,
                             fix=f"use only: {', '.join(f'{{{slot}}}' for slot in sorted(filled)) or 'none'}")  # fmt: skip
    return found


def _read(path: Path, generator: str) -> Templates:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"no templates can be read here: {error.strerror}", where=str(path), fix="check `prompts`") from error
    texts: Any = load_text(raw.decode("utf-8", "replace"), str(path))[0]
    well = isinstance(texts, dict) and all(isinstance(text, dict) and "user" in text for text in texts.values())
    if not well:
        raise InputError("templates are names with a `user` text each", where=str(path), fix="problem: {user: ...}")
    stripped = {name: {who: str(said).rstrip("\n") for who, said in text.items()} for name, text in texts.items()}
    return Templates(generator, stripped, hashlib.blake2b(raw, digest_size=8).hexdigest())


def _slots(text: dict[str, str]) -> set[str]:
    return {slot for said in text.values() for slot in _SLOT.findall(said)}


def _fill(text: str, slots: dict[str, str]) -> str:
    """Every {name} replaced once, so that braces in a value stay as they are."""
    return _SLOT.sub(lambda match: slots[match[1]], text)
