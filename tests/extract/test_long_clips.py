"""Clips with more frames than may be held together: the same numbers, of which only what is pooled is kept."""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from emocache.extract.encoders.vision import VisionEncoder
from emocache.extract.lane import Clock, Lane
from emocache.extract.plan import Task
from emocache.extract.pooling import pool
from emocache.extract.workers import Outcome
from emocache.spec import Decoded, Source

from .vision_models import DEPTH, frames, save

POOLINGS = ("mean", "time", "stats7", "segments:3", "tokens", "tokens:40")
LAYERS = (1, DEPTH)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> VisionEncoder:
    """A small V-JEPA 2: 4 x 4 tokens a step, 16 frames a window."""
    encoder = VisionEncoder("small", None, save("vjepa2", tmp_path_factory.mktemp("model")), fps=4)
    encoder.load("cpu", "float32", LAYERS)
    return encoder


def clip_of(encoder: VisionEncoder, count: int) -> Decoded:
    looks = [encoder.decoder().look(frame, [])[0] for frame in frames(count)]
    return Decoded(np.stack(looks), count, {})


def encoded(encoder: VisionEncoder, *clips: Decoded) -> dict[tuple[int, str], Any]:
    """The values of each clip and pooling."""
    lane = Lane(encoder, POOLINGS, np.dtype("float32"), "cpu", Clock())
    found = []
    for number, clip in enumerate(clips):
        found += lane.take(Task(0, number, Source("video"), (LAYERS,) * len(POOLINGS)), Outcome(clip))
    found += lane.finish()
    assert not [result.failure for result in found if result.failure]
    return {(result.task.content, POOLINGS[result.pooling]): result.values for result in found}


def test_a_long_clip_is_computed_window_by_window_to_the_same_numbers(
    encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """101 frames: six windows and one that overlaps; 51 steps. A short clip beside it goes the usual way."""
    long, short = clip_of(encoder, 101), clip_of(encoder, 20)
    assert short.size <= encoder.batch_size < long.size
    with torch.inference_mode():
        whole, (length,) = encoder.forward([long.payload], LAYERS)
    assert length == 51 * 16
    forward = VisionEncoder.forward
    together: list[int] = []

    def counted(self: VisionEncoder, batch: Sequence[Any], layers: Sequence[int]) -> Any:
        together.extend(map(len, batch))
        return forward(self, batch, layers)

    monkeypatch.setattr(VisionEncoder, "forward", counted)
    found = encoded(encoder, long, short)
    assert together == [20]
    for pooling in POOLINGS:
        expected = pool(whole[0], pooling, encoder.grid).numpy()
        np.testing.assert_allclose(found[0, pooling], expected, rtol=1e-4, atol=1e-5)


def test_a_clip_s_numbers_do_not_depend_on_whether_others_are_long(encoder: VisionEncoder) -> None:
    long, short = clip_of(encoder, 70), clip_of(encoder, 5)
    together, alone = encoded(encoder, short, long), encoded(encoder, long)
    for pooling in POOLINGS:
        np.testing.assert_array_equal(together[1, pooling], alone[0, pooling])


def test_of_a_long_clip_each_pooling_gets_the_layers_that_it_lacks(encoder: VisionEncoder) -> None:
    long = clip_of(encoder, 70)
    everything = encoded(encoder, long)
    lane = Lane(encoder, ("mean", "time"), np.dtype("float32"), "cpu", Clock())
    list(lane.take(Task(0, 0, Source("video"), ((DEPTH,), LAYERS)), Outcome(long)))
    mean, time = lane.finish()
    np.testing.assert_array_equal(mean.values, everything[0, "mean"][1:])
    np.testing.assert_array_equal(time.values, everything[0, "time"])


def test_of_a_long_clip_no_more_than_two_parts_are_held_at_a_time(
    encoder: VisionEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = []

    def parts(layers: Sequence[int]) -> Iterator[torch.Tensor]:
        for _ in range(9):
            part = torch.ones(len(layers), 8 * 16, encoder.dim)
            alive.append(weakref.ref(part))
            most.append(sum(one() is not None for one in alive))
            yield part

    monkeypatch.setattr(encoder, "forward_parts", lambda _, layers: (9 * 8 * 16, parts(layers)))
    lane = Lane(encoder, ("mean", "time"), np.dtype("float16"), "cpu", Clock())
    list(lane.take(Task(0, 0, Source("video"), (LAYERS, LAYERS)), Outcome(Decoded(None, 144, {}))))
    mean, time = lane.finish()
    assert mean.values is not None
    assert time.values is not None
    assert (mean.values.shape, time.values.shape) == ((2, encoder.dim), (72, 2, encoder.dim))
    assert max(most) <= 2
