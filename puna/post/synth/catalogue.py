"""Every generator by name: what a recipe may ask of `post.synthesise`.

A generator is a module: CAPABILITY (of its dialogs), REASONS (why it may refuse), `Settings` with at least `count` and `prompts`,
`items(settings, sources, rng)`, which draws what to begin with, and `story(item, settings, templates)`. It may have TEMPLATES,
the name of its file of templates where that is not its own, and `outside(settings)`, the user's files that it reads.
"""

from __future__ import annotations

from types import ModuleType

from puna.core.settings import Settings as BaseSettings
from puna.post.synth import (
    chunk_questions,
    code_backtranslate,
    code_feedback,
    code_translate,
    function_calls,
    instructions,
    knowledge,
    maths_code,
    maths_corrections,
    maths_selfcheck,
    maths_verified,
    missing_file,
    parallel_text,
    steering,
    summaries,
    tool_use,
    translated_reasoning,
)
from puna.post.synth.chunk_questions import Settings as ChunkQuestions
from puna.post.synth.code_backtranslate import Settings as CodeBacktranslate
from puna.post.synth.code_feedback import Settings as CodeFeedback
from puna.post.synth.code_translate import Settings as CodeTranslate
from puna.post.synth.function_calls import Settings as FunctionCalls
from puna.post.synth.instructions import Settings as Instructions
from puna.post.synth.knowledge import Settings as Knowledge
from puna.post.synth.maths_code import Settings as MathsCode
from puna.post.synth.maths_corrections import Settings as MathsCorrections
from puna.post.synth.maths_selfcheck import Settings as MathsSelfcheck
from puna.post.synth.maths_verified import Settings as MathsVerified
from puna.post.synth.missing_file import Settings as MissingFile
from puna.post.synth.parallel_text import Settings as ParallelText
from puna.post.synth.steering import Settings as Steering
from puna.post.synth.summaries import Settings as Summaries
from puna.post.synth.tool_use import Settings as ToolUse
from puna.post.synth.translated_reasoning import Settings as TranslatedReasoning


class Generators(BaseSettings):
    """Settings of the generators that are wanted, by name; those without are not run."""

    code_feedback: CodeFeedback | None = None
    code_translate: CodeTranslate | None = None
    code_backtranslate: CodeBacktranslate | None = None
    maths_verified: MathsVerified | None = None
    maths_selfcheck: MathsSelfcheck | None = None
    maths_corrections: MathsCorrections | None = None
    maths_code: MathsCode | None = None
    instructions: Instructions | None = None
    chunk_questions: ChunkQuestions | None = None
    function_calls: FunctionCalls | None = None
    knowledge: Knowledge | None = None
    missing_file: MissingFile | None = None
    parallel_text: ParallelText | None = None
    steering: Steering | None = None
    summaries: Summaries | None = None
    tool_use: ToolUse | None = None
    translated_reasoning: TranslatedReasoning | None = None


GENERATORS: dict[str, ModuleType] = {
    "code_feedback": code_feedback,
    "code_translate": code_translate,
    "code_backtranslate": code_backtranslate,
    "maths_verified": maths_verified,
    "maths_selfcheck": maths_selfcheck,
    "maths_corrections": maths_corrections,
    "maths_code": maths_code,
    "instructions": instructions,
    "chunk_questions": chunk_questions,
    "function_calls": function_calls,
    "knowledge": knowledge,
    "missing_file": missing_file,
    "parallel_text": parallel_text,
    "steering": steering,
    "summaries": summaries,
    "tool_use": tool_use,
    "translated_reasoning": translated_reasoning,
}
