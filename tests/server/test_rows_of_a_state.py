"""Where a campaign stands, as the rows of its run's files."""

from fairfal_flwr.runs.rows import CycleRow, RoundRow
from fairfal_flwr.server.evaluator import ClientsEvaluation, Evaluation
from fairfal_flwr.server.federation import TrainedRound
from fairfal_flwr.server.rows import cycle_row, round_row
from fairfal_flwr.server.state import CampaignState

STATE = CampaignState(
    cycle=2,
    round=3,
    samples={0: 20, 1: 30},
    labels={0: 4, 1: 6},
    mean_imbalance=0.75,
    global_queries=1,
    query_seconds=1.5,
    train_seconds=2.5,
)
EVALUATION = Evaluation(accuracy=0.5, loss=1.25, recalls=(0.4, 0.6), rare_recall=0.3)
ON_CLIENTS = ClientsEvaluation(accuracy=0.55, recalls=(0.45, 0.65))
TRAINED = TrainedRound(weights={}, clients=7, loss=0.125)


def test_a_row_of_a_round_that_was_tested():
    assert round_row(STATE, TRAINED, EVALUATION, ON_CLIENTS, 4.5) == RoundRow(
        cycle=2,
        round=3,
        labels=10,
        clients=7,
        loss=0.125,
        accuracy=0.5,
        rare_recall=0.3,
        client_accuracy=0.55,
        client_recalls=(0.45, 0.65),
        seconds=4.5,
    )


def test_a_row_of_a_round_that_nobody_tested():
    row = round_row(STATE, TRAINED, None, None, 4.5)
    assert row == RoundRow(2, 3, 10, 7, 0.125, None, None, None, None, 4.5)


def test_a_row_of_a_cycle():
    assert cycle_row(STATE, EVALUATION) == CycleRow(
        cycle=2,
        labels=10,
        label_fraction=0.2,
        accuracy=0.5,
        loss=1.25,
        rare_recall=0.3,
        recalls=(0.4, 0.6),
        mean_imbalance=0.75,
        global_queries=1,
        query_seconds=1.5,
        train_seconds=2.5,
    )
