"""Ablations: what is tried, and that everything is compared on the same clips, folds, seeds and draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emocache.cli import app
from emocache.errors import BadOption, FitError, UnknownName
from emocache.heads.ablate import Planned, Scored, _Comparison, ablate_head
from emocache.heads.fit import fit_head
from tests.heads.conftest import Corpus, Given

TINY = {"dim": 16, "expert_hidden": 16, "hidden": 16, "layers": 1, "batch": 36, "lr": 3e-3, "epochs": 2, "warmup": 0}


@pytest.fixture
def store(corpus: Corpus, make_store: Callable[..., Path]) -> Path:
    """Sound that tells the emotions apart, a picture that says less, and words that a third of the clips lack."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, corpus.signal.shape).astype(np.float32)
    spoken = [number for number in range(len(corpus.clips)) if number % 3]
    return make_store(
        corpus.rows(),
        Given("tone", corpus.clips, corpus.signal[:, None]),
        Given("face", corpus.clips, (0.3 * corpus.signal + noise)[:, None], modality="video"),
        Given("words", [corpus.clips[i] for i in spoken], noise[spoken, None], modality="text"),
    )


def test_the_rows_are_those_of_the_papers_tables_and_all_subsets(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Planned] = []

    def untrained(self: _Comparison, planned: Planned, seeds: range, device: str) -> Scored:
        tried.append(planned)
        return {"waf": 0.5}, {"waf": np.array([0.4, 0.6])}

    monkeypatch.setattr(_Comparison, "scored", untrained)
    table = str(ablate_head(store, settings=TINY))
    names = [planned.name for planned in tried]
    assert names == [
        "Full amhf",
        "No Audio Spectral Gating",
        "No Adaptive Cross-Modal Routing",
        "No Temporal Memory",
        "No Uncertainty Estimation",
        "No Progressive Fusion",
        "No vEAP + No EATP",
        "Cross-attention fusion",
        "video + audio only",
        "video + text only",
        "audio + text only",
        "video only",
        "audio only",
        "text only",
    ]
    assert all(name in table for name in names)
    assert [planned.parameters.get("without") for planned in tried[1:8]] == [
        *((name,) for name in ("gating", "routing", "memory", "uncertainty", "progressive", "eap")),
        (),
    ]
    subset = tried[9].problem
    assert [block.modality for block in subset.matrix.layout] == ["video", "text"]
    np.testing.assert_array_equal(subset.values[:, :8], tried[0].problem.values[:, :8])
    np.testing.assert_array_equal(subset.values[:, 8:], tried[0].problem.values[:, 16:])


def test_a_subset_without_the_guide_that_was_asked_for_is_guided_as_if_none_had_been(store: Path) -> None:
    tiny = {**TINY, "epochs": 1, "guide": "video"}
    ablation = ablate_head(store, without=["memory"], folds="2", settings=tiny, device="cpu")
    assert "audio + text only" in [row.name for row in ablation.variants]


def test_the_full_row_is_what_fit_gives_and_changes_are_paired_differences(store: Path) -> None:
    how = {"features": ["tone", "face"], "folds": "speaker:2", "seeds": 2, "settings": TINY, "device": "cpu"}
    ablation = ablate_head(store, without=["memory"], out=store.parent / "ablation.json", **how)  # type: ignore[arg-type]
    run = fit_head(store, "amhf", out=store.parent / "run", **how)  # type: ignore[arg-type]
    full, sound = ablation.variants[0], ablation.variants[2]
    assert [row.name for row in ablation.variants] == ["Full amhf", "No Temporal Memory", "audio only", "video only"]
    assert dict(full.metrics) == run.metrics["metrics"]
    assert dict(full.intervals) == run.metrics["intervals"]
    assert sound.change["waf"] == pytest.approx(sound.metrics["waf"] - full.metrics["waf"])
    low, high = sound.change_interval["waf"]
    assert low <= sound.change["waf"] <= high
    text = str(ablation)
    assert "72 clips scored in 2 fold(s) (speaker:2), mean of 2 seed(s)" in text
    assert "bootstrap over 6 speakers" in text
    written = json.loads((store.parent / "ablation.json").read_text())
    assert written["variants"][2]["change"] == dict(sound.change)


def test_the_command_prints_the_table(store: Path) -> None:
    options = [f"--set={name}={value}" for name, value in TINY.items()]
    given = ["ablate", "--store", str(store), "--without", "memory", "--no-subsets", "--folds", "2", *options]
    done = CliRunner().invoke(app, [*given, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "| configuration | WAF (%) | interval | change | interval |" in done.stdout
    assert "| No Temporal Memory | " in done.stdout


def test_dimensions_of_features_as_they_are_can_be_ablated_too(corpus: Corpus, make_store: Callable[..., Path]) -> None:
    """The options of fit that decide the problem: task, targets, normalize, mix-layers."""
    rows = [(clip, {**row, "joy": float(corpus.signal[i, 0])}) for i, (clip, row) in enumerate(corpus.rows())]
    layers = np.stack([corpus.signal, corpus.signal[::-1]], axis=1)
    store = make_store(rows, Given("tone", corpus.clips, layers, layers=(0, 1)))
    options = [f"--set={name}={value}" for name, value in TINY.items()]
    given = ["--task", "dimensional", "--targets", "joy", "--normalize", "none", "--mix-layers", "learned"]
    out = store.parent / "ablation.json"
    told = ["ablate", "--store", str(store), "--without", "memory", "--folds", "2", *given, *options, "--out", str(out)]
    done = CliRunner().invoke(app, [*told, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "| configuration | CCC (%) | interval |" in done.stdout
    written = json.loads(out.read_text())
    assert written["protocol"]["task"] == "dimensional"
    assert written["protocol"]["normalize"] == "none"
    assert set(written["variants"][1]["change"]) == {"ccc", "ccc_joy", "rmse_joy"}


def test_cross_attention_is_ablated_by_the_components_it_has(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Comparison, "scored", lambda *_: ({"waf": 0.5}, {"waf": np.array([0.4, 0.6])}))
    ablation = ablate_head(store, "cross-attention", settings=TINY, subsets=False)
    assert [row.name for row in ablation.variants] == ["Full cross-attention", "No vEAP + No EATP"]
    with pytest.raises(UnknownName, match=r"component of cross-attention 'memory' is not known\n  known: eap, veap"):
        ablate_head(store, "cross-attention", without=["memory"], settings=TINY)


def test_what_cannot_be_ablated_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOption, match="--without memory: linear has no components; ablate amhf"):
        ablate_head(store, "linear", without=["memory"])
    with monkeypatch.context() as patch:
        patch.setattr("emocache.heads.ablate.cross_fit", None)  # said before anything is trained
        with pytest.raises(UnknownName, match="component of amhf 'memry' is not known; did you mean memory"):
            ablate_head(store, without=["memry"], settings=TINY, device="cpu")
    with pytest.raises(BadOption, match="--seeds 0: a head is trained once or more"):
        ablate_head(store, seeds=0)
    with pytest.raises(BadOption, match="--task soft: linear can do label; choose another --head"):
        ablate_head(store, "linear", task="soft")
    for out, why in ((store / "no" / "x.json", "there is no folder .*no"), (store, "is a folder")):
        with pytest.raises(FitError, match=f"cannot be written: {why}; name another file with --out"):
            ablate_head(store, "linear", out=out)
