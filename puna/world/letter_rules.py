"""Letter rules of six languages written with Latin letters, and the letters of Hindi and Thai: a table for `puna.world.phones`.

A rule is a regular expression and the phones it gives, tried in order at each place of a word; "" is a silent letter. Word ends
are `$`. The rules are short on purpose: common spellings are right, many words are not, and English
most of all. Phones are in X-SAMPA, with `~` for a nasal vowel and a length mark nowhere.
"""

from __future__ import annotations

Rules = list[tuple[str, str]]

START = r"(?<![^\W\d_])"
ROMANCE_C = [(r"c(?=[eéêèiíî])", "s"), (r"ç", "s")]
PLAIN = [
    ("[aàáâã]", "a"), ("b", "b"), ("d", "d"), ("[eèéêë]", "e"), ("f", "f"), ("g", "g"), ("[iíîïì]", "i"), ("j", "Z"),
    ("k", "k"),
    ("l", "l"), ("m", "m"), ("ñ", "J"), ("n", "n"), ("[oòóôõ]", "o"), ("p", "p"), ("q", "k"), ("r", "r"), ("s", "s"),
    ("t", "t"),
    ("[uùúûü]", "u"), ("v", "v"), ("w", "w"), ("x", "k s"), ("y", "i"), ("z", "z"), ("c", "k"), ("h", ""),
]  # fmt: skip

LATIN: dict[str, Rules] = {
    "en": [
        ("eye", "a I"), ("igh", "a I"), ("ough", "O"), ("tion", "S @ n"), ("tch", "t S"), ("sh", "S"), ("ch", "t S"),
        ("ph", "f"),
        ("th(?=[eai]s?$|er)", "D"), ("th", "T"), ("wh", "w"), ("ck", "k"), ("ng(?=$|s)", "N"), (START + "kn", "n"),
        (START + "wr", "r"), ("qu", "k w"), ("ous$", "@ s"), ("ouse", "a U s"), ("ou", "a U"), ("ow$", "o U"), ("ow", "a U"),
        ("oo", "u"), ("oa", "o U"), ("oy|oi", "O I"), ("ee|ea", "i"), ("ai|ay", "e I"), ("au|aw", "O"), ("ew|ui", "u"),
        ("ie$", "a I"),
        ("ey$", "i"), ("er$", "@ r"), ("ir|ur|er", "@ r"), ("ar", "A r"), ("or", "O r"), ("a(?=[^aeiouwy]e$)", "e I"),
        ("i(?=[^aeiouwy]e$)", "a I"), ("o(?=[^aeiouwy]e$)", "o U"), ("u(?=[^aeiouwy]e$)", "u"), ("(?<=.)e$", ""), ("y$", "i"),
        (START + "y", "j"), ("a$", "@"), ("o$", "o U"), ("i$", "i"), ("u$", "u"), ("a", "&"), ("e", "E"), ("i|y", "I"),
        ("o", "A"),
        ("u", "V"), ("dge", "d Z"), ("g(?=[ei])", "g"), ("c(?=[eiy])", "s"), ("j", "d Z"), ("bb", "b"), ("dd", "d"),
        ("ff", "f"),
        ("gg", "g"), ("ll", "l"), ("mm", "m"), ("nn", "n"), ("pp", "p"), ("rr", "r"), ("ss", "s"), ("tt", "t"), ("zz", "z"),
        ("s(?<=[aeioubdglmnrvw]s)$", "z"), ("x", "k s"), ("h", "h"), *PLAIN,
    ],
    "es": [
        ("ch", "t S"), ("ll", "j"), ("rr", "r r"), ("qu(?=[eéií])", "k"), ("gu(?=[eéií])", "g"), ("g(?=[eéií])", "x"),
        ("j", "x"),
        ("c(?=[eéií])", "T"), ("z", "T"), ("v", "b"), ("y$", "i"), ("y", "j"), ("i(?=[aáeéoóuú])", "j"),
        ("u(?=[aáeéiíoó])", "w"),
        *PLAIN,
    ],
    "pt": [
        ("ão", "a~ w"), ("õe", "o~ j"), ("ã", "a~"), ("am$", "a~ w"), ("em$", "e~ j"), ("[aâ][mn](?=[^aeiouáéíóúnmh])", "a~"),
        ("[eê][mn](?=[^aeiouáéíóúnmh])", "e~"), ("[oô][mn](?=[^aeiouáéíóúnmh]|$)", "o~"), ("nh", "J"), ("lh", "l j"),
        ("ch", "S"),
        ("qu(?=[eéi])", "k"), ("gu(?=[eéi])", "g"), ("g(?=[eéi])", "Z"), *ROMANCE_C, ("rr|" + START + "r", "R"), ("ss", "s"),
        ("s(?<=[aeiouáéíóúâêô]s)(?=[aeiouáéíóú])", "z"), ("é", "E"), ("ó", "O"), ("e$", "i"), ("o$", "u"), ("l$", "w"),
        ("x", "S"),
        *PLAIN,
    ],
    "fr": [
        ("eau|au", "o"), ("œi|ei(?=l)", "9"), ("œ|eu(?=[rlf])", "9"), ("eu", "2"), ("oin", "w e~"), ("oi", "w a"),
        ("ou", "u"),
        ("ain|ein|in(?=[^aeiouyé nm]|$)|un$", "e~"), ("[ae]n(?=[^aeiouyén]|$)|am(?=[pb])|em(?=[pb])", "a~"),
        ("on(?=[^aeiouyén]|$)|om(?=[pb])", "o~"), ("ai|ê|è", "E"), ("é|er$|ez$", "e"), ("ille", "i j"),
        ("il$|ll(?<=[ae]ill)", "j"),
        ("gn", "J"), ("ch", "S"), ("ph", "f"), ("qu", "k"), ("gu(?=[eéi])", "g"),
        ("g(?=[eéiy])", "Z"), *ROMANCE_C, ("tt", "t"),
        ("ss", "s"), ("nn", "n"), ("ll", "l"), ("s(?<=[aeiouéy]s)(?=[aeiouéy])", "z"), ("(?<=..)e?s$|(?<=..)[tdpxz]$", ""),
        ("(?<=..)e$", ""), ("e", "@"), ("u", "y"), ("y", "i"), ("r", "R"), *PLAIN,
    ],
    "de": [
        ("sch", "S"), ("ch(?<=[aou]ch)", "x"), ("ch", "C"), ("ck", "k"), ("tz|z", "t s"), ("pf", "p f"), ("qu", "k v"),
        ("ng", "N"),
        ("eu|äu", "O I"), ("ei|ai", "a I"), ("au", "a U"), ("ie", "i"), ("ee|eh", "e"), ("ah|aa", "a"), ("oh", "o"),
        ("uh", "u"),
        (START + "s(?=[pt])", "S"), ("ss|ß", "s"), ("s(?=[aeiouäöü])", "z"), ("tt", "t"), ("nn", "n"), ("ll", "l"),
        ("mm", "m"),
        ("ö", "2"), ("ü|y", "y"), ("ä", "E"), ("er$", "6"), ("e(?=[nl]?$)", "@"), ("b$", "p"), ("d$", "t"), ("g$", "k"),
        ("v", "f"),
        ("w", "v"), ("j", "j"), ("r", "R"), (START + "h", "h"), ("e(?=[^aeiouäöü]{2})", "E"), ("i(?=[^aeiouäöü]{2})", "I"),
        ("u(?=[^aeiouäöü]{2})", "U"), ("o(?=[^aeiouäöü]{2})", "O"), *PLAIN,
    ],
    "it": [
        ("gli(?=[aeou])", "l j"), ("gn", "J"), ("sc(?=[eèiì])", "S"), ("cch", "k k"), ("ch", "k"), ("gh", "g"),
        ("cci(?=[aou])", "t t S"), ("cc(?=[eèiì])", "t t S"), ("ci(?=[aou])", "t S"), ("c(?=[eèiì])", "t S"),
        ("gi(?=[aou])", "d Z"),
        ("g(?=[eèiì])", "d Z"), ("qu", "k w"), ("zz", "t t s"), ("z", "t s"), ("s(?<=[aeiou]s)(?=[aeiou])", "z"),
        ("i(?=[aeou])", "j"), ("u(?=[aeio])", "w"), ("è", "E"), ("ò", "O"), *PLAIN,
    ],
}  # fmt: skip

DEVANAGARI_CONSONANTS = {
    "क": "k", "ख": "k h", "ग": "g", "घ": "g h", "च": "t S", "छ": "t S h", "ज": "d Z", "झ": "d Z h", "ट": "t",
    "ठ": "t h", "ड": "d", "ढ": "d h", "ण": "n", "त": "t", "थ": "t h", "द": "d", "ध": "d h", "न": "n", "प": "p",
    "फ": "p h", "ब": "b", "भ": "b h", "म": "m", "य": "j", "र": "r", "ल": "l", "व": "v", "श": "S", "ष": "S",
    "स": "s", "ह": "h", "ङ": "N", "ञ": "J",
}  # fmt: skip
DEVANAGARI_VOWELS = {
    "अ": "@", "आ": "a", "इ": "I", "ई": "i", "उ": "U", "ऊ": "u", "ऋ": "r i", "ए": "e", "ऐ": "E", "ओ": "o",
    "औ": "O",
}  # fmt: skip
DEVANAGARI_SIGNS = {"ा": "a", "ि": "I", "ी": "i", "ु": "U", "ू": "u", "ृ": "r i", "े": "e", "ै": "E", "ो": "o", "ौ": "O", "ॉ": "O"}
VIRAMA, NUKTA, DEVANAGARI_NASAL = "्", "़", "ंँ"

THAI_CONSONANTS = {
    "ก": "k", "ข": "k h", "ค": "k h", "ฆ": "k h", "ง": "N", "จ": "t S", "ฉ": "t S h", "ช": "t S h", "ซ": "s",
    "ฌ": "t S h", "ญ": "j", "ฎ": "d", "ฏ": "t", "ฐ": "t h", "ฑ": "t h", "ฒ": "t h", "ณ": "n", "ด": "d",
    "ต": "t", "ถ": "t h", "ท": "t h", "ธ": "t h", "น": "n", "บ": "b", "ป": "p", "ผ": "p h", "ฝ": "f",
    "พ": "p h", "ฟ": "f", "ภ": "p h", "ม": "m", "ย": "j", "ร": "r", "ล": "l", "ว": "w", "ศ": "s", "ษ": "s",
    "ส": "s", "ห": "h", "ฬ": "l", "อ": "", "ฮ": "h",
}  # fmt: skip
THAI_BEFORE = {"เ": "e", "แ": "E", "โ": "o", "ใ": "a j", "ไ": "a j"}  # written before the consonant, spoken after it
THAI_AFTER = {"ะ": "a", "ั": "a", "า": "a", "ำ": "a m", "ิ": "i", "ี": "i", "ึ": "M", "ื": "M", "ุ": "u", "ู": "u", "็": ""}
THAI_IGNORED = "่้๊๋์ๆ"  # tones, silencing and repetition
