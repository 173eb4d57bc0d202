"""A row and its entry in a file: the same thing, written differently."""

import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from run_rows import CYCLES, QUERIES, ROUNDS, SUMMARIES
from summaries import a_summary

from fairfal_flwr.runs.rows import CycleRow, RoundRow, entry_of, row_of

CYCLE = CycleRow(1, 30, 0.1, 0.5, math.nan, 0.25, (1.0, math.nan), None, 2, 0.5, 1.5)
SUMMARY = a_summary(
    finished=True,
    privacy={"mechanism": "local", "settings": {"clipping_norm": 1.0}},
    cycles=(CYCLE,),
)


def test_the_entry_of_a_summary_word_by_word():
    assert entry_of(SUMMARY) == {
        "format": 1,
        "run": "a",
        "finished": True,
        "strategy": "fairfal",
        "federation": "fedavg",
        "privacy": {"mechanism": "local", "settings": {"clipping-norm": 1.0}},
        "data": "digits",
        "seed": 3,
        "seconds": 2.0,
        "cycles": (
            {
                "cycle": 1,
                "labels": 30,
                "label-fraction": 0.1,
                "accuracy": 0.5,
                "loss": None,
                "rare-recall": 0.25,
                "recalls": (1.0, None),
                "mean-imbalance": None,
                "global-queries": 2,
                "query-seconds": 0.5,
                "train-seconds": 1.5,
            },
        ),
    }


@given(st.one_of(ROUNDS, QUERIES, SUMMARIES))
def test_an_entry_says_what_the_row_says(row):
    back = row_of(type(row), entry_of(row))
    assert repr(back) == repr(row)  # nan is not equal to itself


@given(st.one_of(ROUNDS, QUERIES, SUMMARIES))
def test_the_keys_are_the_fields_in_kebab_case(row):
    names = [field.name.replace("_", "-") for field in fields(row)]
    assert list(entry_of(row)) == names
    assert not any("_" in key for key in names)


@given(CYCLES)
def test_a_cycle_has_no_nan_in_a_file(row):
    (entry,) = entry_of(SUMMARY.__class__(**asdict(SUMMARY) | {"cycles": (row,)}))[
        "cycles"
    ]
    values = [*entry.values(), *entry["recalls"]]
    assert not any(isinstance(v, float) and math.isnan(v) for v in values)


def test_what_was_not_measured_and_what_is_unknown_are_both_blank():
    row = RoundRow(1, 2, 9, 3, 0.5, None, math.nan, None, None, 0.1)
    back = row_of(RoundRow, entry_of(row))
    assert back.accuracy is back.rare_recall is back.client_accuracy is None
    assert back.client_recalls is None


@pytest.mark.parametrize(
    "change", [{"round": "x"}, {"round": None}, {"surplus": 1}, {"loss": "y"}]
)
def test_an_entry_that_does_not_fit_is_refused(change):
    entry = entry_of(RoundRow(1, 2, 9, 3, 0.5, None, None, None, None, 0.1)) | change
    with pytest.raises(ValidationError, match=next(iter(change))):
        row_of(RoundRow, entry)


def test_a_missing_key_is_refused():
    entry = entry_of(RoundRow(1, 2, 9, 3, 0.5, None, None, None, None, 0.1))
    del entry["client-recalls"]
    with pytest.raises(ValidationError, match="client-recalls"):
        row_of(RoundRow, entry)
