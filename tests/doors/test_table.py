"""The table door: CSV and Parquet of vectors."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emocache.doors.exporting import export_features
from emocache.doors.importing import Imported, import_features
from emocache.errors import BadOption, DoorError
from emocache.store import open_store, write_roster

from .contract import HELD, DoorContract, fill, numbers, only_feature, values_of


class TestParquet(DoorContract):
    door = "table"
    out = "exported.parquet"


class TestCsv(DoorContract):
    door = "table"
    out = "exported.csv"
    dtypes = ("float32",)


def take(path: Path, text: str, *settings: str, storage: str | None = None) -> Imported:
    (path / "t.csv").write_text(text, encoding="utf-8")
    return import_features(
        "table", path / "t.csv", modality="text", store=path / "s.zarr", settings=settings, storage=storage
    )


def test_the_rosters_columns_go_out_and_come_back(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors")
    for suffix in ("csv", "parquet"):
        export_features("table", name, tmp_path / f"x.{suffix}", store=tmp_path / "s.zarr")
        import_features("table", tmp_path / f"x.{suffix}", modality="audio", store=tmp_path / f"{suffix}.zarr")
        rows = {
            row["clip_id"]: (row["label"], row["speaker"]) for row in open_store(tmp_path / f"{suffix}.zarr").roster
        }
        assert rows == {"b2": ("happy", "00"), "a1": ("sad", "01"), "c3": ("sad", "02")}


def test_columns_of_numbers_are_not_taken_for_the_vector_of_an_export(tmp_path: Path) -> None:
    """Of a CSV nothing tells an age from an embedding: it is asked, and neither taken in nor left out unasked."""
    name = fill(tmp_path / "s.zarr", "vectors")
    for columns, told in [({"age": 31}, "age"), ({"spans": [1.5, 2.0]}, "spans")]:
        write_roster(tmp_path / "s.zarr", [(clip, columns) for clip in HELD], {})
        out, into = tmp_path / f"{told}.csv", tmp_path / f"{told}.zarr"
        export_features("table", name, out, store=tmp_path / "s.zarr")
        with pytest.raises(DoorError, match=rf"the vector may be f0, f1, \.\.\. at its end, .* or have {told} too"):
            import_features("table", out, modality="audio", store=into)
        done = import_features("table", out, modality="audio", store=into, settings=["columns=f[0-9]*"])
        assert done.dim == 7
        assert values_of(only_feature(into))["a1"].tobytes() == numbers("a1", "vectors", "float32").tobytes()
    assert open_store(tmp_path / "age.zarr").roster[0]["age"] == "31"
    assert take(tmp_path, "clip_id,energy,f1\na,1,2\n").dim == 2


@pytest.mark.parametrize(("suffix", "taken"), [("csv", "f0"), ("parquet", "vector"), ("csv", "clip_id_")])
def test_no_column_of_an_export_stands_twice(tmp_path: Path, suffix: str, taken: str) -> None:
    name, out = fill(tmp_path / "s.zarr", "vectors"), tmp_path / f"x.{suffix}"
    write_roster(tmp_path / "s.zarr", [(clip, {taken: "low"}) for clip in HELD], {})
    export_features("table", name, out, store=tmp_path / "s.zarr")
    import_features("table", out, modality="audio", store=tmp_path / "t.zarr")
    assert only_feature(tmp_path / "t.zarr").dim == 7
    assert open_store(tmp_path / "t.zarr").roster[0][taken if taken.endswith("_") else f"{taken}_"] == "low"


def test_a_list_of_numbers_in_a_cell_may_be_as_long_as_embeddings_are(tmp_path: Path) -> None:
    values = (np.arange(16_384) / 3).astype(np.float32)
    done = take(tmp_path, f'clip_id,v\na,"{values.astype(float).tolist()}"\n')
    assert done.dim == 16_384
    assert values_of(only_feature(tmp_path / "s.zarr"))["a"][0].tolist() == values.tolist()
    assert csv.field_size_limit() == 131_072


def test_a_parquet_file_that_claims_far_more_than_it_holds_is_not_read(tmp_path: Path) -> None:
    same = pa.table({"clip_id": pa.array(["x"] * 10**6), "f0": pa.array(np.zeros(10**6, np.float32))})
    with pq.ParquetWriter(tmp_path / "x.parquet", same.schema) as writer:
        for _ in range(10):
            writer.write_table(same)
    with pytest.raises(DoorError, match=r"x\.parquet: claims 20,000,000 values in [\d,]+ bytes, which no features do"):
        import_features("table", tmp_path / "x.parquet", modality="audio", store=tmp_path / "s.zarr")


def test_float16_is_printed_as_the_float32_that_it_is(tmp_path: Path) -> None:
    name = fill(tmp_path / "s.zarr", "vectors", "float16")
    export_features("table", name, tmp_path / "x.csv", store=tmp_path / "s.zarr")
    import_features("table", tmp_path / "x.csv", modality="audio", store=tmp_path / "t.zarr")
    found = values_of(only_feature(tmp_path / "t.zarr"))
    assert found["a1"].tolist() == numbers("a1", "vectors", "float16").tolist()


def test_a_table_of_opensmile_is_read(tmp_path: Path) -> None:
    text = "name;frameTime;F0_mean;loudness\n'a';0.000000;1.234567e+02;-1.5\n'b';0.000000;0.5;3.000000e-08\n"
    done = take(tmp_path, text, "columns=F0*,loudness")
    assert (done.written, done.dim, done.dtype) == (2, 2, "float32")
    assert values_of(only_feature(tmp_path / "s.zarr"))["a"][0].tolist() == [np.float32(123.4567), -1.5]


def test_embeddings_as_lists_in_a_column_are_read(tmp_path: Path) -> None:
    done = take(tmp_path, 'id,label,embedding\nx1,joy,"[0.013168523, -2]"\nx2,,"[1, 0.5]"\n')
    assert (done.written, done.dim, done.dtype) == (2, 2, "float32")
    roster = {row["clip_id"]: row["label"] for row in open_store(tmp_path / "s.zarr").roster}
    assert roster == {"x1": "joy", "x2": None}


def test_a_column_that_says_paths_names_clips_by_their_files(tmp_path: Path) -> None:
    take(tmp_path, "file,start,f0\n/data/wav/03a01.wav,0 days,1.5\nwav\\b.wav,0 days,2\n", "stem=yes")
    assert only_feature(tmp_path / "s.zarr").clips == ["03a01", "b"]


def test_decimals_that_no_float32_prints_as_are_not_rounded_in_silence(tmp_path: Path) -> None:
    text = "id,f0\na,0.1\nb,0.12345678901234\n"
    with pytest.raises(DoorError, match="float32 cannot hold exactly, and nothing is rounded unasked; --storage"):
        take(tmp_path, text)
    assert take(tmp_path, text, storage="float32").written == 2


def test_text_among_numbers_is_named_with_its_clip(tmp_path: Path) -> None:
    with pytest.raises(DoorError, match=r"column 'f1' holds 'n/a' at clip b, where the others hold numbers; mend it"):
        take(tmp_path, "id,f0,f1\na,1,2\nb,1,n/a\nc,1,3\n")
    with pytest.raises(DoorError, match="column 'label' holds 'joy' at clip a"):
        take(tmp_path, "id,f0,label\na,1,joy\n", "columns=f0,label")


def test_an_empty_cell_is_a_gap_and_the_clip_fails(tmp_path: Path) -> None:
    done = take(tmp_path, "id,f0,f1\na,1,2\nb,1,\n")
    assert done.failed == {"b": "1 of its numbers are NaN or infinite"}


def test_lists_of_different_length_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a", "b"], "v": [[1.0, 2.0], [1.0]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DoorError, match="the clips differ in shape, expected one for all: 2 numbers: a; 1 numbers: b"):
        import_features("table", tmp_path / "t.parquet", modality="text", store=tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        ("", [], "the table has no rows"),
        ("id,f0\n", [], "the table has no rows"),
        ("id,f0\na,1,2\n", [], "row 2 has 3 cells, the header 2; mend the row"),
        ("id,f0,f0\na,1,2\n", [], "column 'f0' stands twice"),
        ("id,f0\na,1\na,2\n", [], "clip a stands there twice"),
        ("id,f0\n,1\n", [], "row 1 names no clip"),
        ("who,f0\na,1\n", [], "no column 'clip_id or filename or file or name or id' names the clips"),
        ("who,f0\na,1\n", ["id=wh"], "no column 'wh' names the clips; the columns are who, f0; name it with --set id"),
        ("id,word\na,x\n", [], "no column holds numbers or lists of them; it has word"),
        ("id,v,w\na,[1],[2]\n", [], "the columns v, w hold lists, and a feature is one: choose with"),
        ("id,f0\n../up,1\n", [], r"'../up' cannot name a clip"),
        ("id,f0\n/etc/x,1\n", [], "'/etc/x' cannot name a clip"),
        ("id,f0\na\x07,1\n", [], "cannot name a clip: a clip_id is 1 to 1024 printable characters"),
    ],
)
def test_tables_that_cannot_be_taken_say_why(tmp_path: Path, text: str, settings: list[str], told: str) -> None:
    with pytest.raises(DoorError) as error:
        take(tmp_path, text, *settings)
    assert told in str(error.value)
    assert not (tmp_path / "s.zarr").exists()


def test_damaged_parquet_is_told(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["abcdefgh"], "f0": [1.0]}).to_parquet(tmp_path / "t.parquet", compression=None)
    data = (tmp_path / "t.parquet").read_bytes()
    for damaged in (data[:100], data.replace(b"abcdefgh", b"\xff\xfe\xff\xfe" * 2), b"no parquet"):
        (tmp_path / "t.parquet").write_bytes(damaged)
        with pytest.raises(DoorError, match=r"t\.parquet: cannot be read as Parquet: .*; copy or write it again"):
            import_features("table", tmp_path / "t.parquet", modality="text", store=tmp_path / "s.zarr")


def test_a_pattern_that_fits_no_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"no column of .*t\.csv is 'g\*'; it has f0"):
        take(tmp_path, "id,f0\na,1\n", "columns=g*")
