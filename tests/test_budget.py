"""What the plan promises is what the prompts hold, and nothing overflows unnoticed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from harness.core.errors import ContextError, ModelError
from harness.core.prefixes import count_unique_tokens
from harness.planning.lengths import measure
from harness.planning.preparation import prepare
from harness.planning.report import make_report
from harness.planning.units import make_plan
from tasks.nsmc import read_ratings
from tests.conftest import DEMO, KO_TINY

REPO = Path(__file__).resolve().parents[1]
POLICIES = ["fixed", "bank", "per_sample", "lecture"]
SHARD = 100
TOLERANCE = 0.03
"""Of unique tokens: reviews that begin alike by chance are not foreseen."""


def prepared_of(make_config, policy, templates, ks, seeds=(1, 2), **task):
    return prepare(
        make_config(
            task=task,
            grid={"templates": list(templates), "k": list(ks), "seeds": list(seeds)},
            demos={"policy": policy, "bank_size": 4},
        )
    )


def unit_prompts(prepared, template):
    """The prompts of every unit of a template, as a replica renders them."""
    plan = make_plan(prepared, SHARD)
    setup = prepared.models[0]
    for unit in plan.units:
        if unit.template == template:
            renderer = prepared.renderer(setup, template, unit.seed)
            yield renderer.prompts(plan.shards[unit.shard].samples, unit.seed, unit.ks)


def check_budgets(prepared):
    for budget in measure(prepared, SHARD):
        one_pass = scored = unique = longest = 0
        for prompts in unit_prompts(prepared, budget.template):
            scored += len(prompts)
            one_pass += sum(len(p.ids) for p in prompts)
            longest = max(longest, *(len(p.ids) + max(map(len, p.label_ids)) - 1 for p in prompts))
            unique += count_unique_tokens([[*p.ids, *label[:-1]] for p in prompts for label in p.label_ids])
        grid, n = prepared.config.grid, len(prepared.data.samples)
        assert budget.prompts == n * len(grid.k) * len(grid.seeds)
        assert budget.prompts_scored == scored
        assert budget.exact
        assert budget.tokens_one_pass == one_pass, budget.template
        assert budget.longest_prompt == longest, budget.template
        assert abs(budget.tokens_unique - unique) <= TOLERANCE * unique, (budget.tokens_unique, unique)


@pytest.mark.parametrize("template", ["lecture_1", "english", "document_first", "koalpaca"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_tokens_of_a_plan_are_those_of_its_prompts(make_config, policy, template):
    check_budgets(prepared_of(make_config, policy, [template], [0, 1, 10]))


def test_the_tokens_of_labels_that_are_several_tokens_are_counted(make_config, tmp_path):
    """Both labels have more than one token; all but the last of each belong to the tree."""
    file = tmp_path / "templates.yaml"
    file.write_text(
        "long: {query: '평: {document} =>', labels: [' 정말 지루하다', ' 아주 재미있다']}", encoding="utf-8"
    )
    prepared = prepared_of(make_config, "fixed", ["long"], [0, 4], seeds=(3,), templates_file=str(file))
    prompts = [p for prompts in unit_prompts(prepared, "long") for p in prompts]
    assert min(len(ids) for p in prompts for ids in p.label_ids) > 1
    check_budgets(prepared)


@pytest.mark.parametrize("policy", ["fixed", "bank", "per_sample"])
def test_reviews_that_stand_in_the_pool_too_are_counted_with_the_demonstrations_they_get(
    write_nsmc, make_config, policy
):
    """A sample whose own text is drawn gets the next demonstration instead, of another length."""
    words = [
        "좋다", "정말 재미있는 영화였다", "별로", "지루하고 길기만 하다", "최고", "돈이 아깝다 정말로", "굿",
        "그저 그래", "배우들 연기가 아까운 각본", "두 번 봤는데 또 울었음", "시간 낭비", "음악만 남는다",
        "아이와 보기 딱 맞아요", "결말을 왜 저렇게", "ㅋㅋㅋ 웃다 끝남", "10점 만점에 10점",
    ]  # fmt: skip
    train = [(i, word, i % 2) for i, word in enumerate(words)]
    others = read_ratings(DEMO / "ratings_test.txt")[0]["document"].tolist()[:48]
    test = [(100 + i, text, i % 2) for i, text in enumerate([*words, *others])]
    folder = write_nsmc(train, test)
    prepared = prepared_of(make_config, policy, ["lecture_1"], [0, 4, 8], data_dir=str(folder))
    check_budgets(prepared)


def test_k_0_is_scored_once_for_all_seeds(make_config):
    one = make_report(make_config(grid={"templates": ["lecture_1"], "k": [0], "seeds": [1]}))
    five = make_report(make_config(grid={"templates": ["lecture_1"], "k": [0], "seeds": [1, 2, 3, 4, 5]}))
    assert (one.prompts, one.prompts_scored) == (312, 312)
    assert (five.prompts, five.prompts_scored, five.n_cells) == (5 * 312, 312, 5)
    assert five.tokens_one_pass == one.tokens_one_pass


def test_the_report_adds_up_its_templates(make_config):
    report = make_report(make_config(grid={"templates": ["lecture_1", "english"], "k": [0, 4], "seeds": [1, 2]}))
    assert (report.n_cells, report.n_samples) == (8, 312)
    assert report.prompts == sum(b.prompts for b in report.budgets) == 8 * 312
    assert report.prompts_scored == 2 * (1 + 2) * 312
    assert report.tokens_one_pass == sum(b.tokens_one_pass for b in report.budgets)
    assert report.tokens_unique < report.tokens_one_pass


def config_with_context(make_config, policy, ks, context):
    return make_config(
        model={"max_length": context},
        grid={"templates": ["lecture_1"], "k": ks, "seeds": [1, 2]},
        demos={"policy": policy, "bank_size": 4},
    )


@pytest.mark.parametrize("context", [150, 301])
@pytest.mark.parametrize("policy", ["fixed", "bank", "per_sample"])
def test_an_overflow_names_the_largest_k_that_fits(make_config, policy, context):
    with pytest.raises(ContextError) as caught:
        make_report(config_with_context(make_config, policy, [0, 32], context))
    message = str(caught.value)
    assert f"has a context of {context}" in message
    fitting = int(re.search(r"; K=(\d+) would fit", message).group(1))
    assert 0 < fitting < 32
    report = make_report(config_with_context(make_config, policy, [0, fitting], context))
    assert report.budgets[0].longest_prompt <= context
    with pytest.raises(ContextError, match=f"K={fitting} would fit"):
        make_report(config_with_context(make_config, policy, [0, fitting + 1], context))


def test_under_the_lecture_policy_the_overflow_names_a_k_of_the_grid(make_config):
    """Its draws of 9 are no part of its draws of 10, so only the grid's own K are known."""
    with pytest.raises(ContextError, match="K=4 would fit"):
        make_report(config_with_context(make_config, "lecture", [0, 4, 32], 300))
    make_report(config_with_context(make_config, "lecture", [0, 4], 300))


def test_the_overflow_names_the_longest_prompt(make_config):
    report = make_report(config_with_context(make_config, "fixed", [0, 8], 2048))
    longest = report.budgets[0].longest_prompt
    make_report(config_with_context(make_config, "fixed", [0, 8], longest))
    with pytest.raises(ContextError, match=f"the longest prompt has {longest} tokens"):
        make_report(config_with_context(make_config, "fixed", [0, 8], longest - 1))


def test_a_context_that_holds_no_prompt_at_all_is_said_to(make_config):
    with pytest.raises(ContextError, match="not even K=0 fits"):
        make_report(config_with_context(make_config, "fixed", [0, 4], 12))


FULL_STUDY = """
import resource, time
from harness.config.loading import load_config
from harness.planning.report import make_report
started = time.monotonic()
report = make_report(load_config("configs/nsmc_grid.yaml",
    ["model.path=data_in/models/ko-tiny", "task.data_dir={folder}"]))
print(report.prompts, time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_full_study_is_planned_within_a_minute_and_two_gigabytes(shared_nsmc):
    code = FULL_STUDY.replace("{folder}", str(shared_nsmc))
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    prompts, seconds, peak_kib = done.stdout.split()[-3:]
    assert int(prompts) > 49_000 * 5 * 7 * 5
    assert float(seconds) < 60
    assert int(peak_kib) < 2 * 2**20


def with_added_tokens(tmp_path, tokens, chat_template=None):
    """A copy of the embedded model whose tokenizer knows more tokens than it has embeddings."""
    folder = tmp_path / "model"
    shutil.copytree(KO_TINY, folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens(tokens)
    if chat_template is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
        tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return {"path": str(folder)}


ADDED = {
    "a label": (" 긍정", "lecture_1"),
    "a word of a review": ("영화", "english"),
    "the template's wording": ("Korean movie", "english"),
}


@pytest.mark.parametrize("place", ADDED)
def test_token_ids_beyond_the_embedding_are_refused_by_the_plan(make_config, tmp_path, place):
    token, template = ADDED[place]
    model = with_added_tokens(tmp_path, [token])
    config = make_config(model=model, task={"limit": 30}, grid={"templates": [template], "k": [0], "seeds": [1]})
    with pytest.raises(ModelError, match=rf"has 4096 embeddings.*'{template}' brings token id 4096 \('{token}'\)"):
        make_report(config)


def test_token_ids_beyond_the_embedding_in_demonstrations_alone_are_refused(make_config, tmp_path, write_nsmc):
    data = write_nsmc([(f"t{i}", f"대단한 작품 {i}", i % 2) for i in range(8)], [("1", "그저 그래", 0)])
    model = with_added_tokens(tmp_path, ["작품"])
    task, grid = {"data_dir": str(data)}, {"templates": ["english"], "seeds": [1]}
    make_report(make_config(model=model, task=task, grid={**grid, "k": [0]}))
    with pytest.raises(ModelError, match="'작품'"):
        make_report(make_config(model=model, task=task, grid={**grid, "k": [2]}))


def test_turn_tokens_beyond_the_embedding_are_refused(make_config, tmp_path):
    turns = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}<|turn|>"
    model = with_added_tokens(tmp_path, [], turns)
    config = make_config(model=model, task={"limit": 4}, grid={"templates": ["chat"], "k": [0], "seeds": [1]})
    with pytest.raises(ModelError, match=r"token id 4096 \('<\|turn\|>'\)"):
        make_report(config)


def test_tokens_that_no_prompt_has_may_lie_beyond_the_embedding(make_config, tmp_path):
    model = with_added_tokens(tmp_path, ["<|never|>"])
    config = make_config(model=model, task={"limit": 4}, grid={"templates": ["english"], "k": [0, 2], "seeds": [1]})
    assert make_report(config).budgets
