"""An exported folder describes photographs to the bit as what it was made of, and names nothing of this machine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sret_jax.config import Config, DataConfig, EvalConfig, ExtractConfig, ModelConfig, to_dict
from sret_jax.config.paths import without_paths
from sret_jax.errors import UserError
from sret_jax.export.card import made_by, snippet
from sret_jax.export.folder import export_retriever
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import MANIFEST, DamagedError, write_json
from sret_jax.storage.workdir import Workdir
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.step import TrainState
from tests.support.photos import photo_set

PHOTOS = photo_set()
CONFIG = Config(
    data=DataConfig(
        image_size=64,
        bucket_ratios=(),
        threads=1,
        root="/home/alice/towers,/mnt/b/bridges",
        splits="/home/alice/s.json,",
    ),
    model=ModelConfig(weights="none", stage="c2", whitening_dim=8, whitening_init="random"),
    extract=ExtractConfig(batch_size=8),
    eval=EvalConfig(root="/home/alice/eval", distractors=("/home/alice/noise",), gnd="/home/alice/gnd.json"),
)
RNG = np.random.default_rng(0)
LEARNED = LearnedWhitening(*(RNG.normal(size=shape).astype("float32") for shape in ((8,), (8, 5))))


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return replace(load(CONFIG), whitening=LEARNED)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, retriever) -> Path:
    """Of a run of four steps that was measured."""
    root, variables = tmp_path_factory.mktemp("alice") / "run", retriever.variables
    state = TrainState(
        np.int32(4), {"network": variables["params"], "loss": {}}, variables["batch_stats"], {}, np.zeros(2, np.uint32)
    )
    with Checkpoints(Workdir(root).checkpoints, 2) as checkpoints:
        checkpoints.save(4, state, {"config": to_dict(CONFIG)}, retriever.whitening)
    write_json(Workdir(root).config, {"config": to_dict(CONFIG), "photos": 70, "instances": 9})
    for name, score in (("folder", 81.25), ("folder-untrained", 12.5), ("folder-step-2", 50.5)):
        Workdir(root).evaluation(name).mkdir(parents=True)
        results = {"benchmark": "folder", "photos": 33, "metrics": {"mAP": score, "per_query": {}}}
        write_json(Workdir(root).evaluation(name) / "results.json", results)
    return root


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "towers-lite0"
    export_retriever(workdir, folder)
    return folder


def test_what_is_loaded_from_it_describes_to_the_bit(workdir, exported, tmp_path):
    again, before = load(exported), load(workdir)
    assert again.fingerprint == before.fingerprint
    np.testing.assert_array_equal(again.describe(PHOTOS), before.describe(PHOTOS))
    export_retriever(exported, tmp_path / "twice")
    assert load(tmp_path / "twice").fingerprint == before.fingerprint
    assert made_by(tmp_path / "twice") == made_by(workdir)


def test_it_names_nothing_of_this_machine(exported, workdir):
    for path in exported.iterdir():
        data = path.read_bytes()
        for word in (b"alice", b"/mnt", b"/home", b"/tmp", str(workdir).encode()):
            assert word not in data, (path.name, word)
    config = load(exported).config
    assert config == without_paths(CONFIG)
    assert replace(config, data=CONFIG.data, eval=CONFIG.eval) == CONFIG
    assert {path.name for path in exported.iterdir()} == {"README.md", "config.json", "model.safetensors", MANIFEST}


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("/home/alice/gl18.pth", "gl18.pth"),
        ("/home/alice/a:b.pth", "a:b.pth"),
        ("/home/alice/gl18.pth#teacher", "gl18.pth#teacher"),
        ("{here}/gl18.pth#params/teacher", "gl18.pth#params/teacher"),
        ("{here}/of #1/net.pth", "net.pth"),
        ("/home/of #1/alice/gone.pth", "gone.pth"),
        ("hf-hub:org/name", "hf-hub:org/name"),
        ("hf_hub:org/name@main/a.safetensors#vision/model", "hf_hub:org/name@main/a.safetensors#vision/model"),
        ("local-dir:/home/alice/vit", "vit"),
        ("local-dir:/home/alice/vit#visual", "vit#visual"),
        ("auto", "auto"),
    ],
)
def test_of_weights_their_name_is_left(tmp_path, weights, name):
    for file in ("gl18.pth", "of #1/net.pth"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    config = replace(CONFIG, model=replace(CONFIG.model, weights=weights.format(here=tmp_path)))
    assert without_paths(config).model.weights == name


def test_config_json_says_how_photographs_are_shown(exported):
    shown = json.loads((exported / "config.json").read_text())["preprocessing"]
    assert shown["mean"] == pytest.approx([127 / 255] * 3, abs=1e-6)
    assert shown["deviation"] == pytest.approx([128 / 255] * 3, abs=1e-6)
    wanted = {"image_size": 64, "size_multiple": 32, "scales": [1.0], "filter": "bicubic", "colours": "RGB"}
    assert wanted.items() <= shown.items()


def test_the_card_says_what_is_known(exported):
    card = (exported / "README.md").read_text()
    head = card.split("---")[1]
    assert "library_name: sret_jax" in head and "pipeline_tag: image-feature-extraction" in head
    assert not any(line.startswith("license") for line in head.splitlines())  # the person's to say
    for said in (
        "Step 4 of 300, trained on towers, bridges: 70 photographs of 9 instances.",
        "| folder | 33 | mAP 81.25 |",
        "| descriptor | 5 numbers, float32, of unit length |",
        'sret_jax.load("towers-lite0")',
        "model.stage = 'c2'",
    ):
        assert said in card
    assert "12.5" not in card and "50.5" not in card  # of another network


def test_what_comes_with_the_package_has_its_own_card(tmp_path):
    assert made_by("spatial-context-lite0") == {"weights": "spatial-context-lite0"}


def test_a_person_may_write_the_licence_and_a_hub_add_files(exported, tmp_path):
    export_retriever(exported, folder := tmp_path / "copy")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert load(folder).fingerprint == load(exported).fingerprint
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("64", "96"))
    with pytest.raises(DamagedError, match="config.json: changed since it was written"):
        load(folder)


def test_a_folder_that_holds_something_is_left_alone(workdir, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds something; choose a new folder"):
        export_retriever(workdir, tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_nothing_is_left_where_a_program_cannot_be_made(retriever, tmp_path):
    config = replace(CONFIG, extract=replace(CONFIG.extract, scales=(1.0, 0.5)))
    replace(retriever, config=config).save(tmp_path / "saved")
    with pytest.raises(UserError, match=r"config.extract.scales=\(1.0, 0.5\): .* give --one-scale"):
        export_retriever(tmp_path / "saved", tmp_path / "out", as_stablehlo=True)
    assert not (tmp_path / "out").exists()
    export_retriever(tmp_path / "saved", tmp_path / "out", one_scale=True)
    assert load(tmp_path / "out").config.extract.scales == (1.0,)


def test_the_documentation_has_the_program_of_the_card():
    assert f"```python\n{snippet()}```" in (Path(__file__).parents[2] / "docs/export.md").read_text()
