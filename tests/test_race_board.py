"""What a race shows while it goes on, and how it ends in words."""

import io
import logging

import numpy as np
import pytest
from rich.console import Console

from harness.analysis.race_result import HeldOut, Spent, claim, held_out, points
from harness.analysis.race_rules import Ending, Rules
from harness.analysis.racing import Race, replay
from harness.reporting.progress import RunProgress
from harness.reporting.race import RaceBoard, write_result
from tests.analysis.grids import binary_strategies

LABELS = [f"wording_{place} K={place % 3}" for place in range(12)]


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)


def raced(board, epsilon=0.03):
    """Twelve strategies on 900 samples, the board told after every round."""
    levels = [*np.linspace(0.5, 0.7, 9), 0.78, 0.79, 0.8]
    values = binary_strategies(np.random.default_rng(3), levels, 900, sample_part=0.7)
    race = Race(12, np.ones(900, dtype=int), Rules(epsilon))
    while race.ending is None:
        before = len(race.rounds)
        race.advance(values, values)
        if len(race.rounds) > before:
            board.round_over(race, 1000.0 * len(race.rounds))
    return race


def test_the_board_names_who_leads_who_is_out_and_why(caplog):
    console = terminal()
    board = RaceBoard(console, LABELS, 100_000)
    console.print(board)
    assert "the first round is under way" in console.file.getvalue()
    with caplog.at_level(logging.INFO, "harness"):
        race = raced(board)
    assert race.ending in (Ending.CERTIFIED, Ending.ONE_LEFT)
    console.print(board)
    shown = console.file.getvalue()
    assert "candidate" in shown and "and 4 more" in shown and LABELS[race.winner] in shown
    assert ": others beat it" in shown or "not more than 3 points above" in shown
    assert len(caplog.records) == len(race.rounds), "one line a round"
    last = caplog.records[-1].getMessage()
    share = race.scored.sum() / (12 * 900)
    assert f"{share:.1%} of the grid's records" in last and f"{int((~race.alive).sum())} of 12 out" in last
    assert "certified within 3 points" in last or "certified within 0 points" in last
    assert " left" in caplog.records[3].getMessage()


def test_the_bar_has_the_board_above_it():
    console = terminal()
    board = RaceBoard(console, LABELS, 100_000)
    with RunProgress(console, None, 0, None, board=board):
        raced(board)
    shown = console.file.getvalue()
    assert shown.index("candidate") < shown.rindex("units")


@pytest.mark.parametrize(
    ("share", "words"), [(0.01, "1 point"), (0.005, "0.5 points"), (0.025, "2.5 points"), (0.1, "10 points")]
)
def test_differences_are_told_in_points(share, words):
    assert points(share) == words


def test_each_ending_has_its_sentence():
    sizes, flat = np.ones(60, dtype=int), np.ones((3, 60))
    certified = replay(flat, sizes, Rules(0.01, 0.9))
    assert claim(certified, ["a K=0", "b K=0", "c K=0"], 60) == (
        "With 90% confidence no strategy of this grid scores more than 1 point above a K=0 on these 60 samples, "
        "whenever the race was looked at or stopped."
    )
    one_left = replay(np.vstack([flat[:1], 0 * flat[1:]]), sizes, Rules(0.0))
    assert "scores more than a K=0 on these 60 samples" in claim(one_left, ["a K=0", "b K=0", "c K=0"], 60)
    tied = replay(flat, sizes, Rules(0.0))
    assert claim(tied, ["a K=0", "b K=0", "c K=0"], 60) == (
        "a K=0 is the full grid's winner on these 60 samples, unless that was dropped (at most 5% of races): all "
        "samples are used."
    )


def test_the_end_names_the_winner_on_samples_held_out_and_what_was_spent():
    rng = np.random.default_rng(1)
    winner, baseline = (rng.random(200) < 0.8).astype(float), (rng.random(200) < 0.7).astype(float)
    winner[3] = np.nan
    found = held_out(winner, baseline, None)
    assert isinstance(found, HeldOut) and found.winner.n == 199 and found.winner.method == "Wilson"
    assert found.difference is not None and found.difference.n == 199
    assert found.difference.value == pytest.approx(np.nanmean(winner - baseline))
    console = Console(file=io.StringIO(), width=200)
    write_result(console, "The claim.", found, "b K=0", Spent(100, 1000, 50.0, 400.0))
    text = console.file.getvalue()
    assert "on 199 samples held out it scores" in text and "winner minus baseline there: " in text
    assert "spent 100 of the grid's 1,000 records (10.0%) and 50 of its 400 tokens (12.5%)" in text
    assert held_out(np.full(5, np.nan), None, None) is None
    write_result(console, "The claim.", None, None, Spent(1, 1, 1, 1))
    assert "no samples were held out (race.holdout)" in console.file.getvalue()
