"""Flower's client mods, chosen by the run config instead of by a decorator."""

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod

from fairfal_flwr.config import PrivacyConfig

__all__ = ["with_privacy"]

App = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, App], Message]


def with_privacy(app: App, config: PrivacyConfig) -> App:
    """Return an app that protects its reply to a train message.

    Parameters
    ----------
    app : callable
        Answers a message; its reply holds the weights after training.
    config : PrivacyConfig
        Names the mechanism; most leave the client alone.
    """
    if (mod := _mod(config)) is None:
        return app
    return lambda message, context: mod(message, context, app)


def _mod(config: PrivacyConfig) -> Mod | None:
    match config.mechanism:
        case "client-fixed":
            return fixedclipping_mod
        case "client-adaptive":
            return adaptiveclipping_mod
        case "local":
            norm = config.clipping_norm
            sensitivity = config.sensitivity or 2 * norm
            return LocalDpMod(norm, sensitivity, config.epsilon, config.delta)
    return None
