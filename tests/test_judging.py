"""What a task says of a prompt or an answer is a class or a finite number, or its sample has failed."""

import numpy as np
import pytest

from harness.config.schema import GenerationConfig
from harness.core.task import LabelScores, Sample, Task
from harness.planning.units import WorkUnit
from harness.prompts.prompt import Prompt
from harness.running.judging import Judge, NoJudgementError, answer_values, predicted

SCORES = LabelScores((-1.0, -2.0), (1, 1), 5, 0.0)
SAMPLE = Sample("s", {"text": "글"}, gold=1, answers=("서울",))


def task_of(**how):
    return Task("mine", "1", "", None, (), lambda config: None, **how)


def prompt():
    return Prompt(SAMPLE, 0, ("글",), [1], ((2,), (3,)), 0, (" 가", " 나"), None, None, False)


@pytest.mark.parametrize("found", [0.7, 1.0, np.float64(0.2), True, "1", None, 2, -2, float("nan")])
def test_a_score_that_is_no_class_is_no_prediction(found):
    task = task_of(class_names=("가", "나"), score=lambda scores: found)
    with pytest.raises(NoJudgementError, match=r"task 'mine': its score gave .*, expected the index of one of its 2"):
        predicted(task, prompt(), SCORES)


@pytest.mark.parametrize("found", [0, 1, np.int64(1), np.argmax([1, 2]), -1])
def test_classes_and_none_of_them_are_predictions(found):
    task = task_of(class_names=("가", "나"), score=lambda scores: found)
    assert predicted(task, prompt(), SCORES) == int(found)
    assert type(predicted(task, prompt(), SCORES)) is int


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan"), "0.5"])
def test_a_metric_that_gives_no_number_is_named(value):
    task = task_of(answer_metrics={"f1": lambda answer, sample: 1.0, "mine": lambda answer, sample: value})
    with pytest.raises(NoJudgementError, match=r"task 'mine': its metric 'mine' gave .*, expected a finite number"):
        answer_values(task, "서울", SAMPLE)


def test_truth_values_and_numbers_of_numpy_are_values():
    metrics = {"a": lambda answer, sample: answer == sample.answers[0], "b": lambda answer, sample: np.float32(0.5)}
    assert answer_values(task_of(answer_metrics=metrics), "서울", SAMPLE) == [1.0, 0.5]


def test_the_sample_has_failed_and_says_why(monkeypatch):
    task = task_of(class_names=("가", "나"), score=lambda scores: 0.7)
    judge = Judge(task, type("Tokens", (), {"decode_token": lambda self, token: "가"})(), GenerationConfig())
    unit = WorkUnit("u", "m", "mine", "t", 1, (0,), 0, ("key",))
    found = type("Scores", (), {
        "logprobs": np.array([[-1.0, -2.0]]), "argmax": np.array([5]), "off_label_mass": np.zeros(1),
        "argmax_texts": None,
    })()  # fmt: skip
    (record,) = judge.by_labels(unit, [prompt()], found)
    assert record.prediction is None and record.error_type == "NoJudgementError" and "gave 0.7" in record.error
