"""Groups: several tasks in one command, each a run of its own, and one set of figures."""

import json
import signal

import pytest
import yaml

from harness.analysis.grouped import group_figures
from harness.config.groups import load_group
from harness.config.loading import config_of
from harness.core.errors import ConfigError, DataError, Interrupted, RunDirError
from harness.planning.grouping import members_of
from harness.planning.preparation import prepare
from harness.reporting.report.group import write_group_report
from harness.results.groups import read_group
from harness.results.manifest import read_manifest
from harness.results.store import RunStore
from harness.running import group as running
from tests.conftest import KO_TINY, SHARED

TEMPLATES = """
plain: {query: "{text}\\n평가:", labels: [" 나쁨", " 좋음"], separator: "\\n"}
question: {query: "{text}\\n좋은가?", labels: [" 아니", " 그래"], separator: "\\n"}
"""
WORDS = ["최고의 영화", "정말 지루하다", "배우가 좋다", "돈이 아깝다", "다시 볼 것이다", "잠만 잤다"]


def table(path, parts, n=24):
    rows = [f"{WORDS[i % 6]} {i},{('good', 'bad')[i % 2]},{parts[i % len(parts)]}" for i in range(n)]
    path.write_text("\n".join(["text,label,kind", *rows]) + "\n", encoding="utf-8")


def make_group(tmp_path):
    """A group of two tasks; one has the parts `film` and `tv show`."""
    (tmp_path / "templates.yaml").write_text(TEMPLATES, encoding="utf-8")
    for name, parts in (("shows", ["film", "tv show"]), ("books", ["all"])):
        table(tmp_path / f"{name}.csv", parts)
        config = {
            "name": name,
            "task": {
                "name": "table",
                "data_dir": str(tmp_path / f"{name}.csv"),
                "templates_file": str(tmp_path / "templates.yaml"),
                "options": {"label": "label", "classes": ["bad", "good"], "parts": "kind", "pool_share": 0.2},
            },
            "grid": {"templates": ["plain", "question"], "k": [0], "seeds": [1]},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    group = {
        "name": "both",
        "out": str(tmp_path / "out"),
        "tasks": ["shows/*", "books"],
        "model": {"path": str(KO_TINY), "dtype": "float32"},
        "cluster": {"address": "inline"},
    }
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    return make_group(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder and the group that was run in it."""
    folder = make_group(tmp_path_factory.mktemp("group"))
    return folder, running.run_group(group_of(folder, "task.limit=8"))


def group_of(folder, *overrides):
    return load_group(folder / "group.yaml", overrides)


def labels(group):
    return [member.label for member in members_of(group)]


def test_a_configuration_without_tasks_is_no_group(folder):
    assert load_group(folder / "books.yaml") is None


def test_parts_are_runs_of_their_own_in_the_folder_of_the_group(folder):
    members = members_of(group_of(folder))
    assert [member.label for member in members] == ["shows/film", "shows/tv show", "books"]
    assert [member.config.run_dir for member in members] == [
        f"{folder}/out/both/{name}" for name in ("shows-film", "shows-tv show", "books")
    ]
    whole = prepare(members_of(group_of(folder, "tasks=[shows]"))[0].config).data
    parts = [prepare(member.config).data for member in members[:2]]
    everyone = sorted(s.id for data in parts for s in [*data.samples, *data.pool])
    assert everyone == sorted(s.id for s in [*whole.samples, *whole.pool])
    assert "shows.csv: 12 left out of other parts than 'film'" in parts[0].notes


def test_patterns_choose_parts(folder):
    assert labels(group_of(folder, "tasks=[shows/f*]")) == ["shows/film"]
    assert labels(group_of(folder, "tasks=['shows/tv show', books/all]")) == ["shows/tv show", "books/all"]


def test_keys_of_the_task_the_group_the_entry_and_the_command_win_in_this_order(folder):
    entry = "{config: books, name: own, task: {limit: 5}, grid: {seeds: [7]}}"
    group = group_of(folder, f"tasks=[books, {entry}]", "demos.bank_size=9", "task.sample_seed=3")
    one, other = (member.config for member in members_of(group))
    assert (one.name, one.task.limit, one.grid.seeds) == ("books", None, [1])
    assert (other.name, other.task.limit, other.grid.seeds) == ("own", 5, [7])
    assert {c.model.path for c in (one, other)} == {str(KO_TINY)}
    assert {(c.demos.bank_size, c.task.sample_seed) for c in (one, other)} == {(9, 3)}
    limited = group_of(folder, f"tasks=[{entry}]", "task.limit=8")
    assert members_of(limited)[0].config.task.limit == 8


def test_configurations_that_come_with_the_package_are_named_without_folder(folder):
    group = group_of(folder, "tasks=[klue_nli, configs/klue_sts.yaml]", "data_root=/data")
    assert [entry.config.task.data_dir for entry in group.entries] == ["/data/klue", "/data/klue"]
    assert [entry.label for entry in group.entries] == ["klue_nli", "klue_sts"]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("[]", "tasks is [], expected a list such as"),
        ("books", "tasks is 'books', expected a list"),
        ("[boks]", "no configuration 'boks'"),
        ("[klue_nil]", "did you mean 'klue_nli'?"),
        ("[3]", "tasks[0] is 3, expected a configuration's name"),
        ("[{config: books, out: x}]", "tasks[0] is"),
        ("[books, books]", "tasks names 'books' twice"),
        ("[shows/film, {config: books, name: shows-film}]", "twice"),
        ("[shows/flm]", "'shows/flm', which no part is; did you mean 'film'?"),
        ("[klue_nli/*]", "'klue_nli' has no parts"),
        ("[{config: books, gird: {k: [0]}}]", "tasks[0] (books): unknown configuration key 'gird'"),
        ("[{config: books/*, task: {options: {parts: knid}}}]", "'knid', but the table has no such column; did you"),
        ("[{config: books/*, task: {options: {parts: '', parts_in_name: '['}}}]", "expected a regular expression"),
        ("[{config: books/*, task: {options: {parts: '', parts_in_name: x+}}}]", "'books.csv' has no part that"),
        ("[{config: books/*, task: {options: {parts_in_name: x}}}]", "are both given, expected one of them"),
    ],
)
def test_a_mistake_in_tasks_is_told_in_one_line(folder, tasks, words):
    with pytest.raises((ConfigError, DataError)) as failure:
        members_of(group_of(folder, f"tasks={tasks}", "data_root=/nowhere"))
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


def test_verbs_for_one_run_refuse_a_group():
    with pytest.raises(ConfigError, match="names tasks, which makes a group"):
        config_of({"tasks": ["klue_nli"]})


def test_every_task_is_checked_before_any_runs(folder, monkeypatch):
    monkeypatch.setattr(running, "run", lambda *args: pytest.fail("a task ran before all were checked"))
    group = group_of(folder, "tasks=[books, {config: shows, grid: {templates: [nope]}}]")
    with pytest.raises(Exception, match=r"shows: .*nope"):
        running.run_group(group)
    assert not (folder / "out").exists()


def test_a_group_runs_resumes_and_is_reported_as_one(finished):
    folder, finished = finished
    runs = read_group(finished.run_dir)
    assert [run.label for run in runs] == ["shows/film", "shows/tv show", "books"]
    assert finished.failed_share == 0
    parts = {path: path.stat().st_mtime_ns for path in folder.glob("out/both/*/parts/*")}
    assert len(parts) >= 6
    running.run_group(group_of(folder, "task.limit=8"))
    assert parts == {path: path.stat().st_mtime_ns for path in folder.glob("out/both/*/parts/*")}
    macro = group_figures(runs)
    by_task = macro.by_task[macro.by_task["label"] == "plain"]
    cells = [result.cells.set_index("template")["accuracy"]["plain"] for _, result in finished.runs]
    assert by_task["mean"].tolist() == pytest.approx(cells)
    assert macro.rows.set_index("label")["mean"]["plain"] == pytest.approx(sum(cells) / 3)
    page = write_group_report(finished.run_dir, runs).read_text(encoding="utf-8")
    assert 'href="shows-tv%20show/report.html"' in page
    assert (folder / "out/both/shows-tv show/report.html").is_file()
    assert "shows/film" in page
    assert "<script" not in page


def test_what_has_not_begun_is_left_out_and_named(folder, monkeypatch):
    real, calls = running.run, []

    def stopped(config, *args):
        calls.append(config.name)
        if len(calls) > 1:
            raise Interrupted(signal.SIGTERM)
        return real(config, *args)

    monkeypatch.setattr(running, "run", stopped)
    with pytest.raises(Interrupted):
        running.run_group(group_of(folder, "task.limit=8"))
    runs = read_group(f"{folder}/out/both")
    macro = group_figures(runs)
    assert macro.tasks["task"].tolist() == ["shows/film"]
    assert macro.notes[0] == "without records, so left out: shows/tv show, books"
    assert "books: no records yet" in write_group_report(f"{folder}/out/both", runs).read_text(encoding="utf-8")


def test_a_run_and_a_group_do_not_share_a_folder(finished):
    folder, finished = finished
    with pytest.raises(RunDirError, match="holds the runs of a group"):
        read_manifest(RunStore(finished.run_dir))
    with pytest.raises(RunDirError, match="is the directory of one run"):
        running.run_group(group_of(folder, f"out={folder}/out/both", "name=books", "tasks=[shows]", "task.limit=8"))
    before = (folder / "out/both/group.json").read_text(encoding="utf-8")
    for damage in ("[]", '{"tasks": [{"label": "x", "folder": "../x"}]}', "{"):
        (folder / "out/both/group.json").write_text(damage, encoding="utf-8")
        with pytest.raises(RunDirError, match="is damaged"):
            read_group(finished.run_dir)
    (folder / "out/both/group.json").write_text(before, encoding="utf-8")


def test_the_verbs_take_a_group(capsys, finished):
    from harness.cli import app

    folder, finished = finished

    def said(*words):
        app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    place = finished.run_dir
    facts = json.loads(said("show", place, "--format", "json"))
    assert {row["label"] for row in facts["rows"][:2]} == {"plain", "question"}
    assert {row["task"] for row in facts["by_task"]} == {"shows/film", "shows/tv show", "books"}
    assert "Macro average over 3 tasks" in said("show", place)
    assert "macro average" in said("show", place, "--format", "csv")
    assert "plain" in said("compare", place, "--baseline", "plain")
    assert said("status", place).count("complete") == 3
    assert said("report", place).strip() == f"{place}/report.html"
    plan = said("plan", folder / "group.yaml", "task.limit=8")
    assert "=== shows/film ===" in plan
    assert "=== 3 tasks: 48 prompts" in plan
    with pytest.raises(ConfigError, match="--by, --metric: a group compares"):
        said("compare", place, "--by", "template", "--metric", "accuracy")
    with pytest.raises(ConfigError, match="--by, --live: a group compares"):
        said("report", place, "--by", "template", "--live")
    with pytest.raises(ConfigError, match="a group's folder; expected it alone"):
        said("compare", place, f"{place}/books")


def test_all_of_click_is_in_its_parts(folder):
    if not (SHARED / "data" / "click").is_dir():
        pytest.skip("no CLIcK files: ../shared/data/click beside the repository is absent")
    group = group_of(folder, "tasks=[click/*]", f"data_root={SHARED}/data", "task.limit=null")
    names = labels(group)
    assert len(names) == 11
    assert names[:2] == ["click/Economy", "click/Functional"]
