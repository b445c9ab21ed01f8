"""Soft labels, dimensions, several seeds, cross-fitted splits; what a run says of its modalities and its certainty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from emocache.errors import BadOption, FitError, UnknownName
from emocache.heads.calibration import cross_tempered, fit_temperature, tempered
from emocache.heads.fit import fit_head
from emocache.heads.matrix import load_matrix
from emocache.heads.runs import load_run
from emocache.heads.sheets import LabelSheet
from tests.heads.conftest import Corpus, Given

MakeStore = Callable[..., Path]
SMALL = {"hidden": (16,), "batch": 16, "epochs": 40, "patience": 10, "lr": 0.01, "members": 1}
FAST: dict[str, Any] = {"settings": SMALL, "device": "cpu"}


def truth_and_probabilities(table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One-hot labels and probabilities ``(clip, class)`` of out-of-fold rows."""
    return np.eye(3)[table["label"].map({"anger": 0, "fear": 1, "joy": 2})], table.filter(regex="^p_").to_numpy()


def calibration_error(target: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float:
    sheet = LabelSheet(3)
    return float(sheet.scores(sheet.table(target, probabilities).sum(axis=0))["ece"])


def numbered(corpus: Corpus) -> list[tuple[str, dict[str, Any]]]:
    """The corpus with soft labels, two dimensions and a split by speaker."""
    rng = np.random.default_rng(3)
    rows = []
    for clip, row, signal in zip(corpus.clips, corpus.columns, corpus.signal, strict=True):
        soft = {f"soft_{name}": 70 if name == row["label"] else 15 for name in ("anger", "fear", "joy")}
        values = {"valence": 3 + float(signal[0]) + rng.normal(0, 0.3), "arousal": 10 * float(signal[1])}
        split = "test" if row["speaker"] in ("s0", "s1") else "train"
        rows.append((clip, {**row, **soft, **values, "split": split}))
    return rows


@pytest.fixture
def two_modalities(corpus: Corpus, make_store: MakeStore) -> Path:
    """What tells the labels apart is half in the sound, half in the picture."""
    sound = Given("tone", corpus.clips, corpus.signal[:, None, :3])
    sight = Given("look", corpus.clips, corpus.signal[:, None, 3:], modality="video")
    return make_store(numbered(corpus), sound, sight)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_soft_labels_are_learned_and_scored_by_their_divergence(two_modalities: Path, tmp_path: Path) -> None:
    run = fit_head(two_modalities, task="soft", folds="speaker:2", out=tmp_path / "run", **FAST)
    assert run.classes.tolist() == ["anger", "fear", "joy"]
    target, found = (run.oof.filter(regex=f"^{side}_").to_numpy() for side in ("y", "p"))
    np.testing.assert_allclose(target.sum(axis=1), 1)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert run.metrics["metrics"]["kl"] == pytest.approx((target * np.log(target / found)).sum(axis=1).mean())
    uniform = (target * np.log(target * 3)).sum(axis=1).mean()
    assert run.metrics["metrics"]["kl"] < uniform
    assert run.metrics["metrics"]["uar"] > 0.5
    assert "KL divergence" in run.summary()


def test_dimensions_are_learned_in_their_own_units_and_scored_by_ccc(two_modalities: Path, tmp_path: Path) -> None:
    run = fit_head(two_modalities, task="dimensional", folds="speaker:2", out=tmp_path / "run", **FAST)
    assert run.metrics["protocol"]["features"]
    assert "confusion" not in run.metrics
    for name in ("valence", "arousal"):
        y, p = run.oof[f"y_{name}"], run.oof[f"p_{name}"]
        ccc = 2 * np.cov(y, p, ddof=0)[0, 1] / (y.var(ddof=0) + p.var(ddof=0) + (y.mean() - p.mean()) ** 2)
        assert run.metrics["metrics"][f"ccc_{name}"] == pytest.approx(ccc)
        assert run.metrics["metrics"][f"rmse_{name}"] == pytest.approx(np.sqrt(((y - p) ** 2).mean()))
        assert ccc > 0.5
    again = load_run(tmp_path / "run", device="cpu")
    matrix = again.load_matrix(two_modalities)
    np.testing.assert_array_equal(again.predict_proba(matrix), run.predict_proba(matrix))
    assert "CCC valence" in run.summary()
    assert "| CCC valence |" in (tmp_path / "run/report.md").read_text()


def test_other_columns_can_be_the_targets(two_modalities: Path, tmp_path: Path) -> None:
    one = fit_head(two_modalities, task="dimensional", targets=["valence"], folds="2", out=tmp_path / "v", **FAST)
    assert one.classes.tolist() == ["valence"]
    by_speaker = fit_head(two_modalities, "linear", targets=["speaker"], folds="2", out=tmp_path / "s")
    assert by_speaker.classes.tolist() == [f"s{number}" for number in range(6)]


def test_targets_that_cannot_be_learned_are_refused(
    two_modalities: Path, store: Path, corpus: Corpus, make_store: MakeStore
) -> None:
    with pytest.raises(BadOption, match="--task 'blend' is not known; known: label, soft, dimensional"):
        fit_head(store, task="blend")
    with pytest.raises(BadOption, match="--task soft: linear can do label; choose another --head"):
        fit_head(store, "linear", task="soft")
    needs = r"needs a column for each class, named soft_<class> or by --targets; the manifest has label, speaker$"
    with pytest.raises(FitError, match=f"--task soft: {needs}"):
        fit_head(store, task="soft")
    with pytest.raises(FitError, match=r"no column of valence, arousal, .* is there; name those that hold the values"):
        fit_head(store, task="dimensional")
    for task, targets in (("label", [""]), ("dimensional", ["", "label"]), ("soft", [])):
        with pytest.raises(BadOption, match=r"--targets '.*': names no column, or an empty one; write label"):
            fit_head(store, "mlp", task=task, targets=targets)
    with pytest.raises(BadOption, match="--targets: the clips have no column mood; they have label, speaker"):
        fit_head(store, task="dimensional", targets=["mood"])
    with pytest.raises(FitError, match="s0-anger-0: the column 'label' holds 'anger', expected a number"):
        fit_head(store, task="dimensional", targets=["label"])
    rows = [(clip, {"soft_a": -1 if i == 2 else 1, "soft_b": 1}) for i, clip in enumerate(corpus.clips)]
    path = make_store(rows, Given("tone", corpus.clips, corpus.signal[:, None]), name="negative.zarr")
    with pytest.raises(FitError, match=f"{corpus.clips[2]}: a soft label has a negative share"):
        fit_head(path, task="soft")


def test_a_clip_without_a_value_is_left_out_by_name(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    rows = numbered(corpus)
    rows[4][1]["valence"] = None
    path = make_store(rows, Given("tone", corpus.clips, corpus.signal[:, None]))
    run = fit_head(path, task="dimensional", folds="2", out=tmp_path / "run", **FAST)
    assert run.record["left_out"] == {"no value of valence, arousal": [corpus.clips[4]]}


# --- seeds and splits ------------------------------------------------------------------------------------------------


def test_several_seeds_are_scored_by_their_mean_and_kept(two_modalities: Path, tmp_path: Path) -> None:
    run = fit_head(two_modalities, folds="loso", seeds=3, out=tmp_path / "run", **FAST)
    found = run.metrics
    each = [row["waf"] for row in found["seeds"]]
    assert found["metrics"]["waf"] == pytest.approx(np.mean(each))
    assert found["spread"]["waf"] == pytest.approx(np.std(each, ddof=1))
    assert len(run.oof) == 72
    assert (tmp_path / "run/seed-2/fold-5/model.safetensors").is_file()
    again = load_run(tmp_path / "run", device="cpu")
    matrix = again.load_matrix(two_modalities)
    np.testing.assert_array_equal(again.predict_proba(matrix), run.predict_proba(matrix))
    assert "3 seeds from 0" in run.summary()
    assert "## Seeds" in (tmp_path / "run/report.md").read_text()


def test_a_run_of_several_seeds_holds_the_runs_of_each(two_modalities: Path, tmp_path: Path) -> None:
    """Given folds: run r of many is the run with the seed ``seed + r``, but for float noise."""
    many = fit_head(two_modalities, folds="given", seeds=2, seed=4, out=tmp_path / "many", **FAST)
    alone = fit_head(two_modalities, folds="given", seed=5, out=tmp_path / "one", **FAST)
    for name, value in alone.metrics["metrics"].items():
        assert many.metrics["seeds"][1][name] == pytest.approx(value, abs=0.05)


def test_a_cross_fitted_split_scores_the_test_part_by_all_folds(two_modalities: Path, tmp_path: Path) -> None:
    run = fit_head(two_modalities, "linear", folds="given:4", out=tmp_path / "run")
    matrix = load_matrix(two_modalities)
    test = [i for i, clip in enumerate(matrix.clips) if clip[:2] in ("s0", "s1")]
    assert run.oof["clip_id"].tolist() == [matrix.clips[i] for i in test]
    assert (run.oof["fold"] == -1).all()
    each = [model.predict_proba(matrix.values[test], matrix.present[test], run.classes) for model in run.models[0]]
    np.testing.assert_allclose(run.oof.filter(regex="^p_"), np.mean(each, axis=0))
    train = pd.read_parquet(tmp_path / "run/train-oof.parquet")
    assert load_run(tmp_path / "run").train_oof.equals(train)
    assert len(train) == 48
    assert set(train["fold"]) == {0, 1, 2, 3}
    for fold, part in train.groupby("fold"):
        rows = [matrix.clips.index(clip) for clip in part["clip_id"]]
        model = run.models[0][int(str(fold))]
        found = model.predict_proba(matrix.values[rows], matrix.present[rows], run.classes)
        np.testing.assert_allclose(part.filter(regex="^p_"), found)
    speakers = {fold: set(part["clip_id"].str[:2]) for fold, part in train.groupby("fold")}
    assert sum(len(names) for names in speakers.values()) == 4
    assert "test, by all folds" in (tmp_path / "run/report.md").read_text()
    calibration = run.metrics["calibration"]
    temperature = fit_temperature(*truth_and_probabilities(train))
    assert calibration["temperatures"] == {"train": temperature}
    assert calibration["temperature_for_new_clips"] == temperature
    target, p = truth_and_probabilities(run.oof)
    assert calibration["ece"]["value"] == pytest.approx(calibration_error(target, p))
    assert calibration["ece_tempered"]["value"] == pytest.approx(calibration_error(target, tempered(p, temperature)))


def test_every_metric_is_the_same_byte_for_byte(two_modalities: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fit_head(two_modalities, folds="speaker:3", seeds=2, out=tmp_path / name, **FAST)
    assert (tmp_path / "one/metrics.json").read_bytes() == (tmp_path / "two/metrics.json").read_bytes()


# --- what a run says besides -----------------------------------------------------------------------------------------


def test_what_each_modality_brings_is_measured_without_it(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    """The sound tells all, the picture is noise: without the sound nothing is left, without the picture everything."""
    noise = np.random.default_rng(0).normal(size=(72, 1, 4)).astype(np.float32)
    sound = Given("tone", corpus.clips, corpus.signal[:, None])
    store = make_store(corpus.rows(), sound, Given("look", corpus.clips, noise, modality="video"))
    run = fit_head(store, "linear", folds="loso", out=tmp_path / "run")
    found, waf = run.metrics["contributions"], run.metrics["metrics"]["waf"]
    assert found["audio"]["without"]["waf"] < 0.5 < waf
    assert found["audio"]["alone"]["waf"] == pytest.approx(found["video"]["without"]["waf"])
    low, high = found["audio"]["lost_interval"]["waf"]
    assert 0 < low < waf - found["audio"]["without"]["waf"] < high
    low, high = found["video"]["lost_interval"]["waf"]
    assert low < 0.1
    assert "audio  brings +0." in run.summary()
    assert "## Modalities" in (tmp_path / "run/report.md").read_text()


def test_oracle_and_calibration_stand_in_the_metrics(two_modalities: Path, tmp_path: Path) -> None:
    run = fit_head(two_modalities, "linear", folds="loso", out=tmp_path / "run")
    oracle = run.metrics["oracle"]
    assert set(oracle) == {"top2_waf", "top2_accuracy"}
    order = np.argsort(-run.oof.filter(regex="^p_").to_numpy(), axis=1)[:, :2]
    true = run.oof["label"].map({"anger": 0, "fear": 1, "joy": 2}).to_numpy()
    assert oracle["top2_accuracy"]["value"] == pytest.approx((order == true[:, None]).any(axis=1).mean())
    calibration = run.metrics["calibration"]
    target, p = truth_and_probabilities(run.oof)
    after, fitted = cross_tempered(target, p, run.oof["fold"].to_numpy())
    assert calibration["temperatures"] == {f"s{fold}": value for fold, value in fitted.items()}
    assert calibration["temperature_for_new_clips"] == fit_temperature(target, p)
    assert calibration["ece_tempered"]["value"] == pytest.approx(calibration_error(target, after))
    assert sum(row["clips"] for row in calibration["bins"]) == 72


def test_learned_layer_weights_are_told(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=corpus.signal.shape)
    layers = np.stack([noise, corpus.signal], axis=1).astype(np.float32)
    flat = Given("art", corpus.clips, noise[:, None].astype(np.float32), modality="video")
    store = make_store(corpus.rows(), flat, Given("net", corpus.clips, layers, layers=(3, 7)))
    chosen = {**SMALL, "epochs": 60, "patience": 20, "lr": 0.02, "members": 2}
    run = fit_head(store, folds="2", mix_layers="learned", settings=chosen, out=tmp_path / "run", device="cpu")
    ((feature, weights),) = run.metrics["layer_weights"].items()
    number, block = next((i, block) for i, block in enumerate(run.blocks) if block.encoder == "net")
    assert (feature, weights["layers"]) == (block.feature, [3, 7])
    nets = [[net.mix.scores[str(number)] for net in model.head.nets_] for model in run.models[0]]
    each = [np.mean([scores.detach().softmax(dim=0) for scores in members], axis=0) for members in nets]
    np.testing.assert_allclose(weights["mean"], np.mean(each, axis=0), rtol=1e-6)
    np.testing.assert_allclose(weights["spread"], np.std(each, axis=0), rtol=1e-5)
    assert weights["mean"][1] > 0.55
    assert sum(weights["mean"]) == pytest.approx(1)
    again = load_run(tmp_path / "run", device="cpu")
    matrix = again.load_matrix(store)
    np.testing.assert_array_equal(again.predict_proba(matrix), run.predict_proba(matrix))
    assert "## Layer weights" in (tmp_path / "run/report.md").read_text()


def test_a_head_that_cannot_weigh_layers_says_so(store: Path) -> None:
    with pytest.raises(BadOption, match="--mix-layers learned: linear does not weigh layers itself; choose mean"):
        fit_head(store, "linear", mix_layers="learned")
    with pytest.raises(BadOption, match="--mix-layers 'sum' is not known; known: mean, concat, learned"):
        fit_head(store, "linear", mix_layers="sum")


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_read_by_the_type_of_the_default(store: Path, tmp_path: Path) -> None:
    texts = ["hidden=8,4", "epochs=2", "dropout=0.1", "class-weights=none", "members=1"]
    run = fit_head(store, folds="2", settings=texts, out=tmp_path / "run", device="cpu")
    parameters = json.loads((tmp_path / "run/run.json").read_text())["recipe"]["head"]["parameters"]
    assert (parameters["hidden"], parameters["epochs"], parameters["dropout"]) == ([8, 4], 2, 0.1)
    assert parameters["class_weights"] == "none"
    assert "seed" not in parameters
    assert run.models[0][0].head.hidden == (8, 4)


@pytest.mark.parametrize(
    ("head", "setting", "expected"),
    [
        ("mlp", "hidden=8,0", "hidden=0: expected 1 or more, such as 1024"),
        ("mlp", "members=0", "members=0: expected 1 or more, such as 3"),
        ("mlp", "dropout=1", "dropout=1.0: expected a share from 0 to below 1, such as 0.3"),
        ("mlp", "lr=0", "lr=0.0: expected more than 0, such as 0.001"),
        ("mlp", "weight-decay=nan", "weight_decay=nan: expected 0 or more, such as 0.01"),
        ("attention", "hidden=0", "hidden=0: expected 1 or more"),
        ("amhf", "dim=-8", "dim=-8: expected 1 or more, such as 512"),
        ("amhf", "mixup=-1", "mixup=-1.0: expected 0 or more, such as 0.2"),
        ("amhf", "warmup=inf", "warmup=inf: expected 0 or more, such as 3.0"),
    ],
)
def test_a_number_that_no_head_can_compute_with_is_refused_before_training(
    head: str, setting: str, expected: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emocache.heads.setup.load_matrix", None)
    with pytest.raises(BadOption, match=f"--set {expected}$"):
        fit_head(store, head, settings=[setting])


def test_settings_that_cannot_be_are_refused(store: Path) -> None:
    with pytest.raises(UnknownName, match=r"parameter of mlp 'droput' is not known; did you mean dropout"):
        fit_head(store, settings=["droput=0.1"])
    with pytest.raises(BadOption, match=r"--set epochs=many: expected a whole number, such as \d+"):
        fit_head(store, settings=["epochs=many"])
    with pytest.raises(BadOption, match=r"--set hidden=wide: expected a whole number, such as 1024"):
        fit_head(store, settings=["hidden=wide"])
    with pytest.raises(BadOption, match="--without memory: mlp has no components to leave out; choose --head amhf"):
        fit_head(store, settings=["without=memory"])
    with pytest.raises(BadOption, match="--set seed: this is decided by --seed"):
        fit_head(store, settings=["seed=3"])
    with pytest.raises(BadOption, match=r"--set 'dropout': write name=value, as in --set dropout=0\.5"):
        fit_head(store, settings=["dropout"])
    for head in ("linear", "mlp"):
        with pytest.raises(BadOption, match="--set class_weights=equal: write balanced or none"):
            fit_head(store, head, settings=["class_weights=equal"])
    with pytest.raises(BadOption, match="--seeds 0: a head is trained once or more"):
        fit_head(store, seeds=0)
