"""The arithmetic of plans and of growth, where the answer is known."""

import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest

from sret_jax.metrics.ranking import leave_one_out_map, rank, score_rankings
from tests.support.commands import REPOSITORY


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def plan(benchmarks):
    return benchmarks("plan")


@pytest.fixture
def growth(benchmarks):
    return benchmarks("growth")


@pytest.fixture
def rates(plan):
    return plan.Rates(
        decode=0.009,
        describe=0.04,
        local=0.1,
        store=0.001,
        index=10.0,
        index_size=10_000,
        index_exponent=1.6,
        query=0.001,
        query_exponent=0.5,
        operations=2e9,
        descriptor_bytes=4096,
        map_bytes=30_000,
        local_bytes=100_000,
    )


def test_without_gpus_cores_describe(plan, rates):
    rate, bound = plan.describing_rate(rates, plan.Host(cores=10))
    assert rate == pytest.approx(200) and bound == "cores"


@pytest.mark.parametrize(
    ("host", "rate", "bound"),
    [({"gpus": 1}, 1600, "decoding"), ({"gpus": 1, "tflops": 1, "reached": 0.5}, 250, "GPUs")],
)
def test_a_gpu_waits_for_the_decoders_or_they_for_it(plan, rates, host, rate, bound):
    found = plan.describing_rate(rates, plan.Host(cores=16, **host))
    assert found == (pytest.approx(rate), bound)


def test_hours_machines_and_money_are_multiplied(plan, rates):
    host = plan.Host(cores=10, memory=64, price=3.0, disk=20.0)
    jobs = plan.jobs(rates, host, 2, 1e8)
    described = jobs["describe"]
    assert described.hours == pytest.approx(1e8 / 200 / 2 / 3600) and described.machines == 2
    assert described.disk == pytest.approx(1e8 * 34_096)
    assert described.money(host) == pytest.approx(described.hours * 2 * 3 + 3.4096 * 20)
    held = 1e8 * (4096 * 33 / 32 + plan.LIST_BYTES)
    assert jobs["search"].machines == 10 == -(-held // 64e9)  # 612 GB
    assert jobs["index"].hours == pytest.approx(10 * (1e8 / 20 / 1e4) ** 1.6 / 10 / 3600)
    flat = plan.jobs(dataclasses.replace(rates, index_exponent=0.9), host, 2, 1e8)["index"]
    assert flat.hours == pytest.approx(10 * (1e8 / 20 / 1e4) ** 1.5 / 10 / 3600)  # not less than its leaves take
    assert jobs["local features"].hours == pytest.approx(1e8 * 0.1 / 10 / 2 / 3600)


def test_twice_the_photographs_take_twice_the_time_to_describe_and_do_not_train(plan, rates):
    one, two = (plan.jobs(rates, plan.Host(), 1, size) for size in (1e6, 2e6))
    assert two["describe"].hours == pytest.approx(2 * one["describe"].hours)
    assert two["train"] == one["train"]


def test_more_hosts_never_cost_more_than_their_time(plan, rates):
    host = plan.Host(price=2.0)
    alone, four = (plan.jobs(rates, host, hosts, 1e7)["describe"] for hosts in (1, 4))
    assert four.hours == pytest.approx(alone.hours / 4) and four.money(host) == pytest.approx(alone.money(host))


def test_every_number_of_the_table_follows_from_the_rates(plan, rates):
    host = plan.Host(cores=10)
    text = plan.multiplied(rates, host, 1, [1e6])
    assert text.count("\n| 1e6 photographs") == 5
    slower = plan.multiplied(dataclasses.replace(rates, describe=4.0), host, 1, [1e6])
    changed = [one for one, other in zip(text.splitlines(), slower.splitlines(), strict=True) if one != other]
    assert [line.split(" | ")[0] for line in changed] == ["| 1e6 photographs, describe", "| 1e6 photographs, train"]


@pytest.mark.parametrize("text", ["core=3", "cores=many", "cores=0", "gpus=-1", "price=inf"])
def test_a_host_that_is_none_is_named(plan, text):
    with pytest.raises(SystemExit, match="--host: .*" + text.partition("=")[0]):
        plan.Host.of(text)


def test_a_host_is_what_is_said_of_it(plan):
    assert plan.Host.of("cores=64,gpus=8,price=2.5") == plan.Host(cores=64, gpus=8, price=2.5)
    assert plan.Host.of("") == plan.Host()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.012"), (1.26, "1.3"), (12.6, "13"), (1260, "1,300"), (0.999, "1.00")]
)
def test_estimates_have_two_digits(plan, value, text):
    assert plan.shown(value) == text


def test_the_exponent_is_that_of_the_power(growth):
    one, other = (growth.Cost(size, 3e-6 * size**1.5, 0.0, 0) for size in (1_000, 10_000))
    assert growth.exponent(one, other) == pytest.approx(1.5)
    text = growth.table({"store": [one, other]})
    assert "| store, 1,000 |" in text and text.splitlines()[-1].split(" | ")[4] == "1.50"


def test_drawn_descriptors_have_neighbours(growth):
    x = growth.drawn(250, 16)
    assert x.dtype == np.float32 and np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert leave_one_out_map(x @ x.T, np.arange(250) // growth.VIEWS)["mAP"] > 60


def test_a_report_scores_whole_rankings(growth):
    x, labels = growth.drawn(300, 16), np.arange(300) // growth.VIEWS
    queries = x[:: growth.VIEWS]
    ap, _ = score_rankings(rank(queries @ x.T), np.arange(3), labels)
    found = growth.report(x, queries, labels)
    assert found["mAP"] == pytest.approx(100 * ap.mean()) and found["queries"] == 3


OF_A_STEP = """
import growth, numpy as np
cost, total = growth.measured(10, lambda: np.ones(40_000_000, np.uint8).sum())
print(int(total), cost.bytes, cost.wall > 0, growth.held("VmHWM") >= growth.held("VmRSS"))
"""


def test_memory_is_what_a_step_holds_at_most():
    """In a process of its own, as the benchmark is: what other tests leave behind is given back at any moment."""
    command, folder = [sys.executable, "-c", OF_A_STEP], REPOSITORY / "benchmarks"
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    total, held, took, peak = said.split()
    assert total == "40000000" and 35e6 < int(held) < 80e6
    assert (took, peak) == ("True", "True")


@pytest.mark.slow
def test_a_plan_is_measured_and_printed(benchmarks, monkeypatch, capsys, tmp_path):
    plan = benchmarks("plan")
    arguments = ["plan.py", "--measured=4", "--side=256", "--index_sizes=1000,2000", "--photographs=1e6", "--hosts=4"]
    arguments += [f"--rates={tmp_path / 'rates.json'}", "--host", "cores=64,gpus=8,price=30"]
    monkeypatch.setattr("sys.argv", arguments)
    plan.main()
    said = capsys.readouterr().out
    plan.main()
    assert capsys.readouterr().out == said  # nothing is measured again
    assert "4 photographs drawn by code, 256 x 192 px" in said
    assert "4 x 64 cores, 8 GPUs of 989 TFLOP/s, of which 30% are reached" in said
    assert said.count("| 1e6 photographs") == 5 and "nan" not in said
