"""Cutting long sound: every frame once, windows equally long, context on both sides of a cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from emocache.extract.encoders.windows import OVERLAP, Window, _passes, cut


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
