"""Prompts begin with one start token, whichever of tokenizer, template and chat template brings it."""

from dataclasses import replace

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from harness.core.task import Sample
from harness.prompts.audit import audit_template
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import FixedDraw
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Chat, Template
from harness.prompts.tokenizing import PromptTokenizer
from tests.test_boundaries import gemma, llama2, llama2_legacy, mistral, with_start
from tests.test_tokenizing import gpt2, training_texts

PLAIN = Template("plain", "문장: {document}\n감정:", (" 부정", " 긍정"), "판단하세요.\n", ("\n", "\n"))
CHAT = Template("chat", "영화평: {document}", ("부정", "긍정"), "", ("\n", "\n"), chat=Chat.TURNS)
SAMPLES = [Sample("s0", {"document": "재미있다"}, 0), Sample("s1", {"document": "별로"}, 1)]


def byte_level():
    tokenizer = gpt2(training_texts()[:300])
    tokenizer.add_special_tokens(["<s>"])
    return with_start(tokenizer)


def two_tokens():
    """As GLM has it: a pair at the start."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<sop>"])
    pair = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "<sop>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> <sop> $A", special_tokens=pair)
    return tokenizer


STYLES = [llama2, llama2_legacy, mistral, gemma, byte_level, two_tokens]


def renderer_of(template, make, chat_template=None):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), bos_token="<s>")
    tokenizer.chat_template = chat_template
    pool = Pool((Sample("d0", {"document": "지루"}, 0), Sample("d1", {"document": "최고"}, 1)), 2, "document")
    return Renderer(template, PoolDraw(pool, FixedDraw()), 2, PromptTokenizer(tokenizer))


def starts(prompts, bos):
    return [sum(token in bos for token in prompt.ids[: 2 * len(bos)]) for prompt in prompts]


@pytest.mark.parametrize("make", STYLES, ids=lambda f: f.__name__)
def test_a_template_that_writes_the_start_gets_no_second(make):
    plain = renderer_of(PLAIN, make)
    bos = plain.tokenizer.bos
    written = "".join(map(plain.tokenizer.decode_token, bos))
    expected = plain.prompts(SAMPLES, 1, [0, 2])
    assert starts(expected, bos) == [len(bos)] * 4
    spelt = renderer_of(replace(PLAIN, prefix=written + PLAIN.prefix), make)
    found = spelt.prompts(SAMPLES, 1, [0, 2])
    assert starts(found, bos) == [len(bos)] * 4
    for prompt in found:
        assert prompt.ids == spelt.tokenizer.whole(prompt.text)
    in_query = renderer_of(replace(PLAIN, prefix="", query=f"{written}{{document}}:"), make).prompts(SAMPLES, 1, [0])
    assert starts(in_query, bos) == [len(bos)] * 2


@pytest.mark.parametrize("make", STYLES, ids=lambda f: f.__name__)
def test_the_plan_says_what_brings_the_start(make):
    plain = renderer_of(PLAIN, make)
    name = "".join(map(plain.tokenizer.decode_token, plain.tokenizer.bos))

    def said(template, chat_template=None):
        return audit_template(renderer_of(template, make, chat_template), "m", SAMPLES).start

    body = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[model]"
    assert said(PLAIN) == f"begins with {name}, which the tokenizer adds"
    assert said(replace(PLAIN, prefix=name)) == f"begins with {name}, which the template writes"
    assert said(CHAT, name + body) == f"begins with {name}, which the chat template writes"
    assert said(CHAT, name + name + body) == f"begins with {name}, which the chat template writes, 2 times"
    assert said(CHAT, body) == f"begins without {name}, which the tokenizer adds to plain texts"


def test_a_start_that_the_tokenizer_knows_and_does_not_add_is_said():
    def silent():
        tokenizer = byte_level()
        tokenizer.post_processor = processors.ByteLevel()
        return tokenizer

    assert audit_template(renderer_of(PLAIN, silent), "m", SAMPLES).start == (
        "begins without <s>, which the tokenizer does not add"
    )


def test_data_that_spells_the_start_takes_none_away():
    renderer = renderer_of(replace(PLAIN, prefix="", query="{document}:"), byte_level)
    prompt = renderer.prompts([Sample("s", {"document": "<s>가"}, 0)], 1, [0])[0]
    assert prompt.ids[0] == renderer.tokenizer.bos[0]
