"""An exported folder describes photographs to the bit as what it was made of, and names nothing of this machine."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from sret_jax.config import Config, DataConfig, EvalConfig, ExtractConfig, ModelConfig, to_dict
from sret_jax.config.paths import without_paths
from sret_jax.errors import UserError
from sret_jax.export.card import made_by, snippet
from sret_jax.export.folder import export_retriever
from sret_jax.export.parity import photographs_of_all_shapes
from sret_jax.models.weights.shipped import DEFAULT, FOLDER
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


COUNTS = {"photos": 70, "instances": 9, "held_out": 3}


def write_step(root: Path, retriever: Retriever, step: int, chosen: int | None) -> None:
    """A step of a run; with `chosen`, its network is that of another, which validation chose."""
    variables = retriever.variables
    other = jax.tree.map(lambda x: x + 1, variables)
    last = variables if chosen is None else other
    state = TrainState(
        np.int32(step), {"network": last["params"], "loss": {}}, last["batch_stats"], {}, np.zeros(2, np.uint32)
    )
    record = {"config": to_dict(CONFIG)} | COUNTS
    record |= {} if chosen is None else {"validation": {"step": chosen, "curve": []}}
    with Checkpoints(Workdir(root).checkpoints, 5) as checkpoints:
        used = {} if chosen is None else {"chosen": {"variables": variables}}
        checkpoints.save(step, state, record, retriever.whitening, **used)


def write_results(root: Path, name: str, retriever: str, score: float) -> None:
    place = Workdir(root).evaluation(name)
    metrics = {"mAP": score, "queries": 30, "per_query": {"q": 7.5}, "per_instance": {"alice's tower": 6.5}}
    results = {"benchmark": "folder", "photos": 33, "metrics": metrics, "retriever": retriever}
    place.mkdir(parents=True)
    write_json(place / "results.json", results)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, retriever) -> Path:
    """Of a run of five steps, of which validation chose the fourth, that was measured."""
    root = tmp_path_factory.mktemp("alice") / "run"
    write_step(root, retriever, 5, chosen=4)
    own = load(root).fingerprint
    for name, of, score in (
        ("folder", own, 81.25),
        ("folder+sv-100", own, 83.5),
        ("roxford5k", "of step 3", 12.5),
        ("folder-untrained", "of step 0", 13.5),
        ("folder-step-2", "of step 2", 50.5),
    ):
        write_results(root, name, of, score)
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
    assert made_by(tmp_path / "twice", again) == made_by(workdir, before)


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
        "Step 4 of 300, the best on 3 held-out instances, trained on towers, bridges: 70 photographs of 9 instances.",
        "| folder | 33 | mAP 81.25 |",
        "| folder+sv-100 | 33 | mAP 83.50 |",
        "| descriptor | 5 numbers, float32, of unit length |",
        'sret_jax.load("towers-lite0")',
        "model.stage = 'c2'",
    ):
        assert said in card
    for score in ("12.50", "13.50", "50.50"):  # of other networks
        assert score not in card


def test_of_a_step_its_own_evaluations_count(retriever, tmp_path):
    root = tmp_path / "run"
    write_step(root, retriever, 2, chosen=None)
    changed = replace(retriever, variables=jax.tree.map(lambda x: x * 1.5, retriever.variables))
    write_step(root, changed, 4, chosen=None)
    write_results(root, "folder-step-2", load(root / "checkpoints/2").fingerprint, 50.5)
    write_results(root, "folder", load(root).fingerprint, 81.25)
    for source, step, score in ((root / "checkpoints/2", 2, 50.5), (root, 4, 81.25)):
        facts = made_by(source, load(source))
        assert facts["trained"]["step"] == step
        assert facts["measured"] == [{"benchmark": "folder", "photos": 33, "metrics": {"mAP": score, "queries": 30}}]


def test_a_damaged_checkpoint_is_not_that_of_the_card(retriever, tmp_path):
    for step in (2, 4):
        write_step(tmp_path, retriever, step, chosen=None)
    (tmp_path / "checkpoints/4" / MANIFEST).unlink()
    assert made_by(tmp_path, load(tmp_path))["trained"]["step"] == 2


def test_training_that_did_not_help_is_said(retriever, tmp_path):
    write_step(tmp_path / "run", retriever, 4, chosen=0)
    export_retriever(tmp_path / "run", tmp_path / "out")
    assert (
        "The network as it was before training: of 300 steps on 70 photographs of 9 instances none was better on 3 "
        "held-out instances by more than chance." in (tmp_path / "out/README.md").read_text()
    )


def test_what_was_measured_at_several_scales_is_not_said_of_one(tmp_path):
    config = replace(CONFIG, extract=replace(CONFIG.extract, scales=(1.0, 0.5)))
    about = {"made_by": {"measured": [{"benchmark": "folder", "metrics": {"mAP": 81.25}}]}}
    replace(load(CONFIG), config=config).save(tmp_path / "saved", about=about)
    assert export_retriever(tmp_path / "saved", tmp_path / "same")["made_by"] == about["made_by"]
    assert export_retriever(tmp_path / "saved", tmp_path / "out", one_scale=True)["made_by"] == {}


def test_what_comes_with_the_package_has_its_own_card(tmp_path):
    export_retriever("spatial-context-lite0", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "These are the weights `spatial-context-lite0` that come with sret_jax." in card
    own = (FOLDER / "spatial-context-lite0.md").read_text()
    assert own[own.index("## What it was trained on") :].strip() in card


@pytest.mark.parametrize(
    "claimed",
    [
        {"weights": "{secret}"},
        {"weights": ["spatial-context-lite0"]},
        {"trained": {"step": "SECRET", "steps": 9}},
        {"trained": ["SECRET"]},
        {"measured": [["SECRET"], {"benchmark": "b", "photos": "SECRET", "metrics": {"mAP": "SECRET"}}]},
        {"measured": [{"benchmark": "b", "metrics": {"mAP": {"easy": {"SECRET": 1.5}}}}], "other": "SECRET"},
        "SECRET",
    ],
)
def test_what_a_stranger_says_of_a_network_is_words_and_numbers(retriever, tmp_path, claimed):
    (tmp_path / "secret.md").write_text("## What it was trained on\n\nSECRET")
    claimed = json.loads(json.dumps(claimed).replace("{secret}", str(tmp_path / "secret")))
    retriever.save(tmp_path / "saved", about={"made_by": claimed})
    export_retriever(tmp_path / "saved", tmp_path / "out")
    assert "SECRET" not in "".join((tmp_path / "out" / name).read_text() for name in ("README.md", "config.json"))


def test_names_on_the_card_are_no_markup(retriever, tmp_path):
    name = "a|b\n\n# [x](http://y) <script>"
    trained = {"step": 1, "steps": 2, "data": [name]}
    measured = [{"benchmark": name, "metrics": {name: 1.5, "of": {name: 2.5}}}]
    retriever.save(tmp_path / "saved", about={"made_by": {"trained": trained, "measured": measured}})
    export_retriever(tmp_path / "saved", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    safe = "a-b--# -x-(http://y) -script-"
    assert f"| {safe} | ? | {safe} 1.50, of {safe} 2.50 |" in card and f"trained on {safe}: ?" in card


@pytest.mark.slow
def test_what_comes_with_the_package_is_exported_to_the_bit(tmp_path):
    """The network of published size, of photographs of all shapes: in batches with others, and alone."""
    photos, rows = photographs_of_all_shapes(), range(10)
    assert len({photos.photo(row).shape for row in rows}) == 10
    export_retriever(DEFAULT, tmp_path / "out")
    assert load(tmp_path / "out").fingerprint == load().fingerprint
    again, shipped = (
        replace(own, config=replace(own.config, extract=replace(own.config.extract, batch_size=4)))
        for own in (load(tmp_path / "out"), load())
    )
    found, expected = again.describe(photos, rows), shipped.describe(photos, rows)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again.describe(photos, [3]), shipped.describe(photos, [3]))
    cosines = expected @ expected.T
    assert cosines[~np.eye(10, dtype=bool)].max() < 0.99  # and they tell photographs apart


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


def test_the_current_folder_is_not_replaced(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the current folder; give the name of a new one"):
        export_retriever(workdir, ".")


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
