"""WER, CER and BLEU against jiwer and sacrebleu on random texts; what the normaliser lets pass and what it does not."""

import random

import numpy as np
import pytest

from puna.speech.metrics import Edits, bleu, bleu_counts, bleu_of, cer, errors, wer
from puna.speech.normal import by_character, normalise, units

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "3.5",
    "1,000",
    "co-op",
    "(x)",
    "don't",
    "end.",
    "war-\ntorn",
    "&amp;",
    "Ä",
    "5-6",
    "!",
]


def corpus(seed: int, texts: int = 20) -> tuple[list[str], list[str]]:
    """Random references, and hypotheses with some of their words changed."""
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 14))) for _ in range(texts)]
    hypotheses = []
    for reference in references:
        words = [word for word in reference.split(" ") if rng.random() > 0.1]
        words = [rng.choice(WORDS) if rng.random() < 0.2 else word for word in words]
        hypotheses.append(" ".join(words + rng.choices(WORDS, k=rng.choice([0, 0, 0, 2]))))
    return references, hypotheses


@pytest.mark.parametrize("seed", range(20))
def test_wer_and_cer_are_those_of_jiwer(seed):
    jiwer = pytest.importorskip("jiwer")
    references, hypotheses = ([text.replace("\n", "") for text in texts] for texts in corpus(seed))
    assert wer(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert cer(references, hypotheses) == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tokenise", ["13a", "char"])
def test_bleu_is_that_of_sacrebleu(seed, tokenise):
    sacrebleu = pytest.importorskip("sacrebleu")
    references, hypotheses = corpus(seed, 20 if seed else 1)
    theirs = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=tokenise, force=True).score
    assert bleu(references, hypotheses, tokenise) == pytest.approx(theirs, abs=1e-9)


def test_bleu_at_the_ends():
    assert bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100.0)
    assert bleu(["a b c"], ["x y z"]) == bleu(["a b c"], [""]) == bleu([], []) == 0.0
    rows = [bleu_counts(r, h) for r, h in zip(*corpus(3), strict=True)]
    assert bleu_of(np.array(rows)) == bleu(*corpus(3))


def test_errors_are_counted_by_kind():
    assert errors(list("abcd"), list("axc")) == Edits(1, 1, 0, 4)
    assert errors([], ["a", "b"]) == Edits(0, 0, 2, 0) and errors(["a"], []) == Edits(0, 1, 0, 1)
    assert (errors("abc", "abc") + errors("ab", "ba")).rate == 2 / 5
    assert Edits().rate == 0.0 and errors("", "xy").rate == 2.0
    long = "".join(random.Random(0).choices("abcd", k=3000))
    found = errors(long, long[5:] + "xx")
    assert (found.total, found.deletions - found.insertions) == (7, 3)


@pytest.mark.parametrize(
    ("lang", "text", "plain"),
    [
        (
            "en",
            "Mr. O'Neill's two hundred and five Apples, [laughter] uh: $1,234.50!",
            "mister oneills 205 apples 1234.50",
        ),
        ("en", "It’s the cat's; they WON'T, didn't and we'll.", "it is the cats they will not did not and we will"),
        ("en", "one two three, twenty one, three thousand and one hundred", "1 2 3 21 3100"),
        ("en", "seventeen zero zero hundred and", "17 0 0 hundred and"),
        ("en", "two million three hundred thousand forty", "2300040"),
        ("de", "Straße  „Äpfel“ – 3,5 %", "straße äpfel 3 5"),
        ("fr", "L'été, c’est fini.", "l été c est fini"),
        ("hi", "नमस्ते, दुनिया। १२", "नमस्ते दुनिया 12"),
        ("th", "สวัสดี ครับ ๓", "สวัสดีครับ3"),
        ("zh-CN", "你好，世界！ Ａ１", "你好世界a1"),
        ("es", "¿Qué tal? (risas)", "qué tal"),
    ],
)
def test_normalise(lang, text, plain):
    assert normalise(text, lang) == plain
    assert normalise(plain, lang) == plain


def test_units():
    assert units("Two Dogs.", "en") == ["2", "dogs"]
    assert units("ก ข", "th") == ["ก", "ข"] and by_character("cmn_hans_cn") and not by_character("pt_br")
    assert errors(units("Don't!", "en"), units("do not", "en")).total == 0
    assert errors(units("the cat", "en"), units("the cats", "en")) == Edits(1, 0, 0, 2)
