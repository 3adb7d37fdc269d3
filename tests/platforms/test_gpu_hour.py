"""The program of the first hour on a GPU, without one: what it writes, that it goes on, how it ends."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from kernels import emulation

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


hour = module("gpu_hour")


def says(status: str, message: str = "", **figures) -> list[str]:
    line = json.dumps({"status": status, "message": message, "figures": figures})
    return [sys.executable, "-c", f"print('before'); print({line!r})"]


def outcomes(folder, **commands: list[str]) -> list:
    return [hour.run(hour.Check(name, command, seconds=2), folder) for name, command in commands.items()]


def test_a_check_that_crashes_hangs_or_says_nothing_has_failed(tmp_path):
    found = outcomes(
        tmp_path,
        good=says("passed", speed=1.5),
        crashes=[sys.executable, "-c", "import os; print('so far', flush=True); os.abort()"],
        hangs=[sys.executable, "-c", "import time; time.sleep(60)"],
        silent=[sys.executable, "-c", ""],
        other=[sys.executable, "-c", "print('{}')"],
    )
    assert [each.status for each in found] == ["passed", *["failed"] * 4]
    assert found[0].figures == {"speed": 1.5}
    assert found[1].message == "it ended with status -6: so far"
    assert found[2].message == "it did not end within 2 s"
    assert (tmp_path / "crashes.log").read_text() == "so far\n"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["passed", "passed"], 0),
        (["passed", "skipped"], 3),
        (["skipped"], 3),
        (["passed", "failed", "skipped"], 1),
        ([], 3),
    ],
)
def test_half_of_it_is_no_success(statuses, status):
    assert hour.exit_status([hour.Outcome("x", each) for each in statuses]) == status


def test_the_page_has_a_line_for_each_check_and_a_table_of_figures():
    found = [
        hour.Outcome("speed", "passed", "", 2.0, {"clock": "1980 MHz", "times": [{"n": 10, "ms": 1.23456}, {"n": 20}]}),
        hour.Outcome("bits", "failed", "a | b\nc", 1.0),
    ]
    page = hour.page(found, {"begun": "today"})
    assert "1 passed, 1 failed, 0 skipped" in page
    assert "| bits | failed | 1 | a \\| b c |" in page
    assert "- clock: 1980 MHz" in page
    assert "| n | ms |\n| --- | --- |\n| 10 | 1.235 |\n| 20 |  |" in page


def gpu_hour(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_hour.py", *words], capture_output=True, text=True, timeout=500
    )


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_where_cupy_is_missing_all_is_skipped_and_said(tmp_path):
    ended = gpu_hour(str(tmp_path), "--only", "bits", "machine")
    assert ended.returncode == 3, ended.stderr
    found = json.loads((tmp_path / "gpu-hour.json").read_text())["checks"]
    assert [(each["name"], each["status"]) for each in found] == [("machine", "skipped"), ("bits", "skipped")]
    assert "CuPy cannot be imported" in found[0]["message"]


def test_a_check_that_is_not_there_is_named(tmp_path):
    ended = gpu_hour(str(tmp_path), "--only", "bits", "bytes")
    assert ended.returncode == 1
    assert "no check is called bytes: there are machine, assumptions" in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(emulation.CPLUSPLUS is None, reason="no C++ compiler")
def test_the_first_part_passes_on_an_emulated_gpu(tmp_path):
    ended = gpu_hour(str(tmp_path), "--quick", "--emulate")
    assert ended.returncode == 3, ended.stdout
    found = {each["name"]: each for each in json.loads((tmp_path / "gpu-hour.json").read_text())["checks"]}
    passed = {name for name, each in found.items() if each["status"] == "passed"}
    assert {"machine", "assumptions", "error-bounds", "bits", "comparison-speed", "assignment-speed"} <= passed
    assert not [each for each in found.values() if each["status"] == "failed"]
    assert found["bits"]["figures"]["comparisons"] > 100
    assert 0.1 < found["error-bounds"]["figures"]["products"][0]["worst share of the bound"] <= 1
    assert "| bits | passed |" in (tmp_path / "gpu-hour.md").read_text()
