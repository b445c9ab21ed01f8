"""What a check of a store found, as values and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from emocache.spec import bytes_text, counted


@dataclass
class Finding:
    """One thing that was found. place: relative to the store; repaired: what was done about it, if anything."""

    place: str
    what: str
    repaired: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" + (f"\n         {self.repaired}" if self.repaired else "")


@dataclass
class Findings:
    """What a check found.

    store: its folder, or its URL; faults: what is damaged; notes: what is worth knowing and harms nothing
    segments, bytes: how much was looked at; resumed: segments that an interrupted check had proved before
    """

    store: Path | str
    quick: bool
    repair: bool
    segments: int = 0
    bytes: int = 0
    resumed: int = 0
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        how = "files and lengths" if self.quick else "every byte"
        lines = [f"{self.store}: {counted(self.segments, 'segment')}, {bytes_text(self.bytes)}, {how} checked"]
        if self.resumed:
            lines.append(f"{counted(self.resumed, 'segment')} had been proved by a check that was interrupted")
        lines += [f"note   {note}" for note in self.notes]
        lines += [f"FAULT  {fault}" for fault in self.faults]
        lines.append(self._verdict())
        return "\n".join(lines)

    def _verdict(self) -> str:
        if not self.faults:
            return "no fault found"
        found = f"{counted(len(self.faults), 'fault')} found"
        if isinstance(self.store, str):
            return (
                f"{found}; its owner can delete the segments there and push them again; emocache pull leaves them out"
            )
        if not self.repair:
            return f"{found}; --repair drops what is damaged, then emocache extract computes it again"
        if all(fault.repaired for fault in self.faults):
            return f"{found} and repaired; emocache extract computes again what was dropped"
        return f"{found}, not all of them repaired"
