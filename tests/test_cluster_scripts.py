"""The shell scripts of `clusters/`: they parse, and run with Ray and Slurm played by recording scripts."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

CLUSTERS = Path(__file__).resolve().parents[1] / "clusters"
SHELL = ["submit.sh", "slurm.sh", "node_environment.sh"]
# Long options of sbatch that a script of this kind can need (sbatch manual, Slurm 24.05).
SBATCH_OPTIONS = {
    "account", "constraint", "cpus-per-task", "error", "exclusive", "gpus-per-node", "gres", "job-name", "mail-type",
    "mem", "nodes", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal", "time",
}  # fmt: skip


def source(name):
    return (CLUSTERS / name).read_text(encoding="utf-8")


def bash_accepts(script):
    return subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", SHELL)
def test_shell_files_parse(name):
    assert bash_accepts(source(name))


@pytest.mark.parametrize(("name", "word"), [("submit.sh", "esac"), ("slurm.sh", "fi"), ("node_environment.sh", "fi")])
def test_a_misspelt_keyword_of_the_shell_is_noticed(name, word):
    broken = re.sub(rf"^{word}$", f"{word}{word[-1]}", source(name), flags=re.MULTILINE)
    assert broken != source(name)
    assert not bash_accepts(broken)


@pytest.mark.parametrize("name", SHELL)
def test_shellcheck_finds_nothing(name):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, CLUSTERS / name], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def sbatch_problems(script):
    directives = [line.split()[1].removeprefix("--") for line in script.splitlines() if line.startswith("#SBATCH")]
    return [name for name in (d.partition("=")[0] for d in directives) if name not in SBATCH_OPTIONS]


def test_directives_of_the_slurm_script_are_sbatch_options():
    assert sbatch_problems(source("slurm.sh")) == []


@pytest.mark.parametrize("option", re.findall(r"^#SBATCH --([\w-]+)", source("slurm.sh"), flags=re.MULTILINE))
def test_a_misspelt_directive_is_noticed(option):
    broken = source("slurm.sh").replace(f"#SBATCH --{option}", f"#SBATCH --{option}{option[-1]}")
    assert sbatch_problems(broken) == [option + option[-1]]


def test_directives_come_before_the_first_command():
    """sbatch reads none that follow it."""
    lines = source("slurm.sh").splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


def ray_option_problems(script):
    """Long options of the script's calls of ray that Ray's own commands do not take."""
    from ray.dashboard.modules.job import cli
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    commands = {"job submit": [cli.submit], "job status": [cli.status], "symmetric-run": [symmetric_run, start]}
    text = "\n".join(line for line in script.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
    found = []
    for call, words in re.findall(r"\bray (job submit|job status|symmetric-run) ([^\n]*?)(?: -- |$)", text, flags=re.M):
        known = {option for command in commands[call] for parameter in command.params for option in parameter.opts}
        found += [option for option in re.findall(r"(?<!\S)--[\w-]+", words) if option not in known]
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [("submit.sh", ["--address", "--submission-id", "--working-dir", "--runtime-env"]),
     ("slurm.sh", ["--address", "--min-nodes", "--num-cpus"])],
)  # fmt: skip
def test_options_that_scripts_give_to_ray_are_rays_and_a_misspelt_one_is_noticed(name, options):
    script = source(name)
    assert ray_option_problems(script) == []
    for option in options:
        broken = re.sub(rf"(ray (?:job submit|symmetric-run)(?:[^\n]|\\\n)*?){option}\b", rf"\1{option}x", script)
        assert ray_option_problems(broken) == [f"{option}x"]


def sourced(home):
    command = ["bash", "-ec", f". {CLUSTERS / 'node_environment.sh'} && env -0"]
    variables = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def test_the_environment_of_a_node_holds_token_cache_and_secrets(tmp_path):
    secrets = tmp_path / ".config" / "prompt-grid" / "secrets.env"
    secrets.parent.mkdir(parents=True)
    secrets.write_text("# a comment\nHF_TOKEN=hidden\n")
    found = sourced(tmp_path)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(secrets.with_name("auth_token"))
    assert found["HF_HOME"] == "/shared/huggingface"
    assert found["HF_TOKEN"] == "hidden"
    assert found["PATH"].startswith(f"{tmp_path}/venv/bin:")


# Each read by Ray, huggingface_hub or the shell.
NODE_VARIABLES = {
    "PATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "HF_HOME", "RAY_JOB_STOP_WAIT_TIME_S", "RAY_USAGE_STATS_ENABLED",
}  # fmt: skip


def exported_names(script):
    return set(re.findall(r"^export (\w+)=", script, flags=re.MULTILINE))


def test_a_node_exports_names_that_something_reads_and_a_misspelt_one_is_noticed():
    script = source("node_environment.sh")
    assert exported_names(script) == NODE_VARIABLES
    for name in NODE_VARIABLES:
        assert exported_names(script.replace(f"export {name}=", f"export {name}{name[-1]}=")) - NODE_VARIABLES


def test_a_node_without_secrets_starts_too(tmp_path):
    found = sourced(tmp_path)
    assert found["RAY_AUTH_MODE"] == "token"
    assert "HF_TOKEN" not in found


FAKE_RAY = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1:3] == ["job", "submit"]:
    sys.exit(int(os.environ.get("SUBMIT_STATUS", "0")))
print(os.environ.get("REPORT", "Job '{{id}}' succeeded").format(id=sys.argv[-1]))
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def submit(tmp_path):
    """Run submit.sh in a folder with `configs/run.yaml`; returns (exit status, standard error, calls of ray)."""
    project = tmp_path / "project"
    (project / "configs").mkdir(parents=True)
    (project / "configs" / "run.yaml").write_text("name: run\n")
    executable(tmp_path / "bin" / "ray", FAKE_RAY)
    record = tmp_path / "record"

    def run(*arguments, path=f"{tmp_path / 'bin'}:/usr/bin:/bin", **environment):
        record.unlink(missing_ok=True)
        done = subprocess.run(
            [CLUSTERS / "submit.sh", *map(str, arguments)],
            cwd=project, env={"PATH": path, "HOME": str(tmp_path), "RECORD": str(record), **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        calls = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        return done.returncode, done.stderr, calls

    run.project = project
    return run


HEAD = {"RAY_ADDRESS": "http://head:8265"}
GOOD = ("configs/run.yaml", "out=/shared/results")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (GOOD, {}, "no cluster address"),
        (("--address", "", *GOOD), HEAD, "no cluster address"),
        (("--address",), {}, "no cluster address"),
        (GOOD, {"RAY_ADDRESS": "auto"}, "'auto' is no address for jobs"),
        (GOOD, {"RAY_ADDRESS": "ray://head:10001"}, "no address for jobs"),
        ((), HEAD, "no configuration file; usage:"),
        (("configs/none.yaml", "out=/shared"), HEAD, "no configuration file 'configs/none.yaml'"),
        (("/etc/passwd", "out=/shared"), HEAD, "'/etc/passwd' is outside of"),
        (GOOD[:1], HEAD, "no out=..."),
        (("configs/run.yaml", "out="), HEAD, "no out=..."),
        (("configs/run.yaml", "out=data_out"), HEAD, "out=data_out is relative"),
        ((*GOOD, "out=data_out"), HEAD, "out=data_out is relative"),
        ((*GOOD, "cluster.address=local"), HEAD, "cluster.address is set by this script"),
        (GOOD, {**HEAD, "path": "/usr/bin:/bin"}, "ray is not on the PATH"),
    ],
)
def test_submitting_is_refused_in_one_line_before_ray_is_called(submit, arguments, environment, message):
    status, error, calls = submit(*arguments, **environment)
    assert (status, calls) == (2, [])
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("out", ["/shared/results", "s3://bucket/results", "gs://bucket/results"])
def test_a_run_is_submitted_with_its_overrides_and_followed(submit, out):
    overrides = [f"out={out}", "grid.k=[0, 8]", "name=a b", "--fresh"]
    status, _, (call, asked) = submit("configs/run.yaml", *overrides, **HEAD)
    assert status == 0
    separator = call.index("--")
    options = dict(zip(call[2:separator:2], call[3:separator:2], strict=True))
    assert call[:2] == ["job", "submit"]
    assert options["--address"] == "http://head:8265"
    assert options["--working-dir"] == "."
    assert Path(options["--runtime-env"]) == CLUSTERS / "runtime_env.yaml"
    run = ["python", "-m", "harness", "run", "configs/run.yaml", "cluster.address=auto", *overrides]
    assert call[separator + 1 :] == run
    assert asked == ["job", "status", "--address", "http://head:8265", options["--submission-id"]]


@pytest.mark.parametrize("form", [["--address", "http://other:1"], ["--address=http://other:1"]])
def test_the_address_on_the_command_line_wins(submit, form):
    _, _, calls = submit(*form, *GOOD, **HEAD)
    assert calls[0][2:4] == ["--address", "http://other:1"]


def test_an_absolute_path_of_a_configuration_becomes_one_that_travels(submit):
    _, _, calls = submit(submit.project / "configs" / "run.yaml", "out=/shared", **HEAD)
    assert "configs/run.yaml" in calls[0]


FAILED = "Job '{id}' failed\nStatus message: Job entrypoint command failed with exit code "


@pytest.mark.parametrize(
    ("submitted", "report", "status"),
    [
        (0, "Job '{id}' succeeded", 0),
        (1, "Job '{id}' succeeded", 0),  # the log broke off, the run did not
        (1, FAILED + "2, last available logs (truncated to 20,000 chars):\nexit code 7", 2),
        (1, FAILED + "143. No logs available.", 143),
        (1, "Job '{id}' failed\nStatus message: the runtime environment could not be set up", 1),
        (0, "Job '{id}' was stopped", 143),
        (0, "Status for job '{id}': RUNNING", 1),
        (7, "ConnectionError: no route", 7),
    ],
)
def test_the_exit_status_is_the_runs(submit, submitted, report, status):
    assert submit(*GOOD, **HEAD, SUBMIT_STATUS=str(submitted), REPORT=report)[0] == status


TOKEN = "0123456789abcdef"  # not a secret: written by the `ray` of this test
SLURM_TOOLS = {
    "hostname": 'printf "10.0.0.7 172.17.0.1\\n"',
    "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"; echo "node failed" >&2; exit "${SRUN_STATUS:-0}"',
    "ray": f"""
if [[ $1 == get-auth-token ]]; then
  mkdir -p "$HOME/.ray"; printf {TOKEN} | tee "$HOME/.ray/auth_token"
else
  printf '%s\\n' "$@" > "$RECORD.ray"
  printf '%s %s' "$RAY_AUTH_MODE" "$RAY_AUTH_TOKEN_PATH" > "$RECORD.auth"
  while [[ $1 != -- ]]; do shift; done; shift
  [[ -n ${{RAY_BROKEN:-}} ]] || "$@"
fi
exit 0""",
    "python": 'printf "%s\\n" "$@" > "$RECORD.python"; exit "${RUN_STATUS:-0}"',
}


@pytest.fixture
def slurm(tmp_path):
    """Run slurm.sh as a job of two nodes; returns (exit status, all output)."""
    for name, body in SLURM_TOOLS.items():
        executable(tmp_path / "bin" / name, f"#!/usr/bin/env bash\n{body}\n")
    (tmp_path / "run.yaml").write_text("name: run\n")
    base = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "RECORD": str(tmp_path / "record"),
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "16",
    }  # fmt: skip

    def run(*arguments, **environment):
        done = subprocess.run(
            [CLUSTERS / "slurm.sh", *arguments],
            cwd=tmp_path, env={**base, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_slurm_job_runs_the_driver_on_the_cluster_of_its_nodes(slurm, tmp_path):
    assert slurm("run.yaml", "out=/shared/results", "name=a b")[0] == 0
    address = "10.0.0.7:24711"
    expected = ["-m", "harness", "run", "run.yaml", "out=/shared/results", "name=a b", f"cluster.address={address}"]
    assert (tmp_path / "record.python").read_text().splitlines() == expected
    started = (tmp_path / "record.ray").read_text().splitlines()
    assert started[:6] == ["symmetric-run", "--address", address, "--min-nodes", "2", "--num-cpus=16"]


@pytest.mark.parametrize("status", [0, 1, 2, 143])
def test_a_slurm_job_ends_with_the_status_of_its_run(slurm, tmp_path, status):
    assert slurm("run.yaml", "out=/shared/results", RUN_STATUS=str(status), SRUN_STATUS="1")[0] == status
    assert not list(tmp_path.glob("*.status"))


def test_a_slurm_job_fails_when_ray_did_not_start_and_said_nothing(slurm):
    status, output = slurm("run.yaml", "out=/shared/results", RAY_BROKEN="1")
    assert status == 1
    assert "error: the driver did not run to an end" in output


def test_the_status_of_an_earlier_attempt_is_not_taken_for_this_one(slurm, tmp_path):
    (tmp_path / "prompt-grid-4711.status").write_text("0\n")
    assert slurm("run.yaml", "out=/shared/results", RAY_BROKEN="1")[0] == 1


def test_a_slurm_job_makes_a_token_that_others_cannot_read(slurm, tmp_path):
    _, output = slurm("run.yaml", "out=/shared/results", RAY_AUTH_TOKEN_PATH="/elsewhere")
    token = tmp_path / ".ray" / "auth_token"
    assert TOKEN not in output
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert (tmp_path / "record.auth").read_text() == f"token {token}"
    assert TOKEN not in (tmp_path / "record.ray").read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("run.yaml", "out=/shared"), {"SLURM_JOB_ID": ""}, "not in a Slurm job"),
        ((), {}, "no configuration file ''"),
        (("none.yaml", "out=/shared"), {}, "no configuration file 'none.yaml'"),
        (("run.yaml",), {}, "out=''"),
        (("run.yaml", "out=data_out"), {}, "out='data_out'"),
        (("run.yaml", "out=/shared", "cluster.address=auto"), {}, "cluster.address is set by this script"),
        (("run.yaml", "out=/shared"), {"PATH": "/usr/bin:/bin"}, "ray is not on the PATH"),
    ],
)
def test_a_slurm_job_is_refused_in_one_line_before_ray_starts(slurm, tmp_path, arguments, environment, message):
    status, output = slurm(*arguments, **environment)
    assert status == 2
    assert output.startswith("error: ")
    assert message in output
    assert not list(tmp_path.glob("record.*"))
