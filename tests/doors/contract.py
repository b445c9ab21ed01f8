"""What every door promises: each door's own test file has a class of this, with a few words about the door.

class TestNpz(DoorContract):
    door = "npz"
    kinds = ("vectors", "layers")
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from emocache.doors.exporting import Exported, export_features
from emocache.doors.importing import Imported, import_features
from emocache.doors.registry import make_door
from emocache.errors import EmocacheError, StoreError
from emocache.spec import Recipe, name_key
from emocache.store import Feature, FeatureWriter, open_or_make_store, open_store, write_roster

CLIPS = ("b2", "a1", "c3", "d4", "e5")
"""Not in the order of their names. ``d4`` failed, ``e5`` was never tried."""
HELD = CLIPS[:3]
LABELS = {"b2": "happy", "a1": "sad", "c3": "sad", "d4": "happy", "e5": "angry"}
KINDS = {"vectors": ("unknown", (0,)), "layers": ("unknown", (3, 7)), "frames": ("tokens", (0,))}
"""What a feature can be: pooling and layers."""
DIM = 7
TIMES = {"b2": 3, "a1": 1, "c3": 5}


def numbers(clip: str, kind: str, dtype: str) -> NDArray[Any]:
    """``(layer, 7)``, or ``(time, layer, 7)`` of frames: numbers of all magnitudes, among them what printing spoils."""
    seed = int.from_bytes(hashlib.sha256(f"{clip}{kind}".encode()).digest()[:4])
    layers = len(KINDS[kind][1])
    shape = (TIMES[clip], layers, DIM) if kind == "frames" else (layers, DIM)
    random = np.random.default_rng(seed)
    values = random.normal(size=shape) * 10.0 ** random.integers(-4, 4, size=shape)
    values.flat[:3] = [-0.0, 1 / 3, 6e-8]
    return values.astype(dtype)


def fill(path: Path, kind: str, dtype: str = "float32", pooling: str = "") -> str:
    """A store with one feature, as if it had been extracted; returns the feature's name."""
    usual, layers = KINDS[kind]
    pooling = pooling or usual
    store = open_or_make_store(path)
    fields = {"recipe_version": 1, "encoder": "stand-in", "modality": "audio", "settings": {}, "pooling": pooling}
    feature = store.add_feature(Recipe({**fields, "compute_dtype": "float32", "storage_dtype": dtype}), {})
    keys = {clip: name_key(clip, "audio") for clip in CLIPS}
    named = [(clip, {"label": LABELS[clip], "speaker": f"0{number}"}) for number, clip in enumerate(CLIPS)]
    write_roster(path, named, {clip: {"audio": key.hex()} for clip, key in keys.items()})
    writer = FeatureWriter(feature.folder, feature.fingerprint, layers)
    for clip in HELD:
        writer.add(keys[clip], numbers(clip, kind, dtype), {})
    failed = {"key": keys["d4"].hex(), "status": "failed", "stage": "decode", "error": "NoStream", "facts": {}}
    writer.add_failure({**failed, "message": "no sound"})
    writer.flush()
    return feature.name


def only_feature(path: Path) -> Feature:
    """The one feature of a store."""
    (feature,) = open_store(path).features.values()
    return feature


def values_of(feature: Feature) -> dict[str, NDArray[Any]]:
    """Each clip with its numbers."""
    clips = feature.held()
    if not feature.ragged:
        return dict(zip(clips, feature.read(clips), strict=True))
    values, offsets = feature.read_ragged(clips)
    return {clip: values[offsets[i] : offsets[i + 1]] for i, clip in enumerate(clips)}


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class DoorContract:
    """Tests that every door passes.

    door: its name; kinds: of `KINDS`, what its format holds; dtypes: the same
    writing, reading: settings that it needs for either; out: what the export is called, if the name matters
    pooling: of the exported feature, if that matters
    """

    door: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("vectors",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")
    writing: ClassVar[Mapping[str, Any]] = {}
    reading: ClassVar[Mapping[str, Any]] = {}
    out: ClassVar[str] = "exported"
    pooling: ClassVar[str] = ""

    def export(self, folder: Path, kind: str = "", dtype: str = "") -> Exported:
        """Fill the store ``from.zarr`` in `folder` and export its feature to `out`."""
        name = fill(folder / "from.zarr", kind or self.kinds[0], dtype or self.dtypes[0], self.pooling)
        return export_features(self.door, name, folder / self.out, store=folder / "from.zarr", settings=self.writing)

    def take(self, exported: Exported, store: Path, **more: Any) -> Imported:
        """Import what was exported."""
        (source,) = exported.sources.values()
        return import_features(
            self.door, source, modality="audio", name="back", store=store, settings=self.reading, **more
        )

    def pairs(self) -> list[tuple[str, str]]:
        """Every kind with every dtype."""
        return [(kind, dtype) for kind in self.kinds for dtype in self.dtypes]

    def test_what_goes_out_comes_back_to_the_last_bit(self, tmp_path: Path) -> None:
        for kind, dtype in self.pairs():
            folder = tmp_path / f"{kind}-{dtype}"
            exported = self.export(folder, kind, dtype)
            assert exported.path == folder / self.out
            imported = self.take(exported, folder / "to.zarr")
            assert (imported.written, imported.held, imported.failed) == (3, 0, {})
            back = only_feature(folder / "to.zarr")
            assert (back.name, back.dtype.name, back.ragged) == (imported.feature, dtype, kind == "frames")
            found = values_of(back)
            assert set(found) == set(HELD)
            for clip in HELD:
                expected = numbers(clip, kind, dtype)
                assert found[clip].shape == expected.shape
                assert found[clip].tobytes() == expected.tobytes(), f"{kind} {dtype} {clip}"

    def test_clips_that_are_not_held_stay_missing_and_are_named(self, tmp_path: Path) -> None:
        exported = self.export(tmp_path)
        (missing,) = exported.missing.values()
        assert missing == {"d4": "failed: no sound", "e5": "not in this feature"}
        assert "2 clips left out, with nothing in their place: d4, e5" in str(exported)
        self.take(exported, tmp_path / "to.zarr")
        assert set(only_feature(tmp_path / "to.zarr").clips) == set(HELD)

    def test_the_recipe_says_imported_from_what_and_with_which_checksum(self, tmp_path: Path) -> None:
        exported = self.export(tmp_path)
        self.take(exported, tmp_path / "to.zarr")
        recipe = only_feature(tmp_path / "to.zarr").recipe
        assert recipe.encoder == "back"
        assert recipe.fields["imported"]["format"] == self.door
        assert len(bytes.fromhex(recipe.fields["imported"]["sha256"])) == 32
        assert str(tmp_path) not in str(recipe.fields)

    def test_importing_again_changes_nothing(self, tmp_path: Path) -> None:
        exported = self.export(tmp_path)
        first = self.take(exported, tmp_path / "to.zarr")
        before = files_below(tmp_path / "to.zarr")
        again = self.take(exported, tmp_path / "to.zarr")
        assert (again.feature, again.written, again.held) == (first.feature, 0, 3)
        assert files_below(tmp_path / "to.zarr") == before

    def test_an_import_that_breaks_off_goes_on_where_it_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exported = self.export(tmp_path)
        add, added = FeatureWriter.add, []

        def add_two(writer: FeatureWriter, *arguments: Any) -> None:
            if len(added) == 2:
                raise KeyboardInterrupt
            added.append(arguments)
            add(writer, *arguments)

        with monkeypatch.context() as broken:
            broken.setattr(FeatureWriter, "add", add_two)
            with pytest.raises(KeyboardInterrupt):
                self.take(exported, tmp_path / "to.zarr")
        done = self.take(exported, tmp_path / "to.zarr")
        assert (done.written, done.held) == (1, 2)
        assert len(values_of(only_feature(tmp_path / "to.zarr"))) == 3

    def test_a_fault_while_writing_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("emocache.store.feature.Feature.read_rows", broken)
        monkeypatch.setattr("emocache.store.feature.Feature.read_ragged_rows", broken)
        with pytest.raises(StoreError, match=r"cannot be written: No space left on device; nothing was left there"):
            self.export(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["from.zarr"]

    def test_an_export_into_a_folder_that_is_not_there_says_so(self, tmp_path: Path) -> None:
        name = fill(tmp_path / "from.zarr", self.kinds[0], self.dtypes[0], self.pooling)
        with pytest.raises(StoreError, match=r"cannot be written: there is no folder .*none; make it first"):
            export_features(
                self.door, name, tmp_path / "none" / self.out, store=tmp_path / "from.zarr", settings=self.writing
            )

    def test_an_export_never_replaces_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / self.out).write_text("mine")
        with pytest.raises(StoreError, match="is there already; export to a new name"):
            self.export(tmp_path)
        assert (tmp_path / self.out).read_text() == "mine"

    def test_a_source_that_is_none_is_refused_before_a_store_is_made(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "noise").write_bytes(b"\x93NUMPY\x09 noise \xff\x00" * 9)
        for source in ("absent", "empty", "noise"):
            with pytest.raises(EmocacheError) as told:
                import_features(
                    self.door,
                    tmp_path / source,
                    modality="audio",
                    store=tmp_path / "to.zarr",
                    settings=self.reading,
                )
            assert str(tmp_path / source) in str(told.value)
        assert not (tmp_path / "to.zarr").exists()

    def test_its_module_is_loaded_late_and_its_settings_have_defaults(self) -> None:
        assert make_door(self.door) == make_door(self.door, {})
