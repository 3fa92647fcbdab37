"""`metrics.jsonl`: a JSON object a line, `{"step": 10, "loss": 0.5, ..., "check": "1a2b3c4d"}`, for anybody to read.

"check" is the CRC-32 of the object without it, so a line that was changed is not taken for another one.
"""

import json
import logging
import zlib
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

CHECK = "check"


def metrics_line(step: int, values: dict[str, Any]) -> str:
    """One line, with its end."""
    return json.dumps(_checked({"step": step} | values)) + "\n"


def read_metrics(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The sound lines of a file, in order, as they are and as "step" with what was measured; none where it is not.

    What a kill cuts off, half a line at the end, is left out. A damaged line is left out too, and said in one line.
    Lines without "check", as earlier versions wrote them, count where they are of the right form.
    """
    found, damaged = [], []
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, 1):
        values = _values(line)
        if values is not None:
            found.append((line, values))
        elif number < len(lines) or line.endswith(b"\n"):
            damaged.append(number)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        log.warning("%s: line %d%s is not what was written, and is left out", path, damaged[0], more)
    return found


def _values(line: bytes) -> dict[str, Any] | None:
    """What a whole line says; None of any other."""
    try:
        values: dict[str, Any] = json.loads(line)
        step = values["step"]
        checked = CHECK not in values or values == _checked({k: v for k, v in values.items() if k != CHECK})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    values.pop(CHECK, None)
    sound = line.endswith(b"\n") and type(step) is int and all(type(x) in (int, float) for x in values.values())
    return values if checked and sound else None


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    return values | {CHECK: f"{zlib.crc32(json.dumps(values).encode()):08x}"}
