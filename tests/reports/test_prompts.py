"""The page puts together every prompt as the harness did, from what a run keeps."""

import json
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from harness.core.task import Sample
from harness.planning.examples import NAME, prompt_examples
from harness.planning.preparation import prepare
from harness.prompts.choices import ChoiceWording
from harness.reporting.report.build import write_report
from harness.reporting.report.gathering import gather
from harness.reporting.report.prompting import Prompts, around_of
from harness.results import layout
from harness.results.store import RunStore
from tests.conftest import KO_TINY
from tests.reports.pages import SHARES, N, texts
from tests.simulated_runs import MODEL, classified_run
from tests.test_chat import CHATML

KS, SEEDS = [0, 2, 4], [3, 7]


def filled(one, k, sample):
    """The prompt of a sample from what is kept of a cell."""
    asked = one["query"].replace("{document}", sample.fields["document"])
    return one["before"][: one["lengths"][str(k)]] + asked + one["after"]


@pytest.fixture
def chat_model(tmp_path):
    """The embedded model's tokenizer and configuration, with a chat template."""
    path = tmp_path / "chatty"
    shutil.copytree(KO_TINY, path)
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(str(path))
    return path


@pytest.mark.parametrize("templates", [["lecture_1", "english"], ["chat", "chat_message"]])
def test_what_is_kept_around_the_query_gives_every_prompt_back(make_config, chat_model, templates):
    grid = {"templates": templates, "k": KS, "seeds": SEEDS}
    prepared = prepare(make_config(grid=grid, model={"path": str(chat_model)}, task={"limit": 60}))
    kept = prompt_examples(prepared)
    assert layout.PROMPTS(kept, "it") == ""
    found = {(one["template"], one["seed"], k): one for one in kept["around"] for k in KS if str(k) in one["lengths"]}
    assert len(found) == len(templates) * len(KS) * len(SEEDS)
    for (template, seed, k), one in found.items():
        renderer = prepared.renderer(prepared.models[0], template, seed)
        own = kept["own"][prepared.models[0].name][str(seed)]
        for prompt in renderer.prompts(prepared.data.samples, seed, [k]):
            is_replaced = own.get(prompt.sample.id, k) < k
            assert (filled(one, k, prompt.sample) == prompt.text) != is_replaced


def test_a_sample_among_its_own_demonstrations_is_named(make_config):
    prepared = prepare(make_config(grid={"templates": ["lecture_1"], "k": KS, "seeds": SEEDS}))
    setup = prepared.models[0]
    pool = setup.draw.pool
    ranking = setup.draw.ranking(setup.draw.policy.stream_key(3, ""), 4)
    sample = prepared.data.samples[1]
    text = pool.samples[ranking[2]].fields["document"]
    twin = replace(sample, fields={**sample.fields, "document": text})
    data = replace(prepared.data, samples=(prepared.data.samples[0], twin, *prepared.data.samples[2:]))
    kept = prompt_examples(replace(prepared, data=data))
    assert kept["own"][setup.name]["3"][twin.id] == 2


@pytest.mark.parametrize("policy", ["bank", "per_sample", "lecture"])
def test_draws_that_differ_between_samples_are_kept_for_none(make_config, policy):
    config = make_config(grid={"templates": ["lecture_1"], "k": KS, "seeds": SEEDS}, demos={"policy": policy})
    kept = prompt_examples(prepare(config))
    assert {k for one in kept["around"] for k in one["lengths"]} == {"0"}
    assert all(own == {} for seeds in kept["own"].values() for own in seeds.values())


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """A run that kept what stands around its queries, with demonstrations that are two units long in UTF-16."""
    run = classified_run(tmp_path_factory.mktemp("runs") / "prompted", texts(), SHARES)
    shown = [f"{name}: 시연 {i} 😀\n감정: 긍정\n" for name in ("clear", "vague") for i in range(4)]
    around = [
        {
            "model": MODEL, "template": template, "seed": seed, "after": "⏎",
            "query": template + ": {document}\n{{감정}}:",
            "before": f"[{seed}]" + "".join(shown[4 * place : 4 * place + 4]),
        }
        for place, template in enumerate(("clear", "vague")) for seed in (1, 2)
    ]  # fmt: skip
    assert len(around[0]["before"]) == 3 + sum(map(len, shown[:4]))
    around = [{**one, "lengths": {"0": 3, "4": len(one["before"])}} for one in around]
    own = {MODEL: {"1": {"s00005": 1}, "2": {}}}
    RunStore(run).write_json(NAME, {"format": 1, "prompts": [], "around": around, "own": own})
    return run


def test_a_sample_shows_the_prompt_of_each_strategy(open_page, prompted, tmp_path):
    page, data = open_page(write_report([prompted], str(tmp_path / "r.html"))), gather([prompted])
    page.get_by_role("searchbox").fill("s00005")
    page.locator("#sample-list summary").first.click()
    rows = page.locator("#sample-list table tbody tr")
    assert rows.count() == len(data.cells) == 6
    text, places = texts(N)[5], dict(zip(data.cells["label"], data.cells.to_dict("records"), strict=True))
    panel = page.locator(".asked-prompt")
    assert panel.locator("b").inner_text() == f"Prompt of {rows.first.locator('th').inner_text()}"
    for place in range(6):
        label = rows.nth(place).locator("th").inner_text()
        rows.nth(place).get_by_role("button").press("Enter")
        around = around_of(data.runs[0], places[label])
        asked = around.query.replace("{document}", text).replace("{{", "{").replace("}}", "}")
        assert panel.locator("pre").text_content() == around.before + asked + "⏎"
        is_own = label in ("clear K=4 seed=1", "vague K=4 seed=1")
        assert panel.locator("p.quiet").is_visible() == is_own
    assert page.trouble == []


def test_prompts_are_copied_as_text_and_as_yaml(open_page, prompted, tmp_path):
    page = open_page(write_report([prompted], str(tmp_path / "r.html")))
    page.evaluate("navigator.clipboard.writeText = (text) => { window.taken = text; return Promise.resolve(); }")
    card = page.get_by_label("Which prompt")
    card.get_by_role("button", name="Copy text").press("Enter")
    page.locator("#told", has_text="Copy text: done").wait_for(state="attached")
    taken = page.evaluate("window.taken")
    assert taken.startswith("[1]clear: 시연 0") and taken.endswith("clear: {document}\n{{감정}}:⏎")
    card.get_by_role("button", name="Copy YAML").click()
    assert page.evaluate("window.taken").startswith("clear:\n  query:")
    page.locator("#prompts").get_by_role("button", name="Copy YAML").first.click()
    assert "labels:" in page.evaluate("window.taken")
    assert page.trouble == []


def test_the_choices_of_a_sample_are_listed_as_its_template_does():
    wording = ChoiceWording(shown="({marker}) {choice}", between=" / ", markers=("가", "나", "다"), order=1)
    plain = json.loads(json.dumps(asdict(wording)))
    templates = {
        "a": {"query": "{question} {choices}\n", "choices": plain},
        "b": {"query": "{question}", "choices": plain},
    }
    run = SimpleNamespace(manifest={"identity": {"templates": templates}})
    found = Prompts(SimpleNamespace(runs=[run])).choices_of("s1", ["하나", "둘", "셋"])
    assert set(found) == {"{question} {choices}\n", "{question} {choices}"}
    wanted = wording.list_of(Sample("s1", {}, choices=("하나", "둘", "셋")))
    assert set(found.values()) == {wanted} and wanted == "(가) 둘 / (나) 셋 / (다) 하나"


def test_prompts_that_were_not_kept_are_said_to_be_missing(soup):
    assert "Some prompts are not shown" in soup.find(id="samples").get_text()
