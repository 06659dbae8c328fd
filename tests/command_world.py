"""Where commands of a page are run: a folder as a reader has it after `make demo`, and stand-ins.

The embedded model stands for a model of one's own, small files for downloaded ones, a server of this machine for a
rented one.
"""

import json
import re
import shutil
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from harness.cli import app
from tests import commands
from tests.conftest import DEMO, KO_TINY, REPO
from tests.encoders import random_encoder
from tests.servers.loopback import Loopback
from tests.servers.model import Model
from tests.servers.vllm import Vllm

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
SERVER = "http://localhost:8000/v1"
LIMIT = 8
"""Samples of a run, where the page says no fewer."""
SMALL = ("run", "demo", "race", "plan", "prompts", "audit")
"""Verbs that take a configuration, and so a number of samples."""


@contextmanager
def stand_ins(folder):
    """What takes the place of names that pages leave to the reader."""
    chat = folder / "chat"
    shutil.copytree(KO_TINY, chat)
    (chat / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    encoder = random_encoder(folder / "encoder")
    server = Loopback(AnyName(Model(KO_TINY)))
    yield {
        "/models/my-model": str(KO_TINY),
        "/models/kanana": str(KO_TINY),
        "/models/my-instruct-model": str(chat),
        "beomi/KcELECTRA-base-v2022-nsmc": str(encoder),
        "klue/roberta-base": str(encoder),
        "/data/kobest/boolq": "boolq",
        "task.data_dir=FOLDER": "task.data_dir=data_in/nsmc",
        "finetune.sizes=[50,200,1000,5000]": "finetune.sizes=[50,100]",
        SERVER: server.url,
    }
    server.close()


class AnyName(Vllm):
    """A server that has every model."""

    def __call__(self, method, path, body):
        if path == "/v1/models":
            names = ("my-model", "kanana", str(KO_TINY), "data_in/models/ko-tiny")
            listed = [{"id": name, "object": "model", "max_model_len": 2048} for name in names]
            return {"object": "list", "data": listed}
        self.name = (body or {}).get("model", self.name)
        return super().__call__(method, path, body)


def run(words, folder, variables=()):
    """The verb in this process, in a folder; its output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for path in dict(variables).get("PYTHONPATH", "").split(":"):
            patch.syspath_prepend(str(folder / path))
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"harness {' '.join(words)}: {done.output[-2000:]} {done.exception!r}"
    return done.output


def adapted(words, stand_ins):
    """A command as it is run here: stand-ins, few samples, no Ray."""
    words = [replaced(word, stand_ins) for word in words]
    if words[0] not in SMALL:
        return words
    limits = [int(word.split("=")[1]) for word in words if word.startswith("task.limit=")]
    words = [word for word in words if not word.startswith("task.limit=")]
    words.append(f"task.limit={max(4, min(LIMIT, 4 + limits[0] // 250)) if limits else LIMIT}")
    if not any(word.startswith("cluster.address=") for word in words):
        words.append("cluster.address=inline")
    configured = [word for word in words if word.startswith(("model.path=", "model.engine="))]
    if not configured and any(word in ("configs/nsmc_grid.yaml", "configs/lecture.yaml") for word in words):
        words.append(f"model.path={KO_TINY}")
    return words


def replaced(word, stand_ins):
    for name, path in stand_ins.items():
        word = word.replace(name, path) if not name.startswith("/models") else re.sub(rf"{name}(?![\w-])", path, word)
    return word


def finish(folder):
    """What `make demo` leaves, of few samples, and three runs more, in a folder."""
    english = ["grid.templates=[english]", "grid.seeds=[1]"]
    others = {"other": english, "a": english, "b": [*english, "demos.balanced=true"]}
    for name, more in {"demo": [], **others}.items():
        small = [f"task.limit={LIMIT}", "cluster.address=inline", f"name={name}", f"out={folder}", *more]
        run(["run", str(REPO / "configs" / "demo.yaml"), *small], REPO)
    return folder


def settle(folder, page, finished):
    """Lay out the folder in which a reader of a page stands."""
    for name in ("configs", "examples", "clusters", "tasks"):
        (folder / name).symlink_to(REPO / name)
    (folder / "data_in").mkdir()
    downloads = {"nsmc": DEMO, **dict.fromkeys(("korquad1", "korquad2"), REPO / "data_in" / "korquad_demo")}
    there = {path.name: path for path in (REPO / "data_in").iterdir()}
    for name, path in (there | downloads).items():
        (folder / "data_in" / name).symlink_to(path)
    shutil.copytree(finished, folder / "data_out")
    reviews = [line.split("\t") for line in (DEMO / "ratings_test.txt").read_text(encoding="utf-8").splitlines()[1:41]]
    rows = [f'{i},"{text}",{("negative", "positive")[int(label)]}' for i, text, label in reviews]
    write(folder / "reviews.csv", "number,text,sentiment", *rows)
    questions = [f"{n} 더하기 1은?" for n in range(20)]
    rows = (f"{n},{question},{n + 1}" for n, question in enumerate(questions))
    write(folder / "questions.csv", "id,question,answer", *rows)
    rows = (f"{n},{question},{n},{n + 1},{n + 2},모름,B" for n, question in enumerate(questions))
    write(folder / "quiz.csv", "no,question,A,B,C,D,answer", *rows)
    (folder / "my_click").mkdir()
    click = [{"id": str(n), "paragraph": "", "question": question, "choices": [str(n), str(n + 1), "모름", "없음"],
              "answer": str(n + 1)} for n, question in enumerate(questions)]  # fmt: skip
    (folder / "my_click" / "test.json").write_text(json.dumps(click, ensure_ascii=False), encoding="utf-8")
    (folder / "boolq").mkdir()
    for part in ("train", "test"):
        lines = [json.dumps({"paragraph": f"{part} {n}은 수입니다.", "question": f"{n}은 수인가요?", "label": n % 2},
                            ensure_ascii=False) for n in range(20)]  # fmt: skip
        write(folder / "boolq" / f"{part}.jsonl", *lines)
    _, _, fenced = commands.parts((REPO / page).read_text(encoding="utf-8"))
    for language, body in fenced:
        if language == "yaml" and (name := re.match(r"# ([\w.]+\.yaml)\n", body)):
            (folder / name[1]).write_text(body, encoding="utf-8")


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
