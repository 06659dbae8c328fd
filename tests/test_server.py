"""The engine `server` against loopback servers over the embedded model: it says what the local engine says."""

from __future__ import annotations

import numpy as np
import pytest

from harness import run
from harness.core.errors import ModelError
from harness.results.store import RunStore
from tests.conftest import KO_TINY
from tests.servers.chat import Chat
from tests.servers.llama_cpp import LlamaCpp
from tests.servers.running import CHAT, SMALL, assert_equal, at, chatty, config, model, records, serve  # noqa: F401
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm


@pytest.fixture(scope="module")
def local(tmp_path_factory, chatty):
    """Records of the local engine: labels, labels of chats, answers."""
    out = tmp_path_factory.mktemp("local")
    path = f"model.path={chatty}"
    grids = {"plain": SMALL, "chat": CHAT, "written": [*SMALL, "scoring=generate"]}
    return {name: records(run(config(out, name, path, *grid)).run_dir) for name, grid in grids.items()}


DIALECTS = {
    "logprob_token_ids": (Vllm, {}),
    "prompt_logprobs": (Vllm, {"without": ("logprob_token_ids",)}),
    "echo": (Vllm, {"without": ("logprob_token_ids", "prompt_logprobs")}),
    "token_ids_logprob": (Sglang, {}),
    "n_probs": (LlamaCpp, {"name": "tiny"}),
}


@pytest.mark.parametrize("way", DIALECTS)
def test_records_are_those_of_the_local_engine(tmp_path, model, chatty, serve, local, way):
    dialect, settings = DIALECTS[way]
    server = serve(dialect(model, **settings))
    found = run(config(tmp_path, way, *at(server, chatty), *SMALL))
    assert_equal(records(found.run_dir), local["plain"])
    facts = RunStore(found.run_dir).read_json("manifest.json")["engines"][str(chatty)]
    assert (facts["scoring"], facts["sends"]) == (way, "ids")
    prompts = [body.get("prompt") or body.get("input_ids") for _, body in server.asked[-20:]]
    assert all(isinstance(prompt, list) for prompt in prompts), "token ids are sent, not text"


@pytest.mark.parametrize("way", DIALECTS)
def test_chats_are_scored_alike(tmp_path, model, chatty, serve, local, way):
    dialect, settings = DIALECTS[way]
    server = serve(dialect(model, **settings))
    assert_equal(records(run(config(tmp_path, way, *at(server, chatty), *CHAT)).run_dir), local["chat"])


@pytest.mark.parametrize("way", DIALECTS)
def test_answers_are_those_of_the_local_engine(tmp_path, model, chatty, serve, local, way):
    dialect, settings = DIALECTS[way]
    server = serve(dialect(model, **settings))
    found = records(run(config(tmp_path, way, *at(server, chatty), *SMALL, "scoring=generate")).run_dir)
    assert found["error"].isna().all()
    assert found["prediction"].equals(local["written"]["prediction"])
    assert found["raw_answer"].equals(local["written"]["raw_answer"])


def test_a_chat_api_scores_labels_by_the_likeliest_first_tokens(tmp_path, model, chatty, serve, local):
    server = serve(Chat(model))
    found = records(run(config(tmp_path, "chat", *at(server, chatty), *CHAT, "run.max_failed_share=1")).run_dir)
    scored, expected = found["error"].isna(), local["chat"]
    assert scored.sum() >= 4, found["error"][0]
    assert found[scored]["prediction"].equals(expected[scored]["prediction"])
    assert set(found[~scored]["error_type"]) <= {"NotAmongError"}
    one_token = expected["label_token_counts"].map(lambda counts: set(counts) == {1})
    for place in np.flatnonzero(scored & one_token):
        assert np.allclose(found["label_logprobs"][place], expected["label_logprobs"][place], atol=1e-4)


def test_a_chat_api_without_log_probabilities_writes(tmp_path, model, chatty, serve):
    server = serve(Chat(model, names_tokens=False))
    with pytest.raises(ModelError, match=r"gives no log-probabilities of 'tiny'.* set scoring.method=generate"):
        run(config(tmp_path, "refused", *at(server, chatty), *CHAT))
    expected = records(run(config(tmp_path, "local", f"model.path={chatty}", *CHAT, "scoring=generate")).run_dir)
    found = records(run(config(tmp_path, "chat", *at(server, chatty), *CHAT, "scoring=generate")).run_dir)
    assert found["prediction"].equals(expected["prediction"])
    assert found["raw_answer"].equals(expected["raw_answer"])


def test_without_a_tokenizer_texts_are_sent_and_echoed_labels_still_count(tmp_path, model, serve, local):
    server = serve(Vllm(model, without=("logprob_token_ids", "prompt_logprobs")))
    unlimited = "demos.max_tokens=null"
    overrides = ["model.engine=server", "model.path=tiny", f"model.base_url={server.url}", *SMALL, unlimited]
    prepared = run(config(tmp_path, "text", *overrides))
    expected = records(run(config(tmp_path, "local", f"model.path={KO_TINY}", *SMALL, unlimited)).run_dir)
    found = records(prepared.run_dir)
    assert found["error"].isna().all()
    assert found["prediction"].equals(expected["prediction"])
    logprobs = [np.stack(part["label_logprobs"]) for part in (found, expected)]
    assert np.abs(logprobs[0] - logprobs[1]).max() < 1e-4
    assert found["argmax_text"].equals(expected["argmax_text"])
    assert all(isinstance(body["prompt"], str) for path, body in server.asked if path == "/v1/completions")
    facts = RunStore(prepared.run_dir).read_json("manifest.json")["engines"]["tiny"]
    assert facts["sends"] == "text"
    assert "its tokenizer is not known" in facts["remarks"][0]


def test_without_a_tokenizer_chats_are_sent_as_messages(tmp_path, model, chatty, serve):
    server = serve(Chat(model))
    overrides = ["model.engine=server", "model.path=tiny", f"model.base_url={server.url}", "demos.max_tokens=null"]
    found = records(run(config(tmp_path, "chat", *overrides, *CHAT, "scoring=generate")).run_dir)
    expected = records(
        run(
            config(tmp_path, "local", f"model.path={chatty}", *CHAT, "scoring=generate", "demos.max_tokens=null")
        ).run_dir
    )
    assert found["error"].isna().all()
    assert [a[:2] for a in found["raw_answer"]] == [a[:2] for a in expected["raw_answer"]]
    messages = max((body["messages"] for path, body in server.asked if "chat" in path), key=len)
    assert [one["role"] for one in messages] == ["user", "assistant"] * 4 + ["user"]


def plan_of(tmp_path, capsys, *overrides):
    from rich.console import Console

    from harness.planning.report import make_report
    from harness.reporting.plans import write_plan

    report = make_report(config(tmp_path, "plan", *SMALL, *overrides))
    write_plan(Console(width=200), report)
    return report, capsys.readouterr().out


def test_a_plan_says_what_will_be_asked_and_paid_without_a_server(tmp_path, capsys):
    nobody = ["model.engine=server", "model.base_url=http://127.0.0.1:9/v1"]
    prices = ["model.input_price=2", "model.output_price=8", "model.max_cost=0.00001"]
    report, text = plan_of(tmp_path, capsys, f"model.path={KO_TINY}", *nobody, *prices)
    (expense,) = report.expenses
    assert expense.requests == (32, 64)
    assert expense.input_tokens[0] == report.tokens_one_pass
    assert expense.cost[0] == pytest.approx((report.tokens_one_pass * 2 + 32 * 8) / 1e6)
    assert "32 to 64, tokens sent" in text
    assert "it will not do" in text
    _, text = plan_of(tmp_path, capsys, "model.path=tiny", "demos.max_tokens=null", *nobody)
    assert "its tokenizer is not known" in text
    assert "no prices are set" in text
    report, _ = plan_of(tmp_path, capsys, f"model.path={KO_TINY}", *nobody, "scoring=generate")
    assert report.expenses[0].requests == (32, 32)
    assert report.expenses[0].output_tokens == (0, 32)


def test_an_audit_holds_two_engines_against_each_other(tmp_path, model, chatty, serve, capsys):
    from rich.console import Console

    from harness.core.errors import ConfigError
    from harness.reporting.audit import write_duel
    from harness.running.duel import duel

    class Off(Vllm):
        def logprobs(self, tokens, rows, begin, body):
            return super().logprobs(tokens, rows * 1.01, begin, body)

    own = config(tmp_path, "own", f"model.path={chatty}", *SMALL)
    same, off = (config(tmp_path, "own", *at(serve(kind(model)), chatty), *SMALL) for kind in (Vllm, Off))
    found = duel(own, same, 4)
    assert (found.n_samples, list(found.templates)) == (4, ["lecture_1", "good_bad"])
    assert all(one.largest < 1e-4 and one.flips == 0 and one.prompts == 8 for one in found.templates.values())
    assert (found.first.engine, found.second.engine) == ("local", "server")
    far = duel(own, off, 4).templates["lecture_1"]
    assert 0.005 < far.largest < 1
    write_duel(Console(width=160), found, "table")
    text = capsys.readouterr().out
    assert f"{chatty} by server; against {chatty} by local" in text
    assert "near ties" in text
    with pytest.raises(ConfigError, match="expected keys of model alone"):
        duel(own, config(tmp_path, "own", *at(serve(Vllm(model)), chatty), "task.limit=3"), 4)
    unknown = ["model.engine=server", "model.path=tiny", "model.base_url=http://127.0.0.1:9/v1"]
    with pytest.raises(ConfigError, match=r"set demos\.max_tokens=null"):
        duel(own, config(tmp_path, "own", *unknown, *SMALL), 4)


def test_the_command_line_takes_the_other_engine_in_one_word(tmp_path, model, serve):
    from typer.testing import CliRunner

    from harness.cli import app

    server = serve(Vllm(model))
    against = ",".join([*at(server, KO_TINY), "model.concurrency=3"])
    words = ["audit", "configs/demo.yaml", "--samples", "2", "--format", "json", "--against", against]
    done = CliRunner().invoke(app, [*words, f"out={tmp_path}", "cluster.address=inline", *SMALL])
    assert done.exit_code == 0, done.output
    assert '"engine": "server"' in done.output


def test_prompts_with_fewer_labels_than_others_ask_for_theirs_alone(model, serve):
    from harness.config.schema import ModelEntry
    from harness.engine.protocol import OpenSettings
    from harness.engine.registry import find_engine
    from tests.servers.probing import prompt_of

    server = serve(Vllm(model))
    entry = ModelEntry(str(KO_TINY), base_url=server.url, served_name="tiny", engine="server")
    opened = find_engine("server").open(entry, OpenSettings())
    asked = len(server.asked)
    labels = [[7], [8, 9], [7]], [[7], [8], [9]]
    found = opened.score([prompt_of([5, 6], row, family=str(i)) for i, row in enumerate(labels)])
    rows = model.logprobs([5, 6, 8])
    first, second = rows[1][[7, 8, 9]], rows[2][9]
    assert found.logprobs == pytest.approx(np.array([[first[0], first[1] + second, first[0]], first]), abs=1e-4)
    assert len(server.asked) - asked == 3
    assert sorted(len(body["logprob_token_ids"]) for _, body in server.asked[asked:]) == [1, 2, 3]


def test_requests_go_out_in_the_order_of_their_prefixes(model, serve):
    """So that a server's cache has what prompts begin with, whatever order they come in."""
    from harness.config.schema import ModelEntry
    from harness.engine.protocol import OpenSettings
    from harness.engine.registry import find_engine
    from tests.servers.probing import prompt_of

    server = serve(Vllm(model))
    entry = ModelEntry(str(KO_TINY), base_url=server.url, served_name="tiny", engine="server", concurrency=1)
    opened = find_engine("server").open(entry, OpenSettings())
    asked, told = len(server.asked), []
    opened.watch(told.append)
    prompts = [[5, 6, 9], [8], [5, 6], [7, 1], [5, 6, 7, 8], [5]]
    found = opened.score([prompt_of(ids, [[7], [8]], family=str(i)) for i, ids in enumerate(prompts)])
    assert [body["prompt"] for _, body in server.asked[asked:]] == sorted(prompts)
    expected = [[model.logprobs(ids)[-1][label] for label in (7, 8)] for ids in prompts]
    assert found.logprobs == pytest.approx(np.array(expected), abs=1e-4), "answers come back in their own order"
    assert told == [1] * len(prompts), "each is told of as it comes"
