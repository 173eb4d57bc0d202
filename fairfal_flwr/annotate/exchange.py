"""Questions out into a file, and answers from a file into the ledgers.

For sites that have a tool of their own to label images with. The file's ending says its
format: a table (`csv_file`) or tasks of Label Studio (`label_studio`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from fairfal_flwr.annotate.askers import Asker
from fairfal_flwr.annotate.csv_file import read_csv, write_csv
from fairfal_flwr.annotate.entries import Entry, Item, Said
from fairfal_flwr.annotate.label_studio import (
    check_names,
    read_tasks,
    write_labeling_config,
    write_tasks,
)
from fairfal_flwr.client.questions import Answer, Question
from fairfal_flwr.client.sheet import Sheet
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import identity_of

__all__ = ["Outcome", "export_config", "export_questions", "import_answers"]

MOST_NAMED = 20  # classes, in an error


class Outcome(NamedTuple):
    """What an import did.

    Parameters
    ----------
    written : int
        Answers that the ledgers did not have.
    known : int
        Answers that they had.
    contradicted : int
        Answers that they have otherwise and keep so.
    late : int
        Those written to cycles whose training has begun.
    """

    written: int = 0
    known: int = 0
    contradicted: int = 0
    late: int = 0


def export_questions(
    asked: Sequence[Asker],
    path: Path,
    *,
    only_open: bool = False,
    document_root: Path = Path("/"),
) -> int:
    """Write what clients ask, and what was answered, into a file.

    Parameters
    ----------
    asked : sequence of Asker
        Whose questions.
    path : Path
        Ends in .csv or .json; must not be there yet, since it may hold answers.
    only_open : bool, default False
        Leave out what is answered, and what was said about the rest.
    document_root : Path
        Of Label Studio, for a .json file.

    Returns
    -------
    int
        Questions written.

    Raises
    ------
    UserError
        If the file cannot be written, or an image that somebody would look at is not
        what it was when it was asked for.
    """
    is_table = _is_table(path)
    _check_absent(path)
    items = [item for asker in asked for item in _items(asker, only_open)]
    with _one_line("write", path):
        if is_table:
            write_csv(path, items)
        else:
            check_names(_class_names(asked))
            write_tasks(path, items, document_root)
    return len(items)


def export_config(asked: Sequence[Asker], path: Path) -> None:
    """Write Label Studio's labeling config for the classes of some clients.

    Raises
    ------
    UserError
        If it cannot be written, or a class cannot be told from "cannot tell".
    """
    names = _class_names(asked)
    check_names(names)
    with _one_line("write", path):
        write_labeling_config(path, names)


def import_answers(
    asked: Sequence[Asker], path: Path, *, annotator: str = "", relabel: bool = False
) -> Outcome:
    """Write a file's answers into the ledgers; none if there is a mistake in it.

    Parameters
    ----------
    asked : sequence of Asker
        Whose questions it may answer.
    path : Path
        As for `export_questions`.
    annotator : str
        Who says what the file does not say who says.
    relabel : bool, default False
        Write also what the ledgers have otherwise.

    Returns
    -------
    Outcome
        Importing a file once more writes nothing.

    Raises
    ------
    UserError
        If the file, or anything in it, cannot be used; nothing is written then.
    """
    with _one_line("read", path):
        entries = read_csv(path) if _is_table(path) else read_tasks(path)
    by_client = _by_client(entries, asked)
    batches = [
        (asker, _answers(asker, by_client[_key(asker.sheet)], annotator))
        for asker in asked
    ]
    return _total(_write(asker, answers, relabel) for asker, answers in batches)


def _class_names(asked: Iterable[Asker]) -> list[str]:
    return list(
        dict.fromkeys(name for asker in asked for name in asker.sheet.class_names)
    )


def _items(asker: Asker, only_open: bool) -> Iterator[Item]:
    sheet = asker.sheet
    questions = [
        question
        for question in asker.ledger.questions()
        if question.decision is None or not only_open
    ]
    _check_images(asker, questions)
    for question in questions:
        yield Item(
            sheet.campaign,
            sheet.client,
            question.sample_id,
            Path(sheet.folder, sheet.files[question.sample_id]),
            question.cycle,
            question.strategy,
            _name_of(sheet, question.suggestion),
            question.score,
            () if only_open else tuple(_standing(question, sheet)),
            question.decision is None,
        )


def _standing(question: Question, sheet: Sheet) -> Iterator[Said]:
    """Yield the votes that stand, or else the answer."""
    if sheet.votes > 1 and question.votes:
        rows = {row.annotator: row for row in question.rows if row.action == "vote"}
        standing = [rows[annotator] for annotator in question.votes]
    else:
        standing = [question.decision] if question.decision else []
    for row in standing:
        yield Said(_name_of(sheet, row.label), row.annotator, row.answered_at)


def _name_of(sheet: Sheet, label: int | None) -> str | None:
    return None if label is None else sheet.class_names[label]


def _check_images(asker: Asker, questions: Sequence[Question]) -> None:
    sheet = asker.sheet
    lost = [
        sheet.files.get(question.sample_id, f"sample {question.sample_id}")
        for question in questions
        if question.sample_id not in sheet.files
        or (question.decision is None and not _is_as_asked(sheet, question.sample_id))
    ]
    if lost:
        raise UserError(
            f"{len(lost)} image(s) of client {sheet.client} that were asked for are "
            f"missing or changed below {sheet.folder}, first {lost[0]!r}; put each "
            "back as it was."
        )


def _is_as_asked(sheet: Sheet, sample_id: int) -> bool:
    name = sheet.files[sample_id]
    path = Path(sheet.folder, name)
    if not sheet.by_content:
        return path.is_file()
    try:
        return identity_of(name, path.read_bytes()) == sample_id
    except OSError:
        return False


def _by_client(
    entries: Iterable[Entry], asked: Sequence[Asker]
) -> dict[tuple[str, int], list[Entry]]:
    """Return the entries by campaign and client, all of them among those asked."""
    known = [_key(asker.sheet) for asker in asked]
    by_client: dict[tuple[str, int], list[Entry]] = {key: [] for key in known}
    for entry in entries:
        if (entry.campaign, entry.client) not in by_client:
            campaign, _ = known[0]
            clients = ", ".join(str(client) for _, client in known)
            raise UserError(
                f"{entry.place}: found client {entry.client} of campaign "
                f"{entry.campaign!r}, allowed: client {clients} of {campaign!r}; "
                "--campaign and --client choose others."
            )
        by_client[entry.campaign, entry.client].append(entry)
    return by_client


def _key(sheet: Sheet) -> tuple[str, int]:
    return sheet.campaign, sheet.client


def _answers(asker: Asker, entries: Iterable[Entry], annotator: str) -> list[Answer]:
    """Return what entries say, once each, after all of it is found to make sense."""
    votes, labels = asker.sheet.votes, _labels(asker.sheet)
    asked_for = set(asker.ledger.requested().tolist())
    answers: dict[tuple[int, str], tuple[Answer, str]] = {}
    for place, _, client, sample_id, what in entries:
        if sample_id not in asked_for:
            raise UserError(
                f"{place}: client {client} never asked for sample {sample_id}."
            )
        for said in what if votes > 1 else what[-1:]:
            who = _person(said.annotator or annotator, place)
            answer = Answer(sample_id, _label(labels, said.answer, place), who)
            key = sample_id, who if votes > 1 else ""
            before, there = answers.setdefault(key, (answer, place))
            if before.label != answer.label:
                raise UserError(
                    f"{place}: contradicts {there}, which says otherwise about sample "
                    f"{sample_id}."
                )
    return [answer for answer, _ in answers.values()]


def _labels(sheet: Sheet) -> dict[str | None, int | None]:
    return {None: None, **{name: c for c, name in enumerate(sheet.class_names)}}


def _label(
    labels: dict[str | None, int | None], answer: str | None, place: str
) -> int | None:
    if answer not in labels:
        names = [name for name in labels if name is not None]
        rest = f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED)
        raise UserError(
            f"{place}: found class {answer!r}, allowed: "
            f"{', '.join(names[:MOST_NAMED])}{rest}."
        )
    return labels[answer]


def _person(name: str, place: str) -> str:
    name = " ".join(name.split())
    if not name:
        raise UserError(f"{place}: does not say who answered; --annotator does.")
    if not name.isprintable():
        raise UserError(
            f"{place}: found annotator {name!r}, allowed: letters that can be seen."
        )
    return name


def _write(asker: Asker, answers: Sequence[Answer], relabel: bool) -> Outcome:
    """Write what the ledger does not have, in one transaction.

    What somebody says in the meantime counts as if it had been there before.
    """
    ledger, votes = asker.ledger, asker.sheet.votes
    outcomes = []
    pending = list(answers)
    while pending:
        closed = ledger.closed_cycles()
        questions = {question.sample_id: question for question in ledger.questions()}
        fates: defaultdict[str, list[Answer]] = defaultdict(list)
        for answer in pending:
            question = questions[answer.sample_id]
            fates[_fate(answer, question, votes, relabel)].append(answer)
        new = _having_seen(fates["written"], questions)
        pending = ledger.answer_all(new, votes)
        written = set(new).difference(pending)
        late = sum(questions[answer.sample_id].cycle <= closed for answer in written)
        known, contradicted = len(fates["known"]), len(fates["contradicted"])
        outcomes.append(Outcome(len(written), known, contradicted, late))
    return _total(outcomes)


def _fate(
    answer: Answer, question: Question, votes: int, relabel: bool
) -> Literal["written", "known", "contradicted"]:
    """Return what becomes of an answer, as `Outcome` counts it."""
    if votes > 1 and answer.annotator in question.votes:
        said = question.votes[answer.annotator]
    elif question.decision:
        said = question.decision.label
    else:
        return "written"
    if said == answer.label:
        return "known"
    return "written" if relabel else "contradicted"


def _having_seen(
    answers: Iterable[Answer], questions: Mapping[int, Question]
) -> list[Answer]:
    """Return answers that become stale if somebody says something before they do.

    That holds for the first to each question; the others come right after it.
    """
    seen = {sample_id: question.last for sample_id, question in questions.items()}
    return [
        answer._replace(seen=seen.pop(answer.sample_id, None)) for answer in answers
    ]


def _total(outcomes: Iterable[Outcome]) -> Outcome:
    return Outcome(*map(sum, zip(*outcomes, strict=True)))


def _is_table(path: Path) -> bool:
    kinds = {".csv": True, ".json": False}
    if path.suffix.lower() not in kinds:
        raise UserError(f"Found the file {path}, allowed: a name in .csv or .json.")
    return kinds[path.suffix.lower()]


def _check_absent(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} is there already, maybe with answers; name another.")


@contextmanager
def _one_line(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot {verb} {path}: {reason}.") from None
