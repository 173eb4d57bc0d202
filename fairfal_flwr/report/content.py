"""What a report says, section by section, before it is a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairfal_flwr.report.compare import (
    BASELINE,
    HOW_PAIRED,
    doubts,
    mean_tables,
    p_value,
    paired_table,
)
from fairfal_flwr.report.facts import Facts
from fairfal_flwr.report.figures import (
    WIDTH,
    asked_figure,
    curve_figure,
    model_figure,
    rank_figure,
    recall_figure,
    stage_figure,
)
from fairfal_flwr.report.groups import Finished, Groups
from fairfal_flwr.report.learning_curve import MEASURES
from fairfal_flwr.report.pairs import (
    Comparison,
    Outcome,
    compare_with,
    outcomes,
    ranking,
)
from fairfal_flwr.report.partition_map import partition_figure
from fairfal_flwr.report.tables import Table
from fairfal_flwr.report.times import seconds_by_stage, traffic_of
from fairfal_flwr.report.verdicts import verdicts
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "sections_of"]

UNKNOWN = "-"
MEGABYTE = 1e6
GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
MEAN_GAMMA = GAMMA + "\N{COMBINING MACRON}"
# The outcomes that the first lines of a report are about.
DECISIVE = ("AULC of test accuracy", "final recall, rarest third")


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its file and what it shows."""

    name: str
    caption: str
    figure: "Figure"

    @property
    def is_small(self) -> bool:
        """Whether it may shrink to the width of a phone and still be read."""
        return bool(self.figure.get_figwidth() <= WIDTH)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order."""

    title: str
    words: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default=())


def sections_of(
    groups: Groups, facts: Mapping[str, Facts], baseline: str = ""
) -> list[Section]:
    """Return the sections of a report.

    Parameters
    ----------
    groups : Groups
        As of `read_groups`.
    facts : Mapping[str, Facts]
        By the name of each run.
    baseline : str, optional
        What the others are compared with; `random` where it is left out.

    Raises
    ------
    UserError
        If the runs label different shares of the images.
    """
    against = baseline or BASELINE
    measures = outcomes(groups.summaries)
    is_there = against in groups.finished
    compared = compare_with(groups.finished, against, measures) if is_there else []
    return [
        _in_short(groups, against, compared),
        _curves(groups),
        *_pairs(groups, against, measures[0], compared),
        _classes(groups, facts),
        _asked(groups, facts),
        *_models(groups, facts),
        _times(groups),
        *_partition(groups, facts),
        _runs(groups, facts),
        _config(groups),
    ]


def _in_short(groups: Groups, baseline: str, compared: Sequence[Comparison]) -> Section:
    if baseline not in groups.finished:
        words = [f"No run of {baseline} is among these, so nothing says who wins."]
        return Section("In short", words)
    decisive = [each for each in compared if each.outcome.name.startswith(DECISIVE)]
    words = verdicts(decisive, baseline)
    alone = f"Nothing else has the seed and partition of a run of {baseline}."
    return Section("In short", words or [alone])


def _curves(groups: Groups) -> Section:
    pictures = [
        Picture(f"curve-{number}", _caption(title, groups), figure)
        for number, (title, measure) in enumerate(MEASURES.items(), start=1)
        for figure in [curve_figure(groups.runs, title, measure)]
    ]
    words = ["Of the global model after the last round of each cycle; mean ± sd, in %."]
    return Section("Learning curves", words, pictures, mean_tables(groups))


def _caption(title: str, groups: Groups) -> str:
    several = any(len(runs) > 1 for runs in groups.finished.values())
    level = "95\N{NO-BREAK SPACE}%"
    band = f"; the band is the {level} confidence interval of the mean over seeds"
    return f"{title[:1].upper()}{title[1:]} against labels{band if several else ''}."


def _pairs(
    groups: Groups, baseline: str, ranked: Outcome, compared: Sequence[Comparison]
) -> list[Section]:
    pictures = []
    if (found := ranking(groups.finished, ranked)) is not None:
        figure = rank_figure(found, ranked.name)
        caption = (
            "Mean ranks; strategies that a bar ties are no different (Nemenyi, 0.05; "
            f"Friedman p = {p_value(found.p_value)})."
        )
        pictures = [Picture("ranks", caption, figure)]
    if baseline not in groups.finished:
        return [Section("Mean ranks", pictures=pictures)] if pictures else []
    if not compared:
        return []
    notes = [HOW_PAIRED, *doubts(groups, compared, baseline)]
    title = f"Against {baseline}, pair by pair"
    tables = [paired_table(compared, baseline)]
    return [Section(title, pictures=pictures, tables=tables, notes=notes)]


def _classes(groups: Groups, facts: Mapping[str, Facts]) -> Section:
    known = _first_known(groups, facts)
    recalls = {
        name: np.array([run.cycles[-1].recalls for run in runs]).mean(axis=0)
        for name, runs in groups.runs.items()
    }
    number = len(next(iter(recalls.values())))
    sizes = None if known.counts is None else known.counts.sum(axis=0).tolist()
    names = [known.name_of(label) for label in range(number)]
    caption = "Recall of each class, the largest first; mean over seeds."
    figure = recall_figure(recalls, names, sizes)
    return Section(
        "Classes", pictures=[Picture("recall", caption, figure)], notes=known.missing
    )


def _asked(groups: Groups, facts: Mapping[str, Facts]) -> Section:
    pictures, notes = [], []
    for number, (name, members) in enumerate(groups.finished.items(), start=1):
        known = [facts[member.run.folder.name] for member in members]
        with_counts = [each for each in known if each.asked]
        notes += [f"{name}: {why}" for each in known for why in each.missing]
        if with_counts:
            caption = f"{name}: asked for by class and cycle, all clients together."
            figure = _asked_of(with_counts)
            pictures.append(Picture(f"asked-{number}", caption, figure))
    words = [
        "True classes of what was asked for against what the pool held just before. "
        "Blank: the pool had none left."
    ]
    title = "What was asked for"
    return Section(title, words if pictures else (), pictures, notes=_once(notes))


def _asked_of(known: Sequence[Facts]) -> "Figure":
    """Draw the sums over runs, whose classes have one order."""
    cycles = sorted(set.intersection(*(set(each.asked) for each in known)))
    sizes = _sum([each.counts for each in known if each.counts is not None])
    order = np.argsort(sizes)[::-1]
    asked = [_sum([each.asked[cycle] for each in known])[order] for cycle in cycles]
    pools = [
        _sum([pool for each in known if (pool := each.pool(cycle)) is not None])[order]
        for cycle in cycles
    ]
    return asked_figure(asked, pools, [known[0].name_of(label) for label in order])


def _sum(tables: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = np.sum([table.sum(axis=0) for table in tables], axis=0)
    return total


def _models(groups: Groups, facts: Mapping[str, Facts]) -> list[Section]:
    shares = {
        name: of
        for name, members in groups.finished.items()
        if (of := _global_shares([member.run for member in members]))
    }
    tables = [
        table
        for members in groups.finished.values()
        for member in members
        if (table := _choices(member, facts[member.run.folder.name])).rows
    ]
    if not tables:
        return []
    words = [
        "FairFAL's rule: the global model queries where s_k exceeds the threshold "
        f"δ. {MEAN_GAMMA} is the global model's mean imbalance, d_k how far client "
        "k's own model is from it."
    ]
    pictures = []
    if shares:
        caption = "Clients whose uncertainty the global model judged."
        pictures = [Picture("models", caption, model_figure(shares))]
    return [Section("Which model queried", words, pictures, tables)]


def _global_shares(runs: Sequence[Run]) -> dict[int, float]:
    said: dict[int, list[int]] = {}
    for run in runs:
        for row in run.queries:
            if row.global_query is not None:
                said.setdefault(row.cycle, []).append(row.global_query)
    return {cycle: float(np.mean(found)) for cycle, found in sorted(said.items())}


def _choices(member: Finished, facts: Facts) -> Table:
    run, summary = member
    mean = {row.cycle: row.mean_imbalance for row in summary.cycles}
    rows = []
    for row in run.queries:
        choice = facts.choices.get((row.cycle, row.client))
        if row.global_query is None and choice is None:
            continue
        model = {1: "global", 0: "local"}.get(row.global_query or 0, UNKNOWN)
        rows.append(
            [
                *(str(row.cycle), str(row.client), model, _number(mean[row.cycle])),
                _number(row.imbalance),
                _number(choice.divergence if choice else None),
                _number(choice.score if choice else None),
            ]
        )
    heads = ["cycle", "client", "model", MEAN_GAMMA, f"{GAMMA}_k", "d_k", "s_k"]
    return Table(heads, rows, title=f"{run.folder.name}: {len(rows)} choices")


def _number(value: float | None) -> str:
    return UNKNOWN if value is None or np.isnan(value) else f"{value:.3f}"


def _times(groups: Groups) -> Section:
    stages = {
        name: _mean([seconds_by_stage(member.run) for member in members])
        for name, members in groups.finished.items()
    }
    used = [
        s for s in next(iter(stages.values())) if any(o[s] for o in stages.values())
    ]
    stages = {name: {stage: of[stage] for stage in used} for name, of in stages.items()}
    rows = []
    for name, members in groups.finished.items():
        traffic = traffic_of([member.run for member in members])
        rows.append(
            [
                *(name, str(traffic.rounds), _megabytes(traffic.sent)),
                *(_megabytes(traffic.received), _megabytes(traffic.total)),
            ]
        )
    heads = ["arrays, all clients together", "rounds", "sent in a round (MB)"]
    heads += ["received in a round (MB)", "all messages (MB)"]
    picture = Picture("stages", "Wall-clock time by stage.", stage_figure(stages))
    return Section("Time and traffic", (), [picture], [Table(heads, rows)])


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def _megabytes(number: float) -> str:
    return f"{number / MEGABYTE:,.2f}"


def _partition(groups: Groups, facts: Mapping[str, Facts]) -> list[Section]:
    known = _first_known(groups, facts)
    if known.counts is None:
        return []
    summary = groups.summaries[0]
    figure = partition_figure(known.counts, known.class_names)
    caption = f"{summary.data}, seed {summary.seed}: images of each class by client."
    words = ["Another seed deals the images anew."] if _seeds(groups) > 1 else []
    return [Section("Partition", words, [Picture("partition", caption, figure)])]


def _seeds(groups: Groups) -> int:
    return len({summary.seed for summary in groups.summaries})


def _runs(groups: Groups, facts: Mapping[str, Facts]) -> Section:
    heads = ["run", "seed", "federation", "cycles", "time (s)", "version", "images"]
    rows = [
        [
            *(summary.run, str(summary.seed), summary.federation),
            *(str(len(summary.cycles)), f"{summary.seconds:.0f}", _version(run)),
            facts[run.folder.name].fingerprint or UNKNOWN,
        ]
        for members in groups.finished.values()
        for run, summary in members
    ]
    notes = [
        "Images: a fingerprint of what all clients hold, from their ledgers. Runs do "
        "not record a git commit.",
        *(f"{line[:1].upper()}{line[1:]}." for line in groups.left_out),
    ]
    return Section("Runs", tables=[Table(heads, rows)], notes=notes)


def _version(run: Run) -> str:
    kinds = (EventKind.RUN_STARTED, EventKind.RESUMED)
    said = [str(e.facts.get("version", "")) for e in run.events if e.kind in kinds]
    return ", ".join(dict.fromkeys(said)) or UNKNOWN


def _config(groups: Groups) -> Section:
    configs = [m.run.config or {} for of in groups.finished.values() for m in of]
    keys = sorted(set().union(*configs))
    rows = []
    for key in keys:
        values = [str(config.get(key, UNKNOWN)) for config in configs]
        rows.append([key, ", ".join(dict.fromkeys(values))])
    return Section(
        "Configuration", tables=[Table(["key", "value"], rows, "every key", words=2)]
    )


def _first_known(groups: Groups, facts: Mapping[str, Facts]) -> Facts:
    """Return the facts of the first run whose images are known, else of the first."""
    found = [facts[m.run.folder.name] for of in groups.finished.values() for m in of]
    return next((each for each in found if each.counts is not None), found[0])


def _once(lines: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(lines))
