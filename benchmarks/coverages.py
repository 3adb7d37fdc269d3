"""Each coverage on the same centroids, in turn: ``coverages.py DATA … [--code CHECKOUT …]`` prints a Markdown table.

``DATA``: folders of Parquet files with ``id`` and ``embedding``. The first run fits; its centroids serve all. Of each
run: seconds from the started session on, those of the comparison, clusters that a row belongs to or visits, pairs,
bytes that Spark shuffled (by its event log), rows removed, and a digest of all similarities and duplicates. With
several ``--code``, checkouts of this repository, each is run in turn, and equal digests show equal answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

COVERAGES = {
    "cluster": ["--coverage", "cluster"],
    "nProbe 2": ["--n-probe", "2"],
    "exact": ["--coverage", "exact"],
}


def run(code: Path, folder: Path, options: list[str]) -> dict[str, Any]:
    """``summary.json`` of a run of that checkout, with what its event log says was shuffled, and the digest."""
    out, events = folder / "out", folder / "events"
    events.mkdir(exist_ok=True)
    log = f"--conf spark.eventLog.enabled=true --conf spark.eventLog.dir=file://{events} "
    log += "--conf spark.eventLog.compress=false --conf spark.eventLog.rolling.enabled=false pyspark-shell"
    environment = {**os.environ, "PYTHONPATH": str(code), "PYSPARK_SUBMIT_ARGS": log, "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "spark_semdedup", "run", "--output", str(out), "--overwrite", *options]
    # In that folder, as Python looks for packages where it starts first.
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout)[-2000:])
    summary = json.loads((out / "summary.json").read_text())
    written = sorted(events.iterdir())
    summary["shuffled"] = sum(map(shuffled, written))
    for file in written:
        file.unlink()
    return summary | {"digest": digest(out / "similarities") + " " + digest(out / "duplicates"), "note": done.stderr}


def shuffled(events: Path) -> int:
    """Bytes that the tasks of an event log wrote for shuffles."""
    total = 0
    with open(events) as lines:
        for line in lines:
            if '"SparkListenerTaskEnd"' in line:
                metrics = json.loads(line).get("Task Metrics") or {}
                total += metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
    return total


def digest(folder: Path) -> str:
    """Of a result's rows, by id: equal for equal results in any order and number of files."""
    table = pq.read_table(folder, columns=["id", "max_id", "cosine_sim_score"]).sort_by("id")
    found = hashlib.sha256()
    for name in ("id", "max_id"):
        found.update("\n".join(map(str, table[name].to_pylist())).encode())
    found.update(table["cosine_sim_score"].to_numpy().tobytes())
    return found.hexdigest()[:10]


COLUMNS = "code | coverage | eps | run s | compare s | clusters/row | pairs | shuffled GiB | removed | digest"


def row_of(found: dict[str, Any]) -> str:
    """The cells of a run, from the seconds on."""
    return " | ".join(
        [
            f"{found['seconds']['in all']:.1f}",
            f"{found['seconds']['assign and compare']:.1f}",
            f"{found['planned']['clusters_per_row']:.1f}",
            f"{found['pairs_compared']:,}",
            f"{found['shuffled'] / 2**30:.2f}",
            f"{found['duplicates']:,}",
            found["digest"],
        ]
    )


def report(data: Path, args: argparse.Namespace) -> None:
    given = ["--input", str(data), *(["--k", str(args.k)] if args.k else [])]
    print(f"\n{data.name}\n\n| {COLUMNS} |\n|{'---|' * (COLUMNS.count('|') + 1)}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        model = args.centroids or Path(folder, "centroids")
        if not model.exists():
            run(args.code[0], Path(folder), [*given, "--eps", "0.05"])
            Path(folder, "out", "centroids").rename(model)
        for _ in range(args.repeat):
            for coverage in args.coverages:
                for eps in args.eps if coverage == "exact" else args.eps[-1:]:
                    for code in args.code:
                        options = ["--input", str(data), "--centroids", str(model), "--eps", str(eps)]
                        found = run(code, Path(folder), options + COVERAGES[coverage])
                        print(f"| {code.name} | {coverage} | {eps} | {row_of(found)} |", flush=True)
                        if args.verbose:
                            print(found["seconds"], found["planned"], found["note"], sep="\n", flush=True)


def resolved(path: str) -> Path:
    return Path(path).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=resolved, nargs="+")
    parser.add_argument("--code", type=resolved, nargs="+", default=[resolved(__file__).parents[1]])
    parser.add_argument("--coverages", nargs="+", choices=COVERAGES, default=list(COVERAGES))
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.02, 0.05])
    parser.add_argument("--k", type=int)
    parser.add_argument("--centroids", type=resolved, help="a saved model, or where to save the fitted one")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scratch", type=resolved, help="folder for results and shuffled rows (default: the system's)")
    parser.add_argument("--verbose", action="store_true", help="also the seconds of all phases and the log")
    args = parser.parse_args()
    for data in args.data:
        report(data, args)


if __name__ == "__main__":
    main()
