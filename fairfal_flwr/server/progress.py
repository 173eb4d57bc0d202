"""What a run prints on its way."""

import json
import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from time import perf_counter

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fairfal_flwr import __version__
from fairfal_flwr.config import RunConfig
from fairfal_flwr.console import duration
from fairfal_flwr.paths import CODE
from fairfal_flwr.runs.rows import CycleRow, QueryRow, RoundRow, Summary
from fairfal_flwr.server.counts import Standing

__all__ = ["Progress", "cycle_table"]

log = logging.getLogger("fairfal.server")

ANSWERING_EVERY = 15.0  # seconds between two lines about open questions


class Progress:
    """Prints the lines of a run.

    Parameters
    ----------
    config : RunConfig
        The configuration as run.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._said_at = -math.inf
        self._rounds: deque[tuple[float, int]] = deque(maxlen=20)  # when, and labels

    def started(self, folder: Path) -> None:
        """Say where the results go and where the code is from."""
        log.info("results: %s", folder)
        log.info("fairfal-flwr %s, code in %s", __version__, CODE)

    def clients_met(
        self, num_samples: int, num_gpus: int, rare_classes: Sequence[int]
    ) -> None:
        """Say what is about to happen."""
        config, campaign = self.config, self.config.campaign
        log.info(
            "%s on %s: %d clients (%d on a GPU), %d images; %d cycles of %d rounds, "
            "%.1f%% of the images labeled per cycle; rarest third of the classes: %s",
            config.query.strategy,
            config.data.name,
            config.num_clients,
            num_gpus,
            num_samples,
            campaign.num_cycles,
            campaign.num_rounds,
            100 * campaign.budget,
            ", ".join(map(str, rare_classes)) or "not known to the server",
        )

    def queries_finished(self, rows: Iterable[QueryRow]) -> None:
        """Name who ran out of images."""
        for row in rows:
            if row.num_selected < row.budget:
                log.warning(
                    "client %d had only %d images left to label (budget %d)",
                    row.client,
                    row.num_selected,
                    row.budget,
                )

    def answering(self, standing: Standing) -> None:
        """Say how many questions are open, at most once in `ANSWERING_EVERY` seconds.

        That none is open any more is said at once.
        """
        now = perf_counter()
        if standing.num_open and now < self._said_at + ANSWERING_EVERY:
            return
        self._said_at = now
        each = ", ".join(f"client {c}: {n}" for c, n in standing.open.items() if n)
        left = standing.seconds_left
        log.info(
            "cycle %d: %d labels, %s%s",
            standing.cycle,
            sum(standing.labeled.values()),
            f"waiting for {standing.num_open} more ({each})"
            if each
            else "all answered",
            f", for at most {duration(left)}" if each and left else "",
        )

    def round_finished(self, row: RoundRow) -> None:
        """Print the round's line."""
        campaign = self.config.campaign
        accuracy = ""
        if row.accuracy is not None and not math.isnan(row.accuracy):
            accuracy = f"  accuracy {row.accuracy:6.1%}"
        log.info(
            "cycle %d/%d  round %*d/%d  labels %d  loss %.3f%s  left %s",
            row.cycle,
            campaign.num_cycles,
            len(str(campaign.num_rounds)),
            row.round,
            campaign.num_rounds,
            row.labels,
            row.loss,
            accuracy.ljust(18),
            self._time_left(row),
        )

    def cycle_finished(self, row: CycleRow) -> None:
        """Print the cycle's row."""
        log.info("%s", cycle_table([row], self.config.num_clients))

    def finished(self, summary: Summary, folder: Path) -> None:
        """Print the table, how long it took and where the results are."""
        log.info("%s", cycle_table(summary.cycles, self.config.num_clients))
        done, asked = len(summary.cycles), self.config.campaign.num_cycles
        if done < asked:
            log.warning("all images are labeled after cycle %d of %d", done, asked)
        log.info("finished in %s", duration(summary.seconds))
        log.info("results: %s", folder)

    def stopped(self, saved: tuple[int, int] | None, folder: Path) -> None:
        """Say where the results are, and how to go on from the last checkpoint."""
        log.info("results so far: %s", folder)
        if saved is not None:
            log.info(
                "saved up to cycle %d, round %d; campaign.resume=%s goes on",
                *saved,
                json.dumps(str(folder)),
            )

    def _time_left(self, row: RoundRow) -> str:
        """Scale the time of the last rounds by the work left.

        The work of a round is its labels, which grow by the same number each cycle.
        """
        campaign = self.config.campaign
        rounds_left = campaign.num_rounds - row.round
        cycles_left = range(row.cycle + 1, campaign.num_cycles + 1)
        per_cycle = row.labels / row.cycle
        work_left = rounds_left * row.labels + campaign.num_rounds * per_cycle * sum(
            cycles_left
        )
        self._rounds.append((perf_counter(), row.labels))
        (start, first), (now, _) = self._rounds[0], self._rounds[-1]
        work_done = sum(labels for _, labels in self._rounds) - first
        if not work_done:
            return "?"
        return duration((now - start) * work_left / work_done)


def cycle_table(rows: Sequence[CycleRow], num_clients: int) -> str:
    """Return a table with one line per cycle.

    How many clients queried by the global model is a column where one of the rows
    knows.
    """
    chooses = any(row.global_queries is not None for row in rows)
    heads = ["cycle", "labels", "share", "accuracy", "rarest third"]
    table = Table(*heads, *["queried by global model"] * chooses, box=SIMPLE)
    for row in rows:
        of_all = f"{row.global_queries} of {num_clients} clients"
        choice = "-" if row.global_queries is None else of_all
        table.add_row(
            str(row.cycle),
            str(row.labels),
            f"{row.label_fraction:.1%}",
            _percent(row.accuracy),
            _percent(row.rare_recall),
            *[choice] * chooses,
        )
    text = StringIO()
    Console(file=text, width=80, color_system=None).print(table)
    return text.getvalue().rstrip()


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"
