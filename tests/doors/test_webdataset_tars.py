"""The webdataset door: tars of clips."""

from __future__ import annotations

import functools
import gc
import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from emocache.doors.documents import as_cell
from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import DoorError
from emocache.spec import Recipe, name_key
from emocache.store import FeatureWriter, open_or_make_store, open_store, write_roster

from .contract import HELD, LABELS, DoorContract, fill, numbers, only_feature, values_of


class TestWebDataset(DoorContract):
    door = "webdataset"
    kinds = ("vectors", "layers", "frames")


def take(source: Path, store: Path, **settings: Any) -> Any:
    return import_features("webdataset", source, modality="audio", store=store, settings=settings)


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(*shards: Path) -> list[dict[str, Any]]:
    """What the library reads; it leaves closing its files to the garbage collector, which warns of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = webdataset.WebDataset(list(map(str, shards)), shardshuffle=False, empty_check=False).decode()
        read = list(found)
        del found
        gc.collect()
    return read


@pytest.mark.parametrize("kind", ["layers", "frames"])
def test_webdataset_reads_what_is_exported(tmp_path: Path, kind: str) -> None:
    name = fill(tmp_path / "s.zarr", kind, "float16")
    settings = {"shard_mb": 0}
    export_features("webdataset", name, tmp_path / "d", store=tmp_path / "s.zarr", settings=settings)
    shards = sorted((tmp_path / "d").iterdir())
    assert [path.name for path in shards] == [f"shard-00000{n}.tar" for n in range(3)]
    found = samples(*shards)
    assert [sample["__key__"] for sample in found] == list(HELD)
    for sample in found:
        clip = sample["json"]["clip_id"]
        assert sample["npy"].dtype == np.float16
        np.testing.assert_array_equal(sample["npy"], numbers(clip, kind, "float16"))
        assert sample["json"]["label"] == LABELS[clip]


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    for out in ("d", "e"):
        export_features("webdataset", name, tmp_path / out, store=tmp_path / "s.zarr")
    assert (tmp_path / "d/shard-000000.tar").read_bytes() == (tmp_path / "e/shard-000000.tar").read_bytes()


def test_names_with_dots_and_folders_and_all_scripts_come_back(tmp_path: Path) -> None:
    clips = ["a.b", "sub/c.d", "100%", "gl\u00fcck", "\u60b2\u4f24" * 60]
    store = open_or_make_store(tmp_path / "s.zarr")
    fields = {"encoder": "stand-in", "modality": "audio", "pooling": "mean", "storage_dtype": "float32"}
    feature = store.add_feature(Recipe(fields), {})
    write_roster(store.path, [(clip, {}) for clip in clips], {c: {"audio": name_key(c, "audio").hex()} for c in clips})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (0,))
    for number, clip in enumerate(clips):
        writer.add(name_key(clip, "audio"), np.full((1, 2), number, dtype=np.float32), {})
    writer.flush()
    export_features("webdataset", feature.name, tmp_path / "d", store=store.path)
    found = samples(tmp_path / "d/shard-000000.tar")
    assert [sample["json"]["clip_id"] for sample in found] == clips
    take(tmp_path / "d", tmp_path / "t.zarr")
    assert list(values_of(only_feature(tmp_path / "t.zarr"))) == clips


def test_tars_of_others_are_understood(tmp_path: Path) -> None:
    """Written by the library's own writer: pictures beside the numbers, a class, one clip without numbers."""
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as tar:
        tar.write({"__key__": "v/a", "emb.npy": np.arange(3.0), "json": {"speaker": "03", "score": 0.5}, "cls": 4})
        tar.write({"__key__": "v/b", "emb.npy": np.arange(3.0) + 1, "jpg": b"no picture"})
        tar.write({"__key__": "v/c", "json": {"speaker": "04"}})
    with pytest.raises(DoorError, match=r"no file in it is called <clip>.npy; it has the extensions cls, emb.npy, jpg"):
        take(tmp_path / "x.tar", tmp_path / "s.zarr")
    done = take(tmp_path / "x.tar", tmp_path / "s.zarr", extension="emb.npy")
    assert (done.written, done.absent) == (2, ("v/c",))
    np.testing.assert_array_equal(values_of(only_feature(tmp_path / "s.zarr"))["v/b"], [[1, 2, 3]])
    row = next(row for row in open_store(tmp_path / "s.zarr").roster if row["clip_id"] == "v/a")
    assert (row["speaker"], row["score"], row["label"]) == ("03", 0.5, "4")


def test_one_clip_that_is_broken_fails_by_name(tmp_path: Path) -> None:
    good = npy(np.ones(4, np.float32))
    objects = npy(np.array([{}], dtype=object))
    members = {"a.npy": good, "b.npy": good[:-3], "c.npy": objects, "d.npy": b"no numbers"}
    done = take(shard(tmp_path / "x.tar", members), tmp_path / "s.zarr")
    assert (done.written, set(done.failed)) == (1, {"b", "c", "d"})
    assert "its header announces float32 (4,), 16 bytes, and 13 follow" in done.failed["b"]
    assert "array of Python objects, which is a pickle" in done.failed["c"]


def test_a_header_that_claims_terabytes_takes_no_memory(tmp_path: Path) -> None:
    bomb = npy(np.ones(4, np.float32)).replace(b"(4,), ", b"(2000000000000,), ")
    done = take(shard(tmp_path / "x.tar", {"a.npy": npy(np.ones(4)), "b.npy": bomb}), tmp_path / "s.zarr")
    assert set(done.failed) == {"b"}


@pytest.mark.parametrize("name", ["../../a.npy", "/a.npy", "x/../a.npy", "a\nb.npy", "./a.npy"])
def test_names_that_lead_elsewhere_are_no_clips(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / "x.tar", {name: npy(np.ones(4, np.float32))})
    with pytest.raises(DoorError, match="cannot name a clip"):
        take(path, tmp_path / "s.zarr")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.tar"]


def link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


def hard_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.LNKTYPE, "a.npy"


def device(info: tarfile.TarInfo) -> None:
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 5


def fifo(info: tarfile.TarInfo) -> None:
    info.type = tarfile.FIFOTYPE


def sparse(info: tarfile.TarInfo) -> None:
    info.type = tarfile.GNUTYPE_SPARSE


@pytest.mark.parametrize("strange", [link, hard_link, device, fifo, sparse])
def test_links_and_devices_are_refused(tmp_path: Path, strange: Callable[[tarfile.TarInfo], None]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("b.npy")
        strange(info)
        tar.addfile(info)
    with pytest.raises(DoorError, match=r"b.npy is a link, a device or a sparse file"):
        take(tmp_path / "x.tar", tmp_path / "s.zarr")


def test_a_member_that_claims_more_than_follows_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.npy")
    info.size = 2**40
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DoorError, match="claims 1,099,511,627,776 bytes, and 1,024 follow"):
        take(tmp_path / "x.tar", tmp_path / "s.zarr")


def test_a_chain_of_headers_without_end_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.npy")
    info.type = tarfile.XHDTYPE
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(1024))
    with pytest.raises(DoorError, match=r"no .tar file, or a damaged one"):
        take(tmp_path / "x.tar", tmp_path / "s.zarr")


def test_a_compressed_tar_and_a_sample_twice_are_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(DoorError, match="a compressed one is unpacked first, as with gunzip"):
        take(tmp_path / "x.tar", tmp_path / "s.zarr")
    with tarfile.open(tmp_path / "y.tar", "w") as tar:
        for _ in range(2):
            data = npy(np.ones(2, np.float32))
            info = tarfile.TarInfo("a.npy")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(DoorError, match=r"a.npy stands there twice"):
        take(tmp_path / "y.tar", tmp_path / "s.zarr")


def test_json_that_is_none_or_too_long_is_told(tmp_path: Path) -> None:
    numbers = npy(np.ones(2, np.float32))
    for text, told in ((b"{", "a.json: no JSON"), (b'{"x": NaN}', "NaN is no JSON"), (b" " * 2**24 + b"1", "the most")):
        path = shard(tmp_path / "x.tar", {"a.npy": numbers, "a.json": text})
        with pytest.raises(DoorError, match=told):
            take(path, tmp_path / "s.zarr")
    take(shard(tmp_path / "x.tar", {"a.npy": numbers, "a.json": json.dumps([1]).encode()}), tmp_path / "s.zarr")
    strange = b'{"label": "joy\\ud800", "tags": ["\\udc00", {}], "\\ud800": 1, "far": 1e999}'
    take(shard(tmp_path / "x.tar", {"a.npy": numbers, "a.json": strange}), tmp_path / "half.zarr")
    (row,) = open_store(tmp_path / "half.zarr").roster
    keys = row.pop("keys")
    assert row == {"clip_id": "a", "label": "joy?", "tags": ["?", "{}"], "far": "inf"}
    assert list(keys) == ["audio"]


def test_a_column_that_no_store_could_read_again_is_refused(tmp_path: Path) -> None:
    """A roster with such a row would be refused as hostile, and with it the store."""
    members = {"a.npy": npy([1.0]), "a.json": b'{"spans":[[1,2]],"x":' + b"[" * 70 + b"]" * 70 + b"}"}
    told = r"x\.tar: clip a: column x: lists in lists, more than 8 deep, are no value of a column; leave it out"
    with pytest.raises(DoorError, match=told):
        take(shard(tmp_path / "x.tar", members), tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    take(shard(tmp_path / "x.tar", {**members, "a.json": b'{"spans":[[1,2]]}'}), tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr").roster[0]["spans"] == [[1, 2]]
    with pytest.raises(DoorError, match="maps in maps, nested without end"):
        as_cell(functools.reduce(lambda inner, _: {"y": inner}, range(100_000), {}))


def test_a_clip_without_numbers_cannot_have_a_name_that_leads_elsewhere(tmp_path: Path) -> None:
    members = {"a.npy": npy(np.ones(2, np.float32)), "b.json": b'{"clip_id": "../../up"}'}
    with pytest.raises(DoorError, match=r"'../../up' cannot name a clip"):
        take(shard(tmp_path / "x.tar", members), tmp_path / "s.zarr")
