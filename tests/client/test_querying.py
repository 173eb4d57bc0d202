"""One client's query: its models, what is remembered, what is shown."""

import logging
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from fairfal_flwr.client import querying
from fairfal_flwr.client.last_round import LastRound, LastRounds
from fairfal_flwr.client.local_models import LocalModels
from fairfal_flwr.client.objectives import OBJECTIVES, alignment
from fairfal_flwr.client.participant import Participant
from fairfal_flwr.client.pool import Holdings
from fairfal_flwr.client.querying import PoolQuery, QueryTimes
from fairfal_flwr.client.training import supervised_loss
from fairfal_flwr.config import DistillConfig, LocalConfig, RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import (
    EvaluateReply,
    EvaluateRequest,
    ImbalanceRequest,
    SelectRequest,
    StatusReply,
    StatusRequest,
    TrainRequest,
)
from fairfal_flwr.models import Architecture
from fairfal_flwr.query import Selection, select
from fairfal_flwr.query.context import Model

MODELS = Model.__args__
SMALL = {
    "num-clients": 3,
    "campaign.num-rounds": 2,
    "train.epochs": 3,
    "query.strategy": "chase",
}
# The tests ask for models that the strategy of the run does not.
BRIEF = {
    "local": LocalConfig(max_epochs=2),
    "distill": DistillConfig(max_epochs=2),
}


@pytest.fixture
def state(tmp_path):
    return {"state-dir": str(tmp_path)}


def participant(state, **overrides):
    config = RunConfig.from_flat(SMALL | state | overrides)
    return Participant(config.model_copy(update=BRIEF), 0, "test")


def annotated(state, **overrides):
    """Return a client that has been through the random cycle, and the weights."""
    client = participant(state, **overrides)
    client.select(SelectRequest(campaign="test", cycle=1, strategy="random"))
    return client, client.networks.fresh(seed=1).state_dict()


def train_request(weights, cycle=1, number=2):
    return TrainRequest(
        campaign="test", weights=weights, cycle=cycle, round=number, lr=0.01
    )


def query(client, weights, strategy="entropy", cycle=2):
    request = SelectRequest(
        campaign="test",
        cycle=cycle,
        strategy=strategy,
        global_imbalance=0.5,
        weights=weights,
    )
    last = last_round(client)
    return PoolQuery(client.config, 0, client.networks, client.pool, request, last)


def last_round(client):
    return LastRounds(client.ledger.path).before_cycle(1000)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_model_is_made_once_and_runs_once_over_each_split(state, monkeypatch):
    client, weights = annotated(state)
    made, runs = [], []

    def count(method):
        original = getattr(LocalModels, method)

        def counted(self, *arguments):
            made.append(method)
            return original(self, *arguments)

        monkeypatch.setattr(LocalModels, method, counted)

    for method in ("local", "finetuned", "distilled", "local_last"):
        count(method)
    original = client.networks.outputs

    def outputs(model, images):
        runs.append(len(images))
        return original(model, images)

    monkeypatch.setattr(client.networks, "outputs", outputs)
    own = query(client, weights)

    def greedy(name, context, budget, **options):
        for model in [*MODELS, *MODELS]:
            for split in ("pool", "labeled"):
                context.outputs(model, split)
            network = context.network(model)
            assert not any(p.grad is not None for p in network.parameters())
        inputs = context.inputs("pool")
        assert inputs.shape == (context.pool_size, *client.shard.images.shape[1:])
        assert inputs.dtype == torch.float32
        assert context.inputs("pool") is inputs
        return select("random", context, budget)

    monkeypatch.setattr(querying, "select", greedy)
    own.run(5)
    assert sorted(made) == ["distilled", "finetuned", "local", "local_last"]
    assert len(runs) == 2 * len(MODELS)


def test_the_models_differ_as_they_should(state):
    client, weights = annotated(state, **{"query.strategy": "ksas"})
    reply = client.train(train_request(weights))
    own = query(client, weights)
    models = {name: own._model(name) for name in MODELS}
    flat = {name: parameters(model) for name, model in models.items()}
    assert all(
        not torch.equal(flat[a], flat[b])
        for i, a in enumerate(MODELS)
        for b in MODELS[:i]
    )
    assert torch.equal(
        flat["local-last"], parameters(client.networks.with_weights(reply.weights))
    )
    for name, model in models.items():
        again = query(client, weights)._model(name)
        assert torch.equal(flat[name], parameters(again)), name
        assert all(
            torch.equal(value, model.state_dict()[key])
            for key, value in again.state_dict().items()
        )


def test_without_a_last_round_the_global_model_stands_in(state, caplog):
    client, weights = annotated(state, **{"query.strategy": "ksas"})
    with caplog.at_level(logging.WARNING):
        model = query(client, weights)._model("local-last")
    assert torch.equal(
        parameters(model), parameters(client.networks.with_weights(weights))
    )
    assert "it has not trained yet" in caplog.text


def test_a_client_that_was_not_chosen_uses_the_last_round_it_has(state, caplog):
    client, weights = annotated(state, **{"query.strategy": "ksas"})
    reply = client.train(train_request(weights))
    with caplog.at_level(logging.WARNING):
        model = query(client, weights, cycle=3)._model("local-last")
    assert torch.equal(
        parameters(model), parameters(client.networks.with_weights(reply.weights))
    )
    assert "it last trained in cycle 1" in caplog.text


def test_the_changes_of_predictions_reach_the_strategy(state):
    client, weights = annotated(state)
    client.train(train_request(weights, number=1))
    assert last_round(client) is None
    client.train(train_request(weights))
    last = last_round(client)
    pool = client.pool.sample_ids(client.pool.as_of(1).pool)
    assert last.sample_ids.tolist() == pool.tolist()
    changes = last.watched["changes"]
    assert 0 < changes.max() <= client.config.train.epochs - 1
    context = query(client, weights, "chase")._context()
    assert context.memory["changes"].tolist() == changes.tolist()
    assert query(client, weights)._context().memory == {}


def test_following_predictions_does_not_change_training(state, tmp_path):
    client, weights = annotated(state)
    other, _ = annotated(
        {"state-dir": str(tmp_path / "b")}, **{"query.strategy": "random"}
    )
    first = client.train(train_request(weights)).weights
    second = other.train(train_request(weights)).weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def asleep(client, cycle):
    return client.ledger.memory("dormant", cycle)[0].tolist()


def test_what_a_strategy_remembers_survives_until_it_is_replaced(state, monkeypatch):
    """A strategy puts the first three to sleep, then wakes all that it is shown."""
    client, weights = annotated(state)
    seen = []

    def sleepy(name, context, budget, **options):
        before = context.memory["dormant"]
        seen.append(before)
        dormant = torch.zeros_like(before)
        dormant[:3] = not before.any()
        return Selection(torch.arange(5, 8), memory={"dormant": dormant})

    monkeypatch.setattr(querying, "select", sleepy)
    first_three = client.pool.sample_ids(client.pool.as_of(1).pool)[:3].tolist()
    for cycle in (2, 3):
        request = SelectRequest(
            campaign="test", cycle=cycle, strategy="chase", weights=weights
        )
        client.select(request)
        back = participant(state)
        assert asleep(back, cycle) == (first_three if cycle == 2 else [])
    assert asleep(back, 2) == first_three  # as of the cycle before
    assert not seen[0].any()
    assert seen[1].nonzero().flatten().tolist() == [0, 1, 2]


def test_what_a_query_was_not_shown_sleeps_on(state, monkeypatch):
    client, weights = annotated(state, **{"query.max-pool": 20})
    ids = client.pool.sample_ids(client.pool.as_of(1).pool)
    client.ledger.record_selection(
        2, "chase", ids[:1], memory={"dormant": (ids[1:40], np.ones(39, np.int64))}
    )

    def wake(name, context, budget, **options):
        awake = torch.zeros_like(context.memory["dormant"])
        return Selection(torch.arange(budget), memory={"dormant": awake})

    monkeypatch.setattr(querying, "select", wake)
    shown = client.pool.sample_ids(client.pool.shown(3).pool)
    client.select(
        SelectRequest(campaign="test", cycle=3, strategy="chase", weights=weights)
    )
    assert asleep(client, 3) == sorted(set(ids[1:40]) - set(shown))


def test_a_strategy_without_that_memory_leaves_the_sleepers_alone(state):
    client, _ = annotated(state)
    client.ledger.record_selection(
        7,
        "chase",
        np.array([], np.int64),
        memory={"dormant": (np.array([3]), np.array([1]))},
    )
    client.select(SelectRequest(campaign="test", cycle=8, strategy="random"))
    assert asleep(client, 8) == [3]


def test_a_sampled_pool_is_a_seeded_part_of_it(state):
    client, _ = annotated(state, **{"query.max-pool": 50})
    whole = client.pool.as_of(1).pool.tolist()
    shown = client.pool.shown(2).pool
    assert len(shown) == 50
    assert shown.tolist() == sorted(set(shown.tolist()) & set(whole))
    assert torch.equal(shown, client.pool.shown(2).pool)
    assert not torch.equal(shown, client.pool.shown(3).pool)


def test_a_sampled_pool_is_never_below_the_budget(state):
    client, _ = annotated(state, **{"query.max-pool": 1})
    assert len(client.pool.shown(2).pool) == client.pool.budget


def test_what_is_asked_and_answered_is_seen_as_of_a_cycle(state, monkeypatch):
    """An answer that comes after the training began counts from the next cycle on."""
    client, weights = annotated(state)
    before = client.pool.as_of(1)
    trained = client.train(train_request(weights, number=1))
    ids = client.pool.sample_ids(before.pool)[:2]
    client.ledger.record_selection(2, "random", ids)
    client.ledger.record_answers(ids, np.array([0, 1]), "late")
    again = participant(state)
    repeated = again.train(train_request(weights, number=1))
    assert repeated.num_examples == trained.num_examples == len(before.labels)
    assert all(torch.equal(w, repeated.weights[n]) for n, w in trained.weights.items())
    assert torch.equal(again.pool.as_of(1).pool, before.pool)
    after = again.pool.as_of(2)
    assert len(after.labels) == len(before.labels) + 2
    assert len(after.pool) == len(before.pool) - 2


def test_a_query_sees_the_labels_that_the_cycle_before_was_trained_with(state):
    client, weights = annotated(state)
    client.train(train_request(weights, number=1))
    client.ledger.record_answers(
        client.ledger.selection(1)[:1], np.array([9]), "a second thought"
    )
    late = query(client, weights).holdings.labels
    assert torch.equal(late, client.pool.as_of(1).labels)
    assert not torch.equal(late, client.pool.as_of(2).labels)


def test_sleepers_are_sampled_only_where_the_others_are_too_few():
    holdings = Holdings(torch.arange(10), torch.tensor([]), torch.tensor([]))
    asleep = torch.tensor([True] * 6 + [False] * 4)
    generator = torch.Generator().manual_seed(0)
    few = holdings.sampled(3, generator, last=asleep).pool
    assert min(few.tolist()) >= 6
    more = holdings.sampled(7, generator, last=asleep).pool
    assert set(more.tolist()) >= {6, 7, 8, 9}
    assert holdings.sampled(10, generator) is holdings


def test_a_query_of_a_sampled_pool_asks_for_what_was_shown(state):
    client, weights = annotated(state, **{"query.max-pool": 20})
    shown = client.pool.sample_ids(client.pool.shown(2).pool).tolist()
    client.select(
        SelectRequest(campaign="test", cycle=2, strategy="chase", weights=weights)
    )
    assert set(client.ledger.selection(2).tolist()) <= set(shown)


def test_predictions_are_followed_of_what_the_next_query_is_shown(state):
    client, weights = annotated(state, **{"query.max-pool": 20})
    client.train(train_request(weights))
    shown = client.pool.sample_ids(client.pool.shown(2).pool)
    assert last_round(client).sample_ids.tolist() == shown.tolist()


def test_what_a_strategy_cannot_do_is_one_clear_line(state):
    client, weights = annotated(state, **{"query.strategy": "bald"})
    with pytest.raises(UserError, match=r"`query.strategy` is 'bald'; .*dropout"):
        query(client, weights, "bald").run(3)


@pytest.mark.parametrize("objective", ["kcfu", "alignment"])
def test_an_objective_changes_training_and_repeats_itself(state, tmp_path, objective):
    chosen = {"train.objective": objective, "query.strategy": "random"}
    plain, weights = annotated(state, **{"query.strategy": "random"})
    trained = []
    for folder in ("a", "b"):
        place = {"state-dir": str(tmp_path / folder)}
        client, _ = annotated(place, **chosen)
        for number in (1, 2):
            reply = client.train(train_request(weights, number=number))
        trained.append(reply.weights)
    expected = plain.train(train_request(weights)).weights
    assert all(torch.equal(w, trained[1][name]) for name, w in trained[0].items())
    assert not all(torch.equal(w, expected[name]) for name, w in trained[0].items())
    assert all(torch.isfinite(w).all() for w in trained[0].values())


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_same_request_again_gives_the_same_reply(state, objective):
    chosen = {"train.objective": objective, "query.strategy": "random"}
    client, weights = annotated(state, **chosen)
    client.train(train_request(weights, number=1))
    first = client.train(train_request(weights, number=2))
    again = client.train(train_request(weights, number=2))
    assert again.loss == first.loss
    assert all(torch.equal(w, again.weights[n]) for n, w in first.weights.items())


@pytest.mark.parametrize("objective", ["kcfu", "alignment"])
def test_an_objective_does_without_a_pool(state, objective):
    client, weights = annotated(
        state, **{"train.objective": objective, "campaign.budget": 1.0}
    )
    client.train(train_request(weights, number=1))
    reply = client.train(train_request(weights))
    assert all(torch.isfinite(w).all() for w in reply.weights.values())


def test_alignment_goes_by_the_keys_of_the_run(state, monkeypatch):
    asked = {}

    def note(*_arguments, **options):
        asked.update(options)
        return supervised_loss

    options = {"weight": 0.3, "temperature": 0.7, "quirks": "corrected"}
    keys = {f"alignment.{key}": value for key, value in options.items()}
    client, weights = annotated(state, **{"train.objective": "alignment"}, **keys)
    monkeypatch.setattr(alignment, "alignment_loss", note)
    client.train(train_request(weights, number=1))
    client.train(train_request(weights, number=2))
    assert asked == options


def test_a_last_round_of_another_cycle_gives_no_alignment(state):
    chosen = {"train.objective": "alignment", "query.strategy": "random"}
    client, weights = annotated(state, **chosen)
    aligned = client.train(train_request(weights, cycle=1, number=2)).weights
    stale = LastRound(9, 1, weights)
    LastRounds(client.ledger.path).write(stale, (0, 0))
    again = client.train(train_request(weights, cycle=1, number=2)).weights
    assert all(torch.equal(w, again[name]) for name, w in aligned.items())


def test_a_strategy_is_shown_what_the_request_and_the_ledger_say(state, monkeypatch):
    client, weights = annotated(state)
    shown = query(client, weights)

    def look(_name, context, budget):
        labeled = client.networks.outputs(shown._model("global"), holdings.labeled)
        assert torch.equal(context.outputs("global", "labeled").probs, labeled.probs)
        assert len(context.outputs("global", "pool").probs) == len(holdings.pool)
        assert len(context.inputs("labeled")) == len(holdings.labeled)
        assert torch.equal(context.labels, holdings.labels)
        assert context.global_imbalance == 0.5
        assert context.num_classes == 10
        return Selection(torch.arange(budget))

    holdings = shown.holdings
    assert len(holdings.pool) != len(holdings.labeled)
    monkeypatch.setattr(querying, "select", look)
    assert shown.run(2).positions.tolist() == [0, 1]


def test_without_a_label_chance_chooses(state):
    client = participant(state)
    weights = client.networks.fresh(seed=1).state_dict()
    assert query(client, weights, "chase", cycle=1).strategy == "random"
    client, weights = annotated(state)
    assert query(client, weights, "chase").strategy == "chase"


def test_times_of_a_query_add_up(state, monkeypatch):
    """The clock counts how often it is asked: once at both ends of each part."""
    client, weights = annotated(state)
    clock = iter(range(1000, 1100))
    monkeypatch.setattr(querying, "perf_counter", lambda: float(next(clock)))

    def look(_name, context, budget):
        context.outputs("local", "pool")
        context.outputs("local", "labeled")
        return Selection(torch.arange(budget))

    monkeypatch.setattr(querying, "select", look)
    timed = query(client, weights)
    timed.run(2)
    assert timed.times == QueryTimes(local_training=1, outputs=2, selection=7 - 3)


def test_a_defect_of_ours_is_not_taken_for_a_mistake_of_the_user(state, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("broken")

    client, weights = annotated(state)
    monkeypatch.setattr(querying, "select", fail)
    with pytest.raises(RuntimeError):
        query(client, weights).run(2)
    with pytest.raises(UserError, match="RuntimeError: broken"):
        query(client, weights, "examples.my_strategy:rarest_first").run(2)


def test_a_query_closes_the_cycle_before_also_without_training(state):
    client, _ = annotated(state)
    before = client.pool.as_of(1).labels
    client.select(SelectRequest(campaign="test", cycle=2, strategy="random"))
    assert torch.equal(client.pool.as_of(1).labels, before)
    assert len(client.pool.as_of(2).labels) == 2 * len(before)


def test_measuring_the_imbalance_closes_the_cycle_before(state):
    client, weights = annotated(state)
    before = client.pool.as_of(1).labels
    client.imbalance(ImbalanceRequest(campaign="test", cycle=2, weights=weights))
    late = client.shard.sample_ids[client.pool.as_of(1).pool[:2].numpy()]
    client.ledger.record_selection(2, "random", late)
    client.ledger.record_answers(late, np.zeros(2, dtype=np.int64), "late")
    assert torch.equal(client.pool.as_of(1).labels, before)


def test_a_client_says_who_it_is(state):
    client, _ = annotated(state, device="cpu")
    assert client.status(StatusRequest(campaign="test")) == StatusReply(
        client=0,
        on_gpu=0,
        num_samples=len(client.shard),
        num_labeled=client.pool.budget,
        num_open=0,
        num_set_aside=0,
        ledger=client.ledger.head.numbers,
    )


def test_who_is_only_asked_for_counts_moves_no_image_to_the_device(state):
    client, _ = annotated(state)
    again = Participant(client.config, 0, "test")
    counts = again.status(StatusRequest(campaign="test", cycle=1))
    assert counts.num_labeled == client.pool.budget
    assert "shard" not in vars(again)
    assert torch.equal(again.shard.images, client.shard.images)


def test_a_client_without_test_images_has_nothing_to_tell(state):
    client, weights = annotated(state)
    nothing = client.shard.test_labels[:0]
    client.shard = replace(client.shard, test_labels=nothing)
    reply = client.evaluate(EvaluateRequest(campaign="test", weights=weights))
    assert reply == EvaluateReply(0, 0.0, 0.0, [0] * 10, [0] * 10)


def test_scores_and_suggestions_are_kept_with_what_is_asked(state):
    client, _ = annotated(state)
    shown = client.pool.shown(2)
    selection = Selection(
        torch.tensor([4, 1]),
        suggestions=torch.tensor([3, 7]),
        scores=torch.tensor([0.5, 0.25]),
    )
    client.pool.record(2, "own", shown, selection)
    with closing(sqlite3.connect(client.ledger.path)) as db:
        rows = db.execute(
            "SELECT sample_id, suggestion, score FROM request WHERE cycle = 2 "
            "ORDER BY rank"
        ).fetchall()
    sample_ids = client.pool.sample_ids(shown.pool[[4, 1]])
    assert rows == [(sample_ids[0], 3, 0.5), (sample_ids[1], 7, 0.25)]


def test_only_a_network_that_gets_the_servers_weights_does_without_the_runs(
    state, monkeypatch
):
    client, weights = annotated(state)
    build, asked = Architecture.build, []

    def note(self, seed, *, weights=True):
        asked.append(weights)
        return build(self, seed, weights=weights)

    monkeypatch.setattr(Architecture, "build", note)
    client.networks.fresh(seed=1)
    client.networks.with_weights(weights)
    assert asked == [True, False]
