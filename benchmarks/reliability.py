"""Does guidance by audio pay where the audio says which modality to rely on? `amhf` against `cross-attention`.

    python benchmarks/reliability.py                            # 10 seeds, then the ablation table
    python benchmarks/reliability.py --seeds 2 --clips 200 --epochs 2 --ablation-seeds 1
    python benchmarks/reliability.py --first-seed 100 --seeds 2 --clips 8000 --ablation-seeds 0

The task is made up. Video and text each show one of six emotions; for half of the clips video shows the true one and
text another, drawn evenly from the rest, for the other half it is the other way round. Nothing in video or text tells
which of them is right. The audio is one of eight recording conditions, and the condition decides: in four of them video
can be relied on, in the other four text. All of it lies under noise. No modality alone, and no weighted sum of them,
does better than right half of the time.

Both heads have the same number of parameters (2 %), embedding, objective, training and stopping rule, and see the same
clips. A seed decides the task, the network and its training. The interval of the difference is Student's over seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t  # type: ignore[import-untyped] # ships no types
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from emocache.heads.ablate import COMPONENTS
from emocache.heads.layout import LayoutBlock
from emocache.heads.registry import head_class
from emocache.heads.settings import head_settings

EMOTIONS, CONDITIONS, WIDTH, TESTED = 6, 8, 64, 2000
STRENGTH = 4.0
"""Length of a class's or condition's vector; the noise has length 1 in every one of the `WIDTH` directions."""
MODALITIES = ("audio", "video", "text")
LAYOUT = tuple(LayoutBlock(name, name, number * WIDTH, 1, 1, WIDTH) for number, name in enumerate(MODALITIES))
SMALL = {"dim": 128, "hidden": 128, "expert_hidden": 128, "lr": 1e-3, "patience": 8}
"""A quarter of the paper's width, and its learning rate raised accordingly, so that a fit takes seconds."""


@dataclass(frozen=True)
class Task:
    """Features ``(clip, column)`` float32 and labels ``(clip,)``; the first `train` clips are learned from."""

    x: NDArray[np.float32]
    y: NDArray[np.str_]
    train: int


def make_task(seed: int, train: int) -> Task:
    """Draw one task and its clips."""
    rng = np.random.default_rng(seed)
    count = train + TESTED

    def prototypes(number: int) -> NDArray[np.float64]:
        directions: NDArray[np.float64] = rng.normal(0, STRENGTH / WIDTH**0.5, (number, WIDTH))
        return directions

    shown, sounds = [prototypes(EMOTIONS), prototypes(EMOTIONS)], prototypes(CONDITIONS)
    true, condition = rng.integers(EMOTIONS, size=count), rng.integers(CONDITIONS, size=count)
    parts = [sounds[condition]]
    for number, faces in enumerate(shown):
        wrong = (true + rng.integers(1, EMOTIONS, size=count)) % EMOTIONS
        parts.append(faces[np.where(condition % 2 == number, true, wrong)])
    x = np.concatenate(parts, axis=1) + rng.standard_normal((count, 3 * WIDTH))
    return Task(x.astype(np.float32), true.astype(str), train)


def waf(task: Task, head: str, seed: int, settings: dict[str, Any]) -> float:
    """Weighted F1 in points on the clips that were not learned from."""
    model = head_class(head)(seed=seed, device="cpu", layout=LAYOUT, **settings)
    model.fit(task.x[: task.train], task.y[: task.train])
    found = model.classes_[model.predict_proba(task.x[task.train :]).argmax(axis=1)]
    return 100 * float(f1_score(task.y[task.train :], found, average="weighted"))


def linear(task: Task) -> float:
    """The same of a logistic regression."""
    model = LogisticRegression(C=0.03, max_iter=2000).fit(task.x[: task.train], task.y[: task.train])
    return 100 * float(f1_score(task.y[task.train :], model.predict(task.x[task.train :]), average="weighted"))


def difference(values: Sequence[float]) -> str:
    """Mean and 95 % interval over seeds."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return f"{mean:+.2f}"
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def head_to_head(tasks: Mapping[int, Task], settings: dict[str, Any]) -> list[float]:
    """WAF of `amhf` for every seed, beside that of `cross-attention`."""
    ours, theirs = [], []
    print("| seed | linear | cross-attention | amhf | seconds |\n| --- | --- | --- | --- | --- |", flush=True)
    for seed, task in tasks.items():
        start = time.perf_counter()
        theirs.append(waf(task, "cross-attention", seed, settings))
        between = time.perf_counter()
        ours.append(waf(task, "amhf", seed, settings))
        spent = f"{between - start:.1f}, {time.perf_counter() - between:.1f}"
        print(f"| {seed} | {linear(task):.2f} | {theirs[-1]:.2f} | {ours[-1]:.2f} | {spent} |", flush=True)
    print(f"| mean | | {np.mean(theirs):.2f} | {np.mean(ours):.2f} | |")
    gap = difference(np.subtract(ours, theirs).tolist())
    print(f"\namhf less cross-attention: {gap} WAF, {len(tasks)} seeds, paired\n")
    return ours


def ablation(tasks: Mapping[int, Task], full: Sequence[float], settings: dict[str, Any]) -> Iterator[str]:
    """The rows of Table 6 on this task, each as a paired difference to the full head."""
    yield "| configuration | WAF | change |\n| --- | --- | --- |"
    yield f"| Full AMHF | {np.mean(full):.2f} | |"
    for component, name in COMPONENTS.items():
        if component == "veap":  # there are no tokens here
            continue
        without = {**settings, "without": (component,)}
        found = [waf(task, "amhf", seed, without) for seed, task in tasks.items()]
        yield f"| {name} | {np.mean(found):.2f} | {difference(np.subtract(found, full).tolist())} |"


def main() -> None:
    """Run the comparison, then the ablation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=2_000, help="to learn from; a fifth of them say when to stop")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--ablation-seeds", type=int, default=3, help="0: no ablation table")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of both heads")
    given = parser.parse_args()
    settings = {**SMALL, "epochs": given.epochs, **head_settings(head_class("amhf"), "amhf", given.set)}
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    tasks = {seed: make_task(seed, given.clips) for seed in seeds}
    ours = head_to_head(tasks, settings)
    if given.ablation_seeds:
        fewer = {seed: tasks[seed] for seed in seeds[: given.ablation_seeds]}
        for line in ablation(fewer, ours[: len(fewer)], settings):
            print(line, flush=True)


if __name__ == "__main__":
    main()
