"""What a transfer will bring over: worked out from two listings, before a byte of data moves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from emocache.errors import MissingCells, UnknownName, some
from emocache.spec import bytes_text, counted, layers_text
from emocache.store.feature import Feature
from emocache.store.listing import committed_segments, read_segments, superseded_by
from emocache.store.remote.excerpt import Excerpt, Part, RosterExcerpt, cut, cut_roster
from emocache.store.remote.inventory import shelf_of
from emocache.store.remote.papers import other_papers
from emocache.store.remote.sides import Side
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.segment import Segment
from emocache.store.store import Store
from emocache.store.upkeep.merge import lacking
from emocache.store.upkeep.table import aligned


@dataclass
class Amount:
    """How much of one feature, or of the roster: to bring over, and held on the other side already."""

    segments: int = 0
    bytes: int = 0
    held: int = 0


@dataclass
class Sharing:
    """What a transfer brings over, or would bring over.

    source, target: paths or URLs; features: by name; roster: its segments
    dry_run: only worked out; done: carried out; moved, damaged: as in `Merge`
    unknown: clips that were asked for, and that the source does not name
    left: the roster's columns whose text stays behind, for it may say who is who
    papers: the card, or the list of checksums, where the target has another
    """

    source: str
    target: str
    features: dict[str, Amount] = field(default_factory=dict)
    roster: Amount = field(default_factory=Amount)
    dry_run: bool = False
    done: bool = False
    moved: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    papers: list[str] = field(default_factory=list)

    @property
    def segments(self) -> int:
        """Of all features."""
        return sum(amount.segments for amount in self.features.values())

    @property
    def bytes(self) -> int:
        """Of all features."""
        return sum(amount.bytes for amount in self.features.values())

    @property
    def held(self) -> int:
        """Segments that the target has already."""
        return sum(amount.held for amount in self.features.values())

    def __str__(self) -> str:
        head = f"{self.source} → {self.target}:"
        if not (self.segments or self.roster.segments):
            held = f"{counted(self.held, 'segment')} of {counted(len(self.features), 'feature')} held there"
            return "\n".join([f"{head} nothing to transfer, {held}", *self._notes()])
        total = f"{counted(self.segments, 'segment')} ({bytes_text(self.bytes)})"
        if self.roster.segments:
            total += f", {counted(self.roster.segments, 'roster segment')}"
        if self.done:
            return "\n".join([f"{head} transferred {total}", *self._notes()])
        rows = [("feature", "segments", "size", "held there")]
        rows += [
            (name, f"{amount.segments:,}", bytes_text(amount.bytes), f"{amount.held:,}")
            for name, amount in self.features.items()
        ]
        return "\n".join([f"{head} {total} to transfer", aligned(rows, numbers=(1, 2, 3)), *self._notes()])

    def _notes(self) -> list[str]:
        notes = [f"not transferred, damaged: {what}" for what in self.damaged]
        if self.moved:
            notes.append(f"one name, several contents: {some(sorted(set(self.moved)))}; of each the newest counts")
        if self.unknown:
            notes.append(f"not in {self.source}: {counted(len(self.unknown), 'clip')} ({some(self.unknown)})")
        if self.papers:
            notes.append(f"left as they are there: other {' and '.join(self.papers)}; delete them to renew them")
        if self.left:
            notes.append(f"text that stays behind: column {some(self.left)}; --keep-column NAME lets it travel")
        return notes


@dataclass
class Transfer:
    """What is to be done.

    whole: feature to segments that travel as they are; cuts: to those of which a part does;
    roster: the part of it that does; None is all
    """

    source: Side
    target: Side
    store: Store
    part: Part
    features: Mapping[str, Feature]
    summary: Sharing
    whole: dict[str, list[str]] = field(default_factory=dict)
    cuts: dict[str, list[str]] = field(default_factory=dict)
    roster: RosterExcerpt | None = None

    def cut(self, feature: Feature) -> Iterator[Segment | Excerpt]:
        """The parts of a feature's segments that the target lacks, one after the other."""
        keys = self.keys_of_clips(feature)
        for segment in self.source.segments(feature, self.cuts[feature.name]):
            piece = cut(segment, self.part, keys)
            if piece is not None:
                yield piece

    def keys_of_clips(self, feature: Feature) -> Collection[bytes]:
        """Of the clips asked for, what a feature reads; of no meaning where all are."""
        wanted = self.part.clips
        if wanted is None:
            return ()
        found = (row["keys"].get(feature.recipe.reads) for row in self.store.roster if row["clip_id"] in wanted)
        return {bytes.fromhex(key) for key in found if key is not None}


def plan_transfer(source: Side, target: Side, store: Store, part: Part) -> Transfer:
    """Work out what the target lacks of a part of the source.

    store: the source's
    raises: UnknownName if none of the clips asked for is in the roster; MissingCells if none of the layers is held
    """
    names = list(store.features) if part.features is None else part.features
    chosen = {name: store.features[name] for name in names}
    planned = Transfer(source, target, store, part, chosen, Sharing(source.place.url, target.place.url))
    if part.clips is not None:
        known = {str(row["clip_id"]) for row in store.roster}
        planned.summary.unknown = sorted(part.clips - known)
        if not (part.both or part.clips & known):
            raise UnknownName("clip", min(part.clips, default=""), known, advice=f"the roster of {source.place.url}")
    for name, feature in chosen.items():
        planned.whole[name], planned.cuts[name] = [], []
        planned.summary.features[name] = Amount()
        if part.cuts:
            _plan_cuts(planned, feature)
        else:
            _plan_whole(planned, feature)
    if part.layers is not None and not part.both:
        _require_layers(planned, part.layers)
    _plan_roster(planned)
    if part.whole:
        planned.summary.papers = other_papers(source, target)
    return planned


def _require_layers(planned: Transfer, layers: Sequence[int]) -> None:
    """Refuse layers of which no feature holds one.

    raises: MissingCells
    """
    if not any(amount.segments or amount.held for amount in planned.summary.features.values()):
        held = "; ".join(f"{name} holds {layers_text(f.layers) or 'none'}" for name, f in planned.features.items())
        raise MissingCells(
            f"--layers {layers_text(layers).replace(' ', '')}: no feature of {planned.source.place.url} holds any of "
            f"them for these clips: {held or 'there is none'}; ask for others"
        )


def _plan_whole(planned: Transfer, feature: Feature) -> None:
    shelf = shelf_of(feature.name)
    offered, _ = planned.source.counting(feature.name)
    held = planned.target.inventory.committed(shelf)
    wanted = lacking(offered, held, planned.target.counting(feature.name)[1])
    planned.whole[feature.name] = wanted
    length = sum(planned.source.inventory.length(shelf, name) for name in wanted)
    planned.summary.features[feature.name] = Amount(len(wanted), length, len(offered) - len(wanted))


def _plan_cuts(planned: Transfer, feature: Feature) -> None:
    """The same where a part of the segments' cells is wanted: their manifests say which have any."""
    shelf = shelf_of(feature.name)
    held = planned.target.inventory.committed(shelf)
    gone = planned.target.counting(feature.name)[1]
    keys = planned.keys_of_clips(feature)
    amount = planned.summary.features[feature.name]
    for segment in planned.source.segments(feature, planned.source.counting(feature.name)[0]):
        piece = cut(segment, planned.part, keys)
        if piece is None:
            continue
        if not (lacking([segment.name], held, gone) and lacking([piece.name], held, gone)):
            amount.held += 1
            continue
        amount.segments += 1
        if isinstance(piece, Segment):
            planned.whole[feature.name].append(piece.name)
            amount.bytes += planned.source.inventory.length(shelf, piece.name)
        else:
            planned.cuts[feature.name].append(segment.name)
            amount.bytes += piece.bytes


def _plan_roster(planned: Transfer) -> None:
    """How much of the roster the target lacks; what comes of joining the two rosters comes on top of it."""
    offered = [segment.name for segment in committed_segments(planned.store.path / ROSTER, planned.store.origin)]
    if planned.part.cuts_roster:
        planned.roster = cut_roster(planned.store, planned.part)
        planned.summary.left = sorted(planned.roster.left)
        offered = list(planned.roster.pieces)
    wanted = lacking(offered, planned.target.inventory.committed(ROSTER), ())
    there = planned.target.store
    if wanted and there is not None:
        wanted = lacking(wanted, (), superseded_by(read_segments(there.path / ROSTER, there.origin)))
    length = sum(planned.source.inventory.length(ROSTER, name) for name in wanted)
    length += 0 if planned.roster is None else planned.roster.bytes
    planned.summary.roster = Amount(len(wanted), length, len(offered) - len(wanted))
