"""The table of Params in the README, made from the code: ``python tools/param_table.py`` prints it."""

from __future__ import annotations

from pyspark.ml.param import Param

from spark_semdedup import (
    EmbeddingKMeans,
    IdentifyDuplicates,
    PairwiseSimilarity,
    RemoveDuplicates,
    SemDedup,
    params,
)
from spark_semdedup.params import DEFAULTS, SemDedupParams

STAGES: dict[str, type[SemDedupParams]] = {
    "S": SemDedup,
    "K": EmbeddingKMeans,
    "P": PairwiseSimilarity,
    "I": IdentifyDuplicates,
    "R": RemoveDuplicates,
}


def param_table() -> str:
    """A Markdown table of all Params, in the order they are defined: name, default, stages that have it, meaning."""
    groups = [group for group in vars(params).values() if isinstance(group, type) and issubclass(group, SemDedupParams)]
    found = {name: p for group in groups for name, p in vars(group).items() if isinstance(p, Param)}
    lines = ["| Param | default | stages | meaning |", "|---|---|---|---|"]
    for name, param in found.items():
        stages = " ".join(letter for letter, stage in STAGES.items() if hasattr(stage, name))
        default = f"`{DEFAULTS[name]}`".replace("|", "\\|") if name in DEFAULTS else "–"
        meaning = param.doc.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{name}` | {default} | {stages} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(param_table())
