"""What the campaign tells of itself: into the files of its run, and to the screen."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from time import monotonic, perf_counter
from typing import Any

from fairfal_flwr import __version__
from fairfal_flwr.config import RunConfig
from fairfal_flwr.files import replacing
from fairfal_flwr.messages import SelectReply, Weights
from fairfal_flwr.paths import output_root
from fairfal_flwr.report.learning_curve import draw_learning_curve
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.lock import hold, release
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.rows import CycleRow, Facts, QueryRow, RoundRow, Summary
from fairfal_flwr.runs.writer import RunWriter
from fairfal_flwr.server.checkpoint import (
    Checkpoint,
    resumed_folder,
    write_checkpoint,
)
from fairfal_flwr.server.counts import Standing
from fairfal_flwr.server.progress import Progress
from fairfal_flwr.server.state import CampaignState

__all__ = ["Recorder"]

log = logging.getLogger("fairfal.server")


class Recorder:
    """Writes the files of one run into one folder and prints its progress.

    Parameters
    ----------
    config : RunConfig
        The configuration as run; `campaign.resume` names the folder of a run to go on
        with.
    checkpoint : Checkpoint, optional
        Of that run.

    Attributes
    ----------
    saved : tuple of int, optional
        Cycle and round of the last checkpoint.

    Raises
    ------
    UserError
        If the folder cannot be written, or somebody else writes into it.
    """

    def __init__(self, config: RunConfig, checkpoint: Checkpoint | None = None) -> None:
        self._config = config
        self.saved = checkpoint.state.moment if checkpoint else None
        self._saved_at = monotonic()
        self._started = perf_counter()
        name = f"{config.data.name}-{config.query.strategy}-seed{config.seed}"
        if checkpoint is None:
            self._writer = RunWriter.create(output_root(config.output_dir), name)
        else:
            self._writer = RunWriter(resumed_folder(config))
        self._lock = hold(self._writer.folder)
        self._progress = Progress(config)
        self._open: Mapping[int, int] = {}  # questions of each client, as last told
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
        if checkpoint is not None:
            self._go_back_to(checkpoint)
        self._progress.started(self.folder)
        # What goes on is the same run: nothing in it says where it paused.
        same = config.model_copy(
            update={"campaign": config.campaign.model_copy(update={"resume": ""})}
        )
        self._flat_config = same.to_flat()
        self._writer.write_config(same.model_dump(by_alias=True))
        if checkpoint is None:
            self.event(EventKind.RUN_STARTED, run=self.name, version=__version__)
        else:
            cycle, number = checkpoint.state.moment
            log.info("going on after cycle %d, round %d", cycle, number)
            self.event(
                EventKind.RESUMED, cycle=cycle, round=number, version=__version__
            )

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
            del known["ledger"], known["asked_seconds"]
            if reply.global_query < 0:
                known["global_query"] = None
            rows.append(QueryRow(cycle, client, strategy, **known))
        self._writer.append_queries(rows)
        self._progress.queries_finished(rows)

    def record_standing(self, standing: Standing) -> None:
        """Say how far people are, where that changed."""
        if standing.open == self._open:
            return
        self._open = standing.open
        self.event(
            EventKind.ANSWERING,
            cycle=standing.cycle,
            clients=list(standing.open),
            open=list(standing.open.values()),
            labeled=list(standing.labeled.values()),
            seconds_left=standing.seconds_left,
        )
        self._progress.answering(standing)

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

    def save(self, state: CampaignState, memory: Callable[[], dict[str, Any]]) -> None:
        """Replace the checkpoint where that is due.

        Where noise protects the clients it is after every round: a round that is done
        once more releases something once more.

        Parameters
        ----------
        state : CampaignState
            Where the campaign stands.
        memory : callable
            `Federation.state_dict`.
        """
        campaign = self._config.campaign
        waits = monotonic() - self._saved_at < campaign.checkpoint_seconds
        is_private = self._config.privacy.mechanism != "none"
        if waits and not is_private and 0 < state.round < campaign.num_rounds:
            return
        sizes = self._writer.sizes()
        checkpoint = Checkpoint(self._flat_config, state, memory(), sizes)
        write_checkpoint(self.folder, checkpoint)
        self.saved, self._saved_at = state.moment, monotonic()

    def finish(self, privacy: Facts | None) -> None:
        """Write the learning curve and the final summary; print the path."""
        with replacing(self.folder / "learning-curve.png") as path:
            draw_learning_curve({self.summary.strategy: [self.summary]}, path)
        self._summarize(privacy=privacy, finished=True)  # from here on it is finished
        self.event(EventKind.FINISHED, seconds=self.summary.seconds)
        self._progress.finished(self.summary, self.folder)
        release(self._lock)

    def stop(self, privacy: Facts | None, reason: str | None = None) -> None:
        """Leave behind what there is of a run that failed; without a reason, stopped.

        The model stays that of the last whole cycle; the rounds after it are in the
        checkpoint.
        """
        self._summarize(privacy=privacy)
        kind = EventKind.STOPPED if reason is None else EventKind.FAILED
        self.event(kind, reason=reason)
        self._progress.stopped(self.saved, self.folder)
        release(self._lock)

    def _go_back_to(self, checkpoint: Checkpoint) -> None:
        """Cut off what the run wrote after its checkpoint."""
        self._writer.cut(checkpoint.sizes)
        if (before := read_run(self.folder).summary) is None:
            return
        state, last = checkpoint.state, self._config.campaign.num_rounds
        done = state.cycle if state.round == last else state.cycle - 1
        kept = tuple(row for row in before.cycles if row.cycle <= done)
        self.summary = replace(before, finished=False, cycles=kept)
        self._started -= before.seconds

    def _summarize(self, **changes: Any) -> None:
        seconds = perf_counter() - self._started
        self.summary = replace(self.summary, seconds=seconds, **changes)
        self._writer.write_summary(self.summary)
