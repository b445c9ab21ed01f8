"""Batches and what happens when an encoder fails."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emocache.extract.pipeline import PADDING_LIMIT, WINDOW, Clock, Pipeline, Ready, Result, batches
from emocache.extract.plan import Task
from emocache.extract.workers import DecodePool
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
    """Larger batches do not fit."""
    spoiled: float = -1.0
    """No batch with this value can be encoded."""
    width: int = 2
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
        return None

    def forward(self, batch: Sequence[Any], layers: Sequence[int]) -> tuple[torch.Tensor, Sequence[int]]:
        self.seen.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        if self.spoiled in batch:
            raise RuntimeError("cannot encode this")
        frames = torch.tensor(batch).reshape(-1, 1, 1, 1).expand(-1, len(layers), 3, self.width).clone()
        frames[:, :, 1:] = torch.nan  # padding, which nobody may read
        return frames, [1] * len(batch)


def run(encoder: Fake, texts: list[str], storage: str = "float32") -> dict[str, Result]:
    tasks = [Task(text.encode(), Source("text", text=text), (text,), (1, 2)) for text in texts]
    pipeline = Pipeline(encoder, (1, 2), "mean", np.dtype(storage), Clock())
    with DecodePool(encoder.decoder(), 1) as pool:
        return {result.task.clip_ids[0]: result for result in pipeline.run(tasks, pool)}


def test_every_task_has_one_result_with_its_own_values() -> None:
    texts = [str(number) for number in range(WINDOW + 9)]
    found = run(Fake(), texts)
    assert set(found) == set(texts)
    for text, result in found.items():
        np.testing.assert_array_equal(result.values, np.full((2, 2), float(text), dtype=np.float32))
        assert result.facts == {"seen": text}


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    encoder = Fake(most=3)
    found = run(encoder, [str(number) for number in range(16)])
    assert all(result.values is not None for result in found.values())
    assert max(encoder.seen) == 16
    assert encoder.seen.count(2) == 8


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


@given(st.lists(st.integers(1, 40), max_size=60))
def test_batches_lose_nothing_fit_their_limit_and_pad_little(sizes: list[int]) -> None:
    task = Task(b"", Source("text"), ("c",), (1,))
    window: list[Ready] = [(task, Decoded(None, size, {"at": at})) for at, size in enumerate(sizes)]
    found = list(batches(window, Fake(batch_size=100)))
    assert sorted(decoded.facts["at"] for batch in found for _, decoded in batch) == list(range(len(sizes)))
    for batch in found:
        real = [decoded.size for _, decoded in batch]
        assert len(batch) * max(real) <= 100
        assert len(batch) * max(real) <= PADDING_LIMIT * sum(real)
