"""`svm-ensemble` against a plain loop of scikit-learn's SVC over the same members: time, and the same predictions.

python benchmarks/svm_ensemble.py            # 500 rows x 750 columns, 7 classes, 36 members
python benchmarks/svm_ensemble.py --rows 60 --columns 20
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.svm import SVC

from emocache.heads.svm_ensemble import SVMEnsembleHead


def main() -> None:
    """Measure, three times each, and print the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--columns", type=int, default=750)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    target = rng.integers(0, given.classes, 2 * given.rows)
    centres = rng.normal(0, 0.2, (given.classes, given.columns))
    x = (centres[target] + rng.normal(0, 1, (2 * given.rows, given.columns))).astype(np.float32)
    learn, new, y = x[: given.rows], x[given.rows :], target.astype(str)[: given.rows]

    def ensemble() -> tuple[SVMEnsembleHead, np.ndarray]:
        head = SVMEnsembleHead(seed=0).fit(learn, y)
        return head, np.floor(head.predict_proba(new) * (members(head) + 1) + 1e-9)

    def loop() -> np.ndarray:
        votes = np.zeros((len(new), len(head.classes_)))
        for columns, rows in zip(head.columns_, head.kept_, strict=True):
            values = learn[:, columns].astype(np.float64)
            for kernel in head.kernels:
                machine = SVC(C=head.C, kernel=kernel, degree=head.degree, coef0=1, class_weight="balanced")
                machine.fit(values[rows], y[rows])
                votes += machine.predict(new[:, columns].astype(np.float64))[:, None] == head.classes_
        return votes

    ours, plain = [], []
    for _ in range(given.rounds):
        started = time.perf_counter()
        head, votes = ensemble()
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        expected = loop()
        plain.append(time.perf_counter() - started)
    differing = int((votes != expected).any(axis=1).sum())
    print(f"{members(head)} members, {given.rows} rows x {given.columns} columns, {given.classes} classes")
    print(f"svm-ensemble {min(ours):.2f} s, plain loop {min(plain):.2f} s: {min(plain) / min(ours):.1f} x (bar 1.5)")
    print(f"clips whose votes differ: {differing} of {len(new)}")


def members(head: SVMEnsembleHead) -> int:
    """How many machines vote."""
    return sum(map(len, head.machines_))


if __name__ == "__main__":
    main()
