"""Language identification on real texts in 28 languages and on short, sum-like and mixed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.data.language import UNKNOWN, identify
from puna.data.local_files import read_xml

UDHR = Path(__file__).parents[2].parent / "shared" / "data" / "udhr"
CODES = {"arb": "ar", "bul": "bg", "ces": "cs", "cmn": "zh", "deu": "de", "ell": "el", "eng": "en", "fin": "fi", "fra": "fr",
         "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pes": "fa",
         "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "spa": "es", "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk",
         "vie": "vi"}  # fmt: skip


@pytest.mark.skipif(not UDHR.exists(), reason="the real sample files are not at ../shared/data")
def test_every_language_of_the_declaration_whole_and_by_paragraphs():
    wrong, pieces = [], 0
    for path in sorted(UDHR.glob("udhr_*.xml")):
        expected = CODES[path.stem.split("_")[1]]
        for row in read_xml(path, "x", 8000):
            text = row.content.decode()
            assert identify(text)[0] == expected
            for paragraph in text.split("\n\n"):
                if len(paragraph) >= 100:
                    pieces += 1
                    wrong += [(path.stem, paragraph[:40])] if identify(paragraph)[0] != expected else []
    assert pieces > 1000 and len(wrong) <= 0.03 * pieces


@pytest.mark.parametrize("text", ["", "34 + 5 = 39\n12 - 4 = 8", "x = y", "a b c d e f", "{}();", "http://a.b/c d@e.fr"])
def test_text_without_language_is_unknown(text):
    assert identify(text) == (UNKNOWN, 0.0)


def test_sums_and_calls_do_not_hide_the_language():
    hindi = "आज हम स्कूल में कुछ नया सीख रहे हैं.\n" + '{"name": "add", "parameters": {"a": 7, "b": 9}}\n' * 20
    assert identify(hindi)[0] == "hi"
    german = "Heute lernen wir etwas Neues in der Schule und rechnen viel.\n" + "12+5=17. 17-4=13.\n" * 30
    assert identify(german)[0] == "de"


def test_majority_of_the_parts_wins():
    english = "The children of the village should know the words on this page. " * 40
    dutch = "Het weer in dit land is vaak nat en koud, zegt de oude man. " * 10
    assert identify(english + dutch)[0] == "en"
    assert identify(dutch * 4 + english[:300])[0] == "nl"
