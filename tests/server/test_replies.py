"""A malformed reply is dropped and named; the others are used."""

import io
import math
import tracemalloc

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from grid import InProcessGrid

from client_app import app
from fairfal_flwr.client.participant import find_participant
from fairfal_flwr.config import RunConfig
from fairfal_flwr.messages import EvaluateReply, TrainReply, pack_weights
from fairfal_flwr.server import replies
from fairfal_flwr.server.campaign import Campaign
from fairfal_flwr.server.replies import check_evaluate_reply, check_train_reply

WEIGHTS = {"w": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3.0])}
SENT = pack_weights(WEIGHTS)
NUM_SAMPLES = 20


def good(**changes):
    fields = {"num_examples": 5, "loss": 0.5, "seconds": 1.0, "weights": WEIGHTS}
    return TrainReply(**(fields | changes)).to_content()


def with_metric(**changes):
    """Return a good reply with other metrics; None leaves one out."""
    content = good()
    for name, value in changes.items():
        key = name.replace("_", "-")
        if value is None:
            del content["metrics"][key]
        else:
            content["metrics"][key] = value
    return content


def with_arrays(**changes):
    """Return a good reply with other arrays; None leaves one out."""
    content = good()
    for name, value in changes.items():
        if value is None:
            del content["arrays"][name]
        else:
            isarray = isinstance(value, Array)
            content["arrays"][name] = value if isarray else Array(np.asarray(value))
    return content


def without(record):
    content = good()
    del content[record]
    return content


def replaced(record, by):
    content = good()
    content[record] = by
    return content


F32 = np.float32
TRUNCATED = Array("float32", (1,), "numpy.ndarray", Array(np.zeros(1, F32)).data[:-2])
PICKLED = Array("object", (1,), "numpy.ndarray", b"\x80\x04K\x01.")
LYING = Array("float32", (1,), "numpy.ndarray", Array(np.zeros((2, 2), F32)).data)

GOOD = Array(np.zeros(1, F32))
LONGER = Array("float32", (1,), "numpy.ndarray", GOOD.data + b"\0")
OTHER_HEAD = Array("float32", (1,), "numpy.ndarray", b"PK\x03\x04" + GOOD.data[4:])
OTHER_KIND = Array("float32", (1,), "torch", GOOD.data)
OTHER_WORDS = Array("float64", (1,), "numpy.ndarray", GOOD.data)


def archive(size):
    """Return an .npz of zeros, which is a thousandth of what it expands to."""
    file = io.BytesIO()
    np.savez_compressed(file, np.zeros(size, F32))
    return Array("float32", (1,), "numpy.ndarray", file.getvalue())


def claiming(shape):
    """Return an array whose bytes say that there are many more."""
    head = io.BytesIO()
    said = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, said)
    return Array("float32", (1,), "numpy.ndarray", head.getvalue() + b"\0" * 4)


# Each malformed reply to a train request, and what is said about it.
MALFORMED = {
    "empty": (lambda: RecordDict(), "its records lack arrays, metrics"),
    "no weights": (lambda: without("arrays"), "its records lack arrays"),
    "no metrics": (lambda: without("metrics"), "its records lack metrics"),
    "one more record": (
        lambda: replaced("images", ArrayRecord()),
        "its records hold more: images",
    ),
    "metrics of another kind": (
        lambda: replaced("metrics", ConfigRecord()),
        "its record metrics does not hold metrics",
    ),
    "arrays of another kind": (
        lambda: replaced("arrays", MetricRecord()),
        "its record arrays does not hold arrays",
    ),
    "no count": (lambda: with_metric(num_examples=None), "its metrics lack num-exam"),
    "no loss": (lambda: with_metric(loss=None), "its metrics lack loss"),
    "one more metric": (lambda: with_metric(age=1), "its metrics hold more: age"),
    "a list for a count": (
        lambda: with_metric(num_examples=[5]),
        r"its num-examples is \[5\], not a finite number",
    ),
    "negative count": (
        lambda: with_metric(num_examples=-5),
        "its num-examples is -5; allowed: 1 to 20",
    ),
    "no example": (lambda: with_metric(num_examples=0), "is 0; allowed: 1 to 20"),
    "more than it has": (lambda: with_metric(num_examples=21), "is 21; allowed"),
    "huge count": (lambda: with_metric(num_examples=2**62), "allowed: 1 to 20"),
    "half an example": (lambda: with_metric(num_examples=2.5), "is 2.5; allowed"),
    "NaN count": (lambda: with_metric(num_examples=math.nan), "nan, not a finite"),
    "NaN loss": (lambda: with_metric(loss=math.nan), "its loss is nan"),
    "negative loss": (lambda: with_metric(loss=-5.0), "its loss is -5.0; allowed: 0"),
    "a loss whose powers overflow": (
        lambda: with_metric(loss=1e308),
        r"its loss is 1e\+308; allowed: 0 to",
    ),
    "Inf loss": (lambda: with_metric(loss=math.inf), "its loss is inf"),
    "a missing array": (lambda: with_arrays(b=None), "its arrays lack b"),
    "one more array": (lambda: with_arrays(x=F32(1)), "its arrays hold more: x"),
    "another order": (
        lambda: replaced(
            "arrays", pack_weights({"b": WEIGHTS["b"], "w": WEIGHTS["w"]})
        ),
        "its arrays are in another order",
    ),
    "another shape": (
        lambda: with_arrays(w=np.zeros((2, 1), F32)),
        r"its w is float32 \[2, 1\], not float32 \[1, 2\]",
    ),
    "a scalar that would broadcast": (
        lambda: with_arrays(w=F32(1)),
        r"its w is float32 \[\], not",
    ),
    "another type": (
        lambda: with_arrays(w=np.zeros((1, 2))),
        r"its w is float64 \[1, 2\], not float32",
    ),
    "NaN weight": (
        lambda: with_arrays(w=np.array([[0, np.nan]], F32)),
        "its w holds NaN or Inf",
    ),
    "Inf weight": (
        lambda: with_arrays(b=np.array([np.inf], F32)),
        "its b holds NaN or Inf",
    ),
    "truncated bytes": (lambda: with_arrays(b=TRUNCATED), "its b cannot be read"),
    "pickled bytes": (lambda: with_arrays(b=PICKLED), "its b cannot be read"),
    "an archive": (lambda: with_arrays(b=archive(1)), "its b cannot be read"),
    "one byte more": (lambda: with_arrays(b=LONGER), "its b cannot be read"),
    "an archive's head": (lambda: with_arrays(b=OTHER_HEAD), "its b cannot be read"),
    "another serialization": (lambda: with_arrays(b=OTHER_KIND), "its b cannot be"),
    "another type than its bytes": (
        lambda: with_arrays(b=OTHER_WORDS),
        r"its b is float64 \[1\], not float32",
    ),
    "a terabyte": (lambda: with_arrays(b=claiming((2**38,))), r"\[274877906944\], not"),
    "an endless list": (
        lambda: with_metric(loss=[1] * 10**5),
        r"its loss is \[1, 1, 1, ...\], not a finite number",
    ),
    "half a billion years": (lambda: with_metric(seconds=1e16), "its seconds is 1e"),
    "bytes of another shape": (
        lambda: with_arrays(b=LYING),
        r"its b is float32 \[2, 2\], not float32 \[1\]",
    ),
    "a variate nobody asked for": (
        lambda: good(variate=WEIGHTS),
        "its records hold more: variate",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_reply_is_told_in_one_line(name):
    make, line = MALFORMED[name]
    with pytest.raises(ValueError, match=line) as error:
        check_train_reply(make(), SENT, NUM_SAMPLES)
    assert "\n" not in str(error.value)


def test_nothing_is_decoded_before_its_size_is_right():
    """A quarter of a gigabyte behind a few hundred kilobytes."""
    bomb = with_arrays(b=archive(2**26))
    tracemalloc.start()
    with pytest.raises(ValueError, match="its b cannot be read"):
        check_train_reply(bomb, SENT, NUM_SAMPLES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_an_array_that_lies_column_by_column_passes():
    """As PyTorch's channels-last weights do in NumPy's bytes."""
    columns = np.asfortranarray(np.ones((2, 3), F32))
    sent = pack_weights({"w": torch.ones(2, 3)})
    content = good(weights={"w": torch.ones(2, 3)})
    content["arrays"]["w"] = Array(columns)
    assert b"'fortran_order': True" in content["arrays"]["w"].data
    check_train_reply(content, sent, NUM_SAMPLES)


@pytest.mark.parametrize("count", [1, NUM_SAMPLES])
def test_a_good_reply_passes(count):
    check_train_reply(good(num_examples=count), SENT, NUM_SAMPLES)


@pytest.mark.parametrize(
    ("variate", "line"),
    [
        (None, "its records lack variate"),
        ({}, "its variate lack w"),
        ({"w": torch.zeros(1, 2), "b": torch.zeros(1)}, "its variate hold more: b"),
        ({"w": torch.zeros(2)}, r"its w is float32 \[2\]"),
        ({"w": torch.tensor([[0.0, math.nan]])}, "its w holds NaN"),
    ],
)
def test_a_malformed_variate_is_told(variate, line):
    content = good() if variate is None else good(variate=variate)
    with pytest.raises(ValueError, match=line):
        check_train_reply(content, SENT, NUM_SAMPLES, variate=["w"])


def test_a_good_variate_passes():
    content = good(variate={"w": torch.zeros(1, 2)})
    check_train_reply(content, SENT, NUM_SAMPLES, variate=["w"])


@pytest.mark.parametrize(
    ("bit", "fine"), [(0, True), (1, True), (2, False), (-1, False)]
)
def test_the_clipping_bit_is_a_bit(bit, fine):
    content = good()
    content["metrics"]["norm_bit"] = bit
    if fine:
        check_train_reply(content, SENT, NUM_SAMPLES, norm_bit=True)
    else:
        with pytest.raises(ValueError, match="norm_bit"):
            check_train_reply(content, SENT, NUM_SAMPLES, norm_bit=True)


def evaluated(**changes):
    fields = {
        "num_examples": 3,
        "loss": 0.5,
        "accuracy": 2 / 3,
        "class_counts": [1, 2],
        "class_hits": [1, 1],
    }
    return EvaluateReply(**(fields | changes)).to_content()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"loss": math.nan}, "its loss is nan"),
        ({"loss": -1.0}, "its loss is -1.0; allowed: 0 to"),
        ({"accuracy": 1e99}, r"its accuracy is 1e\+99; allowed: 0 to 1"),
        ({"class_counts": [3]}, "allowed: 2 counts"),
        ({"class_counts": [1, -2]}, "allowed: 2 counts"),
        ({"class_hits": [0.5, 1.0]}, "allowed: 2 counts"),
        ({"class_hits": [2, 0]}, "more hits than test images"),
        ({"num_examples": 9}, "its num-examples is 9, not the sum"),
    ],
)
def test_a_malformed_evaluation_is_told(changes, line):
    check_evaluate_reply(evaluated(), 2)
    with pytest.raises(ValueError, match=line):
        check_evaluate_reply(evaluated(**changes), 2)


def spoiled(reply):
    """Return what a hostile client makes of its good reply: a huge say for NaN."""
    reply.content["metrics"]["num-examples"] = 10**9
    return reply


def test_a_campaign_leaves_out_the_malformed_and_uses_the_others(tmp_path, caplog):
    """The run equals one in which that client's replies never came."""
    overrides = {
        "num-clients": 3,
        "query.strategy": "random",
        "campaign.num-cycles": 1,
        "campaign.num-rounds": 2,
        "train.epochs": 1,
        "output-dir": str(tmp_path),
        "state-dir": str(tmp_path),
    }

    def run(on_train):
        def client(message, context):
            reply = app(message, context)
            is_train = message.metadata.message_type == "train"
            if is_train and context.node_config["partition-id"] == 1:
                return on_train(reply)
            return reply

        find_participant.cache_clear()
        grid = InProcessGrid(overrides, 3, client)
        campaign = Campaign(RunConfig.from_flat(overrides), grid)
        campaign.run()
        return campaign.state.weights

    def crash(_):
        raise RuntimeError("gone")

    used = run(spoiled)
    assert "client 1: its num-examples is 1000000000; allowed: 1 to" in caplog.text
    missing = run(crash)
    assert all(torch.equal(used[name], missing[name]) for name in used)


@pytest.mark.parametrize(("length", "shown"), [(80, "x" * 80), (81, "x" * 80 + "…")])
def test_a_long_name_is_cut(length, shown):
    assert replies._shorter("x" * length) == shown
