"""From a request to a plan: the encoder made, its compute dtype settled, its recipes compared with what is held."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from emocache.errors import BadOption, EmocacheError
from emocache.extract.contents import Contents
from emocache.extract.device import choose_device, compute_dtype, fast_in_bfloat16, is_slow
from emocache.extract.plan import Plan, Work, make_plan
from emocache.extract.requests import Request
from emocache.extract.target import Known, Target
from emocache.spec import (
    COMPUTE_DTYPES,
    RECIPE_VERSION,
    Draw,
    Encoder,
    Modality,
    Recipe,
    bytes_text,
    parse_layers,
)

log = logging.getLogger("emocache")

STORAGE_DTYPES = ("float32", "float16")
AUTO = "auto"


@dataclass(frozen=True)
class Assignment:
    """What one encoder has to do, and all that is known before it is loaded.

    dtype: what it computes in; proven: False where ``auto`` has yet to see that it may
    known: what the ledger says of each of its features
    """

    request: Request
    encoder: Encoder
    dtype: str
    proven: bool
    work: Work
    known: tuple[Known, ...]


@dataclass
class Planner:
    """Makes assignments.

    contents: what the clips hold, by modality; poolings: as `parse_pooling` gives them
    texts: what the recipe says of how texts were joined, if they were
    """

    target: Target
    contents: Mapping[Modality, Contents]
    poolings: tuple[str, ...]
    dtype: str
    storage: str
    device: str
    part: tuple[int, int] = (1, 1)
    texts: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (AUTO, *COMPUTE_DTYPES):
            raise BadOption(f"--dtype {self.dtype!r} is not known; known: {', '.join((AUTO, *COMPUTE_DTYPES))}")
        if self.storage not in STORAGE_DTYPES:
            raise BadOption(f"--storage {self.storage!r} is not known; known: {', '.join(STORAGE_DTYPES)}")

    @cached_property
    def chosen_device(self) -> str:
        """Where the encoders run. Raises BadOption if that is not there."""
        return choose_device(self.device)

    def assign(self, requests: Sequence[Request]) -> list[Assignment]:
        """An assignment for each request.

        raises: BadOption for layers or a dtype that an encoder does not have, or one feature asked for twice
        """
        found: list[Assignment] = []
        for request in requests:
            found.append(self.one(request))
            names = [plan.recipe.feature_name for other in found for plan in other.work.plans]
            if len(set(names)) < len(names):
                raise BadOption(
                    f"--encoder {request.asked!r} asks for a feature that another --encoder asks for too; "
                    f"name its layers together, as in {request.card.name}:6,12-16"
                )
        self._tell_of_slow_dtypes(found)
        return found

    def _tell_of_slow_dtypes(self, assignments: Sequence[Assignment]) -> None:
        """Say, once, that a dtype that was asked for is slow here."""
        for each in assignments:
            chosen = self.dtype == each.dtype and len(each.encoder.dtypes) > 1 and each.work.layers
            if chosen and is_slow(each.dtype, self.chosen_device):
                better, _ = self._automatic(each.encoder)
                log.warning(
                    "--dtype %s: %s is not known to be fast in it, and may take longer than in float32; "
                    "--dtype auto would take %s",
                    *(each.dtype, self.chosen_device, better),
                )
                return

    def one(self, request: Request, dtype: str | None = None) -> Assignment:
        """The assignment of one request. dtype: instead of what the user asked for."""
        encoder = request.build()
        chosen, proven = self._settled(encoder) if dtype is None else (dtype, True)
        layers = parse_layers(request.layers, encoder.depth)
        plans, known = [], []
        for pooling in self.poolings:
            recipe = self._recipe(encoder, pooling, chosen)
            before = self.target.known(recipe)
            holding = partial(self.target.holding, recipe)
            contents = self.contents[encoder.modality]
            plans.append(make_plan(contents, recipe, layers, encoder.dim, holding, before.failed(), self.part))
            known.append(before)
        return Assignment(request, encoder, chosen, proven, Work(tuple(plans)), tuple(known))

    def _settled(self, encoder: Encoder) -> tuple[str, bool]:
        """The compute dtype, and whether nothing need be proved for it."""
        if self.dtype != AUTO:
            return compute_dtype(encoder, self.dtype), True
        return self._automatic(encoder)

    def _automatic(self, encoder: Encoder) -> tuple[str, bool]:
        """What ``auto`` takes, and whether nothing need be proved for it."""
        fast, exact = "bfloat16", "float32"
        if len(encoder.dtypes) == 1 or fast not in encoder.dtypes:
            return compute_dtype(encoder, exact), True
        for dtype in (fast, exact):
            if any(self.target.has(self._recipe(encoder, pooling, dtype)) for pooling in self.poolings):
                return dtype, True
        return (fast, False) if fast_in_bfloat16(self.chosen_device) else (exact, True)

    def drawn(self, draw: Draw) -> Recipe:
        """The recipe of a feature that a decoder draws on."""
        return self._written(draw.encoder, draw.modality, draw.settings(), "tokens", "float32", "float32")

    def _recipe(self, encoder: Encoder, pooling: str, dtype: str) -> Recipe:
        return self._written(encoder.name, encoder.modality, encoder.recipe(), pooling, dtype, self.storage)

    def _written(
        self, encoder: str, modality: Modality, settings: Mapping[str, Any], pooling: str, dtype: str, storage: str
    ) -> Recipe:
        joined = {"text": self.texts} if self.texts is not None and modality == "text" else {}
        return Recipe(
            {
                "recipe_version": RECIPE_VERSION,
                "encoder": encoder,
                "modality": modality,
                "settings": dict(settings),
                **joined,
                "pooling": pooling,
                "compute_dtype": dtype,
                "storage_dtype": storage,
            }
        )

    def demand_room(self, assignments: Sequence[Assignment], *, yes: bool) -> None:
        """Refuse what will not fit on the disk; features of which that is not known yet count nothing.

        raises: EmocacheError unless the user said yes
        """
        plans: list[Plan] = [plan for assignment in assignments for plan in assignment.work.plans]
        needed, free = sum(plan.bytes or 0 for plan in plans), self.target.free_bytes()
        if needed > free and not yes:
            raise EmocacheError(
                f"{self.target.path}: the features will take {bytes_text(needed)}, and {bytes_text(free)} are free on "
                "its disk; take fewer layers, --pool mean or tokens:N, --storage float16, or another disk with "
                "--store; --yes goes on all the same, and commits what fits"
            )
