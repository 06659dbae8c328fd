"""Which demonstrations a prompt gets: a function of (policy, seed, sample) and nothing else."""

import pickle
import random
from collections import Counter

import pytest

from harness.config.schema import DemosConfig
from harness.config.values import POLICIES as KNOWN
from harness.core.errors import ConfigError
from harness.core.task import Sample
from harness.planning.preparation import prepare
from harness.prompts.demonstrations import Pool, PoolDraw
from harness.prompts.draws import BankDraw, LectureDraw, draw_of
from harness.prompts.rendering import Renderer
from harness.prompts.templates import Template

POLICIES = ["fixed", "bank", "per_sample"]
TEMPLATE = Template("t", "{document} =", (" a", " b"), separators=("\n", "\n"))


def pool_of(n, n_classes=2, text="문서 {}"):
    samples = [Sample(f"d{i}", {"document": text.format(i)}, (i * 7 // 3) % n_classes) for i in range(n)]
    return Pool(tuple(samples), n_classes, "document")


def pool_draw(policy, pool=None, balanced=False, bank_size=8):
    return PoolDraw(pool or pool_of(60), draw_of(DemosConfig(policy=policy, bank_size=bank_size)), balanced)


def renderer_of(draw, largest_k=32, lecture=None):
    return Renderer(TEMPLATE, draw, largest_k, tokenizer=None, lecture=lecture)


def samples_of(n):
    return [Sample(f"s{i}", {"document": f"시험 {i}"}, 0) for i in range(n)]


SAME = ["같은 글", "같은 글 ", "\n같은 글"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("source", ["", "신문 가"])
def test_a_text_of_another_source_is_its_own_all_the_same(policy, source):
    rows = [Sample(f"d{i}", {"document": f"글 {i}"}, i % 2, source=f"신문 {i % 3}") for i in range(9)]
    rows += [Sample(f"e{i}", {"document": text}, 0, source=f"잡지 {i}") for i, text in enumerate(SAME)]
    rows += [Sample("own", {"document": "다른 글"}, 1, source="신문 가")]
    pool = Pool(tuple(rows), 2, "document")
    sample = Sample("s", {"document": "같은 글"}, 0, source=source)
    assert pool.duplicates([sample]) == len(SAME) + bool(source)
    for seed in range(12):
        shown = [rows[i].id for i in renderer_of(pool_draw(policy, pool), 9).demonstrations(sample, seed, 9)]
        assert len(shown) == 9 and not {"e0", "e1", "e2"} & set(shown)
        assert not source or "own" not in shown
    # Replicas work it out for themselves.
    assert "by_origin" not in pickle.loads(pickle.dumps(pool)).__dict__


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_set_is_the_beginning_of_the_larger_one(policy, balanced):
    renderer = renderer_of(pool_draw(policy, balanced=balanced))
    for sample in samples_of(20):
        whole = list(renderer.demonstrations(sample, seed=3, k=32))
        assert len(set(whole)) == 32
        for k in (0, 1, 2, 4, 7, 16, 31):
            assert list(renderer.demonstrations(sample, 3, k)) == whole[:k]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_and_sample_give_the_same_set_in_any_order_of_samples(policy):
    samples = samples_of(40)
    shuffled = random.Random(0).sample(samples, 40)
    first = renderer_of(pool_draw(policy))
    second = renderer_of(pool_draw(policy))
    forward = {s.id: list(first.demonstrations(s, 5, 8)) for s in samples}
    backward = {s.id: list(second.demonstrations(s, 5, 8)) for s in shuffled}
    assert forward == backward


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_grids_largest_k_does_not_change_smaller_sets(policy, balanced):
    small = renderer_of(pool_draw(policy, balanced=balanced), largest_k=4)
    large = renderer_of(pool_draw(policy, balanced=balanced), largest_k=32)
    for sample in samples_of(20):
        assert list(small.demonstrations(sample, 1, 4)) == list(large.demonstrations(sample, 1, 4))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_grid_with_k_4_shows_the_first_four_of_a_grid_with_k_32(make_config, policy):
    shown = []
    for largest in (4, 32):
        config = make_config(grid={"k": [largest], "templates": ["lecture_1"]}, demos={"policy": policy})
        prepared = prepare(config)
        renderer = prepared.renderer(prepared.models[0], "lecture_1", 1234)
        shown.append([list(renderer.demonstrations(s, 1234, largest))[:4] for s in prepared.data.samples[:50]])
    assert shown[0] == shown[1]


@pytest.mark.parametrize("policy", POLICIES)
def test_different_seeds_give_different_sets(policy):
    renderer = renderer_of(pool_draw(policy))
    sample = samples_of(1)[0]
    sets = {tuple(renderer.demonstrations(sample, seed, 8)) for seed in range(10)}
    assert len(sets) == 10


def test_streams_differ_by_policy_as_their_names_say():
    samples = samples_of(400)

    def sets(policy):
        renderer = renderer_of(pool_draw(policy), largest_k=4)
        return {tuple(renderer.demonstrations(s, 1, 4)) for s in samples}

    assert len(sets("fixed")) == 1
    assert len(sets("bank")) == 8
    assert len(sets("per_sample")) == 400


def test_bank_sets_are_used_evenly_and_differ_by_seed():
    used = Counter(BankDraw(8).group(1, f"s{i}") for i in range(4000))
    assert set(used) == set(range(8))
    assert max(used.values()) < 600  # 500 expected, standard deviation 21
    assert [BankDraw(8).group(1, f"s{i}") for i in range(50)] != [BankDraw(8).group(2, f"s{i}") for i in range(50)]


def test_every_demonstration_is_equally_likely_at_every_place():
    """12 rows, 6,000 streams: each row is first 500 times, give or take 21."""
    draw = pool_draw("per_sample", pool_of(12))
    rankings = [draw.ranking(f"per_sample:1:s{i}", 12) for i in range(6000)]
    assert all(sorted(r) == list(range(12)) for r in rankings)
    for place in (0, 5, 11):
        counts = Counter(r[place] for r in rankings)
        assert all(400 < counts[i] < 600 for i in range(12))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_samples_own_text_is_never_shown_to_it(policy, balanced):
    """All test texts stand in the pool too, some of them several times."""
    rows = [Sample(f"d{i}", {"document": f"글 {i % 30}"}, i % 2) for i in range(60)]
    pool = Pool(tuple(rows), 2, "document")
    renderer = renderer_of(pool_draw(policy, pool, balanced), largest_k=24)
    met = 0
    for i in range(30):
        sample = Sample(f"s{i}", {"document": f"글 {i}"}, 0)
        whole = list(renderer.demonstrations(sample, 2, 24))
        met += set(whole) != set(renderer.draw.ranking(renderer.draw.policy.stream_key(2, sample.id), 24))
        assert len(set(whole)) == 24
        assert all(rows[index].fields["document"] != f"글 {i}" for index in whole)
        for k in (1, 3, 8, 23):
            assert list(renderer.demonstrations(sample, 2, k)) == whole[:k]
    assert met >= 10, "the own text must have come up, or nothing was tested"


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_balanced_classes_differ_by_at_most_one_at_every_k(policy, n_classes):
    pool = pool_of(90, n_classes)
    renderer = renderer_of(pool_draw(policy, pool, balanced=True), largest_k=20)
    for sample in samples_of(10):
        whole = renderer.demonstrations(sample, 1, 20)
        for k in range(1, 21):
            counts = Counter(pool.samples[i].gold for i in whole[:k])
            assert max(counts.values()) - min(counts[c] for c in range(n_classes)) <= 1


def test_balanced_prompts_do_not_always_begin_with_the_same_class():
    pool = pool_of(60)
    renderer = renderer_of(pool_draw("per_sample", pool, balanced=True), largest_k=2)
    firsts = Counter(pool.samples[renderer.demonstrations(s, 1, 1)[0]].gold for s in samples_of(200))
    assert min(firsts[0], firsts[1]) > 60


def test_the_whole_pool_can_be_asked_for():
    draw = pool_draw("fixed", pool_of(10))
    assert sorted(draw.ranking("fixed:1", 10)) == list(range(10))


def test_the_lecture_stream_is_one_sequence_over_test_positions():
    """Re-implemented: the notebook seeds once and calls random.sample for each test row in turn."""
    rows = list("abcdefghijklmnopqrstuvwxyz")
    random.seed(1234)
    expected = [random.sample(rows, 10) for _ in range(500)]
    ids = [f"s{i}" for i in range(500)]
    drawn = LectureDraw().table(26, ids, 1234, [0, 4, 10])
    assert [[rows[i] for i in drawn[name, 10]] for name in ids] == expected
    assert set(drawn) == {(name, k) for name in ids for k in (4, 10)}
    assert LectureDraw().table(26, ids, 1235, [0, 4, 10]) != drawn


def test_every_policy_that_may_be_configured_is_a_draw_and_says_what_holds_of_its_sets():
    """What the plan takes from a policy's facts, found again in its sets."""
    samples = samples_of(60)
    for name in KNOWN:
        policy = draw_of(DemosConfig(policy=name, bank_size=8))
        draw = PoolDraw(pool_of(60), policy)
        table = draw.table(samples, 1, [4])
        assert (table is not None) == policy.is_sequential
        renderer = renderer_of(draw, largest_k=4, lecture=table)
        sets = {s.id: tuple(renderer.demonstrations(s, 1, 4)) for s in samples}
        assert (len(set(sets.values())) == 1) == policy.serves_all_alike
        assert (len(set(sets.values())) < 30) == policy.shares_trunk
        groups = {s.id: policy.group(1, s.id) for s in samples}
        assert (len(set(groups.values())) > 1) == policy.groups_samples
        if policy.groups_samples:
            assert len(set(zip(groups.values(), sets.values(), strict=True))) == len(set(groups.values()))


def test_a_pool_that_is_too_small_names_k_and_size():
    with pytest.raises(ConfigError, match=r"grid\.k asks for 11 demonstrations, but the pool has 10"):
        pool_of(10).check_size(11, balanced=False, spare=0)
    with pytest.raises(ConfigError, match=r"the pool has 10 \(2 may belong to the test sample\)"):
        pool_of(10).check_size(9, balanced=False, spare=2)
    pool_of(10).check_size(10, balanced=False, spare=0)
    pool_of(0).check_size(0, balanced=True, spare=0)


def test_a_class_that_is_too_small_for_balance_is_named():
    rows = [Sample(str(i), {"document": str(i)}, int(i >= 7)) for i in range(10)]
    pool = Pool(tuple(rows), 2, "document")
    pool.check_size(6, balanced=True, spare=0)
    with pytest.raises(ConfigError, match="needs 4 demonstrations of class 1, but the pool has 3"):
        pool.check_size(7, balanced=True, spare=0)


def test_duplicates_count_the_rows_that_one_test_text_may_cost():
    rows = [Sample(str(i), {"document": text}, 0) for i, text in enumerate(["", "a", "", "b", ""])]
    pool = Pool(tuple(rows), 1, "document")
    assert pool.duplicates([Sample("s", {"document": "b"}, 0)]) == 1
    assert pool.duplicates([Sample("s", {"document": ""}, 0), Sample("t", {"document": "a"}, 0)]) == 3
    assert pool.duplicates([Sample("s", {"document": "zzz"}, 0)]) == 0


@pytest.mark.parametrize("policy", [*POLICIES, "lecture"])
def test_prepare_refuses_a_pool_smaller_than_k(write_nsmc, make_config, policy):
    train = [(i, f"가나 {'다라마바사'[i % 5]}{i}", i % 2) for i in range(6)]
    folder = write_nsmc(train, [(100, "하하", 1)])
    config = make_config(task={"data_dir": str(folder)}, grid={"k": [0, 7]}, demos={"policy": policy})
    with pytest.raises(ConfigError, match=r"asks for 7 demonstrations, but the pool has \d"):
        prepare(config)


def test_demonstrations_are_at_most_max_tokens_long(make_config, ko_tokenizer):
    prepared = prepare(make_config(demos={"max_tokens": 9}))
    setup = prepared.models[0]
    raw = dict(zip((s.id for s in prepared.data.pool), prepared.data.raw_pool_texts, strict=True))
    expected = [i for i, text in raw.items() if len(ko_tokenizer(text)["input_ids"]) <= 9]
    assert [s.id for s in setup.draw.pool.samples] == expected
    assert 0 < len(expected) < len(raw)
