"""From where a campaign stands to the rows of its run's files."""

from fairfal_flwr.runs.rows import CycleRow, RoundRow
from fairfal_flwr.server.evaluator import ClientsEvaluation, Evaluation
from fairfal_flwr.server.federation import TrainedRound
from fairfal_flwr.server.state import CampaignState

__all__ = ["cycle_row", "round_row"]


def round_row(
    state: CampaignState,
    trained: TrainedRound,
    evaluation: Evaluation | None,
    on_clients: ClientsEvaluation | None,
    seconds: float,
) -> RoundRow:
    """Return the row of a round that was just trained and, where due, tested."""
    return RoundRow(
        cycle=state.cycle,
        round=state.round,
        labels=state.num_labels,
        clients=trained.clients,
        loss=trained.loss,
        accuracy=evaluation.accuracy if evaluation else None,
        rare_recall=evaluation.rare_recall if evaluation else None,
        client_accuracy=on_clients.accuracy if on_clients else None,
        client_recalls=on_clients.recalls if on_clients else None,
        seconds=seconds,
    )


def cycle_row(state: CampaignState, evaluation: Evaluation) -> CycleRow:
    """Return the row of a cycle whose last round was just tested."""
    return CycleRow(
        cycle=state.cycle,
        labels=state.num_labels,
        label_fraction=state.num_labels / state.num_samples,
        accuracy=evaluation.accuracy,
        loss=evaluation.loss,
        rare_recall=evaluation.rare_recall,
        recalls=evaluation.recalls,
        mean_imbalance=state.mean_imbalance,
        global_queries=state.global_queries,
        query_seconds=state.query_seconds,
        train_seconds=state.train_seconds,
    )
