"""Sections to one HTML text: everything inside, nothing fetched, nothing evaluated.

Texts are escaped by the templates; data for the page's script is JSON in a block that browsers do
not run. The policy lets the page's own two scripts run, by their hashes, and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from harness.reporting.report.blocks import Section
from harness.reporting.report.headline import Answer

ASSETS = "assets"
SCRIPTS = ("page.js", "tables.js", "samples.js", "live.js")
"""Parts of one script, in this order."""
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(
    title: str,
    first: Answer,
    sections: Sequence[Section],
    samples: Mapping[str, Any],
    live: str | None = None,
    is_over: bool = False,
) -> str:
    """The whole document.

    Args:
        title: of the document and its first heading.
        first: the first screen.
        sections: the rest, in order.
        samples: for the samples' browser.
        live: of a page that is served, the state that it shows; None: a file.
        is_over: whether the served page is the last.
    """
    scripts = {"plotly": get_plotlyjs(), "page": _script()}
    specs = {chart.name: chart.spec for section in sections for chart in section.charts}
    return (
        _templates()
        .get_template("page.html.jinja")
        .render(
            title=title,
            live=live,
            is_over=is_over,
            answer=first,
            sections=sections,
            policy=_policy(list(scripts.values()), live is not None),
            # Escaping would change what a browser runs; these three are files of this package and of plotly.
            css=Markup(_asset("page.css")),  # noqa: S704
            scripts={name: Markup(text) for name, text in scripts.items()},  # noqa: S704
            charts=embedded_json(specs),
            samples=embedded_json(samples),
        )
    )


def embedded_json(value: Any) -> Markup:
    """JSON that may stand in a script block: it cannot close it, whatever the texts hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704


def _policy(scripts: Sequence[str], is_served: bool) -> str:
    """A Content-Security-Policy: only these scripts, no request to anywhere but whence a served page came."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if is_served else "")
    )


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader(__package__, ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _script() -> str:
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _asset(name: str) -> str:
    return files(__package__).joinpath(ASSETS, name).read_text(encoding="utf-8")
