"""What Ray and the records cost: a run of the harness beside the engine alone on the same units.

Needs the whole project installed; the rest of the benchmark does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from harness.config.loading import load_config
from harness.config.schema import RunConfig
from harness.engine.local.loading import ModelSpec
from harness.engine.local.opening import load_engine
from harness.engine.local.tree.readouts import origins
from harness.planning.preparation import prepare
from harness.planning.units import make_plan
from tests.bench.models import REPO, model_folder

CONFIG = REPO / "configs" / "demo.yaml"
SHARD = 64
OVERRIDES = (
    "name=ray",
    "grid.templates=[lecture_1]",
    "grid.k=[0,1,2,4,8,16,32]",
    "grid.seeds=[1,2,3,4]",
    "model.dtype=float32",
    "model.device=cpu",
    "cluster.replicas=1",
    f"cluster.shard_size={SHARD}",
)


@dataclass(frozen=True)
class RayShare:
    """Figures of some rounds.

    Attributes:
        n_units, n_prompts: of one run.
        working: seconds from the replica's readiness to the last committed unit, per round.
        engine: seconds of rendering and scoring the same units without Ray and records, per round.
        scoring: seconds inside the engine during the run, as the replica counted them, per round.
        start: seconds of the run before the working phase and after it, per round.
    """

    n_units: int
    n_prompts: int
    working: list[float]
    engine: list[float]
    scoring: list[float]
    start: list[float]

    @property
    def more(self) -> float:
        """How much longer the working phase is than the engine alone; median over the rounds."""
        return median(w / e for w, e in zip(self.working, self.engine, strict=True)) - 1


def measure_ray_share(model: str, samples: int, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Alternate between a run on a private Ray with one replica and the engine alone.

    Args:
        model: of `tests.bench.models`.
        samples: embedded reviews, in shards of `SHARD`.
        rounds: of one run and one pass alone.
        tell: told how far it is.

    Returns:
        The figures as plain data, for `tests.bench.page`.
    """
    found = RayShare(0, 0, [], [], [], [])
    with model_folder(model, "float32", "cpu") as folder, tempfile.TemporaryDirectory(prefix="bench-") as out:
        overrides = [*OVERRIDES, f"model.path={folder}", f"task.limit={samples}"]
        for turn in range(rounds):
            here = [*overrides, "cluster.address=local", f"out={out}/{turn}"]
            units, working, start, threads = _run(here, Path(out) / str(turn) / "ray")
            engine = _alone(load_config(CONFIG, overrides), str(folder), threads)
            scoring = sum(unit["scoring_seconds"] for unit in units)
            found = RayShare(
                len(units),
                sum(unit["n_prompts"] for unit in units),
                [*found.working, working],
                [*found.engine, engine],
                [*found.scoring, scoring],
                [*found.start, start],
            )
            tell(f"  round {turn + 1}: working phase {working:.1f} s, engine alone {engine:.1f} s, start {start:.1f} s")
    return {"kind": "ray", "model": model, "more": found.more, **asdict(found)}


def working_phase(lines: Iterable[str]) -> tuple[list[dict[str, Any]], float]:
    """Units of a run's log, and the seconds from the replica's readiness to the last of them."""
    ready: datetime | None = None
    units: list[dict[str, Any]] = []
    last: datetime | None = None
    for line in lines:
        stamp, _, text = line.strip().partition(" INFO ")
        if text.startswith("{"):
            units.append(json.loads(text))
            last = _time(stamp)
        elif "tokens a pack" in text:
            ready = _time(stamp)
    assert ready is not None and last is not None
    return units, (last - ready).total_seconds()


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f")


def _run(overrides: list[str], run_dir: Path) -> tuple[list[dict[str, Any]], float, float, int]:
    """Units, seconds of the working phase and of the rest, threads of the replica."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "harness", "run", str(CONFIG), *overrides]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    total = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"`harness run` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    units, working = working_phase((run_dir / "run.log").read_text(encoding="utf-8").splitlines())
    engines = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))["engines"]
    return units, working, total - working, next(iter(engines.values()))["threads"]


def _alone(config: RunConfig, folder: str, threads: int) -> float:
    prepared = prepare(config)
    plan = make_plan(prepared, SHARD)
    spec = ModelSpec(folder, dtype="float32", device="cpu")
    scorer, _ = load_engine(spec, True, None, 2048, threads)
    renderer = prepared.renderer(prepared.models[0], "lecture_1", 1)
    started = time.perf_counter()
    for unit in plan.units:
        prompts = renderer.prompts(plan.shards[unit.shard].samples, unit.seed, unit.ks)
        scorer.score([p.ids for p in prompts], [p.label_ids for p in prompts], origins(prompts))
    return time.perf_counter() - started
