"""A template as the entry of a templates file that says the same.

Knows what `templates.read_templates` takes for granted; refuses to know where the template stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import yaml

from harness.prompts.choices import ChoiceWording
from harness.prompts.templates import Chat


def template_yaml(name: str, wording: Mapping[str, Any]) -> str:
    """YAML for a templates file.

    Args:
        name: of the template.
        wording: its fields as plain data, as manifests have them; those that say nothing may be left out.
    """
    separators = list(wording.get("separators") or ["\n"])
    spec: dict[str, Any] = {key: wording[key] for key in ("prefix", "query") if wording.get(key)}
    if wording.get("labels"):
        spec["labels"] = list(wording["labels"])
    if wording.get("choices"):
        spec["choices"] = _choices(wording["choices"])
    if wording.get("answer"):
        spec["answer"] = wording["answer"]
    if separators != ["\n"] * len(separators):
        spec["separator"] = separators[0] if len(set(separators)) == 1 else separators
    if wording.get("is_exact"):
        spec["boundary"] = "exact"
    if wording.get("chat"):
        spec["render"] = "chat"
        if str(wording["chat"]) != Chat.TURNS:
            spec["demonstrations"] = str(wording["chat"])
    spec |= {key: wording[key] for key in ("system", "answer_prefix") if wording.get(key)}
    spec |= {"without_system": "merge"} if wording.get("merges_system") else {}
    spec |= {"thinking": "on"} if wording.get("thinks") else {}
    return str(yaml.safe_dump({name: spec}, allow_unicode=True, sort_keys=False, width=10_000))


def _choices(wording: Mapping[str, Any]) -> dict[str, Any]:
    usual = asdict(ChoiceWording())
    plain = {key: list(value) if isinstance(value, list | tuple) else value for key, value in wording.items()}
    usual["markers"] = list(usual["markers"])
    return {key: value for key, value in plain.items() if value != usual[key]}
