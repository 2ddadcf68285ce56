"""System prompts that say what is wanted of speech (section 8.3): recognition, translation, or, without one, an answer.

The language named is that of the answer; the model has to find out by itself which one it hears.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from puna.core.errors import InputError
from puna.tokenizer.chat import Medium, MessageLike
from puna.tokenizer.dialog import MessageRow

Family = Literal["transcribe", "translate", "answer"]

REPEAT = "Repeat after me in {language}:"
TRANSLATE = "Translate the following sentence into {language}:"
LANGUAGE_NAMES = {  # by ISO 639 code: those of the eight languages first, then others that speech corpora have
    "en": "English", "pt": "Portuguese", "es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "hi": "Hindi",
    "th": "Thai", "af": "Afrikaans", "ar": "Arabic", "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan",
    "cs": "Czech", "cy": "Welsh", "da": "Danish", "el": "Greek", "et": "Estonian", "eu": "Basque", "fa": "Persian",
    "fi": "Finnish", "ga": "Irish", "gl": "Galician", "gu": "Gujarati", "he": "Hebrew", "hr": "Croatian", "hu": "Hungarian",
    "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh",
    "kn": "Kannada", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam",
    "mr": "Marathi", "ms": "Malay", "mt": "Maltese", "nb": "Norwegian", "nl": "Dutch", "pa": "Punjabi", "pl": "Polish",
    "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def language_name(lang: str) -> str:
    """A language in English by its ISO code, of which the part before a hyphen counts; InputError for one that is not known."""
    found = LANGUAGE_NAMES.get(lang.replace("_", "-").partition("-")[0].lower())
    if found is None:
        raise InputError(f"the language '{lang}' has no name here", fix="use its ISO 639 code, such as en, de or hi")
    return found


def recognition(lang: str) -> str:
    """The system prompt for the words of what is said, in its own language."""
    return REPEAT.format(language=language_name(lang))


def translation(lang: str) -> str:
    """The system prompt for what is said in another language."""
    return TRANSLATE.format(language=language_name(lang))


def heard(url: str, system: str) -> list[MessageRow]:
    """The prompt of a row: a system message, and the sound as the user's."""
    return [MessageRow(role="system", content=system), MessageRow(role="user", media=(Medium(0, "audio", url),))]


def family_of(messages: Sequence[MessageLike]) -> Family:
    """What a dialog's system prompt asks for."""
    first = messages[0].content if messages and messages[0].role == "system" else ""
    for family, wording in (("transcribe", REPEAT), ("translate", TRANSLATE)):
        before, after = wording.split("{language}")
        if first.startswith(before) and first.endswith(after):
            return "transcribe" if family == "transcribe" else "translate"
    return "answer"
