"""What decoders draw on: rows of other features that the store holds, and that spare them a part of their work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emocache.extract.assignment import Planner
from emocache.extract.workers import Held
from emocache.spec import Decoder, Draw, Recipe


@dataclass(frozen=True)
class Draws:
    """The features that are there to draw on, each with its recipe."""

    planner: Planner
    recipes: dict[Draw, Recipe]

    @classmethod
    def of(cls, decoders: Sequence[Decoder], planner: Planner) -> Draws:
        """What some decoders can draw on in the store."""
        wanted = dict.fromkeys(draw for decoder in decoders if (draw := getattr(decoder, "draws_on", None)) is not None)
        recipes = {draw: planner.drawn(draw) for draw in wanted}
        return cls(planner, {draw: recipe for draw, recipe in recipes.items() if planner.target.has(recipe)})

    def describe(self) -> list[str]:
        """What is there, a line each for a person."""
        return [f"out of the store, not computed again: {recipe.feature_name}" for recipe in self.recipes.values()]

    def held(self, rows: Sequence[int]) -> list[Held]:
        """Of each of some rows of the manifest, what the store holds of its clip."""
        found: list[dict[Draw, object]] = [{} for _ in rows]
        for draw, recipe in self.recipes.items():
            contents = self.planner.contents[draw.modality]
            content_of = [(place, int(contents.content_of[row])) for place, row in enumerate(rows)]
            there = [(place, content) for place, content in content_of if content >= 0]
            numbers = self.planner.target.rows(recipe, [contents.key(content) for _, content in there])
            for (place, _), held in zip(there, numbers, strict=True):
                if held is not None:
                    found[place][draw] = held
        return [*found]
