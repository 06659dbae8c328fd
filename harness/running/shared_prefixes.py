"""What prompts may share, as the engine wants to know it. Knows prompts and trees; refuses to know models."""

from __future__ import annotations

from collections.abc import Sequence

from harness.engine.local.tree.tree import Origin
from harness.prompts.rendering import Prompt


def origins(prompts: Sequence[Prompt]) -> list[Origin] | None:
    """The origin of each prompt, so that its scores do not depend on the company it is scored in.

    None where samples come in clusters, such as questions on one passage: those share more than what
    every query begins with, and the engine looks for it by itself.
    """
    if any(prompt.sample.cluster for prompt in prompts):
        return None
    return [Origin(prompt.sample.id, prompt.fork) for prompt in prompts]
