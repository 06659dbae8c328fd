"""What is known of a model before its weights are loaded: tokenizer, context length, identity.

Reads files only; torch stays out of the driver.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from harness.config.schema import EngineConfig, ModelEntry
from harness.core.errors import ModelError
from harness.core.fingerprints import hash_files
from harness.core.foreign import panics_as_errors
from harness.core.hashing import content_hash
from harness.engine.local.adapters import AdapterFiles, read_adapter
from harness.engine.local.architectures import check_architecture
from harness.engine.local.gguf_files import is_gguf, read_gguf_files, source_of
from harness.engine.local.memory import ModelShape, least_need, least_parameters, predicted, shape_of_config
from harness.engine.local.model_errors import loading_error
from harness.engine.local.model_files import ModelFiles, read_model_files, shown
from harness.engine.local.transformers_internals import adapter_of, text_config
from harness.engine.protocol import Load, MemoryNeed, ModelDescription, ReplicaMemory

log = logging.getLogger(__name__)
READ_WHOLE = 64 * 2**20
"""Files up to this size go into a quick identity whole."""
EDGE = 2**20
"""Bytes of each end of larger ones."""


@dataclass(frozen=True)
class ModelInfo(ModelDescription):
    """A transformers model, from its files. Its vocabulary is that of the configuration: rows of the embedding."""

    files: ModelFiles | None = None
    """Of a local folder."""
    commit: str | None = None
    """Of a hub model."""
    shape: ModelShape | None = None
    """Its sizes, where folder and configuration tell them."""
    adapter: AdapterFiles | None = None
    """Merged into the weights when they are loaded."""
    known_identity: str | None = None
    """What an earlier session called it, where that was found to hold still."""

    @property
    def fixed(self) -> ModelEntry:
        """A hub model is loaded at the commit that was looked at, whatever the hub holds by then."""
        return self.model if self.commit is None else replace(self.model, revision=self.commit)

    @property
    def notes(self) -> Sequence[str]:
        """Other weights beside those that are loaded."""
        return self.files.notes if self.files is not None else ()

    def as_recorded(self, identity: object) -> ModelInfo:
        """Runs used to know a model by the two ends of its large files. Such a run goes on under that name."""
        if not isinstance(identity, str) or self.files is None or self.adapter is not None:
            return self
        if identity == self.quick_identity:
            log.info(
                "%s: the run knows the model by both ends of its weights, as runs did that began earlier; "
                "begin anew with --fresh to have every byte of them checked", self.name
            )  # fmt: skip
        return replace(self, known_identity=self.quick_identity)

    def memory(self, settings: EngineConfig, loads: Sequence[Load]) -> tuple[ReplicaMemory, ...]:
        """See `ModelDescription.memory`; nothing where the model's sizes are not known."""
        return () if self.shape is None else predicted(self.model, self.shape, settings, loads)

    def least_memory(self, settings: EngineConfig, device: str) -> MemoryNeed | None:
        """See `ModelDescription.least_memory`."""
        if self.shape is None:
            return None
        return least_need(self.shape, self.model.dtype, settings, device, self.context_length)

    @property
    def loaded(self) -> dict[str, Any]:
        """Which weights are loaded, for the manifest."""
        weights = {"commit": self.commit} if self.files is None else self.files.as_dict()
        return weights | (self.adapter.as_dict() if self.adapter is not None else {})

    @property
    def loaded_words(self) -> str:
        """The same for the log."""
        merged = f", adapter {self.adapter.folder} merged into it" if self.adapter is not None else ""
        if self.files is None:
            return f"commit {self.commit} of the hub{merged}"
        names = shown([file.name for file in self.files.weights])
        return f"{names}, {len(self.files.headers)} tensors, {self.files.stored_bytes / 1e6:,.0f} MB{merged}"

    @property
    def parameters(self) -> int | None:
        """Number of weights, from the safetensors headers of a local folder."""
        return self.files.parameters if self.files is not None else None

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """File to the hash of its content: weights, configuration, tokenizer, chat template, generation settings.

        Reads every byte of the weights, once per change of a file (`harness.core.fingerprints`). Of a hub model
        the commit stands for all files.

        Raises:
            ModelError: a file cannot be read.
        """
        files = [] if self.files is None else [*self.files.weights, *self.files.texts]
        adapter = () if self.adapter is None else self.adapter.files
        try:
            found = hash_files([*files, *adapter])
        except OSError as error:
            raise ModelError(
                f"model folder '{self.model.path}' cannot be read: {error.filename or ''}: {error.strerror}; "
                "mend its files or their permissions"
            ) from None
        adapted = {f"adapter/{file.name}": found[file] for file in adapter}
        if self.files is None:
            return {"commit": str(self.commit), **adapted}
        return {**{file.relative_to(self.files.folder).as_posix(): found[file] for file in files}, **adapted}

    @cached_property
    def identity(self) -> str:
        """One hash for all of `hashes`: equal where everything that a model is read from is equal."""
        if self.known_identity is not None:
            return self.known_identity
        return str(self.commit) if self._is_commit_alone else content_hash(dict(self.hashes))

    @property
    def _is_commit_alone(self) -> bool:
        """Whether the commit says all."""
        return self.files is None and self.adapter is None

    @property
    def told_identity(self) -> str | dict[str, str]:
        """The identity as a run directory keeps it: file by file, so that a difference can be named."""
        return self.identity if self.known_identity is not None or self._is_commit_alone else dict(self.hashes)

    def is_known_as(self, told: Any) -> bool:
        """Whether a `told_identity` that a run directory keeps is this model's."""
        if isinstance(told, dict):
            return not self._is_commit_alone and told == dict(self.hashes)
        return bool(told == self.quick_identity)

    @cached_property
    def quick_identity(self) -> str:
        """Hash of configuration, tokenizer and of both ends of large weights: tells most copies apart at once.

        It was the identity of runs until the hashes of whole files took its place.
        """
        base = str(self.commit) if self.files is None else _quick_identity(self.files)
        return base if self.adapter is None else content_hash([base, *map(_quick_hash, self.adapter.files)])


def read_model_info(model: ModelEntry, check: Callable[[str, Any], None] = check_architecture) -> ModelInfo:
    """Tokenizer, context length and files of one model.

    Args:
        model: which.
        check: refuses configurations of what it is not; takes path and configuration.

    Raises:
        ModelError: the folder is missing or lacks configuration, weights or tokenizer; it is no causal
            language model, or an adapter.
    """
    transformers_logging.set_verbosity_error()
    path = model.path
    folder, gguf = Path(path), is_gguf(path)
    local = folder.is_dir() or gguf
    if not local and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise ModelError(f"no model folder '{path}'; expected a folder with config.json, weights and tokenizer")
    files = read_gguf_files(path) if gguf else read_model_files(folder) if local else None
    tensors = files.headers if files is not None and not gguf else {}
    adapter = None if model.adapter is None else read_adapter(model.adapter, path, tensors)
    source, told = source_of(path)
    options: dict[str, Any] = {"revision": model.revision or "main", "trust_remote_code": model.trust_remote_code}
    what = "configuration"
    try:
        model_config = AutoConfig.from_pretrained(source, **told, **options)
        check(path, model_config)
        what = "tokenizer"
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(source, **told, **options)
            # Settings of the wrong kind show where they are used.
            tokenizer.decode(tokenizer(path)["input_ids"])
    except ModelError:
        raise
    except Exception as error:
        raise loading_error(path, what, error) from None
    inner = text_config(model_config)
    if files is not None and not gguf:
        _check_size(model, inner, files)
    limit = getattr(inner, "max_position_embeddings", None) or getattr(inner, "n_positions", None)
    if model.max_length is not None:
        if limit is not None and model.max_length > limit:
            raise ModelError(
                f"model.max_length is {model.max_length}, but '{path}' has {limit} positions; set it lower, or null"
            )
        limit = model.max_length
    shape = None if files is None else shape_of_config(inner, files.parameters, files.stored_bytes)
    vocabulary = getattr(inner, "vocab_size", None)
    commit = None if local else _hub_commit(path, options["revision"])
    return ModelInfo(model, tokenizer, limit, vocabulary, files=files, commit=commit, shape=shape, adapter=adapter)


def _check_size(model: ModelEntry, inner: Any, files: ModelFiles) -> None:
    """Refuse a configuration of far more weights than the files can hold: to build them may take terabytes.

    What differs by less is found tensor by tensor when the model is loaded.
    """
    needed = least_parameters(inner)
    layers = getattr(inner, "num_hidden_layers", None)
    found = ""
    if needed > 8 * files.stored_bytes:  # less than one bit for a weight
        size, dtype = (4, "float32") if model.dtype == "float32" else (2, "16 bits")
        found = f"at least {needed:,} weights ({needed * size / 2**30:,.1f} GiB in {dtype})"
    elif isinstance(layers, int) and layers > len(files.headers):
        found = f"{layers:,} layers"
    if found:
        raise ModelError(
            f"model '{model.path}': its config.json tells of {found}, but its files hold {len(files.headers):,} "
            f"tensors of {files.stored_bytes / 1e6:,.1f} MB; take the config.json that was saved with them"
        )


def _hub_commit(name: str, revision: str) -> str:
    """The commit that a revision of a hub model stands for: its files lie in a folder of that name."""
    if adapter_of(name, revision) is not None:
        raise ModelError(
            f"hub model '{name}' holds an adapter, which would not be loaded; merge it first (peft: merge_and_unload, "
            "then save_pretrained into a folder) and give that folder"
        )
    try:
        file = Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:
        raise loading_error(name, "configuration", error) from None
    if file.parent.parent.name != "snapshots":
        raise ModelError(
            f"the commit of hub model '{name}' cannot be told from '{file}'; download it and give the folder"
        )
    return file.parent.name


def _quick_identity(files: ModelFiles) -> str:
    if files.alone:
        return content_hash([_quick_hash(file) for file in files.weights])
    digest = hashlib.blake2b(digest_size=16)
    for pattern in ("config.json", "token*", "vocab*", "merges.txt", "*.model", "*.safetensors"):
        for file in sorted(files.folder.glob(pattern)):
            _add_ends(digest, file)
    return digest.hexdigest()


def _quick_hash(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    _add_ends(digest, file)
    return digest.hexdigest()


def _add_ends(digest: hashlib.blake2b, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{file.name}\0{size}\0".encode())
    with file.open("rb") as stream:
        if size <= READ_WHOLE:
            digest.update(stream.read())
        else:
            digest.update(stream.read(EDGE))
            stream.seek(-EDGE, 2)
            digest.update(stream.read())
