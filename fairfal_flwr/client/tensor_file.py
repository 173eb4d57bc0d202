"""Tensors that a client keeps between two messages, in a file beside its ledger.

A deployed client is a new process for every message, and simulated clients share
processes, so nothing may live in memory alone.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing

__all__ = ["read_tensors", "write_tensors"]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the tensors of a file, on the CPU, and its facts; None without a file."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def write_tensors(
    path: Path, what: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]
) -> None:
    """Put tensors and facts in place of a file; a crash leaves the old or the new.

    Parameters
    ----------
    path : Path
        A safetensors file.
    what : str
        What it holds, for people.
    tensors : Mapping[str, Tensor]
        By name.
    facts : Mapping[str, str]
        By name.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    try:
        with replacing(path) as temporary:
            whole = {name: value.contiguous().cpu() for name, value in tensors.items()}
            save_file(whole, temporary, metadata=dict(facts))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot write {what} {path}: {error}; set `state-dir` to a folder that "
            "can be written."
        ) from None
