"""Frames of a video, uniform over all of it (paper 7.3): at most 64, each a picture for the encoder.

A video is a file that PyAV reads (extra `video`), an animated GIF, WebP or PNG, or a folder of pictures; the generated ones are
of the latter kinds, so nothing but Pillow is needed for them. The stretch is divided into equal parts and the frame in the middle
of each is taken. One frame at a time is decoded, and from the last key frame before it, so neither memory nor time grows with the
length of the video. Only containers that hold the pictures themselves are opened: a playlist could name other files.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from puna.core.errors import InputError
from puna.vision.fetch import MediaRules, read_file, shown
from puna.vision.tiles import FORMATS, as_rgb, check_pixels, read_image

if TYPE_CHECKING:
    from PIL.Image import Image

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,ivf"
ANIMATED = re.compile(rb"GIF8|\x89PNG|RIFF....WEBP", re.DOTALL)
RATE = 240  # frames a second, the most that is looked at
WIDEST_PIXEL = 4.0  # a pixel's width over its height, or the reverse, beyond which a file is not believed
UNTIMED = 100  # milliseconds of a frame that names no time, as browsers show it
SHORT = 0.9  # of the length a file says it has: with less it was cut off

T = TypeVar("T")


def frames_of(
    source: bytes | Path, count: int, rules: MediaRules, *, start: float | None = None, end: float | None = None,
    each: Callable[[Image], T], where: str = "the video",
) -> list[T]:  # fmt: skip
    """What `each` makes of at most `count` frames, uniform over the video or over its stretch from `start` to `end` seconds.

    A video with fewer frames gives each of them once. Frames are RGB and upright; `each` gets one at a time, so that only what it
    makes of them is kept.

    Args:
        source: the bytes of a video or an animated picture, or a folder of pictures whose names tell their order.

    Raises:
        InputError: what is no video, is damaged, cut off, too long, or has no frame in the stretch.
    """
    check_frames(count, rules, where)
    if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
        raise InputError("a stretch of a video begins at 0 seconds or later and ends after it begins", where=where)
    stretch = Stretch(start or 0.0, end)
    if isinstance(source, Path):
        return _of_folder(source, count, rules, stretch, each, where)
    if not source:
        raise InputError("the video is empty", where=where)
    read = _of_animation if ANIMATED.match(source) else _of_video
    return read(source, count, rules, stretch, each, where)


def check_frames(count: int, rules: MediaRules, where: str) -> None:
    """InputError for more frames of a video than are looked at."""
    if not 1 <= count <= rules.max_frames:
        raise InputError(f"a video gives 1 to {rules.max_frames} frames, not {count}", where=where)


@dataclass(frozen=True)
class Stretch:
    """Seconds of a video; `end` None is its end."""

    start: float
    end: float | None

    @property
    def whole(self) -> bool:
        return not self.start and self.end is None

    def within(self, times: list[float]) -> range:
        """The indices of ascending times that lie in it."""
        return range(bisect_left(times, self.start), len(times) if self.end is None else bisect_left(times, self.end))


def middles(frames: int, count: int) -> list[int]:
    """Indices of at most `count` of so many frames: the middle one of each of `count` equal parts."""
    count = min(frames, count)
    return [(2 * part + 1) * frames // (2 * count) for part in range(count)]


def _of_folder(
    folder: Path, count: int, rules: MediaRules, stretch: Stretch, each: Callable[[Image], T], where: str
) -> list[T]:  # fmt: skip
    if not stretch.whole:
        raise InputError("a folder of pictures has no seconds to begin or end at", where=where, fix="leave start and end out")
    picked = picked_files(folder, count, rules, where)
    return [each(read_image(read_frame(file, rules, where), rules, f"{where}: {file.name}")) for file in picked]


def picked_files(folder: Path, count: int, rules: MediaRules, where: str) -> list[Path]:
    """The pictures of a folder that stand for it: of so many equal parts the middle ones."""
    check_frames(count, rules, where)
    files = frame_files(folder)
    if not files:
        raise InputError("the folder holds no pictures", where=where)
    return [files[i] for i in middles(len(files), count)]


def read_frame(file: Path, rules: MediaRules, where: str) -> bytes:
    """The bytes of one picture of a folder."""
    return read_file(file, rules, f"{where}: {file.name}")


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names; InputError for a link that leads out of it."""
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    top = folder.resolve()
    for file in files:
        if file.is_symlink() and not file.resolve().is_relative_to(top):
            raise InputError(
                "a frame is a link that leads out of its folder",
                where=shown(f"{folder.name}/{file.name}"),
                fix="put the file itself there",
            )
    return sorted(files, key=lambda file: [(int(number or 0), text) for number, text in _PARTS.findall(file.name)])


_PARTS = re.compile(r"([0-9]+)|([^0-9]+)")


def _of_animation(
    content: bytes, count: int, rules: MediaRules, stretch: Stretch, each: Callable[[Image], T], where: str
) -> list[T]:  # fmt: skip
    """Frames of an animated picture, in one pass over it; a still one has one frame."""
    from PIL import Image

    try:
        image: Any = Image.open(io.BytesIO(content), formats=FORMATS)
        check_pixels(image.width, image.height, rules, where)
        frames = getattr(image, "n_frames", 1)
        _check_count(frames, rules, where)
        _check_decoded(image.width * image.height * frames, rules, where)
        inside = range(frames) if stretch.whole else stretch.within(_times(image, frames))
        made = []
        for i in _picked(inside, count, where):
            image.seek(i)
            made.append(each(as_rgb(image)))
        return made
    except InputError:
        raise
    except Exception as error:  # decoders of foreign bytes raise anything
        raise InputError(f"the animated picture is damaged ({error or type(error).__name__})", where=where) from None


def _times(image: Any, frames: int) -> list[float]:
    """When each frame of an animated picture is shown, in seconds."""
    times, now = [], 0.0
    for i in range(frames):
        image.seek(i)
        image.load()  # only now is the time of a WebP's frame known
        times.append(now / 1000)
        now += image.info.get("duration") or UNTIMED
    return times


def _picked(inside: range, count: int, where: str) -> list[int]:
    if not inside:
        raise InputError("the video has no frame in this stretch", where=where, fix="change start and end")
    return [inside[i] for i in middles(len(inside), count)]


def _check_count(frames: int, rules: MediaRules, where: str) -> None:
    if frames > rules.max_seconds * RATE:
        raise InputError(f"the video has more than {rules.max_seconds * RATE:.0f} frames", where=where, fix="send a part of it")


def _check_decoded(pixels: int, rules: MediaRules, where: str) -> None:
    if pixels > rules.max_decoded:
        what = f"more than {rules.max_decoded / 1e9:g} thousand million pixels would have to be decoded"
        raise InputError(what, where=where, fix="send a shorter or a smaller video, or one with more key frames")


def _of_video(
    content: bytes, count: int, rules: MediaRules, stretch: Stretch, each: Callable[[Image], T], where: str
) -> list[T]:  # fmt: skip
    """Frames of a file that PyAV reads: a first pass over the packets tells all times and key frames, a second decodes."""
    try:
        import av
    except ImportError:
        raise InputError("reading videos needs PyAV", where=where, fix="pip install 'puna[video]'") from None
    try:
        with opened(av, io.BytesIO(content)) as container:
            index = _Index.read(container, rules, where)
            inside = stretch.within(index.seconds)
            _check_length(index, inside, rules, where)
            targets = [index.times[i] for i in _picked(inside, count, where)]
        with closing(_Decoder(av, content, index.keys)) as decoder:
            made = [each(_upright(frame, decoder.aspect)) for frame in decoder.frames(targets, rules, where)]
    except InputError:
        raise
    except Exception as error:  # decoders of foreign bytes raise anything
        said = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"the video is damaged, or in no known format ({said})", where=where,
                         fix="copy it again, or write it anew with a video tool") from None  # fmt: skip
    if len(made) < len(targets):
        raise InputError("the video is damaged: frames that it lists are missing", where=where)
    return made


def opened(av: Any, file: IO[bytes]) -> Any:
    """A container over an open file that opens nothing else, whatever it names."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    return av.open(file, mode="r", options=options, metadata_errors="replace")


@dataclass(frozen=True)
class _Index:
    """When the frames of a video are shown, ascending: `times` in the stream's unit, `seconds` from the first one; `keys` are the
    times of key frames."""

    times: list[int]
    seconds: list[float]
    keys: list[int]

    @classmethod
    def read(cls, container: Any, rules: MediaRules, where: str) -> _Index:
        """From the packets alone; nothing is decoded."""
        if not container.streams.video:
            raise InputError("the file holds no video", where=where)
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise InputError("the video is in a form that cannot be decoded here", where=where, fix="send H.264 in MP4")
        check_pixels(stream.codec_context.width, stream.codec_context.height, rules, where)
        times, keys, end = [], [], 0
        for packet in container.demux(stream):
            time = packet.dts if packet.pts is None else packet.pts
            if not packet.size or time is None or packet.is_discard:
                continue
            times.append(time)
            end = max(end, time + (packet.duration or 0))
            if packet.is_keyframe:
                keys.append(time)
            _check_count(len(times), rules, where)
        times.sort()
        if not times:
            raise InputError("the video has no frames", where=where)
        _check_whole(container, stream, float((end - times[0]) * stream.time_base), where)
        return cls(times, [float((time - times[0]) * stream.time_base) for time in times], sorted(keys))


def _check_whole(container: Any, stream: Any, seconds: float, where: str) -> None:
    """InputError where the packets end long before the end that the file names."""
    if stream.duration is not None:
        said = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        said = container.duration / 1_000_000
    else:
        return
    if seconds < SHORT * said - 0.1:
        raise InputError(f"the video is cut off after {seconds:.1f} of {said:.1f} seconds", where=where, fix="send all of it")


def _check_length(index: _Index, inside: range, rules: MediaRules, where: str) -> None:
    if inside and index.seconds[inside[-1]] - index.seconds[inside[0]] > rules.max_seconds:
        what = f"videos are looked at for {rules.max_seconds:g} seconds and this is longer"
        raise InputError(what, where=where, fix="choose a stretch with start and end")


class _Decoder:
    """Frames of a file in the order they are shown, from the last key frame before each that is wanted.

    Some containers land behind the place they are told to jump to. The first time one does, the file is read from its beginning
    and without jumps.
    """

    def __init__(self, av: Any, content: bytes, keys: list[int]):
        self.av, self.content, self.keys, self.jumps = av, content, keys, True
        self._begin()

    def _begin(self) -> None:
        self.container = opened(self.av, io.BytesIO(self.content))
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1
        self.aspect = float(self.stream.sample_aspect_ratio or 1)
        self.stored, self.at = self.container.decode(self.stream), self.keys[0] if self.keys else 0

    def frames(self, targets: list[int], rules: MediaRules, where: str) -> Iterator[Any]:
        """The first frame at or after each target, ascending; fewer if the file ends before."""
        decoded = 0
        for target in targets:
            frame = self._jumped(target) or next(self.stored, None)
            while frame is not None:
                self.at = self._time(frame)
                decoded += frame.width * frame.height
                check_pixels(frame.width, frame.height, rules, where)
                _check_decoded(decoded, rules, where)
                if self.at >= target:
                    break
                frame = next(self.stored, None)
            if frame is None:
                return
            yield frame

    def _jumped(self, target: int) -> Any:
        """The key frame before a target, if that lies ahead and can be jumped to."""
        found = bisect_right(self.keys, target)
        key = self.keys[found - 1] if found else self.at
        if not self.jumps or key <= self.at:
            return None
        self.container.seek(key, stream=self.stream)
        self.stored = self.container.decode(self.stream)
        landed = next(self.stored, None)
        if landed is None or self._time(landed) > key:
            self.jumps = False
            self.close()
            self._begin()
            return None
        return landed

    def _time(self, frame: Any) -> int:
        """When it is shown; a frame without a time counts as the one before."""
        time = frame.dts if frame.pts is None else frame.pts
        return self.at if time is None else time

    def close(self) -> None:
        """Free the decoder's buffers."""
        self.container.close()


def _upright(frame: Any, aspect: float) -> Image:
    """A frame as RGB, its pixels made square, turned by quarters as the file says (counter-clockwise, as Pillow turns)."""
    from PIL.Image import Resampling

    image = frame.to_image()
    if aspect != 1 and 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        image = image.resize((max(1, round(image.width * aspect)), image.height), Resampling.BILINEAR)
    quarters = round(frame.rotation / 90) % 4
    return image.rotate(90 * quarters, expand=True) if quarters else image
