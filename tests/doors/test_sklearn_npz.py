"""The sklearn door: X, y and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score

from emocache.doors import pieces
from emocache.doors.exporting import export_features
from emocache.doors.importing import import_features
from emocache.errors import BadOption, DoorError
from emocache.spec import Recipe, name_key
from emocache.store import FeatureWriter, open_or_make_store, open_store, write_roster

from .contract import HELD, LABELS, DoorContract, fill, numbers, only_feature


class TestSklearn(DoorContract):
    door = "sklearn"
    kinds = ("vectors", "layers")
    dtypes = ("float32",)
    out = "exported.npz"


def export(store: Path, feature: str, out: Path, **settings: Any) -> Any:
    export_features("sklearn", feature, out, store=store, settings=settings)
    return np.load(out, allow_pickle=False)


def test_cross_val_score_takes_it_as_it_is(tmp_path: Path) -> None:
    store = open_or_make_store(tmp_path / "s.zarr")
    fields = {"encoder": "stand-in", "modality": "audio", "pooling": "mean", "storage_dtype": "float16"}
    feature = store.add_feature(Recipe(fields), {})
    clips = [f"c{number}" for number in range(24)]
    rows = [(clip, {"label": "joy" if n % 2 else "fear", "speaker": f"s{n // 6}"}) for n, clip in enumerate(clips)]
    write_roster(store.path, rows, {clip: {"audio": name_key(clip, "audio").hex()} for clip in clips})
    writer = FeatureWriter(feature.folder, feature.fingerprint, (3, 4))
    random = np.random.default_rng(0)
    for number, clip in enumerate(clips):
        writer.add(name_key(clip, "audio"), (random.normal(size=(2, 5)) + 4 * (number % 2)).astype(np.float16), {})
    writer.flush()
    with export(store.path, feature.name, tmp_path / "x.npz") as data:
        assert (data["X"].dtype, data["X"].shape) == (np.float32, (24, 10))
        model, folds = LogisticRegression(), GroupKFold(4)
        scores = cross_val_score(model, data["X"], data["y"], groups=data["groups"], cv=folds)
    assert scores.mean() > 0.9


@pytest.mark.parametrize("piece_bytes", [1, 2**26])
def test_layers_lie_side_by_side_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    name = fill(tmp_path / "s.zarr", "layers", "float16")
    with export(tmp_path / "s.zarr", name, tmp_path / "x.npz") as data:
        wanted = np.stack([numbers(clip, "layers", "float16").reshape(-1) for clip in HELD])
        np.testing.assert_array_equal(data["X"], wanted)
        assert data["y"].tolist() == [LABELS[clip] for clip in HELD]
        assert data["groups"].tolist() == ["00", "01", "02"]
        assert data["clip_ids"].tolist() == list(HELD)
    import_features("sklearn", tmp_path / "x.npz", store=tmp_path / "t.zarr", storage="float16")
    back = only_feature(tmp_path / "t.zarr")
    assert back.layers == (3, 7)
    np.testing.assert_array_equal(back.read(list(HELD)).reshape(3, -1), wanted)
    roster = {row["clip_id"]: (row["label"], row["speaker"]) for row in open_store(tmp_path / "t.zarr").roster}
    assert roster == {clip: (LABELS[clip], f"0{number}") for number, clip in enumerate(HELD)}


def test_clips_without_a_label_are_named(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    write_roster(tmp_path / "s.zarr", [("a1", {"label": None, "speaker": None, "valence": 0.5})], {})
    with pytest.raises(BadOption, match=r"y=label: 1 of 3 clips have none: a1; choose the others by a manifest"):
        export(tmp_path / "s.zarr", name, tmp_path / "x.npz")
    with pytest.raises(BadOption, match=r"groups=speaker: 1 of 3 .* or --set groups= to leave it out"):
        export(tmp_path / "s.zarr", name, tmp_path / "x.npz", unlabelled=True)
    with export(tmp_path / "s.zarr", name, tmp_path / "x.npz", unlabelled="yes", groups="") as data:
        assert data["y"].tolist() == ["happy", "", "sad"]
        assert "groups" not in data
    with export(tmp_path / "s.zarr", name, tmp_path / "y.npz", y="valence", unlabelled=True, groups="") as data:
        np.testing.assert_array_equal(data["y"], [np.nan, 0.5, np.nan])
    with pytest.raises(BadOption, match="y=emotion: the roster has no such column; it has label, speaker"):
        export(tmp_path / "s.zarr", name, tmp_path / "z.npz", y="emotion")


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    def take(**arrays: Any) -> None:
        np.savez(tmp_path / "x.npz", **arrays)
        import_features("sklearn", tmp_path / "x.npz", modality="audio", store=tmp_path / "s.zarr")

    x, ids = np.ones((2, 3), np.float32), ["a", "b"]
    with pytest.raises(DoorError, match=r"shape \(2, 3\) for 1 names in 'clip_ids'; expected \(clip, layer x dim\)"):
        take(X=x, clip_ids=["a"])
    with pytest.raises(DoorError, match="label has another length than the 2 clips"):
        take(X=x, clip_ids=ids, y=["joy"])
    with pytest.raises(DoorError, match="array of Python objects, which is a pickle"):
        take(X=x, clip_ids=ids, y=np.array(["joy", None], dtype=object))
    for letters in (b"\xff\xff\xff\xff" * 2, b"\x00\xd8\x00\x00" * 2):
        strange = np.frombuffer(letters, dtype="<U1")
        with pytest.raises(DoorError, match="array 'y': holds letters that are none"):
            take(X=x, clip_ids=ids, y=strange)
        with pytest.raises(DoorError, match="array 'clip_ids': holds letters that are none"):
            take(X=x, clip_ids=strange)
