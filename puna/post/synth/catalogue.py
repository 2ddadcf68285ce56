"""Every generator by name: what a recipe may ask of `post.synthesise`.

A generator is a module: CAPABILITY (of its dialogs), REASONS (why it may refuse), `Settings` with at least `count` and `prompts`,
`items(settings, sources, rng)`, which draws what to begin with, and `story(item, settings, templates)`.
"""

from __future__ import annotations

from types import ModuleType

from puna.core.settings import Settings as BaseSettings
from puna.post.synth import code_feedback
from puna.post.synth.code_feedback import Settings as CodeFeedback


class Generators(BaseSettings):
    """Settings of the generators that are wanted, by name; those without are not run."""

    code_feedback: CodeFeedback | None = None


GENERATORS: dict[str, ModuleType] = {
    "code_feedback": code_feedback,
}
