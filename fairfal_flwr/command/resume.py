"""What it takes to go on with a run: its folder, its config, and that it may go on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import output_root
from fairfal_flwr.runs.lock import hold, release
from fairfal_flwr.runs.reader import Run, read_run
from fairfal_flwr.runs.writer import CHECKPOINT

__all__ = ["find_run", "read_config", "refuse_to_resume"]


def find_run(name: str, output_dir: str) -> Run:
    """Return a run by its folder, or by its name among the results.

    Raises
    ------
    UserError
        If there is none.
    """
    places = [Path(name).expanduser().absolute(), output_root(output_dir) / name]
    for folder in places:
        if folder.is_dir():
            return read_run(folder)
    raise UserError(
        f"`--resume` is {name}; allowed: a run's folder, or its name in "
        f"{output_root(output_dir)}."
    )


def read_config(run: Run) -> dict[str, Any]:
    """Return a run's configuration by dotted key.

    Raises
    ------
    UserError
        If it has none.
    """
    if run.config is None:
        raise UserError(f"Cannot resume {run.folder}: it has no config.toml.")
    return run.config


def refuse_to_resume(run: Run, values: Mapping[str, Any]) -> None:
    """Raise unless a run can go on under a run config.

    Parameters
    ----------
    run : Run
        The run.
    values : Mapping[str, Any]
        By dotted key, as it would go on.

    Raises
    ------
    UserError
        If it is finished, still goes on, or has no checkpoint.
    """
    if run.summary is not None and run.summary.finished:
        cycles = len(run.summary.cycles)
        if values["campaign.num-cycles"] <= cycles:
            raise UserError(
                f"Cannot resume {run.folder}: it is finished; for more cycles say "
                f"-c campaign.num-cycles={cycles + 1} or more."
            )
    release(hold(run.folder))
    if not (run.folder / CHECKPOINT).is_file():
        raise UserError(
            f"Cannot resume {run.folder}: it stopped before its first checkpoint; "
            "start it anew."
        )
