"""Generated text to answers: stop strings and named cleanings.

What the model wrote stays in the records as `raw_answer`; cleanings are off unless
`generation.clean` names them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from harness.config.schema import GenerationConfig
from harness.prompts.chats import without_reasoning
from harness.prompts.prompt import Prompt

_QUOTES = "\"'“”‘’「」『』《》〈〉`"
_PARTICLES = re.compile(
    r"(?<=[가-힣0-9A-Za-z)]{2})"
    r"(?:입니다|이었다|였다|이다|에서|에게|까지|부터|으로|이라고|라고|은|는|이|가|을|를|의|에|로|와|과|도)\.?$"
)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [at for mark in stop if (at := text.find(mark)) >= 0]
    return text[: min(ends)] if ends else text


def answer_of(text: str, prompt: Prompt, settings: GenerationConfig) -> tuple[str | None, str, str]:
    """What a model wrote: its reasoning, then what stands before the first stop text, and the answer in it.

    Args:
        text: all that it wrote; of a prompt that it thinks about, stop texts count after its reasoning.
        prompt: that it went on from.
        settings: stop texts and cleanings.

    Returns:
        The reasoning as it was written, tags and white space around it included (None of a prompt that it does not
        think about), what follows it, and the answer.
    """
    reasoning, rest = None, text
    if prompt.thinks:
        rest = without_reasoning(text, prompt.header)
        reasoning = text[: len(text) - len(rest)]
    raw = cut_at_stop(rest, settings.stop)
    return reasoning, raw, clean(raw, settings.clean)


def first_line(answer: str) -> str:
    """The first line that is not blank."""
    return next((line.strip() for line in answer.splitlines() if line.strip()), "")


def quotes(answer: str) -> str:
    """Without quotation marks around the whole."""
    return answer.strip().strip(_QUOTES).strip()


def particles(answer: str) -> str:
    """Without one trailing particle or copula, such as 은, 에서 or 입니다.

    It works on spelling alone and also cuts words that end like a particle.
    """
    return _PARTICLES.sub("", answer.strip())


CLEANINGS: Mapping[str, Callable[[str], str]] = {"first_line": first_line, "quotes": quotes, "particles": particles}
"""By the names of `generation.clean`, in the order in which they are applied."""


def clean(raw: str, names: Sequence[str]) -> str:
    """A raw answer, stripped of white space and put through the named cleanings."""
    answer = raw.strip()
    for name, cleaning in CLEANINGS.items():
        if name in names:
            answer = cleaning(answer)
    return answer
