"""Tensors and a few words about them in one file, which is whole or not there."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fairfal_flwr.files import replacing

__all__ = ["below", "read_tensors", "write_tensors"]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and its facts."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]
) -> None:
    """Put tensors and facts in the place of a file; a crash leaves the old or the new.

    Parameters
    ----------
    path : Path
        A safetensors file.
    tensors : Mapping of str to Tensor
        By name; no two share memory.
    facts : Mapping of str to str
        By name.
    """
    whole = {name: value.contiguous().cpu() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata=dict(facts))


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what has a prefix, by the names without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
