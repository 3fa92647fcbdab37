"""Every benchmark by its name, in a miniature of its format: builder, descriptors, search, metric. One tiny network."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_eval import config, write_photos
from test_extract import NETWORK, VARIABLES
from test_lookups import gldv2, ilias, million, paintings
from test_revisited import write_benchmark

from sret_jax import experiment, submitted
from sret_jax.config import LocalizeConfig, LocalSearchConfig
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmarks import BENCHMARKS, PIXEL, REVISITED, Request
from sret_jax.localization.methods import METHODS


def labelled(root: Path, name: str) -> Path:
    """What a photograph shows is in its upper left quarter."""
    write_benchmark(root, name=name)
    (root / "quarter.json").write_text(json.dumps({"shapes": [{"points": [[0, 0], [47, 0], [47, 31], [0, 31]]}]}))
    pairs = {f"{q}_{i}": "quarter.json" for q in range(2) for i in range(q, 6, 2)}
    np.save(root / f"{'oxford' if name == 'roxford5k' else 'paris'}_pair2labelpath.npy", pairs)
    return root


def masked_paintings(root: Path) -> Path:
    """Each mask is all of its photograph."""
    paintings(root)
    entries = json.loads((root / "ground_truth.json").read_text())
    for entry in entries:
        entry["mask"] = entry["image"].replace(".jpg", ".png")
        size = Image.open(root / entry["image"]).size
        Image.new("L", size, 255).save(root / entry["mask"])
    (root / "ground_truth.json").write_text(json.dumps(entries))
    return root


MINIATURES = {
    "synthetic": lambda root: None,
    "folder": write_photos,
    "roxford5k": lambda root: write_benchmark(root, name="roxford5k"),
    "rparis6k": lambda root: write_benchmark(root, name="rparis6k"),
    "revisited": lambda root: write_benchmark(root, name="own"),
    "gldv2": gldv2,
    "ilias": ilias,
    "paintings": masked_paintings,
    "proxford": lambda root: labelled(root, "roxford5k"),
    "prparis": lambda root: labelled(root, "rparis6k"),
}
SEARCHED = {
    "folder": 12,
    "roxford5k": 6,
    "rparis6k": 6,
    "revisited": 6,
    "gldv2": 6,
    "ilias": 5,
    "paintings": 4,
} | dict.fromkeys(PIXEL, 6)
QUERIES = {
    "folder": 12,
    "roxford5k": 2,
    "rparis6k": 2,
    "revisited": 2,
    "gldv2": 2,
    "ilias": 2,
    "paintings": 2,
} | dict.fromkeys(PIXEL, 2)


def test_none_is_left_out():
    assert set(MINIATURES) == set(BENCHMARKS) == {*SEARCHED, "synthetic"} == {*QUERIES, "synthetic"}


@pytest.fixture(scope="module")
def distractors(tmp_path_factory):
    return million(tmp_path_factory.mktemp("million"))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_it_is_measured_and_distractors_only_add_wrong_answers(tmp_path, benchmark, distractors):
    root = MINIATURES[benchmark](tmp_path / "root")
    settings = config()
    settings = replace(settings, eval=replace(settings.eval, synthetic_instances=2, synthetic_photos=2))
    options = {"root": str(root) if root else "", "cache_dir": tmp_path / "cache"}
    if benchmark == "revisited":
        options["gnd"] = str(root / "gnd_own.json")

    def measure(out: str, **more) -> dict:
        return experiment.evaluate(
            NETWORK, VARIABLES, settings, benchmark, tmp_path / "run/eval" / out, **options, **more
        )

    alone, more = measure("alone"), measure("more", distractors=[str(distractors)])
    assert alone["photos"] == SEARCHED.get(benchmark, 4) and more["photos"] == alone["photos"] + 3
    assert alone["metrics"]["queries"] == QUERIES.get(benchmark, 4) and more["distractors"] == {"revisitop1m": 3}
    name = next(name for name in alone["metrics"] if name.startswith("mAP"))
    assert 0 < more["metrics"][name] <= alone["metrics"][name] <= 100
    assert ("medium" in alone["metrics"]) == (benchmark in REVISITED)
    assert alone["index_recall"] == {} and (tmp_path / "run/eval/more/report.html").stat().st_size


@pytest.mark.parametrize("benchmark", ["synthetic", "paintings", "proxford"])
def test_objects_are_marked_where_somebody_has_drawn_them(tmp_path, benchmark, capsys):
    root = MINIATURES[benchmark](tmp_path / "root")
    local = LocalSearchConfig(most=50)
    settings = replace(config(), localize=LocalizeConfig(tuple(METHODS), image_size=64, query_size=64), local=local)
    settings = replace(settings, eval=replace(settings.eval, synthetic_instances=2, synthetic_photos=2))
    found = experiment.evaluate_and_print(
        NETWORK,
        VARIABLES,
        settings,
        benchmark,
        tmp_path / "run/eval/x",
        root=str(root) if root else "",
        cache_dir=tmp_path / "cache",
    )
    assert set(found["localization"]) == set(METHODS)
    for of in found["localization"].values():
        assert all(0 <= value <= 100 for rules in ("strict", "official") for value in of[rules].values())
    everything = found["localization"]["everything"]["strict"]
    if benchmark == "proxford":
        assert everything["mIoU"] == pytest.approx(25) and everything["mAP@50:5:95"] == 0
        for method, of in found["localization"].items():
            assert_written_marks_are_worth_as_much(tmp_path / "run/eval/x", method, of["official"], root)
    assert ("mIoU hard" in everything) == (benchmark == "proxford")
    assert "everything" in capsys.readouterr().out


def assert_written_marks_are_worth_as_much(out: Path, method: str, official: dict, root: Path) -> None:
    file, ranks, request = out / f"marks-{method}.npy", str(out / "ranks.npy"), Request(root=str(root))
    pairs = np.load(file, allow_pickle=True).item()
    assert set(pairs) == {f"qimlist_{q}_imlist_{i}" for q in range(2) for i in (q, q + 2)}  # easy and hard, not junk
    scored = submitted.score_marks("proxford", file, out / "scored", request, out / "cache", ranks)
    assert scored["localization"][file.name]["official"] == official


def test_a_folder_brings_its_masks(tmp_path):
    write_photos(tmp_path / "root", instances=2, photos=2)
    for path in (tmp_path / "root").glob("*/*.jpg"):
        mask = tmp_path / "masks" / path.relative_to(tmp_path / "root").with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        half = Image.new("L", (64, 48))
        half.paste(255, (0, 0, 32, 48))
        half.save(mask)
    settings = replace(config(), localize=LocalizeConfig(("everything",)))
    options = {"root": str(tmp_path / "root"), "masks": str(tmp_path / "masks"), "cache_dir": tmp_path / "cache"}
    found = experiment.evaluate(NETWORK, VARIABLES, settings, "folder", tmp_path / "x", **options)
    assert found["localization"]["everything"]["strict"]["mIoU"] == pytest.approx(50)


def test_where_nobody_has_drawn_them_is_said(tmp_path):
    root = MINIATURES["roxford5k"](tmp_path / "root")
    settings = replace(config(), localize=LocalizeConfig(("everything",)))
    with pytest.raises(UserError, match="nobody knows where objects are .* choose a benchmark that has masks"):
        experiment.evaluate(
            NETWORK, VARIABLES, settings, "roxford5k", tmp_path / "x", root=str(root), cache_dir=tmp_path / "cache"
        )
