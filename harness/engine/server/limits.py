"""How much may be asked of a server: requests and tokens per minute, and money."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.config.schema import ModelEntry
from harness.core.errors import BudgetError

MILLION = 1_000_000


class Rate:
    """Lets no more through than so much per minute, evenly spread.

    Args:
        per_minute: None for no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock = clock
        self._free_at = 0.0

    async def take(self, amount: int) -> None:
        """Wait for one's turn."""
        if not self._seconds_each:
            return
        begins = max(self._free_at, self._clock())
        self._free_at = begins + amount * self._seconds_each
        await asyncio.sleep(begins - self._clock())


@dataclass
class Budget:
    """What requests have cost, and that they never cost more than they may.

    Attributes:
        input_price: of a million tokens.
        output_price: of a million tokens.
        limit: None for none.
        before: what earlier sessions have paid.
        spent: since.
        reserved: of requests under way, as much as they can cost.
    """

    input_price: float
    output_price: float
    limit: float | None
    before: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0

    @classmethod
    def of(cls, model: ModelEntry, before: float) -> Budget:
        """The budget that a configuration gives a model."""
        return cls(model.input_price or 0.0, model.output_price or 0.0, model.max_cost, before)

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Of so many tokens, at the prices given."""
        return (input_tokens * self.input_price + output_tokens * self.output_price) / MILLION

    def reserve(self, input_tokens: int, output_tokens: int) -> float:
        """Set aside what a request can cost at most.

        Raises:
            BudgetError: it is not there.
        """
        cost = self.cost(input_tokens, output_tokens)
        paid = self.before + self.spent
        if self.limit is not None and paid + self.reserved + cost > self.limit:
            raise BudgetError(
                f"model.max_cost is {self.limit:g}: {paid:.4g} are spent, {self.reserved:.4g} are under way, and the "
                f"next request may cost {cost:.4g}; raise model.max_cost and run the same command again to go on "
                "(`harness plan` says what the whole grid costs)"
            )
        self.reserved += cost
        return cost

    def settle(self, reserved: float, cost: float) -> None:
        """A request is over: what was set aside for it, and what it did cost."""
        self.reserved -= reserved
        self.spent += cost
