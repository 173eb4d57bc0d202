"""The command `fairfal`."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from fairfal_flwr import __version__
from fairfal_flwr.command import ledger
from fairfal_flwr.errors import UserError

__all__ = ["app"]

_FOLDERS = {"data-dir", "output-dir", "state-dir"}

app = typer.Typer(
    help="Federated active learning on Flower.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(ledger.app, name="ledger")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fairfal {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    """Federated active learning on Flower."""


@app.command()
def run(
    folder: Annotated[
        Path, typer.Argument(metavar="[APP]", help="Folder of the Flower app.")
    ] = Path(),
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            help="Overrides: a TOML file, or 'key=value key=\"text\"'. May be given "
            "more than once; the later wins.",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Clients that compute at the same time."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show all that Flower and Ray say.")
    ] = False,
) -> None:
    """Simulate a campaign on this machine, on a SuperLink of its own.

    Exits 0 only if the run completed, 1 if it failed, 2 if it was never started
    because of a mistake in the configuration.
    """
    try:
        status = _run(folder.resolve(), run_config or [], actors, verbose)
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    if status:
        _fail(status, 1)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the learning curves into this PNG.")
    ] = None,
) -> None:
    """Print tables (Markdown) of strategies side by side: mean ± sd over runs."""
    from fairfal_flwr.report.compare import comparison
    from fairfal_flwr.report.learning_curve import draw_learning_curve, read_summaries

    try:
        typer.echo(comparison(read_summaries(folders)), nl=False)
        if picture:
            draw_learning_curve(folders, picture)
    except UserError as error:
        _fail(str(error), 2)


@app.command()
def partition(
    folder: Annotated[
        Path, typer.Argument(metavar="[APP]", help="Folder of the Flower app.")
    ] = Path(),
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="Overrides, as for `fairfal run`."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The PNG to write.")
    ] = Path("partition.png"),
) -> None:
    """Draw how many images of each class every client would get.

    Nothing is trained and nobody is connected.
    """
    try:
        _partition(folder.resolve(), run_config or [], output.absolute())
    except UserError as error:
        _fail(str(error), 2)


def _partition(folder: Path, overrides: list[str], output: Path) -> None:
    """Deal the images and draw the table."""
    from fairfal_flwr.command.launch import merge_run_config
    from fairfal_flwr.config import RunConfig
    from fairfal_flwr.console import show_log
    from fairfal_flwr.data import partition_table
    from fairfal_flwr.files import replacing
    from fairfal_flwr.report.partition_map import draw_partition_map

    show_log()
    config = RunConfig.from_flat(merge_run_config(folder, overrides))
    counts, names = partition_table(config.image_spec(), config.partition_spec())
    data = config.data
    title = f"{data.name}: {data.partitioner}, alpha {data.alpha:g}, "
    title += f"imbalance {data.imbalance_ratio:g}, seed {config.partition_seed}"
    try:
        with replacing(output) as path:
            draw_partition_map(counts, names, path, title=title)
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror or error}.") from None
    typer.echo(f"{counts.sum()} images, {len(counts)} clients: {output}")


@app.command()
def doctor(
    superlink: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Check the way there.")
    ] = None,
    root_certificates: Annotated[
        Path | None, typer.Option(help="The CA's certificate.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="The SuperLink has no TLS.")
    ] = False,
    key: Annotated[Path | None, typer.Option(help="The SuperNode's key.")] = None,
    data_path: Annotated[Path | None, typer.Option(help="The images.")] = None,
    state_dir: Annotated[
        str, typer.Option(help="Where the ledgers go; else the default folder.")
    ] = "",
) -> None:
    """Check this host before it joins a federation.

    Exits 0 if nothing failed, 1 if something did, 2 for a mistake in the options.
    """
    from fairfal_flwr.command.doctor import Host, examine, report

    host = Host(superlink, root_certificates, insecure, key, data_path, state_dir)
    failures = 0
    try:
        for finding in examine(host):
            typer.echo(report(finding))
            failures += finding.verdict == "FAIL"
    except UserError as error:
        _fail(str(error), 2)
    if failures:
        _fail(f"{failures} of the checks failed.", 1)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"fairfal: {message}", err=True)
    raise typer.Exit(status)


def _run(
    folder: Path, overrides: list[str], actors: int | None, verbose: bool
) -> str | None:
    """Run the app; return what went wrong, or None."""
    # PyTorch and Flower take seconds to import; `fairfal --help` does without.
    from fairfal_flwr.command.launch import (
        COMPLETED,
        is_noise,
        local_superlink,
        merge_run_config,
        run_app,
    )
    from fairfal_flwr.config import RunConfig

    sys.path.append(str(folder))  # `query.strategy` may name a module in the app
    values = merge_run_config(folder, overrides)
    config = RunConfig.from_flat(values)
    for key in _FOLDERS & values.keys():
        values[key] = _absolute(values[key])
    cores = max(1, _cores() // config.threads)
    at_once = min(actors or cores, config.num_clients)

    def echo(line: str) -> None:
        if verbose or not is_noise(line):
            typer.echo(line)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_in_order)
    with local_superlink(verbose=verbose) as link:
        record = run_app(
            link,
            folder,
            values,
            num_supernodes=config.num_clients,
            actors=at_once,
            gpus_per_actor=_gpu_share(config.device, at_once),
            echo=echo,
        )
    if record["status"] == COMPLETED:
        return None
    return f"The run ended as {record['status']}: {record['status-details']}"


def _absolute(folder: str) -> str:
    """Return a folder as seen from here; empty stays empty."""
    return str(Path(folder).expanduser().absolute()) if folder else ""


def _exit_in_order(number: int, _frame: FrameType | None) -> NoReturn:
    """Let a signal unwind the stack, so that the SuperLink is stopped too."""
    sys.exit(128 + number)


def _cores() -> int:
    """Count the cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu_share(device: str, actors: int) -> float:
    """Return the share of a GPU for each of the actors."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return 0.0
    # Ray counts in 1/10000; rounding up would leave the last actor without a share.
    return min(1.0, int(10_000 * torch.cuda.device_count() / actors) / 10_000)
