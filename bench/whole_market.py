"""A whole market against one collector: what it costs, how late its event loop is, and that nothing is lost.

    uv run python bench/whole_market.py --seconds 600

A simulated exchange in its own process sends depth frames over TLS to `twintape record`, started as a user starts it; frames are written
durably, sealed and uploaded while it runs. Prints JSON. What is measured:

* `cpu_percent`: CPU of the collector and all its children, from its start to its end with everything uploaded, over the seconds of sending;
  `steady_cpu_percent`: between the first and the last sample of those seconds. Both as a share of one core.
* `floor_cpu_percent`: the same connections read by the same websocket library in a process that only counts frames, just before.
* `loop_lag`: how late the collector's event loop was; `idle_loop_lag`: the same probe in an idle process at the same time.
* `lost_frames`: what the exchange says it sent on each connection, less what is in the store; `lost_ids`: ids of any stream that are not there.
* `memory_mib_per_hour`: slope of a straight line through the resident memory of the collector and its children, after the first fifth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import uvloop
from picows import WSListener, WSMsgType, ws_connect

from twintape.core.histogram import Histogram
from twintape.core.markets import Market
from twintape.core.segment import check_digests, read_block
from twintape.core.subscription import connection_url
from twintape.io.clock import SystemClock
from twintape.io.lag import watch_loop
from twintape.io.store import open_store

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S_MAX = 120.0
STOP_S_MAX = 300.0
FIRST_UPDATE_ID = 10_000_000_000  # where the ids of symbol 0 begin in the simulator's load; that of symbol n is n higher
SETTLE_S = 3.0
"""From the start of sending to the first sample that counts as steady."""
CONFIG = """
collector = "bench"
store = "{store}"
spool = "{spool}"
streams_per_connection = {streams_per_connection}
stop_seconds = 120
metrics_port = {metrics_port}

[[markets]]
market = "spot"
symbols = ["*"]
websocket = "{websocket}"
rest = "{rest}"
"""


def command(*arguments):
    return [sys.executable, "-m", "twintape", *map(str, arguments)]


# --- the two ends --------------------------------------------------------------------------------------------------------------


def make_certificate(directory):
    """Make a certificate for loopback with the openssl command; return the authority's file and the server's."""
    key, certificate, both = directory / "key.pem", directory / "authority.pem", directory / "server.pem"
    made = f"req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -subj /CN=localhost -days 2 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *made.split()], check=True, capture_output=True)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate, both


class Exchange:
    """A running `twintape exchange --load`."""

    def __init__(self, options, certificate, server, seconds):
        self._tls = ssl.create_default_context(cafile=str(certificate))
        messages = round(options.frames_per_second * seconds)
        self.process = subprocess.Popen(
            command(
                *("exchange", "--market", "spot", "--load", options.frames_per_second, "--frame-bytes", options.frame_bytes),
                *("--symbols", options.symbols, "--messages", messages, "--certificate", server),
                *("--wait-clients", options.connections),
            ),
            stdout=subprocess.PIPE,
        )
        self.gateway = json.loads(self.process.stdout.readline())["gateways"][0]
        self.symbols = [f"L{number:04d}USDT" for number in range(options.symbols)]

    def status(self):
        with urllib.request.urlopen(f"{self.gateway['rest']}/twintape/status", timeout=60, context=self._tls) as answer:
            return json.load(answer)

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Collector:
    """A running `twintape record`, and what the operating system says of it and its children."""

    def __init__(self, options, root, exchange, certificate, store):
        self.port = free_port()
        config = root / "record.toml"
        config.write_text(
            CONFIG.format(
                store=store,
                spool=root / "spool",
                streams_per_connection=-(-options.symbols // options.connections),
                metrics_port=self.port,
                websocket=exchange.gateway["spot"],
                rest=exchange.gateway["rest"],
            )
        )
        with (root / "collector.log").open("wb") as log:
            self.process = subprocess.Popen(
                command("record", "--config", config), stderr=log, env=os.environ | {"SSL_CERT_FILE": str(certificate)}
            )

    def status(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=60) as answer:
            return json.load(answer)

    def stop(self):
        """Stop it in order and return the CPU seconds it and its children have used in their lives."""
        self.process.send_signal(signal.SIGTERM)
        _, code, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(code)
        return usage.ru_utime + usage.ru_stime


def tree(pid):
    """Return the process ids of a process and all its descendants."""
    pids = [pid]
    for one in pids:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += [int(child) for child in task.read_text().split()]
    return pids


def cpu_s(pid):
    """Return the CPU seconds a process and its descendants have used, ended children included."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S


def cpu_by_part(pid):
    """Return the CPU seconds of the event loop's thread, of all other threads, and of child processes."""
    parts = {"event_loop": 0.0, "threads": 0.0, "children": 0.0}
    for one in tree(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            part = "children" if one != pid else "event_loop" if int(task.name) == pid else "threads"
            parts[part] += sum(map(int, fields[11:13])) / TICKS_PER_S
    return parts


def rss_mib(pid):
    """Return the resident memory of a process and its descendants."""
    pages = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- the floor and the idle loop -----------------------------------------------------------------------------------------------


class Counting(WSListener):
    def __init__(self):
        self.frames = self.size = 0

    def on_ws_frame(self, transport, frame):  # noqa: ARG002 - picows' signature
        if frame.msg_type == WSMsgType.TEXT:
            self.frames += 1
            self.size += frame.payload_size


async def _read_only(base, symbols, connections, authority):
    """Read what the exchange sends over as many connections, and do nothing with it."""
    tls, listeners = ssl.create_default_context(cafile=authority), []
    share = -(-len(symbols) // connections)
    for number in range(connections):
        names = [f"{symbol.lower()}@depth@100ms" for symbol in symbols[number * share : (number + 1) * share]]
        url, messages = connection_url(Market.SPOT, names, base=base)
        listener = Counting()
        transport, _ = await ws_connect(lambda listener=listener: listener, url, ssl_context=tls)
        for message in messages:
            transport.send(WSMsgType.TEXT, message)
        listeners.append(listener)
    while not any(listener.frames > len(symbols) // connections for listener in listeners):  # noqa: ASYNC110 - frames come without end
        await asyncio.sleep(0.05)
    began, used, frames = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF), sum(one.frames for one in listeners)
    seen = 0
    while (now := sum(one.frames for one in listeners)) != seen:
        seen, ended, after = now, time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(0.5)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"cpu_s": cpu, "frames": seen - frames, "seconds": ended - began}))


def measure_floor(options, certificate, server):
    exchange = Exchange(options, certificate, server, options.floor_seconds)
    arguments = ["--read-only", exchange.gateway["spot"], "--connections", options.connections, "--symbols", options.symbols]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments), "--authority", str(certificate)], check=True, capture_output=True
    )
    exchange.close()
    return json.loads(done.stdout)


async def _idle(seconds):
    lags = Histogram()
    watching = asyncio.create_task(watch_loop(SystemClock(), lags))
    await asyncio.sleep(seconds)
    watching.cancel()
    print(json.dumps({str(bound_ns / 1e9): count for bound_ns, count in lags.counts().items()}))


# --- the run -------------------------------------------------------------------------------------------------------------------


def percentiles(counts):
    """Return percentiles of a histogram as `bound in s → count`."""
    pairs, total = sorted((float(bound), count) for bound, count in counts.items() if count), sum(counts.values())
    found = {}
    for share in (0.5, 0.99, 0.999, 1.0):
        seen = 0
        for bound, count in pairs:
            seen += count
            if seen >= share * total:
                found[f"p{100 * share:g}_ms" if share < 1 else "max_ms"] = round(bound * 1000, 3)
                break
    return found


def slope_per_hour(samples):
    """Return the slope of a straight line through `(seconds, value)`, an hour."""
    count = len(samples)
    if count < 3:
        return None
    mean_t, mean_v = (sum(sample[axis] for sample in samples) / count for axis in (0, 1))
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return round(sum((t - mean_t) * (v - mean_v) for t, v in samples) / spread * 3600, 2)


def wait(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.1)
    raise SystemExit(f"{what}: not within {seconds:g} s")


def watch(options, exchange, collector, log):
    """Sample until the exchange has sent everything."""
    samples, began = [], time.monotonic()
    ended = False
    while not ended:
        settle_s = min(SETTLE_S, options.seconds / 5)
        wanted = began + min(settle_s + len(samples) * options.sample_seconds, options.seconds)
        time.sleep(max(0.1, wanted - time.monotonic()))
        status, pid = collector.status(), collector.process.pid
        sent = exchange.status()
        ended = sent["ended"]
        market = status["markets"]["spot"]
        sample = {
            "seconds": round(time.monotonic() - began, 2),
            "frames_sent": sent["messages_sent"],
            "lines": market["lines"],
            "bytes": market["bytes"],
            "cpu_s": cpu_s(pid),
            "cpu_s_by_part": cpu_by_part(pid),
            "exchange_cpu_s": cpu_s(exchange.process.pid),
            "rss_mib": round(rss_mib(pid), 2),
            "queue_peak_bytes": status["queue_peak_bytes"],
            "uploads_waiting": status["uploads"]["waiting"],
            "spool_used_bytes": market["spool_used_bytes"],
            "loop_lag_counts": status["loop_lag"]["counts"],
        }
        samples.append(sample)
        if log is not None:
            log.write(json.dumps(sample) + "\n")
            log.flush()
    return samples


async def judge(store, sent):
    """Compare what is in the store with what the exchange says it sent: frames by connection, and every id of every stream."""
    objects, size, recorded, chains, failures = 0, 0, Counter(), {}, []
    opened = open_store(store)
    async for info in opened.list("raw/"):
        data = await opened.get(info.key)
        index = check_digests(data)
        objects, size = objects + 1, size + len(data)
        for stream in index.streams:
            if not stream.stream.startswith("depth@"):
                continue
            recorded[index.run, index.connection] += stream.count
            for block in stream.blocks:
                read_block(data[block.offset : block.offset + block.size], block)
                if block.breaks:
                    failures.append(f"{stream.name}: {block.breaks} breaks in a block of {info.key}")
                chains.setdefault(stream.name, []).append((block.first_prev_update_id, block.last_final_update_id))
    lost_ids = 0
    for name, last_id in sent["last_final_update_id"]["spot"].items():
        known = FIRST_UPDATE_ID + int(name[1:5])
        for first, last in [*sorted(chains.get(name, [])), (last_id, last_id)]:
            lost_ids += max(0, first - known)
            known = max(known, last)
        if known != last_id:
            failures.append(f"{name}: recorded up to {known}, sent up to {last_id}")
    by_connection = sorted(sent["gateways"][0]["sent_by_connection"].values())
    if lost_ids:
        failures.append(f"{lost_ids} ids are missing")
    return {
        "objects": objects,
        "bytes": size,
        "recorded_frames": sum(recorded.values()),
        "lost_ids": lost_ids,
        "same_by_connection": sorted(recorded.values()) == by_connection,
        "failures": failures[:10],
    }


def run(options, root):
    """Run once and return the report."""
    if (root / "spool").exists():
        raise SystemExit(f"{root} holds an earlier run")
    store = options.store or f"file://{root}/store"
    certificate, server = make_certificate(root)
    floor = measure_floor(options, certificate, server) if options.floor_seconds else None
    exchange = Exchange(options, certificate, server, options.seconds)
    idle = subprocess.Popen(
        [sys.executable, __file__, "--idle", str(options.seconds)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    collector = Collector(options, root, exchange, certificate, store)
    try:
        wait(lambda: exchange.status()["started"], START_S_MAX, "the collector has not subscribed to everything")
        with options.samples.open("w") if options.samples else contextlib.nullcontext() as log:
            samples = watch(options, exchange, collector, log)
        sent = exchange.status()
        wanted = sent["messages_sent"]
        wait(lambda: collector.status()["markets"]["spot"]["lines"] >= wanted, 30, f"the collector has not heard all {wanted}")
        last = collector.status()
        used_s = collector.stop()
    finally:
        exchange.close()
        if collector.process.returncode is None:
            collector.process.kill()
            collector.process.wait()
    idle_counts = json.loads(idle.communicate()[0])
    return report(options, samples, last, sent, used_s, floor, idle_counts, asyncio.run(judge(store, sent)), collector)


def report(options, samples, last, sent, used_s, floor, idle_counts, judged, collector):
    first, final = samples[0], samples[-2] if len(samples) > 2 else samples[-1]
    seconds, frames = final["seconds"] - first["seconds"], final["frames_sent"] - first["frames_sent"]
    steady_s = final["cpu_s"] - first["cpu_s"]
    sending_s = samples[-1]["seconds"]
    parts = {name: final["cpu_s_by_part"][name] - first["cpu_s_by_part"][name] for name in final["cpu_s_by_part"]}
    replaced = last["events"].get("disconnected", 0)
    if not (replaced or judged["same_by_connection"]):
        judged["failures"].append("some connection has not recorded what was sent on it")
    lags = Counter(last["loop_lag"]["counts"])
    lags.subtract(first["loop_lag_counts"])
    warm = [(s["seconds"], s["rss_mib"]) for s in samples if s["seconds"] > options.seconds / 5]
    events = {name: count for name, count in last["events"].items() if name not in ("dials", "connected", "sealed", "snapshots")}
    return {
        "seconds": round(sending_s, 1),
        "connections": len(last["connections"]),
        "frames_sent": sent["messages_sent"],
        # A connection that was replaced had a successor before it ended: the frames both heard are recorded twice.
        "lost_frames": None if replaced else sent["messages_sent"] - judged["recorded_frames"],
        "lost_ids": judged["lost_ids"],
        "failures": judged["failures"],
        "exit_code": collector.process.returncode,
        "frames_per_s": round(frames / seconds),
        "megabytes_per_s": round((final["bytes"] - first["bytes"]) / seconds / 1e6, 2),
        "cpu_percent": round(100 * used_s / sending_s, 1),
        "steady_cpu_percent": round(100 * steady_s / seconds, 1),
        "steady_cpu_us_per_frame": round(1e6 * steady_s / frames, 2),
        "steady_cpu_percent_by_part": {name: round(100 * used / seconds, 1) for name, used in parts.items()},
        "floor_cpu_percent": None if floor is None else round(100 * floor["cpu_s"] / floor["seconds"], 1),
        "floor_cpu_us_per_frame": None if floor is None else round(1e6 * floor["cpu_s"] / floor["frames"], 2),
        "exchange_cpu_percent": round(100 * (final["exchange_cpu_s"] - first["exchange_cpu_s"]) / seconds, 1),
        "loop_lag": percentiles(lags),
        "idle_loop_lag": percentiles(idle_counts),
        "memory_mib_per_hour": slope_per_hour(warm),
        "rss_mib": {"first": first["rss_mib"], "last": final["rss_mib"], "peak": max(s["rss_mib"] for s in samples)},
        "queue_peak_bytes": last["queue_peak_bytes"],
        "uploads_waiting_peak": max(s["uploads_waiting"] for s in samples),
        "spool_peak_bytes": max(s["spool_used_bytes"] for s in samples),
        "objects": judged["objects"],
        "stored_bytes": judged["bytes"],
        "events": events,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--frames-per-second", type=float, default=20_000)
    parser.add_argument("--frame-bytes", type=int, default=610)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--symbols", type=int, default=2500)
    parser.add_argument("--store", help="such as s3://bucket/prefix; default: a directory beside the spool")
    parser.add_argument("--directory", type=Path, help="where everything goes; default: a temporary one, removed in the end")
    parser.add_argument("--samples", type=Path, help="write every sample to this file as it is taken")
    parser.add_argument("--sample-seconds", type=float, default=5)
    parser.add_argument("--floor-seconds", type=float, default=20, help="how long to measure the floor; 0: not at all")
    for name in ("--read-only", "--authority", "--idle"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.idle:
            return runner.run(_idle(float(options.idle)))
        if options.read_only:
            names = [f"L{number:04d}USDT" for number in range(options.symbols)]
            return runner.run(_read_only(options.read_only, names, options.connections, options.authority))
    with tempfile.TemporaryDirectory() as temporary:
        root = options.directory or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        found = run(options, root)
    print(json.dumps(found, indent=1))
    return 1 if found["lost_frames"] or found["lost_ids"] or found["failures"] or found["exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
