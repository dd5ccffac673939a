import asyncio
import contextlib
import gzip
import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

from twintape.core.errors import ConfigError
from twintape.core.gateway import Fault, FaultKind, GatewayOptions, Partition
from twintape.core.markets import Market, depth_url, exchange_info_url, stream_url
from twintape.core.synthetic import SyntheticConfig, SyntheticSource
from twintape.core.tape import TapeSource
from twintape.core.venue import OrderBook, VenueMessage
from twintape.core.wire import decode_depth, decode_snapshot
from twintape.io import exchange as exchange_module
from twintape.io.exchange import MAX_SPEED, ExchangeConfig, KeepAlive, SimulatedExchange, open_recording, tape_source

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
STREAM = "btcusdt@depth@100ms"
WAIT_S = 60.0
"""However busy the machine is, what is waited for happens within this time, or never."""
START_NS = 1_700_000_000_000_000_000


def frames_of(count, market=Market.SPOT, name="btcusdt", step_ns=10_000_000):
    """Return lines of a tape: a snapshot at id 100, then events (ids 101, 102, …) with a trade after each."""
    lines = [(START_NS, b'{"lastUpdateId":100,"bids":[["10.00","1.0"],["9.00","2.0"]],"asks":[["11.00","1.0"]]}')]
    for number in range(count):
        at = START_NS + (number + 1) * step_ns
        depth = {"e": "depthUpdate", "E": at // 1_000_000}
        depth |= {} if market is Market.SPOT else {"T": at // 1_000_000}
        depth |= {"s": name.upper(), "U": 101 + number, "u": 101 + number}
        depth |= {} if market is Market.SPOT else {"pu": 100 + number}
        depth |= {"b": [["10.00", f"{number + 1}.0"]], "a": [[f"{12 + number}.00", "3.0"]]}
        for kind, data in (("depth@100ms", depth), ("trade", {"e": "trade", "E": 1, "s": name.upper(), "t": number})):
            frame = f'{{"stream":"{name}@{kind}","data":{json.dumps(data, separators=(",", ":"))}}}'
            lines.append((at, frame.encode()))
    return lines


def tape(count=20, market=Market.SPOT, **keywords):
    lines = [b"%d %b\n" % line for line in frames_of(count, market, **keywords)]
    return TapeSource(market, [lambda: lines])


def depth_frames(count=20, market=Market.SPOT):
    return [frame for _, frame in frames_of(count, market) if b"@depth" in frame]


@contextlib.asynccontextmanager
async def serve(*sources, **keywords):
    config = ExchangeConfig(sources or (tape(),), **({"speed": MAX_SPEED, "wait_clients": 1} | keywords))
    async with SimulatedExchange(config) as exchange, aiohttp.ClientSession() as client:
        yield exchange, client


def url(exchange, *streams, gateway=0, market=Market.SPOT):
    return stream_url(market, streams, base=exchange.gateways[gateway].websocket_base(market))


async def receive(websocket, count=None):
    """Return `count` text payloads, or all until the connection ends."""
    payloads = []
    while count is None or len(payloads) < count:
        message = await websocket.receive(timeout=WAIT_S)
        if message.type is not aiohttp.WSMsgType.TEXT:
            assert count is None, message
            break
        payloads.append(message.data if isinstance(message.data, bytes) else message.data.encode())
    return payloads


async def ask(client, exchange, symbol="BTCUSDT", limit=1000, market=Market.SPOT, gateway=0):
    async with client.get(depth_url(market, symbol, limit, base=exchange.gateways[gateway].rest_base(market))) as answer:
        return answer.status, await answer.read(), answer.headers


async def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# --- frames ------------------------------------------------------------------------------------------------------------------


async def test_a_client_gets_the_tape_byte_for_byte_wrapped_and_unwrapped():
    async with serve(wait_clients=2) as (exchange, client):
        raw = f"ws://127.0.0.1:{exchange.gateways[0].port}/ws/{STREAM}"
        async with client.ws_connect(url(exchange, STREAM)) as combined, client.ws_connect(raw) as bare:
            assert await receive(combined, 20) == depth_frames()
            assert await receive(bare, 20) == [frame[frame.index(b'{"e"') : -1] for frame in depth_frames()]


async def test_large_frames_arrive_whole():
    levels = ",".join(f'["{number}.00","1.0"]' for number in range(9000))
    big = f'{{"stream":"{STREAM}","data":{{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":2,"b":[{levels}],"a":[]}}}}'.encode()
    async with (
        serve(TapeSource(Market.SPOT, [lambda: [b"1700000000000000000 " + big] * 50])) as (exchange, client),
        client.ws_connect(url(exchange, STREAM)) as websocket,
    ):
        assert await receive(websocket, 50) == [big] * 50


async def test_two_gateways_say_the_same_at_the_same_time():
    async with (
        serve(gateways=[GatewayOptions()] * 2, wait_clients=2) as (exchange, client),
        client.ws_connect(url(exchange, STREAM)) as one,
        client.ws_connect(url(exchange, STREAM, gateway=1)) as other,
    ):
        assert await receive(one, 20) == await receive(other, 20) == depth_frames()


async def test_the_tape_is_played_at_its_own_pace_times_speed():
    async with serve(tape(20, step_ns=20_000_000), speed=2.0) as (exchange, client):
        started = time.monotonic()
        async with client.ws_connect(url(exchange, STREAM)) as websocket:  # nothing is played before somebody listens
            await receive(websocket, 20)
        assert time.monotonic() - started >= 19 * 0.02 / 2


async def test_subscriptions_come_and_go_while_connected():
    async with (
        serve(wait_clients=None) as (exchange, client),
        client.ws_connect(f"ws://127.0.0.1:{exchange.gateways[0].port}/ws") as websocket,
    ):
        await websocket.send_json({"method": "SUBSCRIBE", "params": [STREAM, "btcusdt@trade", "no@such"], "id": "a-b"})
        assert await websocket.receive_json() == {"result": None, "id": "a-b"}
        await websocket.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 2})
        assert await websocket.receive_json() == {"result": None, "id": 2}
        await websocket.send_json({"method": "SET_PROPERTY", "params": ["combined", True], "id": 3})
        assert await websocket.receive_json() == {"result": None, "id": 3}
        async with client.post(f"http://127.0.0.1:{exchange.gateways[0].port}/twintape/start") as answer:
            assert answer.status == 200
        assert await receive(websocket, 20) == depth_frames()


async def test_answers_can_come_behind_the_first_frames_they_promise():
    gateways = [GatewayOptions(acknowledge_delay_s=0.2)]
    async with serve(gateways=gateways) as (exchange, client), client.ws_connect(url(exchange)) as websocket:
        await websocket.send_json({"method": "SUBSCRIBE", "params": [STREAM], "id": 1})
        assert await receive(websocket, 20) == depth_frames()
        assert await websocket.receive_json() == {"result": None, "id": 1}


async def test_usdm_routes_deliver_their_own_streams_and_others_are_silent():
    async with serve(tape(market=Market.USDM), wait_clients=3) as (exchange, client):
        base = f"ws://127.0.0.1:{exchange.gateways[0].port}"
        both = f"{STREAM}/btcusdt@trade"
        async with (
            client.ws_connect(f"{base}/stream?streams={both}") as unrouted,
            client.ws_connect(f"{base}/market/stream?streams={both}") as wrong,
            client.ws_connect(url(exchange, STREAM, market=Market.USDM)) as public,
        ):
            assert len(await receive(unrouted, 40)) == 40
            assert await receive(public, 20) == depth_frames(market=Market.USDM)
            await exchange.wait_ended()
            await wrong.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
            assert await wrong.receive_json() == {"result": [STREAM, "btcusdt@trade"], "id": 1}


async def test_several_markets_share_a_port_by_prefix_and_have_ports_of_their_own():
    spot, coinm = tape(3), tape(3, Market.COINM, name="btcusd_perp")
    async with serve(spot, coinm, wait_clients=2) as (exchange, client):
        own = f"ws://127.0.0.1:{exchange.gateways[0].market_ports[Market.COINM]}/ws/btcusd_perp@depth@100ms"
        async with client.ws_connect(url(exchange, STREAM)) as one, client.ws_connect(own) as other:
            assert await receive(one, 3) == depth_frames(3)
            assert b'"s":"BTCUSD_PERP"' in (await receive(other, 3))[0]
        assert (await ask(client, exchange))[0] == 200
        assert (await ask(client, exchange, "BTCUSD_PERP", market=Market.COINM))[0] == 200
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await client.ws_connect(f"ws://127.0.0.1:{exchange.gateways[0].port}/ws")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await client.ws_connect(f"ws://127.0.0.1:{exchange.gateways[0].port}/usdm/ws")


async def test_deflate_is_granted_only_when_switched_on():
    for deflate in (False, True):
        async with (
            serve(deflate=deflate) as (exchange, client),
            client.ws_connect(url(exchange, STREAM), compress=15) as websocket,
        ):
            assert bool(websocket.compress) is deflate
            assert await receive(websocket, 20) == depth_frames()


async def test_microseconds_are_printed_by_made_up_markets_and_not_by_recordings():
    made_up = SyntheticSource(SyntheticConfig(Market.SPOT, 1, symbols_count=1, messages_count=20))
    for source, digits in ((made_up, 16), (tape(), 13)):
        async with (
            serve(source) as (exchange, client),
            client.ws_connect(url(exchange, STREAM) + "&timeUnit=MICROSECOND") as websocket,
        ):
            (first,) = await receive(websocket, 1)
            assert len(str(json.loads(first)["data"]["E"])) == digits


# --- snapshots ---------------------------------------------------------------------------------------------------------------


async def test_a_snapshot_at_any_position_and_the_later_events_are_the_final_book():
    source = tape(60)
    async with serve(source, speed=1.0) as (exchange, client):
        snapshots = []
        async with client.ws_connect(url(exchange, STREAM)) as websocket:
            events = []
            while len(events) < 60:
                events += [decode_depth(frame, Market.SPOT) for frame in await receive(websocket, 1)]
                if len(events) % 5 == 1:
                    snapshots.append(decode_snapshot((await ask(client, exchange, limit=100))[1]))
    books = []
    for snapshot in snapshots:
        book = OrderBook(snapshot, contiguous_ids=True)
        for event in events:
            book.apply(event.prev_update_id, event.final_update_id, event.bids, event.asks, 0, None)
        assert not book.gapped
        books.append((book.snapshot().bids, book.snapshot().asks))
    assert len(snapshots) == 12
    assert all(book == books[0] for book in books)
    assert snapshots[-1].last_update_id > snapshots[0].last_update_id


async def test_at_a_hold_nothing_is_said_until_it_is_told_to_go_on():
    async with serve(holds=[0.5], wait_clients=1) as (exchange, client), client.ws_connect(url(exchange, STREAM)) as websocket:
        assert await receive(websocket, 10) == depth_frames()[:10]
        assert exchange.status()["holding"]
        assert exchange.position() == 0.5
        async with client.ws_connect(url(exchange, STREAM)) as late:  # nor does a new subscriber start it again
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(late.receive(), 0.2)
            exchange.start()
            assert await receive(websocket, 10) == await receive(late, 10) == depth_frames()[10:]
        assert not exchange.status()["holding"]


def test_a_hold_needs_a_source_that_ends():
    with pytest.raises(ConfigError, match="holds are placed"):
        SimulatedExchange(ExchangeConfig([SyntheticSource(SyntheticConfig(Market.SPOT, 1))], holds=[0.5]))


async def test_before_the_start_the_answer_is_the_tapes_own_snapshot_with_weights():
    async with serve() as (exchange, client):
        status, body, headers = await ask(client, exchange)
        assert status == 200
        assert body == b'{"lastUpdateId":100,"bids":[["10.00","1.0"],["9.00","2.0"]],"asks":[["11.00","1.0"]]}'
        assert headers["X-MBX-USED-WEIGHT-1M"] == headers["X-MBX-USED-WEIGHT"] == "50"
        bare = f"http://127.0.0.1:{exchange.gateways[0].port}/api/v3/depth?symbol=BTCUSDT&limit=1"
        async with client.get(bare) as answer:
            assert (await answer.json())["bids"] == [["10.00", "1.0"]]
        async with client.get(exchange_info_url(Market.SPOT, base=exchange.gateways[0].rest_base(Market.SPOT))) as answer:
            assert [symbol["symbol"] for symbol in (await answer.json())["symbols"]] == ["BTCUSDT"]
        async with client.post(bare) as answer:
            assert answer.status == 405
        async with client.get(f"http://127.0.0.1:{exchange.gateways[0].port}/nothing") as answer:
            assert answer.status == 404


async def test_gateways_have_budgets_of_their_own():
    async with serve(gateways=[GatewayOptions()] * 2, weight_budgets={"spot": 60}) as (exchange, client):
        assert [(await ask(client, exchange))[0] for _ in range(2)] == [200, 429]
        status, _, headers = await ask(client, exchange)
        assert status == 429
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert (await ask(client, exchange, gateway=1))[0] == 200


async def test_a_lagging_gateway_answers_with_an_older_book():
    gateways = [GatewayOptions(), GatewayOptions(rest_lag_s=0.1)]
    async with serve(gateways=gateways) as (exchange, client):
        async with client.ws_connect(url(exchange, STREAM)) as websocket:
            await receive(websocket, 20)
            await exchange.wait_ended()
        # The lagging one first: a book that has caught up for one gateway has caught up for all.
        assert decode_snapshot((await ask(client, exchange, gateway=1))[1]).last_update_id == 110
        assert decode_snapshot((await ask(client, exchange))[1]).last_update_id == 120


# --- limits and pings --------------------------------------------------------------------------------------------------------


async def test_a_stale_gateway_answers_with_the_book_as_it_was_when_the_fault_began():
    fault = Fault(FaultKind.STALE, 0, 0.25, 0.75)
    async with serve(tape(40), faults=[fault], speed=2) as (exchange, client), client.ws_connect(url(exchange, STREAM)):
        for position, behind in ((0.5, True), (0.6, True), (0.8, False)):
            await until(lambda position=position: exchange.position() >= position)
            played = 100 + exchange.status()["messages"] // 2
            last_update_id = decode_snapshot((await ask(client, exchange))[1]).last_update_id
            assert last_update_id == 110 if behind else last_update_id >= played


async def test_the_sixth_message_in_a_second_closes_a_spot_connection_with_1008():
    async with serve() as (exchange, client), client.ws_connect(url(exchange), autoping=False) as websocket:
        for _ in range(5):
            await websocket.ping(b"x")
        await websocket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        for _ in range(5):
            assert (await websocket.receive(timeout=WAIT_S)).type is aiohttp.WSMsgType.PONG
        closed = await websocket.receive(timeout=WAIT_S)
        assert (closed.type, closed.data, closed.extra) == (aiohttp.WSMsgType.CLOSE, 1008, "Too many requests")


async def test_a_long_message_drops_the_connection_without_a_close_frame():
    async with serve() as (exchange, client), client.ws_connect(url(exchange)) as websocket:
        await websocket.send_str(" " * 8001)
        message = await websocket.receive(timeout=WAIT_S)
        assert message.type is aiohttp.WSMsgType.CLOSED
        assert websocket.close_code == 1006


async def test_invalid_json_closes_a_futures_connection():
    async with (
        serve(tape(market=Market.USDM)) as (exchange, client),
        client.ws_connect(url(exchange, market=Market.USDM)) as websocket,
    ):
        await websocket.send_str("nonsense")
        assert (await websocket.receive_json())["error"]["code"] == 3
        assert (await websocket.receive(timeout=WAIT_S)).type is aiohttp.WSMsgType.CLOSE


async def test_pings_carry_the_time_and_who_answers_stays():
    async with (
        serve(keep_alive=KeepAlive(0.3, 10.0)) as (exchange, client),
        client.ws_connect(url(exchange), autoping=False) as websocket,
    ):
        payloads = []
        for _ in range(3):
            message = await websocket.receive(timeout=WAIT_S)
            assert message.type is aiohttp.WSMsgType.PING
            payloads.append(message.data)
            await websocket.pong(message.data)
        assert all(abs(int(payload) - time.time() * 1000) < WAIT_S * 1000 for payload in payloads)
        assert exchange.status()["gateways"][0]["pings"] == 3


@pytest.mark.parametrize("answer", [None, b"", b"something else"])
async def test_who_does_not_echo_the_ping_is_dropped(answer):
    async with (
        serve(keep_alive=KeepAlive(0.3, 0.2)) as (exchange, client),
        client.ws_connect(url(exchange), autoping=False) as websocket,
    ):
        assert (await websocket.receive(timeout=WAIT_S)).type is aiohttp.WSMsgType.PING
        if answer is not None:
            await websocket.pong(answer)
        assert (await websocket.receive(timeout=WAIT_S)).type is aiohttp.WSMsgType.CLOSED
        assert websocket.close_code == 1006


async def test_a_connection_is_closed_at_the_end_of_its_life():
    async with (
        serve(keep_alive=KeepAlive(connection_life_s=0.2)) as (exchange, client),
        client.ws_connect(url(exchange)) as websocket,
    ):
        message = await websocket.receive(timeout=WAIT_S)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


# --- faults ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [("fin", 1006), ("rst", 1006), ("1001", 1001)])
async def test_an_outage_cuts_one_gateway_and_refuses_it_until_it_is_over(kind, code):
    fault = Fault(FaultKind(kind), 0, 0.25, 0.75)
    async with serve(tape(40), gateways=[GatewayOptions()] * 2, faults=[fault], wait_clients=2, speed=0.4) as (exchange, client):
        async with client.ws_connect(url(exchange, STREAM)) as cut, client.ws_connect(url(exchange, STREAM, gateway=1)) as whole:
            # A reset may take what was sent last with it.
            heard = await receive(cut)
            assert heard == depth_frames(40)[: len(heard)]
            assert (len(heard) <= 10) if kind == "rst" else (len(heard) == 10)
            assert cut.close_code == code
            with pytest.raises(aiohttp.ClientError):
                await client.ws_connect(url(exchange, STREAM))
            with pytest.raises(aiohttp.ClientError):
                await ask(client, exchange)
            assert (await ask(client, exchange, gateway=1))[0] == 200
            await until(lambda: exchange.position() >= 0.75)
            async with client.ws_connect(url(exchange, STREAM)) as again:
                assert (await receive(again, 1))[0] in depth_frames(40)[30:]
            assert await receive(whole, 40) == depth_frames(40)
        counters = exchange.status()["gateways"][0]
        assert (counters["cut"], counters["accepted"], counters["faults"]) == (1, 2, [])
        assert counters["refused"] >= 2


async def test_a_stalled_connection_stays_open_and_answers_nothing_and_new_ones_hang():
    async with serve(tape(40), faults=[Fault(FaultKind.STALL, 0, 0.25, 0.75)], speed=0.4) as (exchange, client):
        async with client.ws_connect(url(exchange, STREAM)) as websocket:
            assert len(await receive(websocket, 10)) == 10
            await websocket.ping()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ws_connect(url(exchange, STREAM)), 0.1)
            with pytest.raises(TimeoutError):
                await websocket.receive(timeout=0.2)
            assert not websocket.closed
            await until(lambda: exchange.position() >= 0.75)
            async with client.ws_connect(url(exchange, STREAM)) as again:
                assert await receive(again, 1)
        await until(lambda: not exchange.gateways[0].connections)


async def test_a_muted_stream_is_silent_on_the_connections_there_are_and_on_no_other():
    fault = Fault(FaultKind.MUTE, 0, 0.25, 0.75)
    async with serve(tape(40), faults=[fault], speed=2) as (exchange, client):
        async with client.ws_connect(url(exchange, STREAM)) as old:
            assert len(await receive(old, 10)) == 10
            await until(lambda: exchange.position() >= 0.3)
            async with client.ws_connect(url(exchange, STREAM)) as new:
                assert await receive(new, 1)
            heard = await receive(old, 10)
        await until(lambda: exchange.position() >= 0.75)
        assert exchange.status()["gateways"][0]["cut"] == 0
    assert len(heard) == 10


async def test_a_name_in_the_path_that_is_no_stream_starts_nothing_and_is_not_what_a_fault_mutes():
    fault = Fault(FaultKind.MUTE, 0, 0.5, 1.0)
    async with (
        serve(tape(20), faults=[fault], speed=2) as (exchange, client),
        client.ws_connect(f"ws://127.0.0.1:{exchange.gateways[0].port}/ws/0") as websocket,
    ):
        assert exchange.status()["started"] is False
        await websocket.send_json({"method": "SUBSCRIBE", "params": [STREAM], "id": 1})
        assert (await receive(websocket, 1))[0] == b'{"result":null,"id":1}'
        await exchange.wait_ended()
        assert len(await receive(websocket, 10)) == 10
        with pytest.raises(TimeoutError):
            await websocket.receive(timeout=0.2)


async def test_a_connection_that_lags_gets_everything_at_half_the_pace():
    fault = Fault(FaultKind.LAG, 0, 0.25, 0.75)
    async with (
        serve(tape(40), faults=[fault], speed=1) as (exchange, client),
        client.ws_connect(url(exchange, STREAM)) as websocket,
    ):
        await receive(websocket, 10)
        count, behind = 10, []
        while count < 40:
            await receive(websocket, 1)
            count += 1
            behind.append(round(exchange.position() * 40) - count)
    assert max(behind) >= 5
    assert count == 40


async def test_a_drain_tells_and_closes_the_connections_there_are_and_no_other():
    fault = Fault(FaultKind.DRAIN, 0, 0.25, 0.5)
    async with serve(tape(40), faults=[fault], speed=1.0) as (exchange, client), client.ws_connect(url(exchange, STREAM)) as old:
        await until(lambda: exchange.position() > 0.3)
        async with client.ws_connect(url(exchange, STREAM)) as new:
            heard = await receive(old)
            assert old.close_code == 1001
            assert any(b"serverShutdown" in frame for frame in heard)
            await until(lambda: exchange.position() > 0.6)
            assert not new.closed
            assert not any(b"serverShutdown" in frame for frame in await receive(new, 3))


async def test_a_shutdown_is_announced_and_closes_later():
    fault = Fault(FaultKind.SHUTDOWN, 0, 0.25, 0.5)
    async with serve(tape(40), faults=[fault], speed=1.0) as (exchange, client):
        async with client.ws_connect(url(exchange, STREAM)) as websocket:
            heard = await receive(websocket)
            assert websocket.close_code == 1001
        notices = [frame for frame in heard if b"serverShutdown" in frame]
        assert [json.loads(notice)["stream"] for notice in notices] == ["!serverShutdown"]
        assert heard.index(notices[0]) == 10
        assert [frame for frame in heard if frame not in notices] == depth_frames(40)[:20]


async def test_faults_can_be_injected_by_hand():
    async with serve(wait_clients=None) as (exchange, client):
        admin = f"http://127.0.0.1:{exchange.gateways[0].port}/twintape"
        async with client.ws_connect(url(exchange, STREAM)) as websocket:
            async with client.post(f"{admin}/fault", json={"kind": "fin", "gateway": 0}) as answer:
                assert answer.status == 200
            assert await receive(websocket) == []
        async with client.ws_connect(url(exchange, STREAM)):
            pass
        async with client.post(f"{admin}/fault", json={"kind": "shutdown", "seconds": 0.2}) as answer:
            assert answer.status == 200
        async with client.ws_connect(url(exchange, STREAM)) as late:
            (notice,) = await receive(late)  # a new connection to a draining server hears of it at once
            assert b"serverShutdown" in notice
        for wrong in ({}, {"kind": "boom"}, {"kind": "fin", "gateway": 7}, []):
            async with client.post(f"{admin}/fault", json=wrong) as answer:
                assert answer.status == 400
        async with client.get(f"{admin}/nothing") as answer:
            assert answer.status == 404


async def test_rest_can_be_banned_unavailable_or_wrong():
    async with serve(wait_clients=None) as (exchange, client):
        right = (await ask(client, exchange))[1]
        exchange.inject(FaultKind.UNAVAILABLE, 0, 0.1)
        assert (await ask(client, exchange))[0] == 503
        await until(lambda: not exchange.status()["gateways"][0]["faults"])
        exchange.inject(FaultKind.WRONG, 0, 0.1)
        wrong = decode_snapshot((await ask(client, exchange))[1])
        assert wrong.bids != decode_snapshot(right).bids
        await until(lambda: not exchange.status()["gateways"][0]["faults"])
        assert (await ask(client, exchange))[1] == right
        exchange.inject(FaultKind.BAN, 0, 0.05)
        status, body, headers = await ask(client, exchange)
        assert (status, json.loads(body)["code"], headers["Retry-After"]) == (418, -1003, "120")


async def test_other_windows_reach_the_clients_of_their_gateway_only():
    source = SyntheticSource(SyntheticConfig(Market.SPOT, 5, symbols_count=1, messages_count=300))
    original = [one.data for one in source.happenings() if isinstance(one, VenueMessage) and one.stream == STREAM]
    gateways = [GatewayOptions(), GatewayOptions(partition=Partition.SHIFTED), GatewayOptions(event_time_jitter_us=900)]
    async with (
        serve(source, gateways=gateways, wait_clients=3, exit_at_end=False) as (exchange, client),
        contextlib.AsyncExitStack() as stack,
    ):
        heard = []
        for number in range(3):
            bare = f"ws://127.0.0.1:{exchange.gateways[number].port}/ws/{STREAM}"
            heard.append(asyncio.create_task(receive(await stack.enter_async_context(client.ws_connect(bare)))))
        await exchange.wait_ended()
        for gateway in exchange.gateways:
            await gateway.close()
        same, shifted, jittered = await asyncio.gather(*heard)
    assert same == original
    assert len(set(shifted) & set(original)) < len(original) / 2
    assert jittered != original

    def content(frames):
        return [{**json.loads(frame), "E": 0} for frame in frames]

    assert content(jittered) == content(original)
    assert json.loads(shifted[-1])["u"] == json.loads(original[-1])["u"]


# --- readers, status, life ---------------------------------------------------------------------------------------------------


async def test_at_full_speed_a_slow_reader_holds_the_tape_and_loses_nothing():
    async with (
        serve(tape(3000), wait_clients=2) as (exchange, client),
        client.ws_connect(url(exchange, STREAM)) as slow,
        client.ws_connect(url(exchange, STREAM)) as quick,
    ):
        quick_frames = asyncio.create_task(receive(quick, 3000))
        await asyncio.sleep(0.3)
        assert await receive(slow, 3000) == depth_frames(3000)
        assert await quick_frames == depth_frames(3000)


async def raw_client(exchange, stream):
    """Open a websocket that never reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", exchange.gateways[0].port, limit=1024)
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    writer.write(
        f"GET /ws/{stream} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    await writer.drain()
    reader._transport.pause_reading()
    return writer


@pytest.mark.parametrize("speed", [MAX_SPEED, 1e9])
async def test_who_reads_nothing_at_all_is_cut_off_and_holds_up_nobody_for_ever(monkeypatch, speed):
    monkeypatch.setattr(exchange_module, "SLOW_READER_S_MAX", 0.3)
    monkeypatch.setattr(exchange_module, "UNSENT_BYTES_HIGH", 1 << 16)
    monkeypatch.setattr(exchange_module, "UNSENT_BYTES_MAX", 1 << 20)
    levels = ",".join(f'["{number}.00","1.0"]' for number in range(5000))
    big = f'{{"stream":"{STREAM}","data":{{"e":"depthUpdate","U":1,"u":2,"b":[{levels}]}}}}'.encode()
    lines = [b"%d %b" % (START_NS + number, big) for number in range(400)]
    async with serve(TapeSource(Market.SPOT, [lambda: lines]), speed=speed) as (exchange, _):
        writer = await raw_client(exchange, STREAM)
        await asyncio.wait_for(exchange.wait_ended(), 20)
        await until(lambda: not exchange.gateways[0].connections)
        writer.close()


async def test_the_status_says_how_far_it_is():
    async with serve() as (exchange, client):
        status_url = f"http://127.0.0.1:{exchange.gateways[0].port}/twintape/status"
        async with client.get(status_url) as answer:
            before = await answer.json()
        assert (before["position"], before["started"], before["ended"], before["total"]) == (0.0, False, False, 40)
        async with client.ws_connect(url(exchange, STREAM)) as websocket:
            await receive(websocket, 20)
            await exchange.wait_ended()
            async with client.get(status_url) as answer:
                after = await answer.json()
        assert (after["position"], after["ended"], after["messages"], after["messages_sent"]) == (1.0, True, 40, 20)
        assert after["last_final_update_id"] == {"spot": {STREAM: 120}}
        assert after["gateways"][0]["connections"] == 1
        description = exchange.description()["gateways"][0]
        assert description["spot"] == f"ws://127.0.0.1:{exchange.gateways[0].port}/spot"


def test_contradictions_are_refused():
    endless = SyntheticSource(SyntheticConfig(Market.SPOT, 1))
    fault = Fault(FaultKind.FIN, 0, 0, 1)
    for config in (
        ExchangeConfig(()),
        ExchangeConfig((tape(), tape())),
        ExchangeConfig((endless,), faults=[fault]),
        ExchangeConfig((tape(),), faults=[Fault(FaultKind.FIN, 1, 0, 1)]),
    ):
        with pytest.raises(ConfigError):
            SimulatedExchange(config)


async def test_an_endless_market_has_no_position():
    async with serve(SyntheticSource(SyntheticConfig(Market.SPOT, 1)), speed=1.0, wait_clients=0) as (exchange, _):
        await asyncio.sleep(0.05)
        assert exchange.status()["position"] == 0.0
        assert exchange.status()["started"]


async def test_an_error_of_the_source_is_not_swallowed():
    class Broken:
        market = Market.SPOT
        symbols = ()
        total = 1

        def happenings(self):
            raise RuntimeError("the source broke")
            yield

    with pytest.raises(RuntimeError, match="the source broke"):
        async with serve(Broken(), wait_clients=0):
            await asyncio.sleep(0.05)
    with pytest.raises(RuntimeError, match="the source broke"):
        async with serve(Broken(), wait_clients=0) as (exchange, _):
            await exchange.wait_ended()


def test_recordings_are_told_apart_by_content(tmp_path):
    from twintape.io.exchange import zstd

    text = b"".join(b"%d %b\n" % line for line in frames_of(2))
    forms = {"plain.gz": text, "gzip.txt": gzip.compress(text), "zstd": zstd.compress(text[:100]) + zstd.compress(text[100:])}
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        assert b"".join(open_recording(tmp_path / name)()) == text
    assert tape_source(Market.SPOT, [tmp_path / "zstd"]).total == 4
    with pytest.raises(ConfigError):
        open_recording(tmp_path / "missing")


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the openssl command")


@pytest.fixture
def tls(tmp_path):
    pem = tmp_path / "server.pem"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout {pem} -out {tmp_path / 'c'}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "c").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@needs_openssl
@pytest.mark.parametrize(("kind", "code"), [(FaultKind.FIN, 1006), (FaultKind.RST, 1006), (FaultKind.GOING_AWAY, 1001)])
async def test_everything_is_served_over_tls_too(tls, kind, code):
    async with serve(tls=tls) as (exchange, client):
        assert url(exchange).startswith("wss://")
        async with client.ws_connect(url(exchange, STREAM), ssl=False) as websocket:
            assert await receive(websocket, 20) == depth_frames()
            exchange.inject(kind, 0, 0)
            assert await receive(websocket) == []
            assert websocket.close_code == code
        async with client.get(
            exchange_info_url(Market.SPOT, base=exchange.gateways[0].rest_base(Market.SPOT)), ssl=False
        ) as answer:
            assert answer.status == 200


async def test_closing_the_exchange_loses_nothing_that_was_sent():
    async with aiohttp.ClientSession() as client:
        async with SimulatedExchange(ExchangeConfig([tape(2000)], speed=MAX_SPEED, wait_clients=1)) as exchange:
            websocket = await client.ws_connect(url(exchange, STREAM))
            await exchange.wait_ended()
            heard = asyncio.create_task(receive(websocket))
        assert await heard == depth_frames(2000)
        assert websocket.close_code == 1001


# --- real recordings ---------------------------------------------------------------------------------------------------------


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the recordings in ../shared/corpus are not here")
async def test_a_real_recording_reaches_two_clients_line_by_line():
    path = CORPUS / "coinm_10symbols_20210417.gz"
    with gzip.open(path) as file:
        lines = [line.rstrip(b"\n").split(b" ", 1)[1] for line in file]
    frames = [frame for frame in lines if b"@depthSnapshot" not in frame]
    source = tape_source(Market.COINM, [path])
    streams = list(dict.fromkeys(json.loads(frame)["stream"] for frame in frames))
    async with (
        serve(source, gateways=[GatewayOptions()] * 2, wait_clients=2) as (exchange, client),
        client.ws_connect(url(exchange, *streams, market=Market.COINM)) as one,
        client.ws_connect(url(exchange, *streams, market=Market.COINM, gateway=1)) as other,
    ):
        heard = await asyncio.gather(receive(one, len(frames)), receive(other, len(frames)))
    assert heard == [frames, frames]
