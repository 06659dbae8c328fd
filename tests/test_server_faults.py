"""The engine `server` where servers fail: nothing is lost, nothing is asked twice, and each fault is one line."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from aiohttp import web
from tenacity import wait_random_exponential

from harness import run
from harness.config.schema import ModelEntry
from harness.core.errors import BudgetError, ModelError, RunDirError, ServerLostError
from harness.engine.protocol import OpenSettings
from harness.engine.server import body, client
from harness.engine.server.engine import ENGINE
from harness.engine.server.limits import Budget, Rate
from harness.engine.server.probe import TEXT, Probe
from harness.planning.report import prompt_lines
from tests.conftest import KO_TINY, REPO
from tests.servers.chat import Chat
from tests.servers.loopback import Refusal
from tests.servers.running import SMALL, assert_equal, at, chatty, config, model, records, serve  # noqa: F401
from tests.servers.vllm import Vllm

KEY = "sk-verysecret0123456789"
PROBES = 4
"""Requests before the first of the run, of a server that scores token by token."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", client.Patience(tries=4, lost_after_s=3.0, longest_wait_s=5.0))
    monkeypatch.setattr(client, "_WAITS", wait_random_exponential(multiplier=0.05, max=0.8))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return records(run(config(tmp_path_factory.mktemp("local"), "local", f"model.path={KO_TINY}", *SMALL)).run_dir)


def failing(status, **headers):
    async def respond():
        return web.json_response({"error": {"message": f"failed {KEY}"}}, status=status, headers=headers)

    return respond()


def test_failures_refusals_a_hang_and_a_restart_lose_nothing_and_double_nothing(
    tmp_path, model, serve, expected, monkeypatch
):
    monkeypatch.setattr(client, "PATIENCE", client.Patience(tries=8, lost_after_s=20.0))

    async def hang():
        await asyncio.sleep(20)

    def restart():
        server.stop()
        time.sleep(1)
        server.start()

    def fault(n, request, body):
        if n <= PROBES:
            return None
        if n == 17:
            return failing(429, **{"Retry-After": "1"})
        if n == 23:
            return hang()
        if n == 40:
            threading.Thread(target=restart).start()
        return failing(500) if n % 5 == 0 else None

    server = serve(Vllm(model), fault=fault)
    overrides = [*at(server, KO_TINY), *SMALL, "model.timeout_s=4", "model.concurrency=4"]
    assert_equal(records(run(config(tmp_path, "faults", *overrides)).run_dir), expected)
    assert server.most_at_once <= 4 + 1, "what hangs is still counted here when its place is free again"


def test_one_prompt_that_gets_no_answer_is_one_record_and_the_others_are_asked_once(tmp_path, model, serve, expected):
    victim = {}

    def fault(n, request, body):
        if n > PROBES and not victim:
            victim.update(prompt=body["prompt"])
        return failing(500) if victim and body.get("prompt") == victim["prompt"] else None

    server = serve(Vllm(model), fault=fault)
    given = config(tmp_path, "one", *at(server, KO_TINY), *SMALL, "run.max_failed_share=1")
    found = records(run(given).run_dir)
    failed = found[found["error"].notna()]
    assert len(failed) == 1
    assert set(failed["error_type"]) == {"RequestError"}
    counts = {body: n for body, n in server.counts().items() if n > 1}
    assert all(json.loads(body)["prompt"] == victim["prompt"] for body in counts)
    server.fault = None
    assert_equal(records(run(given).run_dir), expected)


def test_a_server_that_dies_stops_the_run_which_goes_on_later(tmp_path, model, serve, expected):
    def fault(n, request, body):
        if n == 26:
            threading.Thread(target=server.stop).start()

    server = serve(Vllm(model), fault=fault)
    given = config(tmp_path, "dies", *at(server, KO_TINY), *SMALL, "cluster.shard_size=4", "model.concurrency=2")
    with pytest.raises(ServerLostError, match=r"nobody answers .* run the same command again to go on"):
        run(given)
    server.fault = None
    server.start()
    done, before = records(given.run_dir), len(server.asked)
    assert 0 < len(done) < len(expected)
    assert_equal(records(run(given).run_dir), expected)
    keys = set(zip(done["template"], done["k"], done["sample_id"], strict=True))
    lines = [json.loads(line) for line in prompt_lines(given, None)]
    committed, left = (
        {str(one["token_ids"]) for one in lines if ((one["template"], one["k"], one["sample_id"]) in keys) == is_done}
        for is_done in (True, False)
    )
    asked = {str(body["prompt"]) for _, body in server.asked[before:]}
    assert left <= asked
    assert not committed & asked, "what was committed is not asked for again"


def say(answer, **headers):
    async def respond():
        return web.Response(text=answer, content_type=headers.pop("content_type", "application/json"), headers=headers)

    return respond()


def cut(request):
    async def respond():
        request.transport.close()

    return respond()


def spoilt(spoil):
    """vLLM's answers with something wrong in them."""

    class Spoilt(Vllm):
        def complete(self, body):
            found = super().complete(body)
            if "logprob_token_ids" in body and body["prompt"] != self.probe:
                spoil(found["choices"][0]["logprobs"])
            return found

    def make(model):
        server = Spoilt(model)
        server.probe = model.ids(TEXT)
        return server

    return make


def set_nan(said):
    said["top_logprobs"] = [dict.fromkeys(said["top_logprobs"][0], float("nan"))]


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (spoilt(set_nan), "NotFiniteError", "the server gave nan for a log-probability"),
        (spoilt(lambda said: said.update(top_logprobs=None)), "RequestError", "has no choices.0.logprobs.top_logprobs"),
        (spoilt(lambda said: said.update(top_logprobs=[{"token_id:1": -1.0}])), "RequestError", "answer has no "),
        (spoilt(lambda said: said.update(top_logprobs=[{"good": -1.0}])), "RequestError", "name tokens by their ids"),
    ],
)
def test_an_answer_without_numbers_is_a_failed_record_and_never_a_number(tmp_path, model, serve, make, kind, message):
    server = serve(make(model))
    given = config(tmp_path, "spoilt", *at(server, KO_TINY), *SMALL, "run.max_failed_share=1")
    if kind == "NotFiniteError":
        with pytest.raises(ModelError, match=message):
            run(given)
        return
    found = records(run(given).run_dir)
    assert set(found["error_type"]) == {kind}
    assert found["error"].str.contains(message).all()
    assert found["prediction"].isna().all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda request: say("<html>Bad gateway</html>", content_type="text/html"),
            "expected JSON, the answer is text/html",
        ),
        (lambda request: say(""), "expected JSON, the answer is application/json: empty"),
        (cut, "the answer was cut off"),
        (lambda request: failing(500), "status 500"),
        (lambda request: failing(400), r"refuses the request \(400\): failed"),
    ],
)
def test_a_server_that_answers_nonsense_fails_its_records_in_one_line(tmp_path, model, serve, fault, message):
    server = serve(Vllm(model), fault=lambda n, request, body: fault(request) if n > PROBES else None)
    given = config(tmp_path, "odd", *at(server, KO_TINY), *SMALL, "task.limit=2", "run.max_failed_share=1")
    found = records(run(given).run_dir)
    assert found["error"].str.contains(message).all(), found["error"].iloc[0]
    assert not found["error"].str.contains("\n").any()


def test_an_answer_without_end_and_one_nested_without_end_fail_their_records(tmp_path, model, serve, monkeypatch):
    monkeypatch.setattr(body, "MOST_BYTES", 10_000)
    for name, text, message in (
        ("large", '"' + "a" * 20_000 + '"', "more than 10,000 bytes"),
        ("deep", "[" * 9_000, "expected JSON"),
    ):
        server = serve(Vllm(model), fault=lambda n, request, body, text=text: say(text) if n > PROBES else None)
        given = config(tmp_path, name, *at(server, KO_TINY), *SMALL, "task.limit=1", "run.max_failed_share=1")
        assert records(run(given).run_dir)["error"].str.contains(message).all()


def test_a_redirection_to_another_address_does_not_carry_the_key_there(tmp_path, model, serve, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    other = serve(Vllm(model))

    async def redirect(request):
        raise web.HTTPTemporaryRedirect(f"{other.url}{request.path.removeprefix('/v1')}")

    server = serve(Vllm(model), fault=lambda n, request, body: redirect(request))
    run(config(tmp_path, "led", *at(server, KO_TINY), *SMALL, "task.limit=1", "model.api_key_env=TEST_KEY"))
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert other.asked and not any("Authorization" in headers for headers in other.headers)


def test_a_server_that_refuses_for_ever_ends_the_run(tmp_path, model, serve):
    server = serve(Vllm(model), fault=lambda n, request, body: failing(429) if n > PROBES else None)
    with pytest.raises(ServerLostError, match=r"goes on refusing: status 429.*model.requests_per_minute"):
        run(config(tmp_path, "busy", *at(server, KO_TINY), *SMALL))
    hours = {"Retry-After": "3600"}
    patient = serve(Vllm(model), fault=lambda n, request, body: failing(429, **hours) if n > PROBES else None)
    with pytest.raises(ServerLostError, match="asks to wait 3600 s"):
        run(config(tmp_path, "hours", *at(patient, KO_TINY), *SMALL))


def test_a_key_that_is_refused_in_the_middle_ends_the_run(tmp_path, model, serve):
    server = serve(Vllm(model), fault=lambda n, request, body: failing(401) if n > 30 else None)
    with pytest.raises(ServerLostError, match=r"asks for a key \(401\)"):
        run(config(tmp_path, "key", *at(server, KO_TINY), *SMALL))


def refused(tmp_path, *overrides):
    name = f"refused-{len(list(tmp_path.iterdir()))}"
    with pytest.raises(ModelError) as raised:
        run(config(tmp_path, name, *SMALL, *overrides))
    return str(raised.value)


def test_what_is_wrong_with_an_address_is_said_before_the_run(tmp_path, model, serve):
    server = serve(Vllm(model))
    nobody = [f"model.path={KO_TINY}", "model.engine=server", "model.base_url=http://127.0.0.1:9/v1"]
    assert "nobody answers" in refused(tmp_path, *nobody)
    assert "model.base_url is not set" in refused(tmp_path, *nobody[:2])
    assert "expected such as http://" in refused(tmp_path, *nobody[:2], "model.base_url=localhost:8000")
    assert "set model.engine=server" in refused(tmp_path, nobody[0], nobody[2])
    assert "did you mean 'tiny'?" in refused(tmp_path, *at(server, KO_TINY, "tny"))
    assert "lower grid.k" in refused(tmp_path, *at(serve(short(model)), KO_TINY))
    secret = refused(tmp_path, *nobody[:2], f"model.base_url=http://127.0.0.1:{server.port}/nothing/v1")
    assert "gives no log-probabilities" in secret
    tls = [*nobody[:2], f"model.base_url=https://127.0.0.1:{server.port}/v1"]
    assert "a server without TLS has an address with http://" in refused(tmp_path, *tls)
    pages = serve(Vllm(model), fault=lambda n, request, body: say("<html>", content_type="text/html"))
    for way in ("likelihood", "generate"):
        told = refused(tmp_path, *at(pages, KO_TINY), f"scoring={way}")
        assert "the answer is text/html" in told
        assert "expected a server of models there" in told


def short(model):
    class Short(Vllm):
        def __call__(self, method, path, body):
            found = super().__call__(method, path, body)
            if path == "/v1/models":
                found["data"][0]["max_model_len"] = 10
            return found

    return Short(model)


def test_a_tokenizer_of_another_model_is_refused(tmp_path, model, serve, chatty, monkeypatch):
    class Other(Vllm):
        def complete(self, body):
            found = super().complete(body)
            found["usage"]["prompt_tokens"] += 7 if isinstance(body["prompt"], str) else 0
            return found

    assert "give the served model's own tokenizer" in refused(tmp_path, *at(serve(Other(model)), KO_TINY))


def test_the_key_stays_in_the_environment(tmp_path, model, serve, monkeypatch, caplog):
    chat = Chat(model)

    def answer(method, path, body):
        if server.headers[-1].get("Authorization") != f"Bearer {KEY}":
            raise Refusal(401, {"error": {"message": f"Incorrect API key provided: {server.headers[-1]}"}})
        return chat(method, path, body)

    server = serve(answer)
    given = [*at(server, KO_TINY), "scoring=generate", "task.limit=2", "model.api_key_env=TEST_KEY"]
    assert "TEST_KEY, which is not set" in refused(tmp_path, *given)
    monkeypatch.setenv("TEST_KEY", f"{KEY}-wrong")
    assert "refuses the key (401)" in (told := refused(tmp_path, *given))
    assert KEY not in told
    monkeypatch.setenv("TEST_KEY", KEY)
    server.fault = lambda n, request, body: failing(500) if n > 5 else None
    found = run(config(tmp_path, "secret", *SMALL, *given, "run.max_failed_share=1"))
    files = [path for path in (tmp_path / "secret").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in caplog.text
    assert "***" in records(found.run_dir)["error"].iloc[0]


def test_money_ends_before_more_than_there_is_is_spent(tmp_path, model, serve, expected):
    server = serve(Vllm(model))
    prices = ["model.input_price=5000", "model.output_price=5000", "cluster.shard_size=2", "model.concurrency=1"]
    given = [*at(server, KO_TINY), *SMALL, *prices]
    with pytest.raises(
        BudgetError, match=r"model.max_cost is 4: 3\.\d+ are spent, .* raise model.max_cost.* records are missing"
    ):
        run(config(tmp_path, "money", *given, "model.max_cost=4"))
    asked = len(server.asked)
    with pytest.raises(BudgetError, match=r"model.max_cost is 4"):
        run(config(tmp_path, "money", *given, "model.max_cost=4"))
    assert len(server.asked) - asked < asked, "what was paid before counts"
    assert_equal(records(run(config(tmp_path, "money", *given, "model.max_cost=100")).run_dir), expected)


def test_a_budget_holds_back_what_requests_under_way_may_cost():
    budget = Budget(1.0, 2.0, limit=10.0, before=4.0)
    first = budget.reserve(2_000_000, 1_000_000)
    assert first == 4.0
    with pytest.raises(BudgetError):
        budget.reserve(3_000_000, 0)
    budget.settle(first, 1.0)
    budget.reserve(3_000_000, 0)


@pytest.mark.parametrize("change", ["version", "weights", "way"])
def test_another_server_in_the_same_place_is_refused(tmp_path, model, serve, change):
    server = serve(Vllm(model), fault=lambda n, request, body: failing(401) if n > 30 else None)
    given = config(tmp_path, "changed", *at(server, KO_TINY), *SMALL)
    with pytest.raises(ServerLostError):
        run(given)
    server.fault = None
    if change == "weights":

        class Other(Vllm):
            def logprobs(self, tokens, rows, begin, body):
                return super().logprobs(tokens, rows * 1.1, begin, body)

        server.answer = Other(model)
    else:
        settings = {"version": "0.34.0"} if change == "version" else {"without": ("logprob_token_ids",)}
        server.answer = Vllm(model, **settings)
    words = {"version": "whose version was '0.33.0'", "weights": "nats on the same text", "way": "scoring="}
    with pytest.raises(RunDirError, match=words[change]):
        run(given)


def test_rates_spread_requests_evenly():
    now = [0.0]
    rate = Rate(60, lambda: now[0])

    async def take():
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        whole, asyncio.sleep = asyncio.sleep, sleep
        try:
            for amount in (1, 1, 2, 1):
                await rate.take(amount)
        finally:
            asyncio.sleep = whole
        return slept

    assert asyncio.run(take()) == [0.0, 1.0, 2.0, 4.0]


@pytest.mark.slow
def test_64_requests_at_a_time_are_50_times_as_fast_as_one_by_one():
    """Against a server that takes 200 ms, in a process of its own."""
    command = [sys.executable, "-m", "tests.servers.canned", "0.2"]
    server = subprocess.Popen(
        command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        url = server.stdout.readline().strip()
        entry = ModelEntry("canned", base_url=url, served_name="canned", engine="server")
        models = {
            at_once: ENGINE.open(dataclasses.replace(entry, path=str(KO_TINY), concurrency=at_once), OpenSettings())
            for at_once in (1, 64)
        }
        alone_s = score_s(models[1], 8)
        # Other work of this machine only ever makes it slower.
        together_s = [score_s(models[64], 64 * 12) for _ in range(4)]
    finally:
        server.stdin.close()
        server.wait(10)
    assert alone_s / min(together_s) >= 50, (alone_s, together_s)


def score_s(model, n):
    """Seconds per prompt."""
    prompts = [Probe(str(i), [5, 6, i], [[7], [8]], family=f"{n} {i} {time.monotonic()}") for i in range(n)]
    began = time.monotonic()
    model.score(prompts)
    return (time.monotonic() - began) / n
