"""How answers about pictures are scored (paper 7.6): exact match, ANLS, relaxed accuracy, VQA soft accuracy.

Each takes the answer and the texts that count as right and gives 0 to 1; an item's score is that of its best reference, except
for VQA, where every annotator has a say. Which data sets use which: exact match for generated pictures and multiple choice, ANLS
for DocVQA and InfographicVQA, relaxed accuracy for ChartQA, VQA soft accuracy for VQA v2, OK-VQA, TextVQA and VizWiz.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from puna.core.errors import InputError

ARTICLES = ("a", "an", "the")
ANLS_LEAST = 0.5  # a similarity below this counts as nothing (Biten et al. 2019)
RELAXED = 0.05  # relative error of a number that is let pass (Methani et al. 2020)
ANNOTATORS = 4  # with fewer, no answer can reach 1 once one of them is left out
AGREEING = 3  # other annotators that make an answer wholly right (Antol et al. 2015)

NUMBERS = {"zero": "0", "none": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
           "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
SPACED = ';/[]"{}()=+\\_-><@`,?!'  # marks that the VQA evaluation takes out
# words whose spelling without (one of) their apostrophes is mended
SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
"""


def normalised(text: str) -> str:
    """A short answer without what does not make it wrong, for exact match.

    Unicode in compatibility form, case folded, ASCII marks at the ends of words removed, articles dropped, numbers up to ten as
    digits, commas between thousands out, white space collapsed. Signs, decimal points, marks inside words stay ("-3.5", "x-ray").
    """
    words = re.sub(r"(?<=\d),(?=\d{3}\b)", "", unicodedata.normalize("NFKC", text)).casefold().split()
    bare = (word.strip(string.punctuation) if not _number(word) else word.rstrip(".") for word in words)
    return " ".join(NUMBERS.get(word, word) for word in bare if word and word not in ARTICLES)


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references, both `normalised`."""
    return float(normalised(answer) in {normalised(reference) for reference in references})


def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one item (DocVQA): 1 - distance / longer length, 0 below one half.

    Case and white space do not count.
    """
    best = max(_similarity(_folded(answer), _folded(reference)) for reference in references)
    return best if best >= ANLS_LEAST else 0.0


def relaxed(answer: str, references: Sequence[str]) -> float:
    """1 if a reference is met: a number within 5 % (ChartQA), any other text exactly but for case.

    A percentage is the number it stands for, as in pix2struct's evaluation.
    """
    return float(any(_relaxed(answer.strip(), reference.strip()) for reference in references))


def vqa(answer: str, references: Sequence[str]) -> float:
    """VQA soft accuracy: min(matches / 3, 1) among all annotators but one, averaged over who is left out.

    Normalisation is that of the official evaluation, down to its habits: the answer's marks, articles, numerals and apostrophes
    are brought into form, of the references only the marks, and only where annotators differ.

    Raises:
        InputError: fewer than four references.
    """
    if len(references) < ANNOTATORS:
        what = f"VQA soft accuracy needs the answers of {ANNOTATORS} annotators or more, here are {len(references)}"
        raise InputError(what, where=repr(list(references))[:80], fix="score such items by exact match")
    given = vqa_normalised(answer)
    said = list(references) if len(set(references)) == 1 else [_without_marks(reference) for reference in references]
    same = [reference == given for reference in said]
    return sum(min(1.0, (sum(same) - own) / AGREEING) for own in same) / len(same)


def vqa_normalised(answer: str) -> str:
    """An answer in the form of the official VQA evaluation."""
    words = _without_marks(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join(MENDED.get(word, word) for word in words if word not in ARTICLES)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact": exact, "anls": anls, "relaxed": relaxed, "vqa": vqa}


def distance(one: str, other: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions of characters."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - distance(one, other) / longest if longest else 1.0


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> float | None:
    """A finite number, also a percentage; None for other texts."""
    try:
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _relaxed(answer: str, reference: str) -> bool:
    given, wanted = _number(answer), _number(reference)
    if given is None or wanted is None:
        return answer.lower() == reference.lower()
    return abs(given - wanted) <= RELAXED * abs(wanted)


def _without_marks(text: str) -> str:
    """Marks out: replaced by a space, or by nothing where one stands at a space or the text has a number with a comma."""
    thousands, found = re.search(r"\d,\d", text) is not None, text
    for mark in SPACED:
        closed = thousands or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if closed else " ")
    return re.sub(r"\.(?!\d)", "", found)


def _mended() -> dict[str, str]:
    """Each short form with one of its apostrophes left out, and itself as the value."""
    found = dict[str, str]()
    for word in SHORTENED.split():
        places = [i for i, letter in enumerate(word) if letter == "'"]
        found |= {word[:place] + word[place + 1 :]: word for place in places}
    return found | {"somebody'd": "somebodyd"}  # so the official table


MENDED = _mended()
