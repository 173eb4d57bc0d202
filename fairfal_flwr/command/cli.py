"""The command `fairfal`."""

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fairfal_flwr import __version__
from fairfal_flwr.command import (
    annotate,
    ledger,
    listing,
    questions,
    report,
    runs,
    site,
    trial,
    watch,
)
from fairfal_flwr.command.arguments import AppFolder, Overrides
from fairfal_flwr.command.failing import OneLine, fail
from fairfal_flwr.errors import UserError

if TYPE_CHECKING:
    from fairfal_flwr.config import RunConfig

__all__ = ["app"]

_FOLDERS = {"data-dir", "output-dir", "state-dir", "campaign.resume"}
_RESULTS = "results: "  # how the ServerApp's first line about the run's folder begins

app = typer.Typer(
    cls=OneLine,
    help="Federated active learning on Flower.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(ledger.app, name="ledger")
app.add_typer(questions.app, name="questions")
app.command()(annotate.annotate)
for command in (
    report.report,
    runs.runs,
    watch.watch,
    site.site,
    site.clean,
    listing.strategies,
    listing.keys,
    listing.config,
):
    app.command()(command)
app.command("try")(trial.try_strategy)


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
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[APP]", help="Folder of the Flower app."),
    ] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            help="Overrides: a TOML file, or 'key=value key=\"text\"'. May be given "
            "more than once; the later wins.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run from its checkpoint: its folder, or its name in "
            "the output folder. Its configuration is the run's own.",
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
    """Simulate a campaign on this machine, for this user alone.

    Exits 0 only if the run completed, 1 if it failed, 2 if it was never started
    because of a mistake in the configuration, and 130 (Ctrl-C), 143 (SIGTERM) or 129
    (a closed terminal) if it was stopped. Then the last line is the command that goes
    on.
    """
    try:
        folder = _app_folder(words or ["."])
        asked = _Asked(folder, run_config or [], resume, actors, verbose)
        with _stopped_by_signals():
            reason = _run(asked)
    except UserError as error:
        fail(str(error), 2)
    except _Stopped as stopped:
        _leave(asked, "stopped", 128 + stopped.number)
    if reason:
        _leave(asked, f"the run failed: {reason}", 1)


def _app_folder(words: list[str]) -> Path:
    """Return the app's folder; who wrote more, or something else, forgot a `-c`."""
    for word in words:
        if "=" in word or word.endswith(".toml"):
            raise UserError(f"{word!r} is no app's folder; did you mean `-c {word}`?")
    if len(words) > 1:
        raise UserError(f"{len(words)} folders of apps, {' '.join(words)}; allowed: 1.")
    return Path(words[0])


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Where; it must not be there yet.")],
) -> None:
    """Write a copy of the app that can be edited: files, config, presets, package.

    Example: fairfal new trial && cd trial && fairfal run
    """
    from fairfal_flwr.command.packaged import write_app

    try:
        write_app(folder)
    except UserError as error:
        fail(str(error), 2)
    typer.echo(f"written: {folder}; next: cd {folder} && fairfal run")


@dataclass
class _Asked:
    """What `fairfal run` was asked to do, and where the run's files are, once known."""

    app: Path
    overrides: list[str]
    resume: str | None
    actors: int | None
    verbose: bool
    results: Path | None = None


class _Stopped(BaseException):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let a signal unwind the stack, which kills the run, also one at its start.

    A signal that is ignored, as under `nohup`, stays so.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    words = [b"fairfal: stopping ...\n"]

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        with suppress(OSError, IndexError):  # the terminal may be gone; once is enough
            os.write(2, words.pop())
        raise _Stopped(number)

    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    after: dict[signal.Signals, Any] = dict(before)
    try:
        yield
    except _Stopped:
        after = dict.fromkeys(numbers, signal.SIG_IGN)  # the last words are to be said
        raise
    finally:
        for number in numbers:
            signal.signal(number, after[number])


def _leave(asked: _Asked, what: str, status: int) -> NoReturn:
    """Say how it ended and, in the last line, the exact command that goes on."""
    lines = [f"fairfal: {what}"]
    if asked.results is not None and _has_checkpoint(asked.results):
        lines = [f"{lines[0]}; this goes on from the last checkpoint:"]
        lines += [_resuming(asked, asked.results)]
    elif status > 128:
        lines = [f"{lines[0]} before the first checkpoint; this starts again:"]
        lines += [shlex.join([_program(), *sys.argv[1:]])]
    with suppress(OSError):
        typer.echo("\n".join(lines), err=True)
    raise typer.Exit(status)


def _has_checkpoint(results: Path) -> bool:
    from fairfal_flwr.runs.writer import CHECKPOINT

    return (results / CHECKPOINT).is_file()


def _resuming(asked: _Asked, results: Path) -> str:
    """Return the command that goes on with a run."""
    words = [_program(), "run"]
    if asked.app != Path():
        words += [str(asked.app)]
    words += ["--resume", str(results)]
    if asked.actors:
        words += ["--actors", str(asked.actors)]
    if asked.verbose:
        words += ["--verbose"]
    return shlex.join(words)


def _program() -> str:
    """Return this program's name if the shell finds it by that, else its path."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    same = found is not None and Path(found).resolve() == program.resolve()
    return program.name if same else sys.argv[0]


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, or of many of them.")
    ],
    picture: Annotated[
        Path | None,
        typer.Option(help="Also draw the learning curves: a PNG, SVG or PDF."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="What the others are compared with, pair by pair.")
    ] = "",
    target: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, help="Accuracy to reach, %; else what all of them reach."
        ),
    ] = None,
) -> None:
    """Print tables (Markdown) of runs side by side: mean ± sd over seeds.

    Runs belong together that differ in nothing but the seed; each other key in which
    they differ is part of the name. Runs of one seed and one partition are pairs, by
    which the strategies are compared with the baseline.
    """
    try:
        _compare(folders, picture, baseline, target)
    except UserError as error:
        fail(str(error), 2)


def _compare(
    folders: list[Path], picture: Path | None, baseline: str, target: float | None
) -> None:
    from fairfal_flwr.report.compare import comparison
    from fairfal_flwr.report.groups import read_groups
    from fairfal_flwr.report.learning_curve import draw_learning_curve
    from fairfal_flwr.report.pictures import check_ending

    if picture:
        check_ending(picture)
    groups = read_groups(folders)
    for line in groups.left_out:
        typer.echo(f"fairfal: {line}", err=True)
    share = None if target is None else target / 100
    typer.echo(comparison(groups, baseline, share), nl=False)
    if picture:
        with _written(picture) as path:
            draw_learning_curve(groups.runs, path)


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """Give a path to write; what is there stays until all of the new is."""
    from fairfal_flwr.files import replacing

    try:
        with replacing(file) as path:
            yield path
    except OSError as error:
        raise UserError(f"Cannot write {file}: {error.strerror or error}.") from None


@app.command()
def partition(
    folder: AppFolder = Path(),
    run_config: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The PNG, SVG or PDF to write.")
    ] = Path("partition.png"),
    table: Annotated[
        Path | None,
        typer.Option(help="Also write the counts: a line per client, comma-separated."),
    ] = None,
) -> None:
    """Draw how many images of each class every client would get.

    Nothing is trained and nobody is connected.
    """
    try:
        _partition(folder, run_config or [], output.absolute(), table)
    except UserError as error:
        fail(str(error), 2)


def _partition(
    folder: Path, overrides: list[str], output: Path, table: Path | None
) -> None:
    """Deal the images, draw the table and write it where that is asked for."""
    import numpy as np

    from fairfal_flwr.command.run_config import find_app, merge_run_config
    from fairfal_flwr.config import RunConfig
    from fairfal_flwr.console import show_log
    from fairfal_flwr.data import partition_table
    from fairfal_flwr.report.partition_map import draw_partition_map
    from fairfal_flwr.report.pictures import check_ending

    show_log()
    check_ending(output)
    config = RunConfig.from_flat(merge_run_config(find_app(folder), overrides))
    counts, names = partition_table(config.image_spec(), config.partition_spec())
    data = config.data
    title = f"{data.name}: {data.partitioner}, alpha {data.alpha:g}, "
    title += f"imbalance {data.imbalance_ratio:g}, seed {config.partition_seed}"
    with _written(output) as path:
        draw_partition_map(counts, names, path, title=title)
    if table:
        with _written(table.absolute()) as path:
            np.savetxt(path, counts, fmt="%d", delimiter=",")
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
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            "--run-config",
            "-c",
            help="What the run says of the images, as for `fairfal run`; without it "
            "they are taken for `folder`, or `npz` by the ending.",
        ),
    ] = None,
    state_dir: Annotated[
        str, typer.Option(help="Where the ledgers go; else the default folder.")
    ] = "",
    policy: Annotated[
        str, typer.Option(help="The site's policy; else that of FAIRFAL_POLICY.")
    ] = "",
) -> None:
    """Check this host before it joins a federation.

    Exits 0 if nothing failed, 1 if something did, 2 for a mistake in the options.
    """
    from fairfal_flwr.command.doctor import Host, examine, report

    host = Host(
        superlink=superlink,
        root_certificates=root_certificates,
        insecure=insecure,
        key=key,
        data_path=data_path,
        run_config=tuple(run_config or ()),
        state_dir=state_dir,
        policy=policy,
    )
    failures = 0
    try:
        for finding in examine(host):
            typer.echo(report(finding))
            failures += finding.verdict == "FAIL"
    except UserError as error:
        fail(str(error), 2)
    if failures:
        fail(f"{failures} of the checks failed.", 1)


def _run(asked: _Asked) -> str | None:
    """Run the app; return why it did not complete, or None."""
    from fairfal_flwr.command.run_config import find_app
    from fairfal_flwr.config import RunConfig

    folder = find_app(asked.app)
    sys.path.append(str(folder))  # `query.strategy` may name a module in the app
    values = _values(asked, folder)
    config = RunConfig.from_flat(values)
    for key in _FOLDERS & values.keys():
        values[key] = _absolute(values[key])
    cores = max(1, _cores() // config.threads)
    at_once = min(asked.actors or cores, config.num_clients)
    typer.echo(_beginning(config, at_once))
    # Flower takes seconds to import; a mistake is answered without.
    from fairfal_flwr.command.launch import build_bundle, is_noise, run_app
    from fairfal_flwr.command.packaged import with_package

    with with_package(folder) as whole:
        bundle = build_bundle(whole)
    _check_travels(config.query.strategy, folder, bundle)

    pages = [_page] if config.annotation.by == "person" else []
    with ExitStack() as stack:

        def echo(line: str) -> None:
            if line.startswith(_RESULTS):
                results = Path(line.removeprefix(_RESULTS))
                asked.results = results  # before it is said: a signal may follow
            if asked.verbose or not is_noise(line):
                typer.echo(line)
            while line.startswith(_RESULTS) and pages:  # it comes again at the end
                stack.enter_context(pages.pop()(values["state-dir"], results.name))

        return run_app(
            bundle,
            values,
            num_supernodes=config.num_clients,
            actors=at_once,
            gpus_per_actor=_gpu_share(config.device, at_once),
            verbose=asked.verbose,
            echo=echo,
        )


def _beginning(config: "RunConfig", at_once: int) -> str:
    """Say what is begun; Flower and PyTorch then take some seconds to start."""
    campaign = config.campaign
    return (
        f"starting {config.data.name}, {config.query.strategy}, seed {config.seed}: "
        f"{config.num_clients} clients, {at_once} at a time; cycles x rounds: "
        f"{campaign.num_cycles} x {campaign.num_rounds} ..."
    )


def _page(state_dir: str, campaign: str) -> AbstractContextManager[None]:
    """Serve the page on which people label what all clients of a run ask for."""
    from fairfal_flwr.annotate.serve import serving
    from fairfal_flwr.annotate.site import Site
    from fairfal_flwr.paths import state_root

    site = Site(state_root(state_dir), campaign)
    return serving(site, "127.0.0.1", 0, lambda line: typer.echo(f"label at {line}"))


def _values(asked: _Asked, folder: Path) -> dict[str, Any]:
    """Return the run config, of a run to go on with where there is one."""
    from fairfal_flwr.command.resume import find_run, read_config, refuse_to_resume
    from fairfal_flwr.command.run_config import merge_run_config

    values = merge_run_config(folder, asked.overrides)
    if asked.resume is None:
        return values
    run = find_run(asked.resume, values.get("output-dir", ""))
    values = merge_run_config(folder, asked.overrides, read_config(run))
    refuse_to_resume(run, values)
    asked.results = run.folder
    return values | {"campaign.resume": str(run.folder)}


def _check_travels(strategy: str, app: Path, bundle: bytes) -> None:
    """Raise if a strategy of the user's own lies in the app and not in its bundle."""
    from fairfal_flwr.command.launch import names_in

    file = strategy.partition(":")[0].replace(".", "/") + ".py"
    if ":" in strategy and (app / file).is_file() and file not in names_in(bundle):
        raise UserError(
            f"`query.strategy` is {strategy}, but {file} is not in the app's bundle: "
            "move it into examples/, or name it in `fab-include` of pyproject.toml."
        )


def _absolute(folder: str) -> str:
    """Return a folder as seen from here; empty stays empty."""
    return str(Path(folder).expanduser().absolute()) if folder else ""


def _cores() -> int:
    """Count the cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu_share(device: str, actors: int) -> float:
    """Return the share of a GPU for each of the actors."""
    if device == "cpu" or not _may_have_gpu():
        return 0.0
    import torch

    if not torch.cuda.is_available():
        return 0.0
    # Ray counts in 1/10000; rounding up would leave the last actor without a share.
    return min(1.0, int(10_000 * torch.cuda.device_count() / actors) / 10_000)


def _may_have_gpu() -> bool:
    """Tell whether it is worth the seconds to ask PyTorch for a GPU of NVIDIA's."""
    names = {path.name for path in Path("/dev").glob("*")}
    is_there = any(name.startswith("nvidia") or name == "dxg" for name in names)
    return is_there or sys.platform != "linux"
