"""What the OpenAI API says about sound on the wire: requests for transcripts, translations and speech, checked on arrival."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from puna.core.errors import InputError
from puna.core.json_numbers import Number
from puna.serve.multipart import Form, Upload
from puna.serve.protocol import ApiError
from puna.speech.prompts import recognition, translation
from puna.speech.resample import resample
from puna.speech.sound import write_sound

LONGEST_INPUT = 4096  # characters to speak, as OpenAI has it
PCM_RATE = 24_000  # of `pcm`, which has no header to say so; OpenAI's
DEFAULT_VOICES = ("alloy", "default")  # names a client may give when it does not care who speaks
FILES = {  # soundfile's format and subtype, and media type
    "wav": ("WAV", "PCM_16", "audio/wav"), "flac": ("FLAC", "PCM_16", "audio/flac"), "mp3": ("MP3", None, "audio/mpeg"),
    "opus": ("OGG", "OPUS", "audio/ogg"),
}  # fmt: skip

Asked = TypeVar("Asked", bound=BaseModel)


class Fields(BaseModel):
    """Base of these requests: what is not known is refused by name."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None


class HearingRequest(Fields):
    """Fields of a transcript or a translation beside the file; `to_language` is vLLM's, the others OpenAI's."""

    language: str = "en"
    to_language: str = "en"
    prompt: Literal[""] = ""
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = None
    stream: bool = False
    chunking_strategy: Literal["auto", "server_vad"] = "auto"
    timestamp_granularities: tuple[Literal["segment"], ...] = ()

    def system(self, translate: bool) -> str:
        """The system prompt; ApiError 400 for an unknown language."""
        try:
            return translation(self.to_language) if translate else recognition(self.language)
        except InputError as error:
            raise ApiError(400, error.sentence(), param="to_language" if translate else "language") from None


class SpeechRequest(Fields):
    """A text to speak; `language` is ours, since letters do not say which language they are."""

    input: Annotated[str, Field(min_length=1, max_length=LONGEST_INPUT)]
    voice: str = "default"
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    speed: Number = Field(default=1.0, ge=0.25, le=4)
    language: str = "en"
    stream: StrictBool = False
    stream_format: Literal["audio"] = "audio"


def read_hearing(form: Form) -> tuple[HearingRequest, Upload]:
    """Fields and file of a form; ApiError 400 names what is wrong."""
    listed = {name.removesuffix("[]"): values if name.endswith("[]") else values[0] for name, values in form.fields.items()}
    file = form.files.get("file")
    if file is None:
        raise ApiError(400, "the form has no file: send one as 'file'", param="file")
    return checked(HearingRequest, listed), file


def checked(cls: type[Asked], values: Any) -> Asked:
    """A request; ApiError 400 names the field that is wrong or not supported."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden" or param == "prompt":
            raise ApiError(400, f"'{param}' is not supported by this server", param=param, code="unsupported_parameter") from None
        raise ApiError(400, f"{param}: {first['msg']}" if param else first["msg"], param=param or None) from None


def encoded(wave_N: np.ndarray, rate: int, form: str) -> tuple[bytes, str]:
    """Samples as a file, and its media type; `pcm` is 16 bits at 24 kHz without a header."""
    wave_N = resample(torch.from_numpy(wave_N), rate, PCM_RATE).clamp(-1, 1).numpy() if form in ("pcm", "opus") else wave_N
    if form == "pcm":
        return (wave_N * 32767).round().astype("<i2").tobytes(), f"audio/pcm;rate={PCM_RATE}"
    kind, subtype, media = FILES[form]
    out = io.BytesIO()
    write_sound(out, wave_N, PCM_RATE if form == "opus" else rate, kind, subtype)
    return out.getvalue(), media
