"""The losses that a client can train with, by `train.objective`.

A file in this folder that registers an objective is found by being here.
"""

from importlib import import_module
from pkgutil import iter_modules

from fairfal_flwr.client.objectives.registry import (
    OBJECTIVES,
    RegisteredObjective,
    objective_of,
)

__all__ = ["OBJECTIVES", "RegisteredObjective", "objective_of"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
