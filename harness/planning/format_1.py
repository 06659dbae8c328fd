"""The units of run directories of format 1, whose parts do not say what they depend on: only their ids tell.

Under format 1 a unit held all K of one (model, template, seed) over a shard of the samples in the order of their
file, and its records of K=0 stood under every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.hashing import content_hash, rows_hash
from harness.core.task import Sample
from harness.planning.identity import cell_identity, wording_of
from harness.planning.preparation import Prepared, content_free
from harness.planning.units import Cell, Plan
from harness.prompts.draws import Draw, draw_of

UnitFacts = tuple[Mapping[int | None, str], int]
"""K to what its records depend on (`WorkUnit.keys`), and the rows of the part."""


def facts_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `units_of_format_1` needs of a manifest of format 1, before the run grows."""
    config = manifest["config"]
    return {
        "grid": config["grid"],
        "models": list(manifest["identity"]["models"]),
        "calibration": config.get("scoring", {}).get("calibration", []),
        "n_samples": manifest["n_samples"],
    }


def units_of_format_1(
    prepared: Prepared, plan: Plan, samples: Sequence[Sample], facts: Mapping[str, Any]
) -> dict[str, UnitFacts]:
    """Id to facts of the units that the run had while its directory was of format 1.

    Args:
        prepared: the run as it is now.
        plan: of it.
        samples: of the run directory, in its order.
        facts: from `facts_of`.
    """
    config, grid = prepared.config, facts["grid"]
    asked = list(samples[: facts["n_samples"]])
    inputs = content_free(facts["calibration"], prepared.data)
    policy = draw_of(config.demos)
    by_seed = policy.groups_samples and any(grid["k"])
    found: dict[str, UnitFacts] = {}
    for setup in prepared.models:
        if setup.name not in facts["models"]:
            continue
        fixed = cell_identity(prepared, setup)
        fixed.pop("model_name", None)
        twins = sum(
            other.info.identity == setup.info.identity for other in prepared.models if other.name in facts["models"]
        )
        if twins > 1:
            fixed["model_name"] = setup.name
        for template in grid["templates"]:
            for place, seed in enumerate(grid["seeds"]):
                ks = [k for k in grid["k"] if k > 0 or place == 0]
                zero_shot = list(grid["seeds"]) if 0 in ks else []
                ordered = _by_group(asked, seed, policy) if by_seed else asked
                starts = range(0, len(ordered), plan.shard_size)
                shards = [ordered[start : start + plan.shard_size] for start in starts]
                keys: dict[int | None, str] = {
                    k: plan.keys[Cell(setup.name, config.task.name, template, k, seed)] for k in ks
                }
                for rows in [*shards, *([inputs] if inputs else [])]:
                    identity = {
                        **fixed,
                        "template": wording_of(prepared.template(template)),
                        "seed": seed,
                        "ks": ks,
                        "zero_shot_seeds": zero_shot,
                        "rows": rows_hash(s.row() for s in rows),
                    }
                    if ks:
                        n_rows = len(rows) * (len(ks) - (0 in ks) + len(zero_shot))
                        found[content_hash(identity)] = (keys, n_rows)
    return found


def _by_group(samples: Sequence[Sample], seed: int, policy: Draw) -> list[Sample]:
    return sorted(samples, key=lambda s: (policy.group(seed, s.id), s.id))
