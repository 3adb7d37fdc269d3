"""The model of a whole job, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from spark_semdedup.analysis import job
from spark_semdedup.analysis.sizing import FitCost, Hardware, Sizing, compared_products
from spark_semdedup.pairwise.coverage import Coverage
from spark_semdedup.pairwise.workload import WorkEstimate

WORK = WorkEstimate(Coverage(), 1e6, 384, 1000, 1.0, 8e8, 0.0, 1.0, 1000, 1000, 3000)
FIT = FitCost(None, 10)
LAPTOP = Hardware(50e9, 1e9, 2, "2 cores")
CLUSTER = Hardware.gpus(8, 990, 25)


def steps(work: WorkEstimate = WORK, hardware: Hardware = LAPTOP, fit: FitCost | None = FIT) -> dict[str, job.Step]:
    found = job.steps(work, hardware, fit, compared_products(work, hardware))
    return {each.name: each for each in found}


def test_on_cores_moving_and_computing_follow_one_another():
    """A gigabyte and a half, 1,000 products of 384 numbers for each row; two cores."""
    found = steps()["read, assign"]
    size = 4e6 * 384
    moved = size * (job.LISTS.decoded + job.LISTS.to_python + job.TO_JVM) * 1e-9 / 2
    assert found.bytes == size
    assert found.host == pytest.approx(moved + 2 * 1e6 * 1000 * 384 / 50e9)
    assert (found.gpu, found.network, found.bound) == (0, 0, "host")


def test_gpus_compute_while_cores_move():
    found = steps(hardware=CLUSTER)["read, assign"]
    size = 4e6 * 384
    assert found.host == pytest.approx(size * (job.LISTS.decoded + job.LISTS.to_python + job.TO_JVM) * 1e-9 / 64)
    assert found.gpu == pytest.approx(2 * 1e6 * 1000 * 384 / (8 * 49.5e12) + size / (8 * job.TO_GPU))
    assert found.seconds == max(found.host, found.gpu)


def test_vectors_that_are_bytes_cost_less_to_read_and_to_write():
    of_bytes = {each.name: each for each in job.steps(WORK, CLUSTER, FIT, 0.0, job.BYTES)}
    of_lists = {each.name: each for each in job.steps(WORK, CLUSTER, FIT, 0.0, job.LISTS)}
    size = 4e6 * 384
    saved = of_lists["write kept rows"].host - of_bytes["write kept rows"].host
    assert saved == pytest.approx(size * (20.7 - 5.7) * 1e-9 / 64)
    assert of_lists["read, assign"].host - of_bytes["read, assign"].host == pytest.approx(size * 5.6e-9 / 64)
    assert of_lists["shuffle, compare"] == of_bytes["shuffle, compare"]


def test_a_slow_network_bounds_the_shuffle_alone():
    slow = steps(hardware=Hardware.gpus(8, 990, 0.1))
    assert slow["shuffle, compare"].bound == "network"
    assert slow["shuffle, compare"].network == pytest.approx(WORK.shuffle_bytes / (8 * 0.1e9 / 8))
    assert {each.bound for name, each in slow.items() if name != "shuffle, compare"} == {"host"}


def test_a_model_that_is_given_needs_no_fit():
    assert {"read a sample", "fit"} == steps().keys() - steps(fit=None).keys()


def test_gpus_screen_in_float16_and_assign_in_float32_without_sketches():
    exact = replace(WORK, coverage=Coverage(None, 0.95), probing_pairs=1e9)
    assert compared_products(exact, LAPTOP) < compared_products(exact, CLUSTER)
    assert compared_products(exact, CLUSTER) == 384 * (8e8 + 1e9)
    assert CLUSTER.float32_flops == CLUSTER.flops / 10
    assert LAPTOP.float32_flops == LAPTOP.flops


def test_the_table_adds_up():
    sizing = Sizing((WORK,), {"cluster": 1000}, None, 0, CLUSTER, FIT)
    lines = job.as_lines(sizing.job(), CLUSTER)
    assert lines[0].split() == ["step", "bytes", "host", "GPUs", "network", "takes", "bound", "by"]
    assert [line.split("  ")[0] for line in lines[1:-1]] == [each.name for each in sizing.job()]
    assert lines[-1].startswith("together")
    total = sum(each.seconds for each in sizing.job())
    assert math.isclose(float(lines[-1].split()[1]), total, abs_tol=0.5)
    assert max(map(len, lines)) < 100
