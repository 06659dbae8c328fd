"""A prompt for tests that ask an engine directly."""

from harness.engine.server.probe import Probe


def prompt_of(ids, labels, text="", messages=None, family="one"):
    return Probe(text, ids, labels, messages, family)
