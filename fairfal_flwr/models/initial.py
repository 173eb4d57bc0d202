"""Starting from a file of weights instead of a random initialization."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fairfal_flwr.errors import UserError
from fairfal_flwr.models.classifier import Classifier

__all__ = ["start_from"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_NAMED = 3


def start_from(model: Classifier, weights: str, *, name: str) -> None:
    """Load a file of weights into a network.

    The file holds a state dict of this package, or of torchvision for one of its
    networks. The head is left as it is where the file has another number of classes.

    Parameters
    ----------
    model : Classifier
        Changed in place.
    weights : str
        The file, .safetensors or what PyTorch saves.
    name : str
        What a message calls the network.

    Raises
    ------
    UserError
        If the file cannot be read or is not of this network.
    """
    own = model.state_dict()
    found = _our_names(_read(weights), own)
    heads = [key for key in own if key.startswith("head.")]
    if any(key in found and found[key].shape != own[key].shape for key in heads):
        found = {key: value for key, value in found.items() if key not in heads}
    wrong = [
        key
        for key, value in own.items()
        if (key not in heads or key in found)
        and (key not in found or found[key].shape != value.shape)
    ]
    wrong += [key for key in found if key not in own]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise UserError(
            f"`model.weights` is {weights!r}, which is not of {name!r}: "
            f"{', '.join(wrong[:_NAMED])}{more} differ."
        )
    model.load_state_dict(found, strict=False)


def _our_names(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename torchvision's entries; its last linear layer is our head."""
    prefix = "backbone.network."
    if found.keys() & own.keys() or not any(key.startswith(prefix) for key in own):
        return dict(found)
    renamed = {f"{prefix}{key}": value for key, value in found.items()}
    # The backbone has no parameters where the head was: what is left is the head.
    left = [key for key in renamed if key not in own]
    for key in left:
        kind = key.rpartition(".")[2]
        if len(left) <= 2 and f"head.{kind}" in own:
            renamed[f"head.{kind}"] = renamed.pop(key)
    return renamed


def _read(weights: str) -> dict[str, Tensor]:
    """Read a state dict; nothing in the file can run."""
    path = Path(weights).expanduser().absolute()
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in _WRAPPERS:
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        if not isinstance(content, dict) or not all(
            isinstance(value, Tensor) for value in content.values()
        ):
            raise ValueError("it is no state dict")
    except OSError as error:
        problem = error.strerror or str(error)
    except SafetensorError as error:
        problem = str(error)
    except pickle.UnpicklingError:  # whose words say how to run what is in the file
        problem = "it holds more than tensors, or is no file of weights"
    except Exception as error:  # PyTorch answers a strange file in many ways
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
    else:
        return content
    raise UserError(
        f"`model.weights` is {weights!r}, but {str(path)!r} cannot be read: "
        f"{problem.rstrip('.')}."
    )
