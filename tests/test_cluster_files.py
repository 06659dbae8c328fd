"""The files of `clusters/`: each is right by the rules of the tool that reads it, and a misspelt key is noticed."""

import copy
import functools
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness.config.loading import load_config
from harness.core.errors import ConfigError

REPO = Path(__file__).resolve().parents[1]
CLUSTERS = REPO / "clusters"
SCHEMAS = REPO / "tests" / "cluster_schemas"
LAUNCHERS = ["aws.yaml", "gcp.yaml", "on_premises.yaml"]
MANIFESTS = ["kuberay_cluster.yaml", "kuberay_job.yaml", "kuberay_storage.yaml"]
GUIDE = REPO / "docs" / "running_on_a_cluster.md"

# Names that a pod or a job gets in its environment, each read by huggingface_hub, wandb or Ray.
ENVIRONMENT = {"HF_HOME", "HF_TOKEN", "WANDB_API_KEY", "RAY_JOB_STOP_WAIT_TIME_S", "RAY_USAGE_STATS_ENABLED"}
SECRETS = {"HF_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN"}
# Instructions of a Dockerfile and their flags (Dockerfile reference, syntax 1).
DOCKER_FLAGS = {
    "FROM": {"platform"}, "RUN": {"mount", "network", "security"}, "ENV": set(), "ARG": set(), "WORKDIR": set(),
    "COPY": {"from", "chown", "chmod", "link", "parents", "exclude"}, "USER": set(), "CMD": set(), "ENTRYPOINT": set(),
    "LABEL": set(), "EXPOSE": set(), "VOLUME": set(), "SHELL": set(), "STOPSIGNAL": set(), "HEALTHCHECK": {"interval"},
}  # fmt: skip
# What the nodes need to install this project's packages, and the user's token and secrets.
MOUNTS = {
    *(f"~/prompt-grid/{name}" for name in ("pyproject.toml", "constraints.txt", "harness", "tasks")),
    "~/prompt-grid/node_environment.sh",
    "~/.config/prompt-grid",
}


def text_of(name):
    return (CLUSTERS / name).read_text(encoding="utf-8")


def load(name):
    return yaml.safe_load(text_of(name))


@functools.cache
def validator(name):
    schema = yaml.safe_load((SCHEMAS / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def schema_problems(document, name):
    return [error.message for error in validator(name).iter_errors(document)]


def launcher_problems(config):
    """What Ray's launcher would refuse, and what it would hand on unread to the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = schema_problems(config, "launcher.yaml")
    if isinstance(config.get("file_mounts"), dict) and config["file_mounts"].keys() != MOUNTS:
        found.append(f"file_mounts: {sorted(config['file_mounts'].keys() ^ MOUNTS)}")
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    # Ray raises whatever comes: its own click exceptions, KeyError, jsonschema's, ValueError, AssertionError.
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def manifest_problems(document):
    """What the Kubernetes API would refuse or drop, and what Ray would not know."""
    from ray.scripts.scripts import start

    options = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    found = schema_problems(document, "kuberay.yaml")
    if found:
        return found
    for group in groups_of(document):
        found += [f"ray start has no --{key}" for key in group["rayStartParams"] if key not in options]
        for container in group["template"]["spec"]["containers"]:
            found += [f"nothing reads {v['name']}" for v in container.get("env", []) if v["name"] not in ENVIRONMENT]
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            found += [f"no volume {v}" for v in mounted - {v["name"] for v in group["template"]["spec"]["volumes"]}]
    return found


def groups_of(document):
    """Head group and worker groups of a RayCluster or RayJob."""
    if document["kind"] == "PersistentVolumeClaim":
        return []
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def runtime_env_problems(values):
    """What Ray would refuse, and the unknown keys that it only warns of."""
    from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig

    found = [f"unknown key {key}" for key in values if key not in RuntimeEnv.known_fields]
    known = RuntimeEnvConfig.known_fields
    found += [f"unknown key config.{key}" for key in values.get("config", {}) if key not in known]
    found += [f"nothing reads {name}" for name in values.get("env_vars", {}) if name not in ENVIRONMENT]
    try:
        RuntimeEnv(**values)
    except (TypeError, ValueError) as error:
        found.append(str(error))
    return found


CHECKS = {
    **dict.fromkeys(LAUNCHERS, launcher_problems),
    **dict.fromkeys(MANIFESTS, manifest_problems),
    "runtime_env.yaml": runtime_env_problems,
}


def key_paths(node, at=()):
    """Paths of all mapping keys of a document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*at, key)
            yield from key_paths(value, (*at, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from key_paths(value, (*at, index))


def misspelt(document, path):
    """A copy in which the key at the path has its last letter twice."""
    result = copy.deepcopy(document)
    holder = result
    for step in path[:-1]:
        holder = holder[step]
    key = path[-1]
    holder[key + key[-1]] = holder.pop(key)
    return result


# The only name in these files that is free: nothing else refers to it.
FREE = {("available_node_types", "worker")}


@pytest.mark.parametrize("name", CHECKS)
def test_each_file_is_right_by_the_rules_of_its_tool(name):
    assert CHECKS[name](load(name)) == []


@pytest.mark.parametrize("name", CHECKS)
def test_no_misspelt_key_passes(name):
    document = load(name)
    paths = [path for path in key_paths(document) if path not in FREE]
    assert paths
    assert [path for path in paths if not CHECKS[name](misspelt(document, path))] == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("aws.yaml", ("available_node_types", "worker", "min_workers"), 9),
        ("aws.yaml", ("head_node_type",), "master"),
        ("gcp.yaml", ("available_node_types", "worker", "node_config", "scheduling", "provisioningModel"), "CHEAP"),
        ("on_premises.yaml", ("provider", "worker_ips"), []),
        ("kuberay_cluster.yaml", ("spec", "authOptions", "mode"), "tokens"),
        ("kuberay_job.yaml", ("spec", "backoffLimit"), "once"),
        ("kuberay_job.yaml", ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("kuberay_storage.yaml", ("spec", "accessModes"), ["ReadWriteEverywhere"]),
        ("runtime_env.yaml", ("config", "setup_timeout_seconds"), 0),
    ],
)
def test_a_wrong_value_is_noticed(name, path, value):
    document = load(name)
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    assert CHECKS[name](document) != []


# Commands of the launcher files -----------------------------------------------------------------------------------


def bash_accepts(script):
    return subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", LAUNCHERS)
def test_commands_of_launcher_files_parse(name):
    commands = [command for key, value in load(name).items() if key.endswith("_commands") for command in value]
    assert len(commands) >= 8
    assert [command for command in commands if not bash_accepts(command)] == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_commands_of_launcher_files_use_only_what_is_copied_there(name):
    config = load(name)
    commands = " ".join(c for key, value in config.items() if key.endswith("_commands") for c in value)
    used = set(re.findall(r"~/prompt-grid/[\w./]+", commands))
    assert used
    assert used <= config["file_mounts"].keys()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_what_launcher_files_copy_exists(name):
    local = [path for path in load(name)["file_mounts"].values() if not path.startswith("~")]
    assert [path for path in local if not (REPO / path).exists()] == []


# Dockerfile ------------------------------------------------------------------------------------------------------


def instructions(text):
    """(instruction, its words) of a Dockerfile without here-documents."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def dockerfile_problems(text):
    found = []
    for instruction, *rest in instructions(text):
        if instruction not in DOCKER_FLAGS:
            found.append(instruction)
            continue
        flags = [word.removeprefix("--").partition("=")[0] for word in " ".join(rest).split() if word.startswith("--")]
        if instruction != "RUN":
            found += [flag for flag in flags if flag not in DOCKER_FLAGS[instruction]]
    return found


def copied():
    return [words.split()[:-1] for instruction, words in instructions(text_of("Dockerfile")) if instruction == "COPY"]


def test_the_dockerfile_holds_known_instructions_only():
    assert dockerfile_problems(text_of("Dockerfile")) == []


@pytest.mark.parametrize("index", range(len(instructions(text_of("Dockerfile")))))
def test_a_misspelt_instruction_is_noticed(index):
    found = instructions(text_of("Dockerfile"))
    name = found[index][0]
    found[index] = (name + name[-1], *found[index][1:])
    assert dockerfile_problems("\n".join(" ".join(words) for words in found)) == [name + name[-1]]


def test_a_misspelt_flag_of_the_dockerfile_is_noticed():
    assert dockerfile_problems("COPY --chwon=ray harness ./harness") == ["chwon"]


def test_what_the_image_copies_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    sources = [source for sources in copied() for source in sources]
    assert sources
    assert [s for s in sources if not any(path == s or path.startswith(f"{s}/") for path in tracked)] == []


def test_torch_is_installed_first_and_everything_by_the_constraints():
    runs = [words for name, words in instructions(text_of("Dockerfile")) if name == "RUN"]
    installs = [words for words in runs if "pip install" in words]
    assert [("torch==" in words, "-c constraints.txt" in words) for words in installs] == [(True, False), (False, True)]


def test_the_image_does_not_run_as_root():
    assert instructions(text_of("Dockerfile"))[-1] == ("USER", "ray")


# What the files agree on -----------------------------------------------------------------------------------------


def entrypoint_words():
    return shlex.split(load("kuberay_job.yaml")["spec"]["entrypoint"])


def test_the_entrypoint_of_the_kubernetes_job_is_a_valid_run():
    words = entrypoint_words()
    assert words[:4] == ["python", "-m", "harness", "run"]
    config = load_config(words[4].replace("/app/", ""), words[5:])
    assert config.cluster.address == "auto"
    assert config.out.startswith("/")
    broken = [word.replace("cluster.replicas", "cluster.replica") for word in words[5:]]
    with pytest.raises(ConfigError, match=r"cluster\.replica'"):
        load_config(words[4].replace("/app/", ""), broken)


def test_the_kubernetes_job_asks_for_the_replicas_that_its_pods_hold():
    spec = load("kuberay_job.yaml")["spec"]["rayClusterSpec"]
    gpus = sum(
        group["minReplicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in spec["workerGroupSpecs"]
    )
    assert f"cluster.replicas={gpus}" in entrypoint_words()


def test_manifests_name_the_pinned_ray():
    pinned = re.search(r"^ray==(.+)$", (REPO / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    versions = {load(name)["spec"].get("rayClusterSpec", load(name)["spec"])["rayVersion"] for name in MANIFESTS[:2]}
    assert versions == {pinned.group(1)}


def test_both_manifests_start_the_same_pods():
    (head, worker), (other_head, other_worker) = (groups_of(load(name)) for name in MANIFESTS[:2])
    assert head == other_head
    assert worker["template"] == other_worker["template"]


@pytest.mark.parametrize("name", LAUNCHERS[1:])
def test_launcher_files_set_up_nodes_in_the_same_way(name):
    one, other = load(LAUNCHERS[0]), load(name)
    for key in ("file_mounts", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert one[key] == other[key]


def test_bounds_of_the_autoscalers_hold():
    worker = load("kuberay_cluster.yaml")["spec"]["workerGroupSpecs"][0]
    assert 0 < worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"] <= 8
    for name in ("aws.yaml", "gcp.yaml"):
        config = load(name)
        worker = config["available_node_types"]["worker"]
        assert 0 < worker["min_workers"] <= worker["max_workers"] <= config["max_workers"] <= 8


def test_only_workers_may_be_taken_back():
    nodes = load("aws.yaml")["available_node_types"]
    assert "InstanceMarketOptions" not in nodes["head"]["node_config"]
    assert nodes["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    nodes = load("gcp.yaml")["available_node_types"]
    assert "scheduling" not in nodes["head"]["node_config"]
    assert nodes["worker"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    for name in MANIFESTS[:2]:
        head, worker = groups_of(load(name))
        affinity = head["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert {e["operator"] for term in terms for e in term["matchExpressions"]} == {"DoesNotExist", "NotIn"}
        affinity = worker["template"]["spec"]["affinity"]["nodeAffinity"]
        assert "preferredDuringSchedulingIgnoredDuringExecution" in affinity


# Secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS[:2])
def test_pods_take_secrets_from_a_secret_and_the_cluster_asks_for_a_token(name):
    document = load(name)
    assert document["spec"].get("rayClusterSpec", document["spec"])["authOptions"] == {"mode": "token"}
    containers = [c for group in groups_of(document) for c in group["template"]["spec"]["containers"]]
    secrets = [v for c in containers for v in c["env"] if v["name"] in SECRETS]
    assert {v["name"] for v in secrets} == SECRETS - {"RAY_AUTH_TOKEN"}
    assert all("secretKeyRef" in v["valueFrom"] for v in secrets)


def test_only_the_driver_gets_the_key_of_the_tracker():
    for name in MANIFESTS[:2]:
        _, worker = groups_of(load(name))
        assert "WANDB_API_KEY" not in {v["name"] for v in worker["template"]["spec"]["containers"][0]["env"]}


def test_a_job_carries_no_secret():
    assert not any(name in text_of(file) for name in SECRETS for file in ("runtime_env.yaml", "Dockerfile"))


PUBLISHED = [*sorted(CLUSTERS.iterdir()), GUIDE, REPO / "docs" / "security.md"]


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda path: path.name)
def test_no_command_takes_a_secret_as_an_argument(file):
    text = file.read_text(encoding="utf-8")
    assert "--from-literal" not in text
    assert re.findall(rf"({'|'.join(SECRETS)})=[^\s.`]", text) == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_nodes_of_launcher_files_start_ray_with_the_token(name):
    config = load(name)
    starts = [config[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("ray start" in c for c in starts)
    assert all(c.startswith(". ~/prompt-grid/node_environment.sh;") for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


# Documents -------------------------------------------------------------------------------------------------------


def test_the_readme_names_every_file_and_explains_every_place_to_fill_in():
    readme = text_of("README.md")
    files = {path.name for path in CLUSTERS.iterdir() if path.is_file()} - {"README.md"}
    assert [name for name in sorted(files) if f"`{name}`" not in readme] == []
    used = {word for name in files for word in re.findall(r"REPLACE_[A-Z0-9_]+", text_of(name))}
    assert used
    assert used == set(re.findall(r"REPLACE_[A-Z0-9_]+", readme))


def documented_runs():
    """Configuration and overrides of every command of the guide, without the shell's line breaks."""
    text = GUIDE.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    ") and " configs/" in line]
    starts = [next(i for i, word in enumerate(words) if word.startswith("configs/")) for words in commands]
    return [words[start:] for words, start in zip(commands, starts, strict=True)]


def test_runs_in_the_guide_have_valid_keys():
    runs = documented_runs()
    assert len(runs) >= 4
    for config, *overrides in runs:
        load_config(config, [o for o in overrides if not o.startswith("--")])
