"""The clients' half of differential privacy: clipping, and the noise of `local`.

It does what Flower's client mods do, with two differences. Theirs divide by the norm of
an update that may be zero, and draw noise anew each time, so that a server which asks
400 times for the same update has it without noise by the mean.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from numpy.typing import NDArray

from fairfal_flwr.client.site_book import SiteBook
from fairfal_flwr.config import PrivacyConfig
from fairfal_flwr.messages import ARRAYS, CONFIG, METRICS

__all__ = ["with_privacy"]

App = Callable[[Message, Context], Message]
Arrays = list[NDArray[np.float32]]

# What Flower's wrappers around a strategy send and read.
NORM = "clipping_norm"
NORM_BIT = "norm_bit"


def with_privacy(
    app: App, config: PrivacyConfig, book: SiteBook, most_releases: int | None
) -> App:
    """Return an app that protects its reply to a train message.

    Parameters
    ----------
    app : callable
        Answers a message; its reply holds the weights after training.
    config : PrivacyConfig
        Names the mechanism; most leave the client alone.
    book : SiteBook
        Counts the releases of `local`.
    most_releases : int, optional
        How many of them the site makes in all.
    """
    mechanism = config.mechanism
    if mechanism not in ("client-fixed", "client-adaptive", "local"):
        return app

    def protected(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if reply.has_error():
            return reply
        sent = message.content.array_records[ARRAYS].to_numpy_ndarrays()
        record = reply.content.array_records[ARRAYS]
        norm = config.clipping_norm
        if mechanism != "local":
            norm = float(message.content.config_records[CONFIG][NORM])  # type: ignore[arg-type]
        update, is_longer = clip(record.to_numpy_ndarrays(), sent, norm)
        if mechanism == "local":
            content = _digest(message, [*sent, *update])
            noise = book.release(content, most_releases)
            add_noise(update, config, noise)
        if mechanism == "client-adaptive":
            reply.content.metric_records[METRICS][NORM_BIT] = int(is_longer)
        arrays = [old + change for old, change in zip(sent, update, strict=True)]
        reply.content[ARRAYS] = ArrayRecord(
            {
                name: Array(np.asarray(array))
                for name, array in zip(record.keys(), arrays, strict=True)
            }
        )
        return reply

    return protected


def clip(trained: Arrays, sent: Arrays, norm: float) -> tuple[Arrays, bool]:
    """Return the update, no longer than a norm in L2, and whether it was longer."""
    update = [new - old for new, old in zip(trained, sent, strict=True)]
    length = float(np.sqrt(sum(np.linalg.norm(part.flat) ** 2 for part in update)))
    factor = norm / length if length > norm else 1.0
    return [np.asarray(part * factor) for part in update], length > norm


def add_noise(
    update: Arrays, config: PrivacyConfig, noise: np.random.Generator
) -> None:
    """Add Gaussian noise of standard deviation Δ √(2 ln(1.25/δ)) / ε, in place."""
    sensitivity = config.sensitivity or 2 * config.clipping_norm
    deviation = sensitivity * math.sqrt(2 * math.log(1.25 / config.delta))
    for part in update:
        part += noise.normal(0, deviation / config.epsilon, part.shape)


def _digest(message: Message, arrays: Arrays) -> bytes:
    """Return a digest of what a release is made from: all of the request, the update.

    The same update for another request must have other noise: that it is the same is
    something that the noise should hide.
    """
    scalars = sorted(message.content.config_records[CONFIG].items())
    digest = hashlib.sha256(repr(scalars).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.digest()
