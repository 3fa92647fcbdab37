import json
import statistics

import pytest

from sret_jax.config import Config, EvalConfig
from sret_jax.errors import UserError
from sret_jax.evaluation import seeds
from sret_jax.evaluation.results import Results
from sret_jax.evaluation.seeds import KEPT, results_of, seeds_table, train_seeds
from sret_jax.storage.workdir import Workdir

MAPS = {3: 80.0, 4: 82.0, 5: 87.0}


@pytest.fixture
def trained(monkeypatch):
    """The seeds that were trained, and how; each leaves its results."""
    calls = []

    def train(config, workdir):
        calls.append((config, workdir))
        metrics = {"mAP": MAPS[config.seed], "R@1": 90.0, "queries": 3, "per_instance": {}}
        Results("folder", metrics=metrics).write(Workdir(workdir).evaluation("folder"))
        lines = [{"step": s, "val_mAP": 50.0 + s, "val_best_step": s} for s in (0, config.seed)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(seeds, "train", train)
    return calls


def test_every_seed_has_its_folder_and_the_photographs_are_shared(trained, tmp_path):
    config = Config(seed=3, eval=EvalConfig(benchmarks=("folder",)))
    table = train_seeds(config, tmp_path, 3)
    assert [(own.seed, folder.name) for own, folder in trained] == [(3, "seed-3"), (4, "seed-4"), (5, "seed-5")]
    assert {own.data.cache_dir for own, _ in trained} == {str(tmp_path / "data")}
    assert (config.seed, config.data.cache_dir) == (3, "")
    assert (tmp_path / "seeds.md").read_text() == table + "\n"
    written = json.loads((tmp_path / "seeds.json").read_text())
    assert written["seeds"]["4"]["folder mAP"] == 82.0
    mean, deviation = written["mean_and_deviation"]["folder mAP"]
    assert (mean, deviation) == (83.0, statistics.stdev(MAPS.values()))


def test_the_table_has_a_line_for_every_seed_and_their_mean_with_its_deviation(trained, tmp_path):
    lines = train_seeds(Config(seed=3, eval=EvalConfig(benchmarks=("folder",))), tmp_path, 3).splitlines()
    assert lines[0] == f"| seed | folder mAP | folder R@1 | held out, start | held out, kept | {KEPT} |"
    assert lines[2] == "| 3 | 80.00 | 90.00 | 50.00 | 53.00 | 3 |"
    assert lines[-1] == "| **mean** | 83.00 ± 3.61 | 90.00 ± 0.00 | 50.00 ± 0.00 | 54.00 ± 1.00 | 4.00 ± 1.00 |"


def test_seeds_that_no_run_can_have_are_refused_before_the_first_is_trained(trained, tmp_path):
    with pytest.raises(UserError, match="config.seed=4294967296: must be a whole number from 0"):
        train_seeds(Config(seed=2**32 - 2), tmp_path, 3)
    assert not trained and not list(tmp_path.iterdir())


def test_one_seed_has_no_deviation_and_what_is_missing_a_dash():
    assert seeds_table({0: {"mAP": 1.0}}).splitlines()[-1] == "| **mean** | 1.00 |"
    assert seeds_table({0: {"mAP": 1.0}, 1: {}}).splitlines()[-2:] == ["| 1 | – |", "| **mean** | 1.00 |"]


def test_a_run_that_measured_nothing_has_no_numbers(tmp_path):
    assert results_of(Config(eval=EvalConfig(benchmarks=("folder",))), Workdir(tmp_path)) == {}
