from __future__ import annotations

import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text.device import TextDevice, gpu_number, task_device


@pytest.mark.parametrize(
    ("addresses", "partition", "visible", "number"),
    [
        (["3"], 0, "", 3),
        (["3"], 0, "2,3", 1),
        (["1"], 0, "GPU-a,GPU-b", 1),
        (["GPU-b"], 7, "GPU-a,GPU-b", 1),
        ([], 5, "0,1", 1),
        ([], 5, "", 0),
    ],
)
def test_spark_s_address_is_counted_as_the_process_counts(monkeypatch, addresses, partition, visible, number):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_number(addresses, partition) == number


def test_an_address_that_is_no_number_and_not_visible_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SemDedupError, match="GPU address 'GPU-x' cannot be used"):
        gpu_number(["GPU-x"], 0)


def test_outside_of_tasks_one_thread_is_used():
    assert task_device("auto") == TextDevice(threads=1, gpu=None)
