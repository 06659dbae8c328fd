"""Runs whose units overlap although there is no GPU: as `python -m harness`, or by the fixture `overlapping`."""

from __future__ import annotations

from contextlib import contextmanager

from harness.running import driver
from harness.running.backend import InlineBackend, RayBackend


@contextmanager
def open_backend(config, resources):
    """In the place of `harness.running.backend.open_backend`."""
    if config.cluster.address == "inline":
        yield InlineBackend(overlap=True)
        return
    from harness.cluster.session import ray_session

    with ray_session(config.cluster.address):
        yield RayBackend(config, resources, overlap=True)


if __name__ == "__main__":
    from harness.cli import main

    driver.open_backend = open_backend
    main()
