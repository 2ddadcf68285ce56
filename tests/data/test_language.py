"""Language identification on real texts in 28 languages and on short, sum-like and mixed ones."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from puna.data.kernels.language import probabilities, tables
from puna.data.language import LLAMA_LANGUAGES, UNKNOWN, identify, identify_batch
from puna.data.language_scripts import LANGUAGES
from puna.data.local_files import read_xml

UDHR = Path(__file__).parents[2].parent / "shared" / "data" / "udhr"
CODES = {"arb": "ar", "bul": "bg", "ces": "cs", "cmn": "zh", "deu": "de", "ell": "el", "eng": "en", "fin": "fi", "fra": "fr",
         "heb": "he", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pes": "fa",
         "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "spa": "es", "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk",
         "vie": "vi"}  # fmt: skip


needs_udhr = pytest.mark.skipif(not UDHR.exists(), reason="the real sample files are not at ../shared/data")


def declarations() -> dict[str, str]:
    """The Universal Declaration of Human Rights by language."""
    files = {CODES[path.stem.split("_")[1]]: read_xml(path, "x", 8000) for path in sorted(UDHR.glob("udhr_*.xml"))}
    return {code: "\n\n".join(row.content.decode() for row in rows) for code, rows in files.items()}


@needs_udhr
def test_every_language_of_the_declaration_whole_and_by_paragraphs():
    right = pieces = 0
    for code, text in declarations().items():
        assert identify(text)[0] == code
        paragraphs = [paragraph for paragraph in text.split("\n\n") if len(paragraph) >= 100]
        found = sum(identify(paragraph)[0] == code for paragraph in paragraphs)
        assert found >= 0.9 * len(paragraphs), (code, found, len(paragraphs))
        right, pieces = right + found, pieces + len(paragraphs)
    assert pieces > 1000 and right >= 0.98 * pieces


@needs_udhr
def test_the_compiled_classifier_equals_the_library():
    from py3langid import langid

    library = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    texts = [text[start : start + 200] for text in declarations().values() for start in (0, 1000, 2000)]
    for text in [*texts, "SHOUTED WORDS OF ENGLISH", "x", "cafe\u0301 au lait"]:
        ours: dict[str, float] = {}
        for label, probability in zip(tables().labels, probabilities(text).tolist(), strict=True):
            ours[label] = ours.get(label, 0.0) + probability
        for label, probability in library.rank(text):
            assert ours[label] == pytest.approx(probability, abs=2e-4)


@pytest.mark.parametrize(("text", "lang"), [
    ("བོད་ཡིག་ནི་བོད་མིའི་སྐད་ཡིག་ཡིན། འདི་ནི་དཔེ་མཚོན་ཞིག་རེད།", "bo"),
    ("ދިވެހިބަހަކީ ދިވެހިރާއްޖޭގެ ރަސްމީ ބަހެވެ. މިއީ މިސާލެކެވެ", "dv"),
    ("ᎣᏏᏲ ᎠᏂᏴᏫᏯ ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎠᎴ ᎪᏪᎵ ᎠᏂ", "chr"),
])  # fmt: skip
def test_a_script_of_one_language_is_enough(text, lang):
    assert identify(text) == (lang, 1.0)


def test_a_batch_gives_what_single_texts_give():
    texts = [
        "Die Kinder spielen heute im Garten hinter dem alten Haus.",
        None,
        "",
        "Los niños juegan hoy en el jardín de la casa.",
    ]
    codes, found = identify_batch(pa.array(texts))
    assert codes == ["de", UNKNOWN, UNKNOWN, "es"]
    assert found.dtype == "float32" and found.tolist() == pytest.approx([identify(text or "")[1] for text in texts])


@needs_udhr
def test_a_batch_gives_what_single_texts_give_for_long_and_mixed_ones():
    whole = list(declarations().values())
    mixed = [first[:700] + "\n" + second[:900] for first, second in pairwise(whole)]
    texts = [*whole, *mixed, *(text[-60:] for text in whole), "x", *(unicodedata.normalize("NFD", text[:900]) for text in whole)]
    codes, found = identify_batch(pa.chunked_array([texts[:50], texts[50:]]))
    assert list(zip(codes, found.tolist(), strict=True)) == [identify(text) for text in texts]


def test_half_a_character_is_no_language():
    assert identify("\ud800" * 40) == (UNKNOWN, 0.0)


def test_coverage():
    assert len(LANGUAGES) >= 160 and set(LLAMA_LANGUAGES) | set(CODES.values()) <= set(LANGUAGES)


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
