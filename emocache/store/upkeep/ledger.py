"""The ledger as a table: which clips failed, where, and why."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emocache.spec import counted
from emocache.store.store import open_store
from emocache.store.upkeep.table import aligned

COLUMNS = ("feature", "clip_id", "status", "stage", "error", "message")


@dataclass(frozen=True)
class LedgerTable:
    """Rows of the ledgers of some features.

    rows: each with `feature`, `clip_id`, `status`, `facts`, and for failed clips `stage`, `error`, `message`
    ok: how many (clip, feature) succeeded; features: how many features were looked at
    """

    rows: tuple[Mapping[str, Any], ...]
    ok: int
    features: int

    @property
    def failed(self) -> int:
        """How many (clip, feature) failed."""
        return sum(row["status"] == "failed" for row in self.rows)

    def __str__(self) -> str:
        """A table: what every row has, and the facts of clips that succeeded."""
        totals = f"{counted(self.features, 'feature')}: {self.ok:,} ok, {self.failed:,} failed"
        if not self.rows:
            return totals
        table = [("feature", "clip", "status", "why, or facts"), *(_told(row) for row in self.rows)]
        return f"{aligned(table)}\n{totals}"

    def csv(self) -> str:
        """CSV: `feature`, `clip_id`, `status`, `stage`, `error`, `message`, then a column for each fact."""
        facts = sorted({name for row in self.rows for name in row["facts"]})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *facts])
        for row in self.rows:
            writer.writerow([*(row.get(name, "") for name in COLUMNS), *(_plain(row["facts"].get(f)) for f in facts)])
        return text.getvalue()


def read_ledger(
    features: Sequence[str] | None = None, store: str | Path | None = None, *, everything: bool = False
) -> LedgerTable:
    """Read what happened to the clips.

    features: their names; left out: all of the store's
    everything: the clips that succeeded too, with their facts; otherwise the failed ones alone
    raises: UnknownName, AmbiguousName; NotAStore, DamagedStore
    """
    opened = open_store(store)
    chosen = opened.features.values() if features is None else [opened.features[name] for name in features]
    rows = [
        {**row, "feature": feature.name, "clip_id": clip, "facts": row.get("facts", {})}
        for feature in chosen
        for clip, row in feature.ledger().items()
    ]
    ok = sum(row["status"] == "ok" for row in rows)
    shown = rows if everything else [row for row in rows if row["status"] != "ok"]
    return LedgerTable(tuple(shown), ok, len(list(chosen)))


def _told(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    facts = ", ".join(f"{name} {_plain(value)}" for name, value in sorted(row["facts"].items()))
    why = f"{row.get('stage')}: {row.get('error')}: {row.get('message')}"
    told = facts if row["status"] == "ok" else " ".join(why.split())
    return str(row["feature"]), str(row["clip_id"]), str(row["status"]), told


def _plain(value: object) -> str:
    """A fact as one cell: text and numbers as they are, anything else as JSON; nothing where there is none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
