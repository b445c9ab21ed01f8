"""What a call of `extract_features` did, as values that print themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emocache.spec import counted


@dataclass(frozen=True)
class Summary:
    """What was done for one feature.

    feature: its name in the store; layers: those asked for
    computed, held, absent: clips; failed: clip_id to the ledger's words
    """

    feature: str
    layers: tuple[int, ...]
    computed: int = 0
    held: int = 0
    absent: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Extraction:
    """What one call did; iterates over the summaries, one for each feature.

    moved: clips whose name stood for other content before
    time_spent: seconds by stage; checks: what self-checks found; seconds: the whole call
    """

    store: Path
    summaries: tuple[Summary, ...]
    moved: tuple[str, ...] = ()
    time_spent: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Summary]:
        return iter(self.summaries)

    @property
    def computed(self) -> int:
        """Clips computed, summed over the features."""
        return sum(summary.computed for summary in self)

    @property
    def held(self) -> int:
        """Clips that were held already, summed over the features."""
        return sum(summary.held for summary in self)

    @property
    def failed(self) -> dict[str, str]:
        """clip_id to the ledger's words, of every clip that failed in some feature."""
        return {clip: message for summary in self for clip, message in summary.failed.items()}

    def __str__(self) -> str:
        lines = [line for summary in self for line in self._lines(summary)]
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.time_spent.items())
        lines.append(f"{self.seconds:.1f} s in all" + (f"; where the time went: {spent}" if spent else ""))
        lines += [f"now other content than before under the name {clip}" for clip in self.moved]
        lines += [f"failed {clip}: {message}" for clip, message in self.failed.items()]
        return "\n".join(lines)

    def _lines(self, summary: Summary) -> Iterator[str]:
        done = f"{counted(summary.computed, 'clip')} computed"
        done += f", {summary.held} already held, {len(summary.failed)} failed"
        yield f"{done} → {self.store} · {summary.feature}"
        if summary.absent:
            yield f"{counted(summary.absent, 'clip')} without anything that this encoder reads"
