"""Rows of every kind, drawn by hypothesis: unicode, unknown, huge and tiny values."""

import math

from hypothesis import strategies as st

from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.rows import CycleRow, QueryRow, RoundRow, Summary

counts = st.integers(0, 2**40)
finite = st.floats(allow_nan=False, allow_infinity=False)
measures = finite | st.just(math.nan)
# No line breaks: a name is a single line.
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
names = st.from_regex(r"[a-z]+(_[a-z]+)*", fullmatch=True)

ROUNDS = st.builds(
    RoundRow,
    *(counts, counts, counts, counts),
    measures,
    st.none() | finite,
    st.none() | finite,
    st.none() | finite,
    st.none() | st.lists(measures, min_size=1).map(tuple),
    finite,
)
QUERIES = st.builds(
    QueryRow,
    *(counts, counts, texts, *[counts] * 6),
    st.none() | st.integers(0, 1),
    *(finite, finite, finite),
    st.none() | finite,
)
CYCLES = st.builds(
    CycleRow,
    *(counts, counts, finite, measures, measures, measures),
    st.lists(measures).map(tuple),
    st.none() | finite,
    st.none() | counts,
    *(finite, finite),
)
FACTS = st.dictionaries(
    names.filter(lambda name: name not in ("time", "event")),
    st.none()
    | st.booleans()
    | counts
    | finite
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(counts),
)
SUMMARIES = st.builds(
    Summary,
    run=texts,
    finished=st.booleans(),
    strategy=texts,
    federation=texts,
    privacy=st.none() | FACTS | st.fixed_dictionaries({"settings": FACTS}),
    data=texts,
    seed=counts,
    seconds=finite,
    cycles=st.lists(CYCLES, max_size=3).map(tuple),
)
EVENTS = st.tuples(st.sampled_from(EventKind), FACTS)
