import itertools
import json
from collections import defaultdict

import pytest

from twintape.core.gateway import GatewayOptions, Partition
from twintape.core.markets import Market
from twintape.core.recut import HOLD_NS_MAX, GatewayView
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.venue import BookChange, OrderBook, SymbolInfo, VenueMessage
from twintape.core.wire import DepthSnapshot, decode_depth

MARKETS = pytest.mark.parametrize("market", list(Market))
EMPTY = DepthSnapshot(0, None, None, (), ())


def source_of(market, **keywords):
    return SyntheticSource(SyntheticConfig(market, 3, symbols_count=4, events_per_second=25.0, messages_count=1500, **keywords))


def as_tape(happenings):
    """Return the same frames as a tape would give them: nobody knows which change has which id."""
    return [VenueMessage(one.time_ns, one.market, one.stream, one.data) for one in happenings if isinstance(one, VenueMessage)]


def played(view, happenings):
    said = [message for happening in happenings for message in view.feed(happening)]
    return said + view.flush()


def view_of(partition, source, seed=1, number=0, rate=0.3):
    return GatewayView(
        number, GatewayOptions(partition=partition, partition_rate=rate, seed=seed), {source.market: source.symbols}
    )


def depth(messages, market):
    streams = defaultdict(list)
    for message in messages:
        if "@depth" in message.stream:
            streams[message.stream].append(decode_depth(message.data, market))
    return streams


def final_books(streams, source):
    books = {}
    for info in source.symbols:
        book = OrderBook(info.snapshot, contiguous_ids=source.market is Market.SPOT)
        for event in next((events for name, events in streams.items() if name.startswith(info.symbol.lower())), []):
            book.apply(event.prev_update_id, event.final_update_id, event.bids, event.asks, 0, None)
        assert not book.gapped
        books[info.symbol] = book.snapshot()
    return books


def partition_of(events):
    return [(event.prev_update_id, event.final_update_id) for event in events]


@MARKETS
@pytest.mark.parametrize("partition", [Partition.SHIFTED, Partition.SPLIT])
@pytest.mark.parametrize("form", [list, as_tape], ids=["made-up", "tape"])
def test_other_windows_are_valid_chains_to_the_same_book(market, partition, form):
    source = source_of(market)
    happenings = form(source.happenings())
    said = played(view_of(partition, source), happenings)
    streams, original = depth(said, market), depth(as_tape(happenings), market)
    assert streams.keys() == original.keys()
    for name, events in streams.items():
        assert all(before.final_update_id == after.prev_update_id for before, after in itertools.pairwise(events))
        assert events[-1].final_update_id == original[name][-1].final_update_id
        assert events[0].prev_update_id == original[name][0].prev_update_id
    assert final_books(streams, source) == final_books(original, source)
    others = [message.data for message in said if "@depth" not in message.stream]
    assert others == [message.data for message in as_tape(happenings) if "@depth" not in message.stream]


def test_shifted_windows_always_differ_and_split_ones_now_and_then():
    source = source_of(Market.SPOT)
    original = partition_of(depth(as_tape(source.happenings()), Market.SPOT)["btcusdt@depth@100ms"])
    common = {}
    for partition in (Partition.SHIFTED, Partition.SPLIT):
        said = played(view_of(partition, source, rate=0.1), source.happenings())
        windows = partition_of(depth(said, Market.SPOT)["btcusdt@depth@100ms"])
        common[partition] = len(set(windows) & set(original)) / len(original)
    assert common[Partition.SHIFTED] < 0.3
    assert 0.6 < common[Partition.SPLIT] < 0.99


def test_gateways_differ_and_the_same_gateway_repeats():
    source = source_of(Market.SPOT)
    first = [played(view_of(Partition.SPLIT, source, number=number), source.happenings()) for number in (0, 1)]
    assert first[0] != first[1]
    assert played(view_of(Partition.SPLIT, source), source.happenings()) == first[0]


def test_identical_passes_everything_on_untouched():
    source = source_of(Market.USDM)
    happenings = list(source.happenings())
    said = played(view_of(Partition.IDENTICAL, source), happenings)
    assert [id(message) for message in said] == [id(one) for one in happenings if isinstance(one, VenueMessage)]


@MARKETS
def test_net_leaves_out_levels_that_end_as_they_began_and_nothing_else(market):
    source = source_of(market)
    said = played(view_of(Partition.NET, source), source.happenings())
    streams, original = depth(said, market), depth(as_tape(source.happenings()), market)
    assert final_books(streams, source) == final_books(original, source)

    def levels(chosen):
        return sum(len(event.bids) + len(event.asks) for events in chosen.values() for event in events)

    shifted = depth(played(view_of(Partition.SHIFTED, source), source.happenings()), market)
    assert levels(streams) < levels(shifted)
    assert {name: partition_of(events) for name, events in streams.items()} == {
        name: partition_of(events) for name, events in shifted.items()
    }


def test_conflict_changes_one_quantity_now_and_then():
    source = source_of(Market.SPOT)
    original = as_tape(source.happenings())
    said = played(view_of(Partition.CONFLICT, source, rate=0.2), original)
    changed = [(before, after) for before, after in zip(original, said, strict=True) if before.data != after.data]
    depth_count = sum("@depth" in message.stream for message in original)
    assert 0.1 * depth_count < len(changed) < 0.3 * depth_count
    for before, after in changed:
        one, other = json.loads(before.data), json.loads(after.data)
        differing = [(x, y) for side in ("b", "a") for x, y in zip(one[side], other[side], strict=True) if x != y]
        assert len(differing) == 1
        assert len(differing[0][0][1]) == len(differing[0][1][1])
        assert {**one, "b": 0, "a": 0} == {**other, "b": 0, "a": 0}
    empty = VenueMessage(0, Market.SPOT, "x@depth", b'{"b":[],"a":[]}')
    always = view_of(Partition.CONFLICT, source, rate=1)
    assert always.feed(empty) == [empty]


# --- holding back ------------------------------------------------------------------------------------------------------------


class OneSymbol:
    market = Market.USDM
    symbols = (SymbolInfo("X", 0, 0, EMPTY),)


def frame(prev, final, time_ns=0):
    fields = {"e": "depthUpdate", "E": 1, "T": 1, "s": "X", "U": final, "u": final, "pu": prev, "b": [["1", str(final)]], "a": []}
    return VenueMessage(time_ns, Market.USDM, "x@depth@100ms", json.dumps(fields).encode())


def test_what_is_held_back_is_said_in_time_even_if_only_other_things_happen():
    view = view_of(Partition.SPLIT, OneSymbol, rate=1)
    assert view.feed(frame(0, 5)) == []
    trade = VenueMessage(HOLD_NS_MAX, Market.USDM, "x@trade", b"{}")
    assert view.feed(trade) == [trade]
    later = VenueMessage(HOLD_NS_MAX + 1, Market.USDM, "x@trade", b"{}")
    held, passed = view.feed(later)
    assert json.loads(held.data)["u"] == 5
    assert passed is later
    assert view.feed(frame(5, 9, HOLD_NS_MAX)) == []
    (late,) = view.feed(BookChange(3 * HOLD_NS_MAX, Market.USDM, "X", 9, 10, (), (), 0))
    assert json.loads(late.data)["u"] == 9
    assert view.flush() == []


def test_two_recorded_events_become_one_with_the_first_u_and_the_last_quantity():
    view = view_of(Partition.SPLIT, OneSymbol, rate=1)
    view.feed(frame(0, 5))
    (merged,) = view.feed(frame(5, 9))
    event = json.loads(merged.data)
    assert (event["pu"], event["U"], event["u"], event["b"]) == (0, 5, 9, [["1", "9"]])
    assert list(event) == ["e", "E", "T", "s", "U", "u", "pu", "b", "a"]


def test_nothing_is_merged_across_a_hole_in_a_recording():
    view = view_of(Partition.SPLIT, OneSymbol, rate=1)
    view.feed(frame(0, 5))
    (before,) = view.feed(frame(7, 9))
    (after,) = view.flush()
    assert [json.loads(message.data)["pu"] for message in (before, after)] == [0, 7]
    (behind_nothing_held,) = played(view, [frame(20, 21)])
    assert json.loads(behind_nothing_held.data)["pu"] == 20


def test_a_damaged_depth_frame_is_passed_on():
    damaged = VenueMessage(0, Market.USDM, "x@depth", b"{")
    assert view_of(Partition.SHIFTED, OneSymbol).feed(damaged) == [damaged]


def test_net_does_not_judge_events_older_than_the_book_it_knows():
    class Known(OneSymbol):
        symbols = (SymbolInfo("X", 0, 0, DepthSnapshot(7, None, None, (("1", "9"),), ())),)

    said = played(view_of(Partition.NET, Known), [frame(0, 5), frame(5, 6), frame(6, 7), frame(7, 8), frame(8, 9), frame(9, 10)])
    quantities = [json.loads(message.data)["b"] for message in said]
    assert [["1", "10"]] in quantities
    assert sum(map(len, quantities)) >= len(said) - 1
