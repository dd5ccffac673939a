"""Every lie about a published day that its bytes can give away is given away, however well the liar signs it."""

import asyncio
import io
import json
import re
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.store import DAYS, STREAM, Exchange, MemoryStore, Recorder, copy_of, heads, keys_of, merge, prune, put, time_us
from twintape.core.manifest import digest
from twintape.core.markets import Market
from twintape.core.names import proof_key
from twintape.core.segment import ChainLink, seal
from twintape.independent.check import verify_market

EXCHANGE = Exchange("BTCUSDT")
GAP = (70, 71, 72)
BEFORE, DAY, BEHIND = DAYS


def trade(position):
    event = EXCHANGE.events[position]
    frame = (
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"1.50","q":"2.00","T":%d,"m":true,"M":true}}'
        % (event.time_us // 1000, position, event.time_us // 1000)
    )
    return event.time_us * 1000 + 100, frame


def joined(position):
    """Two events as one: the same ids, cut differently."""
    one, two = json.loads(EXCHANGE.frame(position)), json.loads(EXCHANGE.frame(position + 1))
    data = two["data"] | {"U": one["data"]["U"]}
    for side in "ba":
        data[side] = [[p, q] for p, q in (dict(one["data"][side]) | dict(two["data"][side])).items()]
    frame = json.dumps(one | {"data": data}, separators=(",", ":")).encode()
    return EXCHANGE.events[position + 1].time_us * 1000 + 6_000_000, frame


def honest_ticker(position):
    event, (bids, asks) = EXCHANGE.events[position], EXCHANGE.books[position + 1]
    bid, ask = max(bids), min(asks)
    top = f'"b":"{bid / 100:.2f}","B":"{bids[bid] / 1000:.3f}","a":"{ask / 100:.2f}","A":"{asks[ask] / 1000:.3f}"'
    frame = f'{{"stream":"btcusdt@bookTicker","data":{{"u":{event.final},"s":"BTCUSDT",{top}}}}}'.encode()
    return event.time_us * 1000 + 6_000_000, frame


@lru_cache(maxsize=1)
def scratch():
    import tempfile

    return tempfile.mkdtemp()


@lru_cache(maxsize=2)
def published(*, raw: bool = True):
    """Three days of three lines with a gap, copies, a line cut differently, garbage, snapshots (one wrong), trades and bookTickers."""
    store = MemoryStore()
    tickers = [honest_ticker(k) for k in range(len(EXCHANGE)) if k not in GAP]
    wrong = EXCHANGE.body(110).replace(b'"bids":[["', b'"bids":[["1', 1)
    wrong_line = (
        EXCHANGE.events[110].time_us * 1000 + 20_000_000,
        b'{"stream":"btcusdt@depthSnapshot","data":%b}' % wrong,
    )
    garbage = (EXCHANGE.events[80].time_us * 1000, b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate"}}')
    trades = [trade(k) for k in range(len(EXCHANGE)) if k != 90]
    recorders = (
        Recorder("oslo", lost={"BTCUSDT": {*GAP, 40, 64, 65}}, snapshots=(100,), extra=[joined(64)], tickers=False),
        Recorder("paris", lost={"BTCUSDT": {*GAP, 20, 95}}, snapshots=(0, 100, 120), extra=[*tickers, garbage], tickers=False),
        Recorder("tokyo", lost={"BTCUSDT": {*GAP, 60, 61, 130}}, snapshots=(0,), extra=[*trades, wrong_line], tickers=False),
    )
    for recorder in recorders:
        put(store, recorder.seals([EXCHANGE]))
    merge(store, scratch())
    if not raw:
        prune(store, grace_h=-1, gapped_h=-1)
        assert not keys_of(store, "raw/")
    return store


def verdicts(store, date=None):
    async def collect():
        return [verdict async for verdict in verify_market(store, "spot", symbols=["BTCUSDT"], date=date)]

    return asyncio.run(collect())


def disagreements(store, date=DAY):
    return [line for verdict in verdicts(store, date) for line in verdict.disagreements]


class Forger:
    """Changes what is published of one day and signs everything anew."""

    def __init__(self, store, stream=STREAM, date=DAY):
        self.store = store
        self.key = proof_key("spot", "BTCUSDT", stream, date, heads(store)["BTCUSDT", stream, date].generation)
        self.proof = json.loads(self.get(self.key))

    def get(self, key):
        return asyncio.run(self.store.get(key))

    def write(self, key, data):
        asyncio.run(self.store.delete(key))
        asyncio.run(self.store.create(key, data))

    def output(self, name):
        return next(output for output in self.proof["outputs"] if output["table"] == name)

    def table(self, name):
        return pq.read_table(io.BytesIO(self.get(self.output(name)["key"])))

    def put(self, name, table):
        output, sink = self.output(name), io.BytesIO()
        metadata = pq.ParquetFile(io.BytesIO(self.get(output["key"]))).metadata.metadata
        kept = {key: value for key, value in metadata.items() if key.startswith(b"twintape")}
        pq.write_table(table.replace_schema_metadata(kept), sink)
        self.write(output["key"], sink.getvalue())
        output |= {"size": len(sink.getvalue()), "sha256": digest(sink.getvalue()), "rows": table.num_rows}
        self.proof["verification"]["read_back_bytes"] = sum(one["size"] for one in self.proof["outputs"])

    def cell(self, name, column, row, change):
        table = self.table(name)
        kind = table.schema.field(column).type
        plain = pa.string() if pa.types.is_dictionary(kind) else pa.int64() if pa.types.is_timestamp(kind) else kind
        values = table.column(column).cast(plain).to_pylist()
        values[row] = change(values[row])
        self.put(
            name,
            table.set_column(
                table.schema.get_field_index(column), table.schema.field(column), pa.array(values, plain).cast(kind)
            ),
        )

    def drop(self, name, row):
        table = self.table(name)
        row %= table.num_rows
        self.put(name, pa.concat_tables([table.slice(0, row), table.slice(row + 1)]))

    def plan(self, change):
        plan = json.loads(self.get(self.proof["plan"]["key"]))
        change(plan)
        data = json.dumps(plan).encode()
        key = f"plan/v1/market=spot/date={DAY}/{digest(data)[:16]}.json"
        self.write(key, data)
        self.proof["plan"] = {"key": key, "sha256": digest(data)}

    def line(self, name):
        return next(line for line in self.proof["lines"] if line["collector"] == name)

    def sign(self):
        self.write(self.key, json.dumps(self.proof).encode())


def level(one):
    one.cell("depth", "ask_quantity", -1, lambda values: [values[0] + 1, *values[1:]])


def row(name, place):
    return lambda one: one.drop(name, place)


def cell(name, column, place, change):
    return lambda one: one.cell(name, column, place, change)


def field(path, change):
    """Return a lie about one field of the proof."""

    def lie(one):
        *way, last = path
        at = one.proof
        for step in way:
            at = at[step]
        at[last] = change(at[last])

    return lie


def whole_frame_hidden(one):
    """A copy that was heard goes, with every count that speaks of it."""
    name = one.table("arrival").column("collector").cast(pa.string()).to_pylist()[5]
    one.drop("arrival", 5)
    line = one.line(name)
    line["duplicate"] -= 1
    line["owed"] += 1
    one.proof["fates"]["duplicate"][name] -= 1
    one.proof["fates"]["owed"][name] = one.proof["fates"]["owed"].get(name, 0) + 1
    one.proof["verification"]["lines_agree"] -= 1
    source = next(source for source in one.proof["inputs"] if source["collector"] == name and source["settled"])
    source["settled"] -= 1
    source["owed"] += 1


def lineage_entry_removed(one):
    gone = one.proof["inputs"].pop(2)
    one.plan(lambda plan: plan.update(inputs=[source for source in plan["inputs"] if source["key"] != gone["key"]]))


def wrong_snapshot_passed(one):
    rows = one.table("snapshot").column("verdict").cast(pa.string()).to_pylist()
    one.cell("snapshot", "verdict", rows.index("failed"), lambda _: "passed")
    points = one.proof["checkpoints"]
    for snapshot in points["snapshots"]:
        snapshot["verdict"] = snapshot["verdict"].replace("failed", "passed")
    points |= {"passed": points["passed"] + points["failed"], "failed": 0, "failures": []}
    one.proof["evidence"][3]["verdict"] = "held"


def wrong_snapshot_dropped(one):
    rows = one.table("snapshot").column("verdict").cast(pa.string()).to_pylist()
    one.drop("snapshot", rows.index("failed"))


def gap_hidden(one):
    one.proof |= {"gaps": [], "status": "complete", "reasons": []}
    one.proof["evidence"][1]["verdict"] = "held"


def gap_covered(one):
    """The event behind the gap is said to begin where the one before ends."""
    gap = one.proof["gaps"][0]
    rows = one.table("depth").column("prev_update_id").to_pylist()
    place = rows.index(gap["next_prev_update_id"])
    one.cell("depth", "prev_update_id", place, lambda _: gap["after_update_id"])
    one.cell("depth", "flags", place, lambda flags: flags & ~1)
    gap_hidden(one)


def restart_instead_of_gap(one):
    gap = one.proof["gaps"][0]
    place = one.table("depth").column("prev_update_id").to_pylist().index(gap["next_prev_update_id"])
    one.cell("depth", "flags", place, lambda flags: flags & ~1 | 8)
    gap_hidden(one)


def unknown_book_hidden(one):
    for place, flags in enumerate(one.table("depth").column("flags").to_pylist()):
        if flags & 16:
            one.cell("depth", "flags", place, lambda flags: flags & ~16)
    one.proof["book_unknown"] = []
    one.proof["evidence"][2]["verdict"] = "held"


def opening_replaced(one):
    kinds = one.table("snapshot").column("kind").cast(pa.string()).to_pylist()
    one.cell("snapshot", "bid_quantity", kinds.index("opening"), lambda values: [values[0] + 1, *values[1:]])


def other_collector(one):
    one.cell("depth", "collector", 10, lambda name: "tokyo" if name != "tokyo" else "oslo")


def cut_line_conflicts(one):
    """A frame that is cut differently says something else, and the proof does not mention it."""
    frames = one.table("verbatim").column("frame").to_pylist()
    place = next(k for k, frame in enumerate(frames) if b'"U"' in frame)
    one.cell("verbatim", "frame", place, lambda frame: re.sub(rb'("a":\[\["[0-9.]+",")[0-9.]+', rb"\g<1>77.777", frame))


LIES = {
    # The tables.
    "a level changed": (level, "closing book"),
    "a row dropped": (row("depth", 30), "flags say"),
    "the first row dropped": (row("depth", 0), "flags say no gap"),
    "the last row dropped": (row("depth", -1), "end: "),
    "two rows swapped": (
        lambda one: one.put("depth", one.table("depth").take([1, 0, *range(2, one.table("depth").num_rows)])),
        "flags",
    ),
    "another collector": (other_collector, "fates.chosen|switch"),
    "a receive time moved": (cell("depth", "receive_time", 0, lambda time: time - 10**12), "first_receive_time_ns"),
    "an event time moved": (cell("depth", "event_time", -1, lambda time: time + 10**6), "last_event_time_us"),
    "an id moved": (cell("depth", "first_update_id", 5, lambda first: first + 1), "first id"),
    "a copy dropped": (row("arrival", 3), "fates.duplicate"),
    "a copy of nothing": (cell("arrival", "final_update_id", 3, lambda final: final + 10**6), "has no depth row"),
    "a copy said to be somebody else's": (
        cell("arrival", "collector", 0, lambda name: "tokyo" if name != "tokyo" else "oslo"),
        "fates",
    ),
    "a frame kept verbatim dropped": (row("verbatim", 0), "fates.verbatim"),
    "a reason changed": (cell("verbatim", "reason", 0, lambda word: "stale" if word != "stale" else "variant"), "fates.verbatim"),
    "a line that is cut differently contradicts": (cut_line_conflicts, "windows.conflicting"),
    "a wrong snapshot passed": (wrong_snapshot_passed, "the table says passed, it is failed"),
    "a wrong snapshot dropped": (wrong_snapshot_dropped, "checkpoints.failed"),
    "another opening book": (opening_replaced, "opening book"),
    # What the proof says of the chain.
    "a gap hidden": (gap_hidden, "gaps: "),
    "a gap covered": (gap_covered, "first id"),
    "a gap called a restart": (restart_instead_of_gap, "behind id"),
    "a gap moved": (field(["gaps", 0, "after_update_id"], lambda after: after + 1), "gaps: "),
    "a gap made shorter": (field(["gaps", 0, "from_event_time_us"], lambda time: time + 1), "times of the gaps"),
    "a gap said to be the exchange's": (
        lambda one: one.proof["gaps"][0].update(
            {"class": "collector-side" if one.proof["gaps"][0]["class"] == "exchange-side" else "exchange-side"}
        ),
        "lines heard through it",
    ),
    "partial books nobody recorded": (
        lambda one: one.proof.update(partial_books={"passed": 13_000, "failed": 0, "failures": []}),
        "none are published",
    ),
    "the status upgraded": (field(["status"], lambda _: "complete"), "status: "),
    "an event more": (field(["events"], lambda count: count + 1), "events: "),
    "a level more": (field(["levels"], lambda count: count + 1), "levels: "),
    "a switch removed": (field(["switches"], lambda found: found[1:]), "switches: "),
    "another path": (field(["path", 0, "collector"], lambda name: "paris" if name != "paris" else "oslo"), "path: "),
    "an unknown book hidden": (unknown_book_hidden, "flags say the book is known"),
    "the start pin moved": (field(["start", "update_id"], lambda start: start - 1), "start, by the end of|gap"),
    "the end pin moved": (field(["end", "update_id"], lambda end: end + 1), "end: "),
    "a pin by a stranger": (field(["start", "pinned_by"], lambda _: "proof/market=spot/x"), "no neighbour"),
    "another closing book": (field(["closing_book", "sha256"], lambda _: "0" * 64), "closing book"),
    "more known at the end": (field(["closing_book", "known_low"], lambda _: "7"), "closing book"),
    "a snapshot that makes more known": (cell("snapshot", "known_high", 1, lambda _: 77), "other prices known"),
    "no closing book": (field(["closing_book"], lambda _: None), "closing book"),
    "an open end closed": (field(["gap_behind"], lambda found: not found), "reasons"),
    # Counts.
    "frames of a line": (field(["lines", 0, "frames"], lambda count: count + 1), "frames of oslo"),
    "duplicates of a line": (field(["lines", 0, "duplicate"], lambda count: count + 1), "duplicate frames of oslo"),
    "only here": (field(["lines", 1, "only_here"], lambda count: count + 1), "only_here of paris"),
    "a line worth more": (field(["redundancy", 0, "only_events"], lambda count: count + 1), "only_events of oslo"),
    "a line that covers more": (field(["redundancy", 2, "covered"], lambda count: count + 1), "covered by tokyo"),
    "missed": (field(["lines", 0, "missed"], lambda count: count - 1), "missed of oslo"),
    "lines agree": (field(["verification", "lines_agree"], lambda count: count + 1), "lines_agree"),
    "conflicts": (field(["verification", "conflicts"], lambda count: count + 1), "conflicts"),
    "crossed books": (field(["sanity", "crossed"], lambda count: count + 1), "sanity.crossed"),
    "windows": (field(["windows", "equal"], lambda count: count + 1), "windows.equal"),
    "a snapshot more passed": (field(["checkpoints", "passed"], lambda count: count + 1), "checkpoints.passed"),
    "a level of evidence upgraded": (field(["evidence", 1, "verdict"], lambda _: "held"), "verdict of V1"),
    "a level of evidence removed": (field(["evidence"], lambda found: found[:-1]), "levels: "),
    # Where it comes from.
    "a lineage entry removed": (lineage_entry_removed, "settled frames by collector"),
    "a lineage entry twice": (field(["inputs"], lambda found: [*found, found[0]]), "named twice"),
    "a lineage entry invented": (
        field(["inputs"], lambda found: [*found, found[0] | {"key": found[0]["key"].replace("/raw", "/x"), "sha256": "f" * 64}]),
        "is no raw key|named twice",
    ),
    "settled frames moved": (field(["inputs", 0, "settled"], lambda count: count + 1), "are not"),
    "an unplanned object": (lambda one: one.plan(lambda plan: plan["inputs"].pop()), "neither planned nor inherited"),
    "another size planned": (lambda one: one.plan(lambda plan: plan["inputs"][0].update(size=1)), "another object in the plan"),
    "missing objects hidden": (
        lambda one: one.plan(lambda plan: plan["missing"].append({"collector": "oslo", "chain": "0" * 16, "numbers": [[3, 4]]})),
        "missing objects that the proof does not",
    ),
    "a changed plan": (field(["plan", "sha256"], lambda _: "0" * 64), "sha256 of the plan"),
    "no plan": (field(["plan", "key"], lambda _: "plan/v1/nowhere"), "is gone"),
    "an invented parent": (field(["parent"], lambda _: {"generation": 0, "sha256": "0" * 64}), "parent"),
    "an output of somewhere else": (field(["outputs", 0, "key"], lambda key: key.replace("depth/", "other/", 1)), "key of depth"),
    "an output that is gone": (lambda one: asyncio.run(one.store.delete(one.output("arrival")["key"])), "is gone"),
    "an output of another size": (field(["outputs", 0, "size"], lambda size: size + 1), "size of"),
    "an output of other rows": (field(["outputs", 1, "rows"], lambda rows: rows + 1), "rows of"),
    "no depth table": (field(["outputs"], lambda found: found[1:]), "without a depth table"),
    "another symbol": (field(["symbol"], lambda _: "ETHUSDT"), "it says it is"),
    "an unknown format": (field(["format"], lambda _: "twintape-proof/9"), "not known here"),
    "nonsense": (field(["outputs"], lambda _: 7), "cannot be examined"),
}

LIES_AGAINST_RAW = {
    "a frame hidden with every count": (whole_frame_hidden, "neither in the archive nor another day's|settled frames of"),
    "a level changed and every digest with it": (level, "archived lines are in no raw segment"),
    "a receive time in the middle moved": (
        cell("arrival", "receive_time", 7, lambda time: time + 1),
        "archived lines are in no raw segment",
    ),
}


@pytest.mark.parametrize("raw", [True, False])
def test_what_was_published_honestly_has_no_disagreements(raw):
    store = published(raw=raw)
    found = verdicts(store)
    assert [line for verdict in found for line in verdict.disagreements] == []
    assert {verdict.status for verdict in found} == {"complete", "partial", "gapped"}
    assert all(bool(verdict.raw_segments) == raw and bool(verdict.raw_gone) != raw for verdict in found if verdict.rows)
    middle = heads(store)["BTCUSDT", STREAM, DAY]
    # What the lies are told about is there.
    assert (len(middle.gaps), middle.windows.equal, middle.checkpoints.failed) == (1, 1, 1)
    assert min(middle.checkpoints.passed, middle.tickers.equal, len(middle.switches), len(middle.book_unknown)) > 0
    assert {"variant", "undecodable"} <= middle.fates.verbatim.keys()


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_given_away_by_the_published_bytes_alone(name):
    lie, words = LIES[name]
    store = copy_of(published(raw=False))
    forger = Forger(store)
    lie(forger)
    forger.sign()
    found = disagreements(store, None if words == "it says it is" else DAY)
    assert any(re.search(words, line) for line in found), found


@pytest.mark.parametrize("name", LIES_AGAINST_RAW)
def test_a_lie_that_the_archive_cannot_give_away_is_given_away_by_the_raw_segments(name):
    lie, words = LIES_AGAINST_RAW[name]
    store = copy_of(published())
    forger = Forger(store)
    lie(forger)
    forger.sign()
    found = disagreements(store)
    assert any(re.search(words, line) for line in found), found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1] + b"X", "cannot be examined further|sha256 of raw"),
        (lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:], "sha256 of raw"),
        (lambda _data: b"", "size of raw"),
    ],
)
def test_a_raw_segment_that_is_another_is_named(change, words):
    store = copy_of(published())
    forger = Forger(store)
    key = forger.proof["inputs"][0]["key"]
    forger.write(key, change(forger.get(key)))
    assert any(re.search(words, line) for line in disagreements(store))


@pytest.mark.parametrize(
    ("date", "edge", "reason", "words"),
    [
        (BEFORE, "open_start", "begins at an edge of recording", "nothing recorded lies before it"),
        (BEHIND, "open_end", "ends at an edge of recording", "nothing recorded lies behind it"),
    ],
)
def test_an_edge_of_recording_that_is_denied_is_seen_in_the_raw_segments(date, edge, reason, words):
    store = copy_of(published())
    forger = Forger(store, date=date)
    forger.proof[edge] = False
    forger.proof["reasons"].remove(reason)
    forger.sign()
    assert any(words in line for line in disagreements(store, date))


TRADE_LIES = {
    "a trade dropped": (row("trade", 5), "events"),
    "a price changed": (cell("trade", "price", 5, lambda price: price + 1), None),
    "ids swapped": (
        lambda one: one.put("trade", one.table("trade").take([1, 0, *range(2, one.table("trade").num_rows)])),
        "ascend",
    ),
    "a gap of trades hidden": (field(["gaps"], lambda _: []), "gaps: "),
    "the first trade denied": (field(["start", "update_id"], lambda start: start + 1), "start: "),
    "the status of trades upgraded": (field(["status"], lambda _: "complete"), "status: "),
    "missing segments of trades hidden": (
        field(["missing"], lambda _: [{"collector": "tokyo", "chain": "0" * 16, "numbers": [[3, 4]]}]),
        "reasons lack the missing segments",
    ),
    "a template that does not fit": (cell("trade", "template", 0, lambda _: 99), "cannot be printed"),
}


@pytest.mark.parametrize("name", TRADE_LIES)
def test_lies_about_messages_are_given_away(name):
    lie, words = TRADE_LIES[name]
    store = copy_of(published(raw=words is None))
    forger = Forger(store, "trade")
    lie(forger)
    forger.sign()
    found = disagreements(store)
    assert any(re.search(words or "in no raw segment", line) for line in found), found


def test_bookTickers_that_contradict_the_book_cannot_be_kept_quiet():  # noqa: N802
    store = copy_of(published(raw=False))
    forger = Forger(store, "bookTicker")
    forger.cell("book_ticker", "bid_quantity", 12, lambda quantity: quantity + 1)
    forger.sign()
    assert any("bookTickers contradict the book" in line for line in disagreements(store))


def test_the_same_line_filed_under_two_dates_is_settled_by_each_of_them():
    """A segment that begins with a bookTicker, which has no time on spot, files it by the event behind; one that heard the event before, by that."""
    lines = Recorder("tokyo", snapshots=()).lines([EXCHANGE])
    midnight = next(k for k, (time, _) in enumerate(lines) if time >= time_us(f"{DAY}T00:00:00") * 1000)
    store, before = MemoryStore(), None
    for number, part in enumerate((lines[: midnight + 20], lines[midnight - 1 : midnight + 20])):
        link = ChainLink("a" * 16, number, before, None if number else "new spool")
        sealed = seal(part, collector="tokyo", market=Market.SPOT, run="a" * 32, connection=1, sequence=number + 1, chain=link)
        put(store, [sealed])
        before = sealed.sha256
    merge(store, scratch())
    assert heads(store)["BTCUSDT", "bookTicker", DAY].inputs[1].owed == 0
    assert disagreements(store, None) == []


def test_an_accepted_generation_has_the_outputs_of_the_one_before_and_may_say_nothing_else_than_it():
    store = copy_of(published(raw=False))
    forger = Forger(store)
    forger.proof["generation"], forger.key = 2, forger.key.replace("g0001", "g0002")
    forger.proof["parent"] = {"generation": 1, "sha256": digest(forger.get(forger.key.replace("g0002", "g0001")))}
    forger.proof["write_id"], forger.proof["acceptance"] = "f" * 16, {"by": "ann", "reason": "seen"}
    forger.sign()
    assert disagreements(store) == []
    forger.proof["missing"] = [{"collector": "oslo", "chain": "0" * 16, "numbers": [[3, 4]]}]
    forger.sign()
    assert any("missing, by the generation it accepts" in line for line in disagreements(store))
    forger.proof["acceptance"] = None
    forger.sign()
    assert any("key of depth" in line for line in disagreements(store))
    first = Forger(copy_of(published(raw=False)))
    first.proof["acceptance"] = {"by": "ann", "reason": "seen"}
    first.sign()
    assert any("there is none" in line for line in disagreements(first.store))


def test_a_later_generation_must_carry_on_what_the_one_before_says():
    store = copy_of(published())
    put(store, Recorder("zurich", tickers=False).seals([EXCHANGE]))
    merge(store, scratch(), [DAY])
    assert disagreements(store) == []
    forger = Forger(store)
    assert forger.proof["generation"] == 2
    forger.proof["closed_gaps"] = []
    forger.proof["parent"]["sha256"] = "0" * 64
    lost = forger.proof["inputs"].pop(0)
    forger.proof["inputs"][0]["sha256"] = forger.proof["inputs"][0]["sha256"][:16] + "0" * 48
    forger.sign()
    found = "\n".join(disagreements(store))
    for words in ("neither open nor closed", "parent", f"the lineage lost {lost['key']}", "the lineage has another object"):
        assert words in found
