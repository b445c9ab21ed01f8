"""Batches and what happens when an encoder fails."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emocache.extract.batches import WINDOW, WINDOW_BYTES, Ready, batches
from emocache.extract.lane import Clock, Lane, Result
from emocache.extract.pipeline import Pipeline
from emocache.extract.plan import Job, Task
from emocache.extract.workers import DecodePool, Outcome
from emocache.spec import Decoded, Decoder, Modality, Source


@dataclass(frozen=True)
class Numbers:
    """A decoder of texts such as ``"3"``: a payload of that value."""

    def __call__(self, source: Source) -> Decoded:
        """Decode; ``"bad"`` cannot be."""
        return Decoded(float(source.text or ""), 1, {"seen": source.text})


@dataclass
class Fake:
    """An encoder whose one frame is the payload's value in every layer, and which can be told to fail."""

    most: int = 100
    """Larger batches do not fit, and raise `full`."""
    full: Exception = field(default_factory=lambda: torch.OutOfMemoryError("out of memory"))
    spoiled: float = -1.0
    """No batch with this value can be encoded."""
    width: int = 2
    device: str = "cpu"
    seen: list[int] = field(default_factory=list)
    name: str = "fake"
    modality: Modality = "text"
    depth: int = 3
    dim: int = 2
    grid: tuple[int, int] = (1, 1)
    dtypes: tuple[str, ...] = ("float32",)
    batch_size: int = 16

    def recipe(self) -> Mapping[str, Any]:
        return {}

    def decoder(self) -> Decoder:
        return Numbers()

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None: ...

    def batch_key(self, decoded: Decoded) -> Hashable:
        return decoded.facts.get("key")

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[torch.Tensor, Sequence[int]]:
        self.seen.append(len(batch))
        if len(batch) > self.most:
            raise self.full
        if self.spoiled in batch:
            raise RuntimeError("cannot encode this")
        frames = torch.tensor(batch).reshape(-1, 1, 1, 1).expand(-1, len(layers), 3, self.width).clone()
        frames[:, :, 1:] = torch.nan  # padding, which nobody may read
        return frames.to(self.device), [1] * len(batch)


def run(encoder: Fake, texts: list[str], storage: str = "float32") -> dict[str, Result]:
    """Encode texts; the result of each."""
    return {result.task.source.text or "": result for result in all_results(encoder, texts, storage)}


def all_results(
    encoder: Fake, texts: list[str], storage: str = "float32", poolings: tuple[str, ...] = ("mean",)
) -> list[Result]:
    sources = [Source("text", text=text) for text in texts]
    tasks = [Task(0, number, source, ((1, 2),) * len(poolings)) for number, source in enumerate(sources)]
    jobs = [Job(0, ((0, task.source),), ((task, 0),)) for task in tasks]
    clock = Clock()
    pipeline = Pipeline([Lane(encoder, poolings, np.dtype(storage), encoder.device, clock)], clock)
    with DecodePool([encoder.decoder()], 1) as pool:
        return list(pipeline.run(jobs, pool))


def test_every_task_has_one_result_with_its_own_values() -> None:
    texts = [str(number) for number in range(WINDOW + 9)]
    found = run(Fake(), texts)
    assert set(found) == set(texts)
    for text, result in found.items():
        np.testing.assert_array_equal(result.values, np.full((2, 2), float(text), dtype=np.float32))
        assert result.facts == {"seen": text}
        assert result.values is not None
        assert result.values.flags.owndata, "the rows of its whole batch would stay with it"


def taken(encoder: Fake, clips: int, size: int = 0) -> list[int]:
    """At which of some clips, that take so many bytes each, an encoder goes to work."""
    lane = Lane(encoder, ("mean",), np.dtype("float32"), "cpu", Clock())
    outcome, source = Outcome(Decoded(1.0, 1, {}), bytes=size), Source("text", text="1")
    return [number for number in range(1, clips + 1) if list(lane.take(Task(0, 0, source, ((1,),)), outcome))]


def test_windows_double_up_to_a_limit_so_that_work_begins_soon() -> None:
    assert taken(Fake(), 2000) == [64, 192, 448, 960, 1472, 1984]


def test_a_window_of_large_clips_is_closed_before_it_fills_the_memory() -> None:
    assert taken(Fake(), 9, WINDOW_BYTES // 3) == [4, 8]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_size_remembered(error: Exception) -> None:
    encoder = Fake(most=8, full=error)
    found = run(encoder, [str(number) for number in range(48)])
    assert all(result.values is not None for result in found.values())
    assert encoder.seen == [16] + [8] * 6


def test_a_clip_that_alone_does_not_fit_fails_and_batches_stay_as_they_were() -> None:
    encoder = Fake(most=0)
    failure = run(encoder, ["1"])["1"].failure
    assert failure is not None
    assert (failure.stage, failure.error) == ("forward", "OutOfMemoryError")
    lane = Lane(encoder, ("mean",), np.dtype("float32"), "cpu", Clock())
    source = Source("text", text="1")
    list(lane.take(Task(0, 0, source, ((1,),)), Outcome(Decoded(1.0, 1, {}))))
    assert [result.failure is not None for result in lane.finish()] == [True]
    assert lane.limit == encoder.batch_size


def test_the_poolings_of_an_encoder_share_one_forward() -> None:
    encoder = Fake()
    found = all_results(encoder, ["1", "2", "3"], poolings=("mean", "stats7", "segments:3", "tokens"))
    assert encoder.seen == [3]
    assert len(found) == 12
    shapes = {result.pooling: result.values.shape for result in found if result.values is not None}
    assert shapes == {0: (2, 2), 1: (2, 14), 2: (2, 6), 3: (1, 2, 2)}


def test_a_clip_that_spoils_its_batch_fails_alone() -> None:
    found = run(Fake(spoiled=5.0), [str(number) for number in range(16)])
    failed = {text: result.failure for text, result in found.items() if result.failure}
    assert list(failed) == ["5"]
    assert failed["5"] is not None
    assert (failed["5"].stage, failed["5"].message) == ("forward", "cannot encode this")


def test_a_clip_that_cannot_be_decoded_fails_by_name_and_the_others_go_on() -> None:
    found = run(Fake(), ["1", "bad", "2"])
    assert found["bad"].failure is not None
    assert (found["bad"].failure.stage, found["bad"].failure.error) == ("decode", "ValueError")
    assert found["1"].values is not None
    assert found["2"].values is not None


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_values_that_are_not_finite_are_a_failure_and_never_stored(text: str) -> None:
    found = run(Fake(), ["1", text])
    assert found[text].values is None
    assert found[text].failure is not None
    assert found[text].failure.message == "the encoder gave values that are not finite"
    assert found["1"].values is not None


def test_values_too_large_for_the_storage_dtype_are_a_failure_that_says_so() -> None:
    failure = run(Fake(), ["70000"], "float16")["70000"].failure
    assert failure is not None
    assert failure.message == "values up to 7e+04 do not fit float16; extract with --storage float32"


def test_an_encoder_that_breaks_its_promise_of_shape_is_told_so() -> None:
    failure = run(Fake(width=3), ["1"])["1"].failure
    assert failure is not None
    assert failure.error == "EncoderFault"
    assert "frames of shape (1, 2, 3, 3) for 1 clips, promised (1, 2, time, 2); correct the encoder" in failure.message


@pytest.mark.cuda
def test_on_a_gpu_batches_overlap_and_every_result_is_still_its_own() -> None:
    texts, poolings = [str(number) for number in range(70)], ("mean", "stats7", "segments:2", "tokens")
    found = {
        device: {
            (result.task.source.text, result.pooling): result.values
            for result in all_results(Fake(device=device), texts, poolings=poolings)
        }
        for device in ("cpu", "cuda")
    }
    assert found["cpu"].keys() == found["cuda"].keys()
    for which, values in found["cpu"].items():
        np.testing.assert_allclose(found["cuda"][which], values, rtol=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 2), st.sampled_from([None, 1])), max_size=60),
    st.sampled_from([1.0, 1.04, 1.15]),
)
def test_batches_lose_nothing_fit_their_limit_pad_little_miss_the_same_layers_and_are_of_one_key(
    clips: list[tuple[int, int, int | None]], padding: float
) -> None:
    window = [
        Ready(Task(0, at, Source("text"), ((layer,),)), Decoded(None, size, {"at": at, "key": key}))
        for at, (size, layer, key) in enumerate(clips)
    ]
    found = list(batches(window, Fake(), lambda: 100, padding))
    assert sorted(decoded.facts["at"] for batch in found for _, decoded in batch) == list(range(len(clips)))
    for batch in found:
        real = [decoded.size for _, decoded in batch]
        assert len(batch) * max(real) <= 100
        assert len(batch) * max(real) <= padding * sum(real)
        assert len({(task.wanted, decoded.facts["key"]) for task, decoded in batch}) == 1
