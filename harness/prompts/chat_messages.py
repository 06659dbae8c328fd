"""A prompt as the messages of a chat: where demonstrations, system message and the answer's beginning stand.

Knows templates and what a tokenizer makes of messages; refuses to know who draws demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.task import Sample
from harness.prompts.templates import Chat, Template
from harness.prompts.tokenizing import PromptTokenizer


def chat_text(template: Template, shown: Sequence[Sample], sample: Sample, tokenizer: PromptTokenizer) -> str:
    """A chat prompt as text; special tokens in samples must be marked.

    What the assistant's turn begins with stands after its header.
    """
    messages = chat_messages(template, shown, sample, tokenizer)
    return tokenizer.chat(messages, template.thinks) + template.answer_prefix


def chat_messages(
    template: Template, shown: Sequence[Sample], sample: Sample, tokenizer: PromptTokenizer
) -> list[dict[str, str]]:
    """A chat prompt: demonstrations as turns, or in the user's one message before the query.

    The prefix opens the first message of the user: not every chat template knows a system role.
    """
    query = template.render_query(sample)
    if template.chat is Chat.MESSAGE:
        before = "".join(template.render_solved(solved) for solved in shown)
        messages = [{"role": "user", "content": before + query}]
    else:
        messages = []
        for solved in shown:
            messages.append({"role": "user", "content": template.render_query(solved)})
            messages.append({"role": "assistant", "content": template.answer_prefix + template.continuation(solved)})
        messages.append({"role": "user", "content": query})
    messages[0]["content"] = template.prefix + messages[0]["content"]
    if template.system and template.merges_system and not tokenizer.knows_system:
        messages[0]["content"] = f"{template.system}\n\n{messages[0]['content']}"
    elif template.system:
        messages.insert(0, {"role": "system", "content": template.system})
    return messages
