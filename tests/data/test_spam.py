"""Spam signals of a batch: against a slow reading of the same lists, and the limits on made and honest pages."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from puna.data.languages import languages
from puna.data.rules import REASONS, spam_reasons
from puna.data.spam import SpamLimits, spam_batch
from puna.data.spam_words import ADVERTS, DIRTY
from puna.data.words import scan, words_of

GOOD = (
    "The river rises in the hills above the town and flows for ninety miles to the sea. In winter its banks are flooded, "
    "and the farmers move their sheep to higher ground. Two mills still stand on the lower course; one of them was built in "
    "1780 and grinds flour today. Visitors come for the walks along the water, the old bridges and the fish that is smoked "
    "over oak. A train leaves the coast each hour, and the journey takes a little more than forty minutes when the line is "
    "clear of snow."
)


def slow_cover(words: list[str], lists: dict[str, str], lang: str) -> tuple[int, int]:
    """Definition: at each word the longest phrase that begins there; its words count, and phrases count once."""
    entries = ";".join([lists["en"], lists[lang]] if lang in lists else lists.values())
    phrases = {tuple(words_of(entry)) for entry in entries.split(";")} - {()}
    covered, found, position = 0, set(), 0
    longest = max(map(len, phrases))
    while position < len(words):
        fits = [
            n for n in range(longest, 0, -1) if position + n <= len(words) and tuple(words[position : position + n]) in phrases
        ]
        if fits:
            found.add(tuple(words[position : position + fits[0]]))
            covered += fits[0]
        position += fits[0] if fits else 1
    return covered, len(found)


def slow_stuffing(words: list[str], lang: str) -> float:
    stop = languages()[lang].stop_words if lang in languages() else ()
    content = [word for word in words if len(word) >= 4 and any(map(str.isalpha, word)) and word not in stop]
    if len(words) < 40 or len(content) * 4 < len(words):
        return 0.0
    return max(map(content.count, content)) / len(words)


@pytest.mark.parametrize("lang", [*ADVERTS, "sv", "und"])
def test_signals_equal_their_definition(lang):
    rng = random.Random(lang)
    entries = [entry for lists in (ADVERTS, DIRTY) for code in ("en", lang) if code in lists for entry in lists[code].split(";")]
    plain = ["river", "house", "und", "the", "la", "casa", "में", "बहुत", "don't", "x1", "2020"]
    texts = [" ".join(rng.choices(entries, k=rng.randint(0, 20)) + rng.choices(plain, k=rng.randint(0, 90))) for _ in range(30)]
    found = spam_batch(scan(texts), [lang] * len(texts))
    for row, words in enumerate(map(words_of, texts)):
        for kind, lists in (("advert", ADVERTS), ("dirty", DIRTY)):
            covered, terms = slow_cover(words, lists, lang)
            assert found[f"{kind}_share"][row] == pytest.approx(covered / max(len(words), 1))
            assert found[f"{kind}_terms"][row] == terms
        assert found["stuffing"][row] == pytest.approx(slow_stuffing(words, lang))


def test_documents_of_a_batch_do_not_touch_one_another():
    texts = ["buy now", "", "limited", "offer and casino", "porn " * 3]
    found = spam_batch(scan(texts), ["en", "en", "en", "de", "fr"])
    assert found["advert_share"].tolist() == pytest.approx([1, 0, 0, 1 / 3, 0])
    assert found["dirty_share"].tolist() == [0, 0, 0, 0, 1] and found["dirty_terms"].tolist() == [0, 0, 0, 0, 1]


def kind_of(text: str, lang: str, links: int = 0, link_share: float = 0.0) -> str:
    signals = spam_batch(scan([text]), [lang]) | {"links": np.array([links]), "link_share": np.array([link_share])}
    return REASONS[spam_reasons(pa.table(signals), SpamLimits())[0]].removeprefix("spam:")


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
