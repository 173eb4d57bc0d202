"""What the campaign tells of itself: into the files of its run, and to the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from fairfal_flwr import __version__
from fairfal_flwr.config import RunConfig
from fairfal_flwr.files import replacing
from fairfal_flwr.messages import SelectReply, Weights
from fairfal_flwr.paths import output_root
from fairfal_flwr.report.learning_curve import draw_learning_curve
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.rows import CycleRow, Facts, QueryRow, RoundRow, Summary
from fairfal_flwr.runs.writer import RunWriter
from fairfal_flwr.server.progress import Progress

__all__ = ["Recorder"]


class Recorder:
    """Writes the files of one run into one folder and prints its progress.

    Parameters
    ----------
    config : RunConfig
        The configuration as run.
    folder : Path, optional
        Of a run to go on with; a new one by default.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        self._started = perf_counter()
        name = f"{config.data.name}-{config.query.strategy}-seed{config.seed}"
        if folder is None:
            self._writer = RunWriter.create(output_root(config.output_dir), name)
        else:
            self._writer = RunWriter(folder)
        self._progress = Progress(config)
        self.event, self.folder = self._writer.event, self._writer.folder
        self.name = self.folder.name  # which is also the campaign's
        self.summary = Summary(
            run=self.name,
            finished=False,
            strategy=config.query.strategy,
            federation=config.federation.strategy,
            privacy=None,
            data=config.data.name,
            seed=config.seed,
            seconds=0.0,
            cycles=(),
        )
        if folder is not None and (before := read_run(folder).summary) is not None:
            self.summary = replace(before, finished=False)
        self._progress.started(self.folder)
        self._writer.write_config(config.model_dump(by_alias=True))
        self.event(EventKind.RUN_STARTED, run=self.name, version=__version__)

    @property
    def cycles(self) -> tuple[CycleRow, ...]:
        """The cycles so far."""
        return self.summary.cycles

    def announce(self, num_samples: int, num_gpus: int, rare: Sequence[int]) -> None:
        """Say what is about to happen, and which classes are the rarest third."""
        self.event(EventKind.CLIENTS_MET, images=num_samples, gpus=num_gpus)
        self._progress.clients_met(num_samples, num_gpus, rare)

    def record_queries(
        self,
        cycle: int,
        strategy: str,
        replies: Mapping[int, SelectReply],
        imbalances: Mapping[int, float],
    ) -> None:
        """Append one row per client to queries.csv and name who ran out of images."""
        rows = []
        for client, reply in replies.items():
            known = asdict(reply) | {"imbalance": imbalances.get(client)}
            if reply.global_query < 0:
                known["global_query"] = None
            rows.append(QueryRow(cycle, client, strategy, **known))
        self._writer.append_queries(rows)
        self._progress.queries_finished(rows)

    def record_round(self, row: RoundRow) -> None:
        """Append to rounds.csv and print the round's line."""
        self._writer.append_round(row)
        self._progress.round_finished(row)

    def record_cycle(
        self, row: CycleRow, weights: Weights, privacy: Facts | None
    ) -> None:
        """Save the model and the summary so far, and print the cycle's row."""
        self._writer.save_model(weights, cycle=row.cycle)
        self._summarize(privacy=privacy, cycles=(*self.cycles, row))
        self.event(EventKind.CYCLE_FINISHED, cycle=row.cycle, labels=row.labels)
        self._progress.cycle_finished(row)

    def finish(self, privacy: Facts | None) -> None:
        """Write the final summary and the learning curve; print the path."""
        self._summarize(privacy=privacy, finished=True)
        with replacing(self.folder / "learning-curve.png") as path:
            draw_learning_curve([self.folder], path)
        self.event(EventKind.FINISHED, seconds=self.summary.seconds)
        self._progress.finished(self.summary, self.folder)

    def stop(
        self,
        weights: Weights,
        last_aggregate: tuple[int, int] | None,
        privacy: Facts | None,
        reason: str | None = None,
    ) -> None:
        """Leave behind what there is of a run that failed; without a reason, stopped.

        Weights that are no aggregate of a cycle and round do not replace the model.
        """
        if last_aggregate is not None:
            cycle, round_ = last_aggregate
            self._writer.save_model(weights, cycle=cycle, round=round_)
        self._summarize(privacy=privacy)
        kind = EventKind.STOPPED if reason is None else EventKind.FAILED
        self.event(kind, reason=reason)
        self._progress.stopped(last_aggregate, self.folder)

    def _summarize(self, **changes: Any) -> None:
        seconds = perf_counter() - self._started
        self.summary = replace(self.summary, seconds=seconds, **changes)
        self._writer.write_summary(self.summary)
