"""A pickle read as data: text, numbers, lists and maps of them, and NumPy's arrays and scalars of these. Nothing runs.

Unpickling is running a program: each GLOBAL names any function of any module, each REDUCE calls it. Here a program may
use only the opcodes that build plain values, and only the globals in `ALLOWED`, each of which stands for a harmless
stand-in of our own, not for NumPy's function: NumPy's would allocate whatever shape it is told, and an array's
``__setstate__`` takes any bytes for pointers.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import reprlib
from typing import Any

import numpy as np

from emocache.doors.numpy_files import plain_list
from emocache.errors import DoorError

LIMIT = 64 * 2**20
"""The longest pickle that is looked at: labels of a million clips."""

OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905 (a list would be a page)
)
"""What pickles of plain values and NumPy arrays are made of since protocol 2, the oldest that NumPy writes. Not among
them: whatever makes objects of classes (NEWOBJ, INST, OBJ), takes values from outside (PERSID, NEXT_BUFFER) or from a
registry (EXT1), and the numbers and texts of protocol 0."""
FILING = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT"})
"""What files the value that lies on top, to be taken again by its number."""
HIDING = FILING | {"POP", "POP_MARK"}
"""Behind these nothing tells what lies on top; no writer of pickles files a value then."""

ADVICE = "only text, numbers, lists and maps of them are read from pickles; save it in another format, such as CSV"


def brief(value: object) -> str:
    """A value out of a pickle for a message. What stands in it more than once may be longer in full than any memory."""
    return reprlib.repr(value)[:80]


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, spec: str, *_: Any) -> None:
        if not (isinstance(spec, str) and re.fullmatch(r"[biuf][1248]|b1|O8?|[US]\d{1,6}", spec)):
            raise DoorError(f"a pickle names the dtype {brief(spec)}; {ADVICE}")
        self.spec, self.order = spec, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in {"<", ">", "|", "="}:
            self.order = "<" if state[1] == "=" else state[1]

    def read(self, data: bytes) -> list[Any]:
        """Values of this dtype."""
        if self.spec.startswith("O") or not isinstance(data, bytes):
            raise DoorError(f"a pickle holds an array of objects as bytes; {ADVICE}")
        try:
            values = np.frombuffer(data, dtype=np.dtype(self.order.replace("|", "<") + self.spec))
        except ValueError as error:
            raise DoorError(f"a pickle holds an array that is none ({error}); {ADVICE}") from None
        return plain_list(values, "a pickle")


class _Array:
    """Stands for numpy.ndarray: its elements as a list, in the order in which they lie."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, _, data = state
        except (TypeError, ValueError):
            raise DoorError(f"a pickle holds an array that is none; {ADVICE}") from None
        if not isinstance(dtype, _Dtype):
            raise DoorError(f"a pickle holds an array without a dtype; {ADVICE}")
        self.items = data if isinstance(data, list) else dtype.read(data)
        self.shape = tuple(shape)


class _ArrayType:
    """Stands for the class numpy.ndarray where a pickle names it."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    found = dtype.read(data) if isinstance(dtype, _Dtype) else []
    if len(found) != 1:
        raise DoorError(f"a pickle holds a NumPy scalar that is none; {ADVICE}")
    return found[0]


ALLOWED: dict[str, Any] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _ArrayType,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
"""The globals that a pickle may name, and what each becomes."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = ALLOWED.get(f"{module}.{name}")
        if found is None:
            raise DoorError(f"a pickle asks for {module}.{name}, which is not run; {ADVICE}")
        return found


_DAMAGED = (pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError, EOFError, OverflowError)
"""What Python raises over a pickle that is torn."""


def plain_pickle(data: bytes, where: object) -> Any:
    """What a pickle of plain values says: text, numbers, lists, tuples, maps; of an array ``()`` its one element, of
    another the list of its elements.

    raises: DoorError naming what is forbidden in it; nothing of it was run
    """
    if len(data) > LIMIT:
        raise DoorError(f"{where}: a pickle of {len(data):,} bytes, the most that is looked at is {LIMIT:,}; {ADVICE}")
    try:
        _scan(data)
        found = _Reader(io.BytesIO(data)).load()
    except DoorError as error:
        raise DoorError(f"{where}: {error}") from None
    except _DAMAGED as error:
        raise DoorError(f"{where}: a damaged pickle ({error}); copy the file again") from None
    return _unwrapped(found)


def _scan(data: bytes) -> None:
    """Refuse opcodes that are not of `OPCODES`, memo places that would have to be allocated, and tuples that are taken
    twice: as the key of a map, a tuple of two equal tuples of two equal tuples and so on is hashed without end.

    raises: DoorError, ValueError
    """
    filed, tuples, before = 0, set[object](), ""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise DoorError(f"a pickle uses {opcode.name}, which plain values need not; {ADVICE}")
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > len(data):
            raise DoorError(f"a pickle files a value under number {argument:,} of {len(data):,} bytes; {ADVICE}")
        if opcode.name in FILING:
            place = filed if argument is None else argument
            (tuples.add if before.startswith("TUPLE") or before in HIDING else tuples.discard)(place)
            filed += 1
        if opcode.name in {"BINGET", "LONG_BINGET"} and argument in tuples:
            raise DoorError(f"a pickle takes one tuple twice, which plain values need not; {ADVICE}")
        before = before if opcode.name in {"PROTO", "FRAME"} else opcode.name


def _unwrapped(found: Any) -> Any:
    if not isinstance(found, _Array):
        return found
    return found.items[0] if found.shape == () and len(found.items) == 1 else found.items
