"""A model of a whole job: seconds and bytes of each step, and what bounds it. ``docs/gpu-model.md`` says where each
figure comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spark_semdedup.clustering.settings import rows_to_fit
from spark_semdedup.formatting import duration, short_bytes

if TYPE_CHECKING:
    from spark_semdedup.analysis.sizing import FitCost, Hardware
    from spark_semdedup.pairwise.workload import WorkEstimate


@dataclass(frozen=True)
class Stored:
    """What vectors cost as the files hold them: nanoseconds of a core for each byte of float32
    (benchmarks/unit_costs.py)."""

    decoded: float
    """Parquet, read and decompressed."""
    to_python: float
    """From the JVM by Arrow, as a matrix."""
    written: float
    """Encoded and written as Parquet."""


LISTS, BYTES = Stored(3.3, 7.7, 17.4), Stored(2.0, 3.4, 3.7)
TO_JVM = 1.4
"""The same of unit vectors, packed: back."""
SHUFFLED = 13.7
"""Unit vectors written and read by a shuffle, and brought to Python."""
ROW = 4e-6
"""Seconds of a core for each row: ids checked twice, keys, entries, the join that removes rows."""

TO_GPU = 10e9
"""Bytes per second from pageable memory to one GPU (PCIe 4 or 5; pinned memory would pass 20 to 50)."""


@dataclass(frozen=True)
class Step:
    """``host`` and ``gpu``: seconds that all cores and all GPUs take; they overlap, where there are GPUs."""

    name: str
    bytes: float
    """Of vectors that it moves."""
    host: float
    gpu: float = 0.0
    network: float = 0.0

    @property
    def seconds(self) -> float:
        return max(self.host, self.gpu, self.network)

    @property
    def bound(self) -> str:
        """What it waits for."""
        return max(("host", self.host), ("GPUs", self.gpu), ("network", self.network), key=lambda each: each[1])[0]


def steps(
    work: WorkEstimate, hardware: Hardware, fit: FitCost | None, compared: float, stored: Stored = LISTS
) -> tuple[Step, ...]:
    """The steps of a job, in turn. ``compared``: products of two numbers that its comparison takes."""
    whole = 4.0 * work.rows * work.dim
    fitted = 4.0 * work.dim * rows_to_fit(fit.sample_rows, work.k, int(work.rows)) if fit else 0.0
    sent = whole * work.tasks_per_row
    fitting = fit.products(work) if fit else 0.0
    assigning = work.rows * work.k * work.dim

    def step(name: str, moved: float, nanoseconds: float, flops: float = 0.0, **more: float) -> Step:
        host = nanoseconds * 1e-9 / hardware.cores
        if not hardware.number_of_gpus:
            return Step(name, moved, host + flops)
        return Step(name, moved, host, flops + more.pop("copied", 0.0) / (TO_GPU * hardware.number_of_gpus), **more)

    products, float32 = 2 / hardware.flops, 2 / hardware.float32_flops
    moving = work.shuffle_bytes / hardware.network_bytes_per_second
    sampled = whole * stored.decoded + fitted * (stored.to_python + TO_JVM)
    read = whole * (stored.decoded + stored.to_python + TO_JVM)
    found = [
        step("check ids", 0.0, work.rows * ROW * 1e9 / 2),
        step("read a sample", whole, sampled) if fit else None,
        step("fit", fitted, fitted * LISTS.to_python, fitting * float32, copied=fitted) if fit else None,
        step("read, assign", whole, read, assigning * float32, copied=whole),
        step("shuffle, compare", sent, sent * SHUFFLED, compared * products, copied=sent, network=moving),
        step("write kept rows", whole, whole * (stored.decoded + stored.written) + work.rows * ROW * 1e9 / 2),
    ]
    return tuple(each for each in found if each is not None)


def as_lines(found: Sequence[Step], hardware: Hardware) -> list[str]:
    """A table: a line for each step, and their sum."""
    gpus = hardware.number_of_gpus
    head = ("step", "bytes", "host", *(("GPUs", "network", "takes", "bound by") if gpus else ()))
    lines = [head]
    for each in found:
        takes = (duration(each.gpu), duration(each.network), duration(each.seconds), each.bound) if gpus else ()
        lines.append((each.name, short_bytes(each.bytes), duration(each.host), *takes))
    total = duration(sum(each.seconds for each in found))
    lines.append(("together", "", *(("", "", "", total, "") if gpus else (total,))))
    width = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return ["  ".join([line[0].ljust(width[0]), *map(str.rjust, line[1:], width[1:])]).rstrip() for line in lines]
