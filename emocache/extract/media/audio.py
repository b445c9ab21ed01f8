"""Sound: one source decoded to mono PCM at a fixed rate, by soundfile where it can and PyAV everywhere else.

Time zero is the start of the container, as for players: a stream that begins later keeps its own time, and what a
file does not hold (a late start, a gap) is left out, never filled with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emocache.errors import MediaError
from emocache.extract.media.audio_readers import Pcm, Reader, SoundTap, opened
from emocache.extract.media.media_file import MediaFile
from emocache.spec import RATE_HZ, Decoded, Shared, Source

__all__ = ["AudioDecoder", "Pcm"]

_SILENCE_PEAK = 1e-3
"""A clip without a sample above -60 dBFS counts as silent."""
_SHORTFALL_S = 0.25
"""A sound that ends this much before its promised end is truncated; less is the rounding of containers."""
_LARGEST_KERNEL = 20_000_000
"""The longest resampling filter in taps (80 MB): rates such as 44,099 Hz would need 700 million."""
_LOWEST_RATE_HZ = 2000
"""Below this, a header is damaged or holds no speech; raising 1 Hz to 16 kHz would fill the memory."""

_FILTER = {"lowpass_filter_width": 6, "rolloff": 0.99, "resampling_method": "sinc_interp_hann"}


@dataclass(frozen=True)
class AudioDecoder:
    """Reads the sound of one source, in a worker process.

    rate_hz: the rate of what it returns
    min_samples: the fewest samples, at `rate_hz`, that the encoder can use; a shorter clip fails
    """

    rate_hz: int = RATE_HZ
    min_samples: int = 1

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the samples: strings and integers only."""
        return {
            "rate_hz": self.rate_hz,
            "channels": "mean",
            "stream": "first audio",
            "decoder": "soundfile, else av",
            "gaps": "closed",
            "resampler": "torchaudio.functional.resample",
            **{key: value if isinstance(value, int) else str(value) for key, value in _FILTER.items()},
        }

    def __call__(self, source: Source) -> Decoded:
        """Decode the span of `source`, which is cut at the file's own rate, before resampling.

        returns: payload float32 ``(samples,)`` mono; facts: duration_s, silent, truncated, decoder, source_rate_hz,
            channels
        raises: NoStream for a file without sound; MediaError for anything else that leaves no usable sample
        """
        return self.decode_shared(source, Shared())

    def decode_shared(self, source: Source, shared: Shared) -> Decoded:
        """The same; decoders of one rate share the samples, which none of them may change."""
        payload, facts = shared.once(("pcm", self.rate_hz, source), lambda: _decoded(source, self.rate_hz, shared))
        if payload.size < self.min_samples:
            raise MediaError(
                f"{source.path}: holds {_ms(payload.size, self.rate_hz)} of sound ({payload.size} samples at "
                f"{self.rate_hz} Hz), expected at least {_ms(self.min_samples, self.rate_hz)}; leave the clip out or "
                "widen its span"
            )
        return Decoded(payload, payload.size, facts)


def _decoded(source: Source, rate_hz: int, shared: Shared) -> tuple[Pcm, dict[str, Any]]:
    """The samples of the source at `rate_hz`, and the facts of them.

    If the picture of the file has been read for another encoder, its sound was heard on the way.
    """
    path = _checked_path(source)
    tap: SoundTap | None = shared.once(("sound", path), lambda: None)
    file: MediaFile | None = shared.once(("file", path), lambda: None)
    with opened(path, None if tap is None else tap.take(), file) as reader:
        samples, truncated = _span(reader, source, path)
        facts = {
            "duration_s": samples.size / reader.rate_hz,
            "silent": bool(np.abs(samples).max() < _SILENCE_PEAK),
            "truncated": truncated,
            "decoder": reader.name,
            "source_rate_hz": reader.rate_hz,
            "channels": reader.channels,
        }
        return _resampled(samples, reader.rate_hz, rate_hz, path), facts


def _ms(samples: int, rate_hz: int) -> str:
    return f"{1000 * samples / rate_hz:g} ms"


def _checked_path(source: Source) -> Path:
    path = source.path
    if path is None:
        raise MediaError("the clip names no file with sound; give `audio` or `path` in the manifest")
    if not path.exists():
        raise MediaError(f"{path}: no such file; paths in a manifest are relative to the manifest's folder")
    if not path.is_file():
        raise MediaError(f"{path}: is not a file; expected a file with sound")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: is empty (0 bytes); copy or record it again, or leave the clip out")
    return path


def _span(reader: Reader, source: Source, path: Path) -> tuple[Pcm, bool]:
    """The samples of the source's span, and whether some that were promised are missing."""
    rate = reader.rate_hz
    first = 0 if source.start_us is None else _nearest_sample(source.start_us, rate)
    last = None if source.end_us is None else _nearest_sample(source.end_us, rate)
    if last is not None and last <= first:
        raise MediaError(
            f"{path}: the clip's span from {first / rate:g} s to {last / rate:g} s is empty; correct start_s and end_s"
        )
    kept: list[Pcm] = []
    reached = 0
    for position, block in reader.blocks(first, last):
        kept.append(block[max(first - position, 0) : None if last is None else max(last - position, 0)])
        reached = position + block.size
        if last is not None and reached >= last:
            break
    samples = np.concatenate(kept) if kept else np.empty(0, np.float32)
    if samples.size == 0:
        _refuse_nothing(path, first / rate, (reached or reader.promised or 0) / rate)
    _refuse_non_finite(samples, path)
    due = reader.promised if last is None else last
    return samples, reader.broken or (due is not None and reached < due - _SHORTFALL_S * rate)


def _nearest_sample(time_us: int, rate_hz: int) -> int:
    return (time_us * rate_hz + 500_000) // 1_000_000


def _refuse_nothing(path: Path, start_s: float, end_s: float) -> None:
    if start_s > 0 and end_s > 0:
        raise MediaError(
            f"{path}: the clip's span starts at {start_s:g} s, but the sound ends at {end_s:g} s; "
            "correct start_s and end_s"
        )
    raise MediaError(f"{path}: holds no sample of sound; copy or record it again, or leave the clip out")


def _refuse_non_finite(samples: Pcm, path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(samples))
    if bad.size:
        raise MediaError(
            f"{path}: {bad.size} of {samples.size} samples are not finite (NaN or infinity), the first at sample "
            f"{bad[0]} of the clip; write the file again from its source"
        )


def _resampled(samples: Pcm, rate_hz: int, wanted_hz: int, path: Path) -> Pcm:
    if rate_hz == wanted_hz:
        return samples
    common = math.gcd(rate_hz, wanted_hz)
    if rate_hz < _LOWEST_RATE_HZ or rate_hz * wanted_hz // common**2 > _LARGEST_KERNEL:
        raise MediaError(
            f"{path}: its rate of {rate_hz} Hz is below {_LOWEST_RATE_HZ} Hz or has no simple ratio to {wanted_hz} Hz; "
            f"convert it first (ffmpeg -i {path.name} -ar {wanted_hz} ...)"
        )
    import torch  # only here: a worker that needs no other rate stays light
    from torchaudio.functional import resample

    with torch.inference_mode():
        resampled: Pcm = resample(torch.from_numpy(samples), rate_hz, wanted_hz, **_FILTER).numpy()
    return resampled
