"""What the writer leaves, the reader finds: whole runs, torn ones and damaged ones."""

import csv
import json
import math
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from run_rows import EVENTS, QUERIES, ROUNDS, SUMMARIES
from safetensors import safe_open
from summaries import a_summary

from fairfal_flwr.errors import UserError
from fairfal_flwr.runs import writer as writer_module
from fairfal_flwr.runs.events import Event, EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.rows import QueryRow, RoundRow
from fairfal_flwr.runs.writer import RunWriter

ROUND = RoundRow(1, 2, 9, 3, 0.25, 0.5, math.nan, 0.5, (1.0, math.nan), 0.125)
QUERY = QueryRow(1, 0, "fairfal", 5, 4, 9, 11, 0, 0, None, 0.5, 0.25, 0.125, 0.75)
SUMMARY = a_summary()


@pytest.fixture
def writer(tmp_path):
    return RunWriter.create(tmp_path / "runs", "digits")


def kinds(run):
    return [event.kind for event in run.events]


# Writing


def test_a_run_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 12, 0, 5, tzinfo=tz)

    monkeypatch.setattr(writer_module, "datetime", Noon)
    roots = [tmp_path / str(n % 2) for n in range(20)]  # ledgers are named by the run
    names = {RunWriter.create(root, "my:fun/seed0").folder.name for root in roots}
    assert len(names) == 20
    pattern = r"20260102-120005-my-fun-seed0-[0-9a-f]{8}"
    assert all(re.fullmatch(pattern, name) for name in names)


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="`output-dir`") as error:
        RunWriter.create(tmp_path / "file" / "runs", "digits")
    assert "\n" not in str(error.value)


def test_the_lines_of_the_tables_word_by_word(writer):
    writer.append_round(ROUND)
    writer.append_queries([QUERY])
    assert (writer.folder / "rounds.csv").read_bytes() == (
        b"cycle,round,labels,clients,loss,accuracy,rare-recall,client-accuracy,"
        b"client-recalls,seconds\r\n"
        b"1,2,9,3,0.25,0.5,,0.5,1.0 -,0.125\r\n"
    )
    assert (writer.folder / "queries.csv").read_bytes() == (
        b"cycle,client,strategy,budget,num-selected,num-labeled,num-unlabeled,"
        b"num-open,num-set-aside,"
        b"global-query,local-training-seconds,outputs-seconds,selection-seconds,"
        b"imbalance\r\n"
        b"1,0,fairfal,5,4,9,11,0,0,,0.5,0.25,0.125,0.75\r\n"
    )


def test_rounds_and_queries_are_told_as_events(writer):
    writer.append_queries([QUERY, QUERY])
    writer.append_round(ROUND)
    lines = (writer.folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    times = [datetime.fromisoformat(event.pop("time")) for event in events]
    assert all(time.tzinfo == UTC for time in times)
    assert times == sorted(times)
    assert events == [
        {
            "event": "query-finished",
            "cycle": 1,
            "strategy": "fairfal",
            "selected": 8,
            "labels": 18,
        },
        {
            "event": "round-finished",
            "cycle": 1,
            "round": 2,
            "clients": 3,
            "loss": 0.25,
            "seconds": 0.125,
        },
        {
            "event": "evaluated",
            "cycle": 1,
            "round": 2,
            "accuracy": 0.5,
            "rare-recall": None,
        },
    ]


def test_a_round_without_an_evaluation_tells_of_none(writer):
    writer.append_round(RoundRow(1, 1, 9, 3, 0.2, None, None, None, None, 0.1))
    assert kinds(read_run(writer.folder)) == [EventKind.ROUND_FINISHED]


def test_a_model_keeps_its_cycle(writer):
    for cycle in (1, 2):
        writer.save_model({"w": torch.full((2,), float(cycle))}, cycle=cycle, round=4)
    with safe_open(writer.folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"cycle": "2", "round": "4"}
        assert file.get_tensor("w").tolist() == [2.0, 2.0]


# Round trip


@settings(max_examples=30)
@given(
    st.lists(ROUNDS, max_size=4),
    st.lists(QUERIES, max_size=4),
    SUMMARIES,
    st.lists(EVENTS, max_size=4),
)
def test_what_is_written_is_read(rounds, queries, summary, events):
    with tempfile.TemporaryDirectory() as folder:
        writer = RunWriter(Path(folder))
        writer.write_config({"seed": 1, "train": {"lr": 0.5, "momentum": 0.9}})
        for row in rounds:
            writer.append_round(row)
        if queries:
            writer.append_queries(queries)
        writer.write_summary(summary)
        for kind, facts in events:
            writer.event(kind, **facts)
        run = read_run(writer.folder)
    assert run.config == {"seed": 1, "train.lr": 0.5, "train.momentum": 0.9}
    assert repr(run.rounds) == repr(tuple(rounds))  # nan is not equal to itself
    assert repr(run.queries) == repr(tuple(queries))
    assert repr(run.summary) == repr(summary)
    told = run.events[-len(events) :] if events else ()
    assert [(event.kind, event.facts) for event in told] == events


def test_what_is_not_there_yet_is_none_or_empty(writer):
    writer.event(EventKind.RUN_STARTED)
    run = read_run(writer.folder)
    assert run.config is run.summary is None
    assert run.rounds == run.queries == ()
    assert isinstance(run.events[0], Event)


def test_a_reader_needs_no_pytorch_and_no_flower():
    code = (
        "import sys; import fairfal_flwr.runs.reader, fairfal_flwr.runs.writer; "
        "print(sorted({'torch', 'flwr', 'numpy'} & sys.modules.keys()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "[]\n"


# Half a line


@pytest.mark.parametrize("name", ["rounds.csv", "queries.csv", "events.jsonl"])
def test_a_torn_line_is_not_believed_wherever_it_is_torn(writer, name):
    """A table is cut after each of its bytes: a reader sees whole rows or none."""
    for _ in range(2):
        writer.append_queries([QUERY])
        writer.append_round(ROUND)
    path = writer.folder / name
    whole = path.read_bytes()
    heads = 0 if name == "events.jsonl" else 1
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        run = read_run(writer.folder)
        found = {
            "rounds.csv": run.rounds,
            "queries.csv": run.queries,
            "events.jsonl": run.events,
        }[name]
        assert len(found) == max(0, whole[:size].count(b"\n") - heads)


def test_half_a_line_makes_way_for_the_next(writer):
    writer.append_round(ROUND)
    path = writer.folder / "rounds.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"1,2,9,\xc3")
    RunWriter(writer.folder).append_round(ROUND)
    assert path.read_bytes() == whole + whole.splitlines(keepends=True)[1]


def test_half_a_head_makes_way_for_a_whole_one(writer):
    path = writer.folder / "rounds.csv"
    path.write_bytes(b"cycle,rou")
    writer.append_round(ROUND)
    assert len(read_run(writer.folder).rounds) == 1


# Damage


def test_a_folder_that_is_no_run_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"{folder} is no folder of results"):
            read_run(folder)


def overwrite(folder, name, old, new):
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8", newline="")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("rounds.csv", "1,2,9,3", "1,2,nine,3", r"in line 2: `labels`"),
        ("rounds.csv", "1,2,9,3", "1,2,9", r"in line 2: "),
        ("rounds.csv", "1,2,9,3", "1,2,,3", r"in line 2: `labels`"),
        ("rounds.csv", "rare-recall", "rare_recall", r"in line 2: "),
        ("queries.csv", ",fairfal,", ',"fairfal,', r": .*end of data"),
        ("events.jsonl", '"event"', '"evnt"', r"in line 1: "),
        ("events.jsonl", "query-finished", "query-fnished", r"in line 1: .*fnished"),
        ("events.jsonl", "{", "", r"in line 1: "),
        ("events.jsonl", '"time": "2', '"time": "x', r"in line 1: "),
        ("summary.json", '"seed": 3', '"seed": "three"', r": `seed`"),
        ("summary.json", '"seed": 3', '"seed": ', r"line 9"),
        ("config.toml", "seed = 1", "seed = ", r"line 1"),
    ],
)
def test_damage_is_named_with_its_place(writer, name, old, new, message):
    writer.write_config({"seed": 1})
    writer.append_queries([QUERY])
    writer.append_round(ROUND)
    writer.write_summary(SUMMARY)
    overwrite(writer.folder, name, old, new)
    with pytest.raises(UserError, match=rf"{name} is damaged.*{message}") as error:
        read_run(writer.folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1]", "5", "null"])
def test_an_event_that_is_no_object_is_damage(writer, text):
    (writer.folder / "events.jsonl").write_text(f"{text}\n")
    with pytest.raises(UserError, match="line 1: an event is an object"):
        read_run(writer.folder)


def test_a_file_that_is_no_text_is_damage(writer):
    writer.write_config({"seed": 1})
    for name in ("rounds.csv", "events.jsonl", "summary.json", "config.toml"):
        path = writer.folder / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(b"\xff\xfe\x00\n")
        with pytest.raises(UserError, match=f"{name} is damaged"):
            read_run(writer.folder)
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def test_a_file_that_cannot_be_read_is_named(writer):
    writer.write_config({"seed": 1})
    (writer.folder / "summary.json").mkdir()
    with pytest.raises(UserError, match=r"Cannot read .*summary\.json: Is a directory"):
        read_run(writer.folder)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [('"format": 1', '"format": 2', "2"), ('"format": 1,', "", "None")],
)
def test_a_format_that_is_not_known_is_refused(writer, old, new, found):
    writer.write_summary(SUMMARY)
    overwrite(writer.folder, "summary.json", old, new)
    with pytest.raises(UserError, match=f"has the format {found}; known is 1"):
        read_run(writer.folder)


def test_tables_are_read_by_others_too(writer):
    writer.append_queries([QUERY])
    with (writer.folder / "queries.csv").open(newline="") as file:
        assert [row["num-selected"] for row in csv.DictReader(file)] == ["4"]
