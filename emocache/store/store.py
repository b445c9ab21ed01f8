"""The store: a folder of features and a roster, which any Zarr reader opens; or such a folder behind a URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emocache.errors import AmbiguousName, DamagedStore, NotAStore, StoreError, UnknownName
from emocache.spec import MODALITIES, Recipe
from emocache.store.commit import ensure_group
from emocache.store.documents import FORMAT, NAME, check_seal, group_document, read_group, require_plain, seal
from emocache.store.feature import Feature
from emocache.store.files import COMMIT_NAME, create_once, make_folder
from emocache.store.listing import segment_names
from emocache.store.origin import Origin
from emocache.store.remote.folder import file_path
from emocache.store.remote.place import is_url, refuse_torn_url, split_url
from emocache.store.roster import ClipKeys, clip_keys, read_roster

if TYPE_CHECKING:
    import zarr

FEATURES = "features"
STORAGE_DTYPES = ("float32", "float16")
DEFAULT_STORE = "features.zarr"


def default_store() -> str:
    """``$EMOCACHE_STORE``, or ``features.zarr`` in the current folder."""
    return os.environ.get("EMOCACHE_STORE") or DEFAULT_STORE


def local_folder(store: str | Path | None) -> Path:
    """The folder of a store on this machine, as one is needed that is to be written or looked after.

    store: its folder, or that as a ``file://`` URL; left out: `default_store`
    raises: StoreError for any other URL, behind which stores can only be read
    """
    place = default_store() if store is None else store
    if lies_elsewhere(place):
        url = split_url(str(place)).geturl()
        raise StoreError(
            f"{url}: a store behind a URL can be read, but not changed in place; "
            f"emocache pull {url} {DEFAULT_STORE}, work there, and emocache push it back"
        )
    refuse_torn_url(place)
    return file_path(str(place)) if is_url(place) else Path(place)


def lies_elsewhere(place: str | Path) -> bool:
    """Whether a store lies behind a URL that is no folder of this machine."""
    return is_url(place) and split_url(str(place)).scheme != "file"


class Features(Mapping[str, Feature]):
    """A store's features by name: the whole name, an encoder's name, or the beginning of either where only one fits."""

    def __init__(self, found: Mapping[str, Feature], where: str | Path) -> None:
        self._found = dict(found)
        self._where = where

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, name: str) -> Feature:
        if name in self._found:
            return self._found[name]
        fitting = [f for f in self._found.values() if f.recipe.encoder == name]
        fitting = fitting or [f for f in self._found.values() if name and f.name.startswith(name)]
        if not fitting:
            raise UnknownName(
                "feature",
                name,
                self._found,
                advice=f"looked in {self._where}; emocache extract adds features, "
                "and so does copying a feature's folder into features/",
            )
        if len(fitting) > 1:
            raise AmbiguousName("feature", name, [f.name for f in fitting], self._where)
        return fitting[0]


class Store:
    """One store, as it stands when it is opened.

    path: its folder; of a store behind a URL that of its partial copy in the cache folder, which fills as it is read
    uuid: its identity, which copies keep
    origin: brings what is not in `path`; None where all of the store is
    """

    def __init__(self, path: Path, identity: str, origin: Origin | None = None) -> None:
        self.path = path
        self.uuid = identity
        self.origin = origin
        self._clip_keys: dict[str, ClipKeys] = {}

    def __repr__(self) -> str:
        return f"<Store {self.where}: {len(self.features)} features, {len(self.roster)} clips>"

    @property
    def url(self) -> str | None:
        """Where the store lies if that is not this machine, without credentials."""
        return None if self.origin is None else self.origin.url

    @property
    def where(self) -> str | Path:
        """What the store is called: its URL, else its folder. `open_store` opens it again."""
        return self.url or self.path

    @cached_property
    def _roster(self) -> dict[str, dict[str, Any]]:
        return read_roster(self.path, self.origin)

    @property
    def roster(self) -> list[dict[str, Any]]:
        """One row per clip: `clip_id`, `keys` (modality to hex) and the manifest's other columns (label, ...)."""
        return [
            {**row.get("columns", {}), "clip_id": row["clip_id"], "keys": row["keys"]} for row in self._roster.values()
        ]

    @cached_property
    def features(self) -> Features:
        """The features by name."""
        folder = self.path / FEATURES
        named = [folder / name for name in segment_names(folder, self.origin)]
        if self.origin is not None:
            self.origin.bring_documents(named)
        return Features({f.name: f for f in map(self._open_feature, named) if f is not None}, self.where)

    def _open_feature(self, folder: Path) -> Feature | None:
        attributes = read_group(folder)
        if attributes is None:
            return None
        check_seal(attributes, folder)
        recipe = Recipe(_recipe_fields(attributes, folder))
        if attributes.get("fingerprint") != recipe.fingerprint or recipe.feature_name != folder.name:
            raise DamagedStore(
                f"{folder}: its recipe does not give the fingerprint that it is filed under; the recipe was changed"
            )
        return Feature(folder, recipe, partial(self._keys, recipe.reads), origin=self.origin)

    def _keys(self, reads: str) -> ClipKeys:
        """The clips that have what a feature `reads`; read once, without keeping the rows' other columns in memory."""
        if reads not in self._clip_keys:
            self._clip_keys[reads] = clip_keys(self.path, reads, self.origin)
        return self._clip_keys[reads]

    def add_feature(self, recipe: Recipe, versions: Mapping[str, str]) -> Feature:
        """The feature of `recipe`, made if the store does not have it.

        versions: the libraries at work, recorded beside the recipe, not in it
        raises: StoreError if the recipe cannot name a feature, or the store lies behind a URL
        """
        local_folder(self.where)
        if not NAME.fullmatch(recipe.feature_name):
            raise StoreError(f"{recipe.feature_name!r} cannot name a feature: 1 to 80 of a-z, 0-9, '.' and '-'")
        ensure_group(self.path / FEATURES)
        folder = self.path / FEATURES / recipe.feature_name
        make_folder(folder)
        attributes = {
            "kind": "feature",
            "fingerprint": recipe.fingerprint,
            "recipe": recipe.fields,
            "versions": dict(versions),
        }
        require_plain(folder)
        create_once(folder / COMMIT_NAME, group_document(seal(attributes).text))
        ensure_group(folder / "segments")
        feature = self._open_feature(folder)
        if feature is None:
            raise DamagedStore(f"{folder}: its {COMMIT_NAME} vanished while it was being opened")
        return feature

    def as_zarr(self) -> zarr.Group:
        """The same store through zarr-python, read-only, for tools that speak Zarr.

        raises: StoreError for a store behind a URL: Zarr takes what was not fetched yet for fill values
        """
        import zarr

        return zarr.open_group(local_folder(self.where), mode="r")


def _recipe_fields(attributes: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The recipe of a feature's document.

    raises: DamagedStore if it lacks what a reader relies on
    """
    fields = attributes.get("recipe")
    if (
        not isinstance(fields, dict)
        or not all(isinstance(fields.get(name), str) for name in ("encoder", "pooling"))
        or fields.get("modality") not in MODALITIES
        or fields.get("storage_dtype") not in STORAGE_DTYPES
    ):
        raise DamagedStore(f"{folder}: holds no recipe: encoder, modality, pooling and storage_dtype must be named")
    return fields


def open_store(path: str | Path | None = None) -> Store:
    """Open a store for reading.

    path: its folder, or the URL behind which it lies (see `emocache.store.remote.place.open_place`): then only what is
        asked for is fetched, and kept in the cache folder; left out: ``$EMOCACHE_STORE`` or ``features.zarr``
    raises: NotAStore if there is none, it is foreign, or its format is newer than this emocache; PlaceError if the
        other side of a URL cannot be reached
    """
    place = default_store() if path is None else path
    if lies_elsewhere(place):
        from emocache.store.remote.mirror import open_mirror

        mirror = open_mirror(str(place))
        return Store(mirror.root, mirror.identity, mirror)
    folder = local_folder(place)
    if not folder.exists():
        raise NotAStore(f"{folder}: no store is here; emocache extract makes one, --store names another")
    attributes = read_group(folder)
    if attributes is None:
        raise NotAStore(f"{folder}: not an emocache store: it holds no {COMMIT_NAME}; name another with --store")
    return Store(folder, identity_of(attributes, folder))


def identity_of(attributes: Mapping[str, Any], folder: Path) -> str:
    """The uuid that a store's own document names.

    attributes: as `read_group` gives them; folder: for messages
    raises: NotAStore if it is none of emocache's, or of a newer format; DamagedStore if it was edited
    """
    if "format" not in attributes:
        raise NotAStore(
            f"{folder}: a Zarr group, but not an emocache store (no attributes.emocache); name another with --store"
        )
    if not isinstance(attributes.get("min_reader"), int) or attributes["min_reader"] > FORMAT:
        raise NotAStore(
            f"{folder}: needs a reader of format {attributes.get('min_reader')}, this emocache reads format {FORMAT}; "
            "update emocache"
        )
    check_seal(attributes, folder)
    return str(attributes.get("uuid", ""))


def find_store(path: str | Path | None = None) -> Store | None:
    """The store that can be written at `path`, or None if one can be made there; writes nothing.

    raises: NotAStore if something else is there; StoreError if there is no permission to write
    """
    folder = local_folder(path)
    try:
        store = open_store(folder) if (folder / COMMIT_NAME).exists() else None
        needed = next(above for above in (folder, *folder.absolute().parents) if above.exists())
        if not needed.is_dir():
            raise StoreError(f"{folder}: cannot write a store here: {needed} is no folder; name another with --store")
        names = {entry.name for entry in folder.iterdir()} if store is None and needed == folder else set()
        strange = {name for name in names if not name.startswith(".")}
        if strange and COMMIT_NAME not in strange:  # else another writer made it in this very moment
            raise NotAStore(f"{folder}: not an emocache store, and not empty; name another folder with --store")
        allowed = os.access(needed, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    except PermissionError:
        needed, allowed = folder, False
    if not allowed:
        raise StoreError(f"{folder}: cannot write a store here: no permission in {needed}; name another with --store")
    return store


def open_or_make_store(path: str | Path | None = None) -> Store:
    """Open a store for writing, made if nothing is there.

    raises: as `find_store`; OSError if the disk refuses
    """
    folder = local_folder(path)
    find_store(folder)
    make_folder(folder)
    write_stamp(folder)
    return open_store(folder)


def write_stamp(folder: Path) -> None:
    """Make `folder` a store, unless it is one."""
    attributes = {"format": FORMAT, "min_reader": FORMAT, "uuid": str(uuid.uuid4())}
    create_once(folder / COMMIT_NAME, group_document(seal(attributes).text))
