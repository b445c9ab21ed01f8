"""What differs between two recipes that bear the same encoder's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emocache.store.store import open_store
from emocache.store.upkeep.report import flattened

ABSENT = "(absent)"


@dataclass(frozen=True)
class RecipeDiff:
    """Two features and the entries in which their recipes differ: name to (value in a, value in b)."""

    a: str
    b: str
    differences: Mapping[str, tuple[str, str]]

    def __str__(self) -> str:
        if not self.differences:
            return f"{self.a}: one and the same recipe; the numbers are the same"
        lines = [f"a: {self.a}", f"b: {self.b}"]
        for name, (left, right) in self.differences.items():
            lines += [f"{name}", f"  a: {left}", f"  b: {right}"]
        return "\n".join(lines)


def diff_features(a: str, b: str, store: str | Path | None = None, other: str | Path | None = None) -> RecipeDiff:
    """Compare the recipes of two features, of one store or of two.

    a, b: names, or the beginning of a name where only one feature fits
    store: where `a` is; other: where `b` is; left out: the same store
    raises: UnknownName, AmbiguousName; NotAStore, DamagedStore
    """
    here = open_store(store)
    there = here if other is None else open_store(other)
    first, second = here.features[a], there.features[b]
    left, right = flattened(first.recipe.fields), flattened(second.recipe.fields)
    differences = {
        name: (left.get(name, ABSENT), right.get(name, ABSENT))
        for name in sorted({*left, *right})
        if left.get(name, ABSENT) != right.get(name, ABSENT)
    }
    return RecipeDiff(first.name, second.name, differences)
