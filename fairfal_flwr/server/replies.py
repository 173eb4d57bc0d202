"""What a client's reply must look like before anything is computed from it.

Whatever a client sends, the worst it can do here is to be left out of the round and
named: a strategy never sees a reply that does not fit the request. `problem_of` is the
gate, through which every reply goes; the checks for each type raise a `ValueError`.
"""

from collections.abc import Callable, Collection, Mapping
from io import BytesIO
from math import isfinite
from reprlib import Repr

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fairfal_flwr.console import one_line
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
    is_head,
)
from fairfal_flwr.server.counts import Limits

__all__ = [
    "MOST_IMAGES",
    "NORM_BIT",
    "Check",
    "check_evaluate_reply",
    "check_imbalance_reply",
    "check_poll_reply",
    "check_select_reply",
    "check_status_reply",
    "check_train_reply",
    "problem_of",
]

LARGEST_LOSS = 1e9  # beyond it, powers of it overflow in qfedavg
MOST_IMAGES = 10**9  # of one client; sums over clients stay far from 64 bits
MOST_SECONDS = 1e9  # 31 years
NORM_BIT = "norm_bit"  # from Flower's adaptiveclipping_mod
NPY = b"\x93NUMPY\x01\x00"  # what numpy.save begins with, a pickle or .npz never
LONGEST_HEADER = 1024  # of an array's bytes; numpy.save writes 128

# Raises ValueError for the content of a client's reply that cannot be used.
Check = Callable[[RecordDict, int], None]


def problem_of(reply: Message, check: Check, client: int) -> str | None:
    """Return in one line what is wrong with a reply, None if nothing is.

    Never raises: the reply is the client's, and so is any way to fail.

    Parameters
    ----------
    reply : Message
        As Flower hands it over.
    check : callable
        The check for its type.
    client : int
        Who sent it.
    """
    try:
        if reply.has_error():
            return _first_line(reply.error.reason)
        check(reply.content, client)
    except ValueError as error:
        return one_line(str(error))
    except Exception as error:
        return f"its reply cannot be read ({type(error).__name__})"
    return None


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
    num_samples = _check_count(metrics, "num-samples", 1, MOST_IMAGES)
    _check_asked(metrics, num_samples)
    _check_count(metrics, "on-gpu", 0, 1)
    _check_head(metrics)


def check_poll_reply(content: RecordDict, client: int, limits: Limits) -> None:
    """Check a reply to a status request while labels are waited for.

    Parameters
    ----------
    content : RecordDict
        The reply.
    client : int
        Who it must be from.
    limits : Limits
        What it can have asked for.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, StatusReply)
    _check_count(metrics, "client", client, client)
    _check_count(metrics, "num-samples", limits.samples, limits.samples)
    _check_asked(metrics, limits.asked)
    _check_count(metrics, "on-gpu", 0, 1)
    _check_head(metrics)


def check_imbalance_reply(content: RecordDict) -> None:
    """Check a reply to an imbalance request.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, ImbalanceReply)
    _check_number(metrics, "imbalance", 0, 1)
    if not metrics["imbalance"]:
        raise ValueError(f"its imbalance is {metrics['imbalance']}; allowed: above 0")
    _check_number(metrics, "seconds", 0, MOST_SECONDS)


def check_select_reply(content: RecordDict, limits: Limits) -> None:
    """Check a reply to a select request.

    Parameters
    ----------
    content : RecordDict
        The reply.
    limits : Limits
        What the run lets the client ask for.

    Raises
    ------
    ValueError
        One line that says what is wrong.
    """
    metrics = _only_metrics(content, SelectReply)
    budget = _check_count(metrics, "budget", 0, limits.selected)
    _check_count(metrics, "num-selected", 0, budget)
    labeled = _check_asked(metrics, limits.asked)
    unlabeled = _check_count(metrics, "num-unlabeled", 0, limits.samples)
    if labeled + unlabeled != limits.samples:
        raise ValueError(
            f"its num-labeled and num-unlabeled are {labeled} and {unlabeled}, not "
            f"{limits.samples} together"
        )
    _check_count(metrics, "global-query", -1, 1)
    for name in metrics:
        if name.endswith("seconds"):
            _check_number(metrics, name, 0, MOST_SECONDS)
    _check_head(metrics)


def check_train_reply(
    content: RecordDict,
    sent: ArrayRecord,
    most_labels: int,
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
    most_labels : int
        That the client can have; it cannot have trained on more.
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
    _check_number(metrics, "seconds", 0, MOST_SECONDS)
    _check_count(metrics, "num-examples", 1, most_labels)
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
    _check_count(metrics, "num-examples", 0, MOST_IMAGES)
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
        raise ValueError(f"its {what} lack {_listed(missing)}")
    if extra:
        raise ValueError(f"its {what} hold more: {_listed(extra)}")


def _check_number(metrics: MetricRecord, name: str, least: float, most: float) -> None:
    value = metrics[name]
    if isinstance(value, bool | list) or not isfinite(value):
        raise ValueError(f"its {name} is {_shown(value)}, not a finite number")
    if not least <= value <= most:
        raise ValueError(
            f"its {name} is {_shown(value)}; allowed: {least} to {most:.0f}"
        )


def _check_count(metrics: MetricRecord, name: str, least: int, most: int) -> int:
    """Return a metric that must be a whole number within bounds."""
    _check_number(metrics, name, least, most)
    if not isinstance(count := metrics[name], int):
        raise ValueError(f"its {name} is {count}; allowed: {least} to {most}")
    return count


def _check_asked(metrics: MetricRecord, most: int) -> int:
    """Check what became of the samples asked for; return how many are labeled."""
    names = ("num-labeled", "num-open", "num-set-aside")
    labeled, waiting, aside = (_check_count(metrics, name, 0, most) for name in names)
    if labeled + waiting + aside > most:
        raise ValueError(
            f"its {', '.join(names)} are {labeled}, {waiting} and {aside}; allowed: "
            f"{most} together"
        )
    return labeled


def _check_head(metrics: MetricRecord) -> None:
    if not is_head(metrics["ledger"]):
        raise ValueError(f"its ledger is {metrics['ledger']!r:.100}")


def _counts(metrics: MetricRecord, name: str, length: int) -> list[int]:
    values = metrics[name]
    if (
        not isinstance(values, list)
        or len(values) != length
        or not all(type(value) is int and 0 <= value <= MOST_IMAGES for value in values)
    ):
        raise ValueError(f"its {name} are {_shown(values)}; allowed: {length} counts")
    return [int(value) for value in values]


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
    """Check an array; nothing is decoded before type, shape and size are right."""
    wanted = f"{model.dtype} {list(model.shape)}"
    try:
        found, size = _said_by(array.data)
        is_whole = len(array.data) == size
    except Exception:  # the bytes are the client's, and so is any way to fail
        raise ValueError(f"its {name} cannot be read") from None
    for said in (found, f"{array.dtype} {list(array.shape)}"):
        if said != wanted:
            raise ValueError(f"its {name} is {_shorter(said)}, not {wanted}")
    if array.stype != model.stype or not is_whole:
        raise ValueError(f"its {name} cannot be read")
    if not np.isfinite(array.numpy()).all():
        raise ValueError(f"its {name} holds NaN or Inf")


def _said_by(data: bytes) -> tuple[str, int]:
    """Return type and shape that an array's bytes say, and how many there must be."""
    if not data.startswith(NPY):
        raise ValueError("not from numpy.save")
    head = BytesIO(data[:LONGEST_HEADER])
    head.seek(len(NPY))
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    size = dtype.itemsize
    for length in shape:
        size *= length
    return f"{dtype} {list(shape)}", head.tell() + size


def _first_line(text: object) -> str:
    lines = [line for line in str(text or "").splitlines() if line.strip()]
    return one_line(lines[0]) if lines else "failed without a reason"


def _listed(names: Collection[str]) -> str:
    first = sorted(names)[:5]
    return ", ".join(map(_shorter, first)) + ", …" * (len(names) > len(first))


def _shown(value: object) -> str:
    """Return a value of a reply for people, however large it is."""
    few = Repr()
    few.maxlist = few.maxlevel = 3
    return _shorter(few.repr(value))


def _shorter(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
