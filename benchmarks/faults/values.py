"""Bad values for every field of a config: are they refused, in one line that names the field, and at once?

    python benchmarks/faults/values.py [--tries=1000] [--commands=12]

The values are made of each field's rule and type: too small, too large, of another type, not finite, empty, of the
wrong length, out of order. They come in as they do in use: set in Python and given to `validate`, in the config of a
run, and as the text of a flag. `--tries` of them are spread over all fields and ways; `--commands` more are given to
`sret train` and `sret eval` in processes of their own. Prints a table; exit code 1 where anything fell short.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sret_jax.cli.command import with_config
from sret_jax.config import Config, from_dict, to_dict
from sret_jax.config.reference import Field, fields
from sret_jax.config.rules import Between, OneOf, PlainDict, Rule, Text
from sret_jax.config.validation import validate
from sret_jax.errors import UserError

HUGE = 10**400
REPOSITORY = Path(__file__).parents[2]
ALLOWED_SECONDS = 1.0


class Bad(NamedTuple):
    """A value that a field may not hold, and how: "too small", "not finite"."""

    field: Field
    kind: str
    value: Any


def bad_values(rule: Rule) -> Iterator[tuple[str, Any]]:
    """`(kind, value)` of what the rule refuses, all of it."""
    if rule.count is None:
        yield from _bad(rule)
        yield "wrong type", ()
        return
    good = edge_values(Rule(rule.kind, rule.of))
    least, most = rule.count.least, rule.count.most
    fill = max(least, 1)
    for kind, value in _bad(rule):
        yield kind, (value,) + (good[0],) * (fill - 1)
        yield kind, (good[0],) * (fill - 1) + (value,)
    if least:
        yield "empty", ()
        yield "wrong length", (good[0],) * (least - 1)
    yield "wrong length", (good[0],) * (most + 1)
    if rule.count.ascending:
        yield "out of order", (good[-1], good[0])
    yield "wrong type", good[0]
    yield "wrong type", [good[0]] * fill
    yield "wrong type", {good[0]: 1}
    yield "wrong type", None


def _bad(rule: Rule) -> Iterator[tuple[str, Any]]:
    """Of a value, or of an element of a tuple."""
    for other in (None, {}, [], object(), b"1", 1j):
        if not isinstance(other, rule.kind):
            yield "wrong type", other
    if rule.kind is not bool:
        yield "wrong type", True
    if rule.kind is bool or rule.kind is str or rule.kind is dict:
        yield from (("wrong type", 0), ("wrong type", 0.5), ("not finite", math.nan))
    if rule.kind is bool:
        yield from (("wrong type", "True"), ("empty", ""), ("wrong type", np.bool_(True)))
    if isinstance(rule.of, Between):
        yield from _beyond(rule.kind, rule.of)
    if isinstance(rule.of, OneOf):
        names = [name for name in rule.of.names if name]
        yield from (("no name", f"{names[0]}x"), ("no name", names[0].upper() + " "), ("too large", "x" * 100_000))
        if "" not in rule.of.names:
            yield "empty", ""
    if isinstance(rule.of, Text):
        yield from (("too large", "x" * (rule.of.most + 1)), ("no text of files", "a\0b"))
        if rule.of.least:
            yield "empty", ""
    if isinstance(rule.of, PlainDict):
        yield from (("wrong type", {"a": 1}), ("wrong type", {1: {}}), ("wrong type", {"a": object()}))
        if rule.of.values is dict:
            yield from (("not finite", {"a": {"b": math.nan}}), ("wrong type", {"a": {"b": np.ones(2)}}))


def _beyond(kind: type, of: Between) -> Iterator[tuple[str, Any]]:
    """Of numbers: past both ends, not finite, of types that look like numbers."""
    step: Any = 1 if kind is int else 1e-6 * max(1.0, abs(of.high))
    yield "too small", kind(of.low) if of.above else kind(of.low) - (1 if kind is int else 1e-9)
    yield "too small", kind(of.low) - 1
    yield "too small", -HUGE
    yield "too large", kind(of.high) if of.below else kind(of.high) + step
    yield "too large", HUGE
    if of.odd:
        yield "even", kind(of.low) + 1
    if of.zero:
        yield "too small", kind(of.low) - 1
    yield from (("not finite", x) for x in (math.nan, math.inf, -math.inf))
    yield from (("wrong type", x) for x in ("1", "", "nan", np.float32(of.high), np.ones(1)))
    if kind is int:
        yield "wrong type", float(of.high)


def edge_values(rule: Rule) -> list[Any]:
    """What the rule takes, at both ends."""
    of = rule.of
    if of is None:
        good: list[Any] = [False, True]
    elif isinstance(of, Between):
        tiny: Any = 1 if rule.kind is int else 1e-9
        good = [rule.kind(of.low) + tiny * of.above, rule.kind(of.high) - tiny * of.below] + [rule.kind(0)] * of.zero
    elif isinstance(of, OneOf):
        added = {"": [], ":": [f"{of.names[0]}:1"]}.get(of.added, [f"{of.names[0]}{of.added}"])
        good = [*of.names, *added]
    elif isinstance(of, Text):
        good = ["x" * of.least, "x" * of.most, "a photograph, \u00fcber all.jpg"[: of.most]]
    else:
        good = [{}, {"a": {"b": [1, 2.5, "x", None, True]} if of.values is dict else "b"}]
    if rule.count is None:
        return good
    least, most = rule.count.least, rule.count.most
    longest = [(good[0],) * least, (good[-1] if not isinstance(of, Text) else "x",) * most]
    return [*longest, *([tuple(good[:2])] if least <= 2 <= most else [])]


def all_bad() -> list[Bad]:
    return [Bad(field, kind, value) for field in fields() for kind, value in bad_values(field.rule)]


def set_in(config: Config, path: str, value: Any) -> Config:
    """The config with a field, named "config.a.b", set to whatever is given."""
    *parents, name = path.split(".")[1:]
    node: Any = config
    for parent in parents:
        node = getattr(node, parent)
    setattr(node, name, value)
    return config


def in_python(bad: Bad) -> None:
    validate(set_in(Config(), bad.field.path, bad.value))


def in_a_run(bad: Bad) -> None:
    """In the config of a run, as JSON gives it back where it can hold it."""
    values = to_dict(Config())
    *parents, name = bad.field.path.split(".")[1:]
    node = values
    for parent in parents:
        node = node[parent]
    node[name] = bad.value
    from_dict(values)


def as_a_flag(bad: Bad) -> None:
    with_config(["sret train", "--config=gem", f"--{bad.field.path}={flag_text(bad.value)}"])


def flag_text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def comes_as_text(bad: Bad) -> bool:
    """Whether a flag can say it: text is never of another type there, and "1" is a number."""
    written = isinstance(bad.value, str | int | float | tuple) and not isinstance(bad.value, np.generic)
    of_text = bad.field.rule.kind is str or bad.kind == "wrong type"
    within = isinstance(bad.value, tuple) and any(not isinstance(x, str | int | float) for x in bad.value)
    open_choice = isinstance(bad.field.rule.of, OneOf) and bad.field.rule.of.own
    return written and not of_text and not within and not open_choice


def comes_from_json(bad: Bad) -> bool:
    """Names of parts of one's own are only known when all is read; a list is a tuple there."""
    open_choice = isinstance(bad.field.rule.of, OneOf) and bad.field.rule.of.own and bad.kind == "no name"
    return not open_choice and not isinstance(bad.value, list) and bad.kind != "too large"


WAYS: dict[str, tuple[Callable[[Bad], None], Callable[[Bad], bool]]] = {
    "set in Python": (in_python, lambda bad: True),
    "config of a run": (in_a_run, comes_from_json),
    "flag": (as_a_flag, comes_as_text),
}


class Outcome(NamedTuple):
    """What became of a bad value: "" where it was refused as it has to be."""

    fault: str
    seconds: float


def tried(way: Callable[[Bad], None], bad: Bad) -> Outcome:
    start = time.perf_counter()
    try:
        way(bad)
        fault = "accepted"
    except UserError as error:
        fault = line_fault(str(error), bad)
    except Exception as error:
        fault = f"traceback: {type(error).__name__}: {str(error)[:200]}"
    return Outcome(fault, time.perf_counter() - start)


def line_fault(line: str, bad: Bad) -> str:
    """What the error lacks: the field's full name, the value, what may be, or that it is one line of a sane length."""
    if f"{bad.field.path}=" not in line:
        return f"does not name the field: {line[:200]}"
    if "must be " not in line and "choose one of " not in line:
        return f"does not say what may be: {line[:200]}"
    return f"{len(line)} characters" if len(line) > 2000 or "\n" in line else ""


def by_command(bad: Bad, command: str, folder: Path) -> tuple[str, float]:
    """`(fault, seconds)` of a command with the value as a flag, in a process of its own; its imports count too."""
    words = ["--config=gem", f"--workdir={folder / 'run'}", f"--{bad.field.path}={flag_text(bad.value)}"]
    start = time.perf_counter()
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    call = [sys.executable, "-m", "sret_jax.cli.main", command, *words]
    done = subprocess.run(call, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    if "Traceback" in done.stderr:
        fault = f"traceback: {lines[-1]}"
    elif done.returncode != 2 or len(lines) != 1:
        fault = f"exit {done.returncode}, {len(lines)} lines"
    else:
        fault = line_fault(lines[0], bad)
    return fault, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1000, help="at least so many, over all fields")
    parser.add_argument("--commands", type=int, default=12, help="of them by commands in processes of their own")
    args = parser.parse_args()
    bad, rows, fell_short = all_bad(), [], []
    order = np.random.default_rng(0).permutation(len(bad))
    every = [(name, bad[i]) for name, (_, takes) in WAYS.items() for i in order if takes(bad[i])]
    chosen = every if len(every) <= args.tries else _spread(every, args.tries)
    for name, (way, _) in WAYS.items():
        outcomes = [(one, tried(way, one)) for given, one in chosen if given == name]
        rows.append((name, outcomes))
    with tempfile.TemporaryDirectory() as folder:
        texts = [bad[i] for i in order if comes_as_text(bad[i]) and len(flag_text(bad[i].value)) < 1000]
        commands = []
        for i, one in enumerate(texts[: args.commands]):
            fault, seconds = by_command(one, ("train", "eval")[i % 2], Path(folder))
            commands.append((one, Outcome(fault, seconds)))
    rows.append(("commands, with their imports", commands))
    print("| given as | fields | tried | tracebacks | silently accepted | other faults | slowest, s |")
    print("|---|---|---|---|---|---|---|")
    for name, outcomes in rows:
        faults = [outcome.fault for _, outcome in outcomes]
        named = len({one.field.path for one, _ in outcomes})
        counts = [sum(fault.startswith(kind) for fault in faults) for kind in ("traceback", "accepted")]
        slowest = max((outcome.seconds for _, outcome in outcomes), default=0.0)
        late = slowest > ALLOWED_SECONDS and not name.startswith("commands")
        others = sum(map(bool, faults)) - sum(counts) + late
        print(f"| {name} | {named} | {len(faults)} | {counts[0]} | {counts[1]} | {others} | {slowest:.3f} |")
        fell_short += [(name, one, outcome) for one, outcome in outcomes if outcome.fault]
    for name, one, outcome in fell_short[:50]:
        print(f"{name}: {one.field.path}={json.dumps(repr(one.value)[:80])} ({one.kind}): {outcome.fault}")
    return 1 if fell_short else 0


def _spread(every: list[tuple[str, Bad]], count: int) -> list[tuple[str, Bad]]:
    """So many of them, evenly over all; each field at least once in each way where there are enough."""
    seen: set[tuple[str, str]] = set()
    first, rest = [], []
    for name, one in every:
        (rest if (name, one.field.path) in seen else first).append((name, one))
        seen.add((name, one.field.path))
    need = max(0, count - len(first))
    places = np.linspace(0, len(rest) - 1, need).astype(int)
    return [*first, *(rest[i] for i in places)]


if __name__ == "__main__":
    sys.exit(main())
