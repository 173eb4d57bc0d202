"""Where a run stands, from its files: made up, running, and broken."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from made_up import make_run
from rich.console import Console
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app
from fairfal_flwr.command.watch import changes, find_watched
from fairfal_flwr.errors import UserError
from fairfal_flwr.report.live import live_view, plain_line, sparkline
from fairfal_flwr.report.standing import FRESH, State, standing_of
from fairfal_flwr.runs.events import Event, EventKind
from fairfal_flwr.runs.lock import hold, is_held, release
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.writer import RunWriter

LATER = timedelta(seconds=2 * FRESH)


@pytest.fixture
def folder(tmp_path):
    """Two of three cycles of two rounds are done, and its end is not said."""
    made = make_run(tmp_path, cycles=2, rounds=2, ledgers=False, finished=False)
    config = made / "config.toml"
    config.write_text(config.read_text().replace("num-cycles = 2", "num-cycles = 3"))
    return made


def later(run):
    return run.events[-1].time + LATER


def test_how_far_it_is(folder):
    now = standing_of(read_run(folder))
    assert (now.cycle, now.num_cycles, now.round, now.num_rounds) == (2, 3, 2, 2)
    assert (now.data, now.strategy, now.seed, now.labels) == (
        "digits",
        "fairfal",
        0,
        30,
    )
    assert len(now.curve) == 2
    assert now.rare_recall == pytest.approx(now.accuracy / 2)
    assert now.stage == "aggregating"
    assert (now.state, now.awaited) == (State.RUNNING, ())


def test_what_became_of_it(folder):
    run = read_run(folder)
    assert standing_of(run).state == State.RUNNING
    assert standing_of(run, later(run)).state == State.STOPPED  # nobody is at it
    lock = hold(folder)
    assert standing_of(run, later(run)).state == State.RUNNING
    release(lock)
    writer = RunWriter(folder)
    writer.event(EventKind.STOPPED, reason=None)
    assert standing_of(read_run(folder)).state == State.STOPPED
    writer.event(EventKind.FAILED, reason="no client\nanswered")
    failed = standing_of(read_run(folder))
    assert failed.state == State.FAILED
    assert plain_line(failed).endswith("failed  no client answered")
    writer.event(EventKind.RESUMED, cycle=1, round=1, version="1")
    again = standing_of(read_run(folder))
    assert (again.state, again.cycle, again.round) == (State.RUNNING, 1, 1)


def test_whoever_asks_does_not_keep_a_run(folder):
    assert not is_held(folder)
    lock = hold(folder)
    assert is_held(folder)
    assert is_held(folder)
    release(lock)
    release(hold(folder))


def test_a_finished_run_is_over(tmp_path):
    done = standing_of(read_run(make_run(tmp_path, ledgers=False)))
    assert (done.state, done.is_over, done.stage) == (State.FINISHED, True, "finished")
    assert "left" not in plain_line(done)


@pytest.mark.parametrize(
    ("kind", "facts", "stage", "awaited"),
    [
        ("QUERY_STARTED", {"cycle": 3, "strategy": "badge"}, "querying (badge)", ()),
        ("ROUND_STARTED", {"cycle": 3, "round": 1}, "training, round 1", ()),
        ("WAITING", {"clients": [1, 2], "seconds": 9.0}, "aggregating", (1, 2)),
        ("ASKED_AGAIN", {"clients": [2]}, "aggregating", (2,)),
        (
            "ANSWERING",
            {"clients": [0, 1], "open": [0, 4], "labeled": [9, 5], "cycle": 3},
            "waiting for 4 answers",
            (1,),
        ),
    ],
)
def test_what_it_does_now_and_whom_it_waits_for(folder, kind, facts, stage, awaited):
    RunWriter(folder).event(EventKind[kind], **facts)
    now = standing_of(read_run(folder))
    assert (now.stage, now.awaited) == (stage, awaited)


def test_a_dropped_reply_does_not_end_the_waiting(folder):
    writer = RunWriter(folder)
    writer.event(EventKind.WAITING, clients=[1, 2], seconds=1.0)
    writer.event(EventKind.REPLY_DROPPED, client=1, reason="no")
    assert standing_of(read_run(folder)).awaited == (1, 2)
    writer.event(EventKind.EXCHANGED, message="train")
    assert standing_of(read_run(folder)).awaited == ()


def timed(run, query_seconds):
    """Give a run's queries some lengths, in the order of the cycles."""
    start, lengths = datetime(2026, 1, 1, tzinfo=UTC), iter(query_seconds)
    events: list[Event] = []
    for event in run.events:
        if event.kind == EventKind.QUERY_FINISHED:
            start += timedelta(seconds=next(lengths))
        events.append(Event(start, event.kind, event.facts))
    return replace(run, events=tuple(events))


def test_the_time_left_is_measured_stage_by_stage(folder):
    """Rounds of 6 s; the random query of 1 s says nothing of the next, that of 8 does.

    One cycle is left: 2 rounds and a query.
    """
    run = timed(read_run(folder), (1, 8))
    left = standing_of(run).left
    assert (left.query, left.train) == (pytest.approx(8), pytest.approx(12))
    assert left.total == pytest.approx(20)


def test_the_time_of_rounds_grows_with_their_labels(folder):
    """4 s for 15 labels and 6 s for 30 are 8 s for the 45 of the last cycle."""
    run = read_run(folder)
    rows = [replace(row, seconds=2.0 + 2 * row.cycle) for row in run.rounds]
    left = standing_of(replace(run, rounds=tuple(rows))).left
    assert left.train == pytest.approx(2 * 8)


def test_what_was_never_measured_is_not_known(folder):
    run = read_run(folder)
    first = [e for e in run.events if e.facts.get("cycle", 1) == 1][:4]
    young = standing_of(replace(run, events=tuple(first), rounds=()))
    assert math.isnan(young.left.query)
    assert math.isnan(young.left.train)
    assert plain_line(young).endswith("left not known before the first round")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([math.nan], ""),
        ([0.5, 0.5], "▁▁"),
        ([0.0, 1.0, 0.5], "▁█▅"),
        ([0.0, math.nan, 1.0], "▁█"),
    ],
)
def test_a_curve_as_text(values, line):
    assert sparkline(values) == line


def test_a_long_curve_is_thinned_and_keeps_its_end():
    values = [0.0] * 99 + [1.0]
    assert len(sparkline(values)) <= 40
    assert sparkline(values).endswith("█")


def shown(standing, width=100):
    console = Console(width=width, record=True, file=StringIO())
    console.print(live_view(standing))
    return console.export_text()


def test_the_live_view_says_it_all(folder):
    RunWriter(folder).event(EventKind.WAITING, clients=list(range(20)), seconds=1.0)
    text = shown(standing_of(read_run(folder)))
    for words in ("running", "digits, fairfal, seed 0", "2 of 3", "2 of 2", "▁█"):
        assert words in text
    assert "clients 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more" in text
    narrow = shown(standing_of(read_run(folder)), width=40)
    assert max(map(len, narrow.splitlines())) <= 40


def test_what_somebody_else_wrote_does_nothing_to_the_terminal(folder):
    RunWriter(folder).event(EventKind.FAILED, reason="\x1b[31mred\nline")
    failed = standing_of(read_run(folder))
    assert "\\x1b[31mred line" in plain_line(failed)
    assert "\x1b[31mred" not in shown(failed)


def runs_of(*words):
    return CliRunner().invoke(app, ["runs", *map(str, words)])


def test_runs_are_listed_the_newest_first(tmp_path):
    first = make_run(tmp_path, "random", 1, ledgers=False)
    second = make_run(tmp_path, "fairfal", 2, ledgers=False, finished=False)
    (first := first.rename(first.with_name("20200101-a"))).touch()
    result = runs_of(tmp_path / "runs")
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert head == [
        "run",
        "data",
        "strategy",
        "seed",
        "cycle",
        "accuracy",
        "age",
        "state",
    ]
    assert [row[0] for row in rows] == [second.name, first.name]
    assert rows[0][1:5] == ["digits", "fairfal", "2", "2/2"]
    assert [row[-1] for row in rows] == ["running", "finished"]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    good = make_run(tmp_path, ledgers=False)
    bad = make_run(tmp_path, ledgers=False)
    (bad / "events.jsonl").write_text("{}\n")
    result = runs_of(tmp_path / "runs")
    assert result.exit_code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()[1:]] == [
        good.name
    ]
    assert result.stderr.startswith(
        f"fairfal: {bad / 'events.jsonl'} is damaged in line"
    )
    assert result.stderr.count("\n") == 1


def test_no_runs_is_one_line(tmp_path):
    result = runs_of(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fairfal: {tmp_path} is no folder of results")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.toml", "num-cycles = 3", 'num-cycles = "x"'),
        ("config.toml", "num-rounds = 2", "other = 2"),
        ("events.jsonl", '"cycle": 2', '"cycle": null'),
    ],
)
def test_files_that_lack_what_they_should_say_are_one_line(folder, file, old, new):
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(
        UserError, match=r"events.jsonl or config.toml beside it is dam"
    ):
        standing_of(read_run(folder))


@pytest.mark.parametrize("name", ["config.toml", "events.jsonl"])
def test_a_run_without_a_file_is_one_line(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{folder} has no {name}, or an empty one"):
        standing_of(read_run(folder))


def test_watching_goes_on_until_the_run_is_over(folder):
    """Each pause something happens; what changes nothing is not told."""
    writer = RunWriter(folder)
    steps = iter(
        [
            lambda: writer.event(EventKind.QUERY_STARTED, cycle=3, strategy="badge"),
            lambda: None,
            lambda: writer.event(EventKind.ROUND_STARTED, cycle=3, round=1),
            lambda: writer.event(EventKind.FAILED, reason="no"),
        ]
    )
    told = [each.stage for each in changes(folder, lambda: next(steps)())]
    assert told == ["aggregating", "querying (badge)", "training, round 1", "failed"]


def test_a_run_is_found_by_its_folder_its_name_or_a_part(tmp_path):
    done = make_run(tmp_path, "random", 1, ledgers=False)
    runs = str(tmp_path / "runs")
    assert find_watched("", runs) == done
    going = make_run(tmp_path, "badge", 1, ledgers=False, finished=False)
    newest = make_run(tmp_path, "margin", 1, ledgers=False)
    newest = newest.rename(newest.with_name(f"9{newest.name}"))
    assert find_watched("", runs) == going
    assert find_watched("margin", runs) == newest
    assert find_watched(str(done), "") == done
    assert find_watched(going.name, runs) == going
    with pytest.raises(UserError, match=r"'seed1' is a part of 3 runs' names \("):
        find_watched("seed1", runs)
    with pytest.raises(UserError, match=r"No run in .*runs is 'logo'."):
        find_watched("logo", runs)


def test_without_a_terminal_a_line_for_each_change(tmp_path):
    done = make_run(tmp_path, ledgers=False)
    result = CliRunner().invoke(app, ["watch", str(done)])
    assert result.exit_code == 0
    assert result.stdout.startswith("cycle 2/2  round 2/2  labels 30  accuracy ")
    assert result.stdout.count("\n") == 1
    result = CliRunner().invoke(app, ["watch", "--folder", str(tmp_path)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
