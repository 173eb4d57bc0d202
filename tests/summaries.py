"""summary.json of some run."""

from typing import Any

from fairfal_flwr.runs.rows import Summary


def a_summary(**changes: Any) -> Summary:
    some: dict[str, Any] = {
        "run": "a",
        "finished": False,
        "strategy": "fairfal",
        "federation": "fedavg",
        "privacy": None,
        "data": "digits",
        "seed": 3,
        "seconds": 2.0,
        "cycles": (),
    }
    return Summary(**some | changes)
