"""What transformers says when a model does not load, as one line that ends in what helps.

Knows the words of transformers' errors and the names of the settings; refuses to know models.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from harness.core.errors import ModelError

LONGEST_REASON = 300

_REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"trust_remote_code|contains custom code",
        "it brings Python code of its own: read that code, and set model.trust_remote_code=true if you trust it",
    ),
    (
        r"flash.?att|sdpa|attn_implementation|flex.?attention",
        "install the package that this attention needs, or take the attention named in its config.json "
        "(attn_implementation) out; the harness shares prefixes with an attention of its own",
    ),
    (
        r"untagged enum|data did not match any variant",
        "tokenizer.json was written by another version of tokenizers (here {tokenizers}): install a newer one, or save "
        "the tokenizer again with this one",
    ),
    (
        r"does not recognize this architecture|model type .* but Transformers",
        "install a newer transformers (here {transformers}), or, if the checkpoint brings code of its own, set "
        "model.trust_remote_code=true",
    ),
    (
        r"Unrecognized configuration class|for this kind of AutoModel",
        "transformers has no causal language model of this kind; take a decoder such as GPT, Llama or Qwen",
    ),
    (
        r"gated|401|403|[Uu]nauthori[sz]ed|restricted",
        "accept its terms on the hub and log in (`hf auth login`, or HF_TOKEN in the environment of every node)",
    ),
    (
        r"couldn't connect|offline mode|LocalEntryNotFound|Max retries|ConnectionError|timed out",
        "give a local folder, or a network that reaches the hub (HF_HUB_OFFLINE unset), or download it before with "
        "`hf download`",
    ),
    (
        r"not a valid JSON|Expecting value|JSONDecodeError|Expecting ',' delimiter|Expecting property name|"
        r"Unterminated string|Extra data|EOF while parsing|expected value at line",
        "the file is damaged or not fetched whole; copy or download the model again",
    ),
    (r"is not a valid model identifier|Repository Not Found|404", "check its name, or give a local folder"),
    (r"does not appear to have a file named", "give a transformers checkpoint; an adapter must be merged first"),
    (
        r"out of memory|can't allocate memory|bad_alloc",
        "give it more memory, or set model.dtype=bfloat16; `harness plan` says how much a replica needs",
    ),
)
_INSTALL = re.compile(r"`?(pip install [^`'\"\n]*[^`'\"\n.,;) ])`?")
_MISSING = re.compile(
    r"No module named '([\w.]+)'|requires the following packages that were not found in your environment: ([\w\-, ]+?)"
    r"(?:\. |$)|([\w\-]+) (?:is not|isn't|must be) installed"
)


def remedy(reason: str) -> str:
    """What helps against an error of transformers: the setting or package that it is about.

    Args:
        reason: its text.
    """
    for pattern, words in _REMEDIES[:2]:
        if re.search(pattern, reason, re.IGNORECASE):
            return words
    missing = _MISSING.search(reason)
    if missing:
        names = next(group for group in missing.groups() if group)
        return f"install the missing package on every node: pip install {names.strip().split('.')[0]}"
    if "upgrade transformers" not in reason:
        install = _INSTALL.search(reason)
        if install:
            return f"install what is missing on every node: {install[1]}"
    for pattern, words in _REMEDIES[2:]:
        if re.search(pattern, reason):
            return words.format(tokenizers=_version("tokenizers"), transformers=_version("transformers"))
    return (
        "expected a folder (or hub name) with config.json, safetensors weights and tokenizer of a causal language model"
    )


def loading_error(path: str, what: str, error: BaseException) -> ModelError:
    """The error in one line; its reason is shortened where it is long, what helps never is.

    Args:
        path: of the model.
        what: does not load: `configuration`, `tokenizer` or `weights`.
        error: what was raised.
    """
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ModelError(f"model '{path}': {what} cannot be loaded: {shortened(reason)}; {remedy(reason)}")


def shortened(reason: str, longest: int = LONGEST_REASON) -> str:
    """A text with its middle left out where it is longer than that."""
    if len(reason) <= longest:
        return reason
    half = (longest - 5) // 2
    return f"{reason[:half]} ... {reason[-half:]}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
