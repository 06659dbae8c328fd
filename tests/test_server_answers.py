"""Servers that answer a part of the prompt, give a part of an answer, or go by settings of their own."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harness.analysis.choices import ChoicesOfRun
from harness.config.schema import ModelEntry
from harness.core.errors import ConfigError, ModelError, RequestError
from harness.engine.protocol import GENERATE, LIKELIHOOD, Ending, OpenSettings
from harness.engine.server import probe as probing
from harness.engine.server.by_sequence import Echo
from harness.engine.server.by_text import ChatTop
from harness.engine.server.characters import character_tokenizer
from harness.engine.server.dialogue import CUT_OFF, PENALTIES_OFF, check_whole
from harness.engine.server.engine import ENGINE
from harness.prompts.choices import SCORES
from harness.prompts.templates import read_templates
from harness.running.asking import check_scores
from tests.conftest import KO_TINY
from tests.servers.chat import Chat
from tests.servers.llama_cpp import LlamaCpp
from tests.servers.loopback import Refusal
from tests.servers.probing import prompt_of
from tests.servers.running import chatty, model, serve  # noqa: F401
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

CONTEXT = 100
"""Tokens to which the servers below cut what is longer; their probes are shorter."""
LABELS = [[5], [6]]


def opened(server, folder=KO_TINY, method=LIKELIHOOD, name="tiny"):
    entry = ModelEntry(str(folder), "tiny", engine="server", base_url=server.url, served_name=name, timeout_s=20)
    return ENGINE.open(entry, OpenSettings(method=method))


def cutting(answer):
    """A dialect whose server keeps the last tokens of a prompt that is too long, and says nothing."""

    def cut(method, path, body):
        for key in ("prompt", "input_ids"):
            if body and isinstance(body.get(key), list):
                body = {**body, key: body[key][-CONTEXT:]}
        return answer(method, path, body)

    return cut


@pytest.mark.parametrize("dialect", [Vllm, Sglang, LlamaCpp])
def test_a_server_that_cuts_prompts_gives_no_scores(model, serve, dialect):
    name = "tiny.gguf" if dialect is LlamaCpp else "tiny"
    engine = opened(serve(cutting(dialect(model))), name=name)
    ids = model.ids("좋은 영화였다. " * 2)
    assert engine.score([prompt_of(ids, LABELS)]).logprobs.shape == (1, 2)
    longer = model.ids("좋은 영화였다. " * 40)
    with pytest.raises(RequestError, match=f"counts {CONTEXT} tokens in a prompt of {len(longer)}: it has cut it"):
        engine.score([prompt_of(longer, LABELS)])


def ending(most=4):
    return Ending(most, frozenset(), (), lambda tokens: False)


def test_a_server_that_cuts_prompts_writes_no_answers(model, serve, chatty):
    engine = opened(serve(cutting(Vllm(model))), method=GENERATE)
    ids = model.ids("좋은 영화였다. " * 40)
    with pytest.raises(RequestError, match="it has cut it"):
        engine.generate([prompt_of(ids, [], text="x")], ending())
    chat = Chat(model)

    def cut(method, path, body):
        """As by a window of messages: the server renders the end of what it gets."""
        if body and "messages" in body:
            short = [{**one, "content": one["content"][-200:]} for one in body["messages"]]
            body = {**body, "messages": short}
        return chat(method, path, body)

    engine = opened(serve(cut), chatty, GENERATE)
    messages = [{"role": "user", "content": "좋은 영화였다. " * 40}]
    with pytest.raises(RequestError, match="it has cut it"):
        engine.generate([prompt_of([1], [], text="x", messages=messages)], ending())


def test_llama_cpp_says_itself_that_it_cuts():
    with pytest.raises(RequestError, match=r"it has cut the prompt \(truncated\)"):
        check_whole({"content": "", "truncated": True, "tokens_evaluated": 4}, 0)
    check_whole({"content": "", "truncated": False, "tokens_evaluated": 4}, 4)
    check_whole([], 4)


@pytest.mark.parametrize("reason", sorted(CUT_OFF))
def test_an_answer_that_the_server_ended_itself_is_no_answer(model, serve, chatty, reason):
    chat, asked = Chat(model), []

    def answer(method, path, body):
        found = chat(method, path, body)
        if body and any("금지" in one["content"] for one in body["messages"]):
            asked.append(body)
            found["choices"][0] |= {"finish_reason": reason, "message": {"role": "assistant", "content": None}}
        return found

    engine = opened(serve(answer), chatty, GENERATE)
    said = [prompt_of([1], [], "x", [{"role": "user", "content": text}], text) for text in ("좋다", "금지된 말")]
    assert engine.generate(said[:1], ending()).reasons == ["length"]
    with pytest.raises(RequestError, match=f"the server ended the answer with '{reason}'"):
        engine.generate(said[1:], ending())
    assert asked


class Penalising:
    """A server that applies the model's own penalty unless it is told not to; `refuses` does not know the parameter."""

    def __init__(self, answer, refuses=()):
        self.answer, self.refuses, self.own = answer, refuses, 0

    def __call__(self, method, path, body):
        if body and self.refuses & body.keys():
            raise Refusal(400, {"error": {"message": "Unrecognized request argument supplied: repetition_penalty"}})
        if path.endswith("completions") and body.get("repetition_penalty") != 1.0:
            self.own += 1
        return self.answer(method, path, body)


@pytest.mark.parametrize(("dialect", "method"), [(Vllm, LIKELIHOOD), (Vllm, GENERATE), (Chat, GENERATE)])
def test_penalties_that_a_model_suggests_are_switched_off(model, serve, chatty, dialect, method):
    server = Penalising(dialect(model), refuses=set())
    engine = opened(serve(server), chatty, method)
    messages = [{"role": "user", "content": "좋다"}]
    if method == GENERATE:
        engine.generate([prompt_of(model.ids("좋다"), [], "좋다", messages)], ending())
    else:
        engine.score([prompt_of(model.ids("좋다"), LABELS)])
    assert server.own == 0 and probing.UNSET not in engine.facts.notices


@pytest.mark.parametrize("dialect", [Vllm, Chat])
def test_a_server_that_knows_no_such_setting_is_asked_without_it_and_named(model, serve, chatty, dialect):
    server = Penalising(dialect(model), refuses=PENALTIES_OFF.keys())
    engine = opened(serve(server), chatty, GENERATE)
    found = engine.generate([prompt_of(model.ids("좋다"), [], "좋다", [{"role": "user", "content": "좋다"}])], ending())
    assert found.reasons == ["length"] and probing.UNSET in engine.facts.notices


def test_without_a_tokenizer_counts_of_characters_refuse_nothing(model, serve):
    server = serve(Vllm(model))
    entry = ModelEntry("tiny", "tiny", engine="server", base_url=server.url)
    engine = ENGINE.open(entry, OpenSettings())
    labels = character_tokenizer()([" good", " bad"])["input_ids"]
    prompt = prompt_of([65] * 500, labels, text="좋은 영화였다.")
    assert engine.score([prompt]).logprobs.shape == (1, 2)


def cloze(tmp_path, score):
    file = tmp_path / "t.yaml"
    file.write_text(
        f'cloze: {{query: "{{q}}\\n답:", choices: {{label: " {{choice}}", score: {score}}}}}', encoding="utf-8"
    )
    return read_templates(file, ["1", "2"], choices=True)


@pytest.mark.parametrize(
    ("dialect", "path", "unknown"),
    [
        (Vllm, None, ()),
        (Vllm, "tiny", ("per_token",)),
        (
            lambda model: Vllm(model, without=("logprob_token_ids", "prompt_logprobs", "echo")),
            "tiny",
            tuple(SCORES)[1:],
        ),
        (Chat, None, tuple(SCORES)[1:]),
    ],
)
def test_choices_are_compared_only_by_what_the_server_says(tmp_path, model, serve, chatty, dialect, path, unknown):
    server = serve(dialect(model))
    entry = ModelEntry(path or str(chatty), "tiny", engine="server", base_url=server.url, served_name="tiny")
    facts = ENGINE.open(entry, OpenSettings()).facts.as_dict()
    assert tuple(facts["cannot_compare_by"]["plain"]) == unknown
    for score in SCORES:
        if score in unknown:
            with pytest.raises(ConfigError, match=f"compares choices {score}, for which the engine of model 'tiny'"):
                check_scores("tiny", facts, cloze(tmp_path, score))
        else:
            check_scores("tiny", facts, cloze(tmp_path, score))


def test_figures_leave_out_accuracies_by_lengths_that_are_not_known(tmp_path):
    wordings = {"cloze": cloze(tmp_path, "sum")["cloze"].choices}
    cell = pd.DataFrame(
        {
            "model": "tiny", "task": "t", "template": "cloze", "k": 0, "seed": 1, "sample_id": ["a"], "gold": [0],
            "prediction": [0], "label_logprobs": [np.array([-1.0, -2.0])], "label_token_counts": [np.array([1, 9])],
        }
    )  # fmt: skip
    choices = {"a": ["가", "나나나나"]}
    found = ChoicesOfRun(choices, wordings, {}, {}).figures(cell)
    assert found["accuracy_sum"] == 1.0 and found["accuracy_per_token"] == 0.0
    found = ChoicesOfRun(choices, wordings, {}, {("tiny", "cloze"): ("per_token",)}).figures(cell)
    assert "accuracy_per_token" not in found and found["accuracy_per_character"] == 0.0


@pytest.mark.parametrize("ends", ["never", "behind the label", "always"])
def test_an_echo_without_counts_loses_no_token_where_the_model_ends(ends):
    """A server without `usage`, whose model may end at once, so that nothing stands behind the text."""
    values = {"물음": -1.0, ":": -2.0, " 예": -3.0, "요": -4.0, " 아니": -5.0}

    async def complete(body, n_tokens, new_tokens=1):
        text, tokens = body["prompt"], []
        while text:
            tokens.append(next(token for token in values if text.startswith(token)))
            text = text[len(tokens[-1]) :]
        is_over = ends == "always" or (ends == "behind the label" and len(tokens) > 2)
        tokens += [] if is_over else ["물음"]
        return {"choices": [{"logprobs": {
            "tokens": tokens, "token_logprobs": [values[token] for token in tokens],
            "top_logprobs": [{token: values[token]} for token in tokens],
        }}]}  # fmt: skip

    tokenizer = character_tokenizer()
    dialogue = SimpleNamespace(complete=complete, tokenizer=tokenizer, known=False)
    labels = tokenizer([" 예요", " 아니"])["input_ids"]
    found = asyncio.run(Echo(dialogue).score(prompt_of([1, 2], labels, "물음:")))
    assert found.logprobs == (-7.0, -5.0)


@pytest.mark.parametrize("labels", [(" good", " bad"), ("good", "bad")])
def test_a_blank_before_a_chat_s_answer_is_no_other_word(labels):
    """The likeliest word is `good`, nearly always without a blank; ` good` is among the likeliest too."""
    top = {"good": np.log(0.7), "bad": np.log(0.2), " good": np.log(0.001), "\n": np.log(0.05)}

    async def chat(body, n_tokens, new_tokens=1):
        named = [{"token": token, "logprob": float(value)} for token, value in top.items()]
        return {"choices": [{"logprobs": {"content": [{"top_logprobs": named}]}}]}

    words = {1: "good", 2: "bad", 3: " good", 4: " bad"}
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(words[token] for token in ids))
    ids = {word: token for token, word in words.items()}
    dialogue = SimpleNamespace(chat=chat, tokenizer=tokenizer, known=True, messages=lambda prompt: [])
    found = asyncio.run(ChatTop(dialogue, 20).score(prompt_of([5], [[ids[label]] for label in labels])))
    assert np.exp(found.logprobs) == pytest.approx([0.701, 0.2])
    assert found.argmax == ids[labels[0]] and found.off_label_mass == pytest.approx(0.099)


@pytest.mark.parametrize("dialect", [Vllm, LlamaCpp])
def test_a_server_whose_tokens_mean_other_words_is_refused_though_it_counts_as_many(model, serve, dialect):
    """Its vocabulary is shuffled: each text has as many tokens, of other ids."""
    name = "tiny.gguf" if dialect is LlamaCpp else "tiny"
    right = dialect(model)
    opened(serve(right), name=name)

    def shuffled(method, path, body):
        found = right(method, path, body)
        return {**found, "tokens": [token ^ 1 for token in found["tokens"]]} if path == "/tokenize" else found

    with pytest.raises(ModelError, match=r"the server reads a text as other tokens .* give the served model's own"):
        opened(serve(shuffled), name=name)
    # A server that does not say its tokens is held to its counts.
    silent = serve(Vllm(model, without=("/tokenize",))) if dialect is Vllm else serve(Sglang(model))
    assert opened(silent).facts.remarks == ()
