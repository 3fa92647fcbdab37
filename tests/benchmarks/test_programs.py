"""The programs that accelerators are given, lowered for them where none is, hold nothing that would slow them down."""

import importlib
import json
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import TrainConfig
from sret_jax.models.platform import traced_for
from tests.support.commands import REPOSITORY

BATCH = 6
CALLS = {"mhlo.topk", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}  # nothing of the host among them
NETWORKS = {"efficientnet_lite0": "c3", "resnet18": "c3", "pe_core_vitt16": "c4"}  # of each kind, and not all of it
SIZE = 96  # pixels
CHANNELS = 16  # the least of a map; weights of the heads of an attention have fewer, and controls of the smoothing
PROGRAMS = [(name, "extract") for name in NETWORKS if name != "resnet18"] + [
    ("resnet18", "train"),
    ("pe_core_vitt16", "train"),
]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def programs(benchmarks):
    return benchmarks("programs")


@cache
def traced(programs, backbone, job):
    program = programs.BUILD[job](programs.model(backbone, stage=NETWORKS[backbone]), BATCH, SIZE)
    with traced_for("tpu"):
        return program.function.trace(*program.arguments)


@cache
def lowered(programs, backbone, job, platform):
    return traced(programs, backbone, job).lower(lowering_platforms=(platform,)).as_text()


def operations(text, name):
    """Of every operation of this name: its line, and the dimensions and the type of each of its operands."""
    found, wanted = [], re.compile(rf"stablehlo\.{name}\b")
    for line in filter(wanted.search, text.splitlines()):
        operands = line.rpartition(" : ")[2].partition("->")[0]
        types = [kind.split("x") for kind in re.findall(r"tensor<([^>]*)>", operands)]
        found.append((line, [([int(n) for n in kind[:-1]], kind[-1]) for kind in types]))
    return found


def rounded_products(text):
    """Products of float32 that an accelerator would take of rounded factors."""
    products = operations(text, "dot_general")
    return [line for line, kinds in products if kinds[0][1] == "f32" and "HIGHEST, HIGHEST" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("backbone", "job"), PROGRAMS)
def test_nothing_in_a_program_surprises(programs, backbone, job, platform):
    text = lowered(programs, backbone, job, platform)
    assert "f64" not in text and "complex" not in text
    assert set(re.findall(r"custom_call @([\w$.]+)", text)) <= CALLS
    assert not re.search(r"tensor<[^>]*\?", text), "a size that is not a number"
    assert "stablehlo.while" not in text, "a loop over photographs, which is for CPUs"
    for line, ((dims, kind),) in operations(text, "transpose"):
        # Maps are of bfloat16; learned positions are resampled in float32, and turned round once.
        is_map = kind == "bf16" and len(dims) == 4 and dims[0] == BATCH and dims[1] == dims[2] and dims[3] >= CHANNELS
        assert not is_map or "dims = [0, 1, 2, 3]" in line, line


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "job"), PROGRAMS)
def test_in_bfloat16_products_are_of_bfloat16_and_what_decides_is_in_float32(programs, backbone, job):
    text = lowered(programs, backbone, job, "tpu")
    convolutions = operations(text, "convolution")
    assert convolutions and {kind for _, kinds in convolutions for _, kind in kinds} == {"bf16"}
    # Sums over a map would be the pooling's, exponentials, logarithms and roots the pooling's, an attention's or the
    # loss's; but of tokens, in three dimensions, those of a perceptron's activation.
    for name in ("exponential", "log", "rsqrt"):
        assert not [line for line, [(dims, kind)] in operations(text, name) if kind == "bf16" and len(dims) != 3], name
    assert not re.search(
        r"stablehlo.reduce\(.*applies stablehlo.add across dimensions = \[1, 2\] : \(tensor<\d+x\d+x\d+x\d+xbf16>", text
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("heads", ["", "smoothing"])
def test_products_behind_the_backbone_are_not_rounded(programs, heads, train):
    program = programs.heads_alone(programs.model("resnet18", heads), 2, 96, train=train)
    text = program.lowered("tpu").as_text()
    assert operations(text, "dot_general")
    assert not rounded_products(text)


def test_the_means_of_a_graph_are_not_rounded(programs):
    config = programs.model("resnet18", "refinement")
    text = programs.heads_alone(config, 2, 224, train=False).lowered("tpu").as_text()
    nodes = config.refinement.nodes
    means = [line for line, kinds in operations(text, "dot_general") if kinds[0][0] == [2, nodes, nodes]]
    assert means and not set(means) & set(rounded_products(text))


def test_a_loss_is_not_rounded(programs):
    config = programs.model("resnet18", "", stage="c2")
    program = programs.training(config, BATCH, 32, settings=TrainConfig(loss="infonce", train_from="none"))
    text = program.lowered("tpu").as_text()
    of_pairs = [line for line, kinds in operations(text, "dot_general") if kinds[0][0] == [BATCH, 512]]
    assert of_pairs and not set(of_pairs) & set(rounded_products(text))


@pytest.mark.slow
def test_the_state_of_a_training_step_is_used_again(programs):
    program = programs.training(programs.model("resnet18", "", stage="c2"), 2, 32)
    found = programs.memory(program.function.lower(*program.arguments).compile())
    state = programs.bytes_of(program.arguments[0])
    assert state > 1e6 and found["donated"] >= 0.99 * state


@pytest.mark.slow
def test_the_memory_of_extraction_is_linear_in_the_batch(programs):
    config, size = programs.model("resnet18", stage="c3"), 64
    held = {}
    with traced_for("tpu"):
        for batch in (2, 4, 8):
            program = programs.extraction(config, batch, size)
            held[batch] = programs.memory(program.function.trace(*program.arguments).lower().compile())["memory"]
    first, second = (held[4] - held[2]) / 2, (held[8] - held[4]) / 4
    largest = (size // 2) ** 2 * 64 * 4  # the stem's map, in float32 as a CPU computes it
    assert 0 < first < 8 * largest and 0 < second < 8 * largest
    assert second < 1.2 * first


@pytest.mark.slow
def test_a_program_is_compiled_for_a_device_that_is_not_there(benchmarks, programs):
    targets = benchmarks("targets")
    if not targets.has_compiler("tpu"):
        pytest.skip("libtpu is not installed")
    mesh = targets.mesh_of(targets.TARGETS["TPU v5e, 16 GB"], "batch")
    program = programs.extraction(programs.model("resnet18", stage="c2"), 4, 64, mesh)
    with traced_for("tpu"):
        compiled = program.function.trace(*program.arguments).lower().compile()
    assert programs.memory(compiled)["memory"] > 0 and targets.optimized(compiled)["bytes accessed"] > 0
    assert "f64" not in compiled.as_text()


def test_operations_are_those_of_the_equation(programs):
    product = jax.jit(lambda x, y: x @ y)
    arguments = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 4), jnp.float32)
    assert programs.flops(programs.Program(product, arguments), "tpu") == 2 * 8 * 16 * 4


def test_a_row_is_arithmetic_of_what_was_computed(benchmarks, programs):
    target = benchmarks("targets").Target("tpu", "v5e:2x2", flops=1e12, bandwidth=1e9, memory=10e9)
    counted = {"whole": 2e9, "plain": 1.6e9, "smoothing": 0.08e9, "refinement": 0.32e9}
    held = {"compiled for": "v5e:2x2", "fixed": 1e9, "2": {"memory": 1.3e9}, "4": {"memory": 1.4e9, "bytes": 4e7}}
    row = programs.row(target, counted, held)
    assert row["memory"] == "1.00 GB + 100.0 MB / photograph"
    assert row["batch that fits"] == "80"  # 9 GB without the 1 that is always there
    assert (row["smoothing, of the backbone"], row["refinement, of the backbone"]) == ("5.00%", "20.00%")
    assert row["at most, photographs / s"] == "100" and row["bound by"] == "memory"  # 10 MB each
    assert row["FLOP / byte"] == "200"
    held["compiled for"] = "1x1x1"  # what another device moves is not what this one does
    assert programs.row(target, counted, held)["at most, photographs / s"] == "500, by operations alone"
    assert programs.row(target, counted, None)["at most, photographs / s"] == "500, by operations alone"


def test_what_was_computed_is_kept(programs, tmp_path):
    kept = programs.Kept(tmp_path / "work")
    assert kept.of("a", lambda: {"whole": 1.0}) == {"whole": 1.0}
    again = programs.Kept(tmp_path / "work")
    assert again.of("a", lambda: pytest.fail("computed again")) == {"whole": 1.0}
    assert json.loads((tmp_path / "work/programs.json").read_text()) == {"a": {"whole": 1.0}}
    assert np.isfinite(again.known["a"]["whole"])
