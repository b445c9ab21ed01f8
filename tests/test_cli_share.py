"""The commands that share a store, as a user types them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import emocache
from emocache.cli import app

from .store.filling import cells, fill


def test_push_pull_and_sync_say_what_they_did(tmp_path: Path) -> None:
    here, there, copy = (str(tmp_path / name) for name in ("here.zarr", "there", "copy.zarr"))
    fill(Path(here), range(3), (1, 2))
    run = CliRunner().invoke
    planned = run(app, ["push", here, there, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert f"{here} → {there}: 1 segment (" in planned.output
    assert "1 roster segment to transfer" in planned.output
    done = run(app, ["push", here, there, "--layers", "1", "--features", "stand-in"])
    assert f"{here} → {there}: transferred 1 segment (" in done.output
    assert run(app, ["pull", there, copy, "--clips", "c1"]).exit_code == 0
    assert set(cells(Path(copy))) == {("c1", 1)}
    both = run(app, ["sync", copy, there])
    assert "transferred" in both.output
    assert "nothing to transfer" in run(app, ["sync", copy, there]).output
    assert cells(Path(copy)).keys() == {("c0", 1), ("c1", 1), ("c2", 1)}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["push", "HERE", "s3://key:geheim@bucket/x"], 2, "a URL with a password or key is refused"),
        (["push", "HERE", "ftp://x/y"], 2, "place 'ftp' is not known"),
        (["push", "HERE", "THERE", "--layers", "x"], 2, "cannot read 'x'"),
        (["pull", "NOWHERE", "HERE"], 1, "no store is here"),
    ],
)
def test_what_cannot_be_done_is_told_with_the_right_exit_code(
    tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    fill(tmp_path / "HERE", range(1))
    done = CliRunner().invoke(app, [str(tmp_path / a) if a.isupper() else a for a in arguments])
    assert (done.exit_code, text in done.output) == (code, True), done.output
    assert "geheim" not in done.output


def test_a_damaged_segment_ends_a_push_with_code_1(tmp_path: Path) -> None:
    fill(tmp_path / "here", range(3))
    chunk = next((tmp_path / "here").rglob("c.0.0.0"))
    chunk.write_bytes(bytes(chunk.stat().st_size))
    done = CliRunner().invoke(app, ["push", str(tmp_path / "here"), str(tmp_path / "there")])
    assert done.exit_code == 1
    assert "not transferred, damaged" in done.output
    assert len(emocache.open_store(tmp_path / "there").roster) == 3
