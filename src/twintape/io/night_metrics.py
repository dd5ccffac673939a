"""What a night came to, as a text file for the Prometheus node exporter: a job that is over cannot be asked.

Source: Prometheus node_exporter, README "Textfile Collector": files `*.prom` in one directory, replaced by a rename.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest

if TYPE_CHECKING:
    from twintape.io.merge import DayOutcome

__all__ = ["night_metrics", "write_night_metrics"]

STATUSES = ("complete", "partial", "gapped", "conflicted", "failed")
DAY_S = 86_400


def night_metrics(outcomes: Sequence[DayOutcome], *, began_ns: int, finished_ns: int) -> bytes:
    """Return the text; times are wall time."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(name, text, registry=registry).set(value)

    gauge("twintape_night_finished_timestamp_seconds", "When the last night ended", finished_ns / 1e9)
    gauge("twintape_night_seconds", "How long it took", (finished_ns - began_ns) / 1e9)
    found = Gauge("twintape_night_outcomes", "Due days by what they are now", ["status"], registry=registry)
    counted = Counter("failed" if outcome.error else str(outcome.status) for outcome in outcomes)
    for status in STATUSES:
        found.labels(status).set(counted[status])
    proven = [outcome.date for outcome in outcomes if not outcome.error]
    if proven:
        newest_s = datetime.fromisoformat(f"{max(proven)}T00:00:00+00:00").timestamp() + DAY_S
        gauge("twintape_night_newest_day_timestamp_seconds", "The midnight behind the newest day that is proven", newest_s)
    return generate_latest(registry)


def write_night_metrics(path: Path, text: bytes) -> None:
    """Replace the file in one step.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # hidden and not `*.prom`: nobody reads half of it
    try:
        temporary.write_bytes(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
