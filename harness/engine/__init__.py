"""The scorer: token ids in, label log-probabilities out.

Knows models, devices and prefix trees; refuses to know text, tasks and Ray.
"""

from __future__ import annotations

LOWEST = {"torch": "2.11", "transformers": "5.17"}
"""Oldest versions that the engine works with. The project as a whole asks for newer ones; a machine with a GPU that is
lent for an hour has what it has."""
