"""How much memory a replica needs at its peak, before a model is loaded.

Arithmetic over sizes that files tell; refuses to know torch and Ray. Constants that no arithmetic
gives were measured; docs/performance.md has predictions beside measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.schema import EngineConfig, ModelEntry
from harness.engine.protocol import Load, MemoryNeed, ReplicaMemory

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CPU_TOKENS_PER_PACK = 2048
GPU_TOKENS_PER_PACK = (4096, 32768)
"""Least and most tokens of a pack that the engine chooses for itself on a GPU.

With packs of 16,384 an H100 waited for launches: it was busy for 0.17 of a unit's 0.30 s. Twice as many halve them."""
LOGITS_AT_ONCE = 2**26
"""Most logits in memory at a time (rows x vocabulary)."""
CONVERTED_AT_ONCE = 2**26
"""Weights of the head that are converted to higher precision at a time; fewer are kept converted."""
KEPT_CONVERTED_BYTES = 2**31
"""Most bytes of a head of 16 bits that a CPU keeps in float32: converting it again and again took 40% of scoring."""
LARGE_VOCABULARY = 2**16
"""Exponentials of so many logits are added in float64."""
SCORES_AT_ONCE = 2**24
"""Most scores of queries and keys that attention in plain operations has in memory on a GPU."""
SCORE_BYTES = 14
"""Of a score: three copies in float32, and one of 16 bits."""
PROCESS_BYTES = 580 * 2**20
"""A process on a CPU with torch, transformers and Ray imported and a model of no size loaded."""
LOADING_BYTES = 520 * 2**20
"""The same process before its first forward pass."""
GPU_PROCESS_BYTES = 600 * 2**20
"""CUDA's context and the libraries' workspaces. An assumption: it was not measured."""
LOGIT_COPIES = 2.0
"""Logits, and the exponentials of their log-sum-exp."""
REMEMBERED_BYTES = {"cpu": 2**26, "cuda": 2**28}
"""Most memory for the first layer's results per token, beyond those of the tokens of one pack."""
PROMPTS_PER_TOKEN = 1 / 26
"""Prompts read per token computed, where the data are not known: a review is as long."""
PROMPT_BYTES = 24
"""Of a prompt token in the lists and keys of a unit."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, from its configuration and the headers of its weights."""

    parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    gated: bool
    """Whether the feed-forward part has a gate."""
    vocabulary: int
    stored_bytes: int = 0
    """Of the weights' files; 0 where they are not known."""

    @property
    def query_size(self) -> int:
        """Numbers of one token's queries."""
        return self.heads * self.head_size

    @property
    def key_size(self) -> int:
        """Numbers of one token's keys."""
        return self.kv_heads * self.head_size


@dataclass(frozen=True)
class PackLoad:
    """What a replica computes at a time.

    Attributes:
        tokens_per_pack: most tokens of one forward pass.
        longest_prompt: tokens.
        unit_tokens: tokens of a unit that go through the model; a pack has no more.
        unit_prompt_tokens: tokens of all its prompts.
        prompts_per_token: prompts read per token computed.
        generates: whether answers are generated: a float32 model on a CPU then attends in float64.
    """

    tokens_per_pack: int
    longest_prompt: int
    unit_tokens: int
    unit_prompt_tokens: int
    prompts_per_token: float
    generates: bool = False


def shape_of_config(config: Any, parameters: int, stored_bytes: int = 0) -> ModelShape | None:
    """Sizes from a transformers configuration; None where it lacks one of them.

    Args:
        config: of the text model.
        parameters: number of weights.
        stored_bytes: of the weights' files.
    """
    hidden = getattr(config, "hidden_size", None)
    heads = getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    vocabulary = getattr(config, "vocab_size", None)
    if not (hidden and heads and layers and vocabulary):
        return None
    sizes = (getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    activation = str(getattr(config, "hidden_act", None) or getattr(config, "activation_function", ""))
    return ModelShape(
        parameters,
        hidden,
        layers,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or hidden // heads,
        next((size for size in sizes if size), 4 * hidden),
        activation in ("silu", "swish"),
        vocabulary,
        stored_bytes,
    )


def least_parameters(config: Any) -> int:
    """Weights that a model of this configuration has at least: embedding, attention outputs, feed-forward parts.

    Args:
        config: of the text model, as transformers reads it.
    """
    hidden, layers = _whole(config, "hidden_size"), _whole(config, "num_hidden_layers")
    embedded = _whole(config, "word_embed_proj_dim", "embedding_size") or hidden
    attended = _whole(config, "num_attention_heads") * _whole(config, "head_dim") or hidden
    between = _whole(config, "intermediate_size", "ffn_dim", "n_inner")
    experts = _whole(config, "num_local_experts", "num_experts", "n_routed_experts")
    widest = max(between, experts * _whole(config, "moe_intermediate_size"))
    return _whole(config, "vocab_size") * embedded + layers * hidden * (1 + attended + 2 * widest)


def _whole(config: Any, *names: str) -> int:
    """The first of these entries that is a number above zero, else 0."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)


def ways(device: str, dtype: str) -> list[tuple[str, str]]:
    """Devices and number formats that a configuration may end up with.

    Args:
        device: `model.device`; `auto` takes a GPU where there is one.
        dtype: `model.dtype`; `auto` depends on the processor, and is 16 bits on a GPU.
    """
    devices = ["cpu", "cuda"] if device == "auto" else [device]
    formats = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}
    return [(name, found) for name in devices for found in (formats[name] if dtype == "auto" else [dtype])]


def usual_tokens_per_pack(device: str) -> int:
    """Tokens of a pack with `engine.tokens_per_pack: auto` and memory enough."""
    return CPU_TOKENS_PER_PACK if device == "cpu" else GPU_TOKENS_PER_PACK[1]


def predicted(
    model: ModelEntry, shape: ModelShape, settings: EngineConfig, loads: Sequence[Load]
) -> tuple[ReplicaMemory, ...]:
    """What a replica needs at its peak, on each device and in each number format that it may end up with.

    Args:
        model: as it is loaded.
        shape: its sizes.
        settings: of the run.
        loads: one per template; the largest need counts.
    """
    size, shares = settings.tokens_per_pack, settings.share_prefixes
    found = []
    for device, dtype in ways(model.device, model.dtype):
        tokens = usual_tokens_per_pack(device) if size == "auto" else int(size)
        needs = [
            predict(
                shape,
                dtype,
                device,
                shares,
                PackLoad(
                    tokens,
                    load.longest_prompt,
                    load.unit_tokens_unique if shares else load.unit_tokens,
                    load.unit_tokens,
                    load.prompts_per_unique_token if shares else load.prompts_per_token,
                    load.generates,
                ),
            )
            for load in loads
        ]
        largest = max(needs, key=lambda need: need.total)
        found.append(ReplicaMemory(model.name, device, dtype, tokens, largest))
    return tuple(found)


def least_need(shape: ModelShape, dtype: str, settings: EngineConfig, device: str, context: int | None) -> MemoryNeed:
    """What a replica needs at least: a pack of the least size, read at the end of every review-long path.

    For where data are not read; the plan knows more.

    Args:
        shape: of the model.
        dtype: `model.dtype`.
        settings: of the run.
        device: `cpu` or `cuda`.
        context: most tokens of a prompt.
    """
    chosen = [found for name, found in ways(device, dtype) if name == device][-1]
    size = settings.chosen_tokens_per_pack
    least = CPU_TOKENS_PER_PACK if device == "cpu" else GPU_TOKENS_PER_PACK[0]
    tokens = least if size is None else size
    longest = min(tokens, context or tokens)
    return predict(
        shape, chosen, device, settings.share_prefixes, PackLoad(tokens, longest, tokens, 0, PROMPTS_PER_TOKEN)
    )


def keeps_converted(head: int, size: int, device: str) -> bool:
    """Whether a head of higher precision is kept beside the model's own.

    Args:
        head: its weights.
        size: bytes of one in the model.
        device: `cpu` or `cuda`.
    """
    return head <= CONVERTED_AT_ONCE or (device == "cpu" and size == 2 and 4 * head <= KEPT_CONVERTED_BYTES)


def remembered_tokens(bytes_per_token: int, vocabulary: int, tokens_per_pack: int, device: str) -> int:
    """Tokens whose results in the first layer are remembered at a time: those of any pack at least."""
    room = REMEMBERED_BYTES.get(device, REMEMBERED_BYTES["cpu"]) // max(1, bytes_per_token)
    return min(vocabulary, max(room, tokens_per_pack))


def tokens_that_fit(
    shape: ModelShape, dtype: str, shares: bool, longest_prompt: int, free_bytes: int, least: int, most: int
) -> int:
    """The largest pack on a GPU whose loaded weights leave `free_bytes`, between two sizes.

    Sizes are `most` halved, so that replicas of one kind agree although a few megabytes differ.
    """
    size = most
    while size > least:
        need = predict(shape, dtype, "cuda", shares, PackLoad(size, longest_prompt, size, 0, PROMPTS_PER_TOKEN))
        if need.head + need.pack + need.kept + need.logits + need.remembered <= free_bytes:
            break
        size //= 2
    return size


def bytes_per_token(shape: ModelShape, dtype: str, device: str, shares: bool, generates: bool = False) -> int:
    """Activations of one token of a pack at the widest place of a layer.

    Args:
        shape: of the model.
        dtype: of its weights.
        device: `cpu` or `cuda`.
        shares: whether packs attend over a prefix tree.
        generates: as of `PackLoad`.
    """
    size = BYTES[dtype]
    query, key = shape.query_size, shape.key_size
    # Residual, normed input; projections and their rotated copies.
    attention = (2 * shape.hidden + 2 * query + 3 * key) * size
    if shares and device == "cpu":
        exact = 8 if dtype == "float32" and generates else size
        if exact > size:
            attention += (query + 2 * key) * exact
        # The output; gathered queries, keys and values of short paths, and their output twice over, merged in float32.
        attention += query * exact + 3 * query * exact + 2 * query * max(exact, 4)
    elif shares:
        # Padded or transposed copies; output and one part of it in float32.
        attention += (query + 2 * key) * size + 2 * query * 4
    else:
        attention += query * size
    wide = (3 if shape.gated else 2) * shape.intermediate
    return max(attention, (3 * shape.hidden + wide) * size)


def predict(
    shape: ModelShape, dtype: str, device: str, shares: bool, load: PackLoad, attention: str = "cascade"
) -> MemoryNeed:
    """Memory of one replica at its peak.

    Args:
        shape: of the model.
        dtype: `float32`, `bfloat16` or `float16`.
        device: `cpu` or `cuda`.
        shares: whether prefixes are shared.
        load: what it computes at a time.
        attention: kernel of a GPU; `parts` has scores in memory, the others none.
    """
    size, on_cpu = BYTES[dtype], device == "cpu"
    is_large = shape.vocabulary * shape.hidden > CONVERTED_AT_ONCE
    exact = 8 if on_cpu and dtype == "float32" and not is_large else 4
    head = shape.vocabulary * shape.hidden
    converted = (head if keeps_converted(head, size, device) else CONVERTED_AT_ONCE) * exact
    # A GPU multiplies a head of 16 bits as it is, and a large head of float32 stays so.
    if (exact == size and not is_large) or (not on_cpu and size == 2) or (is_large and size == 4):
        converted = 0
    tokens = max(min(load.tokens_per_pack, load.unit_tokens), load.longest_prompt)
    # Copied from pack to pack, so that two are there until the last layer has run; labels on a GPU keep one in place.
    copies = 2 if on_cpu or load.generates else 1
    scores = 0
    if shares and not on_cpu and attention == "parts":
        scores = SCORE_BYTES * min(SCORES_AT_ONCE, tokens * load.longest_prompt * shape.heads)
    rows = min(tokens * load.prompts_per_token, LOGITS_AT_ONCE // shape.vocabulary)
    weights = shape.parameters * size
    converts = abs(shape.stored_bytes - weights) > 0.1 * weights
    results = (shape.query_size + 2 * shape.key_size + shape.hidden) * size
    remembered = remembered_tokens(results, shape.vocabulary, load.tokens_per_pack, device) if shares else 0
    cached = 2 * shape.layers * shape.key_size * (8 if on_cpu and dtype == "float32" and load.generates else size)
    return MemoryNeed(
        weights=weights,
        head=converted,
        pack=tokens * bytes_per_token(shape, dtype, device, shares, load.generates) + scores,
        kept=copies * load.longest_prompt * cached if shares else 0,
        logits=int(LOGIT_COPIES * rows * shape.vocabulary * exact),
        remembered=results * remembered,
        host=(PROCESS_BYTES + PROMPT_BYTES * load.unit_prompt_tokens) if on_cpu else GPU_PROCESS_BYTES,
        loading=LOADING_BYTES + weights + converts * shape.stored_bytes if on_cpu else 0,
    )
