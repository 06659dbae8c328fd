"""Asks a server over HTTP: many requests at a time, retries, limits, and what is wrong in one line.

Knows HTTP and JSON; refuses to know prompts and dialects. The key is in no message: whatever a server says goes
through `Client.shown`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
import threading
import time
import weakref
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from harness.core.addresses import redacted
from harness.core.errors import BudgetError, EngineError, ModelError, RequestError, ServerLostError
from harness.core.escaping import one_line
from harness.engine.server.body import BodyError, parsed, read_body, reason_of, seconds_of
from harness.engine.server.limits import Budget, Rate
from harness.engine.server.usage import Usage, usage_of

log = logging.getLogger(__name__)
T = TypeVar("T")
BUSY = frozenset({429, 503, 529})
NO_ACCESS = frozenset({401, 403})
_WAITS = wait_random_exponential(multiplier=0.5, max=8)


@dataclass(frozen=True)
class Patience:
    """How often and how long a request is tried.

    Attributes:
        tries: of one that a server in good health fails on.
        slow_tries: of one that ran out of time.
        lost_after_s: seconds without a connection, or with refusals alone, after which the server is lost.
        longest_wait_s: the most that a server may ask to wait.
    """

    tries: int = 5
    slow_tries: int = 3
    lost_after_s: float = 120.0
    longest_wait_s: float = 600.0


PATIENCE = Patience()


class PassingError(Exception):
    """A request failed in a way that may pass.

    Args:
        text: what the server did.
        kind: `away` (no connection), `busy`, `slow` or `odd`.
        after_s: seconds that the server asks to wait.
    """

    def __init__(self, text: str, kind: str, after_s: float | None = None) -> None:
        super().__init__(text)
        self.kind, self.after_s = kind, after_s


def _error_of(state: RetryCallState) -> PassingError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, PassingError), "others are raised at once"
    return error


def _wait_s(state: RetryCallState) -> float:
    """Longer each time, drawn so that requests do not come back together, and as long as the server asks."""
    return max(_error_of(state).after_s or 0.0, _WAITS(state))


class RefusedError(RequestError):
    """The server refuses a request for what it is: to try again is of no use.

    Args:
        text: in one line.
        status: of HTTP.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """One server. Its requests run in a thread of their own, at most `concurrency` at a time, first come first served.

    Args:
        address: `model.base_url`.
        key: sent with each request; None for none.
        concurrency: requests at a time.
        timeout_s: of one request.
        rates: requests and tokens per minute.
        budget: what they may cost.
        patience: how often they are tried.
    """

    def __init__(
        self,
        address: str,
        key: str | None,
        concurrency: int,
        timeout_s: float,
        rates: tuple[int | None, int | None],
        budget: Budget,
        patience: Patience | None = None,
    ) -> None:
        self.address = address.rstrip("/")
        parts = urlsplit(self.address)
        self.root = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/v1')}"
        self.budget = budget
        self.patience = patience or PATIENCE
        self.computed = self.sent = self.answered = 0
        """Tokens that went through the model, requests, and those of them that got an answer."""
        self.last_usage: Usage | None = None
        self._key = key
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._requests, self._tokens = map(Rate, rates)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="requests", daemon=True).start()
        self._session, self._places = self.run(self._begin())
        self.close = weakref.finalize(self, _close, self._loop, self._session)
        """Let go of all connections."""

    async def _begin(self) -> tuple[aiohttp.ClientSession, asyncio.Semaphore]:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=10),
            trust_env=not _is_here(urlsplit(self.address).hostname or ""),
        )
        return session, asyncio.Semaphore(self._concurrency)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the thread of the requests, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def shown(self, text: str) -> str:
        """What a server said, in one short line without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return one_line(redacted(text), 160)

    async def get(self, url: str) -> Any:
        """What lies at an address of the server, as JSON; None where nothing does."""
        try:
            return await self._once("GET", url, None)
        except RefusedError:
            return None

    async def post(self, url: str, body: Mapping[str, Any], input_tokens: int, output_tokens: int) -> Any:
        """The answer to a request, tried again while that may help.

        Args:
            url: the whole address.
            body: sent as JSON.
            input_tokens: of the prompt, or an estimate.
            output_tokens: most that may be generated.

        Raises:
            RequestError: this request gets no answer.
            ServerLostError: no request does.
            BudgetError: there is no money for it.
        """
        began, seen = time.monotonic(), Counter[str]()

        def enough(state: RetryCallState) -> bool:
            error = _error_of(state)
            seen[error.kind] += 1
            return self._is_enough(error, seen[error.kind], time.monotonic() - began)

        async with self._places:
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(PassingError), stop=enough, wait=_wait_s, reraise=True
                ):
                    with attempt:
                        return await self._paid(url, body, input_tokens, output_tokens)
            except PassingError as error:
                raise await self._verdict(error) from None
        raise AssertionError("the last attempt raises")

    def _is_enough(self, error: PassingError, times: int, waited_s: float) -> bool:
        """Whether a request that failed in one way so many times is tried no more."""
        if error.after_s is not None and error.after_s > self.patience.longest_wait_s:
            return True
        if error.kind in ("away", "busy"):
            return waited_s >= self.patience.lost_after_s
        return times >= (self.patience.slow_tries if error.kind == "slow" else self.patience.tries)

    async def _verdict(self, error: PassingError) -> Exception:
        """Whether one request has failed, or the server."""
        go_on = "committed work is kept, run the same command again to go on"
        if error.kind == "away":
            return ServerLostError(f"{self.address}: {error}, for {self.patience.lost_after_s:.0f} s; {go_on}")
        if error.kind == "busy":
            asked = f", and asks to wait {error.after_s:.0f} s" if error.after_s else ""
            return ServerLostError(
                f"{self.address} goes on refusing: {error}{asked}; lower model.concurrency or set "
                f"model.requests_per_minute; {go_on}"
            )
        try:
            await self.get(f"{self.address}/models")
        except PassingError as other:
            if other.kind == "away":
                return ServerLostError(f"{self.address}: {other}; {go_on}")
        return RequestError(f"{self.address}: {error}")

    async def _paid(self, url: str, body: Mapping[str, Any], input_tokens: int, output_tokens: int) -> Any:
        await self._requests.take(1)
        await self._tokens.take(input_tokens + output_tokens)
        reserved, cost = self.budget.reserve(input_tokens, output_tokens), 0.0
        try:
            self.sent += 1
            answer = await self._once("POST", url, body)
            usage = usage_of(answer) or Usage(input_tokens, 0, output_tokens)
            cost = self.budget.cost(usage.prompt, usage.generated)
            self.answered += 1
            self.computed += usage.computed
            self.last_usage = usage_of(answer)
            return answer
        finally:
            self.budget.settle(reserved, cost)

    async def _once(self, verb: str, url: str, body: Mapping[str, Any] | None) -> Any:
        try:
            async with self._session.request(verb, url, json=body) as response:
                return self._read(response, await read_body(response))
        except BodyError as error:
            raise PassingError(str(error), "odd") from None
        except TimeoutError:
            raise PassingError(f"no answer within model.timeout_s={self._timeout_s:g}", "slow") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError) as error:
            remedy = (
                "set SSL_CERT_FILE to the authority's certificate, or give the address that the certificate names"
                if isinstance(error, aiohttp.ClientConnectorCertificateError)
                else "a server without TLS has an address with http://"
            )
            raise ModelError(f"{self.address}: TLS fails ({self.shown(str(error))}); {remedy}") from None
        except aiohttp.ClientConnectorError as error:
            raise PassingError(f"nobody answers ({self.shown(str(error))})", "away") from None
        except aiohttp.InvalidURL:
            raise ModelError(f"model.base_url is '{self.address}', expected such as http://localhost:8000/v1") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise PassingError(f"the answer was cut off ({self.shown(type(error).__name__)})", "odd") from None

    def _read(self, response: aiohttp.ClientResponse, text: str) -> Any:
        status = response.status
        if status in NO_ACCESS:
            raise ModelError(
                f"{self.address} refuses the key ({status})"
                if self._key
                else f"{self.address} asks for a key ({status}); set model.api_key_env to the variable that holds it"
            )
        if status in BUSY:
            after = seconds_of(response.headers.get("Retry-After"))
            raise PassingError(f"status {status}: {self.shown(text) or 'too many requests'}", "busy", after)
        if status >= 500 or status in (408, 409):
            raise PassingError(f"status {status}: {self.shown(text)}", "odd")
        if status >= 400:
            reason = self.shown(reason_of(text))
            raise RefusedError(f"{self.address} refuses the request ({status}): {reason}", status)
        try:
            return parsed(text)
        except BodyError:
            kind = self.shown(response.content_type)
            raise PassingError(f"expected JSON, the answer is {kind}: {self.shown(text) or 'empty'}", "odd") from None


async def all_of(works: list[Coroutine[Any, Any, T]]) -> list[T | EngineError]:
    """Results in their order, or why a prompt has none; what ends the run ends the others.

    Raises:
        ServerLostError, BudgetError, ModelError: no more is to be asked.
    """

    async def guarded(work: Coroutine[Any, Any, T]) -> T | EngineError:
        try:
            return await work
        except EngineError as error:
            return error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(guarded(work)) for work in works]
    except BaseExceptionGroup as several:
        first = several.exceptions[0]
        raise next((e for e in several.exceptions if isinstance(e, ServerLostError | BudgetError)), first) from None
    return [task.result() for task in tasks]


def _close(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """End the thread of the requests; whoever waits for one waits no more."""

    async def close() -> None:
        await session.close()
        loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)


def _is_here(host: str) -> bool:
    """Whether a host is this machine, to which no proxy leads."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
