"""Every field of a config, given what its rule refuses and what it takes at its edges, in the ways values come in."""

import importlib
import time

import pytest

from sret_jax.config import Config
from sret_jax.config.adaptation import AdaptConfig
from sret_jax.config.reference import fields
from sret_jax.config.rules import check, shown
from sret_jax.errors import UserError
from tests.support.commands import CONFIG, REPOSITORY, run_forked


@pytest.fixture
def values(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks/faults"))
    return importlib.import_module("values")


def test_every_bad_value_of_every_field_is_refused_by_its_rule(values):
    bad = values.all_bad()
    assert {one.field.path for one in bad} == {field.path for field in fields()} and len(bad) > 3000
    for one in bad:
        said = one.field.rule.fault(one.value, lambda _: ())
        line = f"{one.field.path}={shown(one.value)}: {said}"
        assert said and not values.line_fault(line, one), line


@pytest.mark.parametrize("way", ["set in Python", "config of a run", "flag"])
@pytest.mark.parametrize("step", [pytest.param(59, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_bad_values_are_refused_in_one_line_however_they_come(values, way, step):
    enter, takes = values.WAYS[way]
    bad = [one for one in values.all_bad() if takes(one)][::step]
    start = time.process_time()
    faults = [
        f"{one.field.path}={one.value!r:.80}: {fault}" for one in bad if (fault := values.tried(enter, one).fault)
    ]
    assert len(bad) > 10 and not faults
    assert time.process_time() - start < values.ALLOWED_SECONDS * len(bad)


def test_bad_settings_of_an_adaptation_are_refused_too(values):
    for field in fields(AdaptConfig, "AdaptConfig."):
        for kind, value in values.bad_values(field.rule):
            settings = AdaptConfig()
            object.__setattr__(settings, field.path.partition(".")[2], value)
            with pytest.raises(UserError) as raised:
                check(settings, "AdaptConfig.")
            assert not values.line_fault(str(raised.value), values.Bad(field, kind, value))


def test_values_at_the_edges_are_taken(values):
    for field in fields():
        for value in values.edge_values(field.rule):
            assert not field.rule.fault(value, lambda _: ()), f"{field.path}={value!r:.80}"


NONSENSE = {  # that was trained with, or traced back, once
    "train.learning_rate": (-1, 0), "data.flip": (7,), "data.colour": (-3,), "train.steps": (-3, 0),
    "data.crop_area": ((0, 0), (0.9, 0.1)), "data.jpeg_quality": ((0, 1000), (95, 30)), "data.threads": (100_000, 0),
    "train.clip_norm": (-1,), "data.image_size": (1, 0, True), "model.pool_p": (-2, 0), "extract.scales": ((1000,), ()),
    "model.smoothing.window": (99, 2, 0), "data.bucket_ratios": ((-1,),), "train.warmup_steps": (-1,),
    "seed": (-1, 2**32),
    "model.refinement.nodes": (100_000, 0), "local.scales": ((),), "model.smoothing.kernel_dim": (0,),
    "train.weight_decay": (-1,), "rerank.stages": (("sv:0",), ("sv:x",), ("sv:",), "sv"),
    "eval.benchmarks": (("roxford",), ("folder+2m",)),
}  # fmt: skip


@pytest.mark.parametrize("path", NONSENSE)
def test_nonsense_is_refused_by_the_full_name_of_the_field(values, path):
    for value in NONSENSE[path]:
        config = values.set_in(Config(), f"config.{path}", value)
        config.model.smoothing.enabled = True
        with pytest.raises(UserError, match=f"^config.{path}="):
            values.validate(config)


@pytest.mark.parametrize(
    ("command", "field", "says"),
    [
        ("train", "train.learning_rate=nan", "config.train.learning_rate=nan: must be a number above 0"),
        ("train", "data.crop_area=(0.9,0.1)", "config.data.crop_area=(0.9, 0.1): must be a tuple of 2 numbers"),
        ("train", "train.loss=infonse", "config.train.loss='infonse': choose one of contrastive"),
        ("eval", "extract.scales=((((", "config.extract.scales='((((': must be a tuple of 1 to 16 numbers"),
        ("eval", "data.threads=1.5", "config.data.threads='1.5': must be a whole number from 1 to 256"),
        ("eval", "search=3", "--config.search: has fields of its own"),
    ],
)
def test_a_command_ends_with_one_line_and_2_before_it_does_anything(tmp_path, command, field, says):
    (tmp_path / "own.py").write_text(CONFIG)
    run_forked("train", "--help", cwd=tmp_path)  # by whoever comes first, the imports are waited for
    start = time.perf_counter()
    done = run_forked(command, "--config=own.py", "--workdir=run", f"--config.{field}", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {says}"), done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert time.perf_counter() - start < 10  # a process on a busy machine; without it a hundredth of a second
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_values_of_a_config_file_pass_the_same_rules(tmp_path):
    (tmp_path / "own.py").write_text(CONFIG.replace("threads=1", "threads=0"))
    done = run_forked("eval", "--config=own.py", "--benchmark=synthetic", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: config.data.threads=0: must be a whole number from 1 to 256")
