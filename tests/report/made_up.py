"""Whole runs that nobody ran: all files, and ledgers where they are asked for."""

from pathlib import Path

import numpy as np

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_shard
from fairfal_flwr.paths import ledger_file
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.rows import CycleRow, QueryRow, RoundRow, Summary
from fairfal_flwr.runs.writer import RunWriter

CLASSES = 10


def make_run(
    root: Path,
    strategy: str = "fairfal",
    seed: int = 0,
    *,
    gain: float = 0.0,
    clients: int = 3,
    cycles: int = 2,
    rounds: int = 2,
    ledgers: bool = True,
    finished: bool = True,
    data: str = "digits",
) -> Path:
    """Write a run on real images; the curve is `gain` above 30 to 80 %."""
    config = RunConfig.from_flat(
        {
            **{"num-clients": clients, "seed": seed, "query.strategy": strategy},
            **{"campaign.num-cycles": cycles, "campaign.num-rounds": rounds},
            **{"campaign.budget": 0.05, "campaign.evaluate-every": rounds},
            **{"data.name": data, "state-dir": str(root / "state")},
        }
    )
    writer = RunWriter.create(root / "runs", f"{data}-{strategy}-seed{seed}")
    writer.write_config(config.model_dump(by_alias=True))
    writer.event(EventKind.RUN_STARTED, run=writer.folder.name, version="0.1.0")
    writer.event(EventKind.CLIENTS_MET, images=100 * clients, gpus=0)
    noise = np.random.default_rng(seed)
    rows: list[CycleRow] = []
    for cycle in range(1, cycles + 1):
        level = gain * (cycle > 1) + 0.3 + 0.5 * cycle / cycles + noise.normal(0, 0.01)
        _query(writer, cycle, strategy if cycle > 1 else "random", clients)
        for number in range(1, rounds + 1):
            _round(writer, cycle, number, clients, level if number == rounds else None)
        rows.append(_cycle(cycle, level, cycles, clients))
        writer.event(EventKind.CYCLE_FINISHED, cycle=cycle, labels=rows[-1].labels)
    writer.write_summary(
        Summary(
            **{"run": writer.folder.name, "finished": finished, "strategy": strategy},
            **{"federation": "fedavg", "privacy": None, "data": data, "seed": seed},
            **{"seconds": 9.0 * rounds * cycles, "cycles": tuple(rows)},
        )
    )
    if finished:
        writer.event(EventKind.FINISHED, seconds=9.0 * rounds * cycles)
    if ledgers:
        for client in range(clients):
            _ledger(config, writer.folder.name, client)
    return writer.folder


def _query(writer: RunWriter, cycle: int, strategy: str, clients: int) -> None:
    chooses = strategy == "fairfal"
    writer.event(EventKind.QUERY_STARTED, cycle=cycle, strategy=strategy)
    _exchange(writer, "query.select", clients, 2.0)
    writer.append_queries(
        [
            QueryRow(
                **{"cycle": cycle, "client": client, "strategy": strategy},
                **{"budget": 5, "num_selected": 5, "num_labeled": 5 * cycle},
                **{"num_unlabeled": 100 - 5 * cycle, "num_open": 0, "num_set_aside": 0},
                global_query=(cycle + client) % 2 if chooses else None,
                local_training_seconds=1.0,
                outputs_seconds=0.5,
                selection_seconds=0.1,
                imbalance=0.7 if chooses and cycle == 2 else None,
            )
            for client in range(clients)
        ]
    )


def _round(
    writer: RunWriter, cycle: int, number: int, clients: int, level: float | None
) -> None:
    writer.event(EventKind.ROUND_STARTED, cycle=cycle, round=number)
    _exchange(writer, "train", clients, 5.0)
    writer.append_round(
        RoundRow(
            **{"cycle": cycle, "round": number, "labels": 5 * cycle * clients},
            **{"clients": clients, "loss": 1.0 / number, "accuracy": level},
            rare_recall=None if level is None else level / 2,
            client_accuracy=None,
            client_recalls=None,
            seconds=6.0,
        )
    )


def _exchange(writer: RunWriter, message: str, clients: int, seconds: float) -> None:
    everybody = list(range(clients))
    writer.event(
        EventKind.EXCHANGED,
        **{"message": message, "asked": everybody, "answered": everybody},
        **{"seconds": seconds, "bytes_sent": 1000, "bytes_received": 2000},
    )


def _cycle(cycle: int, level: float, cycles: int, clients: int) -> CycleRow:
    return CycleRow(
        **{"cycle": cycle, "labels": 5 * cycle * clients, "loss": 1.0},
        **{"label_fraction": 0.05 * cycle, "accuracy": level},
        rare_recall=level / 2,
        recalls=tuple(level * (1 - label / 20) for label in range(CLASSES)),
        mean_imbalance=0.7 if cycle > 1 else None,
        global_queries=None,
        query_seconds=2.0,
        train_seconds=12.0,
    )


def _ledger(config: RunConfig, campaign: str, client: int) -> None:
    """Ask for the samples of a shard from its first to its last."""
    shard, _ = load_shard(config.image_spec(), config.partition_spec(), client)
    ledger = Ledger(ledger_file(config.state_dir, campaign, client), shard.identity)
    budget = config.campaign.labels_per_cycle(len(shard))
    notes = {"divergence": 0.25, "score": 0.5 + client / 1000, "global-query": 1.0}
    for cycle in range(1, config.campaign.num_cycles + 1):
        chosen = shard.sample_ids[budget * (cycle - 1) : budget * cycle]
        adaptive = cycle > 1 and config.query.strategy == "fairfal"
        ledger.record_selection(
            cycle, config.query.strategy, chosen, notes=notes if adaptive else {}
        )
