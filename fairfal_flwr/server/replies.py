"""What a client's reply must look like before anything is computed from it.

Whatever a client sends, the worst it can do here is to be left out of the round and
named: a strategy never sees a reply that does not fit the request.
"""

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fairfal_flwr.messages import ARRAYS, METRICS, VARIATE

__all__ = ["NORM_BIT", "check_evaluate_reply", "check_train_reply"]

NORM_BIT = "norm_bit"  # from Flower's adaptiveclipping_mod

TRAIN_METRICS = frozenset({"num-examples", "loss", "seconds"})
EVALUATE_METRICS = frozenset(
    {"num-examples", "loss", "accuracy", "class-counts", "class-hits"}
)


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
    metrics = _metrics(content, TRAIN_METRICS | ({NORM_BIT} if norm_bit else set()))
    for name in metrics:
        _check_number(metrics, name)
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
    _check_names("records", content, {METRICS})
    metrics = _metrics(content, EVALUATE_METRICS)
    for name in ("num-examples", "loss", "accuracy"):
        _check_number(metrics, name)
    counts, hits = (
        _counts(metrics, name, num_classes) for name in ("class-counts", "class-hits")
    )
    if any(hit > count for hit, count in zip(hits, counts, strict=True)):
        raise ValueError("it has more hits than test images")
    if metrics["num-examples"] != sum(counts):
        raise ValueError(f"its num-examples is {metrics['num-examples']}, not the sum")


def _metrics(content: RecordDict, names: Collection[str]) -> MetricRecord:
    metrics = content[METRICS]
    if not isinstance(metrics, MetricRecord):
        raise ValueError(f"its record {METRICS} does not hold metrics")
    _check_names("metrics", metrics, names)
    return metrics


def _check_names(what: str, found: Collection[str], wanted: Collection[str]) -> None:
    missing, extra = set(wanted) - set(found), set(found) - set(wanted)
    if missing:
        raise ValueError(f"its {what} lack {', '.join(sorted(missing))}")
    if extra:
        raise ValueError(f"its {what} hold more: {', '.join(sorted(extra))}")


def _check_number(metrics: MetricRecord, name: str) -> None:
    value = metrics[name]
    if isinstance(value, bool | list) or not isfinite(value):
        raise ValueError(f"its {name} is {value}, not a finite number")


def _check_count(metrics: MetricRecord, name: str, least: int, most: int) -> None:
    value = metrics[name]
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"its {name} is {value}; allowed: {least} to {most}")


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
