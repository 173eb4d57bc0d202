"""A malformed reply to a query is named in one line, before anything is computed."""

import math
from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, RecordDict
from grid import InProcessGrid

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.messages import ImbalanceReply, SelectReply, StatusReply
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.counts import Limits, global_queries
from fairfal_flwr.server.replies import (
    check_imbalance_reply,
    check_poll_reply,
    check_select_reply,
    check_status_reply,
)

LIMITS = Limits(samples=20, selected=4, asked=12)
GOOD = {
    "query.status": StatusReply(
        client=2,
        on_gpu=0,
        num_samples=20,
        num_labeled=3,
        num_open=0,
        num_set_aside=0,
        ledger=[9, 2**60 - 1],
    ),
    "query.imbalance": ImbalanceReply(imbalance=0.5, seconds=0.1),
    "query.select": SelectReply(
        budget=4,
        num_selected=4,
        num_labeled=7,
        num_unlabeled=13,
        num_open=3,
        num_set_aside=2,
        asked_seconds=0.5,
        global_query=-1,
        local_training_seconds=0.0,
        outputs_seconds=0.0,
        selection_seconds=0.0,
        ledger=[9, 2**60 - 1],
    ),
}
GOOD["poll"] = GOOD["query.status"]
CHECK = {
    "query.status": lambda content: check_status_reply(content, 3),
    "query.imbalance": check_imbalance_reply,
    "query.select": lambda content: check_select_reply(content, LIMITS),
    "poll": lambda content: check_poll_reply(content, 2, LIMITS),
}
MALFORMED = [
    *(
        (kind, {"ledger": value}, "its ledger is ")
        for kind in ("query.select", "query.status", "poll")
        for value in ([9], [9.0, 1.0], [-1, 1], 9, [9, 1, 1], [])
    ),
    ("query.select", {"num-open": 4}, "are 7, 4 and 2; allowed: 12 together"),
    (
        "query.select",
        {"num-set-aside": 13},
        "its num-set-aside is 13; allowed: 0 to 12",
    ),
    ("query.select", {"num-open": -1}, "its num-open is -1; allowed: 0 to 12"),
    ("query.select", {"asked-seconds": math.inf}, "its asked-seconds is inf"),
    ("query.status", {"num-open": 18}, "are 3, 18 and 0; allowed: 20 together"),
    ("poll", {"client": 1}, "its client is 1; allowed: 2 to 2"),
    ("poll", {"num-samples": 21}, "its num-samples is 21; allowed: 20 to 20"),
    ("poll", {"num-labeled": 13}, "its num-labeled is 13; allowed: 0 to 12"),
    ("poll", {"num-open": 10}, "are 3, 10 and 0; allowed: 12 together"),
    ("poll", {"on-gpu": 2}, "its on-gpu is 2; allowed: 0 to 1"),
    ("query.status", {"client": 3}, "its client is 3; allowed: 0 to 2"),
    ("query.status", {"client": -1}, "its client is -1; allowed: 0 to 2"),
    ("query.status", {"client": 1.0}, "its client is 1.0; allowed: 0 to 2"),
    ("query.status", {"client": [1]}, r"its client is \[1\], not a finite number"),
    (
        "query.status",
        {"num-samples": 0},
        "its num-samples is 0; allowed: 1 to 1000000000",
    ),
    ("query.status", {"num-labeled": 21}, "its num-labeled is 21; allowed: 0 to 20"),
    ("query.status", {"on-gpu": 2}, "its on-gpu is 2; allowed: 0 to 1"),
    ("query.status", {"name": 2}, "its metrics hold more: name"),
    ("query.status", {"client": None}, "its metrics lack client"),
    ("query.imbalance", {"imbalance": math.nan}, "its imbalance is nan, not a finite"),
    ("query.imbalance", {"imbalance": math.inf}, "its imbalance is inf, not a finite"),
    ("query.imbalance", {"imbalance": 1e9}, "its imbalance is 1000000000.0; allowed"),
    ("query.imbalance", {"imbalance": -1e9}, "allowed: 0 to 1"),
    ("query.imbalance", {"imbalance": 0.0}, "its imbalance is 0.0; allowed: above 0"),
    ("query.imbalance", {"seconds": 1e300}, "allowed: 0 to 1000000000"),
    ("query.status", {"num-samples": 10**10}, "is 10000000000; allowed: 1 to 1000"),
    ("query.select", {"budget": 5}, "its budget is 5; allowed: 0 to 4"),
    ("query.select", {"num-labeled": 13}, "its num-labeled is 13; allowed: 0 to 12"),
    (
        "query.imbalance",
        {"seconds": -1.0},
        "its seconds is -1.0; allowed: 0 to 1000000000",
    ),
    ("query.select", {"budget": -1}, "its budget is -1; allowed: 0 to 4"),
    ("query.select", {"num-selected": 5}, "its num-selected is 5; allowed: 0 to 4"),
    ("query.select", {"num-labeled": 21}, "its num-labeled is 21; allowed: 0 to 12"),
    ("query.select", {"num-labeled": 6}, "are 6 and 13, not 20 together"),
    ("query.select", {"global-query": 2}, "its global-query is 2; allowed: -1 to 1"),
    ("query.select", {"outputs-seconds": math.nan}, "its outputs-seconds is nan"),
]


def changed(kind, changes):
    content = GOOD[kind].to_content()
    for name, value in changes.items():
        if value is None:
            del content["metrics"][name]
        else:
            content["metrics"][name] = value
    return content


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_reply_passes_and_one_without_its_record_does_not(kind):
    CHECK[kind](GOOD[kind].to_content())
    with pytest.raises(ValueError, match="its records lack metrics"):
        CHECK[kind](RecordDict())
    with pytest.raises(ValueError, match="its record metrics does not hold metrics"):
        CHECK[kind](RecordDict({"metrics": ConfigRecord()}))


@pytest.mark.parametrize(("kind", "changes", "line"), MALFORMED, ids=str)
def test_a_malformed_reply_is_told_in_one_line(kind, changes, line):
    with pytest.raises(ValueError, match=line) as error:
        CHECK[kind](changed(kind, changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("query.status", {"client": 7}, r"SuperNode \d+: its client is 7; allowed: 0"),
        ("query.imbalance", {"imbalance": math.nan}, "client 1: its imbalance is nan"),
        ("query.select", {"budget": None}, "client 1: its metrics lack budget"),
    ],
    ids=str,
)
def test_a_campaign_ends_in_one_line_that_names_the_client(
    tmp_path, kind, changes, line
):
    values = {
        "num-clients": 3,
        "campaign.num-cycles": 2,
        "campaign.num-rounds": 1,
        "train.epochs": 1,
        "local.max-epochs": 1,
        "annotation.quorum": 1.0,
        "output-dir": str(tmp_path),
        "state-dir": str(tmp_path),
    }

    def client(message, context):
        reply = app(message, context)
        spoiled = message.metadata.message_type == kind
        if spoiled and context.node_config["partition-id"] == 1:
            for name, value in changes.items():
                if value is None:
                    del reply.content["metrics"][name]
                else:
                    reply.content["metrics"][name] = value
        return reply

    find_participant.cache_clear()
    campaign = Campaign(RunConfig.from_flat(values), InProcessGrid(values, 3, client))
    with pytest.raises(UserError, match=line) as error:
        campaign.run()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("choices", "number"), [((-1, -1), None), ((0, 0), 0), ((1, -1, 1, 0), 2)]
)
def test_who_asked_by_the_global_model_is_counted_where_there_is_a_choice(
    choices, number
):
    good = GOOD["query.select"]
    replies = {
        client: replace(good, global_query=choice)
        for client, choice in enumerate(choices)
    }
    assert global_queries(replies) == number
