import asyncio
import gzip

import pytest
from aiohttp import web

from twintape.io import http as http_module
from twintape.io.clock import SystemClock
from twintape.io.http import AiohttpRest


class Running:
    """A server with one handler."""

    def __init__(self, handler):
        self.handler = handler
        self.requests = []

    async def __aenter__(self):
        async def handle(request):
            self.requests.append(request)
            return await self.handler(request)

        application = web.Application()
        application.router.add_get("/{tail:.*}", handle)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()


@pytest.mark.parametrize("status", [200, 400, 418, 429, 451, 503])
async def test_whatever_the_server_answers_is_returned_verbatim(status):
    async def answer(request):
        return web.Response(status=status, body=b'{"a": 1}\n', headers={"Retry-After": "7", "X-MBX-USED-WEIGHT-1M": "250"})

    async with Running(answer) as server, AiohttpRest(SystemClock()) as rest:
        got = await rest.get(f"{server.url}/api/v3/depth?symbol=%E5%B8%81USDT&limit=5", timeout_s=5)
        assert (got.status, got.body) == (status, b'{"a": 1}\n')
        assert (got.headers["retry-after"], got.headers["x-mbx-used-weight-1m"]) == ("7", "250")
        assert 0 <= got.response_time_ns - got.request_time_ns < 5 * 10**9
        assert server.requests[0].query["symbol"] == "币USDT"


async def test_a_compressed_body_is_returned_as_what_it_means():
    async def answer(request):
        return web.Response(body=gzip.compress(b'{"lastUpdateId":1}'), headers={"Content-Encoding": "gzip"})

    async with Running(answer) as server, AiohttpRest(SystemClock()) as rest:
        assert (await rest.get(server.url, timeout_s=5)).body == b'{"lastUpdateId":1}'


async def test_a_redirect_is_an_answer_and_not_followed():
    async def answer(request):
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with Running(answer) as server, AiohttpRest(SystemClock()) as rest:
        assert (await rest.get(server.url, timeout_s=5)).status == 302
        assert len(server.requests) == 1


async def test_a_body_without_end_is_no_answer(monkeypatch):
    monkeypatch.setattr(http_module, "BODY_BYTES_MAX", 1_000_000)

    async def answer(request):
        return web.Response(body=gzip.compress(b"0" * 10_000_000), headers={"Content-Encoding": "gzip"})

    async with Running(answer) as server, AiohttpRest(SystemClock()) as rest:
        with pytest.raises(OSError, match="longer than 1000000 bytes"):
            await rest.get(server.url, timeout_s=5)


async def test_no_answer_is_an_os_error():
    async def answer(request):
        await asyncio.sleep(0.5)
        return web.Response()

    async with AiohttpRest(SystemClock()) as rest:
        async with Running(answer) as server:
            with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
                await rest.get(server.url, timeout_s=0.1)
        with pytest.raises(OSError, match="no answer"):
            await rest.get(server.url, timeout_s=5)


async def test_a_client_that_is_not_open_says_so():
    with pytest.raises(OSError, match="not open"):
        await AiohttpRest(SystemClock()).get("http://127.0.0.1:1/", timeout_s=1)
