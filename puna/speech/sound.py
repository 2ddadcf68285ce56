"""Sound files as mono samples: decoded, bounded, told apart from what is no sound; whole, or block by block for long ones.

soundfile (libsndfile) reads WAV, FLAC, OGG, MP3, AIFF and their kin; what it does not know goes to PyAV where that is installed
(m4a, webm, mp4: extra `video`). A header is not believed: seconds are counted as they are decoded, so a small file that unpacks
into days of silence stops at the limit, and a file that breaks off is told as one. Channels are averaged.

Shape legend: N samples.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from puna.core.errors import InputError
from puna.speech.resample import ResampleStream, resample
from puna.vision.frames import opened

RATE = 16_000  # samples a second that the encoder's features are made of
KNOWN = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64", "NIST")  # of libsndfile's formats
READ = 1 << 16  # samples of a channel decoded at once
RATES = (1_000, 768_000)  # samples a second of a file that is believed
MOST_CHANNELS = 32
LOUDEST = 1000.0  # times full scale: float files may go beyond 1, and no recording goes this far
SHORT = 0.9  # of the samples a file says it has: with less it was cut off
STREAMED = 0x7FFFF000  # bytes in a WAV header from which on, as with none, its writer did not know the end
HEAD = 1 << 16  # bytes of a file in which its header is looked for


@dataclass(frozen=True)
class SoundRules:
    """What is read of one sound.

    Attributes:
        max_bytes: of the file as it comes; the default is OpenAI's for audio.
        max_seconds: decoded.
    """

    max_bytes: int = 25 << 20
    max_seconds: float = 600.0


@dataclass(frozen=True, eq=False)
class Sound:
    """Mono samples [N] float32, full scale at 1, `rate` a second."""

    wave_N: Tensor
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.wave_N) / self.rate


def read_sound(data: bytes | Path, rules: SoundRules = SoundRules(), where: str = "") -> Sound:
    """Decode a whole sound.

    Args:
        data: the bytes of a file, or its path. where: what errors call it; by default the name of the file.

    Raises:
        InputError: missing, empty, broken, cut off, too large, too long, or no sound.
    """
    with _Decoder.opened(data, rules, where) as decoder:
        return Sound(torch.cat(list(decoder.pieces())), decoder.rate)


def at_rate(sound: Sound, rate: int = RATE) -> Tensor:
    """Samples [ceil(N * rate / sound.rate)] float32 at another rate."""
    return resample(sound.wave_N, sound.rate, rate)


def blocks(data: bytes | Path, rules: SoundRules, seconds: float, where: str = "") -> Iterator[Tensor]:
    """A sound at 16 kHz in blocks of so many seconds, the last one shorter; memory does not grow with the sound.

    Together they are `at_rate(read_sound(data, rules))` up to rounding. Errors as of `read_sound`, some of them only once the
    blocks before the fault are out.
    """
    size = max(1, round(seconds * RATE))
    with _Decoder.opened(data, rules, where) as decoder:
        stream, waiting, count = ResampleStream(decoder.rate, RATE), list[Tensor](), 0
        for piece_N in decoder.pieces():
            waiting.append(stream.push(piece_N))
            count += len(waiting[-1])
            if count >= size:
                *full, rest_N = torch.cat(waiting).split(size)
                if len(rest_N) == size:
                    full, rest_N = [*full, rest_N], rest_N[:0]
                yield from full
                waiting, count = [rest_N.clone()], len(rest_N)  # a view would hold all of it
        yield from (block for block in torch.cat([*waiting, stream.end()]).split(size) if len(block))


def write_sound(
    file: Path | IO[bytes], wave_N: np.ndarray, rate: int, kind: str | None = None, subtype: str | None = None
) -> None:
    """Write samples [N], a piece at a time: libsndfile's Vorbis encoder crashes the process on minutes given at once.

    Args:
        kind, subtype: soundfile's format; by default that of the file's name. What soundfile refuses, it raises itself.
    """
    import soundfile

    with soundfile.SoundFile(file, "w", rate, 1, subtype=subtype, format=kind) as out:
        for start in range(0, len(wave_N), READ):
            out.write(wave_N[start : start + READ])


class _Decoder:
    """One open sound: mono pieces at `rate`, checked as they come. `promised`: samples it says it has; 0 if it does not say."""

    def __init__(self, rate: int, channels: int, promised: int, rules: SoundRules, where: str):
        self.rate, self.promised, self.rules, self.where = rate, promised, rules, where
        if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= MOST_CHANNELS:
            what = f"no usual sound: {rate} samples a second, {channels} channels"
            raise InputError(what, where=where, fix=f"{RATES[0]} to {RATES[1]} a second, at most {MOST_CHANNELS} channels")
        self._check_length(promised)

    @classmethod
    @contextmanager
    def opened(cls, data: bytes | Path, rules: SoundRules, where: str) -> Iterator[_Decoder]:
        """By libsndfile, else by PyAV."""
        where = where or (data.name if isinstance(data, Path) else "the sound")
        with _file(data, rules, where) as file:
            import soundfile

            try:
                sound = soundfile.SoundFile(file)
            except Exception:  # not only its own errors: names that end in .raw raise a TypeError
                file.seek(0)
                with _container(file, where) as container:
                    yield _OfContainer(container, rules, where)
                return
            with sound:
                yield _OfFile(sound, _promised(file, sound), rules, where)

    def stored(self) -> Iterator[np.ndarray]:
        """Pieces [N, channels] or [N], float32."""
        raise NotImplementedError

    def pieces(self) -> Iterator[Tensor]:
        """Mono pieces; InputError for what is damaged, too long or empty."""
        count = 0
        try:
            for stored in self.stored():
                wave_N = stored.mean(1, dtype=np.float32) if stored.ndim == 2 else stored
                count += len(wave_N)
                self._check_length(count)
                if not np.abs(wave_N).max(initial=0.0) <= LOUDEST:  # also false for what is not a number
                    raise InputError("the sound has samples that are no loudness", where=self.where, fix="write it anew")
                yield torch.from_numpy(wave_N)
        except (InputError, GeneratorExit):
            raise
        except Exception as error:  # decoders of foreign bytes raise anything
            raise InputError(f"the sound is damaged ({_said(error)})", where=self.where, fix="copy it again") from None
        if not count:
            raise InputError("the file holds no sound", where=self.where, fix="send one with at least one sample")
        if count < SHORT * self.promised:
            what = f"the sound is cut off after {count / self.rate:.1f} of {self.promised / self.rate:.1f} seconds"
            raise InputError(what, where=self.where, fix="send all of it")

    def _check_length(self, samples: int) -> None:
        if samples > self.rules.max_seconds * self.rate:
            what = f"sounds are read up to {self.rules.max_seconds:g} seconds and this is longer"
            raise InputError(what, where=self.where, fix="send a part of it")


class _OfFile(_Decoder):
    """What libsndfile reads."""

    def __init__(self, sound: Any, promised: int, rules: SoundRules, where: str):
        super().__init__(sound.samplerate, sound.channels, promised, rules, where)
        if sound.format not in KNOWN:
            raise InputError(f"{sound.format} files are not read", where=where, fix="send WAV, FLAC, OGG or MP3")
        self.sound = sound

    def stored(self) -> Iterator[np.ndarray]:
        while len(found := self.sound.read(READ, dtype="float32", always_2d=True)):
            yield found


class _OfContainer(_Decoder):
    """What PyAV reads: the first sound of a container."""

    def __init__(self, container: Any, rules: SoundRules, where: str):
        streams = container.streams.audio
        if not streams or streams[0].codec_context is None:
            raise InputError("the file holds no sound that can be decoded here", where=where, fix="send WAV, FLAC, OGG or MP3")
        self.container, self.stream = container, streams[0]
        told = float(self.stream.duration * self.stream.time_base) if self.stream.duration else 0.0
        if not told and len(container.streams) == 1:
            told = (container.duration or 0) / 1_000_000
        super().__init__(self.stream.rate, self.stream.channels, round(told * self.stream.rate), rules, where)
        self.stream.codec_context.thread_count = 1

    def stored(self) -> Iterator[np.ndarray]:
        import av

        planar = av.AudioResampler(format="fltp", rate=self.rate)
        for frame in self.container.decode(self.stream):
            for part in planar.resample(frame):
                yield part.to_ndarray().T
        for part in planar.resample(None):
            yield part.to_ndarray().T


@contextmanager
def _file(data: bytes | Path, rules: SoundRules, where: str) -> Iterator[IO[bytes]]:
    """The file, its size checked."""
    try:
        file: IO[bytes] = data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
    except OSError as error:
        raise InputError("the sound cannot be read", where=where, fix=error.strerror) from None
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not size:
            raise InputError("the sound is empty", where=where, fix="give a file that has samples")
        if size > rules.max_bytes:
            what = f"sounds may have {rules.max_bytes / 2**20:g} MB and this has {size / 2**20:.1f}"
            raise InputError(what, where=where, fix="send a part of it, or pack it as FLAC or OGG")
        yield file


@contextmanager
def _container(file: IO[bytes], where: str) -> Iterator[Any]:
    """What PyAV makes of a file that libsndfile does not know."""
    try:
        import av
    except ImportError:
        fix = "send WAV, FLAC, OGG or MP3; pip install 'puna[video]' reads m4a, webm and mp4 too"
        raise InputError("this is no sound in a form that is known", where=where, fix=fix) from None
    try:
        container = opened(av, file)
    except Exception:  # decoders of foreign bytes raise anything
        fix = "send WAV, FLAC, OGG, MP3, m4a, webm or mp4"
        raise InputError("this is no sound, is damaged, or is in no known form", where=where, fix=fix) from None
    with container:
        yield container


def _promised(file: IO[bytes], sound: Any) -> int:
    """Samples by a file's header. libsndfile cuts WAV down to what is there and guesses at MP3 without a table."""
    at = file.tell()
    file.seek(0)
    head = file.read(HEAD)
    file.seek(at)
    if sound.format in ("WAV", "WAVEX"):
        return _promised_by_wave(head) or sound.frames
    if sound.format == "MP3":
        return sound.frames if b"Xing" in head or b"Info" in head else 0
    return sound.frames


def _promised_by_wave(head: bytes) -> int:
    """Samples by the sizes in a RIFF header; 0 where it has none, or holds compressed blocks."""
    at, frame_bytes = 12, 0
    while head[:4] == b"RIFF" and at + 8 <= len(head):
        name, size = head[at : at + 4], struct.unpack_from("<I", head, at + 4)[0]
        if name == b"fmt " and at + 22 <= len(head):
            frame_bytes = struct.unpack_from("<H", head, at + 20)[0]
            compressed = struct.unpack_from("<H", head, at + 8)[0] not in (1, 3, 6, 7, 0xFFFE)  # PCM, float, A-law, mu-law
            frame_bytes = 0 if compressed else frame_bytes
        if name == b"data":
            return size // frame_bytes if frame_bytes and 0 < size < STREAMED else 0
        at += 8 + size + size % 2
    return 0


def _said(error: Exception) -> str:
    return getattr(error, "error_string", None) or getattr(error, "strerror", None) or type(error).__name__
