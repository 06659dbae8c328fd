"""What templates of chats may say: a system message, how the answer begins, and whether the model thinks first."""

from io import StringIO

import pytest
import yaml
from rich.console import Console

import harness
from harness.analysis.cells import over_seeds
from harness.analysis.summary import summarise
from harness.config.loading import config_from
from harness.config.schema import GenerationConfig
from harness.core.errors import ConfigError, TemplateError
from harness.core.task import Sample
from harness.planning.identity import wording_of
from harness.planning.preparation import prepare
from harness.prompts.chats import without_reasoning
from harness.prompts.endings import StopTexts
from harness.prompts.prompt import Prompt
from harness.prompts.templates import Template, read_templates
from harness.prompts.tokenizing import PromptTokenizer
from harness.reporting.report.browser import browser
from harness.reporting.report.gathering import gather
from harness.reporting.terminal import write_cells
from harness.running.cleaning import answer_of
from tests.conftest import DEMO, KO_TINY

ROLES = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}[assistant]\n{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + ROLES + HEADER
IGNORES = (
    "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endif %}{% endfor %}" + HEADER
)
SWITCH = (
    ROLES + "{% if add_generation_prompt %}[assistant]\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}{% endif %}"
)
LABELS = ["부정", "긍정"]


@pytest.fixture
def prepared(tmp_path):
    """A prepared run of one template with a chat template of one's own."""

    def make(chat_template, scoring="likelihood", **spec):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for path in KO_TINY.iterdir():
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        template = {"render": "chat", "query": "영화평: {document}", "labels": LABELS, **spec}
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({"mine": template}, allow_unicode=True), encoding="utf-8")
        sections = {
            "name": "chats",
            "out": str(tmp_path),
            "model": {"path": str(folder), "dtype": "float32"},
            "task": {"data_dir": str(DEMO), "limit": 4, "templates_file": str(tmp_path / "t.yaml")},
            "grid": {"templates": ["mine"], "k": [0, 1], "seeds": [1]},
            "scoring": {"method": scoring},
            "generation": {"max_new_tokens": 8},
            "cluster": {"address": "inline"},
        }
        return prepare(config_from(sections))

    return make


def prompt_of(run, k=0):
    return run.renderer(run.models[0], "mine", 1).prompts(run.data.samples[:1], 1, [k])[0]


def test_a_system_message_and_the_beginning_of_the_answer(prepared):
    run = prepared(ROLES + HEADER, system="짧게 답하세요.", answer_prefix="정답:", labels=[" 부정", " 긍정"])
    zero, one = prompt_of(run), prompt_of(run, 1)
    document = zero.sample.fields["document"]
    assert zero.text == f"[system] 짧게 답하세요.\n[user] 영화평: {document}\n[assistant]\n정답:"
    assert zero.labels == (" 부정", " 긍정")
    shown = run.models[0].draw.pool.samples[run.renderer(run.models[0], "mine", 1).demonstrations(zero.sample, 1, 1)[0]]
    turn = f"[user] 영화평: {shown.fields['document']}\n[assistant] 정답: {LABELS[shown.gold]}\n"
    assert one.text == f"[system] 짧게 답하세요.\n{turn}[user] 영화평: {document}\n[assistant]\n정답:"
    whole = run.models[0].tokenizer.whole_batch([one.text + label for label in one.labels])
    assert [[*one.ids, *ids] for ids in one.label_ids] == whole


@pytest.mark.parametrize("chat_template", [NO_SYSTEM, IGNORES], ids=["refuses", "ignores"])
def test_a_system_message_without_a_role_is_refused_or_merged(prepared, chat_template):
    with pytest.raises(
        TemplateError, match=r"chat template of model '.*/model' has no system role; set without_system"
    ):
        prepared(chat_template, system="짧게.")
    run = prepared(chat_template, system="짧게.", without_system="merge", prefix="골라라.\n")
    assert prompt_of(run).text.startswith("[user] 짧게.\n\n골라라.\n영화평: ")
    known = prepared(ROLES + HEADER, system="짧게.", without_system="merge", prefix="골라라.\n")
    assert prompt_of(known).text.startswith("[system] 짧게.\n[user] 골라라.\n영화평: ")


def test_thinking_opens_what_is_closed_without_it(prepared):
    off = prepared(SWITCH, scoring="generate", thinking="off")
    on = prepared(SWITCH, scoring="generate", thinking="on")
    assert prompt_of(off).text.endswith("[assistant]\n<think>\n\n</think>\n")
    assert prompt_of(on).text.endswith("[assistant]\n")
    assert prompt_of(on).thinks and not prompt_of(off).thinks


def test_thinking_that_cannot_be_is_refused(prepared):
    with pytest.raises(
        TemplateError, match=r"says `thinking: on`, .* labels are compared; set scoring\.method=generate"
    ):
        prepared(SWITCH, thinking="on")
    with pytest.raises(
        TemplateError, match=r"chat template of model '.*/model' has no switch for it \(enable_thinking\)"
    ):
        prepared(ROLES + HEADER, scoring="generate", thinking="on")


@pytest.mark.parametrize("spec", [{"answer_prefix": "정답:"}, {"thinking": "on"}], ids=str)
def test_what_messages_do_not_say_is_refused_where_chats_are_sent_as_such(prepared, monkeypatch, spec):
    from harness.engine.local.model_info import ModelInfo
    from harness.engine.server.description import ServerDescription

    assert prepared(SWITCH, scoring="generate", **spec).models[0].info.takes_rendered_chats
    monkeypatch.setattr(ModelInfo, "takes_rendered_chats", ServerDescription.takes_rendered_chats)
    with pytest.raises(TemplateError, match=r"may send chats as messages, which do not say it; drop it"):
        prepared(SWITCH, scoring="generate", **spec)


def test_messages_are_those_of_the_text(prepared):
    run = prepared(NO_SYSTEM, system="짧게.", without_system="merge")
    assert [message["role"] for message in prompt_of(run, 1).messages] == ["user", "assistant", "user"]
    assert prompt_of(run, 1).messages[0]["content"].startswith("짧게.\n\n영화평: ")
    known = prepared(ROLES + HEADER, system="짧게.")
    assert prompt_of(known).messages[0] == {"role": "system", "content": "짧게."}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("system: x", "system needs `render: chat`"),
        ("thinking: on", "thinking needs `render: chat`"),
        ("render: chat, system: ''", "system is '', expected text"),
        ("render: chat, answer_prefix: 3", "answer_prefix is 3, expected text"),
        ("render: chat, thinking: maybe", "thinking is 'maybe', expected off or on"),
        ("render: chat, without_system: merge", "without_system is for a template with system"),
        ("render: chat, system: x, without_system: drop", "without_system is 'drop', expected refuse or merge"),
    ],
)
def test_wrong_settings_are_told(tmp_path, spec, message):
    (tmp_path / "t.yaml").write_text(f"t: {{query: '{{x}}', labels: [a, b], {spec}}}\n", encoding="utf-8")
    with pytest.raises((TemplateError, ConfigError), match=message):
        read_templates(tmp_path / "t.yaml", ("a", "b"))


def test_a_bare_on_is_on(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "t: {query: '{x}', labels: [a, b], render: chat, thinking: on}\n", encoding="utf-8"
    )
    assert read_templates(tmp_path / "t.yaml", ("a", "b"))["t"].thinks


def test_other_templates_are_identified_as_before():
    known = {"name", "query", "labels", "prefix", "separators", "answer", "chat"}
    assert set(wording_of(Template("a", "{x}", (" a", " b")))) == known


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("<think>\n하나\n</think>\n\n정답", "[assistant]\n", "정답"),
        ("하나\n</think>정답", "[assistant]<think>\n", "정답"),
        ("<think>끝이 없", "[assistant]\n", ""),
        ("끝이 없", "[assistant]<think>\n", ""),
        ("정답", "[assistant]\n", "정답"),
        ("[THINK]a[/THINK]정답", "", "정답"),
        ("<think>a</think>b<think>c</think> 정답", "", "정답"),
    ],
)
def test_what_stands_behind_the_reasoning_is_the_answer(text, prompt, answer):
    assert without_reasoning(text, prompt) == answer


def thinking_prompt(thinks=True):
    return Prompt(Sample("s", {}), 0, ("[assistant]\n",), [1], (), 0, thinks=thinks)


def test_the_answer_is_cut_behind_the_reasoning_which_is_kept_apart():
    text, settings = "<think>\n하나\n</think>\n\n'정답'\n더", GenerationConfig(clean=["quotes"])
    assert answer_of(text, thinking_prompt(), settings) == ("<think>\n하나\n</think>\n\n", "'정답'", "정답")
    assert answer_of(text, thinking_prompt(thinks=False), settings) == (None, "<think>", "<think>")
    assert answer_of("<think>\n하나", thinking_prompt(), settings) == ("<think>\n하나", "", "")


def test_stop_texts_count_behind_the_reasoning(ko_tokenizer):
    tokenizer = PromptTokenizer(ko_tokenizer)
    stops = StopTexts(tokenizer, ["\n"], after_reasoning_of="[assistant]\n")
    for text, ends in (("<think>\n하나\n", False), ("<think>\n</think>\n", False), ("<think>\n</think>\n답\n", True)):
        assert stops(ko_tokenizer(text)["input_ids"]) is ends, text


def test_a_run_with_thinking_keeps_reasoning_and_answers_apart(prepared, monkeypatch):
    """The model's words are put in its mouth: one sample is answered, one thinks too long."""
    from harness.engine.local.engine import LoadedModel
    from harness.engine.protocol import Generations

    said = {}

    def generate(self, prompts, ending):
        assert ending.max_new_tokens == 8
        assert ending.stop_texts == ()
        texts = ["<think>\n흠\n</think>\n긍정\n" if i % 2 else "<think>\n흠" for i in range(len(prompts))]
        said.update({(p.sample.id, p.k): t for p, t in zip(prompts, texts, strict=True)})
        ids = [tokenizer(text)["input_ids"] for text in texts]
        return Generations(ids, ["stop" if i % 2 else "length" for i in range(len(ids))], 1, 1)

    run = prepared(SWITCH, scoring="generate", thinking="on")
    tokenizer = run.models[0].tokenizer.tokenizer
    monkeypatch.setattr(LoadedModel, "generate", generate)
    harness.run(run.config)
    records = harness.load_records(run.config.run_dir)
    assert len(records) == 8
    for row in records.itertuples():
        text = said[row.sample_id, row.k]
        answered = text.endswith("긍정\n")
        assert (row.reasoning, row.raw_answer) == (("<think>\n흠\n</think>\n", "긍정") if answered else (text, ""))
        assert (row.answer, row.prediction) == (("긍정", 1) if answered else ("", -1))
    cells = summarise(run.config.run_dir)
    lengths = records.groupby("k")["reasoning"].apply(lambda texts: texts.str.len().mean())
    assert cells.set_index("k")["reasoning_length"].to_dict() == pytest.approx(lengths.to_dict())
    console = Console(file=StringIO(), width=200)
    write_cells(console, cells, over_seeds(cells), "table")
    assert "thought chars" in console.file.getvalue()
    document = browser(gather([run.config.run_dir])).document
    thoughts = {document["texts"][at] for sample in document["samples"] for at in sample["r"].values()}
    assert thoughts == {"<think>\n흠\n</think>", "<think>\n흠"}
