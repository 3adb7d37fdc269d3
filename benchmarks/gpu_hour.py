"""The first hour on a GPU: every check that needs one, each in a process of its own, whatever the others do.

    python benchmarks/gpu_hour.py OUT [--only NAME …] [--quick] [--emulate]

Writes ``OUT/gpu-hour.json``, ``OUT/gpu-hour.md`` to read, and ``OUT/NAME.log`` of each check. The first part needs this
checkout, Python, CuPy and NumPy alone, and uses PyTorch, pytest and compute-sanitizer where they are installed; the
second part needs Spark, Java and spark-rapids-ml (``gpu_checks.py``). A check that fails, crashes or hangs stops no
other. ``--emulate`` runs the first part without a GPU: NumPy's functions in CuPy's place, our kernels compiled for the
CPU; it tests the checks, and its times mean nothing. ``--quick``: small sizes.

Exit status: 0 where every check passed; 1 where one failed; 3 where none failed but some were skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

CHECKS = Path(__file__).with_name("gpu_checks.py")

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """What is run: a command that ends with a line of JSON, {"status": …, "message": …, "figures": {…}}."""

    name: str
    command: Sequence[str]
    seconds: float = 600
    """At most."""


@dataclass(frozen=True)
class Outcome:
    name: str
    status: str
    message: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def run(check: Check, folder: Path) -> Outcome:
    """The outcome of a check; failed where it crashes, hangs, or ends without a word."""
    start = time.monotonic()
    log = folder / f"{check.name}.log"
    with log.open("wb") as output:
        try:
            ended = subprocess.run(check.command, stdout=output, stderr=subprocess.STDOUT, timeout=check.seconds)
            status = f"it ended with status {ended.returncode}"
        except subprocess.TimeoutExpired:
            status = f"it did not end within {check.seconds:g} s"
    seconds = time.monotonic() - start
    lines = log.read_text(errors="replace").strip().splitlines()
    try:
        said = json.loads(lines[-1])
        return Outcome(check.name, said["status"], said["message"], round(seconds, 1), said["figures"])
    except (IndexError, KeyError, TypeError, ValueError):
        last = f": {lines[-1][:300]}" if lines else ""
        return Outcome(check.name, FAILED, f"{status}{last}", round(seconds, 1))


def exit_status(outcomes: Sequence[Outcome]) -> int:
    found = {outcome.status for outcome in outcomes}
    return 0 if found == {PASSED} else 3 if found <= {PASSED, SKIPPED} else 1


def page(outcomes: Sequence[Outcome], about: dict[str, Any]) -> str:
    """Markdown: a line for each check, then the figures of each, then what is wrong in full."""
    counts = {status: sum(each.status == status for each in outcomes) for status in (PASSED, FAILED, SKIPPED)}
    lines = ["# The first hour on a GPU", "", ", ".join(f"{n} {status}" for status, n in counts.items()), ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| check | status | s | message |", "| --- | --- | --- | --- |"]
    lines += [f"| {each.name} | {each.status} | {each.seconds:g} | {_cell(each.message)} |" for each in outcomes]
    for each in outcomes:
        if each.figures:
            lines += ["", f"## {each.name}", *_table(each.figures)]
    return "\n".join(lines) + "\n"


def _table(figures: dict[str, Any]) -> list[str]:
    """Figures by name; those that are lists of dictionaries as tables."""
    lines = [""]
    for name, value in figures.items():
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            lines.append(f"- {name}: {_shown(value)}")
            continue
        head = list(dict.fromkeys(key for row in value for key in row))
        lines += ["", f"{name}:", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        lines += [f"| {' | '.join(_cell(_shown(row.get(key, ''))) for key in head)} |" for row in value]
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def checks(only: Sequence[str], options: Sequence[str]) -> list[Check]:
    """All checks that ``gpu_checks.py`` has, or those."""
    listed = subprocess.run([sys.executable, CHECKS, "--list"], capture_output=True, text=True, check=True).stdout
    seconds = {name: float(most) for name, most in (line.split() for line in listed.splitlines())}
    unknown = set(only) - set(seconds)
    if unknown:
        raise SystemExit(f"gpu_hour: no check is called {', '.join(sorted(unknown))}: there are {', '.join(seconds)}")
    return [
        Check(name, [sys.executable, str(CHECKS), name, *options], most)
        for name, most in seconds.items()
        if not only or name in only
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    options = ["--quick"] * args.quick + ["--emulate"] * args.emulate
    about = {"begun": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC", "options": " ".join(options) or "none"}
    outcomes: list[Outcome] = []
    for check in checks(args.only, options):
        outcomes.append(run(check, args.out))
        print(f"{check.name}: {outcomes[-1].status}, {outcomes[-1].seconds:g} s {outcomes[-1].message}", flush=True)
        # After each: what was found is there, whatever becomes of the machine.
        found = {"about": about, "checks": [asdict(each) for each in outcomes]}
        (args.out / "gpu-hour.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.out / "gpu-hour.md").write_text(page(outcomes, about))
    print(f"{args.out / 'gpu-hour.md'}")
    return exit_status(outcomes)


if __name__ == "__main__":
    sys.exit(main())
