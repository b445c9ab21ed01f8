"""Every file that emocache writes opens in zarr-python and in tensorstore, bit for bit, without a warning."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from numcodecs import zstd
from numpy.typing import NDArray

from emocache.store import layout
from emocache.store.commit import write_segment
from emocache.store.layout import lies_at_root
from emocache.store.listing import open_segment, read_segments
from emocache.store.segment import Segment

FACTS = {"fingerprint": "0" * 64, "layers": [3, 5], "rows": 7}


def write(parent: Path, dtype: str, codec: str | None) -> tuple[Segment, dict[str, NDArray]]:
    rng = np.random.default_rng(0)
    arrays = {
        "values": rng.standard_normal((7, 2, 6)).astype(dtype),
        "keys": rng.integers(0, 256, (7, 32), dtype=np.uint8),
        "ledger": np.frombuffer(b'{"key": "00", "status": "ok"}\n' * 7, dtype=np.uint8),
    }
    name = write_segment(parent, "cells", arrays, FACTS, codec=codec)
    segment = open_segment(parent / name)
    assert segment is not None
    return segment, arrays


@pytest.fixture(params=[None, "zstd", "blosc"])
def codec(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture(params=["one chunk a layer", "three rows a chunk"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "three rows a chunk":  # seven rows: the last chunk is filled up
        monkeypatch.setattr(layout, "CHUNK_BYTES", 80)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("in_files", "cut")
def test_zarr_python_reads_the_same_bits(tmp_path: Path, codec: str | None, dtype: str) -> None:
    segment, arrays = write(tmp_path, dtype, codec)
    group = zarr.open_group(segment.folder, mode="r")
    assert sorted(group.array_keys()) == sorted(arrays)
    for name, array in arrays.items():
        found = group[name]
        assert isinstance(found, zarr.Array)
        assert np.asarray(found[:]).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("in_files", "cut")
def test_tensorstore_reads_the_same_bits(tmp_path: Path, codec: str | None, dtype: str) -> None:
    segment, arrays = write(tmp_path, dtype, codec)
    for name, array in arrays.items():
        place = {"driver": "file", "path": f"{segment.folder / name}/"}
        found = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
        assert found.read().result().tobytes() == array.tobytes()


def test_both_read_every_array_of_the_golden_store() -> None:
    """The roster, ledgers and snapshots too; what lies in a manifest they see as attributes."""
    seen = set()
    golden = Path(__file__).parent / "golden" / "format-1"
    for parent in (golden / "roster", *golden.glob("features/*/*")):
        for segment in read_segments(parent):
            for name in (name for name, array in segment.arrays.items() if not array.inline):
                seen.add(name)
                folder = segment.folder / (name if not lies_at_root(segment.arrays) else "")
                found = zarr.open_array(folder, mode="r")
                place = {"driver": "file", "path": f"{folder}/"}
                other = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result().read().result()
                layers = [segment.read(name, layer) for layer in range(segment.arrays[name].layers)]
                expected = np.stack(layers, axis=1) if segment.arrays[name].layered else layers[0]
                assert np.asarray(found[:]).tobytes() == other.tobytes() == expected.tobytes()
    assert seen >= {"values", "keys", "ledger", "clips", "columns", "keys.audio", "keys.video"}


def test_a_segment_of_one_array_is_that_array(tmp_path: Path, cut: None, codec: str | None) -> None:
    """Small arrays beside ``values`` lie in its attributes, in base64."""
    segment, arrays = write(tmp_path, "float16", codec)
    found = zarr.open_array(segment.folder, mode="r")
    assert np.asarray(found[:]).tobytes() == arrays["values"].tobytes()
    place = {"driver": "file", "path": f"{segment.folder}/"}
    other = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()
    assert other.read().result().tobytes() == arrays["values"].tobytes()
    facts = json.loads(json.dumps(found.attrs["emocache"]))
    assert base64.b64decode(facts["arrays"]["keys"]["data"]) == arrays["keys"].tobytes()
    packed = base64.b64decode(facts["arrays"]["ledger"]["data"])
    assert facts["arrays"]["ledger"]["codec"] == "zstd"
    assert zstd.decompress(packed) == arrays["ledger"].tobytes()
    assert {path.name for path in segment.folder.iterdir()} == {"zarr.json", *segment.manifest["files"]}


def test_the_reader_reads_the_same_bits(both_layouts: None, tmp_path: Path, cut: None, codec: str | None) -> None:
    segment, arrays = write(tmp_path, "float16", codec)
    for position in range(2):
        np.testing.assert_array_equal(segment.read("values", position), arrays["values"][:, position])
    np.testing.assert_array_equal(segment.read("keys"), arrays["keys"])
    for file in segment.manifest["files"]:
        segment.prove_file(file)


def test_a_codec_that_shrinks_a_chunk_beyond_belief_is_not_used(tmp_path: Path) -> None:
    """A reader refuses chunks that grow a thousandfold, so nothing that does is written."""
    values = np.zeros((4096, 1, 256), dtype=np.float32)
    facts = {**FACTS, "layers": [0], "rows": 4096}
    arrays = {"values": values, "keys": np.zeros((4096, 32), dtype=np.uint8)}
    segment = open_segment(tmp_path / write_segment(tmp_path, "cells", arrays, facts, codec="zstd"))
    assert segment is not None
    assert segment.arrays["values"].codec is None
    np.testing.assert_array_equal(segment.read("values"), values[:, 0])
