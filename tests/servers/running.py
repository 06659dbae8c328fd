"""What tests of the engine `server` share: a chatty copy of the embedded model, servers that end with their test."""

import json
import shutil

import numpy as np
import pytest

from harness import load_records
from harness.config.loading import load_config
from tests.conftest import KO_TINY, REPO
from tests.servers.loopback import Loopback
from tests.servers.model import Model

SMALL = ["task.limit=8", "grid.templates=[lecture_1,good_bad]", "grid.k=[0,2]", "grid.seeds=[1]"]
WORDINGS = REPO / "tests" / "servers" / "chats.yaml"
CHAT = ["task.limit=8", f"task.templates_file={WORDINGS}", "grid.templates=[turns]", "grid.k=[2,4]", "grid.seeds=[1]"]
KEYS = ["template", "k", "seed", "sample_id"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ '\n정답:' if m['role'] == 'user' else '\n\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """The embedded model with a chat template."""
    folder = tmp_path_factory.mktemp("model") / "chatty"
    shutil.copytree(KO_TINY, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="module")
def model(chatty):
    return Model(chatty)


@pytest.fixture
def serve():
    """Starts servers, and closes them."""
    started = []

    def start(answer, **settings):
        started.append(Loopback(answer, **settings))
        return started[-1]

    yield start
    for server in started:
        server.close()


def config(out, name, *overrides):
    given = [f"out={out}", f"name={name}", "cluster.address=inline", *overrides]
    return load_config("configs/demo.yaml", given)


def at(server, path, served="tiny"):
    return ["model.engine=server", f"model.path={path}", f"model.base_url={server.url}", f"model.served_name={served}"]


def records(directory):
    return load_records(directory).sort_values(KEYS).reset_index(drop=True)


def assert_equal(found, expected):
    assert found["error"].isna().all(), found["error"].dropna().iloc[0]
    assert (found[KEYS] == expected[KEYS]).all(axis=None)
    logprobs = [np.stack(part["label_logprobs"]) for part in (found, expected)]
    assert np.abs(logprobs[0] - logprobs[1]).max() < 1e-4
    assert np.abs(found["off_label_mass"] - expected["off_label_mass"]).max() < 1e-4
    for column in ("prediction", "argmax_token", "argmax_text", "greedy_prediction", "n_prompt_tokens"):
        assert found[column].equals(expected[column]), column
