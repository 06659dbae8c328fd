"""Chat templates that open a thinking block are refused; the date that they write is that of the run's beginning."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.errors import RunDirError, TemplateError
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.planning.report import make_report
from harness.prompts import tokenizing
from harness.prompts.chats import at_time, open_thinking
from harness.running.driver import run
from tests.conftest import KO_TINY

BODY = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}[assistant]\n{% endif %}"
QWEN_3 = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n{% endif %}{% endif %}"
)


@pytest.fixture
def configured(tmp_path, make_config):
    """The embedded model with a chat template of one's own."""

    def make(chat_template, **sections):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for path in KO_TINY.iterdir():
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        return make_config(
            name="chats",
            out=str(tmp_path),
            model={"path": str(folder)},
            task={"limit": 6},
            grid={"templates": ["chat"], "k": [0, 2], "seeds": [1]},
            **sections,
        )

    return make


@pytest.mark.parametrize(
    ("header", "tag"),
    [
        ("[assistant]<think>\n", "<think>"),
        ("<|Assistant|><think>", "<think>"),
        ("[/INST][THINK]", "[THINK]"),
        ("<|begin_of_thought|>", "<|begin_of_thought|>"),
        ("<think></think><think>\n", "<think>"),
        ("<|START_THINKING|>", "<|START_THINKING|>"),
        ("<seed:think>", "<seed:think>"),
        ("◁think▷", "◁think▷"),
        ("<reasoning>", "<reasoning>"),
        ("<|start|>assistant<|channel|>analysis", "<|channel|>analysis"),
    ],
)
def test_an_open_thinking_block_is_refused(configured, header, tag):
    assert open_thinking(header) == tag
    config = configured(BODY + "{% if add_generation_prompt %}" + header + "{% endif %}")
    for check in (lambda: measure(prepare(config), 6), lambda: make_report(config), lambda: run(config)):
        with pytest.raises(TemplateError) as caught:
            check()
        assert f"opens a thinking block ({tag}) before the answer" in str(caught.value)
    assert not Path(config.run_dir, "parts").exists() or not list(Path(config.run_dir, "parts").iterdir())


@pytest.mark.parametrize(
    "header",
    ["[assistant]", "<think>\n\n</think>\n\n", "[THINK][/THINK]", "<|START_THINKING|><|END_THINKING|>", "<b>", "think"],
)
def test_a_closed_one_is_not(header):
    assert open_thinking(header) is None


def test_thinking_that_can_be_turned_off_serves_and_data_may_speak_of_it(configured, write_nsmc):
    train = [(f"t{i}", f"영화 {i}번 좋아요", i % 2) for i in range(20)]
    folder = write_nsmc(train, [("1", "<think> 재미", 1), ("2", "<think>", 0)])
    config = configured(BODY + QWEN_3)
    task = replace(config.task, data_dir=str(folder), options={"clean_text": False})
    assert measure(prepare(replace(config, task=task)), 2)


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ('strftime_now("%d %b %Y")', "02 Mar 2024"),
        ("strftime_now( '%Y-%m-%d' )", "2024-03-02"),
        ('strftime_now(format="%H:%M")', "09:08"),
        ('strftime_now("오늘 %d")', "오늘 02"),
    ],
)
def test_the_time_is_that_of_the_beginning(asked, written, configured):
    assert "strftime_now(" not in at_time("{{ " + asked + " }}", "2024-03-02T09:08:07")
    dated = "{% if strftime_now is defined %}{% set day = " + asked + " %}{% endif %}[system] {{ day }}\n"
    prepared = prepare(configured(dated + BODY + HEADER)).as_recorded(
        {"models": {}, "chat_time": "2024-03-02T09:08:07"}
    )
    prompts = prepared.renderer(prepared.models[0], "chat", 1).prompts(prepared.data.samples[:2], 1, [0, 2])
    assert all(prompt.text.startswith(f"[system] {written}\n[user]") for prompt in prompts)
    assert prepared.chat_time == "2024-03-02T09:08:07"


def test_a_time_of_a_computed_format_is_refused(configured):
    with pytest.raises(TemplateError, match="writes the time in a format that is no plain text"):
        measure(prepare(configured("{% set f = '%d' %}{{ strftime_now(f) }}" + BODY + HEADER)), 6)


def test_a_run_goes_on_at_the_time_at_which_it_began(configured, monkeypatch):
    config = configured('[system] {{ strftime_now("%Y-%m-%d %H:%M:%S") }}\n' + BODY + HEADER)
    seen = []
    whole = tokenizing.PromptTokenizer.chat

    def watched(self, messages, thinks):
        text = whole(self, messages, thinks)
        seen.append(text.split("\n")[0])
        return text

    monkeypatch.setattr(tokenizing.PromptTokenizer, "chat", watched)
    run(config)
    manifest = json.loads(Path(config.run_dir, "manifest.json").read_text(encoding="utf-8"))
    began = manifest["identity"]["chat_time"]
    assert set(seen) == {f"[system] {began.replace('T', ' ')}"}

    earlier = "2001-02-03T04:05:06"
    manifest["identity"]["chat_time"] = earlier
    Path(config.run_dir, "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for part in Path(config.run_dir, "parts").iterdir():
        part.unlink()
    seen.clear()
    run(config)
    assert seen[-1] == "[system] 2001-02-03 04:05:06"
    after = json.loads(Path(config.run_dir, "manifest.json").read_text(encoding="utf-8"))
    assert after["identity"]["chat_time"] == earlier

    del after["identity"]["chat_time"]
    Path(config.run_dir, "manifest.json").write_text(json.dumps(after), encoding="utf-8")
    with pytest.raises(RunDirError, match="chat_time was None, now"):
        run(config)


def test_runs_without_a_time_have_none(configured):
    assert prepare(configured(BODY + HEADER)).chat_time is None


@pytest.mark.parametrize("text", ["<" + "think" * 20_000, "<" + "think" * 20_000 + ":>", "<think" * 20_000])
def test_tags_are_found_in_a_time_that_grows_with_the_text_alone(text):
    began = time.monotonic()
    assert open_thinking(text) is None
    assert time.monotonic() - began < 5, "a text twice as long took four times as long"
