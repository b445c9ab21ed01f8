"""The card of a store and its list of checksums: what a stranger reads, and what proves that all came."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard

from emocache.errors import NotAStore, StoreError
from emocache.store.commit import write_segment
from emocache.store.upkeep.card import write_card
from emocache.store.upkeep.collection import collect_garbage
from emocache.store.upkeep.compaction import compact_store
from emocache.store.upkeep.verify import verify_store

from .filling import DIM, chunk_of, fill, name_clips, segments, stand_in

pytestmark = pytest.mark.usefixtures("idle_disk")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A store of two segments and two labels."""
    path = tmp_path / "here.zarr"
    fill(path, range(3), (1, 2))
    fill(path, range(2, 6), (1, 2))
    name_clips(path, [5], {"label": "b|<b>", "speaker": "s1"})
    return path


def test_a_card_says_what_is_there_in_the_form_that_the_hub_reads(here: Path) -> None:
    credits = ["EmoDB: CC0", "stand-in | MIT"]
    done = write_card(here, title='Emo: "one"', license="cc-by-4.0", credits=credits)
    card = DatasetCard.load(here / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.pretty_name == 'Emo: "one"'
    assert card.data.size_categories == "n<1K"
    assert card.data.tags == ["emocache", "zarr", "emotion-recognition", "feature-extraction", "audio"]
    text = done.text
    assert "1 feature of 6 clips" in text
    assert "| audio | mean | 6 | 1-2 | 5 | float32 |" in text
    assert "with the columns `label`, `speaker`" in text
    assert "| a | 5 |\n| b\\|\\<b\\> | 1 |" in text
    assert "Licence: cc-by-4.0.\n\n- EmoDB: CC0\n- stand-in \\| MIT" in text
    assert "encoder: stand-in\nmodality: audio" in text
    assert str(here.parent) not in text


def test_without_a_licence_the_card_says_so(here: Path) -> None:
    assert "No licence was given: ask who shared this" in write_card(here).text
    assert DatasetCard.load(here / "README.md").data.license == "unknown"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum of the GNU core utilities")
def test_sha256sum_proves_the_list(here: Path) -> None:
    done = write_card(here)
    command = [shutil.which("sha256sum") or "", "-c", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    lines = checked.stdout.splitlines()
    assert len(lines) == done.listed
    assert all(line.endswith(": OK") for line in lines)
    listed = {line.removesuffix(": OK") for line in lines}
    there = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    assert there - listed == {"README.md", "SHA256SUMS", "zarr.json"}


@pytest.mark.parametrize("quick", [True, False])
def test_a_segment_that_did_not_come_is_found_by_the_list_alone(here: Path, quick: bool) -> None:
    write_card(here)
    lost = segments(here)[0]
    shutil.rmtree(lost)
    faults = verify_store(here, quick=quick).faults
    assert {fault.place.split("/")[3] for fault in faults} == {lost.name}
    assert "was shared, and is not here, says SHA256SUMS; pull the store again" in str(faults[0])


def test_a_segment_that_others_put_in_the_place_of_one_is_found_by_the_list(here: Path) -> None:
    """Its own checksums are right: only the list knows what was shared."""
    write_card(here)
    old = segments(here)[0]
    made = stand_in(here)
    shutil.rmtree(old)
    arrays = {"values": np.ones((1, 2, DIM), np.float32), "keys": np.full((1, 32), 9, np.uint8)}
    facts = {"fingerprint": made.fingerprint, "layers": [1, 2], "rows": 1}
    write_segment(old.parent, "cells", arrays, facts, name=old.name)
    faults = [str(fault) for fault in verify_store(here).faults]
    assert any(f"{old.name}/zarr.json: not the bytes that were shared, says SHA256SUMS" in fault for fault in faults)


def test_a_damaged_file_is_one_fault_not_two(here: Path) -> None:
    write_card(here)
    chunk = chunk_of(segments(here)[0])
    data = bytearray(chunk.read_bytes())
    data[0] ^= 1
    chunk.write_bytes(data)
    assert len(verify_store(here).faults) == 1


def test_what_a_compaction_took_over_is_not_missed(here: Path) -> None:
    write_card(here)
    compact_store(here)
    collect_garbage(here, older_than="0s")
    assert len(segments(here)) == 1
    assert not verify_store(here).faults


def test_a_list_that_is_none_is_a_fault(here: Path) -> None:
    (here / "SHA256SUMS").write_text(f"{'0' * 64}  ../elsewhere\n")
    (fault,) = verify_store(here).faults
    assert "line 1 is not a sha256 and a file's name; copy it again, or write it again with emocache card" in str(fault)


def test_a_card_needs_a_store_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="no store is here"):
        write_card(tmp_path / "nothing.zarr")
    with pytest.raises(StoreError, match="pull"):
        write_card("s3://bucket/store")
