"""Quality signals against direct counting, and the rules they feed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from puna.data.signals import CODE, MATHS, PROSE, failed_rule, hash_words, measure, ngram_hashes, words_of
from puna.data.spam import SpamLimits, spam_kind, spam_signals

GOOD = (
    "The river rises in the hills above the town and flows for ninety miles to the sea. In winter its banks are flooded, "
    "and the farmers move their sheep to higher ground. Two mills still stand on the lower course; one of them was built in "
    "1780 and grinds flour today. Visitors come for the walks along the water, the old bridges and the fish that is smoked "
    "over oak. A train leaves the coast each hour, and the journey takes a little more than forty minutes when the line is "
    "clear of snow."
)


def duplicate_share(words: list[str], n: int) -> float:
    """Characters inside n-grams seen before, counted once: the definition, word by word."""
    seen, covered = set(), set()
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            covered.update(range(start, start + n))
        seen.add(gram)
    return sum(len(words[i]) for i in covered) / sum(map(len, words))


def top_share(words: list[str], n: int) -> float:
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    best = max(grams.values())
    shares = {best * sum(map(len, gram)) for gram, count in grams.items() if count == best} if best > 1 else {0}
    return max(shares) / sum(map(len, words)), min(shares) / sum(map(len, words))


@pytest.mark.parametrize("seed", range(5))
def test_ngram_signals_equal_direct_counting(seed):
    rng = random.Random(seed)
    words = rng.choices(["red", "green", "blue", "yellow", "tin"], k=rng.randint(30, 200))
    signals = measure(" ".join(words), "en")
    for n in (5, 6, 7, 8, 9, 10):
        assert signals[f"duplicate_{n}gram"] == pytest.approx(duplicate_share(words, n))
    for n in (2, 3, 4):
        high, low = top_share(words, n)
        assert low - 1e-9 <= signals[f"top_{n}gram"] <= high + 1e-9


def test_ngram_hashes_tell_different_ngrams_apart():
    words = [f"w{i}" for i in range(3000)] + ["b", "a", "a", "b"]
    for n in (2, 5):
        hashes = ngram_hashes(hash_words(words), n)
        assert len(set(hashes.tolist())) == len({tuple(words[i : i + n]) for i in range(len(words) - n + 1)})


@pytest.mark.parametrize(("text", "rule"), [
    (GOOD, ""),
    ("too short", "words"),
    (GOOD + " \ufffd" * 20, "unreadable"),
    ("a b c d e f g h i j k l m n o p q r s t u v w x y z", "word_length"),
    ("# " * 30 + GOOD, "symbols"),
    ("\n".join(f"- item {w} of the list and more" for w in GOOD.split()), "bullet_lines"),
    ("\n".join(f"the {w} and a good many other things of that kind and so on..." for w in GOOD.split()), "ellipsis_lines"),
    (" ".join(f"{i} the to" for i in range(40)), "alpha_words"),
    (" ".join(f"wort{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(60)), "stop_words"),
    ("the same line and that\n" * 30, "duplicate_lines"),
    (GOOD + "\nThis sentence is said again and again, said the man to the sea." * 20, "duplicate_lines"),
    (GOOD + " lorem ipsum dolor", "lorem_ipsum"),
    (" ".join(["error of the pump in the cellar at night"] * 30), "top_2gram"),
])  # fmt: skip
def test_rules_of_prose(text, rule):
    assert failed_rule(measure(text, "en"), PROSE) == rule


def test_maths_and_code_have_their_own_limits():
    sums = "\n".join(f"{a}+{b}={a + b}. {a}-{b}={a - b}." for a in range(10, 20) for b in range(1, 5))
    code = "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(20))
    assert failed_rule(measure(sums, "und"), PROSE) and failed_rule(measure(code, "und"), PROSE)
    assert not failed_rule(measure(sums, "und"), MATHS) and not failed_rule(measure(code, "und"), CODE)


def test_scripts_without_spaces_are_not_judged_by_words():
    thai = "ปฏิญญาสากลว่าด้วยสิทธิมนุษยชน โดยที่การยอมรับนับถือเกียรติศักดิ์ประจำตัว และสิทธิเท่าเทียมกัน"
    signals = measure(thai * 3, "th")
    assert signals["mean_word_chars"] is None and signals["duplicate_5gram"] is None and signals["alpha_words"] is None


def kind_of(text: str, lang: str, links: int = 0, link_share: float = 0.0) -> str:
    return spam_kind(spam_signals(words_of(text), lang, links, int(1000 * link_share), 1000), SpamLimits())


@pytest.mark.parametrize(("text", "lang", "expected"), [
    ("Buy now! Limited offer, best price, click here. Cheap pills, casino bonus, act now, guaranteed jackpot!", "en", "advert"),
    ("Jetzt kaufen! Nur heute: Rabatt und Gutschein, gratis Bonus im Casino, jetzt bestellen, Schnäppchen!", "de", "advert"),
    ("¡Compra ahora! Oferta limitada, descuento, gratis, casino, viagra barato, haz clic aquí", "es", "advert"),
    ("คลิกที่นี่ โปรโมชั่น ลดราคา แจกฟรี คาสิโน โบนัส ซื้อเลย รับประกัน ราคาถูก", "th", "advert"),
    (GOOD, "en", ""),
    (GOOD + " Click here to buy the ticket at a cheap price.", "en", ""),
    ("Corna wants to buy a shirt. The store buys it for $20, charges 30% for profit, and it is on sale for 50% off.", "en", ""),
    ("keyword " * 60 + GOOD, "en", "stuffing"),
])  # fmt: skip
def test_spam(text, lang, expected):
    assert kind_of(text, lang) == expected


def test_a_page_of_links_is_a_farm_only_with_adverts():
    assert kind_of(GOOD + " casino jackpot bonus cheap viagra poker roulette discount", "en", 60, 0.8) == "link_farm"
    assert kind_of(GOOD, "en", 60, 0.8) == ""
