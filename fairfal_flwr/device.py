"""Where tensors live."""

from pathlib import Path

import torch

from fairfal_flwr.errors import UserError

__all__ = ["hidden_gpu", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device that the key `device` names.

    Raises
    ------
    UserError
        If it is "cuda" and this process can use no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "`device` is 'cuda' but this process can use no GPU; give clients one "
            '(flwr run --federation-config "client-resources-num-gpus=0.5 ...") or '
            "set device to 'auto' or 'cpu'."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def hidden_gpu() -> bool:
    """Tell whether the machine has an NVIDIA GPU that this process was not given."""
    present = any(Path("/dev").glob("nvidia[0-9]*"))
    return present and not torch.cuda.is_available()
