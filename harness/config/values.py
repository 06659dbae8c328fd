"""What values of a configuration may be, beyond their types.

Refuses to know how they are read. `configs/README.md` documents every key.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any

from harness.config.schema import AUTO
from harness.core.addresses import address_fault, secret_in
from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import one_line, visible

if TYPE_CHECKING:
    from harness.config.schema import ModelEntry, RunConfig

POLICIES = ("fixed", "bank", "per_sample", "lecture")
DRAWS = ("nested", "lecture")
DTYPES = (AUTO, "float32", "bfloat16", "float16")
DEVICES = (AUTO, "cpu", "cuda")
METHODS = (AUTO, "likelihood", "generate")
CALIBRATIONS = ("contextual", "domain")
CLASS_METRICS = (
    "macro_f1",
    "balanced_accuracy",
    "mcc",
    "kappa",
    "mae",
    "spearman",
    "per_class",
    "auroc",
    "ece",
    "brier",
)
CHOICE_METRICS = ("macro_f1", "balanced_accuracy", "mcc", "kappa", "ece", "brier")
"""Of samples that bring choices: their places have no order, and none is a class of its own."""
ANSWER_METRICS = ("chrf", "rouge_l", "same_text", "same_number")
CLEANINGS = ("first_line", "quotes", "particles")
RACE_SEEDS = ("each", "averaged")
WANDB_MODES = ("disabled", "offline", "online")
INT64 = 2**63 - 1
MOST_NAME_BYTES = 200
"""File systems allow 255; `--fresh` and temporary files add to a name."""
STEERING_KEYS = ("generation.stop",)
"""Texts that may hold line ends and other control characters."""
PATHS = ("out", "model.path", "model.adapter", "finetune.base", "task.data_dir", "task.templates_file")
"""Keys whose `~` is the home directory."""


def check_texts(config: RunConfig) -> None:
    """Refuse texts that hold a secret, or what no name can hold.

    Raises:
        ConfigError: without the secret.
    """
    for key, text in _texts(config.as_dict(), ""):
        name = key.partition("[")[0]
        if secret := secret_in(text):
            raise ConfigError(
                f"{key} holds a secret ({secret}), which manifest and log would keep; expected credentials in the "
                "environment alone"
            )
        keep = "".join(map(chr, range(32))) + "\x7f" if name in STEERING_KEYS else ""
        if visible(text, keep) != text:
            raise ConfigError(f"{key} is {one_line(repr(text), 120)}, expected text without control characters")
        if text == "???":
            raise ConfigError(f"{key} is '???', expected a value: the mark of one that is still missing")


def check_values(config: RunConfig) -> None:
    """Refuse values that no run can have.

    Raises:
        ConfigError: naming the key, what was found and what was expected.
    """
    paths = config.model.path
    listed = paths if isinstance(paths, list) else [] if config.models else [paths]
    if (not config.models and not listed) or not all(isinstance(path, str) and path.strip() for path in listed):
        raise ConfigError(f"model.path is {paths!r}, expected a folder name or a list of them")
    check_texts(config)
    for key, texts in (
        ("scoring.calibration", config.scoring.calibration),
        ("scoring.metrics", config.scoring.metrics),
        ("generation.stop", config.generation.stop),
        ("generation.clean", config.generation.clean),
        ("wandb.tags", config.wandb.tags),
        ("finetune.methods", config.finetune.methods),
        ("finetune.fields", config.finetune.fields),
        *((f"references[{place}].fields", entry.fields) for place, entry in enumerate(config.references)),
    ):
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{key} is {one_line(repr(texts), 120)}, expected texts")
    _check_choice("task.draw", config.task.draw, DRAWS)
    _check_choice("demos.policy", config.demos.policy, POLICIES)
    _check_choice("scoring.method", config.scoring.method, METHODS)
    _check_choice("wandb.mode", config.wandb.mode, WANDB_MODES)
    for name in config.scoring.calibration:
        _check_choice("scoring.calibration", name, CALIBRATIONS)
    for name in config.scoring.metrics:
        _check_choice("scoring.metrics", name, (*CLASS_METRICS, *ANSWER_METRICS))
    _check_pattern("scoring.extract", config.scoring.extract)
    for name in config.generation.clean:
        _check_choice("generation.clean", name, CLEANINGS)
    if not all(config.generation.stop):
        raise ConfigError(
            "generation.stop holds an empty text, which would stop before the first token; expected texts such as '\\n'"
        )
    for key in ("templates", "k", "seeds"):
        axis: list[Any] = getattr(config.grid, key)
        if not axis:
            raise ConfigError(f"grid.{key} is empty, expected at least one value")
        kind = str if key == "templates" else int
        if any(not isinstance(value, kind) or isinstance(value, bool) for value in axis):
            raise ConfigError(f"grid.{key} is {axis}, expected {'texts' if kind is str else 'whole numbers'}")
        if len(set(axis)) != len(axis):
            raise ConfigError(f"grid.{key} names a value twice: {axis}; expected each once")
    _check_models(config)
    _check_references(config)
    _check_finetune(config)
    # A trailing slash or dot makes no other folder.
    if len({os.path.normpath(path) for path in listed}) != len(listed):
        raise ConfigError(f"model.path names a model twice: {listed}; expected each once")
    for k in config.grid.k:
        _check_range("grid.k", k, 0, 2**31 - 1)
    for seed in config.grid.seeds:
        _check_range("grid.seeds", seed, -INT64 - 1)
    _check_range("task.sample_seed", config.task.sample_seed, 0, 2**32 - 1)
    for key, value in (
        ("demos.bank_size", config.demos.bank_size),
        ("generation.max_new_tokens", config.generation.max_new_tokens),
        ("task.limit", config.task.limit),
        ("demos.max_tokens", config.demos.max_tokens),
        ("demos.context_chars", config.demos.context_chars),
    ):
        if value is not None:
            _check_range(key, value, 1)
    for key, value in (
        ("cluster.replicas", config.cluster.replicas),
        ("cluster.shard_size", config.cluster.shard_size),
        ("engine.tokens_per_pack", config.engine.tokens_per_pack),
    ):
        if value != AUTO and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= INT64):
            raise ConfigError(f"{key} is {value!r}, expected '{AUTO}' or a whole number of at least 1")
    if not 0 <= config.run.max_failed_share <= 1:
        raise ConfigError(f"run.max_failed_share is {config.run.max_failed_share}, expected a share from 0 to 1")
    if not 0 <= config.run.hang_after_s < math.inf:
        raise ConfigError(f"run.hang_after_s is {config.run.hang_after_s}, expected seconds, or 0 for no limit")
    _check_race(config)
    _check_name(config.name)
    if not config.out:
        raise ConfigError("out is empty, expected a folder or a storage URI")
    if fault := address_fault(config.out):
        raise ConfigError(f"out {fault}")


def _check_race(config: RunConfig) -> None:
    race = config.race
    if not 0 <= race.epsilon < 1:
        raise ConfigError(f"race.epsilon is {race.epsilon}, expected a share from 0 to below 1, such as 0.01")
    if not 0.5 <= race.confidence < 1:
        raise ConfigError(f"race.confidence is {race.confidence}, expected at least 0.5 and below 1, such as 0.95")
    if race.holdout != AUTO and (
        not isinstance(race.holdout, int) or isinstance(race.holdout, bool) or not 0 <= race.holdout <= INT64
    ):
        raise ConfigError(f"race.holdout is {race.holdout!r}, expected '{AUTO}' or a whole number of at least 0")
    _check_range("race.seed", race.seed, 0)
    _check_choice("race.seeds", race.seeds, RACE_SEEDS)


def _check_models(config: RunConfig) -> None:
    for place, entry in enumerate(config.entries):
        where = f"models[{place}]" if config.models else "model"
        _check_choice(f"{where}.dtype", entry.dtype, DTYPES)
        _check_choice(f"{where}.device", entry.device, DEVICES)
        if entry.max_length is not None:
            _check_range(f"{where}.max_length", entry.max_length, 1)
        _check_server_keys(where, entry, config)
        if not 0 < entry.gpus_per_replica < math.inf:
            raise ConfigError(f"{where}.gpus_per_replica is {entry.gpus_per_replica}, expected more than 0")
    names = list(config.model_names)
    if config.models and len(set(names)) != len(names):
        raise ConfigError(f"models names a model twice: {names}; expected each name once")


def _check_references(config: RunConfig) -> None:
    for place, entry in enumerate(config.references):
        where = f"references[{place}]"
        _check_choice(f"{where}.dtype", entry.dtype, DTYPES)
        _check_choice(f"{where}.device", entry.device, DEVICES)
        if len(entry.fields) > 2 or len(set(entry.fields)) != len(entry.fields):
            raise ConfigError(f"{where}.fields is {entry.fields}, expected one field of the samples, or a pair")
        if entry.max_length is not None:
            _check_range(f"{where}.max_length", entry.max_length, 1)
        _check_range(f"{where}.stride", entry.stride, 0)
        _check_range(f"{where}.max_answer_tokens", entry.max_answer_tokens, 1)
        if entry.adapter is not None:
            raise ConfigError(f"{where}.adapter would not be loaded; merge it first, and give the merged checkpoint")
    names = [*config.model_names, *(entry.name for entry in config.references)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if config.references and twice:
        raise ConfigError(f"models and references name '{one_line(twice[0], 80)}' twice; expected each name once")


def _check_finetune(config: RunConfig) -> None:
    given = config.finetune
    for key, axis, least in (("sizes", given.sizes, 2), ("seeds", given.seeds, 0)):
        if not all(isinstance(value, int) and not isinstance(value, bool) for value in axis):
            raise ConfigError(f"finetune.{key} is {axis}, expected whole numbers")
        if len(set(axis)) != len(axis):
            raise ConfigError(f"finetune.{key} names a value twice: {axis}; expected each once")
        for value in axis:
            _check_range(f"finetune.{key}", value, least, 2**31 - 1)
    if given.sizes and not given.seeds:
        raise ConfigError("finetune.seeds is empty, expected at least one value")
    if len(given.fields) > 2:
        raise ConfigError(f"finetune.fields is {given.fields}, expected one field of the samples, or a pair")
    if not 0 < given.learning_rate < 1:
        raise ConfigError(f"finetune.learning_rate is {given.learning_rate}, expected more than 0 and less than 1")


def _check_server_keys(where: str, entry: ModelEntry, config: RunConfig) -> None:
    for key in ("concurrency", "requests_per_minute", "tokens_per_minute"):
        if (value := getattr(entry, key)) is not None:
            _check_range(f"{where}.{key}", value, 1)
    if not 0 < entry.timeout_s < math.inf:
        raise ConfigError(f"{where}.timeout_s is {entry.timeout_s}, expected seconds, more than 0")
    for key in ("input_price", "output_price", "max_cost"):
        if (price := getattr(entry, key)) is not None and not 0 <= price < math.inf:
            raise ConfigError(f"{where}.{key} is {price}, expected at least 0")
    if entry.max_cost is not None and entry.input_price is None and entry.output_price is None:
        raise ConfigError(
            f"{where}.max_cost is {entry.max_cost:g}, but nothing has a price; set {where}.input_price and "
            f"{where}.output_price, per million tokens"
        )
    alone = config.cluster.address == "inline" or config.cluster.replicas == 1
    if entry.max_cost is not None and not alone:
        raise ConfigError(f"{where}.max_cost is kept by a single replica; set cluster.replicas=1 with it")
    named = entry.api_key_env
    if named is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", named) and named not in os.environ:
        # Somebody may have put the key itself here, which may look like a name (hf_abc...): it is not shown.
        raise ConfigError(
            f"{where}.api_key_env is no name of an environment variable in capitals, and none that is set; expected "
            "such as OPENAI_API_KEY"
        )


def _texts(value: Any, key: str) -> Any:
    """All texts below a value, with their keys."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _texts(child, f"{key}.{visible(str(name))}".lstrip("."))
    elif isinstance(value, list):
        for place, child in enumerate(value):
            yield from _texts(child, f"{key}[{place}]")
    elif isinstance(value, str):
        yield key, value


def _check_name(name: str) -> None:
    expected = "expected a folder name without '/'"
    if name.strip() in ("", ".", "..") or "/" in name:
        raise ConfigError(f"name is {name!r}, {expected}")
    size = len(name.encode())
    if size > MOST_NAME_BYTES:
        raise ConfigError(f"name has {size} bytes, {expected} of at most {MOST_NAME_BYTES} (a Korean letter takes 3)")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is '{value}'{did_you_mean(value, choices)}")


def _check_pattern(key: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{key} is {one_line(repr(pattern), 80)}, expected a regular expression: {error}") from None


def _check_range(key: str, value: int, least: int, most: int = INT64) -> None:
    if value < least:
        raise ConfigError(f"{key} is {value}, expected at least {least}")
    if value > most:
        raise ConfigError(f"{key} is {one_line(str(value), 40)}, expected at most {most}")
