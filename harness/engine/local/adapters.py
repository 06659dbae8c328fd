"""LoRA adapters beside a base model: which files, whether they fit it, and merging them into its weights.

Files are read without torch; PEFT, an optional package, loads and merges them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ModelError
from harness.core.escaping import one_line
from harness.engine.local.model_files import read_header, shown

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INSTALL = "install PEFT on every node: pip install 'prompt-grid-harness[adapters]'"
_MATRIX = re.compile(r"^base_model\.model\.(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?$")


@dataclass(frozen=True)
class AdapterFiles:
    """A checked adapter.

    Attributes:
        folder: holds it.
        base: what it says it was trained on; empty where it says nothing.
        modules: of the base model, that it changes.
    """

    folder: Path
    base: str
    modules: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that it is read from."""
        return (self.folder / CONFIG, self.folder / WEIGHTS)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {"adapter": str(self.folder), "adapter_base": self.base, "adapted_modules": len(self.modules)}


def read_adapter(path: str, model: str, headers: Mapping[str, Mapping[str, Any]]) -> AdapterFiles:
    """The adapter in a folder, checked against the tensors of its base model.

    Args:
        path: `model.adapter`.
        model: of the base model, for messages.
        headers: tensor of the base model to its `shape`; empty where they are not known.

    Raises:
        ModelError: no folder, no LoRA adapter, damaged, or of another base model.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"no adapter folder '{path}'; expected a folder with {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        kind, base = str(config.get("peft_type")), str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise ModelError(
            f"'{folder / CONFIG}' is missing or damaged; expected a PEFT adapter as model.adapter"
        ) from None
    if kind != "LORA":
        raise ModelError(
            f"adapter '{path}' is of the type {one_line(kind, 40)}, expected LORA: only that can be merged"
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"adapter '{path}' has no {WEIGHTS}; save it again with save_pretrained(safe_serialization=True)"
        )
    if importlib.util.find_spec("peft") is None:
        raise ModelError(f"model.adapter needs the package peft, which is not installed; {INSTALL}")
    matrices: dict[str, dict[str, list[int]]] = {}
    for name, tensor in read_header(folder / WEIGHTS).items():
        if match := _MATRIX.match(name):
            matrices.setdefault(match[1], {})[match[2]] = list(tensor["shape"])
    if not matrices:
        raise ModelError(f"adapter '{path}' holds no LoRA matrices; expected names such as ...q_proj.lora_A.weight")
    _check_fits(path, model, base, matrices, headers)
    return AdapterFiles(folder, base, tuple(sorted(matrices)))


def _check_fits(
    path: str,
    model: str,
    base: str,
    matrices: Mapping[str, Mapping[str, list[int]]],
    headers: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse an adapter whose matrices are of other sizes than the base model's."""
    named = f" ('{one_line(base, 80)}')" if base else ""
    remedy = "give the base model that it was trained on as model.path"
    odd = []
    for module, pair in matrices.items():
        tensor = headers.get(f"{module}.weight")
        if sorted(pair) != ["A", "B"]:
            raise ModelError(f"adapter '{path}' is not whole: {module} lacks one of lora_A and lora_B; save it again")
        if tensor is None:
            continue
        sizes = sorted(tensor["shape"])
        ranks = [set(pair["A"]), set(pair["B"])]
        outer = sorted([max(pair["A"]), max(pair["B"])])
        if outer != sizes or not ranks[0] & ranks[1]:
            odd.append(f"{module} {outer[0]}x{outer[1]} instead of {sizes[0]}x{sizes[1]}")
    if odd:
        raise ModelError(
            f"adapter '{path}' belongs to another base model{named} than '{model}': {shown(odd)}; {remedy}"
        )
    if headers and not any(f"{module}.weight" in headers for module in matrices):
        raise ModelError(
            f"adapter '{path}' belongs to another base model{named} than '{model}', which has no "
            f"{shown(sorted(matrices))}; {remedy}"
        )


def merge_adapter(model: Any, path: str) -> Any:
    """The base model with an adapter merged into its weights, in their number format.

    Args:
        model: as loaded.
        path: `model.adapter`.

    Raises:
        ModelError: PEFT does not take it, or only in part.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(f"model.adapter needs the package peft ({error}); {INSTALL}") from None
    wanted = {_module(name) for name in read_header(Path(path) / WEIGHTS)} - {None}
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, path, is_trainable=False)
        placed = {_module(name.replace(".default", "")) for name, _ in adapted.named_parameters()} - {None}
        merged = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:
        reason = one_line(str(error), 300)
        raise ModelError(
            f"adapter '{path}' cannot be merged: {type(error).__name__}: {reason}; expected a LoRA adapter of this "
            "very base model"
        ) from None
    missing = next((str(one.message) for one in said if "missing adapter keys" in str(one.message)), "")
    if missing or wanted != placed:
        odd = sorted(str(name) for name in wanted ^ placed)
        raise ModelError(
            f"adapter '{path}' fits this base model in part only: {shown(odd) or one_line(missing, 160)}; expected the "
            "base model that it was trained on"
        )
    return merged


def _module(name: str) -> str | None:
    match = _MATRIX.match(name)
    return match[1] if match else None
