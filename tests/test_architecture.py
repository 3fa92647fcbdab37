"""Rules of the layout, read from the syntax trees: who may import whom, one outside service per file, tests in step."""

import ast
import tomllib
from pathlib import Path

import pytest

import sret_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sret_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = ROOT / "tests"

# Each part may import only from those before it, and from itself.
ORDER = (
    "errors storage config data datasets metrics models extraction training retriever export retrieval reranking "
    "localization collection evaluation parts server cli"
).split()
ROOT_FILES = {"__init__.py", "errors.py", "retriever.py", "py.typed"}  # whatever else there is has a folder

# Services that would be costly to replace are known to one place each.
ONLY_IN = {
    "scann": "retrieval/approximate.py",
    "jraph": "models/graph.py",
    "orbax": "storage/checkpoint.py",
    "tensorflow_datasets": ("data/records.py", "data/beam.py"),
    "array_record": "data/records.py",
    "grain": "data/",
    "pillow_heif": "data/decoding.py",
    "PIL": ("data/", "datasets/", "evaluation/", "export/describe_with_onnx.py"),
    "tensorboard": "training/",
    "apache_beam": "data/beam.py",
    "fsspec": "data/remote.py",
    "ray": "collection/on_ray.py",
    "onnx": "export/",
    "onnxruntime": "export/",
    "pyarrow": "export/",
    "pymilvus": "retrieval/milvus.py",
    "psycopg": "retrieval/pgvector.py",
    "starlette": "server/",
    "huggingface_hub": "models/weights/hub.py",
    "uvicorn": "server/serving.py",
}
NEVER = {"tensorflow", "torch", "pickle"}
# It restricts the unpickler of the standard library, so it must import it.
MAY_IMPORT_PICKLE = "storage/plain_pickle.py"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_follow_the_order(path):
    part = relative(path).split("/")[0].removesuffix(".py")
    if part == "__init__":
        return
    allowed = ORDER[: ORDER.index(part) + 1]
    for name in imports(path):
        if name.startswith("sret_jax."):
            assert name.split(".")[1] in allowed, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_one_file_knows_each_service(path):
    roots = {name.split(".")[0] for name in imports(path)}
    for service, places in ONLY_IN.items():
        assert service not in roots or relative(path).startswith(places), f"{relative(path)} imports {service}"
    forbidden = roots & (NEVER - ({"pickle"} if relative(path) == MAY_IMPORT_PICKLE else set()))
    assert not forbidden, f"{relative(path)} imports {forbidden}"


@pytest.mark.parametrize("name", ["pmap", "shard_map"])
def test_what_runs_on_all_devices_is_called_in_one_file(name):
    callers = {
        relative(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == name
    }
    assert callers == {"training/parallel.py"}


def test_the_root_of_the_package_holds_folders_and_little_else():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == ROOT_FILES


def test_every_folder_is_in_the_wheel():
    """The packages are listed by name, because one of them, the configs, lies outside."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert set(listed) == folders | {"sret_jax.configs"}


def test_the_face_resolves_to_what_it_says():
    named = {ROOT / "sret_jax" / place.replace(".", "/") for place in sret_jax._PLACES.values()}
    assert all(path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() for path in named)


def test_no_test_file_imports_another():
    """What several share is in `tests/support/`, or a fixture of a `conftest.py`."""
    found = {
        f"{path.relative_to(TESTS)} imports {name}"
        for path in TESTS.rglob("*.py")
        for name in imports(path)
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    }
    assert not found


def test_the_folders_of_tests_are_those_of_the_package():
    """Besides what serves all tests, frozen results, and the tests of the scripts in `benchmarks/`."""
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")}
    beside = {".", "support", "golden", "benchmarks"}
    assert folders - beside <= {path.parent.relative_to(PACKAGE).as_posix() for path in FILES}
