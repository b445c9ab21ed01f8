"""Check a store: every file, every byte, every duplicate; and drop what is damaged, if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from emocache.errors import DamagedStore, NotAStore
from emocache.spec import Recipe, counted
from emocache.store.catalog import SEGMENTS
from emocache.store.commit import ensure_group
from emocache.store.documents import NAME, check_seal, group_document, read_group
from emocache.store.files import COMMIT_NAME, WAITING_NAME, folder_names, read_file
from emocache.store.listing import segment_names, superseded_by
from emocache.store.roster import FOLDER as ROSTER
from emocache.store.segment import Segment
from emocache.store.snapshot import INDEX
from emocache.store.store import FEATURES, default_store, lies_elsewhere, local_folder, open_store
from emocache.store.upkeep.check import SegmentCheck, check_segment, read_all
from emocache.store.upkeep.checksums import CHECKSUMS, held_against_list, read_checksums
from emocache.store.upkeep.duplicates import overlaps
from emocache.store.upkeep.findings import Finding, Findings
from emocache.store.upkeep.progress import Progress
from emocache.store.upkeep.removal import remove_segment
from emocache.store.upkeep.repair import repair_segment
from emocache.store.upkeep.snapshot_check import snapshot_fault
from emocache.store.upkeep.stamp import lost_its_stamp, mend_stamp


def verify_store(store: str | Path | None = None, *, quick: bool = False, repair: bool = False) -> Findings:
    """Check a whole store, its folder or a URL; see `emocache.store.remote.proof.verify_place` for the latter.

    quick: only whether every file is there and has its length; otherwise every byte is held against its checksum, and
        cells that two segments hold against each other. A full check that was interrupted goes on where it stopped.
    repair: drop what is damaged, so that `extract_features` computes it again; what is whole is kept
    returns: the findings; the store is sound if `faults` is empty
    raises: NotAStore if nothing tells that it is one; StoreError if a store behind a URL is to be repaired; PlaceError
    """
    place = default_store() if store is None else store
    if lies_elsewhere(place) and not repair:
        from emocache.store.remote.proof import verify_place

        return verify_place(str(place), quick=quick)
    folder, fault = local_folder(store), ""
    try:
        identity = open_store(folder).uuid
    except (DamagedStore, NotAStore) as error:
        if not lost_its_stamp(folder):
            raise
        identity, fault = "", str(error).removeprefix(f"{folder / COMMIT_NAME}: ")
    check = _Check(folder, identity, quick=quick, repair=repair)
    if fault:
        check.mend_stamp(fault)
    return check.run()


class _Check:
    """One check of one store."""

    def __init__(self, root: Path, identity: str, *, quick: bool, repair: bool) -> None:
        self._root = root
        self._progress = None if quick else Progress(root, identity)
        self._found = Findings(root, quick, repair)

    def mend_stamp(self, what: str) -> None:
        """Note that the store's own document is damaged, and write it again if that was asked for."""
        fault = self._fault(self._root / COMMIT_NAME, what)
        if self._found.repair:
            fault.repaired = mend_stamp(self._root)

    def run(self) -> Findings:
        finished = False
        try:
            bar: tqdm[Any] = tqdm(unit="B", unit_scale=True, desc="verify", disable=None)
            with bar:
                self._look_at_all(bar)
            finished = True
        finally:
            if self._progress is not None:
                self._progress.close(finished=finished)
        return self._found

    def _look_at_all(self, bar: tqdm[Any]) -> None:
        self._plain_group(self._root / ROSTER)
        self._segments(self._root / ROSTER, None, bar)
        self._plain_group(self._root / FEATURES)
        for name in folder_names(self._root / FEATURES):
            if NAME.fullmatch(name):
                self._feature(self._root / FEATURES / name, bar)
        if not (self._found.quick or self._found.faults):
            self._read_as_readers_do()
        self._hold_against_list()

    def _hold_against_list(self) -> None:
        """What was shared with a list of checksums is all here, and as it was."""
        try:
            listed = read_checksums(self._root)
        except DamagedStore as error:
            self._fault(self._root / CHECKSUMS, str(error).removeprefix(f"{self._root / CHECKSUMS}: "))
            return
        known = {fault.place for fault in self._found.faults}
        for name, what in held_against_list(self._root, listed, quick=self._found.quick):
            if name not in known:
                self._fault(self._root / name, f"{what}, says {CHECKSUMS}; pull the store again from where it came")
        if listed:
            self._note(self._root / CHECKSUMS, f"{counted(len(listed), 'file')} held against it")

    def _read_as_readers_do(self) -> None:
        try:
            read_all(open_store(self._root))
        except DamagedStore as error:
            self._fault(self._root, str(error).removeprefix(f"{self._root}/"))

    def _feature(self, folder: Path, bar: tqdm[Any]) -> None:
        fingerprint = self._fingerprint(folder)
        if fingerprint is None:
            return
        self._plain_group(folder / SEGMENTS)
        checks = self._segments(folder / SEGMENTS, fingerprint, bar)
        if (folder / INDEX).exists():
            self._plain_group(folder / INDEX)
            snapshots = self._segments(folder / INDEX, fingerprint, bar)
            if self._found.repair and any(check.faults for check in checks):
                for check in snapshots:  # derived, and now they name what was dropped
                    remove_segment(check.folder)
            else:
                self._index(fingerprint, checks, [check for check in snapshots if check.segment and not check.faults])
        if not self._found.quick:
            self._duplicates(folder, [check.segment for check in checks if check.segment and not check.faults])

    def _fingerprint(self, folder: Path) -> str | None:
        """That of the feature in `folder`, or None if its document is not to be believed."""
        try:
            attributes = read_group(folder)
            if attributes is None and (folder / SEGMENTS).exists():
                self._fault(
                    folder, f"its {COMMIT_NAME} is gone; emocache extract with the same settings writes it again"
                )
                return None
            if attributes is None:
                self._note(folder, f"no {COMMIT_NAME}: a feature that is being made")
                return None
            check_seal(attributes, folder)
            recipe = Recipe(attributes["recipe"])
            if (recipe.fingerprint, recipe.feature_name) == (attributes["fingerprint"], folder.name):
                return recipe.fingerprint
            what = "its recipe does not give the fingerprint and the name that it is filed under"
        except (DamagedStore, OSError, KeyError, TypeError, AttributeError) as error:
            what = str(error).removeprefix(f"{folder / COMMIT_NAME}: ")
        fault = self._fault(folder / COMMIT_NAME, what)
        if self._found.repair:
            (folder / COMMIT_NAME).unlink()
            fault.repaired = "deleted; emocache extract with the same settings writes it again, its segments are kept"
        return None

    def _plain_group(self, folder: Path) -> None:
        """A folder that leads to segments is a Zarr group without attributes."""
        if not folder.exists():
            return
        try:
            data = read_file(folder / COMMIT_NAME, 10_000)
            what = "" if data == group_document() else "not the bytes of a plain group"
        except (DamagedStore, OSError) as error:
            what = "missing" if isinstance(error, FileNotFoundError) else str(error)
        if not what:
            return
        if what == "missing" and not folder_names(folder):
            self._note(
                folder, f"no {COMMIT_NAME}: a group that is being made, or its writer died; the next one makes it"
            )
            return
        fault = self._fault(folder / COMMIT_NAME, what)
        if self._found.repair:
            (folder / COMMIT_NAME).unlink(missing_ok=True)
            ensure_group(folder)
            fault.repaired = "written again"

    def _segments(self, parent: Path, fingerprint: str | None, bar: tqdm[Any]) -> list[SegmentCheck]:
        checks = []
        for name in segment_names(parent):
            check = self._segment(parent / name, fingerprint)
            bar.update(check.bytes)
            checks.append(check)
        return checks

    def _segment(self, folder: Path, fingerprint: str | None) -> SegmentCheck:
        check = check_segment(folder, fingerprint, quick=True)
        self._found.segments += check.committed
        if not check.committed:
            self._uncommitted(folder)
            return check
        if self._progress is not None and check.segment is not None and not check.faults:
            check = self._prove(check.segment, fingerprint, self._progress)
        self._found.bytes += check.bytes
        faults = [self._fault(folder / file, what) for file, what in check.faults.items()]
        if faults and self._found.repair:
            self._repair(check, fingerprint, faults)
        return check

    def _uncommitted(self, folder: Path) -> None:
        """Tell a segment that was never committed from one that lost its document; see `WAITING_NAME`."""
        if (folder / WAITING_NAME).exists():
            self._note(folder, "never committed: its writer is at work, or died; gc deletes it when it is old")
            return
        fault = self._fault(
            folder,
            f"its {COMMIT_NAME} is gone: it was deleted, or a copy or the power broke off; what it held is not seen",
        )
        if self._found.repair:
            remove_segment(folder)
            fault.repaired = "the rest of it is deleted: nothing tells what it held"

    def _repair(self, check: SegmentCheck, fingerprint: str | None, faults: list[Finding]) -> None:
        if self._found.quick:  # what is kept must be proved
            check = check_segment(check.folder, fingerprint, quick=False)
        if check.unreadable:
            return
        faults[0].repaired = repair_segment(check)
        for fault in faults[1:]:
            fault.repaired = "with the one above"

    def _prove(self, segment: Segment, fingerprint: str | None, progress: Progress) -> SegmentCheck:
        """Read every byte, unless an interrupted check did."""
        mark = f"{segment.folder.relative_to(self._root)} {segment.manifest['sha256']}"
        if progress.holds(mark):
            self._found.resumed += 1
            return SegmentCheck(segment.folder, segment)
        check = check_segment(segment.folder, fingerprint, quick=False)
        if not check.faults:
            progress.add(mark)
        return check

    def _index(self, fingerprint: str, cells: list[SegmentCheck], snapshots: list[SegmentCheck]) -> None:
        """A snapshot names every segment that it covers: one that is gone without a successor was lost."""
        whole = {check.folder.name: check.segment for check in cells if check.segment and not check.faults}
        known = {check.folder.name for check in cells if check.committed}
        known |= superseded_by(whole.values())
        for check in snapshots:
            what = snapshot_fault(check.folder, fingerprint, whole, known, quick=self._found.quick)
            if not what:
                continue
            fault = self._fault(check.folder, what)
            if self._found.repair:
                remove_segment(check.folder)
                fault.repaired = (
                    "the snapshot is deleted; emocache extract computes again what is missing, if anything is"
                )

    def _duplicates(self, feature: Path, segments: list[Segment]) -> None:
        superseded = superseded_by(segments)
        live = [segment for segment in segments if segment.name not in superseded]
        twice = 0
        for both in overlaps(live):
            twice += both.cells - both.differing
            if both.differing:
                self._disagree(feature, both.first, both.second, both.differing, both.largest)
        if twice:
            self._note(
                feature, f"{counted(twice, 'cell')} held twice, with the same numbers; emocache compact keeps one"
            )

    def _disagree(self, feature: Path, first: str, second: str, cells: int, largest: float) -> None:
        self._fault(
            feature / SEGMENTS / second,
            f"{counted(cells, 'cell')} other than in {first}, which counts (largest difference {largest:.3g}): "
            "computed on other hardware or with other libraries; emocache compact keeps the one that counts",
        )

    def _fault(self, place: Path, what: str) -> Finding:
        finding = Finding(str(place.relative_to(self._root)), what)
        self._found.faults.append(finding)
        return finding

    def _note(self, place: Path, what: str) -> None:
        self._found.notes.append(Finding(str(place.relative_to(self._root)), what))
