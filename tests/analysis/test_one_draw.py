"""What one draw of demonstrations per template can make of templates that are equally good at large."""

import numpy as np
import pytest

from harness.analysis.paired import pair_test
from harness.analysis.strategies import by_axes, every_cell
from tests.analysis.grids import seeded_strategies, table_of

KEYS = [("m", template, 4, seed) for template in ("a", "b") for seed in (1, 2, 3)]


def claims(grids):
    """Share of grids in which two equal templates are told apart: cells of one draw, and averaged over three draws."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(grids):
        values = seeded_strategies(rng, [0.75, 0.75], 3, 1000, 0.05)
        table = table_of(values.reshape(6, -1), KEYS)
        cells, averaged = every_cell(table), by_axes(table, ["template", "k"])
        assert cells.is_one_draw
        assert not averaged.is_one_draw
        one = pair_test(cells.values[0] - cells.values[3], None).p
        found.append((one <= 0.05, pair_test(averaged.values[0] - averaged.values[1], None).p <= 0.05))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("grids", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_equal_templates_differ_by_their_draw_but_not_at_large(grids):
    one_draw, at_large = claims(grids)
    print(f"told apart: {one_draw:.3f} of one draw, {at_large:.3f} over three draws")
    assert one_draw > 0.3, "so figures of one draw say so"
    assert at_large <= 0.05
