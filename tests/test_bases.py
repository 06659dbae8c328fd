"""What a learner begins with is the checkpoint's own, and what is read only in part is counted."""

import dataclasses

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

from harness.config.loading import config_from
from harness.config.schema import FinetuneConfig, ModelEntry
from harness.core.errors import ConfigError, ModelError
from harness.engine.learning import Example, Lesson
from harness.engine.local.encoders.probe import open_probe
from harness.engine.local.encoders.training import Trainee, open_trainee
from harness.engine.protocol import OpenSettings
from harness.planning.curve import set_up_curve
from harness.planning.preparation import prepare
from tests.conftest import KO_TINY
from tests.encoders import random_encoder

SETTINGS = OpenSettings(threads=1)


def entry(folder):
    return ModelEntry(str(folder), "base", device="cpu")


def without(folder, part):
    """The checkpoint without the tensors whose names hold a text."""
    file = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if part not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def lesson(folder):
    examples = [Example(("좋다",), 1), Example(("싫다",), 0)]
    return Lesson(examples, examples, 2, 0, 1e-3, folder / "training")


@pytest.mark.parametrize(("head", "part"), [(BertModel, "encoder.layer.1"), (BertForMaskedLM, "embeddings")])
def test_a_base_whose_layers_would_be_random_is_refused(tmp_path, head, part):
    base = without(random_encoder(tmp_path / "base", head=head), part)
    with pytest.raises(ModelError, match="missing, which would be random: "):
        open_probe(entry(base), SETTINGS)
    with pytest.raises(ModelError, match="missing, which would be random: "):
        open_trainee(entry(base), SETTINGS, Trainee.FINETUNED).learn(lesson(tmp_path))


def test_a_base_that_other_code_has_wrapped_is_refused_with_the_remedy(tmp_path):
    base = random_encoder(tmp_path / "base", head=BertModel)
    file = base / "model.safetensors"
    save_file({f"module.{n}": t for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"take 'module\.' off the names"):
        open_probe(entry(base), SETTINGS)


@pytest.mark.parametrize("head", [BertModel, BertForMaskedLM])
def test_what_stands_on_an_encoder_may_be_new(tmp_path, head):
    base = random_encoder(tmp_path / "base", head=head)
    assert open_probe(entry(base), SETTINGS).embedder.embed([("좋다",)])[0].shape == (1, 32)
    trainee = open_trainee(entry(base), SETTINGS, Trainee.FINETUNED)
    model, _ = trainee._begin(lesson(tmp_path))
    assert model.num_labels == 2


def asked(tmp_path, more, text="좋은 영화였다. "):
    rows = "".join(f"{n},{text * (1 + 40 * (n % 4 == 0))}{n},{n % 2}\n" for n in range(40))
    (tmp_path / "test.csv").write_text(f"id,text,label\n{rows}", encoding="utf-8")
    (tmp_path / "t.yaml").write_text('t: {query: "{text}\\n답:", labels: [" 0", " 1"]}', encoding="utf-8")
    values = {
        "name": "x",
        "out": str(tmp_path),
        "model": {"path": str(KO_TINY)},
        "task": {
            "name": "table",
            "data_dir": str(tmp_path),
            "templates_file": str(tmp_path / "t.yaml"),
            "options": {"label": "label", "id": "id", "fields": ["text"]},
        },
        "grid": {"templates": ["t"], "k": [0]},
        "demos": {"max_tokens": None},
    }
    return prepare(config_from({**values, **more}))


def learning(**more):
    return {"finetune": {"sizes": [8], "seeds": [1], **more}}


def test_a_base_that_has_learned_to_classify_is_refused(tmp_path):
    base = random_encoder(tmp_path / "base", head=BertForSequenceClassification)
    with pytest.raises(ModelError, match=r"\(BertForSequenceClassification\) has learned to classify already"):
        asked(tmp_path, learning(base=str(base)))


def test_samples_that_are_read_only_in_part_are_counted(tmp_path):
    base = random_encoder(tmp_path / "base", head=BertModel)
    done = random_encoder(tmp_path / "done", labels=("0", "1"))
    prepared = asked(tmp_path, {"references": [{"path": str(done), "name": "done"}], **learning(base=str(base))})
    n_long = sum(len(sample.fields["text"]) > 100 for sample in prepared.data.samples)
    n = len(prepared.data.samples)
    counted = [note for note in prepared.notes if f"reads {n_long} of {n} samples only up to its 64 tokens" in note]
    assert [note.split(" reads")[0].split("; ")[-1] for note in counted] == [
        "reference done", "finetune: probe", "finetune: finetuned",
    ]  # fmt: skip
    scratch = asked(tmp_path, learning(methods=["tfidf", "scratch"])).notes
    assert [note for note in scratch if "reads" in note] == [
        f"finetune: scratch reads {n_long} of {n} samples only up to its 160 tokens: they are longer"
    ]


def test_examples_that_share_an_id_are_refused(tmp_path):
    prepared = asked(tmp_path, {})
    rows = [*prepared.data.pool, dataclasses.replace(prepared.data.pool[0], fields={"text": "다른 글"})]
    data = dataclasses.replace(prepared.data, pool=rows)
    config = dataclasses.replace(prepared.config, finetune=FinetuneConfig(sizes=[4], seeds=[1], methods=["tfidf"]))
    with pytest.raises(ConfigError, match=f"has '{rows[0].id}' more than once; expected an id of its own"):
        set_up_curve(config, prepared.task, data)
