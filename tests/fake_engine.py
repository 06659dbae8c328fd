"""An engine without a model: what it says follows from texts alone. A replica's environment steers it:

FAKE_SECONDS    the time that one call takes
FAKE_SLOW       `KEY:SECONDS`: the time of calls with that prompt, see `key`
FAKE_JOURNAL    a file that gets a line when a prompt is begun: its key, process and node
FAKE_NO_MODEL   set where the model does not load
FAKE_DEADLY     a file with a number: so many times loading kills the process, as long as it exists
"""

import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import ray
from transformers import PreTrainedTokenizerFast

from harness.core.errors import ModelError
from harness.engine.protocol import EngineFacts, Generations, LoadedEngine, ModelDescription, Scores


def key(prompt):
    return hashlib.blake2b(prompt.text.encode(), digest_size=8).hexdigest()


class FakeModel(LoadedEngine):
    facts = EngineFacts("cpu", "float32")

    def work(self, prompts):
        slow, _, seconds = os.environ.get("FAKE_SLOW", "").partition(":")
        keys = [key(prompt) for prompt in prompts]
        if journal := os.environ.get("FAKE_JOURNAL"):
            node = ray.get_runtime_context().get_node_id()
            with open(journal, "a") as file:
                file.write("".join(f"{name} {os.getpid()} {node}\n" for name in keys))
        time.sleep(float(seconds if slow in keys else os.environ.get("FAKE_SECONDS", 0)))
        return [[byte / 256 for byte in bytes.fromhex(name)] for name in keys]

    def score(self, prompts, prepared=None):
        shares = np.array(self.work(prompts))
        return Scores(-shares[:, : len(prompts[0].label_ids)], np.zeros(len(prompts), int), shares[:, -1], len(prompts))

    def generate(self, prompts, ending):
        self.work(prompts)
        return Generations([p.ids[-ending.max_new_tokens :] for p in prompts], ["length"] * len(prompts), 0, 0)


class FakeEngine:
    def describe(self, model):
        return ModelDescription(model, PreTrainedTokenizerFast.from_pretrained(model.path))

    def open(self, model, settings):
        if "FAKE_NO_MODEL" in os.environ:
            raise ModelError(f"'{model.path}' has no weights on this node")
        deadly = Path(os.environ.get("FAKE_DEADLY", "nowhere"))
        if deadly.exists() and (left := int(deadly.read_text())):
            deadly.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return FakeModel()


ENGINE = FakeEngine()
