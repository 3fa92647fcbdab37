"""What becomes of every kind of strange photograph is as it is frozen in `frozen_photographs.json`.

    pytest tests/golden/test_photographs.py                         compares
    SRET_GOLDEN=freeze pytest tests/golden/test_photographs.py      writes the file anew, for a change that is meant

Of one that is accepted, the size, and every pixel where all builds of the libraries make the same of it; of others, as
JPEG, means over 8 x 8 parts within two levels. Of one that is rejected, the reason; behind "damaged: " the libraries
speak, and say it otherwise in each version.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sret_jax.data import formats
from sret_jax.data.decoding import PhotoRejected, decode_photo
from tests.support.photo_files import HEIC_START
from tests.support.strange_photos import is_exact, strange_photos

FILE = Path(__file__).parent / "frozen_photographs.json"
PARTS, LEVELS = 8, 2


def outcome(name: str, data: bytes) -> dict[str, Any]:
    try:
        photo = decode_photo(data)
    except PhotoRejected as rejected:
        return {"rejected": rejected.reason}
    size = list(photo.shape[:2])
    if is_exact(name):
        return {"size": size, "sha256": hashlib.sha256(photo).hexdigest()}
    parts = [part.mean((0, 1)) for row in np.array_split(photo, PARTS) for part in np.array_split(row, PARTS, axis=1)]
    means = np.round(np.array(parts)).astype(np.uint8)
    return {"size": size, "means": means.tobytes().hex()}


def test_what_becomes_of_strange_photographs_is_what_is_frozen():
    found = {name: outcome(name, data) for name, data in strange_photos().items()}
    if os.environ.get("SRET_GOLDEN") == "freeze":
        text = json.dumps(found, indent=1, sort_keys=True)
        FILE.write_text(text + "\n")
    frozen = json.loads(FILE.read_text())
    assert len(frozen) >= 60
    assert set(found) <= set(frozen)
    assert all(name.endswith((".avif", ".heic")) for name in set(frozen) - set(found))  # not installed here
    different = {name: (frozen[name], found[name]) for name in found if not same(name, frozen[name], found[name])}
    assert not different
    assert all("\n" not in one.get("rejected", "") for one in found.values())


def same(name: str, frozen: dict[str, Any], found: dict[str, Any]) -> bool:
    if "rejected" in frozen:
        reasons = [one.get("rejected", "") for one in (frozen, found)]
        return reasons[0] == reasons[1] or all(reason.startswith("damaged: ") for reason in reasons)
    if frozen["size"] != found.get("size"):
        return False
    if is_exact(name):
        return bool(frozen["sha256"] == found["sha256"])
    means = [np.frombuffer(bytes.fromhex(one["means"]), np.uint8).astype(int) for one in (frozen, found)]
    return bool(np.abs(means[0] - means[1]).max() <= LEVELS)


def test_a_heic_without_its_extra_is_rejected_with_what_to_install(monkeypatch):
    monkeypatch.setattr(formats, "installed", lambda name: name != "HEIF")
    with pytest.raises(PhotoRejected, match=r'HEIC, which cannot be decoded here: pip install "sret_jax\[heic\]"'):
        decode_photo(HEIC_START + bytes(100))
