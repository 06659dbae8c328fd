"""YAML plus `key=value` overrides in, a checked `RunConfig` out. Knows OmegaConf."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, grammar_parser
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

from harness.config.hints import WORDS, elsewhere, expected
from harness.config.places import expanded, find_files
from harness.config.schema import MOVED_OPTIONS, ModelConfig, ModelEntry, ReferenceEntry, RunConfig
from harness.config.values import check_values
from harness.core.addresses import redacted
from harness.core.errors import ConfigError, did_you_mean
from harness.core.escaping import one_line, visible
from harness.core.places import found as found_file
from harness.core.user_files import read_text, yaml_fault

log = logging.getLogger(__name__)
Entry = TypeVar("Entry", bound=ModelEntry)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key=value` overrides and check every key and value.

    Args:
        path: YAML file; missing keys take the defaults of `RunConfig`.
        overrides: dotted assignments such as `grid.k=[0,4]`; later ones win.

    Raises:
        ConfigError: missing file, bad YAML, unknown key, wrong type or value.
    """
    return config_of(_read(path), overrides)


def load_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[Any, Any]:
    """The keys and values of a YAML file with overrides applied, unchecked and with references as they are written.

    Raises:
        ConfigError: missing file, bad YAML, an override that cannot be applied.
    """
    values: Any = _read(path)
    for override in overrides:
        values = _overridden(values, override)
    plain = OmegaConf.to_container(values, resolve=False)
    assert isinstance(plain, dict)
    return plain


def _read(path: str | Path) -> DictConfig:
    shown, path = one_line(str(path), 160), found_file(str(path))
    text = read_text(path, "configuration file", "a YAML file such as configs/demo.yaml", ConfigError)
    try:
        given = OmegaConf.load(io.StringIO(text))
    except Exception as error:
        raise ConfigError(f"'{shown}' is not valid YAML: {yaml_fault(error)}; mend it there") from None
    if not isinstance(given, DictConfig):
        raise ConfigError(f"'{shown}' holds a {type(given).__name__}, expected keys and values")
    return given


def config_of(given: Any, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked `RunConfig` from nested keys and values, with `key=value` overrides applied.

    Raises:
        ConfigError: unknown key, wrong type or value.
    """
    merged = given if isinstance(given, DictConfig) else dict(given)
    for override in overrides:
        merged = _overridden(merged if isinstance(merged, DictConfig) else OmegaConf.create(merged), override)
    if "tasks" in merged:
        raise ConfigError(
            "the configuration names tasks, which makes a group of runs; expected that of one run: give one of the "
            "tasks alone (harness run, plan, status, show, compare and report take groups)"
        )
    return config_from(merged)


def config_from(values: Any) -> RunConfig:
    """A checked `RunConfig` from nested dictionaries or an OmegaConf container.

    Raises:
        ConfigError: unknown key, wrong type or value.
    """
    container: Any = OmegaConf.create({})
    try:
        container = OmegaConf.create(values) if isinstance(values, dict) else values
        method = container.get("scoring")
        if isinstance(method, str):
            container.scoring = {"method": method}
        _move_options(container)
        _reject_unknown(container, RunConfig, "")
        _reject_both(container)
        merged = OmegaConf.merge(_defaults(), container)
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_type_fault(error, container)) from None
    except RecursionError:
        raise ConfigError(
            "the configuration is nested too deeply; expected keys and values such as task: {limit: 4}"
        ) from None
    except UnicodeEncodeError:
        raise ConfigError("the configuration holds a text with lone surrogates, expected UTF-8") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = one_line(redacted(str(error)), 200)
        raise ConfigError(
            f"the configuration cannot be read: {reason}; expected keys as in configs/demo.yaml"
        ) from error
    assert isinstance(plain, dict)
    find_files(plain)
    sections = {f.name: f.default_factory for f in dataclasses.fields(RunConfig)}
    built: dict[str, Any] = {}
    for key, value in plain.items():
        kind = sections[str(key)]
        built[str(key)] = kind(**value) if dataclasses.is_dataclass(kind) else value
    if built["models"]:
        built["models"] = [
            _entry(ModelEntry, _without_path(built["model"]), given, f"models[{i}]")
            for i, given in enumerate(built["models"])
        ]
        built["model"] = dataclasses.replace(built["model"], path=None)
    built["references"] = [
        _entry(ReferenceEntry, {"device": built["model"].device}, given, f"references[{i}]")
        for i, given in enumerate(built["references"])
    ]
    config = RunConfig(**built)
    check_values(config)
    return config


@cache
def _defaults() -> DictConfig:
    """`RunConfig` with its types. Making it takes longer than all else of a configuration; merging copies it."""
    made: DictConfig = OmegaConf.structured(RunConfig)
    return made


def _move_options(container: Any) -> None:
    """Options of tasks that once were keys of `task` itself."""
    task = container._get_node("task")
    for key in [key for key in MOVED_OPTIONS if isinstance(task, DictConfig) and key in task]:
        log.warning("task.%s is now task.options.%s; the old key still works", key, key)
        OmegaConf.update(container, f"task.options.{key}", task._get_node(key), force_add=True)
        del task[key]


def _overridden(values: Any, override: str) -> Any:
    """The values with one assignment applied.

    Raises:
        ConfigError: naming the assignment.
    """
    shown = one_line(redacted(override), 160)
    key, sign, text = override.partition("=")
    if not sign:
        raise ConfigError(f"'{shown}' is not an override; expected key=value, e.g. task.limit=100")
    if key.count(".") > MOST_DOTS:
        raise ConfigError(f"override '{shown}' names a key of {key.count('.') + 1} parts, expected such as task.limit")
    try:
        given = OmegaConf.from_dotlist([override])
        if re.search(r"\s#", text) and _cuts_comment(override, given):
            raise ConfigError(f"override '{shown}': ' #' begins a comment in YAML; expected quotes, key='a #b'")
        # Merging would pass over a missing value.
        _reject_marks(given, "")
        return OmegaConf.merge(values, given)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"override '{shown}' cannot be applied: {one_line(redacted(yaml_fault(error)), 240)}; expected "
            f"{expected(key)} (key=value, lists as [a,b], odd texts in quotes)"
        ) from None


def _cuts_comment(override: str, given: Any) -> bool:
    """Whether YAML took ` #` for a comment: what comes after it would vanish without a word."""
    try:
        whole = OmegaConf.from_dotlist([re.sub(r"(\s)#", "\\1\ue000", override)])
    except yaml.YAMLError:
        return True
    texts = [json.dumps(OmegaConf.to_container(c), ensure_ascii=False, default=str) for c in (given, whole)]
    return texts[0] != texts[1].replace("\ue000", "#")


def _reject_unknown(node: Any, kind: type, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in node:
        if key not in fields:
            hint = elsewhere(str(key)) or did_you_mean(str(key), fields)
            raise ConfigError(f"unknown configuration key '{one_line(prefix + str(key), 120)}'{hint}")
        default = fields[key].default_factory
        _reject_marks(node._get_node(key), prefix + str(key))
        if str(fields[key].type).startswith("list[") and not isinstance(node._get_node(key), ListConfig):
            example = default() if callable(default) else []
            raise ConfigError(
                f"configuration key '{prefix}{key}' holds {one_line(str(node._get_node(key)), 120)}, expected a list "
                f"such as {example or '[a, b]'}"
            )
        if isinstance(default, type) and dataclasses.is_dataclass(default):
            child = node._get_node(key)
            if not isinstance(child, DictConfig) or child._is_none():
                found = OmegaConf.to_container(child) if isinstance(child, ListConfig) else child
                shown = one_line(str(found), 120)
                raise ConfigError(f"configuration key '{prefix}{key}' holds {shown}, expected keys under it")
            _reject_unknown(child, default, f"{prefix}{key}.")


def _reject_both(container: Any) -> None:
    """Refuse models that are named in two places."""
    model = container.get("model")
    if container.get("models") and isinstance(model, DictConfig) and model.get("path") is not None:
        raise ConfigError(
            f"models and model.path='{one_line(str(model.path), 80)}' are both given; expected one of them: "
            "drop models, or set model.path=null"
        )


def _without_path(model: ModelConfig) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(model).items() if key != "path"}


def _entry(kind: type[Entry], common: Mapping[str, Any], given: Any, where: str) -> Entry:
    """One entry of `models` or `references`; what it does not say it takes from what is common.

    Raises:
        ConfigError: unknown key, no path, wrong type.
    """
    if not isinstance(given, dict):
        shown = one_line(repr(given), 120)
        raise ConfigError(f"{where} is {shown}, expected keys such as {{name: small, path: folder}}")
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    values = dict(common)
    for key, value in given.items():
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            raise ConfigError(f"unknown configuration key '{one_line(f'{where}.{key}', 120)}'{hint}")
        try:
            merged = OmegaConf.merge(OmegaConf.structured(kind("any")), {key: value})
            values[key] = OmegaConf.to_container(merged)[key]  # type: ignore[index]
        except (OmegaConfBaseException, TypeError):
            found = one_line(redacted(repr(value)), 120)
            raise ConfigError(
                f"configuration key '{where}.{key}' holds {found}, expected {WORDS[fields[key]]}"
            ) from None
        if key in ("name", "path") and not values[key].strip():
            raise ConfigError(f"{where}.{key} is {values[key]!r}, expected text")
    if "path" not in values:
        raise ConfigError(f"{where} has no path, expected keys such as {{name: small, path: folder}}")
    for key in {"path", "adapter"} & values.keys():
        values[key] = expanded(f"{where}.{key}", values[key])
    return kind(**values)


def _reject_marks(node: Any, where: str) -> None:
    """Refuse resolvers, whose values the manifest would show, and places that still await a value.

    What is refused is what OmegaConf's grammar takes for a resolver, however it is written.
    """
    for key, text in _raw_texts(node, where):
        if text == "???":
            raise ConfigError(f"configuration key '{key}' holds '???', the mark of a missing value; expected one")
        if "${" not in text:
            continue
        try:
            nodes = _walk(grammar_parser.parse(text))
            uses_resolver = any(isinstance(n, OmegaConfGrammarParser.InterpolationResolverContext) for n in nodes)
        except GrammarParseError:
            raise ConfigError(
                f"'{one_line(redacted(text), 120)}' is no interpolation, expected such as ${{task.limit}}"
            ) from None
        if uses_resolver:
            raise ConfigError(
                "the configuration uses a resolver such as ${oc.env:NAME}; its value would be written to the manifest. "
                "Write the value itself; secrets belong to the environment alone, expected there"
            )


def _raw_texts(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """Keys and values below a node, as they are written, and where they stand."""
    if isinstance(node, str):
        yield where, node
    elif isinstance(node, DictConfig | ListConfig) and isinstance(node._content, dict | list):
        children = node._content.items() if isinstance(node._content, dict) else enumerate(node._content)
        for key, child in children:
            if isinstance(key, str):
                yield where, key
            step = f"[{key}]" if isinstance(key, int) else f".{visible(str(key))}"
            yield from _raw_texts(child, (where + step).lstrip("."))
    elif node is not None and isinstance(raw := getattr(node, "_value", lambda: None)(), str):
        yield where, raw


def _walk(tree: Any) -> Iterator[Any]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += getattr(node, "children", None) or []


def _type_fault(error: OmegaConfBaseException, container: Any) -> str:
    """A wrong type or interpolation, with its key, what was found and what was expected."""
    key = str(error.full_key or "?")
    where = f"configuration key '{one_line(key, 120)}'"
    reason = one_line(redacted(str(error).split("\n")[0]), 200)
    if isinstance(error, InterpolationKeyError | InterpolationResolutionError | GrammarParseError):
        return f"{where}: {reason}; expected an interpolation of another key, such as ${{task.limit}}"
    try:
        found = one_line(redacted(repr(OmegaConf.select(container, key, throw_on_missing=False))), 120)
    except OmegaConfBaseException:
        return f"{where}: {reason}; expected {expected(key)}"
    return f"{where} holds {found}, expected {expected(key)}"


MOST_DOTS = 8
"""Of a key in an override; real ones have one."""
