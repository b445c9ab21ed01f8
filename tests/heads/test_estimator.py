from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier

from emocache.heads.mlp import MLPHead


def test_a_network_is_a_classifier_to_scikit_learn_without_loading_it() -> None:
    code = "import sys, emocache.heads.mlp as m; m.MLPHead().get_params(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert is_classifier(MLPHead())


def test_parameters_are_read_set_cloned_and_shown() -> None:
    head = MLPHead(hidden=(8,)).set_params(lr=0.5)
    assert clone(head).get_params() == head.get_params()
    assert repr(head) == "MLPHead(hidden=(8,), lr=0.5)"
    with pytest.raises(ValueError, match="MLPHead has no parameter width; it has batch, class_weights"):
        head.set_params(width=3)


class Told(MLPHead):
    """Predicts what it was told."""

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:  # noqa: N803 (scikit-learn's name)
        return X


def test_the_score_is_accuracy_for_classes_and_ccc_for_dimensions() -> None:
    classes, soft = np.array([0, 1, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [1, 0]])
    assert Told().score(classes, np.array([0, 1, 0, 0])) == 0.75
    assert Told(task="soft").score(classes, soft) == 0.75
    values = np.random.default_rng(0).normal(size=(50, 2))
    assert Told(task="dimensional").score(values, values) == pytest.approx(1)
    shifted = 2 * values.var(axis=0) / (2 * values.var(axis=0) + 1)
    assert Told(task="dimensional").score(values + 1, values) == pytest.approx(shifted.mean())
