"""The anndata door: h5ad files. `golden/` has some that anndata wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from emocache.doors import pieces
from emocache.doors.exporting import export_features
from emocache.doors.hdf5 import put_table
from emocache.doors.importing import import_features
from emocache.errors import BadOption, DoorError
from emocache.store import open_store, write_roster

from .contract import HELD, LABELS, DoorContract, fill, numbers, only_feature, values_of

GOLDEN = Path(__file__).parent / "golden"


class TestAnnData(DoorContract):
    door = "anndata"
    kinds = ("vectors", "layers")
    out = "exported.h5ad"


def take(source: Path, store: Path, **settings: Any) -> Any:
    return import_features("anndata", source, modality="audio", store=store, settings=settings)


def exported(folder: Path, kind: str) -> Path:
    name = fill(folder / "s.zarr", kind, "float16")
    return export_features("anndata", name, folder / "x.h5ad", store=folder / "s.zarr").path


def structure(path: Path) -> dict[str, Any]:
    """Every element with its type, shape and attributes."""
    found: dict[str, Any] = {}

    def note(name: str, entry: Any) -> None:
        attributes = {key: np.asarray(value).tolist() for key, value in entry.attrs.items()}
        found[name] = (getattr(entry, "dtype", None), getattr(entry, "shape", None), attributes)

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return found


@pytest.mark.parametrize("kind", ["vectors", "layers"])
def test_what_is_written_is_laid_out_as_anndata_does(tmp_path: Path, kind: str) -> None:
    assert structure(exported(tmp_path, kind)) == structure(GOLDEN / f"{kind}.h5ad")


@pytest.mark.parametrize("piece_bytes", [1, 2**26])
def test_anndata_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    reason = "anndata holds pandas below 3, and is not among the tests' packages"
    anndata = pytest.importorskip("anndata", reason=reason, exc_type=ImportError)
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    for kind in ("vectors", "layers"):
        (tmp_path / kind).mkdir()
        found = anndata.read_h5ad(exported(tmp_path / kind, kind))
        assert list(found.obs_names) == list(HELD)
        assert found.obs["label"].tolist() == [LABELS[clip] for clip in HELD]
        wanted = np.stack([numbers(clip, kind, "float16") for clip in HELD])
        parts = [found.X] if kind == "vectors" else [found.obsm["layer_3"], found.obsm["layer_7"]]
        for number, part in enumerate(parts):
            assert part.dtype == np.float16
            np.testing.assert_array_equal(part, wanted[:, number])


def test_several_layers_come_back_with_their_numbers_or_one_of_them(tmp_path: Path) -> None:
    path = exported(tmp_path, "layers")
    import_features("anndata", path, store=tmp_path / "t.zarr")
    back = only_feature(tmp_path / "t.zarr")
    assert (back.layers, back.recipe.modality) == ((3, 7), "audio")
    import_features("anndata", path, store=tmp_path / "one.zarr", settings={"key": "layer_7"})
    assert only_feature(tmp_path / "one.zarr").layers == (7,)


def test_columns_of_every_kind_go_out_and_come_back(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    columns = {
        "word": ["x", None, "ü"],
        "whole": [1, 2, 2**40],
        "gap": [1.5, None, 3],
        "yes": [True, False, True],
        "maybe": ["True", None, "False"],
        "a/b": ["p", "q", "r"],
        "a_b": ["s", "t", "u"],
    }
    rows = [(clip, {key: values[i] for key, values in columns.items()}) for i, clip in enumerate(HELD)]
    write_roster(tmp_path / "s.zarr", rows, {})
    export_features("anndata", name, tmp_path / "x.h5ad", store=tmp_path / "s.zarr")
    take(tmp_path / "x.h5ad", tmp_path / "t.zarr")
    back = {row["clip_id"]: row for row in open_store(tmp_path / "t.zarr").roster}
    for title, values in {**columns, "a_b": columns["a/b"], "a_b_": columns["a_b"]}.items():
        if title != "a/b":
            assert [back[clip][title] for clip in HELD] == values


def test_frames_have_no_place_in_it(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="rows of different number for each clip, and anndata holds one row a clip"):
        exported(tmp_path, "frames")


def test_a_file_of_anndata_is_understood(tmp_path: Path) -> None:
    """Sparse rows, a column of every kind, and embeddings under a name of their own."""
    take(GOLDEN / "sparse.h5ad", tmp_path / "s.zarr")
    back = values_of(only_feature(tmp_path / "s.zarr"))
    np.testing.assert_array_equal([back[clip][0] for clip in HELD], [[0, 1.5, 0], [2, 0, 0], [0, 0, -0.25]])
    roster = {row["clip_id"]: row for row in open_store(tmp_path / "s.zarr").roster}
    titles = ("label", "age", "score", "ok", "name", "take", "acted")
    assert [[roster[clip][title] for title in titles] for clip in HELD] == [
        ["joy", 31, 0.5, True, "x", 1, True],
        [None, 40, None, False, "y", None, None],
        ["fear", 50, 1, True, "z", 3, False],
    ]
    take(GOLDEN / "sparse.h5ad", tmp_path / "pca.zarr", key="X_pca")
    np.testing.assert_array_equal(values_of(only_feature(tmp_path / "pca.zarr"))["c3"], [[0.5, 0.625]])


def test_a_choice_is_asked_for(tmp_path: Path) -> None:
    path = exported(tmp_path, "layers")
    with h5py.File(path, "r+") as file:
        file.move("obsm/layer_3", "obsm/u")
        file.move("obsm/layer_7", "obsm/v")
    with pytest.raises(BadOption, match="cannot tell which numbers are meant; it holds u, v; --set key=NAME"):
        take(path, tmp_path / "t.zarr")
    with pytest.raises(BadOption, match="no 'X' in it; it holds u, v"):
        take(path, tmp_path / "t.zarr", key="X")


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual", "bomb", "cycle", "web"])
def test_what_leads_out_of_the_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = exported(tmp_path, "vectors")
    (tmp_path / "secret").write_bytes(b"secret" * 100)
    with h5py.File(path, "r+") as file:
        if kind == "external link":
            file["obsm/u"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        elif kind == "soft link":
            file["obsm/u"] = h5py.SoftLink("/X")
        elif kind == "external storage":
            file["obsm"].create_dataset("u", (3, 8), "u1", external=[(str(tmp_path / "secret"), 0, 24)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 8), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3, 8))
            file["obsm"].create_virtual_dataset("u", layout)
        elif kind == "bomb":
            file["obsm"].create_dataset("u", (3, 2**40), "f4", chunks=(1, 1024))
        elif kind == "cycle":
            file["obsm/u"] = file["/"]
        else:
            for depth in range(1, 14):
                below = file.create_group(f"uns/{depth}")
                for number in range(10):
                    file[f"uns/{depth - 1}/{number}" if depth > 1 else f"obsm/{number}"] = below
    twice = "is a group that stands elsewhere too"
    told = {"bomb": "claims 13,194,139,533,312 bytes in 0", "cycle": twice, "web": twice}
    with pytest.raises(DoorError, match=told.get(kind, "which is not (followed|opened)")):
        take(path, tmp_path / "t.zarr")


def test_sparse_rows_that_lead_outside_fail_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.h5ad").write_bytes((GOLDEN / "sparse.h5ad").read_bytes())
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file["X/indices"][0] = 7
    done = take(tmp_path / "x.h5ad", tmp_path / "s.zarr")
    assert list(done.failed) == ["b2"]
    assert "row 0 leads outside of the matrix" in done.failed["b2"]
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file["X"].attrs["encoding-type"] = "csc_matrix"
    with pytest.raises(DoorError, match=r"/X is csc_matrix, expected a matrix of numbers, dense or sparse by rows"):
        take(tmp_path / "x.h5ad", tmp_path / "s.zarr")


def sparse(path: Path, shape: tuple[int, int] = (2, 5), **parts: list[float]) -> Path:
    """Two clips of five numbers in compressed rows; `parts` replace what is right."""
    right = {"indptr": [0, 2, 4], "indices": [0, 3, 1, 1], "data": [1.0, 2.0, 3.0, 4.0]}
    with h5py.File(path, "w") as file:
        put_table(file, "obs", ["a", "b"], {})
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", shape
        for name, values in {**right, **parts}.items():
            group[name] = np.array(values, dtype=np.float32 if name == "data" else np.int64)
    return path


def test_sparse_rows_are_what_scipy_takes_them_for(tmp_path: Path) -> None:
    parts = {"data": [1.0, 2.0, 3.0, 4.0], "indices": [0, 3, 1, 1], "indptr": [0, 2, 4]}
    wanted = csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=(2, 5)).toarray()
    take(sparse(tmp_path / "x.h5ad"), tmp_path / "s.zarr")
    found = values_of(only_feature(tmp_path / "s.zarr"))
    assert [found[clip][0].tolist() for clip in "ab"] == wanted.tolist()


@pytest.mark.parametrize("part", ["data", "indices"])
def test_a_sparse_row_whose_end_is_missing_is_not_filled_up_with_zeros(tmp_path: Path, part: str) -> None:
    short = {"data": [1.0, 2.0, 3.0], "indices": [0, 3, 1]}[part]
    done = take(sparse(tmp_path / "x.h5ad", **{part: short}), tmp_path / "s.zarr")
    assert (done.written, list(done.failed)) == (1, ["b"])
    assert "row 1 leads outside of the matrix" in done.failed["b"]


def test_a_sparse_row_cannot_claim_all_memory(tmp_path: Path) -> None:
    with pytest.raises(DoorError, match=r"/X claims rows of 4,000,000,000 bytes, which no features have"):
        take(sparse(tmp_path / "x.h5ad", shape=(2, 10**9)), tmp_path / "s.zarr")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """Truncated, and with structures spoiled that HDF5 knows by four letters."""
    path = exported(tmp_path, "layers")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole.replace(b"SNOD", b"SNOT"), whole.replace(b"HEAP", b"HEAD"), whole[:9]):
        path.write_bytes(data)
        with pytest.raises(DoorError, match=r"x.h5ad: no .h5ad file as anndata has written them since 0.8"):
            take(path, tmp_path / "t.zarr")


def test_an_hdf5_file_that_is_no_anndata_is_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["X"] = np.ones((2, 2))
        file["obs"] = np.ones(3)
    with pytest.raises(DoorError, match=r"x.h5ad: no .h5ad file as anndata has written them since 0.8"):
        take(tmp_path / "x.h5ad", tmp_path / "s.zarr")
