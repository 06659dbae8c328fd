"""What a command adds to a run directory: a run only grows, and what it has stays as it is.

Knows identities and samples; refuses to know parts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import RunDirError
from harness.core.escaping import one_line
from harness.core.hashing import content_hash, rows_hash
from harness.core.task import Sample
from harness.core.task_code import code_of, n_codes
from harness.planning.format_1 import facts_of
from harness.planning.identity import grid_identity, task_identity
from harness.planning.preparation import Prepared
from harness.prompts.draws import draw_of
from harness.results import layout
from harness.results import manifest as manifests
from harness.results.samples import read_samples, table_of
from harness.results.store import RunStore

log = logging.getLogger(__name__)
READINGS = ("special_tokens_in_data", "templates_with_start_token", "chat_time")
"""How prompts were read, which runs of early versions did otherwise; under format 2 there is one way."""
SHOWN = 60


@dataclass(frozen=True)
class Growth:
    """A run as its directory and a command make it."""

    prepared: Prepared
    """With its models called as the directory calls them."""
    samples: tuple[Sample, ...]
    """All of the run, those first that its directory had before."""
    identity: dict[str, Any]
    """Of the whole."""
    added: dict[str, Any]
    """What the directory did not have: values of `templates`, `k`, `seeds`, `models` and `references`, and the numbers
    of `samples` before and after. Empty where it had everything."""

    @property
    def in_words(self) -> str:
        """What was added, for the log."""
        words = [
            f"{name} {values[0]:,} -> {values[1]:,}" if name == "samples" else f"{name} {', '.join(map(str, values))}"
            for name, values in self.added.items()
        ]
        return "; ".join(words)


def begin(prepared: Prepared) -> Growth:
    """A run that begins now."""
    return Growth(prepared, tuple(prepared.data.samples), _plain(grid_identity(prepared)), {})


def grow(store: RunStore, manifest: Mapping[str, Any], prepared: Prepared) -> Growth:
    """Hold a command against a run directory.

    Args:
        store: of the run directory.
        manifest: with `config`, `identity` and `n_samples`.
        prepared: what the command asks for.

    Raises:
        RunDirError: something that decides results differs, or the command leaves out what the directory has.
    """
    found = manifest["identity"]
    prepared = prepared.as_recorded(found)
    data = {sample.id: sample for sample in prepared.data.samples}
    ids, stored = _recorded(store, manifest, prepared)
    known = set(ids)
    old = [data[name] for name in ids if name in data]
    samples = (*old, *(sample for sample in prepared.data.samples if sample.id not in known))
    identity = _plain(grid_identity(prepared, samples))
    mine, theirs = _comparable(found, identity, is_early=manifest.get("format", 1) < 2)
    if len(old) == len(ids) and rows_hash(sample.row() for sample in old) != found.get("samples"):
        mine["samples"], theirs["samples"] = _changed(stored, old, found.get("samples"))
    manifests.check_identity(store, mine, theirs)
    left_out = list(_left_out(found, identity))
    gone = [name for name in ids if name not in data]
    if left_out or gone:
        raise RunDirError(_refusal(store, manifest, left_out, gone))
    if draw_of(prepared.config.demos).is_sequential and prepared.largest_k:
        order = rows_hash(sample.row() for sample in prepared.data.samples)
        if order != found.get("samples"):
            raise RunDirError(
                f"demos.policy={prepared.config.demos.policy} draws demonstrations for all samples in turn, so that "
                f"none can be added to '{store.run_dir}' or change its place: it has {len(ids):,}, this command "
                f"{len(data):,}; set another name=..."
            )
    return Growth(prepared, samples, identity, _added(found, identity, len(ids), len(samples)))


def take_in(manifest: dict[str, Any], growth: Growth, session: dict[str, Any]) -> None:
    """Let a manifest speak of the run as it is now.

    Args:
        manifest: of the directory, changed in place.
        growth: of the run.
        session: of this driver, changed in place: it says what was added.
    """
    prepared = growth.prepared
    if "tracking_id" not in manifest:
        begun, name = manifest["sessions"][0]["started"], prepared.config.name
        manifest["tracking_id"] = content_hash({"identity": manifest["identity"], "name": name, "begun": begun})[:16]
    if manifest.get("format", 1) < 2:
        manifest["format_1"] = facts_of(manifest)
    if growth.added:
        session["grown"] = growth.added
        config = prepared.config.as_dict()
        names = [setup.name for setup in prepared.models]
        config["model"]["path"] = names if isinstance(config["model"]["path"], list) else names[0]
        manifest["config"] = config
    # What is worked out from records may be asked for at any time.
    asked = {key: getattr(prepared.config.scoring, key) for key in ("metrics", "extract")}
    scoring = {**manifest["config"].get("scoring", {}), **asked}
    manifest |= {
        "config": {**manifest["config"], "scoring": scoring},
        "format": layout.FORMAT,
        "identity": growth.identity,
        "n_samples": len(growth.samples),
        "n_pool": {setup.name: len(setup.draw.pool.samples) for setup in prepared.models},
        "notes": list(prepared.notes),
        "weights": {setup.name: setup.info.loaded for setup in prepared.setups},
        "references": [setup.name for setup in prepared.setups[len(prepared.models) :]],
    }


def note_code(sessions: list[dict[str, Any]], prepared: Prepared) -> None:
    """Keep which code of a user's task judges in the last session; say where it is another than before.

    Args:
        sessions: of the manifest, the last of them changed in place.
        prepared: the run.
    """
    sessions[-1]["task_code"] = code_of(prepared.task)
    if n_codes(one.get("task_code") for one in sessions) > 1:
        log.warning(
            "the code of task '%s' has changed since this run began, its version is still '%s': new records are judged "
            "by other code than those that are there; if loading or scoring changed, raise Task.version, and begin "
            "anew with --fresh", prepared.task.name, prepared.task.version,
        )  # fmt: skip


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _recorded(store: RunStore, manifest: Mapping[str, Any], prepared: Prepared) -> tuple[list[str], Any]:
    """Ids of the directory's samples in its order, and their table; None for it where that is lost but not needed."""
    n_samples = int(manifest["n_samples"])
    try:
        table = read_samples(store)
        if table.num_rows < n_samples:
            raise RunDirError(
                f"'{store.run_dir}/{manifests.NAME}' is damaged: n_samples is {n_samples}, expected "
                f"{table.num_rows} or less, as many as samples.parquet has; {store.anew()}"
            )
    except RunDirError:
        samples = prepared.data.samples
        if rows_hash(sample.row() for sample in samples) != manifest["identity"].get("samples"):
            raise
        return [sample.id for sample in samples], None
    # A driver that was killed while the run grew may have left more rows than the manifest counts.
    table = table.slice(0, n_samples)
    return table["sample_id"].to_pylist(), table


def _comparable(
    found: Mapping[str, Any], identity: Mapping[str, Any], is_early: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both identities as far as they must agree: what is fixed for the life of a directory, and what both name."""
    names = ("samples", "models", "references", "finetune", "templates", "grid", *READINGS)
    mine, theirs = ({key: value for key, value in one.items() if key not in names} for one in (found, identity))
    mine["task"], theirs["task"] = (task_identity(one.get("task", {})) for one in (found, identity))
    # Other tasks' options stand in early directories, too.
    shared_options = mine["task"]["options"].keys() & theirs["task"]["options"].keys()
    for one in (mine["task"], theirs["task"]):
        one["options"] = {key: one["options"][key] for key in sorted(shared_options)}
    # Engines stand there only where one is not the usual.
    mine["engines"], theirs["engines"] = (
        one.get("engines") or dict.fromkeys(one.get("models", {}), "local") for one in (found, identity)
    )
    for axis in ("models", "references", "templates", "engines", "model_settings"):
        before, now = mine.get(axis, found.get(axis)), theirs.get(axis, identity.get(axis))
        if before is None or now is None:
            continue
        shared = [name for name in before if name in now]
        mine[axis], theirs[axis] = ({name: one[name] for name in shared} for one in (before, now))
    if is_early:
        mine |= {key: found[key] for key in READINGS if key in found}
        theirs |= _early_readings(found, identity)
    elif not _brings_time(found, identity):
        mine["chat_time"], theirs["chat_time"] = found.get("chat_time"), identity.get("chat_time")
    return mine, theirs


def _brings_time(found: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether prompts may hold a time now because of what is new: of models, or of chats where there were none."""
    had_chats = any(wording.get("chat") for wording in found["templates"].values())
    return "chat_time" not in found and (not had_chats or len(identity["models"]) > len(found["models"]))


def _early_readings(found: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """The readings of what an early directory has already."""
    now = {key: identity[key] for key in READINGS if key in identity}
    pairs = {f"{model}: {template}" for model in found["models"] for template in found["templates"]}
    started = [pair for pair in now.pop("templates_with_start_token", []) if pair in pairs]
    if _brings_time(found, identity):
        now.pop("chat_time", None)
    return now | ({"templates_with_start_token": started} if started else {})


def _changed(stored: Any, samples: Sequence[Sample], recorded: Any) -> tuple[Any, Any]:
    """Samples whose ids stayed and whose content did not, before and after."""
    if stored is not None:
        rows, now = stored.to_pylist(), table_of(samples).to_pylist()
        for before, after in zip(rows, now, strict=True):
            names = [name for name in after if before.get(name) != after[name]]
            if names:
                key = before["sample_id"]
                return {key: {n: before.get(n) for n in names}}, {key: {n: after[n] for n in names}}
    return recorded, rows_hash(sample.row() for sample in samples)


def _left_out(found: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterator[str]:
    """What a directory has of each axis and a command does not name."""
    for axis, word in (("models", "model "), ("references", "reference "), ("templates", "template ")):
        yield from (f"{word}'{name}'" for name in found.get(axis, {}) if name not in identity.get(axis, {}))
    for axis, word in (("k", "K="), ("seeds", "seed ")):
        values = found.get("grid", {}).get(axis, [])
        yield from (f"{word}{value}" for value in values if value not in identity["grid"][axis])
    for axis, word in (("sizes", "n="), ("seeds", "training seed ")):
        values = found.get("finetune", {}).get(axis, [])
        yield from (f"{word}{value}" for value in values if value not in identity.get("finetune", {}).get(axis, []))


def _refusal(store: RunStore, manifest: Mapping[str, Any], left_out: list[str], gone: list[str]) -> str:
    hint = "name them too"
    if gone:
        task = manifest["config"]["task"]
        left_out.append(f"{len(gone):,} of {manifest['n_samples']:,} samples ('{one_line(gone[0], SHOWN)}' first)")
        hint = "raise task.limit or give the same data" if not left_out[:-1] else f"{hint}, and ask for all samples"
        if task.get("limit") is not None and "draw" not in task:
            hint += " (samples were drawn otherwise when it began: task.draw=lecture takes those of NSMC)"
    named = ", ".join(left_out[:6]) + (f" and {len(left_out) - 6} more" if left_out[6:] else "")
    return (
        f"the run directory '{store.run_dir}' holds what this command leaves out: {named}; a run only grows: {hint}, "
        "set another name=..., or start anew beside it with --fresh"
    )


def _added(found: Mapping[str, Any], identity: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    axes = {
        "models": (found.get("models", {}), identity["models"]),
        "references": (found.get("references", {}), identity.get("references", {})),
        "templates": (found.get("templates", {}), identity["templates"]),
        "k": (found.get("grid", {}).get("k", []), identity["grid"]["k"]),
        "seeds": (found.get("grid", {}).get("seeds", []), identity["grid"]["seeds"]),
        **{
            f"finetune.{axis}": (found.get("finetune", {}).get(axis, []), identity.get("finetune", {}).get(axis, []))
            for axis in ("sizes", "seeds")
        },
    }
    new = {axis: [value for value in now if value not in had] for axis, (had, now) in axes.items()}
    return {axis: values for axis, values in new.items() if values} | (
        {"samples": [before, after]} if after > before else {}
    )
