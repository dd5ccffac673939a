"""A page for people, `/metrics` for Prometheus and `/status` as JSON, on loopback. Everything is read when somebody asks; recording pays nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector as MetricsSource

from twintape.core.histogram import Histogram
from twintape.core.session import State
from twintape.core.shard import Shard
from twintape.core.tally import HANDOVERS, RECONNECTS, SUSPECTS
from twintape.io.collector import Collector
from twintape.io.descriptors import descriptors_left
from twintape.io.levels import ALARMING, ROUTINE, WARNING
from twintape.io.metrics import more_metrics

__all__ = ["StatusServer", "status"]

HOST = "127.0.0.1"
LAG_SHARES = (0.5, 0.99, 0.999)
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
    "X-Content-Type-Options": "nosniff",
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def status(collector: Collector) -> dict[str, Any]:
    """Return what there is to know about a running collector, as JSON values."""
    now_ns = collector.clock.monotonic_ns()
    return {
        "collector": collector.settings.collector,
        "paused": collector.paused,
        "loop_lag": _loop_lag(collector.loop_lag),
        "queue_bytes": collector.writer.waiting_bytes,
        "queue_peak_bytes": collector.queue_peak_bytes,
        "queue_limit_bytes": collector.writer.queue_bytes,
        "markets": {
            str(market): {
                "lines": state.lines,
                "bytes": state.size,
                "connections_made": state.connections,
                "spool_used_bytes": collector.writer.status[market].used_bytes,
                "spool_held_bytes": collector.writer.status[market].held_bytes,
                "spool_lost_lines": collector.writer.status[market].lost_count,
                "spool_alarm": collector.writer.status[market].alarm,
            }
            for market, state in collector.markets.items()
        },
        "connections": [
            {
                "market": str(link.market),
                "connection": session.number,
                "state": session.state.value,
                "streams": len(session.streams),
                "frames": session.frames,
                "gaps": session.gaps,
                "age_s": round((now_ns - session.opened_ns) / 1e9, 3),
                "silent_s": round((now_ns - session.last_data_ns) / 1e9, 3),
            }
            for session, link in collector.links.items()
        ],
        "uploads": {
            "waiting": collector.shipper.waiting,
            "oldest_s": round(collector.shipper.oldest_s(), 3),
            "done": collector.shipper.uploaded,
            "bytes": collector.shipper.uploaded_bytes,
            "failures": collector.shipper.failures,
        },
        "snapshots": {"waiting": collector.fetcher.waiting, "answers": dict(sorted(collector.fetcher.answers.items()))},
        "events": dict(sorted(collector.counts.items())),
        "alarms": sorted(name for name in ALARMING if collector.counts[name]),
    }


def _loop_lag(lags: Histogram) -> dict[str, Any]:
    named = {f"p{100 * share:g}_s": round(lags.percentile_ns(share) / 1e9, 6) for share in LAG_SHARES}
    counts = {f"{bound_ns / 1e9:.6f}": count for bound_ns, count in lags.counts().items()}
    return {**named, "max_s": round(lags.max_ns / 1e9, 6), "count": lags.count, "counts": counts}


class _Source(MetricsSource):
    """Turns the state into metrics when it is asked to."""

    def __init__(self, collector: Collector, log_dropped: Callable[[], int]) -> None:
        self._collector = collector
        self._log_dropped = log_dropped

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        collector = self._collector
        lines = CounterMetricFamily("twintape_lines", "Lines recorded", labels=["market"])
        size = CounterMetricFamily("twintape_line_bytes", "Bytes of lines recorded", labels=["market"])
        lost = CounterMetricFamily("twintape_spool_lost_lines", "Lines that found no room", labels=["market"])
        spool = GaugeMetricFamily("twintape_spool_used_bytes", "Bytes on the spool's disk", labels=["market"])
        alarm = GaugeMetricFamily("twintape_spool_alarm", "0 fine to 3 full or failing", labels=["market"])
        for market, state in collector.markets.items():
            known = collector.writer.status[market]
            lines.add_metric([market], state.lines)
            size.add_metric([market], state.size)
            lost.add_metric([market], known.lost_count)
            spool.add_metric([market], known.used_bytes)
            alarm.add_metric([market], known.alarm)
        events = CounterMetricFamily("twintape_events", "Events by name, as in the log", labels=["event"])
        for name in sorted({*ALARMING, *WARNING, *ROUTINE, *collector.counts}):
            events.add_metric([name], collector.counts[name])
        answers = CounterMetricFamily("twintape_rest_answers", "REST answers by status", labels=["status"])
        for code in sorted({200, 418, 429, *collector.fetcher.answers}):
            answers.add_metric([str(code)], collector.fetcher.answers.get(code, 0))
        now_ns = collector.clock.monotonic_ns()
        weight = GaugeMetricFamily("twintape_rest_weight", "Request weight used in the last minute", labels=["pool"])
        limit = GaugeMetricFamily("twintape_rest_weight_limit", "Request weight allowed in a minute", labels=["pool"])
        blocked = GaugeMetricFamily("twintape_rest_blocked_seconds", "How long REST is forbidden still", labels=["pool"])
        rounds = GaugeMetricFamily("twintape_checkpoint_round_seconds", "Time between checkpoints of a symbol", labels=["pool"])
        for pool, budget in collector.fetcher.pools.items():
            weight.add_metric([pool], budget.used(now_ns))
            limit.add_metric([pool], budget.limit)
            blocked.add_metric([pool], max(0, budget.blocked_until_ns - now_ns) / 1e9)
        for pool, plan in collector.plans.items():
            rounds.add_metric([pool], plan.round_ns / 1e9)
        yield from (lines, size, lost, spool, alarm, events, answers, weight, limit, blocked, rounds)
        silent_ns = [
            collector.clock.monotonic_ns() - session.last_data_ns for session in collector.links if session.state is State.OPEN
        ]
        gauges = {
            "twintape_connections": ("Connections open", len(silent_ns)),
            "twintape_silent_seconds_max": ("Longest time since a connection's last frame", max(silent_ns, default=0) / 1e9),
            "twintape_queue_bytes": ("Bytes waiting for the disk", collector.writer.waiting_bytes),
            "twintape_paused": ("1 while sockets are not read", int(collector.paused)),
            "twintape_queue_peak_bytes": ("The most that ever waited for the disk", collector.queue_peak_bytes),
            "twintape_uploads_waiting": ("Sealed files the store does not have yet", collector.shipper.waiting),
            "twintape_snapshots_waiting": ("Snapshots wished for", collector.fetcher.waiting),
            "twintape_descriptors_left": ("File descriptors that can still be opened", descriptors_left()),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        yield _lag_histogram(collector.loop_lag)
        yield from _connections(collector, now_ns)
        yield from more_metrics(collector, self._log_dropped())
        yield CounterMetricFamily("twintape_uploads", "Sealed files confirmed by the store", collector.shipper.uploaded)
        yield CounterMetricFamily("twintape_uploaded_bytes", "Bytes of them", collector.shipper.uploaded_bytes)
        yield CounterMetricFamily(
            "twintape_upload_failures", "Uploads that failed and were tried again", collector.shipper.failures
        )


def _lag_histogram(lags: Histogram) -> Metric:
    buckets = [(str(bound_ns / 1e9), float(count)) for bound_ns, count in lags.octaves()]
    family = HistogramMetricFamily("twintape_loop_lag_seconds", "How late the event loop came back to what was due")
    family.add_metric([], [*buckets, ("+Inf", float(lags.count))], lags.total_ns / 1e9)
    return family


def _connections(collector: Collector, now_ns: int) -> Iterator[Metric]:
    """Yield what there is to know about keeping the streams heard."""
    reconnects = CounterMetricFamily("twintape_reconnects", "Connections that ended by themselves", labels=["market", "reason"])
    handovers = CounterMetricFamily("twintape_handovers", "Changes of connection by how they ended", labels=["market", "result"])
    suspects = CounterMetricFamily("twintape_suspects", "Suspected intervals by reason", labels=["market", "reason"])
    wanted = GaugeMetricFamily("twintape_connections_wanted", "Connections that should be open", labels=["market"])
    heard = GaugeMetricFamily("twintape_connections_heard", "Connections that are open and not suspected", labels=["market"])
    streams = GaugeMetricFamily("twintape_streams", "Streams recorded", labels=["market"])
    steady = GaugeMetricFamily("twintape_streams_steady", "Streams whose silence is noticed in 5 seconds", labels=["market"])
    suspected = GaugeMetricFamily("twintape_streams_suspected", "Streams that no connection hears unsuspected", labels=["market"])
    lag = GaugeMetricFamily("twintape_lag_seconds", "How much later than usual the latest frames came", labels=["market"])
    for market, state in collector.markets.items():
        shards = [shard for shard in collector.shards if shard.market is market]
        memories = [memory for shard in shards for memory in shard.memories]
        sessions = [session for shard in shards for session in shard.sessions if session.state is State.OPEN]
        for family, counted, words in (
            (reconnects, state.tally.reconnects, RECONNECTS),
            (handovers, state.tally.handovers, HANDOVERS),
            (suspects, state.tally.suspects, SUSPECTS),
        ):
            for word in words:  # from the beginning: no rate sees the first count of a series that was not there
                family.add_metric([market, word], counted[word])
        wanted.add_metric([market], sum(len(shard.seats) for shard in shards))
        heard.add_metric([market], sum(not session.suspect_count for session in sessions))
        streams.add_metric([market], len(memories))
        steady.add_metric([market], sum(memory.pace.steady(now_ns) for memory in memories))
        suspected.add_metric([market], sum(_suspected(shard) for shard in shards))
        late_ns = [session.lag.last_ns - session.lag.usual_ns for session in sessions]
        lag.add_metric([market], max(late_ns, default=0) / 1e9)
    yield from (reconnects, handovers, suspects, wanted, heard, streams, steady, suspected, lag)


def _suspected(shard: Shard) -> int:
    """Return how many streams are suspected on every connection there is."""
    counts = [session.suspect_count for session in shard.sessions if session.state is State.OPEN]
    return min(counts, default=len(shard.memories))


class StatusServer:
    """Serves one collector's state on loopback; an asynchronous context manager.

    Args:
        collector: Whose state.
        port: TCP port; 0 takes any, and `port` says which once entered.
        log_dropped: Returns how many log lines were dropped because nobody read them.
    """

    def __init__(self, collector: Collector, port: int, *, log_dropped: Callable[[], int] = lambda: 0) -> None:
        self.port = port
        self._collector = collector
        self._registry = CollectorRegistry()
        self._registry.register(_Source(collector, log_dropped))
        ProcessCollector(registry=self._registry)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> StatusServer:
        application = web.Application()
        application.router.add_get("/", self._page)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._status)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _page(self, _: web.Request) -> web.Response:
        text = resources.files("twintape.io").joinpath("status.html").read_text("utf-8")
        return web.Response(text=text, content_type="text/html", headers=PAGE_HEADERS)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(status(self._collector))
