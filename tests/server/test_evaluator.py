"""What the server makes of the clients' own tests, and who counts as rare."""

import math

import pytest

from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.server.evaluator import ClientsEvaluation, Evaluator

ELSEWHERE = {
    "data.server-test": False,
    "data.class-names": ",".join("0123456789"),
    "data.image-size": 16,
    "data.channels": 1,
    "federation.fraction-evaluate": 1.0,
}


def evaluator(**changes):
    return Evaluator(RunConfig.from_flat(changes))


def test_the_clients_recalls_give_the_mean_of_the_rarest():
    server = evaluator()
    assert server.rare_classes.tolist() == [9, 8, 7]
    recalls = (*[0.1] * 7, 0.5, math.nan, 0.7)
    found = server.from_clients(ClientsEvaluation(0.25, recalls))
    assert (found.accuracy, found.recalls) == (0.25, recalls)
    assert found.rare_recall == pytest.approx(0.6)
    assert math.isnan(found.loss)


def test_a_server_without_images_knows_no_rare_classes():
    server = evaluator(**ELSEWHERE)
    assert server.evaluate(server.new_weights(1)) is None
    found = server.from_clients(ClientsEvaluation(0.25, (0.5,) * 10))
    assert (found.accuracy, found.recalls) == (0.25, (0.5,) * 10)
    assert math.isnan(found.rare_recall)


def test_without_any_test_image_nothing_is_known(caplog):
    found = evaluator(**ELSEWHERE).from_clients(None)
    assert math.isnan(found.accuracy)
    assert len(found.recalls) == 10
    assert all(map(math.isnan, found.recalls))
    assert "the accuracy is unknown" in caplog.text


def test_somebody_must_test():
    with pytest.raises(UserError, match="nobody would test"):
        evaluator(**ELSEWHERE | {"federation.fraction-evaluate": 0.0})
