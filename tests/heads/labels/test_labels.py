"""Votes, refined labels, mined labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import emocache
from emocache.errors import BadOption, FitError
from emocache.heads.labels import mine as mining
from emocache.heads.labels.learner import weak_head
from emocache.heads.labels.mine import mine_labels
from emocache.heads.labels.refine import Voter, deliberate, refine_labels
from emocache.heads.labels.vote import NO_VOTE, ranked_mode
from emocache.heads.matrix import load_matrix
from tests.heads.conftest import Corpus, Given
from tests.heads.fusion.runs_made import make_run

MakeStore = Callable[..., Path]
CLASSES = ("anger", "fear", "joy")


# --- ranked mode vote ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([0, 0, 1, 2], 0),  # one mode
        ([0, 1, 1, 0], 1),  # two modes: without the last there is one
        ([0, 1, 2, 1], 1),
        ([0, 1, 2, 0], 0),
        ([2, 1, 0, 1], 1),
        ([0, 1, 2, 3], 0),  # all differ: dropped until only the best is left
        ([NO_VOTE, 1, NO_VOTE, 2], 1),  # who says nothing has no vote
        ([NO_VOTE] * 4, NO_VOTE),
    ],
)
def test_the_last_ranked_is_dropped_until_the_mode_is_unique(votes: list[int], expected: int) -> None:
    chosen, shares = ranked_mode(np.array(votes)[:, None], 4)
    assert chosen.tolist() == [expected]
    assert shares.sum() == pytest.approx(0 if expected == NO_VOTE else 1)
    assert expected == NO_VOTE or shares[0].argmax() == expected


def test_many_votes_agree_with_a_slow_transcription() -> None:
    votes = np.random.default_rng(0).integers(0, 4, (5, 2000))
    for clip, found in zip(votes.T, ranked_mode(votes, 4)[0], strict=True):
        kept = clip.tolist()
        while sorted(map(kept.count, set(kept)))[-2:].count(max(map(kept.count, set(kept)))) > 1:
            kept.pop()
        assert found == max(set(kept), key=kept.count)


def test_runs_vote_by_a_ranking_on_the_other_folds(tmp_path: Path) -> None:
    """In fold 0 the best run on the other folds is `b`, although `a` is better in fold 0 itself."""
    labels = ["anger", "fear", "joy"] * 4
    folds = [0] * 6 + [1] * 6
    target = np.array([CLASSES.index(label) for label in labels])
    wrong = (target + 1) % 3
    said = {"a": np.where(np.array(folds) == 0, target, wrong), "b": np.where(np.array(folds) == 0, wrong, target)}
    clips = [f"c{i}" for i in range(12)]
    runs = [make_run(tmp_path / name, clips, labels, folds, np.eye(3)[own], CLASSES) for name, own in said.items()]
    run = emocache.vote_runs(runs, metric="accuracy", out=tmp_path / "vote")
    assert run.metrics["metrics"]["accuracy"] == 0
    assert run.record["ranking"] == ["a", "b"]
    assert "best first: a 0.500, b 0.500" in run.summary()
    assert (tmp_path / "vote/report.md").is_file()


def test_a_vote_refuses_clips_without_a_label_and_a_seed_below_zero(tmp_path: Path) -> None:
    labels = ["anger", None, "joy", None]
    paths = [
        make_run(tmp_path / name, list("abcd"), labels, [0, 1, 0, 1], np.eye(3)[[0, 1, 2, 0]], CLASSES) for name in "xy"
    ]
    with pytest.raises(FitError, match=r"x: 2 clips have no label; runs are ranked on labels: let runs vote that were"):
        emocache.vote_runs(paths, out=tmp_path / "vote")
    for combine in (emocache.vote_runs, emocache.fuse_runs, emocache.blend_runs):
        with pytest.raises(BadOption, match="--seed -1: a seed is 0 or more"):
            combine(paths, seed=-1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- refining --------------------------------------------------------------------------------------------------------


def voter(name: str, votes: list[int]) -> Voter:
    return Voter(name, np.array(votes), np.where(np.array(votes)[:, None] == np.arange(3), 0.8, 0.1))


def test_more_than_half_of_the_votes_make_the_label_and_nobody_agreeing_asks_for_review() -> None:
    target = np.array([0, 0, 0, 0, 0])
    voters = [voter("a", [1, 1, 0, -1, 1]), voter("b", [1, 2, 1, -1, -1])]
    verdicts = deliberate(target, voters)
    assert verdicts.refined.tolist() == [1, 0, 0, 0, 0]  # 2 of 3; 1 each; 2 of 3 for the annotation; alone; 1 each
    assert verdicts.review.tolist() == [True, True, False, False, True]
    np.testing.assert_allclose(verdicts.confidence, [0.8, 0.1, 0.45, 0.0, 0.1])


def test_half_of_the_votes_is_not_more_than_half() -> None:
    verdicts = deliberate(np.array([0, 0]), [voter("a", [1, 1]), voter("b", [1, 1]), voter("c", [2, 1])])
    assert verdicts.refined.tolist() == [0, 1]  # 2 of 4, the annotation's being the fourth; 3 of 4
    assert verdicts.review.tolist() == [True, True]


def corrupted(corpus: Corpus, seed: int = 0) -> tuple[list[tuple[str, dict[str, Any]]], NDArray[np.bool_]]:
    """The corpus with a sixth of its labels changed, and which."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(72, dtype=bool)
    wrong[rng.choice(72, 12, replace=False)] = True
    other = {"anger": "fear", "fear": "joy", "joy": "anger"}
    rows = [
        (clip, {**row, "label": other[row["label"]] if bad else row["label"], "llm": row["label"], "take": "t"})
        for (clip, row), bad in zip(corpus.rows(), wrong, strict=True)
    ]
    return rows, wrong


def test_corrupted_labels_are_found_and_the_originals_kept(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    rows, wrong = corrupted(corpus)
    store = make_store(rows, Given("tone", corpus.clips, 2 * corpus.signal[:, None]))
    done = refine_labels(store, heads=["linear"], labels_from=["llm"], out=tmp_path / "refined.csv")
    table = pd.read_csv(tmp_path / "refined.csv")
    assert done.voters == ("llm", "linear on audio")
    assert table["label_original"].tolist() == [row["label"] for _, row in rows]
    right = np.array([row["llm"] for _, row in rows])
    assert (table["label"] == right).mean() > 0.9
    review = (table["review"] == "yes").to_numpy()
    assert (review & wrong).sum() >= 6
    assert (review & wrong).sum() == review.sum()  # the column llm is always right, so that no true label is marked
    assert table["take"].eq("t").all()
    assert table["votes"].str.match(r"llm: \w+; linear on audio: \w+").all()
    assert "for review, nobody agrees with the annotation" in done.summary()
    assert len(emocache.fit_head(store, "linear", clips=tmp_path / "refined.csv", out=tmp_path / "run").oof) == 72


def test_a_clip_without_the_features_of_a_modality_gets_no_vote_from_it(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(
        corpus.rows(),
        Given("tone", corpus.clips, corpus.signal[:, None]),
        Given("face", corpus.clips[1:], corpus.signal[1:, None], modality="video"),
    )
    refine_labels(store, heads=["linear"], out=tmp_path / "refined.csv")
    votes = pd.read_csv(tmp_path / "refined.csv")["votes"]
    assert "linear on video: -" in votes[0]
    assert "-" not in votes[1].replace("linear on", "")


def test_labels_are_voted_on_by_models_that_did_not_learn_them(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    """Pure noise as features: a classifier that had seen the labels would repeat them; out of fold it cannot."""
    noise = np.random.default_rng(0).normal(size=(72, 1, 300)).astype(np.float32)
    store = make_store(corpus.rows(), Given("tone", corpus.clips, noise))
    table = refine_labels(store, heads=["linear"], out=tmp_path / "refined.csv").table
    agreeing = [vote.endswith(label) for vote, label in zip(table["votes"], table["label_original"], strict=True)]
    assert np.mean(agreeing) < 0.6


def test_refining_refuses_what_it_cannot_use(store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"--labels-from llm: no clip has this column; the clips have label, speaker"):
        refine_labels(store, labels_from=["llm"], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match=r"--labels-from speaker: says s0, s1, .*, none of which is one of the labels"):
        refine_labels(store, labels_from=["speaker"], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match="amhf needs whole features with gaps; weak classifiers take any columns"):
        refine_labels(store, heads=["amhf"], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match="nobody votes; name a head, or a column with other labels"):
        refine_labels(store, heads=[], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match="--labels-from label: the annotation votes anyway; name columns with other"):
        refine_labels(store, labels_from=["label"], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match="--head linear is named twice, and would vote twice; name it once"):
        refine_labels(store, heads=["linear", "linear"], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match="--labels-from speaker is named twice, and would vote twice"):
        refine_labels(store, labels_from=["speaker", "speaker"], out=tmp_path / "refined.csv")
    with pytest.raises(BadOption, match="--seed -1: a seed is 0 or more"):
        refine_labels(store, seed=-1, out=tmp_path / "refined.csv")
    joy = tmp_path / "joy.csv"
    joy.write_text("clip_id,label\n" + "\n".join(f"s0-joy-{take},joy" for take in range(4)))
    with pytest.raises(
        FitError, match="all 4 clips have the label 'joy'; there is nothing to vote on: give clips of two"
    ):
        refine_labels(store, clips=joy, out=tmp_path / "refined.csv")
    (tmp_path / "mine.csv").write_text("")
    with pytest.raises(FitError, match=r"mine.csv: is there already; name another file with --out"):
        refine_labels(store, out=tmp_path / "mine.csv")


# --- mining ----------------------------------------------------------------------------------------------------------


def half_labelled(corpus: Corpus) -> list[tuple[str, dict[str, Any]]]:
    """Speakers s0 to s2 have labels, s3 to s5 have not."""
    return [(clip, {**row, "label": row["label"] if row["speaker"] < "s3" else None}) for clip, row in corpus.rows()]


@pytest.fixture
def wide_store(corpus: Corpus, make_store: MakeStore) -> Path:
    """Four features that each tell the labels apart."""
    rng = np.random.default_rng(1)
    features = [
        Given(f"view{i}", corpus.clips, (3 * corpus.signal + rng.normal(0, 0.5, (72, 8)))[:, None].astype(np.float32))
        for i in range(4)
    ]
    return make_store(half_labelled(corpus), *features)


def test_unlabelled_clips_get_the_label_on_which_three_agree(wide_store: Path, corpus: Corpus, tmp_path: Path) -> None:
    groups = [f"view{i}" for i in range(4)]
    done = mine_labels(wide_store, groups=groups, rounds=2, out=tmp_path / "mined.csv")
    table = pd.read_csv(tmp_path / "mined.csv")
    assert (table["round"] == 0).sum() == 36
    mined = table[table["round"] > 0]
    assert len(mined) == sum(r.mined for r in done.rounds if r.kept) > 0
    truth = {clip: row["label"] for clip, row in corpus.rows()}
    assert (mined["label"] == mined["clip_id"].map(truth)).mean() > 0.6
    for _, row in mined.iterrows():
        votes = row["votes"].split(", ")
        assert votes.count(row["label"]) >= 3
    assert (table.loc[table["held_out"] == "yes", "speaker"].nunique(), table["speaker"].nunique()) == (1, 6)
    assert "round 0: 0 clips mined, held-out UAR" in done.summary()


def test_a_round_after_which_the_score_falls_is_undone_and_ends_the_mining(
    wide_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.9])
    monkeypatch.setattr(mining, "_scores", lambda *_: (next(scores), (0.0,) * 4))
    done = mine_labels(wide_store, rounds=3, out=tmp_path / "mined.csv")
    assert [(r.number, r.kept) for r in done.rounds] == [(0, True), (1, False)]
    assert not (done.table["round"] > 0).any()
    assert "undone: the score fell" in done.summary()


def test_mined_clips_are_dealt_out_evenly_and_only_what_is_left_is_voted_on(
    wide_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = mining.Learner.fit.__func__  # type: ignore[attr-defined]

    def spy(cls: Any, kind: Any, values: Any, *rest: Any, **options: Any) -> Any:
        sizes.append(len(values))
        return plain(cls, kind, values, *rest, **options)

    monkeypatch.setattr(mining.Learner, "fit", classmethod(spy))
    monkeypatch.setattr(mining, "_scores", lambda *_: (0.5, (0.5,) * 4))
    done = mine_labels(wide_store, rounds=3, out=tmp_path / "mined.csv")
    first, second = np.array(sizes[:4]), np.array(sizes[4:8])
    assert len(set(first)) == 1
    grown = second - first
    assert grown.sum() == done.rounds[1].mined
    assert grown.max() - grown.min() <= 1
    assert sum(r.mined for r in done.rounds) <= 36


def test_mining_refuses_what_it_cannot_use(store: Path, wide_store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"--group: 1 given; the method has 4 learners, each on a group of its own"):
        mine_labels(wide_store, groups=["view0"], out=tmp_path / "mined.csv")
    with pytest.raises(BadOption, match=r"--rounds 0, --agree 3: at least 1 round, and 2 to 4 learners that agree"):
        mine_labels(wide_store, rounds=0, out=tmp_path / "mined.csv")
    labelled = tmp_path / "all.csv"
    labelled.write_text("clip_id,label\n" + "\n".join(f"s0-{e}-{t},{e}" for e in CLASSES for t in range(4)))
    with pytest.raises(FitError, match=r"12 of 12 clips have a label; .*: leave cells of the column 'label' empty"):
        mine_labels(wide_store, clips=labelled, out=tmp_path / "mined.csv")
    with pytest.raises(BadOption, match=r"--group ' ,': names no feature; write one or more, with commas"):
        mine_labels(wide_store, groups=["view0", "view1", " ,", "view3"], out=tmp_path / "mined.csv")
    with pytest.raises(BadOption, match=r"--group view1,view0 is given twice: .* give 4 different groups"):
        mine_labels(wide_store, groups=["view1,view0", "view2", "view0,view1", "view3"], out=tmp_path / "mined.csv")
    with pytest.raises(BadOption, match="--seed -1: a seed is 0 or more"):
        mine_labels(wide_store, seed=-1, out=tmp_path / "mined.csv")
    assert not (tmp_path / "mined.csv").exists()


def test_too_few_labels_to_hold_any_out_are_refused(corpus: Corpus, make_store: MakeStore, tmp_path: Path) -> None:
    rows = [(clip, {"label": row["label"] if i < 4 else None}) for i, (clip, row) in enumerate(corpus.rows())]
    store = make_store(rows, Given("tone", corpus.clips, corpus.signal[:, None]))
    with pytest.raises(FitError, match=r"only 4 clips have a label; one part in 5 of them is held out .*: label 5"):
        mine_labels(store, out=tmp_path / "mined.csv")


class TestHeldOutClips:
    """Four columns, one a learner; clip by clip a number of its own in the fifth, by which rows are known again."""

    CLASSES_HERE = np.array(["calm", "sad"])

    def pool(self, values: NDArray[np.float64], target: list[int], held: slice, apart: NDArray[np.bool_]) -> Any:
        known = np.asarray(target) >= 0
        everyone = np.arange(len(known))
        learn = np.setdiff1d(everyone[known], everyone[held])
        table = np.column_stack([values, everyone]).astype(np.float32)
        return mining._Pool(
            table, self.CLASSES_HERE, np.asarray(target), None, learn, everyone[held], everyone[~known], apart
        )

    def mined(self, pool: Any, rounds: int = 3) -> tuple[tuple[mining.Round, ...], mining.Mined]:
        columns = [np.array([i]) for i in range(4)]
        options = {"rounds": rounds, "agree": 3, "normalize": "global", "seed": 0, "device": "cpu"}
        return mining.mine(pool, weak_head("linear"), columns, **options)

    def opinions(self, last: float) -> Any:
        """20 clips to learn from, 10 held out, 40 free ones, whose fourth column says `last` times what others say.

        Held-out clips have the fourth column alone.
        """
        rng = np.random.default_rng(0)
        target = rng.permutation([0, 1] * 35)
        values = (2 * target - 1)[:, None] + rng.normal(0, 0.1, (70, 4))
        values[20:30, :3] = np.nan
        values[30:, 3] *= last
        held = np.zeros(70, dtype=bool)
        held[20:30] = True
        return self.pool(values, [*target[:30].tolist(), *[-1] * 40], slice(20, 30), held)

    def test_they_are_neither_trained_on_nor_mined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[float] = []
        plain = mining.Learner.fit.__func__  # type: ignore[attr-defined]

        def spy(cls: Any, kind: Any, values: Any, *rest: Any, **options: Any) -> Any:
            seen.extend(values[:, 4])
            return plain(cls, kind, values, *rest, **options)

        monkeypatch.setattr(mining.Learner, "fit", classmethod(spy))
        pool = self.opinions(last=1)
        pool.apart[60:] = True  # free clips of a held-out speaker
        rounds, found = self.mined(pool)
        assert [(r.mined, r.kept) for r in rounds] == [(0, True), (40, True)]
        assert (found.round[30:] == 1).all()
        assert (found.label[:30] == NO_VOTE).all()
        assert set(seen) == {*range(20), *range(30, 60)}

    def test_a_round_that_misleads_a_learner_is_undone_by_their_score(self) -> None:
        """The fourth learner is outvoted on the free clips, and learns the contrary of what is held out."""
        rounds, found = self.mined(self.opinions(last=-3))
        assert [(r.number, r.mined, r.kept) for r in rounds] == [(0, 0, True), (1, 40, False)]
        assert rounds[0].score == 1 > rounds[1].score
        assert (found.label == NO_VOTE).all()
        assert (found.round == 0).all()
        assert (found.votes == NO_VOTE).all()

    def test_what_was_mined_in_one_round_teaches_in_the_next_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Clips 30 to 49 are agreed on at once, the others after one more training."""
        sizes: list[int] = []
        plain = mining.Learner.fit.__func__  # type: ignore[attr-defined]

        def spy(cls: Any, kind: Any, values: Any, *rest: Any, **options: Any) -> Any:
            sizes.append(len(values))
            return plain(cls, kind, values, *rest, **options)

        def votes(_: Any, values: NDArray[np.float32]) -> NDArray[np.int64]:
            return np.tile(np.where((values[:, 4] < 50) | (len(sizes) > 4), 1, NO_VOTE), (4, 1))

        monkeypatch.setattr(mining.Learner, "fit", classmethod(spy))
        monkeypatch.setattr(mining, "_votes", votes)
        rounds, found = self.mined(self.opinions(last=1))
        assert [(r.mined, r.kept) for r in rounds] == [(0, True), (20, True), (20, True)]
        assert [*found.round[[30, 49, 50, 69]]] == [1, 1, 2, 2]
        assert sizes == [20] * 4 + [25] * 4 + [30] * 4

    def test_two_of_four_learners_are_not_enough(self) -> None:
        pool = self.opinions(last=1)
        pool.values[30:, 2] *= -1
        pool.values[30:, 3] *= -1
        rounds, found = self.mined(pool)
        assert [r.mined for r in rounds] == [0]
        assert (found.label == NO_VOTE).all()


def test_unlabelled_clips_of_held_out_speakers_are_mined_but_teach_nobody(
    corpus: Corpus, make_store: MakeStore, tmp_path: Path
) -> None:
    rows = [
        (clip, {**row, "label": row["label"] if i % 4 < 2 else None}) for i, (clip, row) in enumerate(corpus.rows())
    ]
    rng = np.random.default_rng(1)
    views = [3 * corpus.signal + rng.normal(0, 0.5, (72, 8)) for _ in range(4)]
    features = [Given(f"view{i}", corpus.clips, own[:, None].astype(np.float32)) for i, own in enumerate(views)]
    matrix = load_matrix(make_store(rows, *features), None, None)
    pool = mining._Pool.of(matrix, "global", 0)
    speakers = np.array([row["speaker"] for row in corpus.columns])
    assert pool.apart.sum() == 12 * len(set(speakers[pool.held]))
    assert set(speakers[pool.apart]) == set(speakers[pool.held])
    assert len(pool.free) == 36
