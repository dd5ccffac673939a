"""The main job on real recordings: two collectors hear the exchange with losses of their own, the night restores the book."""

import contextlib
import gzip
import json
import random

import pytest

import twintape
from support.corpus import CORPUS, captures, load, needs_corpus
from support.oracle import OracleBook, book_ticker_agreement, mantissa
from support.processes import Collector, call, exchange, run
from twintape.columns.expand import Outputs, expand
from twintape.columns.schema import DEPTH, TableReader
from twintape.core import wire
from twintape.core.gateway import GatewayOptions, Partition
from twintape.core.markets import Market
from twintape.core.recut import GatewayView
from twintape.core.venue import VenueMessage

pytestmark = [*needs_corpus, pytest.mark.slow]

LEVELS = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")


def capture_of(name):
    return next(c for c in json.loads((CORPUS / "expected.json").read_text()) if c["capture"] == name)


def record(root, capture):
    """Play a capture to two collectors. alpha is cut off twice, beta is killed and started again; never both at once.

    The exchange waits for whoever is slow, and stands still while a process comes or goes: little depends on the machine's speed.
    """
    streams = {stream.partition("@")[2] for symbol in capture["symbols"] for stream in symbol["streams"]} | {"bookTicker"}
    symbols = [symbol["symbol"] for symbol in capture["symbols"]]
    market = capture["market"]
    tapes = [part for file in capture["files"] for part in ("--tape", f"{market}:{CORPUS / file}")]
    options = ["--market", market, *tapes, "--gateways", "2", "--wait-clients", "2", "--speed", "max"]
    holds = [part for position in ("0", "0.25", "0.5", "0.8") for part in ("--hold", position)]
    faults = ["--fault", "fin:0:0.10-0.20", "--fault", "fin:0:0.60-0.75", *holds]
    with exchange(root / "exchange.log", *options, *faults) as venue, contextlib.ExitStack() as stack:
        collectors = []
        for name, gateway in zip(("alpha", "beta"), venue.gateways, strict=True):
            collector = Collector(root, name, market, gateway, symbols, sorted(streams))
            stack.callback(collector.end)
            collector.start()
            collectors.append(collector)
        # What is published of a capture's last book begins with the snapshot before the first event.
        venue.wait(lambda now: all(gateway["snapshots"] >= len(symbols) for gateway in now["gateways"]))
        venue.go_on()
        venue.wait_holding()
        venue.wait_connected(0)
        # What alpha was not there for, beta must have written before it dies.
        collectors[1].wait_written()
        collectors[1].kill()
        venue.go_on()
        venue.wait_holding()
        collectors[1].start()
        venue.wait_connected(1)
        venue.go_on()
        venue.wait_holding()
        venue.wait_connected(0)
        venue.go_on()
        # Everything sent is heard before the sockets are closed: the exchange has nothing left for anyone.
        venue.wait(lambda now: now["ended"])
        for collector in collectors:
            collector.stop()


def dates_of(capture):
    return sorted({symbol[edge][:10] for symbol in capture["symbols"] for edge in ("first_E", "last_E")} | set(_between(capture)))


def _between(capture):
    from datetime import date, timedelta

    first = min(symbol["first_E"][:10] for symbol in capture["symbols"])
    last = max(symbol["last_E"][:10] for symbol in capture["symbols"])
    day = date.fromisoformat(first)
    while day.isoformat() <= last:
        yield day.isoformat()
        day += timedelta(days=1)


def merge(root, capture, execute=run):
    for date in dates_of(capture):
        execute("merge", "--date", date, "--market", capture["market"], "--store", root / "store")


def check(root, name, capture):
    """Compare the archive with what is published of the capture."""
    archive = twintape.open(str(root / "store"))
    market = capture["market"]
    recordings = {recording.symbol: recording for recording in load(name)}
    for expected in capture["symbols"]:
        symbol, stream = expected["symbol"], expected["streams"][0].partition("@")[2]
        proofs = [archive.proof(market, symbol, date, stream) for date in dates_of(capture)]
        assert [proof.gaps for proof in proofs] == [[] for _ in proofs]
        assert sum(proof.events for proof in proofs) == expected["depth_events"]
        assert sum(proof.levels for proof in proofs) == expected["levels"]
        assert {proof.status for proof in proofs} <= {"complete", "partial"}
        assert proofs[-1].closing_book is not None
        assert proofs[-1].closing_book.sha256 == expected["final_book_sha256"], symbol
        assert proofs[-1].end.update_id == expected["last_u"]
        view = archive.book(market, symbol, "end", depth=1)
        assert [f"{view.bids[0][0]:f}".rstrip("0").rstrip("."), f"{view.asks[0][0]:f}".rstrip("0").rstrip(".")] == [
            expected["final_best_bid"][0],
            expected["final_best_ask"][0],
        ]
        assert_frames_render(root, archive, market, recordings[symbol], stream)
    return archive


def assert_frames_render(root, archive, market, recording, stream):
    """The chosen rows, rendered, are exactly the capture's depth frames."""
    from twintape.columns.render import render

    frames = [line.partition(b" ")[2] for line in recording.text.splitlines()]
    rendered = []
    for day in archive.days(market, recording.symbol):
        if day.stream == stream:
            reader = TableReader((root / "store" / day.files["depth"]).read_bytes(), DEPTH)
            for columns in reader.depth():
                text, offsets = render(columns, reader.templates)
                data = text.tobytes()
                rendered += [data[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    assert rendered == frames


def agreement(root, archive, market, expected, stream, first_known):
    """Count how often the archive's best bid and ask are what the archived bookTickers say."""
    symbol = expected["symbol"]
    tickers = {}
    for day in archive.days(market, symbol):
        if day.stream == "bookTicker":
            outputs = Outputs({table: (root / "store" / key).read_bytes() for table, key in day.files.items()})
            lines = [line for chunk in expand(outputs, day.date) for line in chunk.load().splitlines()]
            for time, _, frame in (line.partition(b" ") for line in lines):
                fields = json.loads(wire.unwrap(frame))
                key = (fields["u"], fields["b"], fields["B"], fields["a"], fields["A"])
                tickers[key] = min(tickers.get(key, int(time)), int(time))
    reader = archive.depth(market, symbol, "2000-01-01", "2100-01-01", stream=stream)
    book, events = OracleBook(), []
    snapshot = first_known
    exponents = None
    for batch in reader:
        names = ("prev_update_id", "final_update_id", "price_exponent", "quantity_exponent", *LEVELS)
        for row in batch.select(names).to_pylist():
            if exponents is None:
                exponents = (min(-8, row["price_exponent"]), min(-8, row["quantity_exponent"]))
                book.apply(
                    [(mantissa(p, exponents[0]), mantissa(q, exponents[1])) for p, q in snapshot.bids],
                    [(mantissa(p, exponents[0]), mantissa(q, exponents[1])) for p, q in snapshot.asks],
                )
            if row["final_update_id"] < snapshot.last_update_id + (market == Market.SPOT):
                continue
            price, quantity = 10 ** (row["price_exponent"] - exponents[0]), 10 ** (row["quantity_exponent"] - exponents[1])
            book.apply(
                [(p * price, q * quantity) for p, q in zip(row["bid_price"], row["bid_quantity"], strict=True)],
                [(p * price, q * quantity) for p, q in zip(row["ask_price"], row["ask_quantity"], strict=True)],
            )
            events.append((row["prev_update_id"], row["final_update_id"], book.top()))
    ordered = sorted(tickers, key=lambda key: (key[0], tickers[key]))
    tops = [(u, tuple(mantissa(n, exponents[i % 2]) for i, n in enumerate(best))) for u, *best in ordered]
    return book_ticker_agreement(events, tops)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", captures())
def test_two_collectors_with_losses_of_their_own_make_the_whole_book(name, tmp_path):
    """Real processes, played through the simulator; each line misses something, the archive nothing."""
    capture = capture_of(name)
    record(tmp_path, capture)
    merge(tmp_path, capture, call)
    archive = check(tmp_path, name, capture)
    missed = {"alpha": 0, "beta": 0}
    for expected in capture["symbols"]:
        for date in dates_of(capture):
            for line in archive.proof(
                capture["market"], expected["symbol"], date, expected["streams"][0].partition("@")[2]
            ).lines:
                missed[line.collector] += line.missed
    assert missed["alpha"] > 0
    assert missed["beta"] > 0
    for expected in capture["symbols"]:
        recording = next(r for r in load(name) if r.symbol == expected["symbol"])
        stream = expected["streams"][0].partition("@")[2]
        agree, disagree = agreement(tmp_path, archive, capture["market"], expected, stream, recording.snapshots[0])
        assert (agree, disagree) == (expected["bookTicker_agree"], expected["bookTicker_disagree"])
    call("prune", "--store", tmp_path / "store", "--grace", "0s", "--execute")
    assert call("verify", "--store", tmp_path / "store").count(": ok") == len(archive.days())
    check(tmp_path, name, capture)


def damaged_copies(root, capture, lost_by_both=None):
    """Write two copies of a capture's files with disjoint ranges of lines missing, and optionally one range missing in both."""
    seed = random.Random(capture["capture"])
    copies = {"alpha": [], "beta": []}
    for file in capture["files"]:
        lines = gzip.decompress((CORPUS / file).read_bytes()).splitlines(keepends=True)
        cuts = sorted(seed.sample(range(len(lines) // 20, len(lines)), 8))
        for number, name in enumerate(copies):
            ranges = [(cuts[2 * k], cuts[2 * k + 1]) for k in range(4) if k % 2 == number]
            kept = [
                line
                for place, line in enumerate(lines)
                if not any(a <= place < b for a, b in ranges)
                and (lost_by_both is None or not lost_by_both(place, len(lines), line))
            ]
            path = root / f"{name}-{file}"
            path.write_bytes(gzip.compress(b"".join(kept), 1))
            copies[name].append(path)
    return copies


def import_all(root, capture, copies):
    single = ["--symbol", capture["symbols"][0]["symbol"]] if len(capture["symbols"]) == 1 else []
    for name, paths in copies.items():
        call("import", *paths, "--market", capture["market"], "--collector", name, "--store", root / "store", *single)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", captures())
def test_imported_damaged_copies_make_the_whole_book(name, tmp_path):
    capture = capture_of(name)
    import_all(tmp_path, capture, damaged_copies(tmp_path, capture))
    merge(tmp_path, capture, call)
    check(tmp_path, name, capture)


def test_a_range_lost_by_both_lines_is_exactly_that_gap_and_the_book_restarts_from_the_next_snapshot(tmp_path):
    """The same ids are missing everywhere: the proof says which, and nothing is claimed until a snapshot comes."""
    capture = capture_of("spot_2024-08-08_hft_btcusdt")
    recording = load(capture["capture"])[0]
    events = [wire.decode_depth(line.partition(b" ")[2], Market.SPOT) for line in recording.text.splitlines()]
    first, last = 1000, 1100
    lost = {(event.first_update_id, event.final_update_id) for event in events[first:last]}

    def lost_by_both(_place, _count, line):
        ids = wire.depth_ids(line, Market.SPOT) if b'"depthUpdate"' in line[:120] else None
        return ids is not None and (ids[0] + 1, ids[1]) in lost

    copies = damaged_copies(tmp_path, capture, lost_by_both)
    late = _snapshot_after(recording, events, last + 200)
    with gzip.open(copies["beta"][0], "ab") as stream:
        stream.write(late)
    import_all(tmp_path, capture, copies)
    call("merge", "--date", "2024-08-08", "--market", "spot", "--store", tmp_path / "store", expect=1)
    archive = twintape.open(str(tmp_path / "store"))
    proof = archive.proof("spot", "BTCUSDT", "2024-08-08")
    assert proof.status == "gapped"
    assert [(gap.after_update_id, gap.next_prev_update_id) for gap in proof.gaps] == [
        (events[first - 1].final_update_id, events[last].prev_update_id)
    ]
    unknown = proof.book_unknown[-1]
    assert unknown.prev_update_id == events[last].prev_update_id
    # The event that ends at the snapshot's id is the first behind which the book is known again.
    assert unknown.final_update_id == events[last + 199].final_update_id
    assert proof.closing_book is not None


def _snapshot_after(recording, events, count):
    """Return the line of a REST body at the end of an event: the true book there, all of it."""
    snapshot = recording.snapshots[0]
    bids, asks = dict(snapshot.bids), dict(snapshot.asks)
    for event in events[: count + 1]:
        if event.final_update_id > snapshot.last_update_id:
            for book, levels in ((bids, event.bids), (asks, event.asks)):
                for price, quantity in levels:
                    if float(quantity):
                        book[price] = quantity
                    else:
                        book.pop(price, None)
    body = {
        "lastUpdateId": events[count].final_update_id,
        "bids": sorted(bids.items(), key=lambda level: -float(level[0])),
        "asks": sorted(asks.items(), key=lambda level: float(level[0])),
    }
    return f"{1723161300000000000} {json.dumps(body, separators=(',', ':'))}\n".encode()


def recut_copy(root, capture, name):
    """Write a copy of a capture whose depth events are cut elsewhere now and then, as some of the exchange's gateways do."""
    market, paths = Market(capture["market"]), []
    partition = GatewayOptions(partition=Partition.SPLIT, partition_rate=0.3, seed=len(capture["capture"]))
    view = GatewayView(0, partition, {market: []})
    only = capture["symbols"][0]["symbol"] if len(capture["symbols"]) == 1 else None
    for file in capture["files"]:
        out = []
        for line in gzip.decompress((CORPUS / file).read_bytes()).splitlines():
            time, _, frame = line.partition(b" ")
            stream = wire.stream_of(frame, snapshot_symbol=only)
            if wire.is_depth(wire.split_stream(stream)[1]):
                said = view.feed(VenueMessage(int(time), market, stream, wire.unwrap(frame)))
                out += [b'%b {"stream":"%b","data":%b}' % (time, one.stream.encode(), one.data) for one in said]
            else:
                out.append(line)
        if file == capture["files"][-1]:
            out += [b'%b {"stream":"%b","data":%b}' % (time, one.stream.encode(), one.data) for one in view.flush()]
        path = root / f"{name}-{file}"
        path.write_bytes(gzip.compress(b"\n".join(out) + b"\n", 1))
        paths.append(path)
    return paths


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", captures())
def test_three_lines_one_of_them_cut_differently_make_the_whole_book_and_every_level_of_proof_holds(name, tmp_path):
    capture = capture_of(name)
    copies = damaged_copies(tmp_path, capture)
    copies["gamma"] = recut_copy(tmp_path, capture, "gamma")
    import_all(tmp_path, capture, copies)
    merge(tmp_path, capture, call)
    archive = twintape.open(str(tmp_path / "store"))
    windows = 0
    for expected in capture["symbols"]:
        stream = expected["streams"][0].partition("@")[2]
        proofs = [archive.proof(capture["market"], expected["symbol"], date, stream) for date in dates_of(capture)]
        assert [proof.gaps for proof in proofs] == [[] for _ in proofs]
        assert (proofs[-1].end.update_id, proofs[-1].closing_book.sha256) == (expected["last_u"], expected["final_book_sha256"])
        windows += sum(proof.windows.equal for proof in proofs)
        contradicted = sum(proof.tickers.different + proof.tickers.suspect for proof in proofs)
        for proof in proofs:
            verdicts = {one.level: one.verdict for one in proof.evidence}
            assert [verdicts[level] for level in ("V0", "V4", "V6")] == ["held"] * 3
            # The recordings begin a little before their snapshot.
            assert verdicts["V2"] in ("held", "limited")
            assert verdicts["V3"] in ("held", "none")
            assert (proof.windows.omitted, proof.windows.conflicting, proof.verification.conflicts) == (0, 0, 0)
            assert {value.collector for value in proof.redundancy} == {"alpha", "beta", "gamma"}
        # Other cuts ask the witnesses at other ids: what contradicts is the recording's own, and none is added by merging.
        assert bool(contradicted) == bool(expected["bookTicker_disagree"]) or contradicted <= 2
    assert windows > 0
    assert call("verify", "--independent", "--store", tmp_path / "store").count(": ok (") == len(archive.days())
