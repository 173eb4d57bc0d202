"""SCAFFOLD: worked by hand, against FedAvg, with lost replies and few clients."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from grid import run_campaign, small
from torch import nn

from fairfal_flwr.client import scaffold as client_half
from fairfal_flwr.client.scaffold import ControlVariate, DriftControl, Variates
from fairfal_flwr.client.training import LabeledImages, train_round
from fairfal_flwr.config import TrainConfig
from fairfal_flwr.messages import (
    TrainReply,
    TrainRequest,
    answer,
    pack_weights,
    unpack_weights,
)
from fairfal_flwr.server.scaffold import Scaffold

LR, STEPS = 0.1, 2
ONE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


class Scalar(nn.Module):
    smallest_batch = 1

    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value], dtype=torch.float64))


class ScalarClient:
    """Minimizes a/2 (w - b)^2 by some steps of SGD."""

    def __init__(self, a, b, path, momentum=0.0, steps=STEPS, num_labels=1):
        self.a, self.b, self.steps, self.num_labels = a, b, steps, num_labels
        self.kept = Variates(path)
        self.settings = TrainConfig(
            epochs=steps, batch_size=1, momentum=momentum, weight_decay=0.0
        )
        self.c = torch.zeros(1, dtype=torch.float64)

    def train(self, content):
        request = TrainRequest.from_content(content)
        model = Scalar(float(request.weights["w"]))
        plug = None
        if request.variate is not None:
            own = self.kept.read(request.last_accepted)
            plug = DriftControl(
                ControlVariate(model, request.variate, own),
                self.kept,
                request,
                momentum=self.settings.momentum,
            )
        trained = train_round(
            model,
            LabeledImages(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)),
            self.settings,
            lr=request.lr,
            generator=torch.Generator(),
            objective=lambda model, _: (self.a / 2 * (model.w - self.b) ** 2).sum(),
            listeners=[plug] if plug else [],
        )
        change = plug.finish(trained)["variate"] if plug else None
        if plug:
            self.c = self.kept.read(request.moment)["w"]
        return TrainReply(self.num_labels, 0.0, 0.0, model.state_dict(), change)


class Problem:
    """Rounds of a strategy over some scalar clients, with in-memory messages."""

    def __init__(self, strategy, clients, lr=LR):
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self.strategy, self.clients, self.lr = strategy, clients, lr
        self.x = torch.zeros(1, dtype=torch.float64)
        self.rounds = 0

    def round(self, chosen=None, lost=()):
        self.rounds += 1
        nodes = list(range(len(self.clients))) if chosen is None else list(chosen)
        request = TrainRequest(
            "c", {"w": self.x}, cycle=1, round=self.rounds, lr=self.lr
        )
        grid = SimpleNamespace(get_node_ids=lambda: nodes)
        replies = []
        messages = self.strategy.configure_train(self.rounds, *request.records(), grid)
        for message in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            message.metadata.__dict__["_message_id"] = str(uuid4())
            node = message.metadata.dst_node_id
            reply = answer(message, self.clients[node].train(message.content))
            reply.metadata.__dict__["_src_node_id"] = node
            if node not in lost:
                replies.append(reply)
        arrays, _ = self.strategy.aggregate_train(self.rounds, replies)
        self.x = unpack_weights(arrays)["w"]
        return float(self.x)


def two_clients(tmp_path, **options):
    """f_1 = 1/2 (w - 2)^2 and f_2 = 3/2 (w + 2)^2: together smallest at w = -1."""
    return [
        ScalarClient(1.0, 2.0, tmp_path / "0.sqlite", **options),
        ScalarClient(3.0, -2.0, tmp_path / "1.sqlite", **options),
    ]


def scaffold(num_clients=2, **options):
    return Scaffold(num_clients=num_clients, client_of=int, **options, **ONE)


def test_two_rounds_by_hand(tmp_path):
    """Two steps of 0.1 from x = 0 on f_1' = w - 2 and f_2' = 3 (w + 2).

    Round 1, c = c_k = 0. Client 1: gradients -2, -1.8, so y = 0.38 and
    c_1 = (0 - 0.38) / (2 * 0.1) = -1.9, the mean of its gradients. Client 2: gradients
    6, 4.2, so y = -1.02 and c_2 = 5.1. x = (0.38 - 1.02) / 2 = -0.32, c = 1.6.

    Round 2. Client 1 adds c - c_1 = 3.5: -2.32 + 3.5 = 1.18, y = -0.438;
    -2.438 + 3.5 = 1.062, y = -0.5442; c_1 = -1.9 - 1.6 + 0.2242 / 0.2 = -2.379, the
    mean of -2.32 and -2.438. Client 2 adds c - c_2 = -3.5: 5.04 - 3.5 = 1.54,
    y = -0.474; 4.578 - 3.5 = 1.078, y = -0.5818; c_2 = 5.1 - 1.6 + 0.2618 / 0.2
    = 4.809. x = (-0.5442 - 0.5818) / 2 = -0.563, c = (-2.379 + 4.809) / 2 = 1.215.
    """
    strategy, clients = scaffold(), two_clients(tmp_path)
    problem = Problem(strategy, clients)
    assert problem.round() == pytest.approx(-0.32)
    assert [float(c.c) for c in clients] == pytest.approx([-1.9, 5.1])
    assert strategy.variate["w"] == pytest.approx(1.6)
    assert problem.round() == pytest.approx(-0.563)
    assert [float(c.c) for c in clients] == pytest.approx([-2.379, 4.809])
    assert strategy.variate["w"] == pytest.approx(1.215)


def test_the_first_round_is_fedavgs_bit_by_bit(tmp_path):
    ours = Problem(scaffold(), two_clients(tmp_path))
    theirs = Problem(FedAvg(**ONE), two_clients(tmp_path))
    ours.round(), theirs.round()
    assert torch.equal(ours.x, theirs.x)


def test_it_reaches_the_optimum_that_fedavg_misses(tmp_path):
    """FedAvg's fixed point: x = (2 + 0.81 (x - 2) - 2 + 0.49 (x + 2)) / 2 = -0.32/0.35.

    One round contracts to 0.9^2 = 0.81 for client 1 and 0.7^2 = 0.49 for client 2.
    """
    ours = Problem(scaffold(), two_clients(tmp_path))
    theirs = Problem(FedAvg(**ONE), two_clients(tmp_path))
    for _ in range(45):
        ours.round(), theirs.round()
    assert float(theirs.x) == pytest.approx(-0.32 / 0.35)
    assert float(ours.x) == pytest.approx(-1.0, abs=1e-6)


def test_its_optimum_has_equal_weights_however_many_labels_clients_have(tmp_path):
    """With 9 labels to 1 the weighted optimum is w = (9 * 2 - 3 * 2) / (9 + 3) = 1."""
    clients = [
        ScalarClient(1.0, 2.0, tmp_path / "0.sqlite", num_labels=9),
        ScalarClient(3.0, -2.0, tmp_path / "1.sqlite", num_labels=1),
    ]
    problem = Problem(scaffold(), clients)
    assert problem.round() == pytest.approx(0.9 * 0.38 - 0.1 * 1.02)
    for _ in range(300):
        problem.round()
    assert float(problem.x) == pytest.approx(-1.0, abs=1e-3)


@pytest.mark.parametrize("divisor", ["step sum", "steps"])
def test_with_momentum_it_converges_by_the_right_divisor(
    tmp_path, monkeypatch, divisor
):
    """With the number of steps in its place, as without momentum, it diverges."""
    if divisor == "steps":
        monkeypatch.setattr(client_half, "step_sum", lambda steps, _: steps)
    clients = two_clients(tmp_path, momentum=0.9, steps=8)
    problem = Problem(scaffold(), clients, lr=0.01)
    for _ in range(40):
        problem.round()
    error = abs(float(problem.x) + 1)
    assert error < 1e-6 if divisor == "step sum" else error > 10


def test_the_servers_step_scales_the_move(tmp_path):
    problem = Problem(scaffold(server_learning_rate=0.5), two_clients(tmp_path))
    assert problem.round() == pytest.approx(-0.16)


def test_c_is_the_mean_over_all_clients_when_few_take_part(tmp_path):
    centers = [2.0, -2.0, 5.0, 1.0]
    clients = [
        ScalarClient(1.0 + i, b, tmp_path / f"{i}.safetensors")
        for i, b in enumerate(centers)
    ]
    strategy = scaffold(4)
    problem = Problem(strategy, clients)
    for number in range(100):
        problem.round(chosen=[number % 4, (number + 1 + number % 2) % 4])
        mean = sum(float(client.c) for client in clients) / 4
        assert strategy.variate["w"] == pytest.approx(mean, abs=1e-9)
    slopes = [1.0, 2.0, 3.0, 4.0]
    optimum = sum(a * b for a, b in zip(slopes, centers, strict=True)) / sum(slopes)
    assert float(problem.x) == pytest.approx(optimum, abs=1e-2)


def test_a_lost_reply_leaves_server_and_client_in_agreement(tmp_path):
    """Client 1 trained but its reply was lost: it goes on from its last used update."""
    strategy, clients = scaffold(), two_clients(tmp_path)
    problem = Problem(strategy, clients)
    problem.round()
    kept = clients[1].kept.read((1, 1))["w"]
    problem.round(lost=[1])
    assert strategy.accepted == {"0": [1, 2], "1": [1, 1]}
    agreed = (float(clients[0].c) + float(kept)) / 2
    assert strategy.variate["w"] == pytest.approx(agreed)
    problem.round()
    mean = sum(float(client.c) for client in clients) / 2
    assert strategy.variate["w"] == pytest.approx(mean)
    for _ in range(45):
        problem.round()
    assert float(problem.x) == pytest.approx(-1.0, abs=1e-6)


def test_buffers_have_no_variate_and_are_averaged():
    strategy = scaffold(buffers={"m"}, server_learning_rate=0.5)
    old = {"w": torch.zeros(1), "m": torch.zeros(1)}
    request = TrainRequest("c", old, cycle=1, round=1, lr=LR)
    grid = SimpleNamespace(get_node_ids=lambda: [1])
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    (message,) = strategy.configure_train(1, *request.records(), grid)
    assert list(message.content["variate"]) == ["w"]
    message.metadata.__dict__["_message_id"] = "1"
    new = {"w": torch.ones(1), "m": torch.ones(1)}
    content = TrainReply(1, 0.0, 0.0, new, {"w": torch.ones(1)}).to_content()
    arrays, _ = strategy.aggregate_train(1, [Message(content, reply_to=message)])
    assert unpack_weights(arrays) == {
        "w": torch.tensor([0.5]),
        "m": torch.tensor([1.0]),
    }
    assert pack_weights(old).keys() == arrays.keys()


def test_one_round_of_a_campaign_is_fedavgs_bit_by_bit(tmp_path):
    short = {"campaign.num-cycles": 1, "campaign.num-rounds": 1}
    ours, _ = run_campaign(
        small(tmp_path, "a", **short, **{"federation.strategy": "scaffold"})
    )
    theirs, _ = run_campaign(small(tmp_path, "b", **short))
    assert all(
        torch.equal(ours.state.weights[n], w) for n, w in theirs.state.weights.items()
    )


@pytest.mark.parametrize("reset", ["random", "continue"])
def test_variates_start_with_the_model_and_live_on_disk(tmp_path, reset):
    campaign, grid = run_campaign(
        small(
            tmp_path,
            reset,
            **{"federation.strategy": "scaffold", "campaign.reset": reset},
        )
    )
    trains = [m for m in grid.requests if m.metadata.message_type == "train"]
    requests = [TrainRequest.from_content(m.content) for m in trains]
    accepted = [{r.last_accepted for r in requests if r.cycle == c} for c in (1, 2)]
    zero = [not any(v.any() for v in r.variate.values()) for r in requests]
    assert accepted[0] == {None, (1, 1)}
    start = None if reset == "random" else (1, 2)
    assert accepted[1] == {start, (2, 1)}
    assert sum(zero) == (6 if reset == "random" else 3)
    files = (tmp_path / reset / campaign.recorder.name).glob("*.variate-*")
    assert {path.name[:11] for path in files} == {f"client-000{k}" for k in range(3)}


def test_participants_need_nothing_in_memory_between_rounds(tmp_path, monkeypatch):
    """A deployed client is a new process for every message."""
    chosen = {"federation.strategy": "scaffold", "federation.fraction-train": 0.7}
    shared, _ = run_campaign(small(tmp_path, "a", **chosen))
    monkeypatch.setattr(
        "fairfal_flwr.client.node.find_participant",
        __import__("fairfal_flwr.client.participant").client.participant.Participant,
    )
    fresh, _ = run_campaign(small(tmp_path, "b", **chosen))
    assert all(
        torch.equal(shared.state.weights[n], w) for n, w in fresh.state.weights.items()
    )
