"""Finds out, when a run begins, what a server can do and says of itself: each way is tried on one short text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import EngineError, ModelError, RequestError, ServerLostError, did_you_mean
from harness.engine.protocol import GENERATE, Ending, Prompt
from harness.engine.server.answers import PromptScore, read_as_answer
from harness.engine.server.by_node import NamedTokens, NativeGenerate, TopOfAll
from harness.engine.server.by_sequence import Echo, PromptLogprobs
from harness.engine.server.by_text import TOPS, ChatTop, CompletionTop, NotAmongError
from harness.engine.server.client import PassingError, Patience, RefusedError
from harness.engine.server.dialogue import PENALTIES_OFF, Dialogue, Scoring, Writing
from harness.engine.server.writing import Chats, Completions

TEXT = "다음 글의 느낌을 한 낱말로 답하라. The film was a joy to watch, 아주 좋았다.\n느낌:"
LABELS = (" good", " bad")
CHATS_ALONE = "the server takes chats alone: each plain prompt is sent as one message of the user"
UNSET = (
    "the server takes no repetition_penalty: a penalty that the model's own generation settings ask for cannot be "
    "switched off"
)
NOT_THERE = (404, 405)
QUICK = Patience(tries=2, slow_tries=1, lost_after_s=0.0)
"""For probes: what a server lacks it may also answer with an error of its own."""


@dataclass(frozen=True)
class Probe:
    """A prompt that every session asks for; see `harness.engine.protocol.Prompt`."""

    text: str
    ids: Sequence[int]
    label_ids: Sequence[Sequence[int]]
    messages: Sequence[Mapping[str, str]] | None = None
    family: str = "probe"
    trunk: int | None = None


@dataclass(frozen=True)
class Found:
    """What a server can do.

    Attributes:
        scoring: of plain prompts, and of chats; empty where answers are generated.
        writing: likewise; empty where labels are scored.
        said: what the server says of itself.
        probe: log-probabilities of the probe's labels, where they are known.
        remarks: what could not be checked.
    """

    scoring: Mapping[bool, Scoring]
    writing: Mapping[bool, Writing]
    said: Mapping[str, str]
    probe: Sequence[float]
    remarks: Sequence[str]


async def probe(dialogue: Dialogue, method: str, longest_prompt: int) -> Found:
    """Ask a server what it can do.

    Args:
        dialogue: with the model.
        method: `likelihood` or `generate`.
        longest_prompt: of the grid, tokens.

    Raises:
        ModelError: nobody answers, the model is not there, or it cannot answer in this way.
    """
    client = dialogue.client
    patience, client.patience = client.patience, QUICK
    try:
        said, names = await _said(dialogue, longest_prompt)
        remarks = [] if not names or dialogue.name in names else [_missing_name(dialogue, names)]
        dialogue, first = await _with_settings(dialogue, remarks)
        if method == GENERATE:
            writing = await _writing(dialogue, remarks)
            scoring: Mapping[bool, Scoring] = {}
            values: Sequence[float] = ()
        else:
            writing = {}
            scoring, values = await _scoring(dialogue, remarks)
        remarks += await _unchecked(dialogue)
        if fingerprint := await _fingerprint(dialogue, _chats(scoring, writing), first):
            said = {**said, "fingerprint": fingerprint}
        return Found(scoring, writing, said, values, tuple(remarks))
    except PassingError as error:
        raise ModelError(
            f"{client.address}: {error}; start the server, or mend model.base_url (it ends in /v1)"
        ) from None
    except EngineError as error:
        raise ModelError(str(error)) from None
    finally:
        client.patience = patience


def _chats(scoring: Mapping[bool, Scoring], writing: Mapping[bool, Writing]) -> bool:
    ways: list[Any] = [*scoring.values(), *writing.values()]
    return all(isinstance(way, ChatTop | Chats) for way in ways)


async def _said(dialogue: Dialogue, longest_prompt: int) -> tuple[dict[str, str], list[str]]:
    """What the server says of itself, and the names of its models."""
    client = dialogue.client
    try:
        models = await client.get(f"{client.address}/models")
    except PassingError as error:
        if error.kind != "odd":
            raise
        models = None  # What can be asked shows whether it is a server of models at all.
    listed = models.get("data") if isinstance(models, Mapping) else None
    all_listed = listed if isinstance(listed, list) else []
    entries = [one for one in all_listed if isinstance(one, Mapping) and isinstance(one.get("id"), str)]
    said: dict[str, str] = {}
    own = next((one for one in entries if one["id"] == dialogue.name), None)
    for key in ("root", "owned_by", "max_model_len"):
        if own is not None and own.get(key) is not None:
            said[key] = client.shown(str(own[key]))
    limit = own.get("max_model_len") if own is not None else None
    if dialogue.known and isinstance(limit, int) and not isinstance(limit, bool) and longest_prompt > limit:
        raise ModelError(
            f"the longest prompt has {longest_prompt} tokens, the server takes {limit} (max_model_len); lower grid.k, "
            "or start it with a longer context"
        )
    for path, keys in (("/version", ("version",)), ("/get_server_info", ("version",)), ("/props", ("build_info",))):
        try:
            found = await client.get(client.root + path)
        except (PassingError, ModelError):
            continue
        if isinstance(found, Mapping):
            said |= {key: client.shown(str(found[key])) for key in keys if isinstance(found.get(key), str)}
    return said, [one["id"] for one in entries]


def _missing_name(dialogue: Dialogue, names: Sequence[str]) -> str:
    shown = [dialogue.client.shown(name) for name in names]
    return f"the server does not list a model '{dialogue.name}'{did_you_mean(dialogue.name, shown)}"


async def _scoring(dialogue: Dialogue, remarks: list[str]) -> tuple[Mapping[bool, Scoring], Sequence[float]]:
    """The first way that works for plain prompts, and for chats; and what the first gave."""
    ids = dialogue.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    labels = [dialogue.tokenizer(label, add_special_tokens=False)["input_ids"] for label in LABELS]
    prompt = Probe(TEXT, ids, [label[:1] if dialogue.known else label for label in labels])
    by_ids: list[Scoring] = [NamedTokens(dialogue), NativeGenerate(dialogue), TopOfAll(dialogue)]
    exact: list[Scoring] = [*by_ids, PromptLogprobs(dialogue)] if dialogue.known else []
    tops: list[Scoring] = [CompletionTop(dialogue, top) for top in TOPS]
    if dialogue.known:
        tops += [CompletionTop(replace(dialogue, known=False), top) for top in TOPS]
    chats: list[Scoring] = [ChatTop(dialogue, top) for top in TOPS]
    refusals: list[Exception] = []
    plain, values = await _first([*exact, Echo(dialogue), *tops, *chats], prompt, refusals)
    if plain is None:
        _check_serves(dialogue, refusals)
        raise ModelError(
            f"{dialogue.client.address} gives no log-probabilities of '{dialogue.name}'"
            f"{'; ' + remarks[0] if remarks else ''}: {refusals[-1]}; set scoring.method=generate to compare what it "
            "writes, or start it with log-probabilities"
        )
    if plain.dialogue.known and not isinstance(plain, ChatTop):
        return {False: plain, True: plain}, values
    chat = plain if isinstance(plain, ChatTop) else (await _first(chats, prompt, refusals))[0]
    if isinstance(plain, ChatTop):
        remarks.append(CHATS_ALONE)
    return ({False: plain} if chat is None else {False: plain, True: chat}), values


async def _first(
    ways: Sequence[Scoring], prompt: Prompt, refusals: list[Exception]
) -> tuple[Scoring | None, Sequence[float]]:
    for way in ways:
        found = await _tried(way.score(prompt), refusals)
        if isinstance(found, PromptScore):
            return way, found.logprobs
        if isinstance(found, NotAmongError):
            return way, ()
    return None, ()


async def _writing(dialogue: Dialogue, remarks: list[str]) -> Mapping[bool, Writing]:
    ending = Ending(1, frozenset(), (), lambda tokens: False)
    ids = dialogue.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    prompt = Probe(TEXT, ids, [])
    refusals: list[Exception] = []
    found: dict[str, Writing] = {}
    texts = replace(dialogue, known=False)
    for name, way in (("ids", Completions(dialogue)), ("texts", Completions(texts)), ("chats", Chats(dialogue))):
        if (name == "ids" and not dialogue.known) or (name == "texts" and "ids" in found):
            continue
        if not isinstance(await _tried(way.write(prompt, ending), refusals), Exception):
            found[name] = way
    if not found:
        _check_serves(dialogue, refusals)
        why = remarks[0] if remarks else refusals[-1]
        raise ModelError(f"{dialogue.client.address} does not let '{dialogue.name}' write: {why}")
    ids, completions, chats = found.get("ids"), found.get("ids") or found.get("texts"), found.get("chats")
    if completions is None:
        remarks.append(CHATS_ALONE)
    elif dialogue.known and ids is None:
        remarks.append("the server takes no token ids: texts are sent, and it tokenises them")
    # The text of a chat may begin with a token that the server would add once more.
    ways = {False: completions or chats, True: ids or chats}
    return {is_chat: way for is_chat, way in ways.items() if way is not None}


def _check_serves(dialogue: Dialogue, refusals: Sequence[Exception]) -> None:
    """Tell a server that refuses from one that serves no models.

    Raises:
        ModelError: nothing there has answered or refused a request in so many words, or the key is refused.
    """
    if denied := next((error for error in refusals if isinstance(error, ModelError)), None):
        raise denied
    if not dialogue.client.answered and not any(isinstance(error, RefusedError) for error in refusals):
        raise ModelError(
            f"{refusals[-1]}; expected a server of models there: mend model.base_url (it ends in /v1, and begins with "
            "https:// where the server has TLS)"
        )


async def _tried(work: Any, refusals: list[Exception]) -> Any:
    """A result, or the error that says that a way does not work."""
    try:
        with read_as_answer():
            return await work
    except (EngineError, ModelError) as error:
        # A gateway may answer addresses that it does not know with 403.
        refusals.append(error)
        return error
    except ServerLostError as error:
        # Busy, or away: nothing is known of this way; the next one tells.
        refusals.append(error)
        return RequestError(str(error))


async def _unchecked(dialogue: Dialogue) -> list[str]:
    """Whether the server's tokens of a text are those of the tokenizer: by their ids where it says them, else counted.

    Raises:
        ModelError: it does not: its tokenizer is another one.
    """
    if not dialogue.known:
        return ["its tokenizer is not known: where labels begin is checked by what the server says, if it says it"]
    client = dialogue.client
    remedy = "give the served model's own tokenizer, or a name that is no folder to send texts"
    own = [dialogue.tokenizer(TEXT, add_special_tokens=special)["input_ids"] for special in (False, True)]
    theirs = await _their_ids(dialogue)
    if theirs is not None and theirs not in own:
        raise ModelError(
            f"the server reads a text as other tokens ({', '.join(map(str, theirs[:4]))}, ...) than the tokenizer "
            f"at model.path ({', '.join(map(str, own[0][:4]))}, ...); {remedy}"
        )
    allowed = set(map(len, own))
    try:
        # What the server counts is to be told, not refused.
        await replace(dialogue, counts=False).complete({"prompt": TEXT}, min(allowed))
    except (EngineError, ModelError):
        unchecked = "the server takes no completions: that its tokenizer is the one at model.path cannot be checked"
        return [] if theirs else [unchecked]
    if client.last_usage is None:
        unchecked = "the server says no token counts: that its tokenizer is the one at model.path cannot be checked"
        return [] if theirs else [unchecked]
    if client.last_usage.prompt not in allowed:
        raise ModelError(
            f"the server counts {client.last_usage.prompt} tokens in a text of {min(allowed)} by the tokenizer at "
            f"model.path; {remedy}"
        )
    return []


async def _their_ids(dialogue: Dialogue) -> list[int] | None:
    """The server's own tokens of the probe; None where it does not say them.

    Two tokenizers may count alike and mean other words by their ids.
    """
    for body in ({"model": dialogue.name, "prompt": TEXT}, {"content": TEXT}):
        try:
            found = await dialogue.client.post(f"{dialogue.client.root}/tokenize", body, 0, 0)
        except RefusedError as error:
            if error.status in NOT_THERE:
                return None
            continue
        except (EngineError, ModelError, ServerLostError):
            return None
        tokens = found.get("tokens") if isinstance(found, Mapping) else None
        if isinstance(tokens, list) and tokens and all(isinstance(token, int) for token in tokens):
            return tokens
    return None


async def _with_settings(dialogue: Dialogue, remarks: list[str]) -> tuple[Dialogue, dict[bool, Any]]:
    """The dialogue with what keeps a model's own generation settings out of it, as far as the server takes that.

    Returns:
        The dialogue, and what was answered meanwhile, by whether it was a chat.
    """
    bare = replace(dialogue, settings={})
    for chats in (False, True):
        for asks in (replace(dialogue, settings=PENALTIES_OFF), bare):
            try:
                answer = await _greeting(asks, chats)
            except RefusedError as error:
                if error.status in NOT_THERE:
                    break
                continue
            except (EngineError, ModelError, ServerLostError):
                break
            if asks is bare:
                remarks.append(UNSET)
            return asks, {chats: answer}
    return bare, {}


async def _greeting(dialogue: Dialogue, chats: bool) -> Any:
    """The answer to the shortest prompt there is."""
    if chats:
        return await dialogue.chat({"messages": [{"role": "user", "content": "1"}]}, 1)
    return await dialogue.complete({"prompt": "1"}, 1)


async def _fingerprint(dialogue: Dialogue, chats: bool, answered: Mapping[bool, Any]) -> str | None:
    """The fingerprint that answers carry.

    Args:
        dialogue: with the server.
        chats: whether those of chats count.
        answered: what it has answered already, by whether it was a chat.
    """
    try:
        answer = answered[chats] if chats in answered else await _greeting(dialogue, chats)
        found = answer.get("system_fingerprint")
    except (EngineError, ModelError, AttributeError):
        return None
    return dialogue.client.shown(found) if isinstance(found, str) and found else None
