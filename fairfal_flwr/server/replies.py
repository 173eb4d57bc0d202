"""What a client's reply must look like before anything is computed from it.

Whatever a client sends, the worst it can do here is to be left out of the round and
named: a strategy never sees a reply that does not fit the request.
"""

from collections.abc import Collection, Mapping
from math import inf, isfinite
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fairfal_flwr.messages import (
    ARRAYS,
    METRICS,
    VARIATE,
    EvaluateReply,
    ImbalanceReply,
    Reply,
    SelectReply,
    StatusReply,
    TrainReply,
)

__all__ = [
    "NORM_BIT",
    "check_evaluate_reply",
    "check_imbalance_reply",
    "check_select_reply",
    "check_status_reply",
    "check_train_reply",
]

LARGEST_LOSS = 1e9  # beyond it, powers of it overflow in qfedavg
NORM_BIT = "norm_bit"  # from Flower's adaptiveclipping_mod


def check_status_reply(content: RecordDict, num_clients: int) -> None:
    """Check a reply to a status request.

    Parameters
    ----------
    content : RecordDict
        The reply.
    num_clients : int
        Of the run; the client must be one of them.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, StatusReply)
    _check_count(metrics, "client", 0, num_clients - 1)
    num_samples = _check_count(metrics, "num-samples", 1)
    _check_count(metrics, "num-labeled", 0, num_samples)
    _check_count(metrics, "on-gpu", 0, 1)


def check_imbalance_reply(content: RecordDict) -> None:
    """Check a reply to an imbalance request.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, ImbalanceReply)
    _check_number(metrics, "imbalance", 0, 1)
    _check_number(metrics, "seconds", 0)


def check_select_reply(content: RecordDict, num_samples: int) -> None:
    """Check a reply to a select request.

    Parameters
    ----------
    content : RecordDict
        The reply.
    num_samples : int
        Images that the client has, from its status.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, SelectReply)
    budget = _check_count(metrics, "budget", 1, num_samples)
    _check_count(metrics, "num-selected", 0, budget)
    labeled = _check_count(metrics, "num-labeled", 0, num_samples)
    unlabeled = _check_count(metrics, "num-unlabeled", 0, num_samples)
    if labeled + unlabeled != num_samples:
        raise ValueError(
            f"its num-labeled and num-unlabeled are {labeled} and {unlabeled}, not "
            f"{num_samples} together"
        )
    _check_count(metrics, "global-query", -1, 1)
    for name in metrics:
        if name.endswith("seconds"):
            _check_number(metrics, name, 0)


def check_train_reply(
    content: RecordDict,
    sent: ArrayRecord,
    num_samples: int,
    *,
    variate: Collection[str] = (),
    norm_bit: bool = False,
) -> None:
    """Check a reply to a train request.

    Parameters
    ----------
    content : RecordDict
        The reply.
    sent : ArrayRecord
        The weights of the request: the reply must hold the same names in the same
        order, of the same shapes and types, all finite.
    num_samples : int
        Images that the client has, from its status; it cannot have trained on more.
    variate : Collection of str, optional
        The entries that a control variate must hold, in this order; none by default.
    norm_bit : bool, default False
        Whether the client also says if its update was clipped.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    records = {METRICS, ARRAYS} | ({VARIATE} if variate else set())
    _check_names("records", content, records)
    metrics = _metrics(content, TrainReply, {NORM_BIT} if norm_bit else set())
    _check_number(metrics, "loss", 0, LARGEST_LOSS)
    _check_number(metrics, "seconds", 0)
    _check_count(metrics, "num-examples", 1, num_samples)
    if norm_bit:
        _check_count(metrics, NORM_BIT, 0, 1)
    _check_arrays(content, ARRAYS, sent)
    if variate:
        _check_arrays(content, VARIATE, {name: sent[name] for name in variate})


def check_evaluate_reply(content: RecordDict, num_classes: int) -> None:
    """Check a reply to an evaluate request.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, EvaluateReply)
    _check_number(metrics, "num-examples", 0)
    _check_number(metrics, "loss", 0, LARGEST_LOSS)
    _check_number(metrics, "accuracy", 0, 1)
    counts, hits = (
        _counts(metrics, name, num_classes) for name in ("class-counts", "class-hits")
    )
    if any(hit > count for hit, count in zip(hits, counts, strict=True)):
        raise ValueError("it has more hits than test images")
    if metrics["num-examples"] != sum(counts):
        raise ValueError(f"its num-examples is {metrics['num-examples']}, not the sum")


def _only_metrics(content: RecordDict, reply_type: type[Reply]) -> MetricRecord:
    """Return the metrics of a reply that holds nothing else."""
    _check_names("records", content, {METRICS})
    return _metrics(content, reply_type)


def _metrics(
    content: RecordDict, reply_type: type[Reply], more: Collection[str] = ()
) -> MetricRecord:
    metrics = content[METRICS]
    if not isinstance(metrics, MetricRecord):
        raise ValueError(f"its record {METRICS} does not hold metrics")
    _check_names("metrics", metrics, reply_type.scalar_keys() | set(more))
    return metrics


def _check_names(what: str, found: Collection[str], wanted: Collection[str]) -> None:
    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    if missing:
        raise ValueError(f"its {what} lack {', '.join(sorted(missing))}")
    if extra:
        raise ValueError(f"its {what} hold more: {', '.join(sorted(extra))}")


def _check_number(
    metrics: MetricRecord, name: str, least: float = -inf, most: float = inf
) -> None:
    value = metrics[name]
    if isinstance(value, bool | list) or not isfinite(value):
        raise ValueError(f"its {name} is {value}, not a finite number")
    if not least <= value <= most:
        raise ValueError(f"its {name} is {value}; allowed: {_between(least, most)}")


def _check_count(
    metrics: MetricRecord, name: str, least: int, most: float = inf
) -> int:
    """Return a metric that must be a whole number within bounds."""
    _check_number(metrics, name, least, most)
    if not isinstance(count := metrics[name], int):
        raise ValueError(f"its {name} is {count}; allowed: {_between(least, most)}")
    return count


def _between(least: float, most: float) -> str:
    return f"{least} or more" if most == inf else f"{least} to {most}"


def _counts(metrics: MetricRecord, name: str, length: int) -> list[Any]:
    values = metrics[name]
    if (
        not isinstance(values, list)
        or len(values) != length
        or not all(isinstance(value, int) and value >= 0 for value in values)
    ):
        raise ValueError(f"its {name} are {values}; allowed: {length} counts")
    return values


def _check_arrays(content: RecordDict, key: str, wanted: Mapping[str, Array]) -> None:
    record = content[key]
    if not isinstance(record, ArrayRecord):
        raise ValueError(f"its record {key} does not hold arrays")
    _check_names(key, record, wanted)
    if list(record) != list(wanted):
        raise ValueError(f"its {key} are in another order")
    for name, model in wanted.items():
        _check_array(name, record[name], model)


def _check_array(name: str, array: Array, model: Array) -> None:
    try:
        values = array.numpy()
    except Exception:  # the bytes are the client's, and so is any way to fail
        raise ValueError(f"its {name} cannot be read") from None
    found = f"{values.dtype} {list(values.shape)}"
    if found != (wanted := f"{model.dtype} {list(model.shape)}"):
        raise ValueError(f"its {name} is {found}, not {wanted}")
    if not np.isfinite(values).all():
        raise ValueError(f"its {name} holds NaN or Inf")
