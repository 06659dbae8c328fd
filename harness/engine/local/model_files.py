"""What lies in a model's folder: which weights will be loaded, and what beside them will not.

Knows transformers' file names and the headers of safetensors files; refuses to know torch. What
would change results and would be passed over (an adapter) is refused; copies of the weights in
other forms are named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/"
"""How a file begins that Git LFS has not fetched."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tokenizer_config.json")
_READ_BY_NAME = frozenset({".json", ".jinja", ".txt", ".model", ".spm", ".bpe", ".tiktoken", ".vocab", ".py"})
_OF_TRAINING = (
    "trainer_state", "training_args", "optimizer", "scheduler", "rng_state", "scaler", "all_results", "train_results",
    "eval_results", "readme", "license", "notice", "requirements",
)  # fmt: skip
"""Beginnings of files that no model is read from."""
_OTHER_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"})
_SHOWN = 3
MOST_HEADER_BYTES = 100_000_000
"""Of a safetensors file: the format's own bound."""


@dataclass(frozen=True)
class ModelFiles:
    """A checked folder."""

    folder: Path
    weights: tuple[Path, ...]
    """Files that are loaded, in the order of their names."""
    ignored: tuple[str, ...] = ()
    """Names of other weights in the folder, which are not loaded."""
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tensor to its `dtype` and `shape`, of all files that are loaded."""
    alone: bool = False
    """Whether nothing beside the weights is read."""

    @property
    def stored_bytes(self) -> int:
        """Of all files that are loaded."""
        return sum(file.stat().st_size for file in self.weights)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(tensor["shape"]) for tensor in self.headers.values())

    @cached_property
    def texts(self) -> tuple[Path, ...]:
        """Files beside the weights from which a model or its tokenizer may be read."""
        if self.alone:
            return ()
        found = [*self.folder.iterdir(), *self.folder.glob("additional_chat_templates/*")]
        return tuple(sorted(f for f in found if f.suffix in _READ_BY_NAME and _is_of_model(f) and f.is_file()))

    @property
    def notes(self) -> tuple[str, ...]:
        """One line about weights that are passed over; nothing where there are none."""
        if not self.ignored:
            return ()
        loaded = shown([file.name for file in self.weights])
        return (f"model '{self.folder}': {loaded} is loaded; beside it and ignored: {shown(self.ignored)}",)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {
            "files": [file.name for file in self.weights],
            "tensors": len(self.headers),
            "bytes": self.stored_bytes,
            "ignored": list(self.ignored),
        }


def read_model_files(folder: Path) -> ModelFiles:
    """What of a folder is loaded, as transformers chooses it: one file, else the files of the index.

    Raises:
        ModelError: configuration, weights or tokenizer are missing or damaged, or the folder holds an
            adapter, which would be passed over.
    """
    _refuse_pointers(folder)
    _refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder '{folder}' has no config.json; expected a transformers checkpoint")
    weights = _weights(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"model folder '{folder}' has no tokenizer; expected tokenizer.json beside the weights")
    headers: dict[str, Mapping[str, Any]] = {}
    for file in weights:
        headers |= read_header(file)
    others = [f.name for f in _other_weights(folder) if f not in weights]
    if (folder / INDEX).is_file() and weights == (folder / SINGLE,):
        others.append(INDEX)
    others += [f"{path.parent.name}/" for path in sorted(folder.glob("*/adapter_config.json"))]
    if (folder / "original").is_dir():
        others.append("original/")
    return ModelFiles(folder, weights, tuple(others), headers)


def read_header(file: Path) -> dict[str, Mapping[str, Any]]:
    """Tensor to its `dtype` and `shape`, from the head of a safetensors file.

    Raises:
        ModelError: it is none, or it is shorter than its header says.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size, MOST_HEADER_BYTES):
                raise ValueError
            header = json.loads(stream.read(length))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        end = max((_whole(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
        for tensor in tensors.values():
            math.prod(map(_whole, tensor["shape"]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ModelError(f"'{file}' is not a safetensors file; copy or download the model again") from None
    if size < 8 + length + end:
        raise ModelError(
            f"'{file}' is cut short: {size:,} bytes, its header tells of {8 + length + end:,}; "
            "copy or download the model again"
        )
    return tensors


def _whole(value: Any) -> int:
    """A size or place.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(value)
    return value


def shown(names: Iterable[str], most: int = _SHOWN) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _weights(folder: Path) -> tuple[Path, ...]:
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    index = folder / INDEX
    if index.is_file():
        return tuple(_indexed(index))
    raise ModelError(_no_weights(folder))


def _indexed(index: Path) -> Iterator[Path]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"'{index}' is no index of weights; copy or download the model again") from None
    missing = [name for name in names if not (index.parent / str(name)).is_file()]
    if missing or not names:
        raise ModelError(
            f"'{index}' names {len(missing)} of {len(names)} files that are not there: {shown(missing)}; "
            "copy or download them again"
        )
    yield from (index.parent / name for name in names)


def _no_weights(folder: Path) -> str:
    others = [file.name for file in _other_weights(folder)]
    suffixes = {Path(name).suffix for name in others}
    hint = "copy them there"
    if ".gguf" in suffixes and suffixes <= {".gguf"}:
        hint = "give the GGUF file itself as model.path"
    elif any(name.startswith("consolidated") for name in others) or (folder / "original").is_dir():
        hint = "these are weights in their maker's own form; take the copy in transformers' form, or convert them"
    elif ".safetensors" in suffixes:
        hint = f"name one file {SINGLE}, or write {INDEX} for several"
    elif others:
        hint = "convert it to safetensors: load it with transformers and call save_pretrained"
    found = f" (found {shown(others)})" if others else ""
    return f"model folder '{folder}' has no *.safetensors weights named {SINGLE} or in {INDEX}{found}; {hint}"


def _refuse_adapter(folder: Path) -> None:
    config = folder / "adapter_config.json"
    found = next((f for f in (config, *sorted(folder.glob("adapter_model.*"))) if f.is_file()), None)
    if found is None:
        return
    base = ""
    try:
        named = json.loads(config.read_bytes()).get("base_model_name_or_path")
        base = f" of '{named}'" if named else ""
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    raise ModelError(
        f"model folder '{folder}' holds an adapter{base} ({found.name}), which would not be loaded; give the base "
        "model as model.path and the adapter's folder as model.adapter, or merge it first (peft: merge_and_unload, "
        "then save_pretrained into another folder), or move it away to evaluate the base model"
    )


def _refuse_pointers(folder: Path) -> None:
    """Files that a clone without Git LFS left as pointers, weights and tokenizer alike."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and 0 < file.stat().st_size < 1024:
            with file.open("rb") as stream:
                if stream.read(len(POINTER)) == POINTER:
                    raise ModelError(
                        f"'{file}' is a pointer of Git LFS, not the file itself; fetch it: run `git lfs pull` in the "
                        "model's folder"
                    )


def _other_weights(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix in _OTHER_WEIGHTS and _is_of_model(file))
    return sorted(file for file in files if file.is_file())


def _is_of_model(file: Path) -> bool:
    return not file.name.lower().startswith((".", *_OF_TRAINING))
