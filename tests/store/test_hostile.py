"""A store from outside is data: whatever it says, a typed error, little memory, and nothing outside it is touched."""

import base64
import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numcodecs import zstd
from numcodecs.checksum32 import CRC32C

from emocache.errors import DamagedStore, StoreError
from emocache.spec import Recipe
from emocache.store import open_store
from emocache.store.listing import open_segment

from .book import CLIPS
from .forge import (
    WATCH,
    Map,
    bytes_of,
    canonical,
    feature_folder,
    forge,
    modest,
    read_facts,
    replace_array,
    roster_segment,
    segments,
    size_of,
    use,
    victim,
    write_facts,
)

CELLS = 12
"""What an honest victim holds."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return victim(tmp_path_factory.mktemp("honest") / "s.zarr", large=True)


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cells; all arrays but the values lie in the manifests."""
    return victim(tmp_path_factory.mktemp("slim") / "s.zarr", large=False)


@pytest.fixture
def store(honest: Path, tmp_path: Path) -> Path:
    """A copy to be forged, beside a folder that nobody may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "zarr.json").write_text("{}")
    (tmp_path / "outside" / "c.0.0.0").write_bytes(bytes(40))
    return Path(shutil.copytree(honest, tmp_path / "s.zarr"))


def refused(store: Path) -> None:
    """Using the store is a typed error, in little memory, and leaves the folder beside it alone."""
    with WATCH.over(store.parent / "outside"), modest(store), pytest.raises(StoreError):
        use(store)


def refused_or_harmless(store: Path) -> None:
    """Using the store is a typed error, or yields only exact cells."""
    with WATCH.over(store.parent / "outside"), modest(store), contextlib.suppress(StoreError):
        assert use(store) <= CELLS


def test_an_honest_store_passes_all_that_the_hostile_ones_must_not(store: Path) -> None:
    with WATCH.over(store.parent / "outside"), modest(store):
        assert use(store) == CELLS
    for folder in (*segments(store), feature_folder(store), roster_segment(store), store):
        before = (folder / "zarr.json").read_bytes()
        forge(folder, dict.copy)
        assert (folder / "zarr.json").read_bytes() == before, "the forger does not write what emocache writes"
    document = (roster_segment(store) / "zarr.json").read_bytes()
    for array in ("clips", "columns"):
        body = (roster_segment(store) / array / "c.0").read_bytes()[:-4]
        replace_array(roster_segment(store), array, bytes_of(roster_segment(store), array), body)
        assert (roster_segment(store) / "zarr.json").read_bytes() == document


def test_the_watch_sees_what_is_touched(store: Path) -> None:
    for touch in (Path.read_bytes, lambda path: os.open(path, os.O_RDONLY), Path.unlink):
        with pytest.raises(AssertionError, match="outside the store"), WATCH.over(store.parent / "outside"):
            touch(store.parent / "outside" / "zarr.json")


def test_the_memory_limit_is_felt(store: Path) -> None:
    with pytest.raises(AssertionError, match="bytes of memory"), modest(store):
        bytearray(64 * 2**20)


def _values(facts: Map) -> Map:
    values: Map = facts["arrays"]["values"]
    return values


def set_shape(shape: Any) -> Callable[[Map], None]:
    """Claim another shape of the values, chunk included."""

    def change(facts: Map) -> None:
        _values(facts)["shape"] = shape
        if isinstance(shape, list) and len(shape) == 3:
            _values(facts)["chunk"] = [shape[0], 1, shape[2]]

    return change


def in_values(**more: Any) -> Callable[[Map], None]:
    return lambda facts: _values(facts).update(more)


def in_facts(**more: Any) -> Callable[[Map], None]:
    return lambda facts: facts.update(more)


def in_files(name: str, entry: Any) -> Callable[[Map], None]:
    return lambda facts: facts["files"].update({name: entry})


def bloated(facts: Map) -> None:
    """Claim 8 TB in files that stay as long as they are."""
    set_shape([2**39, 2, 3])(facts)
    facts["rows"] = 2**39
    facts["arrays"]["keys"] |= {"shape": [2**39, 32], "chunk": [2**39, 32]}


def huge(facts: Map) -> None:
    """Claim 8 TB, with a file length to fit."""
    bloated(facts)
    facts["files"]["keys/c.0.0"] = [2**44 + 4, 0]
    for layer in range(2):
        facts["files"][f"values/c.0.{layer}.0"] = [2**39 * 12 + 4, 0]


LIES: dict[str, Callable[[Map], object]] = {
    "more rows than the file": set_shape([4, 2, 3]),
    "8 TB": huge,
    "8 TB in a few bytes": bloated,
    "sizes whose product wraps around": set_shape([2**32, 2**32, 2**32]),
    "a size beyond 64 bits": set_shape([2**70, 2, 3]),
    "a negative size": set_shape([-3, 2, -3]),
    "a size of zero": set_shape([0, 2, 3]),
    "a size that is text": set_shape(["3", 2, 3]),
    "no axes": set_shape([]),
    "forty axes": set_shape([1] * 40),
    "a shape that is a map": set_shape({"0": 3}),
    "chunks of no rows": in_values(chunk=[0, 1, 3]),
    "chunks of one row, one of them there": in_values(chunk=[1, 1, 3]),
    "dtype object": in_values(dtype="object"),
    "dtype of 8 bytes": in_values(dtype="float64"),
    "dtype that is a list": in_values(dtype=["float32"]),
    "dtype that numpy would read as a pickle": in_values(dtype="|O"),
    "an unknown codec": in_values(codec="lzma"),
    "a pickle codec": in_values(codec="numcodecs.pickle"),
    "a codec with a configuration": in_values(codec={"id": "pickle", "protocol": 4}),
    "a codec that the file does not have": in_values(codec="zstd"),
    "an unknown key of an array": in_values(object_codec="pickle"),
    "an unknown array": lambda facts: facts["arrays"].update(evil=_values(facts)),
    "an array outside": lambda facts: facts["arrays"].update({"../../../../../outside": _values(facts)}),
    "an array at a root": lambda facts: facts["arrays"].update({"/etc": _values(facts)}),
    "arrays that are a list": in_facts(arrays=["values"]),
    "a file outside": in_files("../../../../../outside/c.0.0.0", [40, 0]),
    "a file at a root": in_files("/etc/passwd", [40, 0]),
    "a listed length that is wrong": in_files("values/c.0.0.0", [41, 0]),
    "a listed length that is negative": in_files("values/c.0.0.0", [-40, 0]),
    "a length that is no list": in_files("values/c.0.0.0", 40),
    "a length that is empty": in_files("values/c.0.0.0", []),
    "files that are a list": in_facts(files=[]),
    "layers that are no list": in_facts(layers="0,1"),
    "a layer twice": in_facts(layers=[0, 0]),
    "fewer layers than the array": in_facts(layers=[0]),
    "a layer below zero": in_facts(layers=[0, -1]),
    "a layer that is a map": in_facts(layers=[0, {}]),
    "a layer beyond any network": in_facts(layers=[0, 2**63]),
    "more rows than there are": in_facts(rows=2**60),
    "rows that are text": in_facts(rows="3"),
    "another version": in_facts(version=2),
    "another kind": in_facts(kind="pickle"),
    "a kind that is a list": in_facts(kind=["cells"]),
    "another feature's fingerprint": in_facts(fingerprint="0" * 64),
    "a fingerprint that is a number": in_facts(fingerprint=0),
    "supersedes that is a number": in_facts(supersedes=7),
    "supersedes of maps": in_facts(supersedes=[{}]),
    "supersedes with a path": in_facts(supersedes=["../../../../outside"]),
    "made by a number": in_facts(made=7),
    "an unknown key": in_facts(pickle="gASV"),
    "no arrays key": lambda facts: facts.pop("arrays"),
    "no files key": lambda facts: facts.pop("files"),
    "no supersedes key": lambda facts: facts.pop("supersedes"),
    "keys of 31 bytes": lambda facts: facts["arrays"]["keys"].update(shape=[3, 31], chunk=[3, 31]),
    "keys for fewer rows": lambda facts: facts["arrays"]["keys"].update(shape=[2, 32], chunk=[2, 32]),
    "values without keys": lambda facts: facts["arrays"].pop("keys"),
    "packed keys": lambda facts: facts["arrays"]["keys"].update(codec="zstd"),
    "a ledger in blosc": lambda facts: facts["arrays"]["ledger"].update(codec="blosc"),
    "keys of a modality, in cells": lambda facts: facts["arrays"].update(
        {"keys.audio": {"shape": [3, 32], "dtype": "uint8", "codec": None, "data": "A" * 128}}
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_signed_manifest_that_lies_is_refused(store: Path, lie: str) -> None:
    forge(segments(store)[0], LIES[lie])
    refused(store)


@pytest.mark.parametrize("change", [set_shape([3, 2, True]), in_facts(version=True), in_facts(rows=3.0)])
def test_a_manifest_of_what_cannot_be_sealed_is_not_committed(store: Path, change: Callable[[Map], None]) -> None:
    """There is no canonical JSON of `true` and 3.0, so no seal over them holds."""
    forge(segments(store)[0], change)
    with modest(store):
        assert use(store) == CELLS // 2


def test_a_segment_may_not_supersede_itself_or_a_younger_one(store: Path) -> None:
    first, second = segments(store)
    for folder, gone in ((first, first), (first, second)):
        forge(folder, in_facts(supersedes=[gone.name]))
        refused_or_harmless(store)


RAW: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"\x80\x04\x95pickle",
    "no UTF-8": b'{"zarr_format": 3, "node_type": "gr\xffoup"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a key twice": b'{"zarr_format":3,"node_type":"group","attributes":{},"attributes":{}}',
    "deep lists": b"[" * 200_000 + b"]" * 200_000,
    "deep maps": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "65 levels": b'{"attributes":{"emocache":' + b"[" * 65 + b"]" * 65 + b'},"node_type":"group","zarr_format":3}\n',
    "a number of a million digits": b'{"zarr_format":' + b"3" * 1_000_000 + b"}",
    "NaN": b'{"zarr_format": NaN}',
    "a lone surrogate": b'{"attributes":{"emocache":{"kind":"\\ud800"}},"node_type":"group","zarr_format":3}\n',
    "a list": b"[]",
    "text": b'"zarr"',
    "attributes that are a list": b'{"attributes":[],"node_type":"group","zarr_format":3}\n',
}


@pytest.mark.parametrize("where", ["store", "feature", "segment", "roster"])
@pytest.mark.parametrize("document", RAW)
def test_a_document_that_is_no_document_is_refused_or_not_there(store: Path, where: str, document: str) -> None:
    folders = {
        "store": store,
        "feature": feature_folder(store),
        "segment": segments(store)[0],
        "roster": roster_segment(store),
    }
    (folders[where] / "zarr.json").write_bytes(RAW[document])
    (refused if where == "store" else refused_or_harmless)(store)


def test_a_document_of_more_than_16_mb_is_refused_unread(store: Path) -> None:
    with (segments(store)[0] / "zarr.json").open("r+b") as file:
        file.truncate(2**40)  # a hole: a terabyte that takes no room
    with modest(store):
        assert use(store) < CELLS


@pytest.mark.parametrize(
    "link",
    [
        "features",
        "features/*",
        "features/*/zarr.json",
        "features/*/segments",
        "features/*/segments/*-*",
        "features/*/segments/*-*/zarr.json",
        "features/*/segments/*-*/values",
        "features/*/segments/*-*/keys",
        "features/*/segments/*-*/ledger",
        "features/*/segments/*-*/values/c.0.0.0",
        "features/*/segments/*-*/keys/c.0.0",
        "features/*/segments/*-*/ledger/c.0",
        "roster",
        "roster/*-*",
        "roster/*-*/columns",
        "roster/*-*/columns/c.0",
        "roster/*-*/keys.audio",
        "roster/*-*/keys.audio/c.0.0",
        "zarr.json",
    ],
)
def test_no_link_inside_a_store_is_followed(store: Path, link: str) -> None:
    """Even where what it leads to is just what the store would hold itself."""
    target = next(path for path in sorted(store.glob(link)) if path.name != "zarr.json" or link.endswith("zarr.json"))
    moved = store.parent / "outside" / "moved"
    target.rename(moved)
    target.symlink_to(moved)
    with WATCH.over(store.parent / "outside"), contextlib.suppress(StoreError):
        assert use(store) < CELLS


@pytest.mark.parametrize("place", ["zarr.json", "values/c.0.0.0", "keys/c.0.0", "ledger/c.0"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_plain_file_is_refused_at_once(store: Path, place: str, kind: str) -> None:
    target = segments(store)[0] / place
    target.unlink()
    os.mkfifo(target) if kind == "pipe" else target.mkdir()
    refused(store)


LINES: dict[str, bytes] = {
    "no JSON": b"\x80pickle\n",
    "a list": b"[1]\n",
    "no key, no status": b"{}\n",
    "a key that is a number": b'{"key":7,"status":"ok","facts":{}}\n',
    "a key that is no hex": b'{"key":"zz","status":"ok"}\n',
    "a short key": b'{"key":"00","status":"ok","facts":{}}\n',
    "a status that is a list": b'{"key":"00","status":["ok"]}\n',
    "facts that are text": b'{"key":null,"status":"ok","facts":"x"}\n',
    "a clip_id that is a list": b'{"key":null,"status":"failed","facts":{},"clip_id":["c0"]}\n',
    "columns that take the place of keys": b'{"keys":7,"clip_id":8}\n' * CLIPS,
    "a deep line": b'{"facts":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "a key twice": b'{"label":"a","label":"b"}\n' * CLIPS,
    "many empty maps": b"{}\n" * 20_000,
}
NAMES: dict[str, bytes] = {
    "no JSON": b"\x80pickle",
    "a map": b'{"c0":"c1"}',
    "numbers": canonical(list(range(CLIPS))),
    "lists": canonical([["c0"]] * CLIPS),
    "too few": canonical(["c0"]),
    "one twice": canonical(["c0"] * CLIPS),
    "deep": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_the_names_of_the_roster_are_checked(store: Path, names: str, packed: bool) -> None:
    body = bytes(zstd.compress(NAMES[names], 3)) if packed else None
    replace_array(roster_segment(store), "clips", NAMES[names], body)
    refused(store)


def test_columns_without_a_clip_are_refused_and_so_is_a_clip_without_columns(store: Path) -> None:
    for count in (0, CLIPS - 1, CLIPS + 1):
        replace_array(roster_segment(store), "columns", b'{"label":"a"}\n' * count or b"\n")
        refused(store)
    replace_array(roster_segment(store), "columns", b'{"label":"a"}\n' * (CLIPS + 1))
    with pytest.raises(DamagedStore, match=rf"columns: not one line for each of {CLIPS} clips"):
        _ = open_store(store).roster


@pytest.mark.parametrize("rows", LINES)
def test_rows_of_the_ledger_and_the_roster_are_checked(store: Path, rows: str) -> None:
    for segment, array in ((segments(store)[0], "ledger"), (roster_segment(store), "columns")):
        before = [(file, file.read_bytes()) for file in segment.rglob("*") if file.is_file()]
        replace_array(segment, array, LINES[rows])
        refused_or_harmless(store)
        for file, data in before:
            file.write_bytes(data)


def _in_keys(**more: Any) -> Callable[[Map], None]:
    return lambda facts: facts["arrays"]["keys"].update(more)


def _packed(data: bytes, claimed: int) -> Map:
    """The entry of a packed text of so many bytes as are claimed."""
    body = bytes(zstd.compress(data, 3))
    return {"shape": [claimed], "dtype": "uint8", "codec": "zstd", "data": base64.b64encode(body).decode()}


INLINE_LIES: dict[str, Callable[[Map], object]] = {
    "data that is no text": _in_keys(data=[1]),
    "data that is short": _in_keys(data="AAAA"),
    "data that is long": lambda facts: _in_keys(data=facts["arrays"]["keys"]["data"] + "AAAA")(facts),
    "data that is no base64": lambda facts: _in_keys(data="*" * len(facts["arrays"]["keys"]["data"]))(facts),
    "data that ends early": lambda facts: _in_keys(data="AA==" * (len(facts["arrays"]["keys"]["data"]) // 4))(facts),
    "data that is two bytes short": lambda facts: _in_keys(data=facts["arrays"]["keys"]["data"][:-4] + "AA==")(facts),
    "another shape": _in_keys(shape=[3, 31]),
    "8 TB": _in_keys(shape=[2**38, 32]),
    "a chunk too": _in_keys(chunk=[3, 32]),
    "a codec that keys may not have": _in_keys(codec="zstd"),
    "a codec that is a list": _in_keys(codec=["zstd"]),
    "no codec": lambda facts: facts["arrays"]["keys"].pop("codec"),
    "a ledger in blosc": lambda facts: facts["arrays"]["ledger"].update(codec="blosc"),
    "a ledger that is not packed": lambda facts: facts["arrays"]["ledger"].update(codec="zstd", data="AAAA"),
    "a ledger that unpacks to more": lambda facts: facts["arrays"]["ledger"].update(_packed(bytes(2**17), 100)),
    "a ledger that unpacks to less": lambda facts: facts["arrays"]["ledger"].update(_packed(bytes(10), 2**17)),
    "a ledger longer than unpacked": lambda facts: facts["arrays"]["ledger"].update(_packed(bytes(10), 10)),
    "values in the manifest": lambda facts: facts["arrays"].update(
        values={"shape": [3, 2, 3], "dtype": "float32", "codec": None, "data": "A" * 96}
    ),
    "more than may lie there": lambda facts: facts["arrays"].update(
        ledger={"shape": [2**17 + 1], "dtype": "uint8", "codec": None, "data": "A" * 174_768}
    ),
    "more than may lie there unpacked": lambda facts: facts["arrays"]["ledger"].update(
        _packed(bytes(2**17 + 1), 2**17 + 1)
    ),
    "keys in files as well": lambda facts: facts["files"].update({"keys/zarr.json": [9, 9]}),
}


@pytest.mark.parametrize("lie", INLINE_LIES)
def test_what_lies_in_a_manifest_is_checked(slim: Path, tmp_path: Path, lie: str) -> None:
    (tmp_path / "outside").mkdir()
    store = Path(shutil.copytree(slim, tmp_path / "s.zarr"))
    forge(segments(store)[0], INLINE_LIES[lie])
    refused(store)


@pytest.mark.parametrize(
    "lie", ["values in the manifest", "more than may lie there", "more than may lie there unpacked"]
)
def test_what_may_not_lie_in_a_manifest_is_named(slim: Path, tmp_path: Path, lie: str) -> None:
    store = Path(shutil.copytree(slim, tmp_path / "s.zarr"))
    forge(segments(store)[0], INLINE_LIES[lie])
    with pytest.raises(DamagedStore, match="may not lie in the manifest"):
        open_segment(segments(store)[0])


def test_an_honest_slim_store_passes_what_the_hostile_ones_must_not(slim: Path) -> None:
    with modest(slim):
        assert use(slim) == CELLS
    for folder in segments(slim):
        before = (folder / "zarr.json").read_bytes()
        forge(folder, dict.copy)
        assert (folder / "zarr.json").read_bytes() == before, "the forger does not write what emocache writes"


RECIPES: dict[str, Map] = {
    "no modality": {"encoder": "stand-in", "pooling": "mean", "storage_dtype": "float32"},
    "an unknown modality": {"encoder": "stand-in", "modality": "smell", "storage_dtype": "float32"},
    "a modality that is a list": {"encoder": "stand-in", "modality": ["audio"], "storage_dtype": "float32"},
    "no storage dtype": {"encoder": "stand-in", "modality": "audio", "pooling": "mean"},
    "storage as objects": {"encoder": "stand-in", "modality": "audio", "storage_dtype": "object"},
    "storage of 8 MB a number": {"encoder": "stand-in", "modality": "audio", "storage_dtype": "V8000000"},
    "storage that is a list": {"encoder": "stand-in", "modality": "audio", "storage_dtype": ["O"]},
    "an encoder that is a number": {"encoder": 7, "modality": "audio", "storage_dtype": "float32"},
    "no encoder": {"modality": "audio", "storage_dtype": "float32"},
    "another storage dtype than the segments'": {
        "encoder": "stand-in",
        "modality": "audio",
        "pooling": "mean",
        "storage_dtype": "float16",
    },
}


@pytest.mark.parametrize("fields", RECIPES)
def test_a_signed_recipe_that_lies_is_refused(store: Path, fields: str) -> None:
    """Filed under the name and fingerprint that it gives, with segments that bear it."""
    recipe = Recipe(RECIPES[fields])
    folder = feature_folder(store)
    for segment in segments(store):
        forge(segment, in_facts(fingerprint=recipe.fingerprint))
    forge(folder, in_facts(recipe=dict(recipe.fields), fingerprint=recipe.fingerprint))
    folder.rename(folder.with_name(f"{recipe.fields.get('encoder', 'stand-in')}-{recipe.fingerprint[:12]}"))
    refused(store)


@pytest.mark.parametrize("recipe", [7, [], None, "x", {"encoder": {"a": True}}, {}])
def test_a_recipe_that_is_none_is_refused(store: Path, recipe: object) -> None:
    forge(feature_folder(store), in_facts(recipe=recipe))
    refused(store)


# --- fuzzing ---------------------------------------------------------------------------------------------------------

POISON: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 2**31, 2**40, 2**63, 2**64, 10**40, "", "x", "..", "../..", "/", "\0", "a" * 100,
    "values", "keys", "cells", "roster", "index", "zstd", "blosc", "object", "float16", "uint8", "int64", [], [0], [[]],
    {}, {"a": 1}, [2**39, 2, 3], "0" * 64, "\ud7ff",
]  # fmt: skip


def _poison(value: Any, draw: random.Random) -> Any:
    """The value with one place changed: something else there, gone, or once more."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        if draw.random() < 0.1:
            return {other: inner for other, inner in value.items() if other != name}
        if draw.random() < 0.1:
            return {**value, str(draw.choice(POISON)): value[name]}
        return {**value, name: _poison(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        return [*value[:place], _poison(value[place], draw), *value[place + 1 :]]
    if isinstance(value, int) and draw.random() < 0.5:
        return value + draw.choice([-1, 1, 2**32])
    return draw.choice(POISON)


def _poison_group(store: Path, draw: random.Random) -> None:
    """Change what one group says, sign it, and file a feature under the name that it then gives."""
    folder = draw.choice([store, feature_folder(store), roster_segment(store), *segments(store)])
    facts = read_facts(folder)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        facts = _poison(facts, draw)
    if not isinstance(facts, dict):
        (folder / "zarr.json").write_bytes(canonical(facts))
        return
    if isinstance(facts.get("recipe"), dict) and draw.random() < 0.7:
        with contextlib.suppress(TypeError):
            facts["fingerprint"] = Recipe(facts["recipe"]).fingerprint
    write_facts(folder, facts)
    if folder == feature_folder(store):
        for segment in segments(store):
            forge(segment, in_facts(fingerprint=facts.get("fingerprint")))
        name = f"stand-in-{str(facts.get('fingerprint'))[:12]}".lower().replace("/", "").replace("\0", "")
        folder.rename(folder.with_name(name))


def _poison_rows(store: Path, draw: random.Random) -> None:
    """Change one row of a ledger or of the roster, with lengths and checksums to fit."""
    texts = [(roster_segment(store), "columns"), (roster_segment(store), "clips")]
    segment, array = draw.choice([*texts, *((s, "ledger") for s in segments(store))])
    text = bytes_of(segment, array)
    rows = json.loads(text) if array == "clips" else [json.loads(line) for line in text.splitlines()]
    place = draw.randrange(len(rows))
    rows[place] = _poison(rows[place], draw)
    data = canonical(rows) if array == "clips" else b"".join(canonical(row) + b"\n" for row in rows)
    replace_array(segment, array, data, bytes(zstd.compress(data, 3)) if draw.random() < 0.5 else None)


def _poison_bytes(store: Path, draw: random.Random) -> None:
    """Change, cut or lengthen any file, and perhaps list it as it is now."""
    file = draw.choice(sorted(path for path in store.rglob("*") if path.is_file()))
    data = bytearray(file.read_bytes())
    how = draw.randrange(4)
    place = draw.randrange(len(data))
    if how == 0:
        data[place] ^= 1 << draw.randrange(8)
    elif how == 1:
        del data[place:]
    elif how == 2:
        data[place:place] = draw.randbytes(draw.choice([1, 3, 64]))
    else:
        data[place] = draw.randrange(256)
    file.write_bytes(data)
    at_root = file.name != "zarr.json" and (file.parent / "zarr.json").read_bytes().startswith(b'{"attributes":{"emo')
    segment = file.parent if at_root else file.parent.parent
    name = str(file.relative_to(segment))
    if (segment / "zarr.json").is_file() and name in read_facts(segment).get("files", {}) and draw.random() < 0.5:
        crc = CRC32C.checksum(bytes(data) if file.name == "zarr.json" else bytes(data[:-4]))
        values_or_keys = at_root or "keys" in name or "values" in name  # signed lies about these cannot be told
        if file.name != "zarr.json" and len(data) > 4 and not values_or_keys:
            file.write_bytes(bytes(data[:-4]) + int(crc).to_bytes(4, "little"))
            forge(segment, in_files(name, [len(data), int(crc)]))
        else:
            forge(segment, in_files(name, [len(data), 0]))


def fuzz(honest: Path, folder: Path, seconds: float, seed: int) -> tuple[int, int]:
    """Forge and use stores until the time is over; returns how many there were, and how many were refused."""
    draw = random.Random(seed)  # noqa: S311 (no secret)
    end = time.monotonic() + seconds
    done = refusals = 0
    limit = 16 * size_of(honest)
    while time.monotonic() < end:
        store = Path(shutil.copytree(honest, folder / f"{done}"))
        state = draw.getstate()
        try:
            for _ in range(draw.choice([1, 1, 1, 2, 3])):
                draw.choice([_poison_group, _poison_group, _poison_rows, _poison_bytes])(store, draw)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, IndexError, UnicodeError, RuntimeError):
            pass  # the forger itself stumbled over what it had forged before: so much the better
        assert size_of(store) <= limit
        try:
            use(store, swapped=True)
        except StoreError:
            refusals += 1
        except BaseException as error:
            error.add_note(f"the forged store: {store}; seed {seed}, round {done}, state {hash(state)}")
            raise
        shutil.rmtree(store)
        done += 1
    return done, refusals


@pytest.mark.parametrize("layout", ["honest", "slim"])
def test_forged_stores_are_refused_or_yield_what_was_stored(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    done, refusals = fuzz(request.getfixturevalue(layout), tmp_path, seconds=1, seed=time.time_ns())
    assert refusals > done // 4


@pytest.mark.soak
@pytest.mark.parametrize("layout", ["honest", "slim"])
def test_forged_stores_are_refused_or_yield_what_was_stored_for_a_minute(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    done, refusals = fuzz(request.getfixturevalue(layout), tmp_path, seconds=60, seed=0)
    tell(f"{done} forged stores, {refusals} refused, the others harmless")
