"""What a command imports: the packages that write and read prepared photographs take seconds, and few need them."""

import json
import subprocess
import sys

import pytest

from tests.support.photos import write_photos

HEAVY = ["tensorflow_datasets", "pyarrow", "apache_beam", "tensorflow", "torch"]

PROGRAM = f"""
import importlib, json, sys
for name in sys.argv[1].split(","):
    importlib.import_module("sret_jax." + name)
{{act}}
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
INDEX = """
from sret_jax import open_photos
photos = open_photos(sys.argv[2])
assert len(photos) == 4 and photos.source[0]["image"]
"""
PREPARE = """
from sret_jax.data.folders import prepare_folder
photos = prepare_folder(sys.argv[2], sys.argv[2] + "-cache")
"""


def imported(commands, act="", *words):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{act}", act), commands, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        "evaluation.training_run",
        "evaluation.run,cli.updating,cli.described,localization.region_file,server.serving,export.folder",
    ],
)
def test_the_commands_import_no_builders(modules):
    assert imported(modules) == []


@pytest.mark.slow
@pytest.mark.parametrize("act, expected", [(INDEX, []), (PREPARE, ["tensorflow_datasets"])], ids=["opened", "prepared"])
def test_only_prepared_photographs_need_builders(tmp_path, act, expected):
    write_photos(tmp_path / "photos", instances=2, photos=2)
    assert imported("cli.updating", act, str(tmp_path / "photos")) == expected
