from __future__ import annotations

import subprocess
import sys

import pytest
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
