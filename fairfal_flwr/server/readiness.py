"""What this host can tell against a run before anything starts."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import load_image_set, partition_rows
from fairfal_flwr.errors import UserError
from fairfal_flwr.models import Architecture
from fairfal_flwr.paths import nearest_existing, output_root, state_root
from fairfal_flwr.query.networks import dropout_layers
from fairfal_flwr.query.registry import resolve
from fairfal_flwr.server.checkpoint import find_checkpoint
from fairfal_flwr.server.evaluator import Evaluator

__all__ = ["check_network", "check_ready", "remarks"]


def check_ready(config: RunConfig) -> None:
    """Raise for what stands against a simulated run, whose clients are all here.

    Nothing is written, and nobody is asked.

    Raises
    ------
    UserError
        If the run cannot be gone on with, the images cannot be read or dealt, network,
        weights or device cannot be used, or a folder cannot be written.
    """
    find_checkpoint(config)
    evaluator = Evaluator(config)
    if evaluator.test_set.num_classes < 2:
        place = config.image_spec().place
        raise UserError(f"{place}, whose images are all of one class; two are needed.")
    check_network(config, evaluator.architecture)
    _check_can_write("output-dir", output_root(config.output_dir))
    _check_can_write("state-dir", state_root(config.state_dir))
    if config.data.server_test:
        partition_rows(config.image_spec(), config.partition_spec())


def check_network(config: RunConfig, architecture: Architecture) -> None:
    """Raise if the query strategy cannot work with the network.

    Raises
    ------
    UserError
        If the strategy needs dropout and the network has none.
    """
    name = config.query.strategy
    if not resolve(name).needs_dropout:
        return
    network: nn.Module = architecture.build(seed=0)
    if not dropout_layers(network):
        raise UserError(
            f"`query.strategy` is {name}, which needs a network with dropout, but "
            f"`model.name` is {config.model.name}; one that has it is "
            "torchvision:efficientnet_b0."
        )


def remarks(config: RunConfig, train_counts: Tensor) -> Iterator[str]:
    """Yield what is no mistake and may surprise, a line for each.

    Parameters
    ----------
    config : RunConfig
        The run's.
    train_counts : Tensor, shape (C,), int64
        Training images of each class at all clients (`Evaluator.train_counts`).
    """
    if kept := int(train_counts.sum()):
        total = len(load_image_set(config.image_spec()).train_images)
        if kept < total:
            yield (
                f"{kept} of {total} training images are used: the long tail, "
                f"data.imbalance-ratio = {config.data.imbalance_ratio:g}, leaves out "
                f"{total - kept}"
            )
    campaign = config.campaign
    enough = math.ceil(1 / campaign.budget - 1e-9)
    if campaign.num_cycles > enough:
        yield (
            f"all is labeled after about {enough} cycles of campaign.budget = "
            f"{campaign.budget:g}, and the run ends then, not after "
            f"campaign.num-cycles = {campaign.num_cycles}"
        )


def _check_can_write(key: str, folder: Path) -> None:
    """Raise if a folder cannot be written, or made where it is not there."""
    there = nearest_existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is no folder" if not there.is_dir() else "cannot be written"
        raise UserError(f"`{key}` is {str(folder)!r}, but {there} {what}.")
