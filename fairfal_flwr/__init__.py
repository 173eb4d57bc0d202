"""Federated active learning on Flower: FairFAL and its companions."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("fairfal-flwr")
except PackageNotFoundError:  # a Flower app bundle carries the code, not its metadata
    __version__ = "unpackaged"
