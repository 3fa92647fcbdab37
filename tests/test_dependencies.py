"""No release is accepted of which a hole is known that files or requests of strangers can reach.

Whoever learns of another hole raises the release here and in `pyproject.toml`; releases that are installed are checked
as well, because an environment may hold older ones than it should.
"""

import importlib.metadata
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.commands import REPOSITORY

SOUND = {  # package: the first release without them, and what they are
    "pillow": ("13.0.0", "CVE-2026-96639, GHSA-5x8w-8jj5-q52h: writes beyond its memory for a JPEG or several frames"),
    "protobuf": ("6.33.5", "CVE-2025-4565, CVE-2026-0994: recursion without end"),
    "starlette": (
        "1.3.1",
        "CVE-2025-62727, CVE-2026-48710, PYSEC-2026-248 and -249: ranges, hosts and forms of requests",
    ),
    "h11": ("0.16.0", "CVE-2025-43859: requests that are hidden in others"),
    "onnx": ("1.21.0", "CVE-2026-27489: links that lead out of a folder"),
    "pyarrow": ("23.0.1", "CVE-2026-25087: memory that is used after it is freed"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206: words of a training set that are kept"),
    "opencv-python-headless": ("4.8.1.78", "CVE-2023-4863: writes beyond its memory for a WebP"),
}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS["onnx"], *EXTRAS["parquet"])]


@pytest.mark.parametrize("package", SOUND)
def test_no_release_with_a_known_hole_is_asked_for_or_installed(package):
    first, why = SOUND[package]
    asked = [requirement.specifier for requirement in ASKED if requirement.name == package]
    lowest = [Version(one.version) for own in asked for one in own if one.operator in (">=", "==", "~=")]
    assert lowest and min(lowest) >= Version(first), why
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return  # of an extra that is not here
    assert Version(installed) >= Version(first), why
