"""Speech corpora as they lie on disk: LibriSpeech's folders, the tables of Common Voice and of FLEURS.

Each becomes utterances with text, language, speaker and split, one at a time; nothing is decoded. Rows that cannot be used are
counted by reason, in the `bad` list that the caller gives.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.core.errors import InputError
from puna.speech.normal import language

SPLITS = {"train": "train", "dev": "dev", "validated": "train", "test": "test", "validation": "dev"}
FLEURS_COLUMNS = ("id", "file", "raw", "text", "phones", "samples", "gender")  # its tables have no header
LONGEST_FIELD = 1 << 20  # characters of one field of a table

Bad = list[dict[str, Any]]


@dataclass(frozen=True)
class Utterance:
    """A recording and what is said in it.

    Attributes:
        path: of the sound file. text: as the corpus writes it. lang: ISO 639 code. speaker: "" where the corpus does not say.
        split: train, dev or test.
    """

    path: Path
    text: str
    lang: str
    speaker: str
    split: str


def librispeech(root: Path, bad: Bad) -> Iterator[Utterance]:
    """`train-clean-100/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac` with a `SPEAKER-CHAPTER.trans.txt` beside; English.

    Args:
        root: the folder of the subsets, or one subset. bad: takes a row for each line that cannot be used.

    Raises:
        InputError: no transcript lies under the folder.
    """
    found = False
    for table in sorted(_folder(root).rglob("*.trans.txt")):
        found = True
        split = next((SPLITS[name.split("-")[0]] for name in reversed(table.parts) if name.split("-")[0] in SPLITS), "train")
        for number, line in enumerate(table.read_text("utf-8", "replace").splitlines(), start=1):
            name, _, text = line.strip().partition(" ")
            yield from _usable(
                Utterance(table.with_name(f"{name}.flac"), text.strip(), "en", name.split("-")[0], split), table, number, bad
            )
    if not found:
        raise InputError(
            "no LibriSpeech transcripts (*.trans.txt) lie here", where=str(root), fix="name the folder of the subsets"
        )


def common_voice(root: Path, bad: Bad, lang: str = "") -> Iterator[Utterance]:
    """`train.tsv`, `dev.tsv`, `test.tsv` with a header, sounds in `clips/`, as Mozilla packs one language.

    Args:
        root: the folder of a language. lang: its code; by default the column `locale`, else the folder's name.

    Raises:
        InputError: a table is missing or lacks the columns `client_id`, `path` and `sentence`.
    """
    tables = [(split, _folder(root) / f"{split}.tsv") for split in ("train", "dev", "test")]
    if not any(table.is_file() for _, table in tables):
        raise InputError(
            "neither train.tsv, dev.tsv nor test.tsv lies here", where=str(root), fix="name the folder of a language"
        )
    for split, table in tables:
        for number, row in _rows(table, None):
            if not {"client_id", "path", "sentence"} <= row.keys():
                raise InputError("the table lacks client_id, path or sentence", where=f"{table}:{number}")
            code = language(lang or row.get("locale") or root.name)
            path = root / "clips" / row["path"]
            yield from _usable(Utterance(path, row["sentence"].strip(), code, row["client_id"], split), table, number, bad)


def fleurs(root: Path, bad: Bad, lang: str = "") -> Iterator[Utterance]:
    """`LANGUAGE/train.tsv`, `dev.tsv`, `test.tsv` without a header, sounds in `LANGUAGE/audio/SPLIT/`; speakers are not named.

    Args:
        root: the folder of the languages, or of one. lang: code of that one; by default by the folder's name, such as `de_de`.

    Raises:
        InputError: no table lies under the folder.
    """
    found = False
    for table in sorted(p for p in _folder(root).rglob("*.tsv") if p.stem in ("train", "dev", "test")):
        found = True
        for number, row in _rows(table, FLEURS_COLUMNS):
            path = table.parent / "audio" / table.stem / row["file"]
            one = Utterance(path, row["raw"].strip(), language(lang or table.parent.name), "", table.stem)
            yield from _usable(one, table, number, bad)
    if not found:
        raise InputError("no FLEURS tables (train.tsv, dev.tsv, test.tsv) lie here", where=str(root))


CORPORA: dict[str, Callable[[Path, Bad], Iterator[Utterance]]] = {
    "librispeech": librispeech, "common_voice": common_voice, "fleurs": fleurs,
}  # fmt: skip


def _folder(root: Path) -> Path:
    if not root.is_dir():
        raise InputError("the folder of the corpus is missing", where=str(root))
    return root


def _rows(table: Path, columns: tuple[str, ...] | None) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a table of tabs, quotes being letters as any; a missing table has none."""
    if not table.is_file():
        return
    csv.field_size_limit(LONGEST_FIELD)
    with table.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file, columns, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise InputError(f"the table cannot be read ({error})", where=f"{table}:{reader.line_num}") from None


def _usable(one: Utterance, table: Path, number: int, bad: Bad) -> Iterator[Utterance]:
    """The utterance, or a row in `bad` that says why not."""
    if not one.text:
        reason = "no text"
    elif not one.path.resolve().is_relative_to(table.parent.resolve()):
        reason = "the sound lies outside the corpus"
    elif not one.path.is_file():
        reason = "the sound is missing"
    else:
        yield one
        return
    bad.append({"file": table.name, "line": number, "reason": reason})
