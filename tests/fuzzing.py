"""How much is tried where inputs are made at random.

By default the same inputs each time, so that a change is judged by itself and not by luck. With ``FUZZ=20`` in the
environment others each time, and 20 times as many.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("FUZZ", "0"))


def tries(examples: int) -> settings:
    return settings(
        max_examples=examples * max(1, FACTOR),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
