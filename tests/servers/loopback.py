"""An HTTP server of this machine that speaks one dialect, fails as it is told to, and remembers what it was asked."""

import asyncio
import json
import threading
from collections import Counter

from aiohttp import web


class Refusal(Exception):
    """What a dialect answers instead: status and JSON."""

    def __init__(self, status, body):
        super().__init__(str(body))
        self.status, self.body = status, body


class Loopback:
    """Serves `answer(method, path, body)` until it is closed.

    Args:
        answer: of a dialect; raises `Refusal`.
        fault: called with the number of the request, its path and body before the answer is sent; gives None, or a
            coroutine that gives the response instead (None to answer after all).
        seconds: each answer takes.
        port: 0 takes a free one.
    """

    def __init__(self, answer, fault=None, seconds=0.0, port=0):
        self.answer, self.fault, self.seconds = answer, fault, seconds
        self.asked, self.port = [], port
        self.headers = []
        self.at_once = self.most_at_once = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self):
        self._do(self._start())

    def stop(self):
        """Cut all connections and listen no more; `start` takes the same port again."""
        self._do(self._runner.cleanup())

    def close(self):
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def counts(self):
        """How often each body was asked for."""
        return Counter(json.dumps(body, sort_keys=True, ensure_ascii=False) for _, body in self.asked)

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request):
        body = await request.json() if request.can_read_body else None
        if body is not None:
            self.asked.append((request.path, body))
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            fault = self.fault(len(self.asked), request, body) if self.fault and body is not None else None
            instead = await fault if fault is not None else None
            if instead is not None:
                return instead
            if self.seconds:
                await asyncio.sleep(self.seconds)
                found = self.answer(request.method, request.path, body)
            else:
                found = await asyncio.to_thread(self.answer, request.method, request.path, body)
            return web.Response(text=json.dumps(found), content_type="application/json")
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        finally:
            self.at_once -= 1


def not_found():
    return Refusal(404, {"error": {"message": "Not Found", "type": "NotFound", "code": 404}})
