"""The commands `fairfal questions export` and `fairfal questions import`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fairfal_flwr.command.failing import fail
from fairfal_flwr.errors import UserError

__all__ = ["app"]

app = typer.Typer(
    help="Questions as files, for labeling with a tool of your own.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv or .json.")]
StateDir = Annotated[
    str, typer.Option(help="Where the ledgers are; else the default folder.")
]
Campaign = Annotated[
    str, typer.Option(help="Which campaign; else the one that asked last.")
]
Client = Annotated[int | None, typer.Option(min=0, help="Only this client of it.")]


@app.command("export")
def export(
    file: File,
    state_dir: StateDir = "",
    campaign: Campaign = "",
    client: Client = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only what is open, and nobody's answers.")
    ] = False,
    document_root: Annotated[
        Path, typer.Option(help="Label Studio's LOCAL_FILES_DOCUMENT_ROOT.")
    ] = Path("/"),
    label_studio_config: Annotated[
        Path | None,
        typer.Option(help="Also write Label Studio's labeling config to this file."),
    ] = None,
) -> None:
    """Write what the clients here ask, and what was answered, into a file."""
    from fairfal_flwr.annotate.askers import askers
    from fairfal_flwr.annotate.exchange import export_config, export_questions
    from fairfal_flwr.paths import state_root

    with _mistakes():
        asked = askers(state_root(state_dir), campaign, client)
        number = export_questions(
            asked, file, only_open=only_open, document_root=document_root.absolute()
        )
        typer.echo(f"{file}: {number} question(s)")
        if label_studio_config:
            export_config(asked, label_studio_config)
            typer.echo(f"{label_studio_config}: the labeling config")


@app.command("import")
def import_(
    file: File,
    state_dir: StateDir = "",
    campaign: Campaign = "",
    client: Client = None,
    annotator: Annotated[
        str, typer.Option(help="Who answered where the file does not say.")
    ] = "",
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Write also what was answered otherwise.")
    ] = False,
) -> None:
    """Write a file's answers into the ledgers, or nothing if it has a mistake."""
    from fairfal_flwr.annotate.askers import askers
    from fairfal_flwr.annotate.exchange import import_answers
    from fairfal_flwr.paths import state_root

    with _mistakes():
        asked = askers(state_root(state_dir), campaign, client)
        done = import_answers(asked, file, annotator=annotator, relabel=relabel)
    typer.echo(f"{done.written} answer(s) written, {done.known} were there already")
    if done.late:
        typer.echo(
            f"{done.late} of them to cycles whose training has begun: they count from "
            "the next cycle on"
        )
    if done.contradicted:
        typer.echo(
            f"{done.contradicted} were answered otherwise and stay; --relabel takes "
            "the file's"
        )


@contextmanager
def _mistakes() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        fail(str(error), 2)
