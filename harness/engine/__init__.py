"""Engines: what computes the scores and answers of prompts.

Refuses to know tasks and Ray.
"""

from __future__ import annotations

LOWEST = {"torch": "2.11", "transformers": "5.17"}
"""Oldest versions that the engine works with. The project as a whole asks for newer ones; a machine with a GPU that is
lent for an hour has what it has."""
