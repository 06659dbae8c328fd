"""Whatever a server answers: numbers that are what they should be, or one line; never a wrong number."""

import asyncio
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.core.errors import EngineError, ModelError, RequestError
from harness.engine.protocol import GENERATE, LIKELIHOOD, Ending
from harness.engine.server import engine
from harness.engine.server.body import BodyError, parsed, reason_of, seconds_of
from harness.engine.server.by_node import NamedTokens, NativeGenerate, TopOfAll
from harness.engine.server.by_sequence import Echo, PromptLogprobs
from harness.engine.server.by_text import ChatTop, CompletionTop
from harness.engine.server.dialogue import Dialogue
from harness.engine.server.facts import ServerFacts
from harness.engine.server.limits import Budget
from harness.engine.server.probe import Found, Probe, probe
from harness.engine.server.usage import usage_of
from harness.engine.server.writing import Chats, Completions
from tests.fuzz.inputs import VALUES, changed, damaged, one_line_at_most, share

IDS, LABELS = [5, 6, 7], ((8, 9), (10,))
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}


class Tokenizer:
    """Ids and texts, one letter each."""

    chat_template = None

    def __call__(self, text, add_special_tokens=True):
        assert isinstance(text, str), "an answer that is no text"
        return {"input_ids": [ord(letter) % 1000 for letter in text if letter != " "]}

    def __len__(self):
        return 1000

    def decode(self, ids):
        assert all(isinstance(one, int) and -1 <= one < 2**31 for one in ids), ids
        return "".join(chr(96 + one % 26) for one in ids)


class Told:
    """A client whose server answers what was drawn."""

    address, root = "http://h/v1", "http://h"
    answered = computed = 0
    last_usage = None
    budget = Budget(0.0, 0.0, None)
    patience = None

    def __init__(self, answer):
        self._answer = answer

    async def post(self, url, body, input_tokens, output_tokens):
        usage_of(self._answer)
        return self._answer

    async def get(self, url):
        return self._answer

    def shown(self, text):
        return text

    def run(self, work):
        return asyncio.run(work)


def named(key, values):
    return {"choices": [{"text": "", "logprobs": {"tokens": ["token_id:8"], key: values}}], "usage": USAGE}


def top_of(*tokens):
    return {"token": "h", "top_logprobs": [{"token": t, "logprob": -1.0} for t in tokens]}


TOP = {"token_id:8": -1.0, "token_id:9": -2.0, "token_id:10": -3.0}
PLACES = [None, *({str(token): {"logprob": -1.0}} for token in (6, 7, 8, 9))]
ECHO = {"tokens": list("abcdef"), "token_logprobs": [None, *[-1.0] * 5], "top_logprobs": [None, *[{"a": -1.0}] * 5]}
WAYS = {
    NamedTokens: named("top_logprobs", [TOP]),
    NativeGenerate: {
        "meta_info": {
            "prompt_tokens": 3,
            "output_token_ids_logprobs": [[[-1.0, 8, None], [-2.0, 9, None], [-3.0, 10, None]]],
            "output_token_logprobs": [[-1.0, 8, None]],
        }
    },
    TopOfAll: {
        "tokens_evaluated": 3,
        "timings": {"cache_n": 1},
        "completion_probabilities": [{"top_logprobs": [{"id": n, "logprob": -1.0} for n in (8, 9, 10)]}],
    },
    PromptLogprobs: {"choices": [{"prompt_logprobs": PLACES}], "usage": USAGE},
    Echo: {"choices": [{"logprobs": ECHO}], "usage": USAGE},
    CompletionTop: named("top_logprobs", [{"h": -1.0, "j": -2.0, "z": -9999.0}]),
    ChatTop: {"choices": [{"logprobs": {"content": [top_of("h", "j")]}}], "usage": USAGE},
}
CHAT = {"choices": [{"message": {"content": "예"}, "finish_reason": "stop", "stop_reason": None}], "usage": USAGE}
WRITTEN = {"choices": [{"text": "예", "finish_reason": "length", "stop_reason": "\n"}], "usage": USAGE}


def asked(answer, way, prompt):
    dialogue = Dialogue(Told(answer), "m", Tokenizer(), True)
    made = way(dialogue, 5) if way in (CompletionTop, ChatTop) else way(dialogue)
    found = Found({False: made}, {False: made}, {}, (), ())
    model = engine.ServerModel(dialogue, found)
    if way in (Chats, Completions):
        return model.generate([prompt], Ending(4, frozenset(), (), lambda tokens: False))
    return model.score([prompt])


SOUND = list(WAYS.items())


@pytest.mark.parametrize(("way", "answer"), SOUND, ids=[way.__name__ for way in WAYS])
def test_sound_answers_are_read(way, answer):
    labels = LABELS if way is NamedTokens else ((8,), (10,))
    labels = ((8, 9),) if way in (PromptLogprobs, Echo) else labels
    found = asked(answer, way, Probe("abc", IDS, labels))
    assert math.isfinite(found.logprobs.sum()) and 0 <= found.off_label_mass[0] <= 1


@share("server scores")
@given(
    st.sampled_from(SOUND).flatmap(lambda one: st.tuples(st.just(one[0]), changed(one[1]) | VALUES)),
    st.sampled_from([LABELS, ((8,), (10,)), ((8, 9),)]),
)
@example((CompletionTop, named("top_logprobs", [{"h": -9999.0, "j": -1.0}])), ((8,), (10,)))
@example((CompletionTop, named("top_logprobs", 1.0)), ((8,), (10,)))
@example((NamedTokens, named("top_logprobs", [{**TOP, "token_id:\u00b2": -1.0}])), LABELS)
@example((TopOfAll, {"completion_probabilities": [{"top_logprobs": [{"id": 8.5, "logprob": -1.0}]}]}), ((8,),))
@example((NativeGenerate, {"meta_info": {"output_token_logprobs": [[0, -1]]}}), ((8,),))
def test_scores(pair, labels):
    way, answer = pair
    with one_line_at_most(EngineError):
        found = asked(answer, way, Probe("abc", IDS, labels))
        assert found.logprobs.shape == (1, len(labels))
        assert all(math.isfinite(x) for x in found.logprobs.ravel())
        assert math.isfinite(found.off_label_mass[0]) and isinstance(found.tokens_computed, int)


@share("server writes")
@given(
    st.sampled_from([(Chats, CHAT), (Completions, WRITTEN)]).flatmap(
        lambda one: st.tuples(st.just(one[0]), changed(one[1]) | VALUES)
    ),
    st.sampled_from([LIKELIHOOD, GENERATE]),
)
@example((Chats, {"choices": [{"message": {"content": ["a", "b"]}}]}), GENERATE)
@example((Chats, {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1, **{"x": 1}}}), GENERATE)
@example((Chats, CHAT | {"data": 7, "usage": {"prompt_tokens": 5, "prompt_tokens_details": "none"}}), LIKELIHOOD)
def test_writing_and_probes(pair, method):
    way, answer = pair
    with one_line_at_most(EngineError):
        found = asked(answer, way, Probe("abc", IDS, ()))
        assert found.reasons[0] in ("end", "stop", "length")
    with one_line_at_most(ModelError):
        said = asyncio.run(probe(Dialogue(Told(answer), "m", Tokenizer(), True), method, 3))
        assert all(isinstance(text, str) for text in said.said.values())
    facts = answer if isinstance(answer, dict) else {"probe": answer, "said": answer}
    ServerFacts("server", "server", said={"version": "1"}, probe=(-1.0,)).change_since(facts)


@share("server bodies")
@given(damaged(json.dumps(CHAT).encode()) | st.binary(max_size=50), st.text(max_size=30))
@example(b"[" * 100_000, "inf")
@example(b'{"a": "\\ud83d\\ude00 \\ud800"}', "Mon, 01 Jan 0001 00:00:00 -0000")
def test_bodies_and_headers(content, header):
    text = content.decode("utf-8", "replace")
    with one_line_at_most(BodyError):
        json.dumps(parsed(text), ensure_ascii=False).encode()
    assert isinstance(reason_of(text), str)
    assert (seconds_of(header) or 0.0) >= 0.0


@pytest.mark.parametrize("short", ["token_logprobs", "top_logprobs"])
def test_fewer_log_probabilities_than_tokens_are_no_smaller_sum(short):
    answer = {"choices": [{"logprobs": {**ECHO, short: ECHO[short][:-2]}}], "usage": USAGE}
    with pytest.raises(RequestError, match="expected 6"):
        asked(answer, Echo, Probe("abc", IDS, ((8, 9),)))


def test_a_label_that_a_server_calls_unlikely_beyond_numbers_has_its_log_probability():
    answer = named("top_logprobs", [{"h": -9999.0, "j": -1e-3}])
    assert asked(answer, CompletionTop, Probe("abc", IDS, ((8,), (10,)))).logprobs.tolist() == [[-9999.0, -1e-3]]


def test_a_gateway_that_forbids_other_addresses_is_no_refusal_of_the_key():
    class Gateway(Told):
        async def get(self, url):
            if not url.startswith(self.address):
                raise ModelError(f"{self.address} refuses the key (403)")
            return {"data": [{"id": "m"}]}

        async def post(self, url, body, input_tokens, output_tokens):
            if not url.endswith("/chat/completions"):
                raise ModelError(f"{self.address} refuses the key (403)")
            self.answered = 1
            return WAYS[ChatTop] | CHAT | {"choices": [{**CHAT["choices"][0], **WAYS[ChatTop]["choices"][0]}]}

    for method in (LIKELIHOOD, GENERATE):
        found = asyncio.run(probe(Dialogue(Gateway(None), "m", Tokenizer(), True), method, 3))
        assert {type(way) for way in (found.scoring or found.writing).values()} <= {ChatTop, Chats}


def test_a_key_that_is_refused_everywhere_is_told_as_that():
    class Closed(Told):
        async def post(self, url, body, input_tokens, output_tokens):
            raise ModelError(f"{self.address} refuses the key (401)")

    for method in (LIKELIHOOD, GENERATE):
        with pytest.raises(ModelError, match=r"refuses the key \(401\)"):
            asyncio.run(probe(Dialogue(Closed({}), "m", Tokenizer(), True), method, 3))
