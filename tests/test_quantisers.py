"""Quantised checkpoints whose package is missing."""

from __future__ import annotations

import json
import shutil

import pytest

from harness.core.errors import ModelError
from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.engine.local.quantisers import check_quantiser


@pytest.mark.parametrize(
    ("kind", "package"),
    [("bitsandbytes", "bitsandbytes"), ("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("hqq", "hqq")],
)
def test_a_quantised_checkpoint_names_the_package_that_is_missing(tmp_path, model_folders, kind, package):
    folder = tmp_path / "quantised"
    shutil.copytree(model_folders["llama"], folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": kind, "bits": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=rf"quantised by {kind}, .* pip install .*{package}"):
        load_engine(ModelSpec(str(folder), dtype="float32", device="cpu"), True, 256, 40, 1)


def test_a_checkpoint_that_is_not_quantised_needs_no_package():
    check_quantiser("it", object())
