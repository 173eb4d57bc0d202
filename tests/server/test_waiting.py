"""A campaign that waits for people: until all is answered, or a deadline."""

import logging
from dataclasses import fields
from datetime import UTC, datetime
from itertools import count

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from grid import InProcessGrid, facts_of, run_campaign, same_weights, small
from people import truth, with_people

from fairfal_flwr.client.annotators import mistaken
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.client.sheet import read_sheet, read_word, sheet_file
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import SelectReply, StatusReply, StatusRequest
from fairfal_flwr.paths import ledger_file
from fairfal_flwr.runs.events import EventKind
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.server import waiting
from fairfal_flwr.server.campaign import Campaign

SHORT = {"campaign.num-rounds": 1, "campaign.evaluate-every": 1}
PEOPLE = {"annotation.by": "person", "annotation.poll-seconds": 0.001}


@pytest.fixture
def values(tmp_path):
    """Return the keys of a campaign in which people answer."""
    return small(tmp_path, "people", **SHORT, **PEOPLE)


def campaign_with(values, person, app=None):
    find_participant.cache_clear()
    grid = InProcessGrid(values, 3, app or with_people(values, person))
    return Campaign(RunConfig.from_flat(values), grid)


def ledger_of(campaign, client=0):
    path = ledger_file(campaign.config.state_dir, campaign.recorder.name, client)
    return Ledger(path, None)


def answering(values, most=1000, *, order=1):
    """Return a person who gives the true label of the first so many questions."""
    labels = truth(values)

    def person(client, ledger, questions):
        for question in questions[::order][:most]:
            ledger.answer(question.sample_id, labels[client][question.sample_id], "Ann")

    return person


def rows_of(campaign, *names):
    queries = read_run(campaign.recorder.folder).queries
    return [tuple(getattr(row, name) for name in names) for row in queries]


@pytest.mark.parametrize(
    "strategy", ["random", pytest.param("fairfal", marks=pytest.mark.slow)]
)
def test_the_same_answers_by_people_and_by_the_oracle_give_the_same_run(
    tmp_path, values, strategy
):
    """Here in the other order, a few at each look."""
    values |= {"query.strategy": strategy}
    plain = small(tmp_path, "oracle", **SHORT, **{"query.strategy": strategy})
    oracle, _ = run_campaign(plain)
    people = campaign_with(values, answering(values, 5, order=-1))
    people.run()
    assert same_weights(oracle, people)
    known = ("cycle", "client", "budget", "num_selected", "num_labeled", "num_open")
    assert rows_of(people, *known) == rows_of(oracle, *known)
    for client in range(3):
        for cycle in (1, 2):
            theirs = ledger_of(oracle, client).labeled(cycle)
            ours = ledger_of(people, client).labeled(cycle)
            assert [a.tolist() for a in ours] == [a.tolist() for a in theirs]
    assert oracle.state.labels == people.state.labels
    told = facts_of(people, EventKind.ANSWERING)
    assert len(told) > 4
    assert told[0]["open"] == [n - 5 for n in told[0]["labeled"]] or told[0]["open"]
    assert told[-1]["open"] == [0, 0, 0]
    assert told[-1]["seconds_left"] is None


@pytest.mark.slow
def test_what_nobody_can_tell_gives_its_budget_back(values):
    labels = truth(values)

    def person(client, ledger, questions):
        for place, question in enumerate(questions):
            unsure = client == 0 and question.cycle == 1 and place < 3
            label = None if unsure else labels[client][question.sample_id]
            ledger.answer(question.sample_id, label, "Ann")

    campaign = campaign_with(values, person)
    campaign.run()
    budget = find_participant(campaign.config, 0, campaign.recorder.name).pool.budget
    rows = rows_of(
        campaign, "budget", "num_selected", "num_labeled", "num_set_aside", "num_open"
    )
    assert rows[0] == (budget, budget, budget - 3, 3, 0)
    assert rows[3] == (budget + 3, budget + 3, 2 * budget, 3, 0)
    assert rows[1][2:] == (rows[1][0], 0, 0)


def test_at_the_deadline_it_goes_on_and_open_questions_take_their_part(values, caplog):
    values |= {"annotation.deadline": 1e-6, "annotation.min-labels": 9}
    labels, looks = truth(values), count()

    def person(client, ledger, questions):
        """Answer four of each client, from the second look on."""
        if next(looks) < 3:
            return
        for question in questions[:4]:
            ledger.answer(question.sample_id, labels[client][question.sample_id], "Bo")

    campaign = campaign_with(values, person)
    with caplog.at_level(logging.INFO, logger="fairfal.server"):
        campaign.run()
    rows = rows_of(campaign, "cycle", "num_selected", "num_labeled", "num_open")
    budget = rows[0][1]
    assert rows[0] == (1, budget, 4, budget - 4)
    # The second cycle asks for as many as were answered, and answers four of the old.
    assert rows[3] == (2, 4, 8, budget - 4)
    said = "\n".join(caplog.messages)
    assert "the deadline has passed with 0 new labels, fewer than" in said
    assert "`annotation.min-labels` = 9; waiting for them" in said
    assert said.count("waiting for them") == 1
    assert "the deadline has passed; goes on with 12 new labels" in said


@pytest.mark.slow
def test_an_answer_after_the_cycle_was_closed_counts_from_the_next(values):
    """It comes with the first message of the next cycle's query."""
    values |= {"annotation.deadline": 1e-6}
    labels = truth(values)
    late: list[int] = []

    def person(client, ledger, questions):
        first = [q for q in questions if q.cycle == 1]
        if ledger.last_cycle() == 1:
            first = first[:2]
        for question in first:
            ledger.answer(question.sample_id, labels[client][question.sample_id], "Bo")
            late.append(question.sample_id)

    campaign = campaign_with(values, person)
    campaign.run()
    ledger = ledger_of(campaign)
    assert len(ledger.labeled(1)[0]) == 2
    assert len(ledger.labeled(2)[0]) > 2
    assert campaign.state.labels[0] == len(ledger.labeled(2)[0])


def test_a_server_that_is_stopped_while_it_waits_goes_on_with_the_same_questions(
    tmp_path, values
):
    person = answering(values, 3)
    looks = count()

    def impatient(client, ledger, questions):
        if next(looks) == 7:
            raise KeyboardInterrupt
        person(client, ledger, questions)

    first = campaign_with(values, impatient)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    asked = [ledger_of(first, client).selection(1).tolist() for client in range(3)]
    answered = ledger_of(first).answered().tolist()
    assert 0 < len(answered) < len(asked[0])
    values |= {"campaign.resume": str(first.recorder.folder)}
    second = campaign_with(values, person)
    second.run()
    assert asked == [ledger_of(second, c).selection(1).tolist() for c in range(3)]
    oracle, _ = run_campaign(small(tmp_path, "oracle", **SHORT))
    assert same_weights(oracle, second)
    assert len(read_run(second.recorder.folder).queries) == 6


def test_the_deadline_counts_from_the_questions_also_after_a_stop(values, monkeypatch):
    """Cycle 1 was asked an hour ago: half an hour is over, two hours are not."""
    find_participant.cache_clear()
    replies = {0: select_reply(asked_seconds=3600.0, num_open=4, num_labeled=1)}
    for deadline, left in [(1800.0, 0.0), (7200.0, 3600.0), (0.0, None)]:
        rules = RunConfig.from_flat(
            values | {"annotation.deadline": deadline}
        ).annotation
        standing = waiting._Wait(rules, replies, 0, 1).standing
        assert standing.seconds_left == (
            None if left is None else pytest.approx(left, abs=5)
        )


def select_reply(**changes):
    facts = {each.name: 0 for each in fields(SelectReply)} | {"ledger": [1, 1]}
    return SelectReply(**(facts | changes))


@pytest.mark.slow
def test_a_site_that_cannot_be_reached_keeps_what_it_said(values, caplog):
    """Client 1 does not answer the second and third look; the campaign waits for it."""
    person = with_people(values, answering(values, 8))
    looks = count()

    def app(message, context):
        polled = "cycle" in message.content["config"] and (
            message.metadata.message_type == "query.status"
        )
        if polled and context.node_config["partition-id"] == 1 and 0 < next(looks) < 3:
            reason = Error(ErrorCode.NODE_UNAVAILABLE, "gone")
            return Message(reason, reply_to=message)
        return person(message, context)

    campaign = campaign_with(values, None, app)
    campaign.run()
    assert all(row == (0,) for row in rows_of(campaign, "num_open"))
    gone = [m for m in caplog.messages if "going on with what was said before" in m]
    assert gone == ["client 1: gone; going on with what was said before"]


@pytest.mark.slow
def test_an_answer_that_makes_no_sense_is_not_believed(values, caplog):
    person = with_people(values, answering(values, 8))
    looks = count()

    def app(message, context):
        reply = person(message, context)
        polled = "cycle" in message.content["config"] and (
            message.metadata.message_type == "query.status"
        )
        if polled and context.node_config["partition-id"] == 1 and not next(looks):
            reply.content["metrics"]["num-labeled"] = 10**6
        return reply

    campaign = campaign_with(values, None, app)
    campaign.run()
    assert max(n for (n,) in rows_of(campaign, "num_labeled")) < 1000
    assert "its num-labeled is 1000000; allowed: 0 to" in "\n".join(caplog.messages)


@pytest.mark.slow
def test_a_slow_oracle_gives_the_same_run(tmp_path):
    one = {**SHORT, "campaign.num-cycles": 1}
    rehearsal = {"annotation.oracle-delay": 0.3, "annotation.poll-seconds": 0.1}
    slow, _ = run_campaign(small(tmp_path, "slow", **one, **rehearsal))
    told = facts_of(slow, EventKind.ANSWERING)
    assert len({tuple(facts["open"]) for facts in told}) > 2
    oracle, _ = run_campaign(small(tmp_path, "oracle", **one))
    assert same_weights(slow, oracle)


@pytest.mark.slow
def test_an_oracle_that_errs_gives_some_wrong_classes_the_same_each_time(tmp_path):
    values = small(tmp_path, "noise", **SHORT, **{"annotation.oracle-noise": 0.3})
    labels = truth(values)
    first, _ = run_campaign(values)
    second, _ = run_campaign(values)
    wrong = asked = 0
    for client in range(3):
        samples, said = (a.tolist() for a in ledger_of(first, client).labeled(2))
        again = ledger_of(second, client).labeled(2)[1].tolist()
        assert said == again
        asked += len(samples)
        wrong += sum(
            labels[client][s] != label for s, label in zip(samples, said, strict=True)
        )
    assert 0.1 * asked < wrong < 0.5 * asked


def test_a_mistake_is_another_class_each_alike():
    labels = np.repeat(np.arange(4), 25_000)
    said = mistaken(labels, 4, 0.2, np.random.default_rng(0))
    assert np.mean(said != labels) == pytest.approx(0.2, abs=0.01)
    shares = np.bincount((said - labels)[said != labels] % 4, minlength=4) / 20_000
    assert shares[0] == 0
    assert shares[1:] == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    assert np.array_equal(mistaken(labels, 4, 0.0, np.random.default_rng(0)), labels)
    one = np.zeros(5, dtype=np.int64)
    assert np.array_equal(mistaken(one, 1, 1.0, np.random.default_rng(0)), one)


def test_people_find_images_names_and_what_is_waited_for(values):
    from PIL import Image

    words = []
    person = answering(values, 8)

    def reading(client, ledger, questions):
        if client == 0:
            words.append(read_word(ledger.path))
        person(client, ledger, questions)

    campaign = campaign_with(values, reading)
    campaign.run()
    ledger = ledger_of(campaign)
    sheet = read_sheet(sheet_file(ledger.path))
    assert (sheet.campaign, sheet.client, sheet.votes) == (campaign.recorder.name, 0, 1)
    assert sorted(sheet.files) == ledger.requested().tolist()
    shard = find_participant(campaign.config, 0, campaign.recorder.name).shard
    assert sheet.class_names == shard.class_names
    assert not sheet.by_content
    for sample_id, file in sheet.files.items():
        with Image.open(f"{sheet.folder}/{file}") as image:
            row = np.searchsorted(shard.sample_ids, sample_id)
            assert np.array_equal(np.asarray(image), shard.images[row, 0])
    assert words[0] is None
    assert (words[1].cycle, words[1].awaited) == (1, 3)
    assert words[1].open == 3 * ledger.selection(1).size
    assert words[1].seconds_left is None
    told = datetime.fromisoformat(words[-1].told_at)
    assert abs((datetime.now(UTC) - told).total_seconds()) < 600
    assert words[-1].cycle == 2


def test_a_key_of_the_other_annotator_is_refused():
    for keys, line in [
        (
            {"annotation.votes": 2},
            "`annotation.votes` is 2, but",
        ),
        ({**PEOPLE, "annotation.oracle-delay": 1.0}, "`annotation.by` person does not"),
        ({"annotation.deadline": 9.0}, "allowed with: annotation.by person, or an"),
    ]:
        with pytest.raises(UserError, match=line):
            RunConfig.from_flat(keys)
    RunConfig.from_flat({"annotation.deadline": 9.0, "annotation.oracle-delay": 1.0})


class Clock:
    """Stands in for the time; a client answers everything at some moment."""

    def __init__(self, takes: float, answered_at: float) -> None:
        self.now, self.takes, self.answered_at = 0.0, takes, answered_at
        self.rests: list[float] = []
        self.requests: list[StatusRequest] = []
        self.timeouts: list[float] = []
        self.silent: set[int] = set()

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.rests.append(seconds)
        self.now += seconds

    def hear(self, request, *_args, timeout, **_options):
        self.requests.append(request)
        self.timeouts.append(timeout)
        if len(self.requests) in self.silent:
            return {}
        self.now += self.takes
        is_answered = self.now > self.answered_at
        status = StatusReply(0, 0, 100, 9 * is_answered, 9 * (not is_answered), 0, [])
        return {0: status}


def waited(monkeypatch, clock, **rules):
    monkeypatch.setattr(waiting, "monotonic", clock.monotonic)
    monkeypatch.setattr(waiting, "sleep", clock.sleep)
    names = {name.replace("_", "-"): value for name, value in rules.items()}
    flat = PEOPLE | {f"annotation.{name}": value for name, value in names.items()}
    return waiting.await_answers(
        clock,
        StatusRequest(campaign="c", cycle=3),
        RunConfig.from_flat(flat).annotation,
        {0: select_reply(num_open=9)},
        0,
        None,
        lambda standing: None,
    )


def test_who_is_idle_is_asked_less_and_less_often(monkeypatch):
    """A tenth of the time so far, at most the longest; four times what a look takes."""
    clock = Clock(takes=0.0, answered_at=1000.0)
    replies = waited(monkeypatch, clock, poll_seconds=30.0)
    assert clock.rests[:11] == pytest.approx([0.2] * 11)
    assert clock.rests[11:13] == pytest.approx([0.22, 0.242])
    assert clock.rests[-1] == 30.0
    assert sum(clock.rests) < 1030
    assert (replies[0].num_labeled, replies[0].num_open) == (9, 0)
    slow = Clock(takes=2.0, answered_at=11.0)
    waited(monkeypatch, slow, poll_seconds=30.0)
    assert slow.rests == [8.0]


def test_a_slow_client_gets_more_time_until_it_answers(monkeypatch):
    clock = Clock(takes=1.0, answered_at=30.0)
    clock.silent = {2, 3}
    waited(monkeypatch, clock)
    assert clock.timeouts[:5] == [120.0, 120.0, 240.0, 480.0, 120.0]


def test_a_deadline_is_met_to_the_second(monkeypatch):
    """With five labels it goes on right then; without, it waits for them."""
    clock = Clock(takes=0.0, answered_at=500.0)
    waited(monkeypatch, clock, poll_seconds=60.0, deadline=100.0, min_labels=5)
    left = [request.seconds_left for request in clock.requests]
    assert left[0] == 100.0
    assert 0.0 in left
    assert sum(clock.rests[: left.index(0.0)]) == pytest.approx(100.0)
    assert 500 < clock.now < 560
    replies = {0: select_reply(num_open=9, num_labeled=5)}
    clock = Clock(takes=0.0, answered_at=500.0)
    monkeypatch.setattr(waiting, "monotonic", clock.monotonic)
    rules = RunConfig.from_flat(
        PEOPLE | {"annotation.deadline": 100.0, "annotation.min-labels": 5}
    ).annotation
    wait = waiting._Wait(rules, replies, 0, 1)
    clock.now = 99.9
    assert not wait.may_go_on()
    clock.now = 100.0
    assert wait.may_go_on()
    assert not waiting._Wait(rules, replies, 1, 1).may_go_on()
