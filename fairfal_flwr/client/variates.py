"""A client's control variate between rounds, on disk.

A deployed client is a new process for every message, and simulated clients share
processes, so the variate lives in one file per client and campaign, beside the ledger.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing
from fairfal_flwr.messages import Weights

__all__ = ["VariateFile"]


class VariateFile:
    """Keeps the last variate that the server is known to have used, and the one after.

    A reply may be lost or dropped, and the server's mean of all variates is right only
    if client and server agree which updates count. So each update has a name, the
    server says which one it used last, and everything newer is forgotten.

    Parameters
    ----------
    path : Path
        The file, a safetensors file; missing until the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> Weights:
        """Return the variate of an update; empty, hence zero, if there is none.

        Parameters
        ----------
        name : str
            The update; "" stands for the start.
        """
        if not name or not self.path.exists():
            return {}
        with safe_open(self.path, framework="pt") as file:
            slots = file.metadata() or {}
            slot = next((s for s, held in slots.items() if held == name), None)
            prefix = f"{slot}/"
            return {
                key.removeprefix(prefix): file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118 (not a mapping)
                if key.startswith(prefix)
            }

    def write(self, used: tuple[str, Weights], new: tuple[str, Weights]) -> None:
        """Keep two variates with the names of their updates, and forget all others.

        Parameters
        ----------
        used : tuple of str and Weights
            The update that the server used last.
        new : tuple of str and Weights
            The update that is about to be sent.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        slots: Mapping[str, tuple[str, Weights]] = {"used": used, "new": new}
        tensors = {
            f"{slot}/{key}": value.contiguous().cpu()
            for slot, (_, weights) in slots.items()
            for key, value in weights.items()
        }
        try:
            with replacing(self.path) as path:
                names = {slot: name for slot, (name, _) in slots.items()}
                save_file(tensors, path, metadata=names)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"Cannot write the control variate {self.path}: {error}; set "
                "`state-dir` to a folder that can be written."
            ) from None
