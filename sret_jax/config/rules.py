"""What a field of a config may hold, said once and beside it: its type and, in `Annotated`, its range, unit or names.

    image_size: Annotated[int, Between(16, 8192, "pixels")] = 320  # longest side of a photograph

Made of it are what is refused, in which words, and what the help and the documentation say of the field (`reference`).
How fields go together is no matter of one field: `validation`.
"""

import ast
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from sret_jax.errors import UserError, did_you_mean

Own = Callable[[str], Sequence[str]] | None  # names of a kind that do not come with the package; None: not known yet
T = TypeVar("T")
SHOWN = 100  # characters of a value in an error


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`.

    above, below   without `low`, without `high` itself
    odd            odd ones
    zero           or 0, which has a meaning of its own
    """

    low: int | float
    high: int | float
    unit: str = ""
    above: bool = False
    below: bool = False
    odd: bool = False
    zero: bool = False

    def holds(self, value: int | float) -> bool:
        """False for what is no number, too: nothing compares with it."""
        if self.zero and value == 0:
            return True
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return low and high and not (self.odd and value % 2 == 0)

    def __str__(self) -> str:
        low = f"above {self.low:.10g} and" if self.above else f"from {self.low:.10g}"
        high = f" up to {self.high:.10g}" if self.above else f" to {'below ' * self.below}{self.high:.10g}"
        return f"{'0 or ' * self.zero}{low}{high}{self.unit and ' ' + self.unit}"


@dataclass(frozen=True, init=False)
class OneOf:
    """One of some names.

    own     the kind of those that may be added to them: see `own_parts`
    added   what may follow a name: "+1m" itself, or for ":" a whole number behind it
    """

    names: tuple[str, ...]
    own: str
    added: str

    def __init__(self, *names: str, own: str = "", added: str = ""):
        for field, value in (("names", names), ("own", own), ("added", added)):
            object.__setattr__(self, field, value)

    def known(self, own: Own) -> tuple[str, ...]:
        return (*self.names, *own(self.own)) if self.own and own is not None else self.names

    def holds(self, value: str, own: Own) -> bool:
        name, added, rest = value.partition(self.added) if self.added else (value, "", "")
        number = rest.isascii() and rest.isdecimal() and len(rest) < 10 and int(rest) > 0
        if added and not (number if self.added == ":" else not rest):
            return False
        return name in self.known(own) or bool(self.own and own is None and name)

    def says(self, own: Own) -> str:
        how = {"": "", ":": ", each with :NUMBER or not"}.get(self.added, f", each with {self.added} or not")
        return ", ".join(name or '""' for name in self.known(own)) + how


@dataclass(frozen=True)
class Text:
    """Any text of `least` characters or more, which names `what`."""

    what: str = ""
    least: int = 0
    most: int = 32_768

    def holds(self, value: str) -> bool:
        return self.least <= len(value) <= self.most and "\0" not in value

    def __str__(self) -> str:
        return f"text of {self.least} to {self.most} characters"


@dataclass(frozen=True)
class Count:
    """Of a tuple: how many there are; `ascending`: none less than the one before."""

    least: int
    most: int
    ascending: bool = False


@dataclass(frozen=True)
class PlainDict:
    """A dict by names, with plain values of one type: numbers, words, truth values, lists and dicts of them."""

    what: str
    values: type

    def holds(self, value: Any) -> bool:
        return all(isinstance(one, self.values) for one in value.values()) and _is_plain(value)


@dataclass(frozen=True)
class Rule:
    """What one field may hold.

    kind   bool, int, float, str or dict; of a tuple that of its elements
    of     its range or names; None of a bool
    count  of a tuple
    """

    kind: type
    of: Between | OneOf | Text | PlainDict | None = None
    count: Count | None = None

    def fault(self, value: object, own: Own = None) -> str:
        """What an error says of a value that may not be, "" of one that may.

        Args:
          own: names that do not come with the package; without it any name is taken where there may be some.
        """
        if self.count is None:
            return "" if self._holds(value, own) else self._refusal(value, own)
        if not isinstance(value, tuple) or not self.count.least <= len(value) <= self.count.most:
            return f"must be {self.says(own)}"
        wrong = [one for one in value if not self._holds(one, own)]
        if wrong and isinstance(self.of, OneOf):
            return f"{shown(wrong[0])}: {self._refusal(wrong[0], own)}"
        if wrong or (self.count.ascending and list(value) != sorted(value)):
            return f"must be {self.says(own)}"
        return ""

    def says(self, own: Own = None) -> str:
        """What may be, in words."""
        if self.count is None:
            return self._one(own)
        least, most = self.count.least, self.count.most
        many = f"{least}" if least == most else f"{least} to {most}"
        order = ", none less than the one before" if self.count.ascending else ""
        noun = {int: "whole numbers", float: "numbers", str: "texts"}[self.kind]
        if isinstance(self.of, OneOf):
            return f"a tuple of {many} of {self.of.says(own)}"
        return f"a tuple of {many} {noun}, each {self.of}{order}"

    def _one(self, own: Own) -> str:
        if isinstance(self.of, OneOf):
            return f"one of {self.of.says(own)}"
        if isinstance(self.of, Between):
            return f"{'an odd' if self.of.odd else 'a'} {'whole ' * (self.kind is int)}number {self.of}"
        if isinstance(self.of, PlainDict):
            return f"a dict {self.of.what}"
        return "True or False" if self.of is None else str(self.of)

    def _refusal(self, value: object, own: Own) -> str:
        if isinstance(self.of, OneOf):
            meant = did_you_mean(value, self.of.known(own)) if isinstance(value, str) and len(value) < SHOWN else ""
            return f"choose {self._one(own)}{meant}"
        return f"must be {self._one(own)}"

    def _holds(self, value: Any, own: Own) -> bool:
        if isinstance(self.of, Between):
            kinds = int if self.kind is int else (int, float)
            return isinstance(value, kinds) and not isinstance(value, bool) and self.of.holds(value)
        fits: bool = isinstance(value, self.kind)
        if isinstance(self.of, OneOf):
            return fits and self.of.holds(value, own)
        return fits and (self.of is None or self.of.holds(value))


def _is_plain(value: object, depth: int = 0) -> bool:
    """Whether JSON can hold it, and gives it back."""
    if isinstance(value, dict | list | tuple):
        parts = [*value.values()] if isinstance(value, dict) else list(value)
        keys = isinstance(value, dict) and not all(isinstance(key, str) for key in value)
        return depth < 20 and not keys and all(_is_plain(part, depth + 1) for part in parts)
    if isinstance(value, bool | int | str) or value is None:
        return not isinstance(value, int) or abs(value) < 1 << 64
    return isinstance(value, float) and math.isfinite(value)


_RULES: dict[type, dict[str, Rule]] = {}


def ruled(cls: type[T]) -> type[T]:
    """Of a dataclass: keeps the rule of every field that is not a section, and leaves its plain type in the field,
    where what reads the command line looks for it.

    Raises `TypeError` for a field without a rule.
    """
    hints, rules = get_type_hints(cls, include_extras=True), {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[field.name]
        if not dataclasses.is_dataclass(hint):
            rules[field.name] = _rule(hint, f"{cls.__name__}.{field.name}")
            field.type = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    _RULES[cls] = rules
    return cls


def _rule(hint: Any, name: str) -> Rule:
    marks: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
    count = next((mark for mark in marks if isinstance(mark, Count)), None)
    of = next((mark for mark in marks if not isinstance(mark, Count)), None)
    kind: Any = get_origin(hint) or hint
    if kind is tuple:
        kind = get_args(hint)[0]
        if count is None:
            raise TypeError(f"{name}: no rule says how many; give Count")
    fits = {int: Between, float: Between, str: OneOf | Text, dict: PlainDict, bool: type(None)}
    if kind not in fits or not isinstance(of, fits[kind]):
        raise TypeError(f"{name}: no rule of what it may hold; give its type and a range, names or Text")
    return Rule(kind, of, count)


def rules_of(cls: type) -> dict[str, Rule]:
    """By the name of a field, of a class that is `ruled`; without its sections."""
    return _RULES[cls]


def rule_at(path: str, cls: type) -> Rule | None:
    """Of a dotted path below a class; None of a section, and of what is no field."""
    *parents, name = path.split(".")
    for parent in parents:
        section = {field.name: field.type for field in dataclasses.fields(cls)}.get(parent)
        if not isinstance(section, type) or section not in _RULES:
            return None
        cls = section
    return _RULES[cls].get(name)


def check(settings: object, path: str, own: Own = None) -> None:
    """Raises `UserError` for the first field that holds what its rule refuses: its full name, the value, what may be.

    Args:
      settings: of a class that is `ruled`.
      path: what stands before the name of a field: "config.".
      own: see `Rule.fault`.
    """
    for name, value in _values(settings, path):
        if fault := _rule_of(settings, name).fault(value, own):
            raise UserError(f"{path}{name}={shown(value)}: {fault}")
    for name, section in _sections(settings):
        value = getattr(settings, name)
        if type(value) is not section:
            raise UserError(f"{path}{name}={shown(value)}: must be a {section.__name__}")
        check(value, f"{path}{name}.", own)


def _rule_of(settings: object, name: str) -> Rule:
    return _RULES[type(settings)][name]


def _values(settings: object, path: str) -> Iterator[tuple[str, object]]:
    """`(name, value)` of the fields with a rule. Raises `UserError` for what is set and is no field."""
    rules = _RULES[type(settings)]
    known = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    for name in vars(settings):
        if name not in known:
            raise UserError(f"{path}{name}: no field {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    for name in rules:
        yield name, getattr(settings, name)


def _sections(settings: object) -> list[tuple[str, type]]:
    fields = dataclasses.fields(settings)  # type: ignore[arg-type]
    rules = _RULES[type(settings)]
    return [(field.name, field.type) for field in fields if field.name not in rules and isinstance(field.type, type)]


_TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read_text(text: str, rule: Rule) -> Any:
    """What a command line gives a field, as it reads types; None where it is none of its type."""
    try:
        if rule.count is not None:
            found = ast.literal_eval(text)
            return tuple(found) if isinstance(found, tuple | list) else (found,)
        if rule.kind is bool:
            return _TRUTH[text.lower()]
        if rule.kind is int:
            return int(text, 16 if text.lower().startswith("0x") else 10)
        return text if rule.kind is str else rule.kind(text)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        bare = rule.count is not None and rule.kind is str and not set(text) & set(" ,()[]")
        return (text,) if bare else None


def shown(value: object) -> str:
    """A value as an error shows it: on one line, and cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of thousands of digits, a list in itself, an object of theirs
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


# What several fields hold.
MOST_STEPS = 100_000_000
Share = Annotated[float, Between(0, 1)]
ShareBelow1 = Annotated[float, Between(0, 1, below=True)]
Pixels = Annotated[int, Between(16, 8192, "pixels")]  # the smallest photograph that is read has sides of 16
Seed = Annotated[int, Between(0, 2**32 - 1)]
Steps = Annotated[int, Between(1, MOST_STEPS, "steps")]
StepsOrNone = Annotated[int, Between(0, MOST_STEPS, "steps")]
ChunkRows = Annotated[int, Between(1, 10_000_000, "rows")]
Ridge = Annotated[float, Between(0, 1e6)]
Rate = Annotated[float, Between(0, 1000, above=True)]
Factor = Annotated[float, Between(0, 1e6)]
FilePath = Annotated[str, Text("path")]
Word = Annotated[str, Text("name", least=1)]
Scales = Annotated[tuple[float, ...], Between(0.05, 8), Count(1, 16)]
Parts = Annotated[dict[str, dict[str, Any]], PlainDict("{name of a part: {argument: numbers, words, lists}}", dict)]
