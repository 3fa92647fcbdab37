"""Every benchmark by its name, in a miniature of its format: builder, descriptors, search, metric. One tiny network."""

from dataclasses import replace

import pytest
from test_eval import config, write_photos
from test_extract import NETWORK, VARIABLES
from test_lookups import gldv2, ilias, million, paintings
from test_revisited import write_benchmark

from sret_jax import experiment
from sret_jax.evaluation.benchmarks import BENCHMARKS, REVISITED

MINIATURES = {
    "synthetic": lambda root: None,
    "folder": write_photos,
    "roxford5k": lambda root: write_benchmark(root, name="roxford5k"),
    "rparis6k": lambda root: write_benchmark(root, name="rparis6k"),
    "revisited": lambda root: write_benchmark(root, name="own"),
    "gldv2": gldv2,
    "ilias": ilias,
    "paintings": paintings,
}
SEARCHED = {"folder": 12, "roxford5k": 6, "rparis6k": 6, "revisited": 6, "gldv2": 6, "ilias": 5, "paintings": 4}
QUERIES = {"folder": 12, "roxford5k": 2, "rparis6k": 2, "revisited": 2, "gldv2": 2, "ilias": 2, "paintings": 2}


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
