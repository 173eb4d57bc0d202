"""What a run leaves behind, and what it prints on the way."""

import csv
import json
import logging
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any

import tomli_w
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from fairfal_flwr import __version__
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing
from fairfal_flwr.messages import SelectReply, Weights
from fairfal_flwr.paths import output_root
from fairfal_flwr.report.learning_curve import draw_learning_curve
from fairfal_flwr.server.state import CampaignState

__all__ = ["CycleRow", "Recorder", "RoundRow"]

log = logging.getLogger("fairfal.server")
CODE = Path(__file__).parents[1]


@dataclass(frozen=True)
class RoundRow:
    """One line of rounds.csv; accuracies are fractions, blank where not measured.

    Nobody tests a class without test images: its recall is nan here; blank, null or a
    dash in the files.
    """

    cycle: int
    round: int
    labels: int
    clients: int
    loss: float
    accuracy: float | None
    rare_recall: float | None
    client_accuracy: float | None
    client_recalls: tuple[float, ...] | None
    seconds: float


@dataclass(frozen=True)
class CycleRow:
    """One entry of summary.json's `cycles` and one row of the printed table."""

    cycle: int
    labels: int
    label_fraction: float
    accuracy: float
    loss: float
    rare_recall: float
    recalls: tuple[float, ...]
    mean_imbalance: float | None
    global_queries: int | None
    query_seconds: float
    train_seconds: float


class Recorder:
    """Writes the files of one run into one folder and prints its progress.

    Parameters
    ----------
    config : RunConfig
        The configuration as run.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder = _make_folder(config)
        self.cycles: list[CycleRow] = []
        self.privacy: dict[str, Any] | None = None
        self._started = perf_counter()
        self._progress: deque[tuple[float, int]] = deque(maxlen=20)
        log.info("results: %s", self.folder)
        log.info("fairfal-flwr %s, code in %s", __version__, CODE)
        with replacing(self.folder / "config.toml") as path:
            path.write_text(tomli_w.dumps(config.model_dump(by_alias=True)))

    @property
    def name(self) -> str:
        """The run's name, which is also its campaign's."""
        return self.folder.name

    def announce(
        self, num_samples: int, num_gpus: int, rare_classes: Sequence[int]
    ) -> None:
        """Say what is about to happen and where it will be found."""
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

    def record_queries(
        self,
        cycle: int,
        strategy: str,
        replies: Mapping[int, SelectReply],
        imbalances: Mapping[int, float],
    ) -> None:
        """Append one row per client to queries.csv and name who ran out of images."""
        for client, reply in replies.items():
            imbalance = imbalances.get(client)
            row = {"cycle": cycle, "client": client, "strategy": strategy}
            self._append("queries.csv", row | asdict(reply) | {"imbalance": imbalance})
            if reply.num_selected < reply.budget:
                log.warning(
                    "client %d had only %d images left to label (budget %d)",
                    client,
                    reply.num_selected,
                    reply.budget,
                )

    def record_round(self, row: RoundRow) -> None:
        """Append to rounds.csv and print the round's line."""
        self._append("rounds.csv", asdict(row) | {"client_recalls": _joined(row)})
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

    def event(self, kind: str, **facts: Any) -> None:
        """Note that something happened."""

    def record_cycle(
        self, row: CycleRow, weights: Weights, privacy: dict[str, Any] | None
    ) -> None:
        """Save the model and the summary so far, and print the cycle's row."""
        self.cycles.append(row)
        self.privacy = privacy
        self._save_model(weights, cycle=row.cycle)
        self._write_summary(finished=False)
        log.info("%s", self._table([row]))

    def finish(self) -> None:
        """Write the final summary and the learning curve; print the path."""
        self._write_summary(finished=True)
        with replacing(self.folder / "learning-curve.png") as path:
            draw_learning_curve([self.folder], path)
        log.info("%s", self._table(self.cycles))
        log.info("finished in %s", _duration(perf_counter() - self._started))
        log.info("results: %s", self.folder)

    def stop(
        self, state: CampaignState, privacy: dict[str, Any] | None, error: Exception
    ) -> None:
        """Leave behind what there is of a run that cannot go on.

        Weights that are no aggregate are not saved: the model of the last whole cycle
        stays.
        """
        self.privacy = privacy
        if state.last_aggregate is not None:
            cycle, round_number = state.last_aggregate
            self._save_model(state.weights, cycle=cycle, round=round_number)
            log.info("model of cycle %d, round %d saved", cycle, round_number)
        self._write_summary(finished=False)
        log.info("results so far: %s", self.folder)

    def _save_model(self, weights: Weights, **metadata: int) -> None:
        with replacing(self.folder / "model.safetensors") as path:
            text = {key: str(value) for key, value in metadata.items()}
            save_file(weights, path, metadata=text)

    def _write_summary(self, *, finished: bool) -> None:
        summary: dict[str, Any] = {
            "run": self.name,
            "finished": finished,
            "strategy": self.config.query.strategy,
            "federation": self.config.federation.strategy,
            "privacy": self.privacy,
            "data": self.config.data.name,
            "seed": self.config.seed,
            "seconds": perf_counter() - self._started,
            "cycles": [_known(asdict(row)) for row in self.cycles],
        }
        with replacing(self.folder / "summary.json") as path:
            text = json.dumps(summary, indent=1, allow_nan=False)
            path.write_text(text + "\n")

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        path = self.folder / name
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [key.replace("_", "-") for key in row])
            if is_new:
                writer.writeheader()
            writer.writerow({k.replace("_", "-"): v for k, v in _known(row).items()})

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
        self._progress.append((perf_counter(), row.labels))
        (start, first), (now, _) = self._progress[0], self._progress[-1]
        work_done = sum(labels for _, labels in self._progress) - first
        if not work_done:
            return "?"
        return _duration((now - start) * work_left / work_done)

    def _table(self, rows: Sequence[CycleRow]) -> str:
        table = Table(
            "cycle",
            "labels",
            "share",
            "accuracy",
            "rarest third",
            "queried by global model",
            box=SIMPLE,
        )
        for row in rows:
            of_all = f"{row.global_queries} of {self.config.num_clients} clients"
            table.add_row(
                str(row.cycle),
                str(row.labels),
                f"{row.label_fraction:.1%}",
                _percent(row.accuracy),
                _percent(row.rare_recall),
                "-" if row.global_queries is None else of_all,
            )
        text = StringIO()
        Console(file=text, width=80, color_system=None).print(table)
        return text.getvalue().rstrip()


def _make_folder(config: RunConfig) -> Path:
    """Create a new folder named after time, image set, strategy and seed."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    what = f"{config.data.name}-{config.query.strategy}"  # may hold : and /
    name = f"{stamp}-{re.sub(r'[^A-Za-z0-9._-]', '-', what)}-seed{config.seed}"
    root = output_root(config.output_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *(f"-{number}" for number in range(2, 1000))]:
            folder = root / f"{name}{suffix}"
            if not folder.exists():
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(
            f"Cannot write results to {root}: {error.strerror or error}; set "
            "`output-dir` to a folder that can be written."
        ) from None
    raise UserError(f"{root} holds too many runs named {name}.")


def _known(value: Any) -> Any:
    """Return a row as files hold it: None, which is blank or null, in place of nan."""
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _joined(row: RoundRow) -> str | None:
    """Return a round's recalls with blanks between, class by class; - if untested."""
    if row.client_recalls is None:
        return None
    return " ".join("-" if math.isnan(r) else f"{r:.4f}" for r in row.client_recalls)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
