"""What a person reads while a run goes on."""

import math

import pytest
from summaries import a_summary

from fairfal_flwr.config import RunConfig
from fairfal_flwr.runs.rows import CycleRow, QueryRow, RoundRow
from fairfal_flwr.server import progress
from fairfal_flwr.server.counts import Standing
from fairfal_flwr.server.progress import Progress, cycle_table

CONFIG = RunConfig.from_flat({"campaign.num-cycles": 3, "campaign.num-rounds": 10})


@pytest.fixture
def lines(caplog):
    """Return the lines so far."""
    caplog.set_level("INFO", logger="fairfal.server")
    return lambda: [record.getMessage() for record in caplog.records]


def round_row(cycle, number, labels, accuracy=None):
    return RoundRow(cycle, number, labels, 3, 0.5, accuracy, None, None, None, 1.0)


def cycle_row(cycle, choices, rare=0.25):
    return CycleRow(cycle, 36, 0.05, 0.5, 1.0, rare, (0.5,), None, choices, 1.0, 1.0)


def test_the_line_of_a_round(lines):
    shown = Progress(CONFIG)
    shown.round_finished(round_row(1, 9, 36))
    shown.round_finished(round_row(1, 10, 36, accuracy=0.125))
    shown.round_finished(round_row(2, 1, 72, accuracy=math.nan))
    blank = " " * 18
    assert [line.rpartition("  left")[0] + "|" for line in lines()] == [
        f"cycle 1/3  round  9/10  labels 36  loss 0.500{blank}|",
        "cycle 1/3  round 10/10  labels 36  loss 0.500  accuracy  12.5% |",
        f"cycle 2/3  round  1/10  labels 72  loss 0.500{blank}|",
    ]


def test_the_time_left_goes_by_the_labels_of_the_rounds_to_come(lines, monkeypatch):
    """Two rounds on 36 labels, 10 s each; 8 are left, then 10 on 72 and 10 on 108.

    8·36 + 10·72 + 10·108 = 2088 labels at 36 per 10 s: 580 s.
    """
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    shown = Progress(CONFIG)
    shown.round_finished(round_row(1, 1, 36))
    shown.round_finished(round_row(1, 2, 36))
    ends = [line.rpartition("left ")[2] for line in lines()]
    assert ends == ["?", "9 min 40 s"]


def test_in_a_later_cycle_the_labels_of_one_are_a_part_of_all(lines, monkeypatch):
    """8 rounds on 72 labels and 10 on 108 are left: 1656 at 72 per 10 s, 230 s."""
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    shown = Progress(CONFIG)
    shown.round_finished(round_row(2, 1, 72))
    shown.round_finished(round_row(2, 2, 72))
    assert lines()[-1].endswith("left 3 min 50 s")


def test_the_time_left_goes_by_the_last_20_rounds(lines, monkeypatch):
    """The first rounds took 1000 s each and are forgotten; 1 of 1 s is left."""
    seconds = [1000.0] * 9 + [1.0] * 20
    clock = iter([sum(seconds[:count]) for count in range(30)])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(clock))
    one_cycle = {"campaign.num-cycles": 1, "campaign.num-rounds": 31}
    shown = Progress(RunConfig.from_flat(one_cycle))
    for number in range(1, 31):
        shown.round_finished(round_row(1, number, 36))
    assert lines()[-1].endswith("left 1 s")


def test_who_ran_out_of_images_is_named(lines):
    rows = [
        QueryRow(
            2, client, "random", 5, selected, 9, 0, 0, 0, None, 0.0, 0.0, 0.0, None
        )
        for client, selected in enumerate([5, 2])
    ]
    Progress(CONFIG).queries_finished(rows)
    assert lines() == ["client 1 had only 2 images left to label (budget 5)"]


def test_the_table_of_a_strategy_that_chooses_between_the_models(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # of a terminal, which may be no reader of it
    table = cycle_table([cycle_row(1, None), cycle_row(2, 3, rare=math.nan)], 5)
    head, line, *rows = [text.strip() for text in table.strip().splitlines()]
    assert head == (
        "cycle   labels   share   accuracy   rarest third   queried by global model"
    )
    assert set(line) == {"─"}
    assert [row.split() for row in rows] == [
        ["1", "36", "5.0%", "50.0%", "25.0%", "-"],
        ["2", "36", "5.0%", "50.0%", "-", "3", "of", "5", "clients"],
    ]


def test_the_table_of_any_other_strategy_has_no_column_for_a_choice():
    table = cycle_table([cycle_row(1, None), cycle_row(2, None)], 5)
    head = table.strip().splitlines()[0].strip()
    assert head == "cycle   labels   share   accuracy   rarest third"


def test_open_questions_are_told_at_most_four_times_a_minute(lines, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    shown = Progress(CONFIG)
    shown.answering(Standing(2, {0: 3, 1: 0, 2: 4}, {0: 5, 1: 9, 2: 1}, 7200.0))
    now[0] += 14.9
    shown.answering(Standing(2, {0: 2, 1: 0, 2: 4}, {0: 6, 1: 9, 2: 1}, 7100.0))
    now[0] += 0.1
    shown.answering(Standing(2, {0: 1, 1: 0, 2: 4}, {0: 7, 1: 9, 2: 1}, None))
    shown.answering(Standing(2, {0: 0, 1: 0, 2: 0}, {0: 8, 1: 9, 2: 4}, None))
    assert lines() == [
        "cycle 2: 15 labels, waiting for 7 more (client 0: 3, client 2: 4), for at "
        "most 2 h 0 min",
        "cycle 2: 17 labels, waiting for 5 more (client 0: 1, client 2: 4)",
        "cycle 2: 21 labels, all answered",
    ]


def test_a_run_that_labeled_all_before_its_last_cycle_says_so(lines, tmp_path):
    rows = tuple(cycle_row(cycle, None) for cycle in (1, 2))
    Progress(CONFIG).finished(a_summary(cycles=rows), tmp_path)
    assert lines()[1] == "all images are labeled after cycle 2 of 3"
    Progress(CONFIG).finished(a_summary(cycles=(*rows, cycle_row(3, None))), tmp_path)
    assert sum("all images" in line for line in lines()) == 1
