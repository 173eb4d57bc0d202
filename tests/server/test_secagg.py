"""Evidence for docs/privacy.md: SecAgg+ of Flower 1.42 and message-based strategies.

When one of these fails, Flower has changed and the page must be written anew.
"""

import flwr.clientapp.mod
import flwr.serverapp
import numpy as np
import pytest
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    RecordDict,
)
from flwr.client.mod import secaggplus_mod
from flwr.compat.common.recorddict_compat import recorddict_to_fitres
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from fairfal_flwr.messages import TrainReply

WORKFLOW = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2)


def context():
    return Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}
    )


def test_the_message_api_ships_no_secure_aggregation():
    names = [*dir(flwr.clientapp.mod), *dir(flwr.serverapp)]
    assert not [name for name in names if "secagg" in name.lower()]


def test_the_workflow_refuses_the_context_of_a_server_app():
    with pytest.raises(TypeError, match="Expect a LegacyContext, but get Context"):
        WORKFLOW(None, context())


def test_the_workflow_calls_methods_that_message_based_strategies_lack():
    legacy = LegacyContext(context(), strategy=FedAvg())
    legacy.state[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    legacy.state[MAIN_PARAMS_RECORD] = ArrayRecord([np.zeros(2, np.float32)])
    with pytest.raises(AttributeError, match="no attribute 'configure_fit'"):
        WORKFLOW(None, legacy)


def test_the_mod_takes_no_train_message_of_a_message_based_strategy():
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord()})
    message = Message(content, dst_node_id=5, message_type="train")
    with pytest.raises(KeyError, match="secaggplus_configs"):
        secaggplus_mod(message, context(), lambda message, _: message)


def test_the_mod_reads_a_reply_in_the_legacy_layout_only():
    reply = TrainReply(1, 0.0, 0.0, weights={}).to_content()
    with pytest.raises(KeyError, match=r"fitres\.parameters"):
        recorddict_to_fitres(reply, keep_input=True)
