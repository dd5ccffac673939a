"""Metrics of what is recorded, of the way to the store and of the clock, for `io.status`. Read when somebody asks; recording pays nothing."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from twintape.io.collector import Collector
from twintape.io.ports import ClockQuality
from twintape.io.shipper import WAIT_BOUNDS_S, Shipper

__all__ = ["more_metrics"]


def more_metrics(collector: Collector, log_dropped: int) -> Iterator[Metric]:
    """Yield them."""
    build = {"version": version("twintape"), "collector": collector.settings.collector}
    yield InfoMetricFamily("twintape_build", "Version and name of this collector", build)
    yield CounterMetricFamily("twintape_log_lines_dropped", "Log lines that nobody read in time", log_dropped)
    yield from _recorded(collector)
    yield from _upload(collector.shipper)
    yield from _clock(collector.clock.quality())


def _recorded(collector: Collector) -> Iterator[Metric]:
    frames = CounterMetricFamily("twintape_frames", "Data frames heard on all connections", labels=["market"])
    gaps = CounterMetricFamily("twintape_gaps", "Holes in update ids that no connection of this collector has", labels=["market"])
    held = GaugeMetricFamily("twintape_spool_held_bytes", "Bytes of lines that are only in memory", labels=["market"])
    for market, state in collector.markets.items():
        live = sum(session.frames for session, link in collector.links.items() if link.market is market)
        frames.add_metric([market], state.tally.frames + live)
        gaps.add_metric([market], state.tally.gaps)
        held.add_metric([market], collector.writer.status[market].held_bytes)
    yield from (frames, gaps, held)
    budget = collector.settings.spool_gibibytes * (1 << 30)
    yield GaugeMetricFamily("twintape_spool_budget_bytes", "What all markets together may occupy on the disk", budget)
    yield GaugeMetricFamily(
        "twintape_queue_limit_bytes", "So many waiting bytes stop the reading of sockets", collector.writer.queue_bytes
    )


def _upload(shipper: Shipper) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "twintape_oldest_unsent_seconds", "Age of the oldest sealed file the store does not have", shipper.oldest_s()
    )
    waits = HistogramMetricFamily("twintape_upload_wait_seconds", "From sealing to the store's confirmation")
    bounds = [*(str(bound) for bound in WAIT_BOUNDS_S), "+Inf"]
    waits.add_metric([], list(zip(bounds, map(float, accumulate(shipper.wait_counts)), strict=True)), shipper.wait_s)
    yield waits


def _clock(quality: ClockQuality) -> Iterator[Metric]:
    known = quality.offset_ns is not None
    yield GaugeMetricFamily("twintape_clock_synchronised", "1 if something keeps the clock and says how well", int(known))
    for name, text, value_ns in (
        ("twintape_clock_offset_seconds", "True time minus wall time, as far as known", quality.offset_ns),
        ("twintape_clock_error_seconds", "Bound of the error of that", quality.error_ns),
    ):
        family = GaugeMetricFamily(name, text, labels=["source"])
        if value_ns is not None:
            family.add_metric([quality.source], value_ns / 1e9)
        yield family
