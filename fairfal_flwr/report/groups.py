"""Which runs belong together: finished ones that differ in their seeds alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import Run, is_run, read_run
from fairfal_flwr.runs.rows import Summary

__all__ = ["Finished", "Groups", "find_runs", "group_runs", "read_groups"]

# What two runs may differ in and still be the same experiment: where files are, how
# long to wait, how much to compute at once.
NO_MATTER = frozenset(
    {
        *("seed", "device", "threads", "data-dir", "output-dir", "state-dir"),
        *("campaign.checkpoint-seconds", "campaign.resume", "annotation.poll-seconds"),
        *("data.cache-mb", "data.memory-mb"),
        *(f"federation.{key}" for key in ("connect-timeout", "round-timeout")),
        "federation.round-retries",
    }
)
STRATEGY = "query.strategy"
# What says, beside the seeds, which client has which images.
DEAL = (
    *("num-clients", "data.name", "data.class-names"),
    *("data.long-tail", "data.imbalance-ratio"),
    *("data.partitioner", "data.alpha", "data.classes-per-client"),
)


class Finished(NamedTuple):
    """A finished run and its summary."""

    run: Run
    summary: Summary

    @property
    def deal(self) -> tuple[object, ...]:
        """What two runs must share to be a pair: the seed and the partition."""
        config = self.run.config or {}
        seed = self.summary.seed
        partition_seed = config.get("data.partition-seed", -1)
        dealt = seed if partition_seed == -1 else partition_seed
        return (seed, dealt, *(config.get(key) for key in DEAL))


@dataclass(frozen=True)
class Groups:
    """Finished runs by what they differ in, and why the others were left out.

    Parameters
    ----------
    finished : dict of str to list of Finished
        By the query strategy and each other key in which the runs differ.
    left_out : list of str
        A line for each run that is not finished.
    """

    finished: dict[str, list[Finished]]
    left_out: list[str]

    def check_baseline(self, name: str) -> None:
        """Raise unless a name is empty or one of the groups.

        Raises
        ------
        UserError
            If it is neither.
        """
        if name and name not in self.finished:
            names = "; ".join(sorted(self.finished))
            raise UserError(f"The baseline is {name!r}; allowed: {names}.")

    @property
    def runs(self) -> dict[str, list[Summary]]:
        """The summaries of each group."""
        return {
            name: [member.summary for member in members]
            for name, members in self.finished.items()
        }

    @property
    def summaries(self) -> list[Summary]:
        """The summaries of all."""
        return [summary for found in self.runs.values() for summary in found]


def find_runs(places: Iterable[Path]) -> list[Path]:
    """Return folders of results: each place that is one, or those right below it.

    Raises
    ------
    UserError
        If a place has none.
    """
    found: list[Path] = []
    for place in places:
        below = sorted(path for path in place.glob("*") if is_run(path))
        if is_run(place):
            below = [place]
        if not below:
            raise UserError(f"{place} is no folder of results, and none is in it.")
        found += below
    return list(dict.fromkeys(found))


def read_groups(places: Iterable[Path]) -> Groups:
    """Read runs and put those together that differ in their seeds alone.

    Parameters
    ----------
    places : iterable of Path
        See `find_runs`.

    Raises
    ------
    UserError
        If no run is finished, or two of one group have the same seed.
    """
    return group_runs(map(read_run, find_runs(places)))


def group_runs(runs: Iterable[Run]) -> Groups:
    """Put runs together: see `read_groups`."""
    finished: list[Finished] = []
    left_out: list[str] = []
    for run in runs:
        if not (run.summary and run.summary.finished and run.summary.cycles):
            left_out.append(f"left out {run.folder.name}: {_state(run)}")
        else:
            finished.append(Finished(run, run.summary))
    if not finished:
        raise UserError(f"None of these runs is finished: {'; '.join(left_out)}.")
    keys = _differing([run.config or {} for run, _ in finished])
    groups: dict[str, list[Finished]] = {}
    for member in finished:
        groups.setdefault(_name(*member, keys), []).append(member)
    for name, members in groups.items():
        _check_seeds(name, members)
    return Groups(groups, left_out)


def _state(run: Run) -> str:
    """Say how far a run came."""
    cycles = len(run.summary.cycles) if run.summary else 0
    ends = {EventKind.FAILED: "failed", EventKind.STOPPED: "was stopped"}
    last = run.events[-1].kind if run.events else None
    how = ends.get(last, "is not finished") if last else "is not finished"
    return f"it {how} after {cycles} cycle(s)"


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that matter in which configurations differ."""
    keys = set().union(*configs) - NO_MATTER - {STRATEGY}
    return sorted(
        key
        for key in keys
        if any(config.get(key) != configs[0].get(key) for config in configs)
    )


def _name(run: Run, summary: Summary, keys: Iterable[str]) -> str:
    config = run.config or {}
    others = [f"{key}={config[key]}" for key in keys if key in config]
    return ", ".join([summary.strategy, *others])


def _check_seeds(name: str, members: Sequence[Finished]) -> None:
    """Raise if two runs are the same experiment with the same seed."""
    folders: dict[int, Path] = {}
    for run, summary in members:
        if (other := folders.get(summary.seed)) is not None:
            raise UserError(
                f"Two runs of {name} have seed {summary.seed}: {other} and "
                f"{run.folder}; leave one of them out."
            )
        folders[summary.seed] = run.folder
