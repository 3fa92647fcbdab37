"""Reads a pickle as data: nothing in it is imported, called or executed. Here of lists, dicts, text and numbers.

Python's own pure-Python unpickler, cut down to the opcodes that the data need; the C one allocates whatever a memo
index asks for, 6 GB from nine bytes.
"""

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, no_type_check

MALFORMED = (  # what a damaged pickle raises
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
    struct.error,
)
OPCODES = (
    "PROTO STOP FRAME MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM "
    "SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINSTRING SHORT_BINSTRING NONE NEWTRUE NEWFALSE"
).split()
TEXT_OPCODES = "PUT GET INT LONG FLOAT STRING UNICODE LIST DICT TUPLE"  # of protocol 0, which is written in text
Load = Callable[[Any], None]  # what an unpickler does for an opcode
# Opcodes that take a byte or two and a hundred bytes of memory: those of containers, and those that remember one.
MAKERS = "EMPTY_DICT EMPTY_LIST EMPTY_SET MARK LIST DICT TUPLE TUPLE1 TUPLE2 TUPLE3 FROZENSET REDUCE NEWOBJ".split()
KEEPERS = "PUT BINPUT LONG_BINPUT MEMOIZE".split()
NUMBERS = "INT LONG LONG1 LONG4".split()
FREE, PER_PART = 250_000, 8  # containers that any pickle may have, and bytes of it for each one more: [[1, 2], ...]
MAX_MARKS = 1000  # open at once: as deep as anything is nested
MAX_BITS = 128  # of a whole number


class Refused(ValueError):
    """The file needs something that files of its kind do not; the message says what."""


class Stream(io.BytesIO):
    """Bytes from which only so many pieces may be read: one byte of a pickle can ask for a hundred of memory."""

    def __init__(self, data: bytes, most: int):
        super().__init__(data)
        self.reads, self.most = 0, most
        self.size = len(data)

    @no_type_check  # called for every opcode
    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > self.most:
            raise Refused(f"it has more than {self.most:,} parts")
        return io.BytesIO.read(self, size)

    @no_type_check
    def readline(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > self.most:
            raise Refused(f"it has more than {self.most:,} parts")
        return io.BytesIO.readline(self, size)


class PlainUnpickler(pickle._Unpickler):
    """Lists, tuples, dicts, text, numbers, None. Another kind of file names its opcodes and methods by `table`."""

    # What the standard library's unpickler has besides, and its type stubs do not name.
    dispatch: ClassVar[dict[int, Load]]
    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]
    load_binget: Callable[[], None]
    load_long_binget: Callable[[], None]
    load_reduce: Callable[[], None]

    def __init__(self, stream: Stream, *, encoding: str = "ASCII"):
        super().__init__(stream, encoding=encoding)
        self.stream, self.size = stream, stream.size
        self.left = dict.fromkeys(("containers", "references"), FREE + stream.size // PER_PART)

    @no_type_check  # called for every file, with a turn for every opcode
    def load(self) -> Any:
        """What the pickle holds. As the standard library's, straight from the stream, which is twice as fast.

        Frames are passed over, so that nothing has to stand between.
        """
        stream, dispatch = self.stream, self.dispatch
        self.read, self.readline = stream.read, stream.readline
        self.metastack, self.stack, self.proto = [], [], 0
        self.append = self.stack.append
        next_byte, most = super(Stream, stream).read, stream.most
        try:
            while True:
                stream.reads += 1  # as Stream.read, without the call
                if stream.reads > most:
                    raise Refused(f"it has more than {most:,} parts")
                key = next_byte(1)
                if not key:
                    raise EOFError
                dispatch[key[0]](self)
        except pickle._Stop as stop:
            return stop.value

    def spend(self, kind: str) -> None:
        """Counts one more of what takes far more memory than bytes of the file."""
        self.left[kind] -= 1
        if self.left[kind] < 0:
            raise Refused(f"it has more {kind} than a file of its size needs")

    def load_frame(self) -> None:
        """Frames only say how much to read at once."""
        self.read(8)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set_item(key, value)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set_item(key, value)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_item(key, value)

    def set_item(self, key: Any, value: Any) -> None:
        """Keys are text or small numbers: large integers can be chosen so that all of them collide."""
        if not isinstance(self.stack[-1], dict):
            raise Refused("items set on something that is not a dict")
        if type(key) is not str and not (type(key) is int and abs(key) < 1 << 31):
            raise Refused("a dict key that is neither text nor a small number")
        self.stack[-1][key] = value

    @classmethod
    def table(cls, more: str = "", own: Mapping[str, Load] | None = None) -> dict[int, Load]:
        """What is done for each opcode: `OPCODES` and `more`, some by their `own` methods; the others are refused."""
        methods: dict[str, Load] = {"FRAME": cls.load_frame, "SETITEM": cls.load_setitem, "SETITEMS": cls.load_setitems}
        methods.update(own or {})
        names = {getattr(pickle, name)[0]: name for name in dir(pickle) if type(getattr(pickle, name)) is bytes}
        table = {code: _refuse(names.get(code, hex(code))) for code in range(256)}
        for name in OPCODES + more.split():
            code = getattr(pickle, name)[0]
            load = methods.get(name, pickle._Unpickler.dispatch[code])
            table[code] = _counted(load, name)
        return table


def _refuse(opcode: str) -> Load:
    def refuse(_: Any) -> None:
        raise Refused(f"it is damaged, or needs more than such a file may hold (opcode {opcode})")

    return refuse


def _counted(load: Load, name: str) -> Load:
    """What an opcode does, within the budget of what it makes."""

    def make(unpickler: Any) -> None:
        unpickler.spend("containers")
        if len(unpickler.metastack) > MAX_MARKS:
            raise Refused("its lists are nested too deeply")
        load(unpickler)

    def keep(unpickler: Any) -> None:
        unpickler.spend("references")
        load(unpickler)

    def number(unpickler: Any) -> None:
        load(unpickler)
        if unpickler.stack[-1].bit_length() > MAX_BITS:
            raise Refused(f"a number of more than {MAX_BITS} bits")

    if name in MAKERS:
        return make
    return keep if name in KEEPERS else number if name in NUMBERS else load
