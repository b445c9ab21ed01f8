"""What scikit-learn asks of an estimator, without loading scikit-learn, which takes as long as torch does."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from emocache.heads.layout import Layout
from emocache.heads.sheets import DimensionSheet


@dataclass(kw_only=True, eq=False, repr=False)
class Estimator:
    """Parameters by name, and what `sklearn.base.clone`, cross-validation and grid search look for.

    These four every head has (see `head.Head`). A subclass adds its own as fields of a dataclass with the same options,
    or in an ``__init__`` that stores what it gets unchanged, under its own name.
    """

    layout: Layout | None = None
    task: str = "label"
    seed: int = 0
    device: str = "auto"

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 (no parameter is an estimator)
        """The parameters given to ``__init__``."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: getattr(self, name) for name in sorted(names)}

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters.

        raises: ValueError for one that there is not
        """
        known = self.get_params()
        if strange := sorted(set(parameters) - set(known)):
            raise ValueError(f"{type(self).__name__} has no parameter {', '.join(strange)}; it has {', '.join(known)}")
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        given = {name: value for name, value in self.get_params().items() if value != defaults[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:  # noqa: N803 (scikit-learn's name)
        """The prediction for each row."""
        raise NotImplementedError

    def score(self, X: NDArray[np.float32], y: NDArray[Any]) -> float:  # noqa: N803 (scikit-learn's name)
        """The accuracy, for soft labels that of the most probable class; for dimensions the mean of their CCC."""
        found, truth = self.predict(X), np.asarray(y)
        if self.task == "dimensional":
            sheet = DimensionSheet(tuple(str(number) for number in range(truth.shape[1])))
            return float(sheet.scores(sheet.table(truth, found).sum(axis=0))["ccc"])
        return float(np.mean(found == (truth.argmax(axis=1) if self.task == "soft" else truth)))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            regressor_tags=None,
            transformer_tags=None,
            input_tags=InputTags(allow_nan=True),
        )
