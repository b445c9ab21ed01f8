"""The docs cannot drift: every command, option and public name is in them, and what they show runs."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import typer.main
from typer.testing import CliRunner

import emocache
from emocache.cli import app
from emocache.doors import registry
from emocache.extract.pooling import pool
from emocache.heads.registry import head_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def commands() -> Iterator[tuple[str, str]]:
    """Every command with each of its long options."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            yield from ((name, option) for option in parameter.opts if option.startswith("--"))


@pytest.mark.parametrize(("command", "option"), sorted(set(commands())))
def test_every_option_stands_under_its_command(command: str, option: str) -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    section = next((text for text in sections if text.startswith(f"`emocache {command}`")), "")
    assert f"`{option}" in section or option == "--help"


@pytest.mark.parametrize("name", emocache.__all__)
def test_every_public_name_stands_in_the_docs(name: str) -> None:
    assert f"emocache.{name}" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("name", sorted(emocache.list_encoders()))
def test_every_encoder_stands_in_the_docs(name: str) -> None:
    card = emocache.list_encoders()[name]
    row = next(
        line for line in (ROOT / "docs" / "encoders.md").read_text().splitlines() if line.startswith(f"| `{name}`")
    )
    assert card.modality in row
    assert f"{card.dim:,}" in row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_docs_has_only_options_that_exist(page: Path) -> None:
    known = {*commands(), *((name, "--help") for name, _ in commands())}
    for command, rest in re.findall(r"^\s+(?:\$ )?emocache ([\w-]+)([^\n`#]*)", page.read_text(), flags=re.MULTILINE):
        for option in re.findall(r"--[a-z-]+", rest):
            assert (command, option) in known, f"{page.name}: emocache {command} {option}"


def test_the_encoder_that_the_docs_teach_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "encoders.md").read_text()
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "class Loudness" in block
    )
    namespace: dict[str, type] = {}
    exec(code, namespace)  # noqa: S102 (our own page)
    encoder = namespace["Loudness"]()
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.ones(16_000), 16_000, subtype="FLOAT")
    decoded = encoder.decoder()(emocache.read_manifest(tmp_path).clips[0].source("audio"))
    encoder.load("cpu", "float32", [0])
    frames, lengths = encoder.forward([decoded.payload], [0])
    assert (frames.shape, lengths) == ((1, 1, 100, 1), [100])
    assert pool(frames[0], "mean").item() == pytest.approx(20 * np.log10(0.5), abs=1e-3)


def test_the_head_that_the_docs_teach_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "heads.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace: dict[str, type] = {}
    exec(code, namespace)  # noqa: S102 (our own page)
    x = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    y = np.where(x[:, 0] > 0, "high", "low")
    head = namespace["PerceptronHead"](width=16, device="cpu").fit(x, y)
    assert (head.predict(x) == y).mean() > 0.8
    head.save(tmp_path)
    again = namespace["PerceptronHead"].load(tmp_path, device="cpu")
    np.testing.assert_array_equal(again.predict_proba(x), head.predict_proba(x))


def test_the_door_that_the_docs_teach_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "doors.md").read_text(), flags=re.DOTALL)
    taught = ModuleType("taught_door")
    monkeypatch.setitem(sys.modules, "taught_door", taught)
    exec(code, taught.__dict__)  # noqa: S102 (our own page)
    monkeypatch.setitem(registry._ADDRESSES, "json", "taught_door:JsonDoor")
    text = '{"b": [0.5, 2.0], "a": [-1.0, 3.25]}'
    (tmp_path / "loud.json").write_text(text)
    done = emocache.import_features("json", tmp_path / "loud.json", modality="audio", store=tmp_path / "s.zarr")
    emocache.export_features("json", done.feature, tmp_path / "back.json", store=tmp_path / "s.zarr")
    assert (tmp_path / "back.json").read_text() == text


def test_the_story_of_two_folders_can_be_lived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ada shares, Ben fits without a recording: the tutorial's commands, one after the other."""
    monkeypatch.chdir(tmp_path)
    clips = [f"clip{number}" for number in range(40)]
    labels = ["joy" if number % 2 else "anger" for number in range(40)]
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    np.savez("audio.npz", X=vectors, filenames=np.array(clips))
    rows = zip(clips, labels, strict=True)
    Path("clips.csv").write_text("clip_id,label\n" + "".join(f"{clip},{label}\n" for clip, label in rows))
    emocache.import_features("npz", "audio.npz", modality="audio", clips="clips.csv", store="ada.zarr")
    (section,) = re.findall(r"^Ada has .*?(?=^A store on S3)", (ROOT / "docs" / "tutorial.md").read_text(), re.M | re.S)
    told = re.findall(r"^    emocache (.*)$", section, flags=re.MULTILINE)
    assert [line.split()[0] for line in told] == ["card", "push", "pull", "verify", "fit", "push"]
    for line in told:
        result = CliRunner().invoke(app, shlex.split(line))
        assert result.exit_code == 0, f"emocache {line}\n{result.output}"
    (ben,) = emocache.open_store("ben.zarr").features.values()
    (ada,) = emocache.open_store("ada.zarr").features.values()
    np.testing.assert_array_equal(ben.read(clips), ada.read(clips))
    assert not set(emocache.open_store("anonymous.zarr").features[ada.name].clips) & set(clips)


@pytest.mark.parametrize("name", registry.door_names())
def test_every_door_and_setting_stands_in_the_docs(name: str) -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "doors.md").read_text(), flags=re.MULTILINE)
    section = next((text for text in sections if text.startswith(f"`{name}`")), "")
    for setting in registry.door_settings(type(registry.make_door(name))):
        assert f"`{setting}`" in section or f"--set {setting}=" in section
    assert section


@pytest.mark.parametrize("name", head_names())
def test_every_head_stands_in_the_docs(name: str) -> None:
    assert f"\n| `{name}` |" in (ROOT / "docs" / "heads.md").read_text()
