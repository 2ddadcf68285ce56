"""Texts that provoke encoders: many scripts, odd spaces, Python sources, pieces glued at random."""

from __future__ import annotations

import argparse
import inspect
import pydoc
import random
import textwrap

SENTENCES = (
    "The quick brown fox doesn't jump over 1234567 lazy dogs.",
    "Die Würde des Menschen ist unantastbar. Straße, Größe, Übung.",
    "Tous les êtres humains naissent libres et égaux en dignité.",
    "Todos os seres humanos nascem livres; ação, coração, não.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "人人生而自由,在尊严和权利上一律平等。",
    "يولد جميع الناس أحراراً متساوين في الكرامة",
    "emoji 😀👩‍👩‍👧‍👦🇨🇭 and symbols ∑∫√ ≠ → ½ ①",
)
PIECES = (
    *("a", "the", " the", "'s", "'LL", "don't", "I'VE", "x1y2", "1234567", " 12", "½", "²", "٣٤", "Ⅷ", "٠"),
    *(
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "\n \n",
        " \n  ",
        "\u00a0",
        "\u2003",
        "\u3000",
        "\u200b",
        "\x0b",
        "\x1c",
        "\x85",
        "\u2028",
    ),
    *(
        "é",
        "e\u0301",
        "ß",
        "İ",
        "ſ",
        "'ſ",
        "K",
        "ǅ",
        "नमस्ते",
        "ภาษาไทย",
        "漢字かな",
        "한국어",
        "עברית",
        "😀",
        "👩‍👩‍👧",
        "🇨🇭",
        "\U0001f9ff",
    ),
    *(
        "!",
        "...",
        " (",
        "){",
        "/*",
        "</a>",
        "==",
        "_",
        "__init__",
        "$",
        "€",
        "\x00",
        "\x07",
        "\ufeff",
        "\ufffd",
        "\ue000",
        "\ufffe",
    ),
    *("<|", "|>", "eot_id", "system", "assistant", "user", "ipython"),
)


def corpus() -> list[str]:
    code = inspect.getsource(argparse)[:60_000] + inspect.getsource(pydoc)[:60_000] + inspect.getsource(textwrap)
    return [*code.split("\n\n"), *SENTENCES * 20]


def random_text(rng: random.Random, longest: int = 12) -> str:
    """A text glued from provoking pieces, sentences cut anywhere, and single random code points (no surrogates)."""
    parts = []
    for _ in range(rng.randrange(longest + 1)):
        kind = rng.random()
        if kind < 0.7:
            parts.append(rng.choice(PIECES))
        elif kind < 0.85:
            sentence = rng.choice(SENTENCES)
            start = rng.randrange(len(sentence))
            parts.append(sentence[start : start + rng.randrange(1, 20)])
        else:
            code = rng.randrange(0x110000 - 0x800)
            parts.append(chr(code if code < 0xD800 else code + 0x800))
    return "".join(parts)
