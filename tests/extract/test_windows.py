"""Cutting long sound: every frame once, windows equally long, context on both sides of a cut."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emocache.extract.encoders.windows import OVERLAP, Piece, Window, _passes, cut, in_passes


@given(frames=st.integers(1, 20_000), most=st.integers(49, 1500))
def test_every_frame_is_kept_once_and_windows_are_equally_long(frames: int, most: int) -> None:
    windows = cut(frames, most)
    kept = [frame for window in windows for frame in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(frames))
    assert len({window.stop - window.start for window in windows}) == 1
    for window in windows:
        assert 0 <= window.start <= window.keep_start < window.keep_stop <= window.stop <= frames
        assert window.stop - window.start <= most


@given(frames=st.integers(1, 20_000), most=st.integers(49, 1500))
def test_neighbours_share_a_tenth_and_are_cut_in_its_middle(frames: int, most: int) -> None:
    windows = cut(frames, most)
    for before, after in pairwise(windows):
        shared = before.stop - after.start
        assert shared >= most // OVERLAP
        left, right = before.stop - before.keep_stop, after.keep_start - after.start
        assert abs(left - right) <= 1


@given(frames=st.integers(1, 20_000), most=st.integers(49, 1500))
def test_no_fewer_windows_would_do(frames: int, most: int) -> None:
    count, overlap = len(cut(frames, most)), most // OVERLAP
    assert count == 1 or (count - 1) * most - (count - 2) * overlap < frames


def test_what_fits_is_one_window() -> None:
    assert cut(1499, 1499) == [Window(0, 1499, 0, 1499)]
    assert len(cut(1500, 1499)) == 2


@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=30), budget=st.integers(1, 300), least=st.integers(1, 99)
)
def test_passes_hold_all_pieces_in_order_and_fit_where_they_can(sizes: list[int], budget: int, least: int) -> None:
    spans = list(_passes(sizes, budget, least))
    assert [size for span in spans for size in sizes[span]] == sizes
    for span in spans:
        pieces = sizes[span]
        assert len(pieces) == 1 or len(pieces) * max(least, *pieces) <= budget


def numbered(count: int) -> list[Piece]:
    """Pieces of ten samples that hold their number, of which two frames in the middle are kept."""
    return [Piece(np.full(10, number, dtype=np.float32), slice(1, 3)) for number in range(count)]


class Device:
    """Gives each wave's samples back as frames; has room for so many waves at once."""

    def __init__(self, room: int, message: str = "CUDA out of memory") -> None:
        self.room, self.message = room, message
        self.asked: list[int] = []

    def __call__(self, some: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
        self.asked.append(len(some))
        if len(some) > self.room:
            raise RuntimeError(self.message)
        return torch.from_numpy(np.stack(some))[:, None, :, None], [len(wave) for wave in some]


def test_a_pass_for_which_the_device_has_no_room_is_halved() -> None:
    device = Device(room=2)
    frames, lengths = in_passes([numbered(5), numbered(1)], device, budget=1000)
    assert device.asked == [6, 3, 1, 2, 3, 1, 2]
    assert lengths == [10, 2]
    assert frames[0, 0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert frames[1, 0, :, 0].tolist() == [0] * 10


@pytest.mark.parametrize(("room", "message"), [(0, "CUDA out of memory"), (2, "something else is wrong")])
def test_what_smaller_passes_do_not_mend_is_raised(room: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        in_passes([numbered(5)], Device(room, message), budget=1000)
