import io
import pickle
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emocache.errors import BadOption, MediaError, NoStream
from emocache.extract.media import decord_frames, pictures
from emocache.extract.media.media_file import MediaFile
from emocache.extract.media.pictures import Pictures
from emocache.extract.media.video import Frame, FrameSampler
from emocache.spec import Source

from .video_files import cut, every_ms, number, numbered, turn, write_sound, write_video

STEADY = every_ms(40, 50)
UNSTEADY = [0, *np.cumsum(np.random.default_rng(7).integers(10, 110, 49)).tolist()]


def source(path: Path, start_s: float | None = None, end_s: float | None = None) -> Source:
    start, end = (None if s is None else round(s * 1e6) for s in (start_s, end_s))
    return Source("video", path, start, end)


def frame_table(path: Path) -> list[pictures.Shown[int]] | None:
    return Pictures(MediaFile(path)).table()


def read(
    path: Path, policy: str = "av", fps: int | Fraction = 4, **span: float
) -> tuple[list[Frame], dict[str, object]]:
    video = FrameSampler(fps, policy).read(source(path, **span))
    return list(video), video.facts()


def numbers(frames: list[Frame]) -> list[int]:
    return [number(frame.rgb) for frame in frames]


def same(ours: list[Frame], theirs: list[Frame]) -> bool:
    return len(ours) == len(theirs) and all(
        a.time_s == b.time_s and np.array_equal(a.rgb, b.rgb) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture
def steady(tmp_path: Path) -> Path:
    return write_video(tmp_path / "steady.mp4", numbered(50), STEADY)


def test_samples_lie_in_the_middle_of_equal_periods(steady: Path) -> None:
    """Two seconds at 4 frames/s: 0.125, 0.375, ...; each takes the frame on the screen then."""
    frames, facts = read(steady)
    assert [frame.time_s for frame in frames] == [0.125 + 0.25 * k for k in range(8)]
    assert numbers(frames) == [3, 9, 15, 21, 28, 34, 40, 46]
    assert facts == {
        "frames": 8, "duration_s": 2.0, "width": 96, "height": 64, "decoder": "av", "truncated": False,
    }  # fmt: skip
    assert frames[0].rgb.shape == (64, 96, 3)
    assert frames[0].rgb.dtype == np.uint8


@pytest.mark.parametrize("fps", [Fraction(25, 2), 3, 30], ids=str)
def test_a_variable_frame_rate_is_sampled_by_time(tmp_path: Path, fps: int | Fraction) -> None:
    path = write_video(tmp_path / "unsteady.mp4", numbered(50), UNSTEADY)
    frames, facts = read(path, fps=fps)
    times_ms = np.array([frame.time_s * 1000 for frame in frames])
    shown = np.searchsorted(UNSTEADY, times_ms, side="right") - 1
    assert numbers(frames) == shown.tolist()
    assert len(frames) == pytest.approx(facts["duration_s"] * float(fps), abs=0.51)


@pytest.mark.parametrize(
    ("name", "times", "codec"),
    [
        ("steady.mp4", STEADY, "libx264"),
        ("unsteady.mp4", UNSTEADY, "libx264"),
        ("late.mp4", [t + 500 for t in STEADY], "libx264"),
        ("steady.mkv", STEADY, "libx264"),
        ("steady.webm", STEADY, "libvpx"),
    ],
)
def test_both_decoders_give_the_same_frames(tmp_path: Path, name: str, times: list[int], codec: str) -> None:
    pytest.importorskip("decord", reason="decord has no build for this machine")
    path = write_video(tmp_path / name, numbered(50), times, codec)
    by_decord, facts = read(path, "decord, else av")
    by_av, other = read(path, "av")
    assert facts["decoder"] == "decord"
    assert same(by_decord, by_av)
    assert facts | {"decoder": "av"} == other


@pytest.mark.parametrize("policy", ["decord, else av", "av"])
def test_red_is_red(tmp_path: Path, policy: str) -> None:
    """Red, green and blue, in this order, and in a frame's own colours whatever frame came before."""
    colours = [(200, 40, 90), (30, 60, 220), (40, 210, 30)]
    frames = [np.full((64, 96, 3), colours[k // 10], np.uint8) for k in range(30)]
    path = write_video(tmp_path / "colours.mp4", frames, every_ms(40, 30), b_frames=0)
    shown = [frame.rgb[32, 48].astype(int) for frame in read(path, policy, fps=Fraction(5, 2))[0]]
    assert np.abs(np.array(shown) - colours).max() < 12


@pytest.mark.parametrize("policy", ["decord, else av", "av"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phone_s_rotation_is_obeyed(tmp_path: Path, steady: Path, policy: str, degrees: int) -> None:
    """The bright quarter, upper left as stored, moves clockwise."""
    frames, facts = read(turn(steady, tmp_path / "turned.mp4", degrees), policy)
    expected = np.rot90(read(steady)[0][0].rgb, -degrees // 90)
    assert np.array_equal(frames[0].rgb, expected)
    assert (facts["height"], facts["width"]) == expected.shape[:2]


@pytest.mark.parametrize("name", ["steady.mp4", "steady.mkv", "steady.ts"])
def test_a_span_is_the_same_frames_as_in_the_whole(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, numbered(50), STEADY)
    whole, _ = read(path, "decord, else av", fps=25)
    part, facts = read(path, "decord, else av", fps=25, start_s=1.2, end_s=1.6)
    assert same(part, whole[30:40])
    assert facts["duration_s"] == 0.4
    assert not facts["truncated"]


def test_spans_count_from_the_file_s_start(tmp_path: Path) -> None:
    """A file whose clock begins at half a second: 0 is its beginning, as players show it."""
    path = write_video(tmp_path / "late.mp4", numbered(50), [t + 500 for t in STEADY])
    frames, _ = read(path, start_s=0.4, end_s=0.8)
    assert numbers(frames) == [13, 19]


@pytest.mark.parametrize("policy", ["decord, else av", "av"])
def test_a_clip_shorter_than_a_period_still_gives_its_middle_frame(tmp_path: Path, policy: str) -> None:
    path = write_video(tmp_path / "short.mp4", numbered(3), every_ms(40, 3), b_frames=0)
    frames, facts = read(path, policy)
    assert (numbers(frames), frames[0].time_s) == ([1], 0.06)
    assert facts["duration_s"] == 0.12
    frames, _ = read(path, policy, start_s=0.081, end_s=0.083)
    assert numbers(frames) == [2]


def test_frames_are_decoded_one_by_one(steady: Path) -> None:
    """Only the frame at hand is in memory: the second is not there before it is asked for."""
    video = FrameSampler().read(source(steady))
    frames = iter(video)
    next(frames)
    assert video.facts()["frames"] == 1


def test_decord_reads_only_what_it_can_be_trusted_with(tmp_path: Path, steady: Path) -> None:
    """A transport stream has no index; a fragmented mp4 states the number of frames of its first fragment."""
    stream = write_video(tmp_path / "steady.ts", numbered(50), STEADY)
    fragments = write_video(tmp_path / "fragments.mp4", numbered(50), STEADY, movflags="frag_keyframe")
    assert frame_table(stream) is None
    assert frame_table(fragments) is None
    assert len(read(fragments, "decord, else av")[0]) == 8
    assert len(frame_table(steady) or ()) == 50
    assert read(steady, "decord, else av", start_s=0.5)[1]["decoder"] == "av"


def test_where_decord_is_not_installed_av_serves(steady: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    frames, facts = read(steady, "decord, else av")
    assert (len(frames), facts["decoder"]) == (8, "av")


def test_decord_is_left_where_it_could_fill_the_memory(steady: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decodes ahead without a limit."""
    monkeypatch.setattr(decord_frames, "DECORD_BYTES", 50 * 64 * 96 * 3 - 1)
    frames, facts = read(steady, "decord, else av")
    assert (len(frames), facts["decoder"]) == (8, "av")


def test_where_decord_gives_up_half_way_av_goes_on(steady: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord", reason="decord has no build for this machine")
    reader = decord_frames._DecordReader
    left = iter(range(20))

    def failing(self: decord_frames._DecordReader) -> object:
        if next(left, None) is None:
            raise decord_frames.DecordFailed
        return reading(self)

    reading = reader.next
    monkeypatch.setattr(reader, "next", failing)
    frames, facts = read(steady, "decord, else av")
    assert facts["decoder"] == "decord, then av"
    assert same(frames, read(steady)[0])


def test_decord_is_left_where_its_times_disagree(steady: Path) -> None:
    pytest.importorskip("decord", reason="decord has no build for this machine")
    table = frame_table(steady)
    assert table is not None
    with pytest.raises(decord_frames.DecordFailed, match="49"):
        next(decord_frames.decord_frames(MediaFile(steady), table[1:], [0]))
    skewed = [pictures.Shown(row.time * 2, row.end * 2, row.picture) for row in table]
    with pytest.raises(decord_frames.DecordFailed, match="time stamps"):
        next(decord_frames.decord_frames(MediaFile(steady), skewed, [0]))


@pytest.mark.parametrize(("name", "options"), [("cut.mp4", {"movflags": "faststart"}), ("cut.mkv", {})])
@pytest.mark.parametrize("policy", ["decord, else av", "av"])
def test_a_file_that_is_cut_off_is_used_and_marked(
    tmp_path: Path, name: str, options: dict[str, str], policy: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 64, 96, 3), np.uint8)
    whole = write_video(tmp_path / f"whole{name[3:]}", noise, STEADY, b_frames=0, **options)
    frames, facts = read(cut(whole, tmp_path / name, 0.6), policy)
    assert facts["truncated"]
    assert 2 <= len(frames) < 8
    assert same(frames[:-1], read(whole)[0][: len(frames) - 1])


def test_a_span_that_reaches_behind_the_end_is_used_and_marked(steady: Path) -> None:
    frames, facts = read(steady, start_s=1.5, end_s=9.0)
    assert (len(frames), facts["duration_s"], facts["truncated"]) == (2, 0.5, True)


@pytest.mark.parametrize("sound_s", [1.8, 5.0])
def test_sound_of_another_length_is_no_truncation(tmp_path: Path, sound_s: float) -> None:
    path = write_video(tmp_path / "both.mp4", numbered(50), STEADY, sound_s=sound_s)
    assert not read(path)[1]["truncated"]


def test_files_that_cannot_be_read_say_why(tmp_path: Path, steady: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 99)
    cut(steady, tmp_path / "cut.mp4", 0.5)
    for name, words in {
        "none.mp4": "none.mp4: no such file; correct the path",
        ".": "is not a file",
        "empty.mp4": "empty.mp4: the file is empty",
        "text.mp4": r"text.mp4: is not a video that FFmpeg can read \(.+\); get it again",
        "cut.mp4": r"cut.mp4: the file is cut off.+moov",
    }.items():
        with pytest.raises(MediaError, match=words):
            read(tmp_path / name, "decord, else av")


def test_a_file_with_sound_alone_has_no_stream(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "sound.wav", "pcm_s16le")
    with pytest.raises(NoStream, match=r"sound.wav: has no moving picture \(found: audio\); use an encoder for sound"):
        read(path)


def test_cover_art_is_not_a_video(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(jpeg, "JPEG")
    body = b"\0image/jpeg\0\x03\0" + jpeg.getvalue()
    tag = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    length = bytes((len(tag) >> shift) & 127 for shift in (21, 14, 7, 0))
    song = write_sound(tmp_path / "plain.mp3", "libmp3lame").read_bytes()
    (tmp_path / "song.mp3").write_bytes(b"ID3\x03\0\0" + length + tag + song)
    with pytest.raises(NoStream, match=r"no moving picture but cover art or what has no decoder \(found: audio\)"):
        read(tmp_path / "song.mp3")


def test_spans_that_cannot_be_are_refused(steady: Path) -> None:
    with pytest.raises(MediaError, match=r"the span from 5 s to the end lies outside the picture, which ends at 2 s"):
        read(steady, start_s=5.0)
    with pytest.raises(MediaError, match=r"the span from 1 s to 0.5 s is empty"):
        read(steady, start_s=1.0, end_s=0.5)


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(BadOption, match="0 frames per second"):
        FrameSampler(0)
    with pytest.raises(BadOption, match="policy 'opencv' is not known; known: decord, else av; av"):
        FrameSampler(policy="opencv")


def test_a_sampler_travels_and_states_itself() -> None:
    sampler = FrameSampler(Fraction(25, 2))
    assert pickle.loads(pickle.dumps(sampler)) == sampler  # noqa: S301 - our own bytes
    assert sampler.recipe() == {"fps": "25/2", "sampling": "midpoints by time", "decoder": "decord, else av"}


@pytest.mark.shared
def test_mpeg_1_recordings_come_out_frame_by_frame(shared: Path) -> None:
    """Of these, decord leaves out the first twelve frames; the policy must not let it."""
    for path in sorted((shared / "data/grid/clips").glob("*.mpg"))[:4]:
        frames, facts = read(path, "decord, else av")
        every, _ = read(path, "av", fps=25)
        assert (len(frames), len(every), facts["duration_s"], facts["decoder"]) == (12, 75, 3.0, "av")
        assert all(np.array_equal(f.rgb, every[int(f.time_s * 25)].rgb) for f in frames)
