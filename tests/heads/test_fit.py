from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors import SafetensorError

from emocache.errors import BadOption, FitError, UnknownName
from emocache.heads import metrics, runs
from emocache.heads.fit import fit_head
from emocache.heads.fold_model import FoldModel
from emocache.heads.matrix import load_matrix
from emocache.heads.mlp import MLPHead
from emocache.heads.runs import load_run
from emocache.store import open_store
from tests.heads.conftest import Corpus, Given

MakeStore = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol is under test here, not the size of the network."""
    for name, value in {"hidden": (64,), "batch": 16, "epochs": 20}.items():
        monkeypatch.setitem(MLPHead.__init__.__kwdefaults__, name, value)


def with_columns(corpus: Corpus, **columns: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The corpus's rows with some columns replaced."""
    return [
        (clip, {**row, **{name: values[i] for name, values in columns.items()}})
        for i, (clip, row) in enumerate(zip(corpus.clips, corpus.columns, strict=True))
    ]


# --- what a run says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_learns_and_its_run_says_how_well(head: str, store: Path, tmp_path: Path) -> None:
    run = fit_head(store, head, folds="speaker:3", out=tmp_path / "run")
    written = json.loads((tmp_path / "run/metrics.json").read_text())
    assert set(written) == {
        *("protocol", "metrics", "intervals", "classes", "per_class", "confusion"),
        *("oracle", "calibration", "contributions"),
    }
    assert list(written["metrics"]) == ["waf", "accuracy", "uar", "macro_f1"]
    assert written == run.metrics
    assert 0.5 < written["metrics"]["uar"] <= 1
    for name, (low, high) in written["intervals"].items():
        assert low <= written["metrics"][name] <= high
    assert written["protocol"]["intervals"]["over"] == "6 speakers"
    assert written["protocol"]["chance"] == pytest.approx({"uar": 1 / 3, "majority_accuracy": 1 / 3})
    assert np.sum(written["confusion"]) == 72


def test_out_of_fold_rows_name_clip_fold_label_and_a_probability_per_class(store: Path, tmp_path: Path) -> None:
    run = fit_head(store, "linear", folds="speaker:3", out=tmp_path / "run")
    oof = pd.read_parquet(tmp_path / "run/oof.parquet")
    assert list(oof.columns) == ["clip_id", "fold", "label", "speaker", "p_anger", "p_fear", "p_joy"]
    assert len(oof) == 72
    np.testing.assert_allclose(oof.filter(regex="^p_").sum(axis=1), 1)
    assert run.record["recipe"]["folds"] == dict(zip(oof["clip_id"], oof["fold"], strict=True))
    assert {name.split("-")[1] for name in oof["clip_id"]} == set(oof["label"])


def test_a_clip_is_scored_by_a_model_that_never_saw_its_speaker(store: Path, tmp_path: Path) -> None:
    """Fold k's stored model, applied to fold k's clips, gives the out-of-fold rows; its scaler saw only the others."""
    run = fit_head(store, "linear", folds="loso", out=tmp_path / "run")
    matrix = load_matrix(store)
    for fold, part in run.oof.groupby("fold"):
        rows = [matrix.clips.index(clip) for clip in part["clip_id"]]
        others = np.delete(matrix.values, rows, axis=0)
        model = FoldModel.load(tmp_path / f"run/fold-{fold}", "linear", device="cpu")
        np.testing.assert_allclose(model.scaler.mean, others.mean(axis=0), rtol=1e-5, atol=1e-6)
        found = model.predict_proba(matrix.values[rows], matrix.present[rows], run.classes)
        np.testing.assert_array_equal(found, part.filter(regex="^p_").to_numpy())


def test_the_record_names_features_folds_versions_and_no_path(store: Path, tmp_path: Path) -> None:
    fit_head(store, "linear", out=tmp_path / "run")
    text = (tmp_path / "run/run.json").read_text()
    record = json.loads(text)
    (feature,) = record["recipe"]["features"]
    assert (feature["encoder"], len(feature["fingerprint"]), feature["layers"]) == ("tone", 64, [0])
    assert (record["recipe"]["fold_rule"], record["recipe"]["seed"]) == ("speaker:5", 0)
    assert set(record["versions"]) == {"python", "emocache", "numpy", "scikit-learn", "torch"}
    assert str(tmp_path) not in text


def test_the_report_and_the_summary_hold_the_scores(store: Path, tmp_path: Path) -> None:
    run = fit_head(store, "linear", folds="loso", out=tmp_path / "run")
    report = (tmp_path / "run/report.md").read_text()
    uar = f"{run.metrics['metrics']['uar']:.3f}"
    for text in (report, run.summary()):
        assert uar in text
        assert "bootstrap over 6 speakers, 1000 rounds" in text
        assert "chance 0.333" in text
    for heading in ("# linear", "## Scores", "## Classes", "## Confusion", "## Folds"):
        assert heading in report
    assert "| 0 | s0 | 12 |" in report
    assert run.summary().endswith(f"run: {tmp_path / 'run'}")


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_same_seed_gives_the_same_files_byte_for_byte(head: str, store: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fit_head(store, head, folds="speaker:2", seed=4, out=tmp_path / name)
    for file in ("metrics.json", "run.json", "oof.parquet", "report.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_another_seed_gives_other_numbers(store: Path, tmp_path: Path) -> None:
    one, two = (fit_head(store, "mlp", folds="speaker:2", seed=seed, out=tmp_path / str(seed)) for seed in (0, 1))
    assert not one.oof.equals(two.oof)


# --- what a run can do -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["none", "global", "speaker"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_loaded_run_predicts_exactly_what_the_fitted_one_did(
    head: str, normalize: str, corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    seen = Given("look", corpus.clips[::2], corpus.signal[::2, None], modality="video")
    store = make_store(corpus.rows(), Given("tone", corpus.clips, corpus.signal[:, None]), seen)
    run = fit_head(store, head, folds="speaker:2", normalize=normalize, out=tmp_path / "run")
    again = load_run(tmp_path / "run")
    matrix = load_matrix(store, [block.request for block in again.blocks])
    found = again.predict_proba(matrix)
    np.testing.assert_array_equal(found, run.predict_proba(matrix))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert again.metrics == run.metrics
    assert again.oof.equals(run.oof)


def test_a_run_refuses_a_matrix_of_other_features(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(corpus.rows(), Given("tone", corpus.clips, corpus.signal[:, None]))
    other = make_store(corpus.rows(), Given("pitch", corpus.clips, corpus.signal[:, None]), name="other.zarr")
    run = fit_head(store, "linear", out=tmp_path / "run")
    with pytest.raises(FitError, match=r"the run reads tone-\w+:0; the matrix holds pitch-\w+:0; load the run's own"):
        run.predict_proba(load_matrix(other))


# --- clips that lack something ---------------------------------------------------------------------------------------


def test_clips_without_label_or_feature_are_left_out_counted_and_named(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    labels = [None if i in (0, 5) else row["label"] for i, row in enumerate(corpus.columns)]
    tone = Given("tone", corpus.clips[:-1], corpus.signal[:-1, None])
    run = fit_head(make_store(with_columns(corpus, label=labels), tone), "linear", out=tmp_path / "run")
    assert run.record["left_out"] == {"no feature": [corpus.clips[-1]], "no label": [corpus.clips[0], corpus.clips[5]]}
    assert run.metrics["protocol"]["left_out"] == {"no feature": 1, "no label": 2}
    assert len(run.oof) == 69
    assert f"note: 2 clips left out, no label: {corpus.clips[0]}, {corpus.clips[5]}" in run.summary()


def test_a_modality_that_some_clips_lack_still_helps(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    """Weak sound everywhere, clear sight on half of the clips: both together beat sound alone."""
    weak = corpus.signal + np.random.default_rng(1).normal(0, 3, corpus.signal.shape)
    tone = Given("tone", corpus.clips, weak[:, None])
    look = Given("look", corpus.clips[::2], corpus.signal[::2, None], modality="video")
    store = make_store(corpus.rows(), tone, look)
    both = fit_head(store, "linear", folds="loso", out=tmp_path / "both")
    alone = fit_head(store, "linear", features=["tone"], folds="loso", out=tmp_path / "alone")
    assert both.metrics["metrics"]["uar"] > alone.metrics["metrics"]["uar"]
    assert any("36 of 72 clips lack look-" in note for note in both.metrics["protocol"]["notes"])


def test_a_class_that_one_fold_never_saw_has_probability_zero_there(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    labels = ["awe" if row["speaker"] == "s0" and row["label"] == "joy" else row["label"] for row in corpus.columns]
    store = make_store(with_columns(corpus, label=labels), Given("tone", corpus.clips, corpus.signal[:, None]))
    run = fit_head(store, "linear", folds="loso", out=tmp_path / "run")
    assert (run.oof.loc[run.oof["fold"] == 0, "p_awe"] == 0).all()
    assert (run.oof.loc[run.oof["fold"] != 0, "p_awe"] > 0).all()
    assert "fold 's0' trains without awe, whose probability is 0 there" in run.metrics["protocol"]["notes"]


def test_a_given_split_scores_the_test_part_alone(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    split = ["test" if row["speaker"] in ("s0", "s1") else "train" for row in corpus.columns]
    store = make_store(with_columns(corpus, split=split), Given("tone", corpus.clips, corpus.signal[:, None]))
    run = fit_head(store, "linear", folds="given", out=tmp_path / "run")
    assert len(run.oof) == 24
    assert run.metrics["protocol"]["intervals"]["over"] == "2 speakers"
    assert set(run.record["recipe"]["folds"].values()) == {0, None}


def test_intervals_are_drawn_over_the_speakers_of_the_clips_that_are_judged(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    split = ["test" if 6 <= number < 40 else "train" for number in range(72)]  # of s0 half, of s3 a third
    store = make_store(with_columns(corpus, split=split), Given("tone", corpus.clips, corpus.signal[:, None]))
    run = fit_head(store, "linear", folds="given", seed=3, out=tmp_path / "run")
    true = np.searchsorted(run.classes, run.oof["label"].to_numpy(dtype=str))
    guess = run.oof.filter(regex="^p_").to_numpy().argmax(axis=1)
    expected = metrics.intervals(true, guess, 3, run.oof["speaker"].to_numpy(dtype=str), seed=3)
    assert run.metrics["intervals"].keys() == expected.keys()
    for name, edges in run.metrics["intervals"].items():
        assert edges == pytest.approx(expected[name])


def test_speakers_on_both_sides_of_a_given_split_and_clips_without_a_speaker_are_noted(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    tone = Given("tone", corpus.clips, corpus.signal[:, None])
    split = ["test" if number % 12 == 0 else "train" for number in range(72)]
    mixed = fit_head(make_store(with_columns(corpus, split=split), tone), "linear", folds="given", out=tmp_path / "a")
    (note,) = mixed.metrics["protocol"]["notes"]
    assert note.startswith("6 of 6 speakers are trained on by the fold that scores them: s0, s1, s2, s3, s4 and 1")
    assert f"note: {note}" in mixed.summary()
    speaker = [None if number == 5 else row["speaker"] for number, row in enumerate(corpus.columns)]
    split = ["test" if row["speaker"] in ("s4", "s5") else "train" for row in corpus.columns]
    rows = with_columns(corpus, split=split, speaker=speaker)
    run = fit_head(make_store(rows, tone, name="nameless.zarr"), "linear", folds="given", out=tmp_path / "b")
    (note,) = run.metrics["protocol"]["notes"]
    assert note.startswith("1 of 72 clips have no speaker: heads stop by clips that may share a voice")
    assert run.metrics["protocol"]["intervals"]["over"] == "24 clips"


def test_one_clip_under_two_names_on_both_sides_of_a_fold_is_noted(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    signal = corpus.signal.copy()
    signal[70] = signal[3]  # s5 and s0
    signal[1] = signal[0]  # both of s0
    store = make_store(corpus.rows(), Given("tone", corpus.clips, signal[:, None]))
    run = fit_head(store, "linear", folds="loso", out=tmp_path / "run")
    (note,) = run.metrics["protocol"]["notes"]
    twins = f"{corpus.clips[3]}, {corpus.clips[70]}"
    assert note.startswith(f"2 clips have the very same features as a clip on the other side of their fold: {twins};")


def test_a_manifest_that_loses_the_stores_speakers_is_noted(store: Path, corpus: Corpus, tmp_path: Path) -> None:
    lines = [f"{clip},{row['label']}" for clip, row in corpus.rows()]
    (tmp_path / "mine.csv").write_text("\n".join(["clip_id,label", *lines]))
    run = fit_head(store, "linear", clips=tmp_path / "mine.csv", out=tmp_path / "run")
    assert run.metrics["protocol"]["folds"] == "5"
    assert "note: the manifest has no column 'speaker', the store has one: clips are divided as if" in run.summary()


def test_labels_of_a_manifest_take_the_place_of_the_rosters(store: Path, corpus: Corpus, tmp_path: Path) -> None:
    lines = [f"{clip},{row['label'] == 'joy'},x{row['speaker']}" for clip, row in zip(*_some(corpus), strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join(["clip_id,label,speaker", *lines]))
    run = fit_head(store, "linear", clips=tmp_path / "mine.csv", folds="loso", out=tmp_path / "run")
    assert run.metrics["classes"] == ["False", "True"]
    assert run.record["fold_names"][0] == "xs0"


def _some(corpus: Corpus) -> tuple[list[str], list[dict[str, Any]]]:
    return corpus.clips[:48], corpus.columns[:48]


def test_speaker_normalisation_is_noted_as_transductive(store: Path, tmp_path: Path) -> None:
    run = fit_head(store, "linear", normalize="speaker", out=tmp_path / "run")
    assert any("transductive" in note for note in run.metrics["protocol"]["notes"])


# --- where a run goes ------------------------------------------------------------------------------------------------


def test_without_out_a_run_is_named_by_head_and_digest(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fit_head(store, "linear")
    assert run.path == Path("runs") / f"linear-{run.record['digest'][:8]}"
    assert fit_head(store, "linear", seed=1).path != run.path


def test_the_same_run_is_replaced_and_another_is_not(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit_head(store, "linear", out=out)
    (out / "report.md").unlink()
    fit_head(store, "linear", out=out)
    assert (out / "report.md").is_file()
    with pytest.raises(FitError, match=r"another run is already here \(it differs in seed, folds\)"):
        fit_head(store, "linear", seed=1, out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.zarr", "run"]


def test_what_is_no_run_is_never_replaced(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for out in (tmp_path / "mine", tmp_path / "mine/thesis.txt", store):
        with pytest.raises(FitError, match="something that is no run is already here; name another folder with --out"):
            fit_head(store, "linear", out=out)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_a_fit_that_is_interrupted_leaves_nothing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FoldModel, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_head(store, "linear", out=tmp_path / "deep/run")
    assert list((tmp_path / "deep").iterdir()) == []


def test_no_permission_to_write_is_said_before_anything_is_trained(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(runs.Path, "mkdir", denied)
    monkeypatch.setattr("emocache.heads.fit.cross_fit", None)
    with pytest.raises(FitError, match="run: cannot write a run here: Permission denied; name another folder"):
        fit_head(store, "linear", out=tmp_path / "run")


def test_a_disk_that_is_full_is_told_as_that(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it for weights, which safetensors writes, or for anything else; nothing is left."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def full_of_weights(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    for name, fails in (("emocache.heads.runs.write_json", full), ("safetensors.numpy.save_file", full_of_weights)):
        monkeypatch.setattr(name, fails)
        with pytest.raises(FitError, match=r"cannot write a run here: .*No space left"):
            fit_head(store, "linear", out=tmp_path / "full/run")
        assert list((tmp_path / "full").iterdir()) == []


def test_a_failure_that_is_not_of_writing_keeps_its_name(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", "cells")

    monkeypatch.setattr("emocache.heads.fit.cross_fit", unreadable)
    with pytest.raises(OSError, match="Input/output error: 'cells'"):
        fit_head(store, "linear", out=tmp_path / "deep/run")
    assert list((tmp_path / "deep").iterdir()) == []


KILLED_BETWEEN_RENAMES = """
import os, sys
from pathlib import Path
from emocache.heads import runs
old = Path.rename
def rename(self, target):
    if self.suffix == ".part":
        os._exit(9)
    return old(self, target)
Path.rename = rename
from emocache.heads.fit import fit_head
fit_head(sys.argv[1], "linear", out=sys.argv[2])
"""


def test_a_run_that_was_being_replaced_when_the_process_died_is_put_back(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs/mine"
    fit_head(store, "linear", out=out)
    (out / "note.txt").write_text("the first")
    fit_head(store, "linear", seed=1, out=tmp_path / "runs/mine-2")
    for _ in range(2):
        died = subprocess.run([sys.executable, "-c", KILLED_BETWEEN_RENAMES, store, out], check=False)
        assert died.returncode == 9
    assert not out.exists()
    with pytest.raises(FitError, match=r"another run is already here \(it differs in seed, folds\)"):
        fit_head(store, "linear", seed=1, out=out)
    assert (out / "note.txt").read_text() == "the first"
    fit_head(store, "linear", out=out)
    assert not (out / "note.txt").exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine", "mine-2"]


def test_a_run_that_cannot_be_put_in_place_leaves_the_one_that_was_there(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "runs/mine", Path.rename
    fit_head(store, "linear", out=out)

    def refused(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(FitError, match="cannot write a run here: Permission denied"):
        fit_head(store, "linear", out=out)
    assert load_run(out).path == out
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def test_a_draft_that_nobody_writes_any_more_is_removed_and_a_young_one_is_not(store: Path, tmp_path: Path) -> None:
    names = (".mine-0123abcd.part", ".mine-00000000.part", ".m")
    abandoned, young, other = (tmp_path / "runs" / name for name in names)
    for folder in (abandoned, young, other):
        folder.mkdir(parents=True)
        (folder / "oof.parquet").write_text("")
    for folder in (abandoned, other):
        os.utime(folder, (0, 0))
    fit_head(store, "linear", out=tmp_path / "runs/mine")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".m", ".mine-00000000.part", "mine"]


def test_out_below_a_file_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FitError, match="cannot write a run here: Not a directory; name another folder with --out"):
        fit_head(store, "linear", out=tmp_path / "file/run")


def test_loading_what_is_no_run_or_a_damaged_one_says_so(store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"no run is here \(no readable run.json\); emocache fit makes one"):
        load_run(tmp_path)
    fit_head(store, "linear", out=tmp_path / "run")
    record = tmp_path / "run/run.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(FitError, match="a run of format 2, this emocache reads 1; fit it again, or update emocache"):
        load_run(tmp_path / "run")
    record.write_text(record.read_text().replace('"format": 2', '"format": 1'))
    (tmp_path / "run/oof.parquet").write_bytes(b"nonsense")
    with pytest.raises(FitError, match=r"the run is damaged: .*; fit it again"):
        load_run(tmp_path / "run")


# --- what cannot be fitted -------------------------------------------------------------------------------------------


def test_an_unknown_head_or_feature_is_answered_with_the_known_ones(store: Path) -> None:
    with pytest.raises(UnknownName, match=r"head 'forest' is not known.*\n  known: .*linear, mlp"):
        fit_head(store, "forest")
    with pytest.raises(UnknownName, match=r"feature 'hubert-large' is not known\n  known: tone-"):
        fit_head(store, "linear", features=["hubert-large:16-21"])


def test_bad_options_are_refused(store: Path) -> None:
    with pytest.raises(BadOption, match="--folds 'ten' is not known"):
        fit_head(store, "linear", folds="ten")
    with pytest.raises(BadOption, match="--normalize 'yes' is not known"):
        fit_head(store, "linear", normalize="yes")
    with pytest.raises(BadOption, match="--seed -1: a seed is 0 or more"):
        fit_head(store, "linear", seed=-1)


def test_a_label_with_one_clip_only_is_named_with_its_clip(corpus: Corpus, make_store: MakeStore) -> None:
    labels = ["awe", *(row["label"] for row in corpus.columns[1:])]
    store = make_store(with_columns(corpus, label=labels), Given("tone", corpus.clips, corpus.signal[:, None]))
    with pytest.raises(FitError, match=r"a label with one clip only: 'awe' \(s0-anger-0\); it cannot be both trained"):
        fit_head(store, "linear")


def test_one_class_or_none_is_refused(corpus: Corpus, make_store: MakeStore) -> None:
    tone = Given("tone", corpus.clips, corpus.signal[:, None])
    with pytest.raises(FitError, match="all 72 clips have the label 'joy'; a head needs at least two classes"):
        fit_head(make_store(with_columns(corpus, label=["joy"] * 72), tone), "linear")
    with pytest.raises(FitError, match="none of the 72 clips has a label; give a manifest with a column 'label'"):
        fit_head(make_store([(clip, {}) for clip in corpus.clips], tone, name="bare.zarr"), "linear")


def test_a_fold_that_would_train_on_one_class_is_refused(corpus: Corpus, make_store: MakeStore) -> None:
    fold = ["a" if row["label"] == "joy" else "b" for row in corpus.columns]
    labels = ["joy" if row["label"] == "joy" else "fear" for row in corpus.columns]
    rows = with_columns(corpus, fold=fold, label=labels)
    with pytest.raises(FitError, match="fold 'a' would train on 48 clips of the one class fear; choose other folds"):
        fit_head(make_store(rows, Given("tone", corpus.clips, corpus.signal[:, None])), "linear", folds="given")


def test_fewer_speakers_than_folds_and_given_without_a_column_are_refused(store: Path) -> None:
    with pytest.raises(FitError, match=r"fewer speakers than folds: 6 .* for 7; choose --folds speaker:6"):
        fit_head(store, "linear", folds="speaker:7")
    with pytest.raises(FitError, match="neither a column 'fold' nor a column 'split'"):
        fit_head(store, "linear", folds="given")


def test_an_empty_store_is_refused(corpus: Corpus, make_store: MakeStore) -> None:
    with pytest.raises(FitError, match="the store holds no features; run emocache extract --encoder prosody"):
        fit_head(make_store(corpus.rows()), "linear")


def test_a_run_records_which_segments_it_read(store: Path, tmp_path: Path) -> None:
    feature = open_store(store).features["tone"]
    run = fit_head(store, "linear", out=tmp_path / "run")
    assert run.record["views"] == {feature.name: feature.view().digest}
    assert load_run(tmp_path / "run").record["views"] == run.record["views"]
