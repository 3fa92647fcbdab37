"""Everything that is measured comes out as it is frozen in `frozen/`: metrics, rankings, masks and descriptors.

    pytest tests/golden                         numbers within 1e-6, all else exactly: rounding differs by processor
    SRET_GOLDEN=exact pytest tests/golden       bit for bit, on the machine where it was frozen
    SRET_GOLDEN=freeze pytest tests/golden      writes the files anew, for a change that is meant: look at the diff

On another processor, or with another release of JAX, than those of `frozen/MADE_BY.txt`, what compares numbers with a
threshold (signs of residuals, pixels of a mask) is compared by its metrics, within 2 %.

A change of the code that is to change no result is proven by `exact` before and after it on one machine: freeze there
first, for the files in the repository may be another processor's.

Timings, versions, paths, fingerprints and sentences are not frozen; the names of the fields of results.json are, of
one run of each kind. Scores and average precisions are as they are printed in the tables that a run leaves.
"""

import json
import math
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.golden.cases import CASES, outcome, unpacked

FROZEN = Path(__file__).parent / "frozen"
HOW = os.environ.get("SRET_GOLDEN", "")
TOLERANCE = 1e-6
# Diffusion solves a linear system step by step, and its scores gather rounding: on two processors that both call
# themselves AMD EPYC they differ by 3e-6. The order of the answers and the metrics do not.
ITERATED, ITERATED_TOLERANCE = ("diffusion", "chain-roxford5k"), 1e-5
MADE_BY = FROZEN / "MADE_BY.txt"  # the processor and the release of JAX that computed the files
# Signs of residuals, and pixels above a threshold: where rounding is another, some of them are. The metrics are near.
THRESHOLDED, NEAR = ("asmk", "where-"), 2.0  # percent


def computer() -> str:
    """What rounding depends on: the processor, whether it has AVX-512, the release of JAX."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    wide = any(line.startswith("flags") and " avx512f " in f"{line} " for line in lines)
    return f"{model}{', AVX-512' if wide else ''}, JAX {jax.__version__}"


def metrics_of(found: dict[str, Any]) -> dict[str, float]:
    """The metrics of an outcome by their places."""
    out: dict[str, float] = {}

    def walk(node: Any, where: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, float):
                out[f"{where}/{name}"] = value
            walk(value, f"{where}/{name}")

    walk(found["results"].get("metrics", {}), "metrics")
    walk(found["results"].get("localization", {}), "localization")
    return out


def differences(frozen: Any, found: Any, exact: bool, where: str = "", scores: float = TOLERANCE) -> list[str]:
    """What differs, each with its place; `scores` is the tolerance of those in the rankings."""
    if isinstance(frozen, dict) and isinstance(found, dict):
        out = [f"{where}: {sorted(set(frozen) ^ set(found))} on one side only"] if set(frozen) != set(found) else []
        for name in frozen.keys() & found.keys():
            if where.endswith("/descriptors"):
                out += _array_differences(frozen[name], found[name], exact, f"{where}/{name}")
            else:
                out += differences(frozen[name], found[name], exact, f"{where}/{name}", scores)
        return out
    if isinstance(frozen, list) and isinstance(found, list) and len(frozen) == len(found):
        pairs = enumerate(zip(frozen, found, strict=True))
        return [text for i, (a, b) in pairs for text in differences(a, b, exact, f"{where}/{i}", scores)]
    same = repr(frozen) == repr(found)  # NaN too
    if not exact and not same:
        same = _near(frozen, found, scores if where.startswith("/rankings.csv/") else TOLERANCE)
    return [] if same else [f"{where}: frozen {frozen!r}, found {found!r}"]


def _near(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, str) and isinstance(b, str):  # numbers as they are printed: one more or less in the last place
        first, second = a.split(" "), b.split(" ")
        return len(first) == len(second) and all(map(partial(_near_printed, tolerance), first, second))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) or (math.isnan(a) and math.isnan(b))
    return False


def _near_printed(tolerance: float, a: str, b: str) -> bool:
    try:
        x, y = float(a), float(b)
    except ValueError:
        return a == b
    digits = len(a.partition(".")[2])
    return a == b or (digits > 0 and abs(x - y) <= 1.01 * 10**-digits + tolerance * abs(x))


def _array_differences(frozen: list, found: list, exact: bool, where: str) -> list[str]:
    if frozen == found:
        return []
    if frozen[0] != found[0]:
        return [f"{where}: shape {frozen[0]} is now {found[0]}"]
    apart = float(np.abs(unpacked(frozen) - unpacked(found)).max())
    return [f"{where}: {apart:.3g} apart"] if exact or not apart <= TOLERANCE else []


def written(found: dict[str, Any]) -> str:
    """JSON with a line for whatever has a name of its own, so that a diff says what changed."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items())
            lines.append(f" {json.dumps(name)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


@pytest.mark.parametrize("name", CASES)
def test_it_comes_out_as_it_is_frozen(tmp_path, name):
    case, file = CASES[name], FROZEN / f"{name}.json"
    found = json.loads(json.dumps(outcome(case, tmp_path)))
    if HOW == "freeze":
        FROZEN.mkdir(exist_ok=True)
        file.write_text(written(found), encoding="utf-8")
        MADE_BY.write_text(computer() + "\n", encoding="utf-8")
    exact = HOW == "exact" and getattr(case, "repeatable", True)
    frozen = json.loads(file.read_text(encoding="utf-8"))
    if HOW == "" and name.startswith(THRESHOLDED) and MADE_BY.read_text(encoding="utf-8").strip() != computer():
        assert metrics_of(found) == pytest.approx(metrics_of(frozen), abs=NEAR)
        return
    apart = differences(frozen, found, exact, scores=ITERATED_TOLERANCE if name in ITERATED else TOLERANCE)
    assert not apart, f"{len(apart)} differences, the first:\n" + "\n".join(apart[:20])


def test_no_file_is_left_of_a_case_that_is_gone():
    assert {path.stem for path in FROZEN.glob("*.json")} == set(CASES)


@pytest.mark.parametrize(
    ("found", "exact", "places"),
    [
        ({"a": 1.0 + 1e-9, "b": "0.5000 7"}, False, []),
        ({"a": 1.0 + 1e-9, "b": "0.5001 7"}, False, []),
        ({"a": 1.0 + 1e-9, "b": "0.5000 7"}, True, ["/a"]),
        ({"a": 1.0 + 1e-4, "b": "0.5003 7"}, False, ["/a", "/b"]),
        ({"a": 1, "b": "0.5000 8"}, False, ["/a", "/b"]),
        ({"a": 1.0}, False, [""]),
    ],
)
def test_what_differs_is_found(found, exact, places):
    apart = differences({"a": 1.0, "b": "0.5000 7"}, found, exact)
    assert sorted(text.partition(":")[0] for text in apart) == places
