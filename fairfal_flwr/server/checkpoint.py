"""The checkpoint: all that a campaign needs in order to go on, in one file.

Tensors are the weights and what the aggregation strategy remembers; all else is JSON in
the file's metadata. It is replaced as a whole, so a reader finds the last one or the
one before, and it has a digest, so a damaged one is noticed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from fairfal_flwr.config import CHANGEABLE, RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import output_root
from fairfal_flwr.runs.reader import read_run
from fairfal_flwr.runs.writer import CHECKPOINT
from fairfal_flwr.server.state import CampaignState
from fairfal_flwr.tensor_file import below, read_tensors, write_tensors

__all__ = [
    "Checkpoint",
    "find_checkpoint",
    "read_checkpoint",
    "resumed_folder",
    "write_checkpoint",
]

FORMAT = 1
WEIGHTS, MEMORY = "weights/", "memory/"
LIST = "[]"  # behind the name of a list of arrays
BY_CLIENT = ("samples", "labels", "most_labels", "ledgers")  # JSON's keys are text


@dataclass(frozen=True)
class Checkpoint:
    """A campaign between two steps.

    Parameters
    ----------
    config : Mapping of str
        The run's, flat.
    state : CampaignState
        Where it stands.
    memory : dict of str
        `Federation.state_dict()`.
    sizes : Mapping of str to int
        Bytes of the run's files that only grow; what is behind them came later.
    """

    config: Mapping[str, Any]
    state: CampaignState
    memory: dict[str, Any]
    sizes: Mapping[str, int]


def find_checkpoint(config: RunConfig) -> Checkpoint | None:
    """Return where the run that `campaign.resume` names is to go on.

    Returns
    -------
    Checkpoint or None
        None where the key is empty: a new run.

    Raises
    ------
    UserError
        If there is none to go on from, the run has nothing left to do, or the config
        contradicts it.
    """
    if not config.campaign.resume:
        return None
    folder = resumed_folder(config)
    checkpoint = read_checkpoint(folder)
    if problems := config.forbidden_changes(checkpoint.config):
        raise UserError(
            f"Cannot go on with {folder}: {'; '.join(problems)}; allowed to change: "
            f"{', '.join(sorted(CHANGEABLE))}."
        )
    cycle, asked = checkpoint.state.cycle, config.campaign.num_cycles
    summary = read_run(folder).summary
    is_finished = summary is not None and summary.finished
    if asked < cycle + is_finished:
        done = "has finished" if is_finished else "is in"
        raise UserError(
            f"Cannot go on with {folder}: it {done} cycle {cycle} and "
            f"`campaign.num-cycles` is {asked}; allowed: >= {cycle + is_finished}."
        )
    return checkpoint


def resumed_folder(config: RunConfig) -> Path:
    """Return the folder that `campaign.resume` means: a path, or a name among runs."""
    return output_root(config.output_dir) / Path(config.campaign.resume).expanduser()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a run.

    Raises
    ------
    UserError
        If the file cannot be written; the last checkpoint stays.
    """
    state = checkpoint.state
    tensors = {f"{WEIGHTS}{name}": value for name, value in state.weights.items()}
    memory = dict(_flat(checkpoint.memory))
    arrays = {n: value for n, value in memory.items() if isinstance(value, np.ndarray)}
    tensors |= {f"{MEMORY}{name}": torch.tensor(a) for name, a in arrays.items()}
    facts = {
        "order": list(tensors),  # of which a safetensors file knows nothing
        "format": FORMAT,
        "config": dict(checkpoint.config),
        "state": asdict(replace(state, weights={})),
        "memory": {n: value for n, value in memory.items() if n not in arrays},
        "sizes": dict(checkpoint.sizes),
    }
    text = json.dumps(facts)
    metadata = {"campaign": text, "digest": _digest(text, tensors)}
    try:
        write_tensors(folder / CHECKPOINT, tensors, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot write {folder / CHECKPOINT}: {error}; the last one is still good: "
            "make room and go on from it."
        ) from None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint of a run.

    Raises
    ------
    UserError
        If there is none, it is damaged, or its format is not known.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise UserError(
            f"Cannot go on with {folder}: it has no {CHECKPOINT}, which a run writes "
            "once it has met its clients; start it anew."
        )
    try:
        tensors, metadata = read_tensors(path)
        text = metadata["campaign"]
        is_whole = metadata["digest"] == _digest(text, tensors)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (SafetensorError, KeyError, ValueError):
        is_whole = False
    if not is_whole:
        raise UserError(f"{path} is damaged; put a copy in its place or start anew.")
    facts = json.loads(text)
    if facts["format"] != FORMAT:
        raise UserError(f"{path} has the format {facts['format']}; known is {FORMAT}.")
    tensors = {name: tensors[name] for name in facts["order"]}
    return Checkpoint(
        facts["config"],
        _state(facts["state"], below(WEIGHTS, tensors)),
        _nested(_arrays(below(MEMORY, tensors)) | facts["memory"]),
        facts["sizes"],
    )


def _state(facts: dict[str, Any], weights: dict[str, Tensor]) -> CampaignState:
    known = {field.name: facts[field.name] for field in fields(CampaignState)}
    for name in BY_CLIENT:
        known[name] = {int(client): n for client, n in facts[name].items()}
    return CampaignState(**known | {"weights": weights})


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings by path; an empty mapping is a leaf.

    A list of arrays is a mapping from places to arrays.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}/")
        elif isinstance(value, list) and any(isinstance(v, np.ndarray) for v in value):
            yield from _flat(
                {str(i): v for i, v in enumerate(value)}, f"{prefix}{key}{LIST}/"
            )
        else:
            yield prefix + key, value


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return _with_lists(tree)


def _with_lists(tree: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for key, value in tree.items():
        if key.endswith(LIST):
            whole[key.removesuffix(LIST)] = [value[str(i)] for i in range(len(value))]
        else:
            whole[key] = _with_lists(value) if isinstance(value, dict) else value
    return whole


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value.numpy() for name, value in tensors.items()}
