"""Whole numbers as words in the eight languages, as far as speech needs them: up to 999,999,999, Hindi up to 20.

What lies beyond is read figure by figure, which every language has words for. Gender and case are those of counting.
"""

from __future__ import annotations

LARGEST = 999_999_999
HINDI_LARGEST = 20

_LISTS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn"
    " siebzehn achtzehn neunzehn",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept"
    " dix-huit dix-neuf",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis"
    " diecisiete dieciocho diecinueve"
    " veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho"
    " veintinueve",
    "pt": "zero um dois três quatro cinco seis sete oito nove dez onze doze treze quatorze quinze dezesseis dezessete"
    " dezoito dezenove",
    "it": "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici"
    " sedici diciassette diciotto diciannove",
    "hi": "शून्य एक दो तीन चार पाँच छह सात आठ नौ दस ग्यारह बारह तेरह चौदह पंद्रह सोलह सत्रह अठारह उन्नीस बीस",
    "th": "ศูนย์ หนึ่ง สอง สาม สี่ ห้า หก เจ็ด แปด เก้า",
}
FIRST = {lang: words.split() for lang, words in _LISTS.items()}
TENS = {
    "en": ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"],
    "de": ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"],
    "fr": ["vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt"],
    "es": ["veinte", "treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa"],
    "pt": ["vinte", "trinta", "quarenta", "cinquenta", "sessenta", "setenta", "oitenta", "noventa"],
    "it": ["venti", "trenta", "quaranta", "cinquanta", "sessanta", "settanta", "ottanta", "novanta"],
}
HUNDREDS = {
    "es": [
        "ciento",
        "doscientos",
        "trescientos",
        "cuatrocientos",
        "quinientos",
        "seiscientos",
        "setecientos",
        "ochocientos",
        "novecientos",
    ],
    "pt": [
        "cento",
        "duzentos",
        "trezentos",
        "quatrocentos",
        "quinhentos",
        "seiscentos",
        "setecentos",
        "oitocentos",
        "novecentos",
    ],
}
THOUSAND = {"en": "thousand", "de": "tausend", "fr": "mille", "es": "mil", "pt": "mil", "it": "mila"}
MILLION = {
    "en": ("million", "million"), "de": ("Million", "Millionen"), "fr": ("million", "millions"), "es": ("millón",
    "millones"),
    "pt": ("milhão", "milhões"), "it": ("milione", "milioni"),
}  # fmt: skip
THAI_PLACES = ["", "สิบ", "ร้อย", "พัน", "หมื่น", "แสน"]
ORDINALS = {  # English ordinals that are not the cardinal with "th"
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip


def digits(figures: str, lang: str) -> str:
    """Every figure by its name."""
    return " ".join(FIRST[lang][int(figure)] for figure in figures)


def cardinal(number: int, lang: str) -> str:
    """The number in words; figure by figure where there are no words for it here."""
    if number > (HINDI_LARGEST if lang == "hi" else LARGEST):
        return digits(str(number), lang)
    if lang == "th":
        return _thai(number)
    if number < 1000:
        return _below_thousand(number, lang)
    if number < 1_000_000:
        return _thousands(*divmod(number, 1000), lang)
    millions, rest = divmod(number, 1_000_000)
    one = {"en": "one", "de": "eine"}.get(lang, "un" if lang != "pt" else "um")
    head = f"{one if millions == 1 else _below_thousand(millions, lang)} {MILLION[lang][millions > 1]}"
    return f"{head} {cardinal(rest, lang)}" if rest else head


def ordinal(number: int, lang: str) -> str:
    """The place in a row: English alone has its words, elsewhere the number is read."""
    words = cardinal(number, lang)
    if lang != "en":
        return words
    head, space, last = words.rpartition(" ")
    return head + space + ORDINALS.get(last, last[:-1] + "ieth" if last.endswith("y") else last + "th")


def year(number: int, lang: str) -> str:
    """A year: in pairs in English (nineteen eighty four), as a number elsewhere."""
    century, rest = divmod(number, 100)
    if lang != "en" or not 11 <= century < 100 or (century == 20 and rest < 10):
        return cardinal(number, lang)
    if rest == 0:
        return f"{cardinal(century, lang)} hundred"
    return f"{cardinal(century, lang)} {'oh ' if rest < 10 else ''}{cardinal(rest, lang)}"


def _thousands(thousands: int, rest: int, lang: str) -> str:
    if thousands == 1 and lang in ("fr", "es", "pt", "it"):
        head = "mille" if lang == "it" else THOUSAND[lang]
    elif lang == "de":
        return (
            ("ein" if thousands == 1 else _below_thousand(thousands, lang))
            + "tausend"
            + (_below_thousand(rest, lang) if rest else "")
        )
    else:
        head = f"{_below_thousand(thousands, lang)} {THOUSAND[lang]}"
    link = " e " if lang == "pt" and (rest <= 100 or rest % 100 == 0) else " "
    return head + (link + _below_thousand(rest, lang) if rest else "")


def _below_thousand(number: int, lang: str) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest, lang)
    if number == 100 and lang in ("es", "pt"):
        return "cien" if lang == "es" else "cem"
    tail = _below_hundred(rest, lang) if rest else ""
    if lang in HUNDREDS:
        return HUNDREDS[lang][hundreds - 1] + (f"{' e ' if lang == 'pt' else ' '}{tail}" if tail else "")
    if lang == "de":
        return ("ein" if hundreds == 1 else FIRST[lang][hundreds]) + "hundert" + tail
    if lang == "it":
        return ("" if hundreds == 1 else FIRST[lang][hundreds]) + "cento" + tail
    count = "" if lang == "fr" and hundreds == 1 else FIRST[lang][hundreds] + " "
    return f"{count}{'cent' if lang == 'fr' else 'hundred'} {tail}".rstrip()


def _below_hundred(number: int, lang: str) -> str:
    first = FIRST[lang]
    if number < len(first):
        return first[number]
    tens, unit = divmod(number, 10)
    ten = TENS[lang][tens - 2]
    if lang == "fr":
        unit += 10 if tens in (7, 9) else 0
        if not unit:
            return ten + ("s" if tens == 8 else "")
        return ten + (" et " if unit in (1, 11) and tens < 8 else " ") + first[unit]
    if not unit:
        return ten
    if lang == "de":
        return ("ein" if unit == 1 else first[unit]) + "und" + ten
    if lang == "it":
        return (ten[:-1] if unit in (1, 8) else ten) + first[unit]
    return ten + {"es": " y ", "pt": " e "}.get(lang, " ") + first[unit]


def _thai(number: int) -> str:
    if number >= 1_000_000:
        millions, rest = divmod(number, 1_000_000)
        return _thai(millions) + "ล้าน" + (_thai(rest) if rest else "")
    if number < 10:
        return FIRST["th"][number]
    figures, words = str(number), ""
    for place, figure in zip(range(len(figures) - 1, -1, -1), map(int, figures), strict=True):
        if not figure:
            continue
        name = FIRST["th"][figure]
        if place == 1:
            name = {1: "", 2: "ยี่"}.get(figure, name)
        elif place == 0 and figure == 1:
            name = "เอ็ด"
        words += name + THAI_PLACES[place]
    return words
