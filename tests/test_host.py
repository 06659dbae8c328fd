"""What else runs on the host does not hold up the launches of a GPU, and what a model leaves can be collected."""

import gc
import sys
import weakref

import pytest
import torch

from harness.engine.local import opening
from harness.engine.local.host import COLLECT_AFTER, SWITCH_S, favour_launches, let_go
from harness.engine.local.loading import ModelSpec
from tests.conftest import KO_TINY


@pytest.fixture(autouse=True)
def as_before():
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_threads_take_turns_often_and_collections_leave_out_what_is_there():
    favour_launches()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold()[0] == COLLECT_AFTER


def test_an_earlier_model_goes_when_another_is_loaded():
    class Cyclic:
        pass

    model = Cyclic()
    model.itself = model
    gone = weakref.ref(model)
    favour_launches()
    del model
    gc.collect()
    assert gone() is not None, "it was frozen"
    let_go()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_replica_with_a_gpu_is_set_so(monkeypatch, device):
    calls = []
    monkeypatch.setattr(opening, "let_go", lambda: calls.append("let go"))
    monkeypatch.setattr(opening, "favour_launches", lambda: calls.append("favour"))
    scorer = opening.Scorer

    def made(*arguments):
        found = scorer(*arguments)
        found.device = torch.device(device)
        return found

    monkeypatch.setattr(opening, "Scorer", made)
    monkeypatch.setattr(opening, "_device_name", str)
    opening.load_engine(ModelSpec(str(KO_TINY), device="cpu"), False, 256, 100, None)
    assert calls == ["let go", *(["favour"] if device == "cuda" else [])]
