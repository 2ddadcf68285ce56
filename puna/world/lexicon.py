"""The closed vocabulary of the mini-world: eight languages, fourteen nouns and names, one set of templates each.

Small on purpose: models of 0.2-0.5M parameters see about two million tokens, and every word must come often enough to be one
token and to be learned. Llama 3's split pattern breaks words at combining marks, so Hindi and Thai words with few marks were
chosen, and Thai is written with spaces. Grammar is that of a phrase book: no articles, no plurals.
"""

from __future__ import annotations

from dataclasses import dataclass

from puna.verify.language import ANSWER_TAGS, LANGUAGES

NAMES = ("Ana", "Leo", "Mia", "Tom", "Eva", "Ben", "Zoe", "Max", "Lia", "Sam", "Ida", "Kai", "Noa", "Rui")
LETTERS = tuple("abcdefgh")
END_WORDS = ("sol", "mar", "luz", "paz", "rio", "flor")
TOOLS = ("add", "sub", "max", "min")
PLACES = ("Nalo", "Tesk", "Brim", "Oda", "Vull", "Kesi", "Dorn", "Mave")

NOUNS = {
    "en": ["house", "pen", "letter", "bird", "fruit", "road", "cup", "duck", "bus", "button", "eye", "city", "garden", "donkey"],
    "pt": ["casa", "caneta", "carta", "ave", "fruta", "estrada", 
           "taça", "pato", "ônibus", "botão", "olho", "cidade", "jardim", "burro"],
    "es": ["casa", "pluma", "carta", "ave", "fruta", "camino", 
           "taza", "pato", "bus", "botón", "ojo", "ciudad", "jardín", "burro"],
    "fr": ["maison", "stylo", "lettre", "oiseau", "fruit", "route", 
           "tasse", "canard", "bus", "bouton", "œil", "ville", "jardin", "âne"],
    "de": ["Haus", "Stift", "Brief", "Vogel", "Frucht", "Weg", 
           "Tasse", "Ente", "Bus", "Knopf", "Auge", "Stadt", "Garten", "Esel"],
    "it": ["casa", "penna", "lettera", "uccello", "frutto", "strada", 
           "tazza", "anatra", "bus", "bottone", "occhio", "città", "giardino", "asino"],
    "hi": ["घर", "कलम", "खत", "खग", "फल", "पथ", "कप", "बतख", "बस", "बटन", "नयन", "नगर", "चमन", "खर"],
    "th": ["บ้าน", "ปากกา", "จดหมาย", "นก", "ผลไม้", "ถนน", "ถ้วย", "เป็ด", "รถบัส", "กระดุม", "ตา", "เมือง", "สวน", "ลา"],
}  # fmt: skip
NOUN_COUNT = len(NOUNS["en"])

# the knowledge base: three nouns (as numbers into NOUNS) for each place, the same in every language
FACTS = {place: tuple((start + 3 * i) % NOUN_COUNT for start in (1, 6, 11)) for i, place in enumerate(PLACES)}


@dataclass(frozen=True)
class Language:
    """One language's wording; placeholders are named where they stand.

    Attributes:
        endonym: the language's own name, used whenever it is spoken of.
        answer: the tag before a final answer.
        so: the word that opens a short chain of thought, so that what follows it is spelled with a leading space as in lists.
    """

    endonym: str
    answer: str
    so: str
    change: str  # {n} has {a} {o}, buys {b}, gives {c}
    ask_change: str
    more: str  # {n} has {a} {o}, {m} has {b} more
    ask_more: str
    ask_lookup: str  # {x}
    letters: str  # "letters", before a row of letters
    backwards: str
    ask_reverse: str
    ask_count: str  # {x}
    ask_translate: str  # {language}
    ask_tool: str  # {tool} {a} {b}
    end_with: str  # {word}
    answer_in: str  # {language}
    fact: str  # {p} {x} {y} {z}


def _language(code: str, endonym: str, *words: str) -> Language:
    return Language(endonym, ANSWER_TAGS[code], *words)


WORDING = {
    "en": _language("en", "English", "So", "{n} has {a} {o}, buys {b} and gives {c}.", "How many now?",
                    "{n} has {a} {o} and {m} has {b} more.", "How many together?", "What has {x}?", "Letters", "backwards",
                    "Write backwards:", "How many {x} in:", "Say in {language}:", "Use {tool}: {a} and {b}.", "End with {word}.",
                    "Answer in {language}.", "{p} has {x}, {y} and {z}."),
    "pt": _language("pt", "Português", "Logo", "{n} tem {a} {o}, compra {b} e dá {c}.", "Quantos agora?",
                    "{n} tem {a} {o} e {m} tem {b} a mais.", "Quantos juntos?", "O que tem {x}?", "Letras", "invertido",
                    "Escreva invertido:", "Quantos {x} em:", "Diga em {language}:", "Use {tool}: {a} e {b}.",
                    "Termine com {word}.", "Responda em {language}.", "{p} tem {x}, {y} e {z}."),
    "es": _language("es", "Español", "Pues", "{n} tiene {a} {o}, compra {b} y regala {c}.", "¿Cuántos ahora?",
                    "{n} tiene {a} {o} y {m} tiene {b} más.", "¿Cuántos juntos?", "¿Qué tiene {x}?", "Letras", "al revés",
                    "Escribe al revés:", "¿Cuántos {x} en:", "Di en {language}:", "Usa {tool}: {a} y {b}.",
                    "Termina con {word}.", "Responde en {language}.", "{p} tiene {x}, {y} y {z}."),
    "fr": _language("fr", "Français", "Donc", "{n} a {a} {o}, achète {b} et donne {c}.", "Combien maintenant?",
                    "{n} a {a} {o} et {m} a {b} de plus.", "Combien ensemble?", "Que porte {x}?", "Lettres", "renversé",
                    "Écris renversé:", "Combien de {x} dans:", "Dis en {language}:", "Utilise {tool}: {a} et {b}.",
                    "Finis par {word}.", "Réponds en {language}.", "{p} a {x}, {y} et {z}."),
    "de": _language("de", "Deutsch", "Also", "{n} hat {a} {o}, kauft {b} und gibt {c}.", "Wie viele jetzt?",
                    "{n} hat {a} {o} und {m} hat {b} mehr.", "Wie viele zusammen?", "Was hat {x}?", "Zeichen", "rückwärts",
                    "Schreib rückwärts:", "Wie viele {x} in:", "Sag auf {language}:", "Nutze {tool}: {a} und {b}.",
                    "Ende mit {word}.", "Antworte auf {language}.", "{p} hat {x}, {y} und {z}."),
    "it": _language("it", "Italiano", "Dunque", "{n} ha {a} {o}, compra {b} e regala {c}.", "Quanti adesso?",
                    "{n} ha {a} {o} e {m} ha {b} in più.", "Quanti insieme?", "Che cosa ha {x}?", "Lettere", "inverso",
                    "Scrivi inverso:", "Quanti {x} in:", "Di in {language}:", "Usa {tool}: {a} e {b}.", "Finisci con {word}.",
                    "Rispondi in {language}.", "{p} ha {x}, {y} e {z}."),
    "hi": _language("hi", "हिन्दी", "तब", "{n} के {a} {o}, {b} और, {c} कम.", "अब कितने?", "{n} के {a} {o}, {m} के {b} अधिक.",
                    "सब कितने?", "{x} के पास?", "पद", "उलट", "उलट कर:", "कितने {x}:", "{language} में कह:",
                    "कर {tool}: {a} और {b}.", "अंत {word}.", "उत्तर {language} में.", "{p} में {x}, {y} और {z}."),
    "th": _language("th", "ไทย", "พบ", "{n} มี {a} {o}, เอา {b} และ แจก {c}.", "ตอนนี้ เท่าไร?",
                    "{n} มี {a} {o} และ {m} มี {b} มากกว่า.", "รวม เท่าไร?", "{x} มี อะไร?", "อักษร", "กลับ", "เขียน กลับ:",
                    "นับ {x} ใน:", "พูด {language}:", "ใช้ {tool}: {a} และ {b}.", "จบ {word}.", "ตอบ {language}.",
                    "{p} มี {x}, {y} และ {z}."),
}  # fmt: skip

__all__ = [
    "ANSWER_TAGS", "END_WORDS", "FACTS", "LANGUAGES", "LETTERS", "NAMES", "NOUNS", "NOUN_COUNT", "PLACES", "TOOLS", "WORDING",
    "Language",
]  # fmt: skip
