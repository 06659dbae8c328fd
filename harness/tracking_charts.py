"""Charts of the cells as SVG: text that any browser shows, without scripts or further files.

Every mark carries its figures as `data-` attributes at full precision and as a tooltip. Where a
strategy has several seeds, its interval spans those of all of them: the range of the means alone
would hide what the samples leave open. Knows cells; refuses to know where they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pandas as pd

from harness.analysis.cells import main_figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
DARK, LIGHT = (8, 48, 107), (222, 235, 247)
FONT = 12


@dataclass(frozen=True)
class Strategy:
    """One (model, template, K), its main figure over the seeds."""

    model: str
    template: str
    k: int
    value: float
    """Mean over seeds; NaN when nothing was scored."""
    low: float
    high: float
    n_seeds: int
    n_scored: int
    """Samples under one seed, the smallest number."""

    @property
    def text(self) -> str:
        """The figures as people read them."""
        bounds = "95% interval" if self.n_seeds == 1 else f"95% intervals of {self.n_seeds} seeds together"
        bounds += ", this demonstration draw" if self.k > 0 and self.n_seeds == 1 else ""
        return (
            f"{self.model}, {self.template}, K={self.k}: {self.value:.4f} "
            f"({self.low:.4f} to {self.high:.4f}, {bounds}; n={self.n_scored})"
        )


def strategies(cells: pd.DataFrame) -> list[Strategy]:
    """The strategies in the order of the cells.

    Args:
        cells: one row per cell, as `harness.summary.summarise` gives them.
    """
    figure = main_figure(cells)
    low, high = interval_columns(figure)
    found = []
    for (model, template, k), group in cells.groupby(["model", "template", "k"], sort=False, observed=True):
        found.append(
            Strategy(
                str(model),
                str(template),
                int(str(k)),
                float(group[figure].mean()),
                float(group[low].min()),
                float(group[high].max()),
                int(group[figure].notna().sum()),
                int(group["n_scored"].min()),
            )
        )
    return found


def interval_columns(figure: str) -> tuple[str, str]:
    """Names of the columns that hold the interval of a main figure."""
    return ("low", "high") if figure == "accuracy" else (f"{figure}_low", f"{figure}_high")


def heatmap(cells: pd.DataFrame) -> str:
    """Templates against K, one block per model; darker is better."""
    found = strategies(cells)
    templates, ks = _distinct(s.template for s in found), _distinct(s.k for s in found)
    models = _distinct(s.model for s in found)
    bottom, top = _range([s.value for s in found])
    left, cell_width, cell_height = _text_width(templates) + 20, 78, 30
    block = 44 + cell_height * len(templates) + 16
    parts = []
    for number, model in enumerate(models):
        y0 = number * block
        parts.append(_text(0, y0 + 16, f"{main_figure(cells)}, {model}", weight="bold"))
        parts += [_text(left + i * cell_width + cell_width / 2, y0 + 38, f"K={k}", "middle") for i, k in enumerate(ks)]
        for row, template in enumerate(templates):
            parts.append(_text(left - 8, y0 + 44 + row * cell_height + 20, template, "end"))
        for s in (s for s in found if s.model == model):
            x = left + ks.index(s.k) * cell_width
            y = y0 + 44 + templates.index(s.template) * cell_height
            share = (s.value - bottom) / (top - bottom) if math.isfinite(s.value) else 0.0
            shown = f"{s.value:.4f}" if math.isfinite(s.value) else "-"
            parts.append(
                f'<g {_data(s)}><title>{escape(s.text)}</title><rect x="{x}" y="{y}" width="{cell_width - 2}" '
                f'height="{cell_height - 2}" fill="{_shade(share)}"/>'
                + _text(x + cell_width / 2 - 1, y + 19, shown, "middle", "#fff" if share > 0.5 else "#000")
                + "</g>"
            )
    return _svg(left + cell_width * len(ks) + 10, block * len(models), parts)


def against_k(cells: pd.DataFrame) -> str:
    """The main figure against K, a line per model and template, with intervals."""
    found = [s for s in strategies(cells) if math.isfinite(s.value)]
    lines = _distinct((s.model, s.template) for s in found)
    one_model = len({model for model, _ in lines}) < 2
    names = [template if one_model else f"{model} {template}" for model, template in lines]
    left, top, width, height = 60, 20, 460, 300
    ks = sorted({s.k for s in found})
    bottom, ceiling = _range([b for s in found for b in (s.value, s.low, s.high)])
    parts = _axes(left, top, width, height, bottom, ceiling, main_figure(cells))

    def x_of(k: int) -> float:
        return left + 20 + (width - 40) * ((k - ks[0]) / (ks[-1] - ks[0]) if len(ks) > 1 else 0.5)

    def y_of(value: float) -> float:
        return top + height * (1 - (value - bottom) / (ceiling - bottom))

    parts += [_text(x_of(k), top + height + 18, str(k), "middle") for k in ks]
    parts.append(_text(left + width / 2, top + height + 36, "K, demonstrations in the prompt", "middle"))
    for number, (model, template) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dash = f' stroke-dasharray="{2 + 3 * (number // len(COLOURS))} 3"' if number >= len(COLOURS) else ""
        own = sorted((s for s in found if (s.model, s.template) == (model, template)), key=lambda s: s.k)
        # Lines of equal K would hide each other's whiskers.
        shift = (number - (len(lines) - 1) / 2) * min(4.0, 30 / len(lines))
        points = " ".join(f"{x_of(s.k) + shift:.1f},{y_of(s.value):.1f}" for s in own)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"{dash}/>')
        for s in own:
            x = x_of(s.k) + shift
            whisker = f'<path d="M{x:.1f} {y_of(s.low):.1f}V{y_of(s.high):.1f}" stroke="{colour}"/>'
            dot = f'<circle cx="{x:.1f}" cy="{y_of(s.value):.1f}" r="4" fill="{colour}"/>'
            parts.append(f"<g {_data(s)}><title>{escape(s.text)}</title>{whisker}{dot}</g>")
        parts.append(_text(left + width + 12, top + 14 + 18 * number, names[number], colour=colour))
    legend = _text_width(names)
    return _svg(left + width + 24 + legend, max(top + height + 46, top + 20 + 18 * len(lines)), parts)


def parallel_coordinates(cells: pd.DataFrame) -> str:
    """One line per cell through model, template, K, seed and the main figure."""
    figure = main_figure(cells)
    low, high = interval_columns(figure)
    scored = cells[cells[figure].notna()]
    axes: list[tuple[str, list[Any]]] = [
        (name, _distinct(cells[name]) if name in ("model", "template") else sorted(set(cells[name])))
        for name in ("model", "template", "k", "seed")
    ]
    bottom, ceiling = _range(scored[figure].tolist())
    top, height, gap = 40, 300, 170
    left = _text_width([str(level) for level in axes[0][1]]) + 20
    parts = []
    for place, (name, levels) in enumerate(axes):
        x = left + place * gap
        parts.append(f'<path d="M{x} {top}V{top + height}" stroke="#888"/>')
        parts.append(_text(x, top - 16, name, "middle", weight="bold"))
        parts += [
            _text(x - 6, _level_y(level, levels, top, height) + 4, _short(level, gap), "end", "#444")
            for level in levels
        ]
    last = left + len(axes) * gap
    parts.append(f'<path d="M{last} {top}V{top + height}" stroke="#888"/>')
    parts.append(_text(last, top - 16, figure, "middle", weight="bold"))
    parts += [_text(last + 8, top + height + 4, f"{bottom:.3f}"), _text(last + 8, top + 4, f"{ceiling:.3f}")]
    for row in scored.to_dict("records"):
        value = float(row[figure])
        share = (value - bottom) / (ceiling - bottom)
        points = [
            (left + place * gap, _level_y(row[name], levels, top, height)) for place, (name, levels) in enumerate(axes)
        ]
        points.append((last, top + height * (1 - share)))
        s = Strategy(row["model"], row["template"], row["k"], value, row[low], row[high], 1, row["n_scored"])
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        seed = str(row["seed"])
        parts.append(
            f"<g {_data(s)} data-seed={quoteattr(seed)}><title>{escape(s.text)}, seed {seed}</title>"
            f'<polyline points="{path}" fill="none" stroke="{_shade(0.25 + 0.75 * share)}" stroke-width="2"/></g>'
        )
    return _svg(last + 70, top + height + 20, parts)


def _distinct(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart from each other even when all are equal."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 0.05, high + 0.05)


def _level_y(level: Any, levels: Sequence[Any], top: float, height: float) -> float:
    return top + height * ((levels.index(level) + 0.5) / len(levels))


def _short(level: Any, pixels: float) -> str:
    text, most = str(level), int(pixels / (0.62 * FONT)) - 3
    return text if len(text) <= most else f"...{text[-most:]}"


def _text_width(texts: Sequence[str]) -> int:
    return int(0.62 * FONT * max((len(text) for text in texts), default=0))


def _shade(share: float) -> str:
    red, green, blue = (round(light + (dark - light) * share) for light, dark in zip(LIGHT, DARK, strict=True))
    return f"rgb({red},{green},{blue})"


def _axes(left: float, top: float, width: float, height: float, low: float, high: float, title: str) -> list[str]:
    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888"/>']
    for step in range(5):
        value, y = low + (high - low) * step / 4, top + height * (1 - step / 4)
        parts.append(f'<path d="M{left} {y:.1f}H{left + width}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{value:.3f}", "end"))
    return [*parts, _text(left, top - 6, title, weight="bold")]


def _data(s: Strategy) -> str:
    facts = {
        "model": s.model, "template": s.template, "k": s.k, "value": repr(s.value), "low": repr(float(s.low)),
        "high": repr(float(s.high)), "n": s.n_scored,
    }  # fmt: skip
    return " ".join(f"data-{name}={quoteattr(str(value))}" for name, value in facts.items())


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#000", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="sans-serif" font-size="{FONT}">{"".join(parts)}</svg>'
    )
