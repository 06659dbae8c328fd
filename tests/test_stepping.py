"""Decoding steps that are recorded once and replayed give the library's own answers."""

import logging

import pytest
import torch

from harness.engine.local.attention.cascade import reference_varlen
from harness.engine.local.attention.stepping import Stepper
from harness.engine.local.generator import Generator
from harness.engine.local.scorer import Scorer
from tests.models import RANDOM_MODELS
from tests.recording import recorded
from tests.scoring import random_grid
from tests.test_generator import NEW, never, one_by_one


@pytest.fixture
def contexts():
    return random_grid(seed=31, n_queries=3)[0]


class Counting:
    """Records steps, and counts what is launched and what is replayed."""

    def __init__(self, generator, monkeypatch):
        self.launched = self.recorded = self.replayed = 0
        self.stepper = None
        generator.varlen, generator.record, generator.least_left = reference_varlen, self.record, 0.5
        straight = Stepper.step

        def step(stepper):
            self.stepper = stepper
            return straight(stepper)

        monkeypatch.setattr(Stepper, "step", step)
        monkeypatch.setattr(Stepper, "advance", self.counted(Stepper.advance))

    def counted(self, advance):
        def launch(stepper):
            self.launched += 1
            advance(stepper)

        return launch

    def record(self, call):
        self.recorded += 1
        state, stepper = self.stepper.state, self.stepper
        tails = [x for pair in state.tails.values() for x in pair]
        replay = recorded(call, [stepper.tokens, stepper.positions, *state.lengths.values(), *tails])
        self.launched -= 1

        def count():
            self.replayed += 1
            replay()

        return count


@pytest.mark.parametrize("kind", RANDOM_MODELS)
def test_replayed_steps_answer_as_the_library(random_models, contexts, kind, monkeypatch):
    model = random_models[kind]
    generator = Generator(Scorer(model, 512, True))
    counts = Counting(generator, monkeypatch)
    assert generator.generate(contexts, NEW, never).tokens == one_by_one(model, contexts)
    assert (counts.launched, counts.recorded, counts.replayed) == (1, 1, NEW - 2)


def test_sequences_that_end_are_dropped_when_half_are_gone(random_models, contexts, monkeypatch):
    model = random_models["llama"]
    free = one_by_one(model, contexts)
    generator = Generator(Scorer(model, 512, True))
    counts = Counting(generator, monkeypatch)
    found = generator.generate(contexts, NEW, lambda ids: sum(ids) % 7 == 0)
    for tokens, reason, whole in zip(found.tokens, found.reasons, free, strict=True):
        stops = [n for n in range(1, NEW + 1) if sum(whole[:n]) % 7 == 0]
        assert tokens == whole[: stops[0] if stops else NEW]
        assert reason == ("stop" if stops else "length")
    assert counts.recorded > 1
    assert counts.replayed > 0


def test_tails_that_grow_into_the_next_step_are_recorded_anew(random_models, monkeypatch):
    monkeypatch.setattr("harness.engine.local.attention.decoding.TAIL_STEP", 16)
    model = random_models["llama"]
    contexts = [[5, 6, 7, 8], [9, 10, 11, 12, 13], [5, 6, 7, 9]]
    generator = Generator(Scorer(model, 512, True))
    counts = Counting(generator, monkeypatch)
    assert generator.generate(contexts, 40, never).tokens == one_by_one(model, contexts, 40)
    assert counts.recorded == counts.launched == 3


def test_steps_that_cannot_be_recorded_are_launched_one_by_one(random_models, contexts, monkeypatch, caplog):
    model = random_models["qwen3"]
    generator = Generator(Scorer(model, 512, True))
    generator.varlen = reference_varlen

    def refuse(call):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    generator.record = refuse
    with caplog.at_level(logging.WARNING):
        found = generator.generate(contexts, NEW, never)
    assert found.tokens == one_by_one(model, contexts)
    assert [r.message for r in caplog.records if "recorded" in r.message] == [
        "decoding steps cannot be recorded, each is launched anew: "
        "CUDA error: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: unknown")])
def test_other_errors_while_recording_are_raised(random_models, error):
    generator = Generator(Scorer(random_models["qwen3"], 32, True))
    generator.varlen = reference_varlen

    def fail(call):
        raise error

    generator.record = fail
    with pytest.raises(type(error), match=str(error)):
        generator.generate([[1, 2, 3]], NEW, never)
