"""Questions and answers as tasks of Label Studio.

Its export in the format "JSON" is read; the format "JSON-MIN" leaves out who said what.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from pydantic import BaseModel, TypeAdapter, ValidationError

from fairfal_flwr.annotate.entries import Entry, Item, Said, read_sample, sample_text
from fairfal_flwr.errors import UserError
from fairfal_flwr.files import replacing

__all__ = ["check_names", "read_tasks", "write_labeling_config", "write_tasks"]

CANNOT_TELL = "cannot tell"
IMAGE, CHOICE = "image", "class"  # names of what the labeling config shows


class _Data(BaseModel):
    campaign: str
    client: int
    sample: str


class _Value(BaseModel):
    choices: list[str] = []


class _Result(BaseModel):
    type: str = ""
    value: _Value = _Value()
    meta: dict[str, Any] | None = None


class _Annotation(BaseModel):
    result: list[_Result] = []
    was_cancelled: bool = False
    completed_by: int | dict[str, Any] | None = None
    created_at: str = ""
    updated_at: str = ""


class _Task(BaseModel):
    data: _Data
    annotations: list[_Annotation]


def write_tasks(path: Path, items: Iterable[Item], document_root: Path) -> None:
    """Write a task per question, with what stands as its annotations.

    Parameters
    ----------
    path : Path
        A JSON file to import into Label Studio.
    items : iterable of Item
        The questions.
    document_root : Path
        Label Studio's LOCAL_FILES_DOCUMENT_ROOT.

    Raises
    ------
    UserError
        If an image is not below the root.
    """
    tasks = [_task(item, document_root) for item in items]
    with replacing(path) as temporary:
        text = json.dumps(tasks, ensure_ascii=False, indent=1)
        temporary.write_text(text, encoding="utf-8")


def write_labeling_config(path: Path, class_names: Sequence[str]) -> None:
    """Write the labeling config of a project for such tasks."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=IMAGE, value="$image", zoom="true")
    choices = ET.SubElement(
        view, "Choices", name=CHOICE, toName=IMAGE, choice="single", showInline="true"
    )
    for name in (*class_names, CANNOT_TELL):
        ET.SubElement(choices, "Choice", value=name)
    ET.indent(view)
    with replacing(path) as temporary:
        ET.ElementTree(view).write(temporary, encoding="utf-8")


def check_names(class_names: Sequence[str]) -> None:
    """Make sure that no class is taken for "cannot tell".

    Raises
    ------
    UserError
        If one is.
    """
    if CANNOT_TELL in class_names:
        raise UserError(
            f"A class is named {CANNOT_TELL!r}, which in Label Studio is the choice of "
            "those who cannot tell; use a .csv file."
        )


def read_tasks(path: Path) -> list[Entry]:
    """Return what Label Studio's export says, task by task.

    Of each person's annotations of a task the last counts, cancelled ones left out.

    Raises
    ------
    UserError
        If it is no such export, or a task makes no sense.
    """
    try:
        tasks = TypeAdapter(list[_Task]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(_mistake(path, error)) from None
    return [
        _entry(f"{path}, task {number}", task) for number, task in enumerate(tasks, 1)
    ]


def _task(item: Item, document_root: Path) -> dict[str, Any]:
    if not item.file.is_relative_to(document_root):
        raise UserError(
            f"The image {item.file} is not below --document-root {document_root}; name "
            "the folder that Label Studio has as LOCAL_FILES_DOCUMENT_ROOT."
        )
    address = quote(item.file.relative_to(document_root).as_posix())
    return {
        "data": {
            "image": f"/data/local-files/?d={address}",
            "campaign": item.campaign,
            "client": item.client,
            "sample": sample_text(item.sample_id),
        },
        "annotations": [
            {"result": [_chosen(said)], "ground_truth": False} for said in item.said
        ],
        "predictions": _predictions(item),
    }


def _predictions(item: Item) -> list[dict[str, Any]]:
    if item.suggestion is None:
        return []
    prediction: dict[str, Any] = {
        "model_version": f"{item.strategy}, cycle {item.cycle}",
        "result": [_choice(item.suggestion)],
    }
    if item.score is not None and math.isfinite(item.score):
        prediction["score"] = item.score
    return [prediction]


def _chosen(said: Said) -> dict[str, Any]:
    """Return an answer that still says whose it is when it comes back."""
    answer = CANNOT_TELL if said.answer is None else said.answer
    meta = {"annotator": said.annotator, "answer": answer}
    return {**_choice(answer), "meta": meta}


def _choice(name: str) -> dict[str, Any]:
    return {
        "from_name": CHOICE,
        "to_name": IMAGE,
        "type": "choices",
        "value": {"choices": [name]},
    }


def _entry(place: str, task: _Task) -> Entry:
    said: dict[str, Said] = {}
    for annotation in sorted(task.annotations, key=_last_touched):
        for answer, annotator in _answers(place, annotation):
            said.pop(annotator, None)
            said[annotator] = Said(None if answer == CANNOT_TELL else answer, annotator)
    data = task.data
    return Entry(
        place,
        data.campaign,
        data.client,
        read_sample(data.sample, place),
        tuple(said.values()),
    )


def _last_touched(annotation: _Annotation) -> str:
    return annotation.updated_at or annotation.created_at


def _answers(place: str, annotation: _Annotation) -> list[tuple[str, str]]:
    """Return the one answer of an annotation and whose it is; none if it has none."""
    results = [result for result in annotation.result if result.type == "choices"]
    names = [name for result in results for name in result.value.choices]
    if annotation.was_cancelled or not names:
        return []
    if len(names) > 1:
        raise UserError(f"{place}: found {names!r}, allowed: one class.")
    meta = results[0].meta or {}
    if meta.get("answer") == names[0] and isinstance(meta.get("annotator"), str):
        return [(names[0], meta["annotator"])]
    return [(names[0], _person(annotation.completed_by))]


def _person(completed_by: int | dict[str, Any] | None) -> str:
    """Return a person as Label Studio names them, by number if in no other way."""
    if isinstance(completed_by, dict):
        name = completed_by.get("email") or completed_by.get("username")
        if name:
            return str(name)
        completed_by = completed_by.get("id")
    return "" if completed_by is None else f"Label Studio user {completed_by}"


def _mistake(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    where = str(path)
    if first["loc"]:
        number, *inside = first["loc"]
        where += f", task {int(number) + 1}"
        where += f", {'.'.join(map(str, inside))}" if inside else ""
    return (
        f"{where}: {first['msg']}; allowed: Label Studio's export in the format 'JSON'."
    )
