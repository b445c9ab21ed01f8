"""What encoders see of a clip, however odd the file: one pass, one face track, the right pictures."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import emocache
from emocache.errors import MediaError, NoStream
from emocache.extract.encoders.face_boxes import BoxReader, FaceBoxes
from emocache.extract.encoders.face_hog import FaceCrops
from emocache.extract.faces.boxes import COLUMNS
from emocache.extract.faces.mtcnn import Mtcnn
from emocache.extract.media import pictures
from emocache.extract.media.audio import AudioDecoder
from emocache.extract.media.pictures import Pictures
from emocache.extract.media.pixels import Pixels
from emocache.extract.media.video import FrameSampler
from emocache.extract.views import reader
from emocache.extract.views.pictures import PictureReader
from emocache.spec import Decoded, Shared, Source

from .bright import Bright, faces
from .video_files import cut, every_ms, number, numbered, portrait, turn, write_sound, write_video
from .vision_models import save

STEADY = every_ms(40, 50)
AS_IS = Pixels((64, 96))
"""Leaves the frames of `numbered` as they are."""
SMALL = Pixels((32, 32))


def read(reader: Any, path: Path) -> Decoded:
    found: Decoded = reader(Source("video", path))
    return found


def numbers(decoded: Decoded) -> list[int]:
    return [number(picture) for picture in decoded.payload]


def face_reader(count: int, pixels: Pixels = SMALL) -> PictureReader:
    return PictureReader(FrameSampler(count=count), pixels, "face", Bright())


# --- one pass --------------------------------------------------------------------------------------------------------


@contextmanager
def opens_of(path: Path) -> Iterator[list[int]]:
    """How often the file is opened meanwhile, by whatever library: the kernel counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(path), 0x20) > 0  # IN_OPEN
    found: list[int] = []
    try:
        yield found
        with suppress(BlockingIOError):
            while events := os.read(watch, 4096):
                found += [1] * (len(events) // 16)
    finally:
        os.close(watch)


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures PyAV decodes."""
    found: list[int] = []
    real = Pictures._decode_packet

    def counted(self: Pictures, packet: Any) -> list[av.VideoFrame]:
        frames = real(self, packet)
        found.extend([1] * len(frames))
        return frames

    monkeypatch.setattr(Pictures, "_decode_packet", counted)
    return found


def decoded_together(path: Path, *decoders: Any) -> list[Decoded]:
    jobs = [(one, Source("audio" if isinstance(one, AudioDecoder) else "video", path)) for one in decoders]
    shared = Shared(jobs)
    return [decoder.decode_shared(source, shared) for decoder, source in jobs]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of opens is Linux'")
@pytest.mark.parametrize("policy", ["decord, else av", "av"])
@pytest.mark.parametrize("name", ["both.mp4", "both.mkv", "both.ts", "both.avi"])
def test_one_pass_serves_every_view_sampling_and_encoder_sound_included(
    tmp_path: Path, packets: list[int], name: str, policy: str
) -> None:
    """The file is opened once, each picture decoded once, and every reader gets what it gets alone."""
    path = write_video(tmp_path / name, numbered(50), STEADY, b_frames=0, sound_s=2.0)
    decoders = [
        PictureReader(FrameSampler(4, policy), AS_IS),
        PictureReader(FrameSampler(4, policy), SMALL),
        PictureReader(FrameSampler(count=16, policy=policy), AS_IS),
        BoxReader(FrameSampler(4, policy), Bright()),
        AudioDecoder(),
    ]
    with opens_of(path) as opens:
        together = decoded_together(path, *decoders)
    by_decord = together[0].facts["decoder"] == "decord"
    assert (len(opens), len(packets)) == (1, 0 if by_decord else 50)
    for decoder, decoded in zip(decoders, together, strict=True):
        (alone,) = decoded_together(path, decoder)
        assert np.array_equal(decoded.payload, alone.payload)
        assert decoded.facts == alone.facts


def test_what_is_too_long_to_hold_until_its_length_is_known_is_decoded_twice(
    tmp_path: Path, packets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without an index, of which somebody wants a number of frames: memory is bounded, not the work."""
    path = write_video(tmp_path / "long.ts", numbered(50), STEADY, b_frames=0)
    reader = PictureReader(FrameSampler(count=5), AS_IS)
    held = read(reader, path)
    monkeypatch.setattr(pictures.Again.__init__, "__defaults__", (20 * 64 * 96,))
    packets.clear()
    assert np.array_equal(read(reader, path).payload, held.payload)
    assert len(packets) == 100


def test_a_playlist_reaches_no_other_file(tmp_path: Path) -> None:
    """What is read is what was hashed."""
    write_video(tmp_path / "part.ts", numbered(10), every_ms(40, 10))
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
    (tmp_path / "list.m3u8").write_text(f"{head}#EXTINF:0.4,\npart.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'part.ts'}\n")
    for name in ("list.m3u8", "list.mp4"):
        with pytest.raises(MediaError, match=rf"{name}: .+get it again"):
            read(PictureReader(FrameSampler(4), AS_IS), tmp_path / name)


def test_a_song_is_heard_by_who_listens_though_there_is_nothing_to_see(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "song.mp3", "libmp3lame")
    looks, listens = PictureReader(FrameSampler(4), AS_IS), AudioDecoder()
    jobs = [(looks, Source("video", path)), (listens, Source("audio", path))]
    shared = Shared(jobs)  # type: ignore[arg-type]
    with pytest.raises(NoStream):
        looks.decode_shared(jobs[0][1], shared)
    heard = listens.decode_shared(jobs[1][1], shared)
    assert (heard.facts["decoder"], np.array_equal(heard.payload, listens(jobs[1][1]).payload)) == ("soundfile", True)


def test_faces_are_detected_once_for_all_who_look_at_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "face.mp4", [faces((40, 20, 30, 220))] * 50, STEADY)
    searched = []
    real = Bright.detect
    monkeypatch.setattr(Bright, "detect", lambda self, frames: searched.append(len(frames)) or real(self, frames))
    sampler = FrameSampler(4)
    decoders = [
        PictureReader(sampler, SMALL, "face", Bright()),
        PictureReader(sampler, Pixels((48, 48)), "face", Bright()),
        BoxReader(sampler, Bright()),
        FaceCrops(sampler, Bright()),
        PictureReader(sampler, SMALL),
    ]
    found = decoded_together(path, *decoders)
    assert sum(searched) == 8
    assert [decoded.size for decoded in found] == [8] * 5
    assert [decoded.facts.get("faces") for decoded in found] == [8, 8, 8, 8, None]


def test_how_many_frames_wait_for_their_faces_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "face.mp4", [faces((10 + k, 20, 30, 180 + k)) for k in range(50)], STEADY)
    decoders = [face_reader(25), PictureReader(FrameSampler(count=25), SMALL), BoxReader(FrameSampler(7), Bright())]
    found = []
    for most in (0, 200_000, 10**9):
        monkeypatch.setattr(reader, "WAITING_BYTES", most)
        found.append([(one.payload.tobytes(), one.facts) for one in decoded_together(path, *decoders)])
    assert found[0] == found[1] == found[2]


def test_a_detector_that_fails_fails_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "face.mp4", [faces((40, 20, 30, 220))] * 50, STEADY)
    monkeypatch.setattr(Bright, "detect", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(face_reader(8), path)


def test_a_file_without_sound_fails_who_listens_and_not_who_looks(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mute.mp4", numbered(50), STEADY)
    looks, listens = PictureReader(FrameSampler(4), AS_IS), AudioDecoder()
    jobs = [(looks, Source("video", path)), (listens, Source("audio", path))]
    shared = Shared(jobs)  # type: ignore[arg-type]
    assert looks.decode_shared(jobs[0][1], shared).size == 8
    with pytest.raises(NoStream, match=r"mute.mp4: has no sound"):
        listens.decode_shared(jobs[1][1], shared)


def test_silent_sound_is_heard_on_the_way_and_marked(tmp_path: Path) -> None:
    path = write_video(tmp_path / "silent.mkv", numbered(50), STEADY, sound_s=2.0)
    seen, heard = decoded_together(path, PictureReader(FrameSampler(4), AS_IS), AudioDecoder())
    assert heard.facts["silent"]
    assert heard.facts["duration_s"] == pytest.approx(2.0, abs=0.1)
    assert seen.facts["frames"] == 8


def test_a_part_of_a_file_is_seen_and_heard_as_it_is_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "both.mp4", numbered(50), STEADY, sound_s=2.0)
    decoders: list[Any] = [PictureReader(FrameSampler(4), AS_IS), AudioDecoder()]
    jobs = [
        (one, Source(kind, path, 500_000, 1_500_000)) for one, kind in zip(decoders, ("video", "audio"), strict=True)
    ]
    shared = Shared(jobs)
    for decoder, source in jobs:
        assert np.array_equal(decoder.decode_shared(source, shared).payload, decoder(source).payload)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["decord, else av", "av"])
@pytest.mark.parametrize("name", ["unsteady.mp4", "unsteady.ts"])
def test_so_many_frames_are_spread_evenly_over_time(tmp_path: Path, policy: str, name: str) -> None:
    """Half of the pictures last 10 ms, half 110 ms: by index the first second would take half the samples."""
    times = [*every_ms(10, 25), *[250 + 110 * k for k in range(25)]]
    path = write_video(tmp_path / name, numbered(50), times, b_frames=0)
    decoded = read(PictureReader(FrameSampler(count=10, policy=policy), AS_IS), path)
    length = decoded.facts["duration_s"] * 1000
    middles = [(k + 0.5) * length / 10 for k in range(10)]
    assert numbers(decoded) == [int(np.searchsorted(times, middle, side="right")) - 1 for middle in middles]
    assert decoded.facts["frames"] == 10


def test_more_frames_than_there_are_repeat_them(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", numbered(3), every_ms(40, 3), b_frames=0)
    assert numbers(read(PictureReader(FrameSampler(count=6), AS_IS), path)) == [0, 0, 1, 1, 2, 2]


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", numbered(1), [0], b_frames=0)
    for sampler in (FrameSampler(4), FrameSampler(count=16)):
        assert set(numbers(read(PictureReader(sampler, AS_IS), path))) == {0}


def test_a_file_without_a_frame_fails_by_name(tmp_path: Path) -> None:
    """An mp4 that promises a picture and holds none."""
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    for sampler in (FrameSampler(4), FrameSampler(count=16)):
        with pytest.raises(MediaError, match=r"none.mp4: (no frame could be decoded|has no moving picture)"):
            read(PictureReader(sampler, AS_IS), path)


# --- faces -----------------------------------------------------------------------------------------------------------


def test_without_a_face_the_middle_is_seen_and_the_ledger_says_so(tmp_path: Path) -> None:
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[:, :16], frame[:, 112:] = 140, 140  # outside the centred square
    path = write_video(tmp_path / "empty.mp4", [frame] * 50, STEADY)
    decoded = read(face_reader(4), path)
    assert decoded.payload[:, 2:-2, 4:-4].max() < 40
    assert {name: decoded.facts[name] for name in ("faces", "face_share", "faces_at_once", "face_jumps")} == {
        "faces": 0, "face_share": 0.0, "faces_at_once": 0, "face_jumps": 0,
    }  # fmt: skip


def test_a_face_that_comes_and_goes_is_the_same_face(tmp_path: Path) -> None:
    there = [(10 <= k < 20) or k >= 40 for k in range(50)]
    path = write_video(
        tmp_path / "shy.mp4", [faces((40, 20, 30, 220) if seen else None) for seen in there], STEADY, b_frames=0
    )
    decoded = read(face_reader(10), path)
    assert (decoded.facts["faces"], decoded.facts["face_jumps"]) == (4, 0)
    middle = decoded.payload[:, 16, 16, 1] > 150
    assert middle.tolist() == [False, False, True, True, False, False, False, False, True, True]


def test_of_two_faces_the_larger_over_time_is_seen_and_both_are_counted(tmp_path: Path) -> None:
    """The one on the right is larger at first; the one on the left is larger in sum."""
    frames = [faces((10, 30, 26 if k < 10 else 40, 200), (84, 30, 32, 250)) for k in range(50)]
    decoded = read(face_reader(10), write_video(tmp_path / "two.mp4", frames, STEADY, b_frames=0))
    assert (decoded.facts["faces_at_once"], decoded.facts["face_jumps"]) == (2, 0)
    assert np.abs(decoded.payload[:, 16, 16].astype(int) - 200).max() < 8


def test_of_equal_faces_the_first_is_taken(tmp_path: Path) -> None:
    frames = [faces((10, 30, 30, 200), (84, 30, 30, 250))] * 50
    decoded = read(face_reader(5), write_video(tmp_path / "twins.mp4", frames, STEADY))
    assert np.abs(decoded.payload[:, 16, 16].astype(int) - 200).max() < 8


def test_after_a_cut_the_face_jumps_and_that_is_recorded(tmp_path: Path) -> None:
    frames = [faces((8, 8, 30, 220)) if k < 30 else faces((90, 60, 30, 220)) for k in range(50)]
    decoded = read(face_reader(10), write_video(tmp_path / "cut.mp4", frames, STEADY, b_frames=0))
    assert (decoded.facts["faces"], decoded.facts["face_jumps"]) == (10, 1)
    assert (decoded.payload[:, 16, 16, 1] > 150).all()


def test_a_crop_is_the_box_with_forty_percent_more(tmp_path: Path) -> None:
    """A face of 40 pixels in a crop of 56: five sevenths of the edge; what lies beyond the frame repeats its edge."""
    path = write_video(tmp_path / "near.mp4", [faces((0, 28, 40, 220))] * 50, STEADY)
    picture = read(face_reader(1, Pixels((56, 56))), path).payload[0, ..., 1]
    assert (picture[28] > 125).sum() == pytest.approx(48, abs=2)  # 40, and 8 beyond the frame
    assert (picture[:, 28] > 125).sum() == pytest.approx(40, abs=2)


def test_a_real_face_is_found_upright_in_a_portrait_that_a_phone_turned(tmp_path: Path) -> None:
    """Stored lying on its side; its track header says how to turn it."""
    lying = [np.ascontiguousarray(np.rot90(frame)) for frame in portrait([70] * 30)]
    path = write_video(tmp_path / "stored.mp4", lying, every_ms(40, 30))
    reader = PictureReader(FrameSampler(count=2), Pixels((64, 64)), "face", Mtcnn())
    upright = read(reader, turn(path, tmp_path / "turned.mp4", 90))
    assert upright.facts["faces"] == 2
    assert (upright.facts["height"], upright.facts["width"]) == (240, 320)
    straight = read(reader, write_video(tmp_path / "straight.mp4", portrait([70] * 30), every_ms(40, 30)))
    assert np.abs(upright.payload.astype(int) - straight.payload).mean() < 15  # the box is not the same to the pixel


def test_boxes_are_a_feature_of_their_own(tmp_path: Path) -> None:
    frames = [faces((32, 24, 32, 220) if k < 25 else None) for k in range(50)]
    path = write_video(tmp_path / "half.mp4", frames, STEADY, b_frames=0)
    encoder = FaceBoxes(frames=4, face_detector="mtcnn")
    rows = read(BoxReader(FrameSampler(count=4), Bright()), path).payload
    assert rows.dtype == np.float32
    assert COLUMNS[:3] == ("time_s", "found", "confidence")
    assert rows[:, :3] == pytest.approx(np.array([[0.25, 1, 0.9], [0.75, 1, 0.9], [1.25, 0, 0], [1.75, 0, 0]]))
    assert rows[0, 3:7] == pytest.approx([0.25, 0.25, 0.5, 56 / 96], abs=0.02)
    assert rows[0, 7:9] == pytest.approx(rows[0, 3:5])  # `Bright` calls the corners eyes
    assert rows[2, 3:] == pytest.approx([0.125, 0, 0.875, 1, *[0.5] * 8, 0, 0])  # the centred square
    assert rows[:, 15:].tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    encoder.load("cpu", "float32", [0])
    found, lengths = encoder.forward([rows, rows[:1]], [0])
    assert (tuple(found.shape), list(lengths)) == ((2, 1, 4, 17), [4, 1])
    assert encoder.recipe()["video"] == {"frames": "4", "sampling": "midpoints by time", "decoder": "decord, else av"}


# --- grids -----------------------------------------------------------------------------------------------------------


def test_a_grid_holds_frames_by_rows_in_the_order_of_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "steady.mp4", [np.full((48, 64, 3), 12 + 4 * k, np.uint8) for k in range(50)], STEADY)
    decoded = read(PictureReader(FrameSampler(count=9), Pixels((32, 32)), "grid", edge=3), path)
    assert decoded.payload.shape == (1, 32, 32, 3)
    shown = [number(decoded.payload[0, 5 + 11 * row : 7 + 11 * row, 5 + 11 * column : 7 + 11 * column])
             for row in range(3) for column in range(3)]  # fmt: skip
    assert shown == [int((k + 0.5) * 50 / 9) for k in range(9)]
    assert decoded.payload.min() > 12  # no seams
    assert decoded.facts["frames"] == 9


def test_a_grid_of_faces_holds_crops(tmp_path: Path) -> None:
    path = write_video(tmp_path / "face.mp4", [faces((40, 20, 30, 220))] * 50, STEADY)
    decoded = read(PictureReader(FrameSampler(count=4), SMALL, "face-grid", Bright(), edge=2), path)
    assert decoded.payload.shape == (1, 32, 32, 3)
    assert (decoded.payload[0, 8::16, 8::16, 1] > 150).all()


# --- formats ---------------------------------------------------------------------------------------------------------

FORMATS = {
    "h264.mp4": ("libx264", "yuv420p"),
    "hevc.mp4": ("libx265", "yuv420p"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "vp8.webm": ("libvpx", "yuv420p"),
    "av1.mp4": ("libsvtav1", "yuv420p"),
    "mpeg1.mpg": ("mpeg1video", "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", "yuv420p"),
    "sorenson.flv": ("flv", "yuv420p"),
    "xvid.avi": ("mpeg4", "yuv420p"),
    "prores.mov": ("prores_ks", "yuv422p10le"),
    "ten-bit.mkv": ("libx265", "yuv420p10le"),
    "transport.ts": ("libx264", "yuv420p"),
    "motion.gif": ("gif", "rgb8"),
}


def encode(
    path: Path, frames: Sequence[NDArray[np.uint8]], codec: str, pixel_format: str, shape: str = "rgb24"
) -> Path:
    """Frames at 25 a second by any codec that this build of FFmpeg can write."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"x265-params": "log-level=none"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, shape)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_common_format_gives_the_frames_of_its_moments(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, numbered(50), *FORMATS[name])
    decoded = read(PictureReader(FrameSampler(count=5), AS_IS), path)
    spread = 9 if name.endswith("gif") else 1  # of 8 shades of red and green
    assert numbers(decoded) == pytest.approx([5, 15, 25, 35, 45], abs=spread)
    assert not decoded.facts["truncated"]
    assert decoded.facts["duration_s"] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("name", "codec", "pixel_format"), [("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "yuva420p")])
def test_an_alpha_channel_is_left_out(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    solid = [np.dstack([frame, np.full(frame.shape[:2], 90, np.uint8)]) for frame in numbered(25)]
    decoded = read(
        PictureReader(FrameSampler(count=5), AS_IS), encode(tmp_path / name, solid, codec, pixel_format, "rgba")
    )
    assert decoded.payload.shape == (5, 64, 96, 3)
    assert numbers(decoded) == pytest.approx([2, 7, 12, 17, 22], abs=1)


def test_odd_edges_and_4k_are_read(tmp_path: Path) -> None:
    odd = encode(tmp_path / "odd.mkv", numbered(10, 63, 97), "ffv1", "yuv444p")
    assert read(PictureReader(FrameSampler(4), Pixels((63, 97))), odd).facts["width"] == 97
    large = [np.full((2160, 3840, 3), 100, np.uint8) for _ in range(2)]
    path = encode(tmp_path / "4k.mp4", large, "mpeg4", "yuv420p")
    decoded = read(face_reader(2), path)
    assert (decoded.payload.shape, decoded.facts["height"]) == ((2, 32, 32, 3), 2160)


LONG = """
import re, sys
from pathlib import Path
from emocache.extract.media.pictures import Pictures
from emocache.extract.media.pixels import Pixels
from emocache.extract.media.video import FrameSampler
from emocache.extract.views import reader
from emocache.extract.views.pictures import PictureReader
from emocache.spec import Source
decoded = PictureReader(FrameSampler(4), Pixels((32, 32)))(Source("video", Path(sys.argv[1])))
print(decoded.size, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process' largest size from /proc")
def test_ten_minutes_do_not_fill_the_memory(tmp_path: Path) -> None:
    """2,400 frames of 640 x 480 would be 2.2 GB; the process stays below 200 MB, libraries included."""
    frame = np.full((480, 640, 3), 90, np.uint8)
    path = write_video(tmp_path / "long.mp4", (frame for _ in range(600)), every_ms(1000, 600), "mpeg4", b_frames=0)
    done = subprocess.run([sys.executable, "-c", LONG, str(path)], capture_output=True, text=True, check=True)
    size, peak_kb = map(int, done.stdout.split())
    assert 2396 <= size <= 2400  # how long the last picture stands is the muxer's guess
    assert peak_kb < 200_000


# --- damage ----------------------------------------------------------------------------------------------------------


def damaged(folder: Path, count: int, seed: int = 0) -> Iterator[Path]:
    """Truncated and mutated files of several formats, three with sound."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 255, (25, 48, 64, 3), np.uint8)
    formats = ("h264.mp4", "vp8.webm", "mpeg1.mpg", "sorenson.flv", "xvid.avi", "transport.ts")
    whole = [encode(folder / name, list(noise), *FORMATS[name]) for name in formats]
    heard = ("both.mp4", "both.mkv", "both.ts")
    whole += [write_video(folder / name, noise, every_ms(40, 25), b_frames=0, sound_s=1.0) for name in heard]
    for serial in range(count):
        origin = whole[serial % len(whole)]
        path = folder / f"{serial}{origin.suffix}"
        if serial // len(whole) % 2:
            yield cut(origin, path, random.uniform(0, 1))
            continue
        content = bytearray(origin.read_bytes())
        for place in random.integers(0, len(content), random.integers(1, 60)):
            content[place] = random.integers(0, 256)
        path.write_bytes(content)
        yield path


def outcome(decode: Callable[[], Decoded], path: Path) -> bytes | str:
    """What is decoded, or the words that name the file."""
    try:
        payload: NDArray[Any] = decode().payload
    except MediaError as error:
        named = path.name in str(error) or "time stamps jump" in str(error)
        return f"{type(error).__name__}: {error}" if named else f"nameless: {error}"
    return payload.tobytes() if payload.size else "nothing"


def survives(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Each damaged file is decoded or fails by name; in this very process, so that a crash would show.

    What is heard on the way to the picture is what is heard alone. Parts of them are read too.
    """
    found = {"seen": 0, "unseen": 0, "heard": 0, "nameless": 0, "heard otherwise": 0}
    looks, listens = PictureReader(FrameSampler(count=4), SMALL), AudioDecoder()
    for path in damaged(folder, count, seed):
        jobs: list[Any] = [(looks, Source("video", path)), (listens, Source("audio", path))]
        shared = Shared(jobs)
        seen = outcome(partial(looks.decode_shared, jobs[0][1], shared), path)
        heard = outcome(partial(listens.decode_shared, jobs[1][1], shared), path)
        alone = outcome(partial(listens, jobs[1][1]), path)
        part = outcome(partial(looks, Source("video", path, 300_000, 700_000)), path)
        found["seen" if isinstance(seen, bytes) else "unseen"] += 1
        found["heard"] += isinstance(heard, bytes)
        found["nameless"] += any(isinstance(one, str) and one.startswith("n") for one in (seen, heard, part))
        found["heard otherwise"] += heard != alone
    return found


def test_damaged_files_are_decoded_or_fail_by_name(tmp_path: Path) -> None:
    found = survives(tmp_path, 60)
    assert (found["nameless"], found["heard otherwise"], found["seen"] + found["unseen"]) == (0, 0, 60)
    assert min(found["seen"], found["unseen"], found["heard"]) > 3


@pytest.mark.soak
def test_three_hundred_damaged_files_are_decoded_or_fail_by_name(tmp_path: Path) -> None:
    found = survives(tmp_path, 300, seed=1)
    assert (found["nameless"], found["heard otherwise"], found["seen"] + found["unseen"]) == (0, 0, 300)


def ledger_of_damaged(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Extract damaged files in one call; the ledger's rows, in which nothing is missing and nothing unnamed."""
    save("clip", folder / "small-clip")
    manifest = folder / "clips.csv"
    names = [path.name for path in damaged(folder, count, seed)]
    manifest.write_text("clip_id,path\n" + "".join(f"{name},{name}\n" for name in names))
    extraction = emocache.extract_features(
        f"{folder / 'small-clip'}", clips=manifest, store=folder / "features.zarr",
        frames=4, device="cpu", workers=2, clip_timeout_s=60.0,
    )  # fmt: skip
    (feature,) = emocache.open_store(folder / "features.zarr").features.values()
    ledger = feature.ledger()
    assert sorted(ledger) == sorted(names)
    good = {name for name, row in ledger.items() if row["status"] == "ok"}
    assert good == set(feature.held()) == set(names) - set(extraction.failed)
    assert np.isfinite(feature.read()).all()
    for name in set(names) - good:
        row = ledger[name]
        assert (row["status"], row["stage"]) == ("failed", "decode")
        assert row["error"] in {"MediaError", "NoStream"}
        assert name in row["message"] or "time stamps jump" in row["message"]
        assert row["message"] == extraction.failed[name].replace(f"{folder}/", "")
    return list(ledger.values())


def test_of_three_hundred_damaged_files_each_has_its_row_in_the_ledger(tmp_path: Path) -> None:
    """And no process died, or hung, on any of them: that would be another error."""
    rows = ledger_of_damaged(tmp_path, 300, seed=2)
    assert min(sum(row["status"] == status for row in rows) for status in ("ok", "failed")) > 30
    assert sum(bool(row.get("facts", {}).get("truncated")) for row in rows) > 10
