"""Chat prompts are what the tokenizer's own chat template makes of the messages, and share their prefixes."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from harness.core.errors import TemplateError
from harness.core.task import Sample
from harness.engine.local.scorer import Scorer
from harness.engine.local.tree.tree import build_tree
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.prompts import tokenizing
from harness.prompts.audit import audit_template
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import FixedDraw
from harness.prompts.rendering import Renderer
from harness.prompts.templates import read_templates
from harness.prompts.tokenizing import PromptTokenizer
from harness.running.cleaning import clean, cut_at_stop
from tasks.nsmc import TASK
from tests.conftest import KO_TINY

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}[assistant]"
)
SOLVED = [Sample("d0", {"document": "정말 지루했다"}, 0), Sample("d1", {"document": "또 보고 싶다"}, 1)]
ASKED = [Sample("s0", {"document": "그저 그래요 ㅋㅋ"}, 0), Sample("s1", {"document": "최고!"}, 1)]


@pytest.fixture
def chat_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(str(KO_TINY))
    tokenizer.chat_template = CHATML
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


@pytest.fixture(scope="module")
def templates():
    return read_templates(TASK.templates, TASK.class_names)


def renderer_of(template, tokenizer):
    draw = PoolDraw(Pool(tuple(SOLVED), 2, "document"), FixedDraw())
    return Renderer(template, draw, 2, PromptTokenizer(tokenizer))


def test_demonstrations_are_turns_and_thinking_is_off(templates, chat_tokenizer):
    renderer = renderer_of(templates["chat"], chat_tokenizer)
    prompt = renderer.prompts(ASKED[:1], seed=1, ks=[2])[0]
    assert templates["chat"].prefix == "영화평을 읽고 긍정과 부정 중 한 낱말로만 답하세요.\n\n"
    order = [SOLVED[i] for i in renderer.demonstrations(ASKED[0], 1, 2)]
    turns = [
        f"<|im_start|>user\n{templates['chat'].prefix if n == 0 else ''}영화평: {s.fields['document']}<|im_end|>\n"
        f"<|im_start|>assistant\n{['부정', '긍정'][s.gold]}<|im_end|>\n"
        for n, s in enumerate(order)
    ]
    asked = "<|im_start|>user\n영화평: 그저 그래요 ㅋㅋ<|im_end|>\n<|im_start|>assistant\n<think></think>\n"
    assert prompt.text == "".join(turns) + asked
    assert prompt.ids == chat_tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    assert prompt.label_ids == tuple(
        tuple(chat_tokenizer(prompt.text + label, add_special_tokens=False)["input_ids"][len(prompt.ids) :])
        for label in ("부정", "긍정")
    )


def test_demonstrations_may_stand_in_one_message(templates, chat_tokenizer):
    prompt = renderer_of(templates["chat_message"], chat_tokenizer).prompts(ASKED[:1], seed=1, ks=[1])[0]
    assert prompt.text.count("<|im_start|>user") == 1
    assert prompt.text.count("영화평: ") == 2
    assert prompt.text.index("영화평을 읽고") < prompt.text.index("영화평: ")


def test_the_tokenizers_own_start_comes_from_its_chat_template_alone(templates, chat_tokenizer):
    """A tokenizer that adds a start token by itself must not add a second one."""
    chat_tokenizer.chat_template = "<|im_start|>" + STRICT
    renderer = renderer_of(templates["chat"], chat_tokenizer)
    renderer.tokenizer.bos = chat_tokenizer.convert_tokens_to_ids(["<|im_start|>"])
    prompt = renderer.prompts(ASKED[:1], seed=1, ks=[0])[0]
    assert prompt.ids.count(renderer.tokenizer.bos[0]) == 1


def test_chat_templates_without_a_system_role_serve(templates, chat_tokenizer):
    chat_tokenizer.chat_template = STRICT
    prompt = renderer_of(templates["chat"], chat_tokenizer).prompts(ASKED[:1], seed=1, ks=[1])[0]
    assert prompt.text.endswith("[user] 영화평: 그저 그래요 ㅋㅋ\n[assistant]")


def test_a_tokenizer_without_a_chat_template_is_refused(templates, ko_tokenizer):
    with pytest.raises(TemplateError, match="has no chat template; use templates with `render: plain`"):
        renderer_of(templates["chat"], ko_tokenizer).prompts(ASKED, seed=1, ks=[0])


def test_a_chat_template_that_refuses_the_messages_is_named(templates, chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TemplateError, match="chat template refuses the messages: roles must alternate"):
        renderer_of(templates["chat"], chat_tokenizer).prompts(ASKED, seed=1, ks=[0])


def test_a_chat_template_without_end_is_told(templates, chat_tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizing, "MOST_TEMPLATE_SECONDS", 0.3)
    chat_tokenizer.chat_template = "{% for i in range(90000) %}" * 3 + "x" + "{% endfor %}" * 3
    with pytest.raises(TemplateError, match=r"it does not come to an end within 0\.3 s"):
        renderer_of(templates["chat"], chat_tokenizer).prompts(ASKED, seed=1, ks=[0])


def test_labels_that_merge_with_the_assistant_header_are_refused(templates, chat_tokenizer):
    chat_tokenizer.chat_template = "{{ messages[0]['content'] }}\n답: "
    with pytest.raises(TemplateError, match="the label '부정' merges with the end of its context"):
        audit_template(renderer_of(templates["chat"], chat_tokenizer), "m", ASKED)


@pytest.fixture
def chat_config(tmp_path, make_config):
    """The embedded model with a chat template, on the embedded reviews."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in KO_TINY.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")

    def make(**sections):
        grid = {"templates": ["chat", "chat_message"], "k": [0, 2, 4], "seeds": [1]}
        return make_config(model={"path": str(folder)}, task={"limit": 30}, grid=grid, **sections)

    return make


def test_chat_prompts_share_their_prefixes_and_score_as_unshared(chat_config, ko_tiny):
    prepared = prepare(chat_config())
    for name in ("chat", "chat_message"):
        prompts = prepared.renderer(prepared.models[0], name, 1).prompts(prepared.data.samples[:12], 1, [0, 2, 4])
        contexts, labels = [p.ids for p in prompts], [p.label_ids for p in prompts]
        assert build_tree(contexts).n_tokens * 2 < sum(map(len, contexts))
        shared, unshared = (Scorer(ko_tiny, 2048, share).score(contexts, labels) for share in (True, False))
        assert np.abs(shared.logprobs - unshared.logprobs).max() < 1e-4
        assert (shared.logprobs.argmax(1) == unshared.logprobs.argmax(1)).all()


def test_the_plan_of_a_chat_grid_is_near_what_its_prompts_hold(chat_config):
    prepared = prepare(chat_config())
    for budget in measure(prepared, 30):
        renderer = prepared.renderer(prepared.models[0], budget.template, 1)
        prompts = renderer.prompts(prepared.data.samples, 1, [0, 2, 4])
        total = sum(len(p.ids) for p in prompts)
        assert abs(budget.tokens_one_pass - total) <= 0.02 * total
        unique = build_tree([p.ids for p in prompts], least_saved=1).n_tokens
        assert abs(budget.tokens_unique - unique) <= 0.1 * unique
        assert not budget.exact


@pytest.mark.parametrize(
    ("raw", "names", "answer"),
    [
        (" 1989년 \n", [], "1989년"),
        ("\n\n 첫 줄\n둘째 줄", ["first_line"], "첫 줄"),
        (' "해솔읍" ', ["quotes"], "해솔읍"),
        ("《바다의 노래》", ["quotes"], "바다의 노래"),
        ("해솔읍에서", ["particles"], "해솔읍"),
        ("해솔읍입니다.", ["particles"], "해솔읍"),
        ("강의", ["particles"], "강의"),
        ("'해솔읍은'\n다음", ["particles", "quotes", "first_line"], "해솔읍"),
        ("", ["first_line", "quotes", "particles"], ""),
    ],
)
def test_cleanings_are_named_and_off_by_default(raw, names, answer):
    assert clean(raw, names) == answer


def test_an_answer_ends_before_the_first_stop_string():
    assert cut_at_stop("가나\n다###라", ["###", "\n"]) == "가나"
    assert cut_at_stop("가나", ["\n"]) == "가나"
    assert cut_at_stop("가나", []) == "가나"
