"""LibriSpeech, Common Voice and FLEURS as they lie on disk, and rows of them that cannot be used."""

from pathlib import Path

import pytest

from puna.core.errors import InputError
from puna.speech.corpora import Utterance, common_voice, fleurs, librispeech


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_librispeech(tmp_path):
    clean, other = tmp_path / "train-clean-100/19/198", tmp_path / "dev-other/7/3"
    put(clean / "19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY\n19-198-0001 GONE\n19-198-0002\n")
    put(other / "7-3.trans.txt", "7-3-0000 YES\n")
    sounds = [put(clean / "19-198-0000.flac"), put(clean / "19-198-0002.flac"), put(other / "7-3-0000.flac")]
    bad: list = []
    assert list(librispeech(tmp_path, bad)) == [
        Utterance(sounds[2], "YES", "en", "7", "dev"),
        Utterance(sounds[0], "NORTHANGER ABBEY", "en", "19", "train"),
    ]
    assert [(row["line"], row["reason"]) for row in bad] == [(2, "the sound is missing"), (3, "no text")]
    assert [one.split for one in librispeech(tmp_path / "dev-other", [])] == ["dev"]


def test_common_voice(tmp_path):
    root, header = tmp_path / "cy", "client_id\tpath\tsentence\tup_votes\tlocale\n"
    put(root / "train.tsv", header + 'ab\tone.mp3\t"Bore da\t2\tcy\nab\t../../secret.mp3\tx\t1\tcy\n')
    put(root / "test.tsv", header + "cd\ttwo.mp3\tHwyl\t2\tpt-BR\n")
    sounds = [put(root / "clips" / name) for name in ("one.mp3", "two.mp3")]
    put(tmp_path / "secret.mp3")
    bad: list = []
    assert list(common_voice(root, bad)) == [
        Utterance(sounds[0], '"Bore da', "cy", "ab", "train"),
        Utterance(sounds[1], "Hwyl", "pt", "cd", "test"),
    ]
    assert bad == [{"file": "train.tsv", "line": 3, "reason": "the sound lies outside the corpus"}]
    put(root / "dev.tsv", "sound\ttext\na\tb\n")
    with pytest.raises(InputError, match="lacks client_id"):
        list(common_voice(root, []))


def test_fleurs(tmp_path):
    put(tmp_path / "cmn_hans_cn/test.tsv", "7\t99.wav\t你好。\t你好\tx\t16000\tMALE\n8\t98.wav\t在\t在\tx\t16000\tMALE\n")
    put(tmp_path / "de_de/dev.tsv", "1\t1.wav\tGuten Tag!\tguten tag\tx\t16000\tFEMALE\n")
    one, other = put(tmp_path / "cmn_hans_cn/audio/test/99.wav"), put(tmp_path / "de_de/audio/dev/1.wav")
    bad: list = []
    assert list(fleurs(tmp_path, bad)) == [
        Utterance(one, "你好。", "zh", "", "test"),
        Utterance(other, "Guten Tag!", "de", "", "dev"),
    ]
    assert bad == [{"file": "test.tsv", "line": 2, "reason": "the sound is missing"}]


@pytest.mark.parametrize("read", [librispeech, common_voice, fleurs])
def test_a_folder_without_a_corpus(read, tmp_path):
    with pytest.raises(InputError, match="here"):
        list(read(tmp_path, []))
    with pytest.raises(InputError, match="missing"):
        list(read(tmp_path / "none", []))
