"""What the documents of a run directory must look like, as data, and what is wrong with one that does not.

Run directories are copied, cut off and edited; whoever reads one checks here what it needs before use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from harness.core.escaping import one_line

FORMAT = 4
"""Of manifest, prompts, samples and parts; a newer one is refused. Under format 3 parts have no column `reasoning`.
Under format 2 every cell is a prompt. Under format 1 records of K=0 stood under every seed, and parts did not say what
they depend on."""
Check = Callable[[Any, str], str]
"""Value and where it stands, to what is wrong with it; an empty text where nothing is."""
_SHOWN = 60


def anything(value: Any, where: str) -> str:
    """No demand."""
    return ""


def text(value: Any, where: str) -> str:
    """A text that UTF-8 can hold."""
    if not isinstance(value, str):
        return _fault(value, where, "text")
    return _fault(value, where, "text without lone surrogates") if _has_surrogates(value) else ""


def whole(least: int, most: int = 2**63 - 1) -> Check:
    """A whole number between two bounds."""

    def check(value: Any, where: str) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return "" if fits else _fault(value, where, f"a whole number of at least {least}")

    return check


def number(value: Any, where: str) -> str:
    """A number from 0 on."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18
    return "" if fits else _fault(value, where, "a number of at least 0")


def finite(value: Any, where: str) -> str:
    """A number of any sign."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and -1e18 < value < 1e18
    return "" if fits else _fault(value, where, "a number")


def moment(value: Any, where: str) -> str:
    """A time in ISO 8601 with its offset from UTC."""
    try:
        known = isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        known = False
    return "" if known else _fault(value, where, "a time such as 2026-03-01T09:00:00+00:00")


def one_of(*words: Any) -> Check:
    """One of some words."""
    return lambda value, where: "" if value in words else _fault(value, where, f"one of {', '.join(map(str, words))}")


def maybe(check: Check) -> Check:
    """Null, or what another check asks."""
    return lambda value, where: "" if value is None else check(value, where)


def either(one: Check, other: Check) -> Check:
    """What one of two checks asks; the second tells what is wrong."""
    return lambda value, where: other(value, where) if one(value, where) else ""


def both(one: Check, other: Check) -> Check:
    """What two checks ask; the second sees only what the first allows."""
    return lambda value, where: one(value, where) or other(value, where)


def listed(check: Check, least: int = 0) -> Check:
    """A list of at least so many values that a check allows."""

    def check_all(value: Any, where: str) -> str:
        if not isinstance(value, list) or len(value) < least:
            return _fault(value, where, "a list" + (f" of at least {least}" if least else ""))
        return next((fault for i, one in enumerate(value) if (fault := check(one, f"{where}[{i}]"))), "")

    return check_all


def mapped(check: Check) -> Check:
    """An object whose values a check allows."""

    def check_all(value: Any, where: str) -> str:
        if not isinstance(value, dict):
            return _fault(value, where, "an object")
        faults = (text(name, f"a key of {where}") or check(one, f"{where}.{name}") for name, one in value.items())
        return next(filter(None, faults), "")

    return check_all


def keys(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these keys; others may be there."""

    def check_all(value: Any, where: str) -> str:
        if not isinstance(value, dict):
            return _fault(value, where, "an object")
        for name, check in needed.items():
            if name not in value:
                return f"{where} has no '{name}'"
            if fault := check(value[name], f"{where}.{name}"):
                return fault
        for name, check in (optional or {}).items():
            if name in value and (fault := check(value[name], f"{where}.{name}")):
                return fault
        return ""

    return check_all


def model_names(config: Mapping[str, Any]) -> list[str]:
    """What the models of a run are called, in its order.

    Args:
        config: of its manifest.
    """
    if config.get("models"):
        return [str(model["name"]) for model in config["models"]]
    path = config["model"]["path"]
    return path if isinstance(path, list) else [path]


def reference_names(manifest: Mapping[str, Any]) -> list[str]:
    """What the references of a run are called, those that it trains included, in its order; early runs have none."""
    return [str(name) for name in manifest.get("references", ())]


def newer(document: Any) -> bool:
    """Whether a document says that a later version of this program wrote it."""
    found = document.get("format", FORMAT) if isinstance(document, dict) else FORMAT
    return isinstance(found, int) and not isinstance(found, bool) and found > FORMAT


COUNT = whole(0)
_WORDING = keys(
    {"query": text, "prefix": text},
    {
        "labels": listed(text),
        "separators": listed(text),
        "answer": text,
        "chat": maybe(text),
        "choices": mapped(anything),
        "is_exact": one_of(True, False),
    },
)
_SESSION = keys(
    {"started": moment, "ended": maybe(moment)},
    {
        "host": maybe(text),
        "pid": COUNT,
        "command": text,
        "python": text,
        "packages": mapped(text),
        "git_commit": maybe(text),
        "task_code": maybe(text),
    },
)


def _places(config: Any, where: str) -> str:
    """Models are named, or `model.path` holds their names."""
    path = maybe(either(text, listed(text, 1))) if config.get("models") else either(text, listed(text, 1))
    return keys({"model": keys({"path": path})})(config, where)


MANIFEST: Mapping[str, Check] = {
    "config": both(
        keys(
            {
                "task": keys({"name": text}),
                "grid": keys(
                    {
                        "templates": listed(text, 1),
                        "k": listed(whole(0, 2**31 - 1), 1),
                        "seeds": listed(whole(-(2**63)), 1),
                    }
                ),
            },
            {
                "name": text,
                "demos": mapped(anything),
                "models": listed(keys({"name": text})),
                "scoring": keys({}, {"metrics": listed(text), "extract": maybe(text)}),
            },
        ),
        _places,
    ),
    "identity": keys({"templates": mapped(_WORDING)}, {"samples": text, "pool": text, "models": mapped(anything)}),
    "class_names": listed(text),
    "n_samples": COUNT,
    "shard_size": whole(1),
    "status": text,
    "sessions": listed(_SESSION),
    "engines": mapped(mapped(anything)),
    "n_pool": mapped(COUNT),
    "notes": listed(text),
}
"""Entries that every manifest has had."""
LATER: Mapping[str, Check] = {
    "shard_size": whole(1),
    "method": text,
    "answer_metrics": listed(text),
    "metrics": listed(text),
    "choices": one_of(True, False),
    "calibration_units": listed(text),
    "n_units": maybe(COUNT),
    "n_records": maybe(COUNT),
    "tracking_id": text,
    "references": listed(text),
    "format_1": keys(
        {
            "grid": keys({"templates": listed(text), "k": listed(whole(0)), "seeds": listed(whole(-(2**63)))}),
            "models": listed(text),
            "calibration": listed(text),
            "n_samples": COUNT,
        }
    ),
}
"""Entries that manifests of early versions lack; where they are, they are checked."""
STATISTICS = keys(
    dict.fromkeys(("n_records", "n_failed", "n_prompts", "prompt_tokens", "tokens_computed"), COUNT)
    | {"seconds": number},
    {"replica": text, "scoring_seconds": number},
)
"""What a part's footer says of its unit."""
PROMPTS = keys(
    {
        "prompts": listed(
            keys(
                {
                    "model": text,
                    "template": text,
                    "k": COUNT,
                    "seed": whole(-(2**63)),
                    "sample_id": text,
                    "text": text,
                    "n_tokens": COUNT,
                    "label_tokens": listed(listed(text)),
                }
            )
        )
    },
    {
        "around": listed(
            keys(
                {
                    "model": text,
                    "template": text,
                    "seed": whole(-(2**63)),
                    "before": text,
                    "after": text,
                    "query": text,
                    "lengths": mapped(COUNT),
                }
            )
        ),
        "own": mapped(mapped(mapped(COUNT))),
    },
)
"""`prompts.json`; the last two keys are not in those of earlier versions."""

QUARANTINE = keys(
    {
        "samples": mapped(
            listed(keys({"unit": text, "process": text, "cause": text, "ending": one_of("died", "memory", "hung")}))
        ),
        "units": listed(text),
    },
    {"other_deaths": whole(0)},
)
"""`quarantine.json`: per sample the processes that ended on it alone, the units to be taken sample by sample, and how
many processes ended for another reason."""
NOTE = keys({"sample": maybe(text), "process": text}, {"ending": one_of("died", "memory", "node", "hung")})
"""`trying-<unit>.json`."""


_SCORES = keys(dict.fromkeys(("prompts", "flips", "near_ties"), COUNT) | {"largest": number, "mean": number})
_ANSWERS = keys({"prompts": COUNT, "equal": COUNT})


def _audited(agreement: Check) -> Check:
    row = keys({"template": text, "packing_adds": anything, "run": agreement, "alone": agreement})
    return keys({"method": text, "n_samples": COUNT, "templates": listed(row, 1)})


def AUDIT(value: Any, where: str) -> str:  # noqa: N802 - a check as the others are
    """What `harness audit` leaves in the manifest."""
    generated = isinstance(value, dict) and value.get("method") == "generate"
    return _audited(_ANSWERS if generated else _SCORES)(value, where)


_ESTIMATE = keys({"n": COUNT, "value": number, "low": finite, "high": finite})
RACE = keys(
    {
        "strategies": listed(text, 1),
        "rounds": listed(
            keys(
                {
                    "step": COUNT,
                    "candidate": COUNT,
                    "dropped": listed(COUNT),
                    "resting": listed(COUNT),
                    "epsilon": maybe(number),
                }
            )
        ),
    },
    {
        "result": maybe(
            keys(
                {
                    "claim": text,
                    "winner": text,
                    "spent": keys({"records": COUNT, "records_of_grid": COUNT}),
                    "held_out": maybe(keys({"winner": _ESTIMATE})),
                }
            )
        )
    },
)
"""A race of `race.json`, as far as readers show it."""


def _fault(value: Any, where: str, expected: str) -> str:
    return f"{where} is {one_line(repr(value), _SHOWN)}, expected {expected}"


def _has_surrogates(value: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in value)
