"""Keyed hashes in the place of what names a person: clip ids, speakers, and the keys that content is known by.

The same key gives the same hashes, so that what is shared later joins what was shared before, and whoever has the key
can tell which clip is which. Without it nobody can, not even by hashing a likely name or transcript: that is why the
hashes are keyed (HMAC-SHA256, RFC 2104).
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from emocache.errors import BadOption

HASHED = ("speaker",)
"""Columns that name a person: their text is hashed, and so is a ``fold`` that is more than a number."""
PLAIN = ("label", "split")
"""Columns whose text says nothing of a person."""
LEFT_OUT = "left out: it may name the clip"
NOBODY = "anonymous"
"""Who is said to have made what travels in disguise."""


@dataclass(frozen=True)
class Disguise:
    """What to put in the place of names. key: 32 secret bytes; kept: further columns whose text may be seen"""

    key: bytes = field(repr=False)
    kept: frozenset[str] = frozenset()

    def content(self, key: bytes) -> bytes:
        """The key of a content, 32 bytes, as another of 32 bytes."""
        return self._hash("content", key)

    def name(self, kind: str, text: str) -> str:
        """A name: the kind of thing it names, and 24 hexadecimal digits (96 bits)."""
        return f"{kind}-{self._hash(kind, text.encode()).hex()[:24]}"

    def _hash(self, kind: str, data: bytes) -> bytes:
        return hmac.digest(self.key, kind.encode() + b"\0" + data, "sha256")

    def columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """A roster row's columns: numbers as they are, speakers hashed, other text only where it may be seen."""
        found = {}
        for name, value in columns.items():
            if name in HASHED or (name == "fold" and not re.fullmatch(r"\d*", str(value))):
                found[name] = value if value is None else self.name(name, str(value))
            elif name in PLAIN or name in self.kept or not self.hides(value):
                found[name] = value
        return found

    def hides(self, value: object) -> bool:
        """Whether a value could say who somebody is."""
        return not (value is None or isinstance(value, bool | int | float))

    def roster_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row ``{"clip_id", "keys", "columns"}``."""
        return {
            "clip_id": self.name("clip", row["clip_id"]),
            "keys": {reads: self.content(bytes.fromhex(key)).hex() for reads, key in row["keys"].items()},
            "columns": self.columns(row["columns"]),
        }

    def ledger_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A ledger row: what happened and the facts that are numbers; a message may hold a file's name."""
        facts = {name: value for name, value in row.get("facts", {}).items() if not self.hides(value)}
        found = {"key": None, "status": row["status"], "facts": facts}
        if row["key"] is not None:
            found["key"] = self.content(bytes.fromhex(row["key"])).hex()
        if "clip_id" in row:
            found["clip_id"] = self.name("clip", row["clip_id"])
        found |= {name: row[name] for name in ("stage", "error") if name in row}
        return found | ({"message": LEFT_OUT} if "message" in row else {})

    def digest(self, content: bytes) -> str:
        """A hash of what a part holds, for its name."""
        return self._hash("part", content).hex()


def read_disguise(path: str | Path, kept: Collection[str], stores: Collection[Path]) -> Disguise:
    """The disguise whose key lies in a file of 64 hexadecimal digits, made if there is none, for its owner alone.

    stores: folders that travel, where the key must not be
    raises: BadOption if it is in one of them, or is no key
    """
    place = Path(path)
    for store in stores:
        if place.resolve().is_relative_to(store.resolve()):
            raise BadOption(f"--anonymize {path}: lies in the store {store}, which others get; keep the key elsewhere")
    try:
        with suppress(FileExistsError):
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(f"{secrets.token_hex(32)}\n")
        text = place.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"--anonymize {path}: cannot be read or made: {error}") from None
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise BadOption(
            f"--anonymize {path}: holds no key of 64 hexadecimal digits; name a file that is not there yet to make one"
        )
    return Disguise(bytes.fromhex(text), frozenset(kept))


def plain_digest(content: bytes) -> str:
    """The same as `Disguise.digest` where nothing is disguised."""
    return sha256(content).hexdigest()
