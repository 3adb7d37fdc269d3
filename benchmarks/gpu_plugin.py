"""Two jobs on a standalone worker that schedules this machine's GPUs, beside the CPU: ``gpu_plugin.py [JAR]``.

``plugin``: all of the RAPIDS Accelerator's plan, with its jar. ``stage``: without it, GPUs for the comparison's tasks
alone (``taskGpuAmount``). Both fit by spark-rapids-ml, whose stage is a barrier. The last line is JSON of rows removed;
ends with 1 where a job fails, or removes other rows than the CPU does. Without a GPU (``--cpu``) the same jobs run on
NumPy, with a GPU in name only, and without the plugin.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pyspark

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from standalone import cluster  # noqa: E402

SAMPLE = ROOT / "spark_semdedup" / "data" / "debian-sample.parquet"
RUN = ["run", "--input", str(SAMPLE), "--k", "40", "--eps", "0.1"]
STAGE = {"spark.executor.resource.gpu.amount": "1", "spark.task.resource.gpu.amount": "0.5"}
PLUGIN = {
    **STAGE,
    "spark.executor.memory": "6g",
    "spark.plugins": "com.nvidia.spark.SQLPlugin",
    "spark.rapids.memory.gpu.allocFraction": "0.3",
    "spark.rapids.memory.gpu.maxAllocFraction": "0.3",
    "spark.rapids.memory.gpu.minAllocFraction": "0",
    "spark.rapids.memory.pinnedPool.size": "1g",
}


def removed(url: str, out: Path, settings: dict[str, str], options: Sequence[str]) -> dict[str, str]:
    """The removed rows of a run, and the row each is most similar to."""
    settings = {"spark.driver.host": "127.0.0.1", "spark.executorEnv.PYTHONPATH": str(ROOT), **settings}
    words = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    job = [str(ROOT / "jobs" / "semdedup.py"), *RUN, "--output", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    subprocess.run([str(submit), "--master", url, *words, *job], env=environment, check=True)
    table = pq.read_table(out / "duplicates")
    return dict(zip(table["id"].to_pylist(), table["max_id"].to_pylist(), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("jar", nargs="?")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    script = ROOT / "conf" / "discover-gpus.sh"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.cpu:
            script = folder / "discover.sh"
            script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0"]}'\n""")
            script.chmod(0o755)
        backend = ["--backend", "cpu" if args.cpu else "gpu"]
        jobs = {"stage": (STAGE, ["--execution", "streamed", "--task-gpu-amount", "0.5"])}
        if args.jar:
            jobs["plugin"] = ({**PLUGIN, "spark.jars": args.jar}, [])
        worker = f"-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript={script}"
        counts = {}
        size = {"cores": 1, "memory": "1g"} if args.cpu else {"cores": 4, "memory": "8g"}
        with cluster(folder, workers=1, SPARK_WORKER_OPTS=worker, **size) as url:
            for job, (settings, options) in jobs.items():
                found = removed(url, folder / job, settings, [*backend, *options])
                same = ["--backend", "cpu", "--centroids", str(folder / job / "centroids")]
                expected = removed(url, folder / f"{job}-cpu", {}, same)
                counts[job] = len(found)
                if found != expected:
                    other = len(found.items() ^ expected.items())
                    print(f"{job}: {other} of {len(expected)} removed rows differ from the CPU's", file=sys.stderr)
                    return 1
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
