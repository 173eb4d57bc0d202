"""A report as files: one page that needs nothing else, its pictures and its tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from fairfal_flwr import __version__
from fairfal_flwr.files import replacing
from fairfal_flwr.report.content import Section, sections_of
from fairfal_flwr.report.facts import Facts
from fairfal_flwr.report.groups import Groups
from fairfal_flwr.report.palette import (
    DARK,
    DARK_PAPER,
    INK,
    LIGHT,
    LIGHT_PAPER,
    svg_of,
)
from fairfal_flwr.report.pictures import save_figure

__all__ = ["MARKDOWN", "PAGE", "write_report"]

PAGE, MARKDOWN = "report.html", "report.md"


def write_report(
    groups: Groups, facts: Mapping[str, Facts], folder: Path, baseline: str = ""
) -> None:
    """Write report.html, report.md and a PNG of each picture.

    Parameters
    ----------
    groups, facts, baseline
        See `sections_of`.
    folder : Path
        Created where it is not there. The page comes last.

    Raises
    ------
    UserError
        If the runs label different shares of the images.
    OSError
        If a file cannot be written.
    """
    sections = sections_of(groups, facts, baseline)
    title = _title(groups)
    page = _html(title, sections)
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            with replacing(folder / f"{picture.name}.png") as path:
                save_figure(picture.figure, path)
    for name, text in ((MARKDOWN, _markdown(title, sections)), (PAGE, page)):
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")


def _title(groups: Groups) -> str:
    data = ", ".join(dict.fromkeys(summary.data for summary in groups.summaries))
    return f"{data}: {'; '.join(groups.finished)}"


def _html(title: str, sections: Sequence[Section]) -> str:
    folder = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    templates = jinja2.Environment(
        loader=folder,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return templates.get_template(PAGE).render(
        title=title,
        sections=sections,
        svg_of=lambda figure: Markup(svg_of(figure)),
        light=LIGHT,
        dark=DARK,
        ink=INK,
        papers=(LIGHT_PAPER, DARK_PAPER),
        version=__version__,
    )


def _markdown(title: str, sections: Sequence[Section]) -> str:
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for words in section.words:
            lines += [words, ""]
        for picture in section.pictures:
            lines += [f"![{picture.caption}]({picture.name}.png)", ""]
        for table in section.tables:
            lines += [
                *([table.title, ""] if table.title else []),
                *table.markdown(),
                "",
            ]
        for note in section.notes:
            lines += [note, ""]
    return "\n".join(lines).rstrip() + "\n"
