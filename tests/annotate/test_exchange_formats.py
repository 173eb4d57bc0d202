"""Tables and Label Studio's files: what they may look like; each mistake by place."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import pytest
from files_of_answers import (
    CAMPAIGN,
    HEADER,
    Client,
    annotation,
    write_json,
    write_lines,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fairfal_flwr.annotate.csv_file import read_csv, write_csv
from fairfal_flwr.annotate.entries import Item, Said
from fairfal_flwr.annotate.exchange import Outcome, export_questions, import_answers
from fairfal_flwr.annotate.label_studio import read_tasks, write_tasks
from fairfal_flwr.errors import UserError

ROW = f"{CAMPAIGN},0,s1,cat,Ann"


@pytest.fixture
def client(tmp_path):
    return Client(tmp_path / "state")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ["?", "'?", "=1+1", "'", "''=", 'a"b', "a,b", "a;b", "a\rb", "a\nb", "s1"]
)
said_by_people = st.builds(Said, st.none() | texts, texts, st.just("")).filter(
    lambda said: all(text == text.strip() != "cannot tell" for text in said[:2] if text)
)


@settings(max_examples=40)
@given(texts.filter(lambda text: text == text.strip()), st.lists(said_by_people))
def test_texts_come_back_as_they_went_out(campaign, said):
    said = tuple({each.annotator: each for each in said}.values())
    place = Path("/x.png"), 1, "fairfal", None, None
    item = Item(campaign, 3, 2**63 - 1, *place, said, False)
    with TemporaryDirectory() as folder:
        table, tasks = Path(folder, "x.csv"), Path(folder, "x.json")
        write_csv(table, [item])
        write_tasks(tasks, [item], Path("/"))
        rows, (task,) = read_csv(table), read_tasks(tasks)
    assert [row[1:4] for row in rows] == [(campaign, 3, 2**63 - 1)] * len(said)
    assert [one for row in rows for one in row.said] == list(said)
    assert task[1:] == (campaign, 3, 2**63 - 1, said)


def said(path):
    return [(entry.sample_id, *entry.said) for entry in read_csv(path)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_is_read_as_spreadsheets_write_it(
    tmp_path, delimiter, newline, encoding
):
    lines = [
        "Sample, ANSWER ,annotator,client,campaign,note",
        's5,cat,"Ann\nB.",0,trial,x',
        ",,,,,",
        's7,"a ""b""",Bö,0,trial',
        "8,,,0,trial,",
        "s9,?,Cy,0,trial,,,",
    ]
    text = newline.join(line.replace(",", delimiter) for line in lines)
    (tmp_path / "x.csv").write_bytes(f"{text}{newline}".encode(encoding))
    assert said(tmp_path / "x.csv") == [
        (5, ("cat", "Ann\nB.", "")),
        (7, ('a "b"', "Bö", "")),
        (8,),
        (9, (None, "Cy", "")),
    ]
    last = read_csv(tmp_path / "x.csv")[-1]
    assert (last.place, last.campaign, last.client) == (
        f"{tmp_path / 'x.csv'}, line 7",
        "trial",
        0,
    )


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        *(("'=x", "=x"), ("''=x", "'=x"), ("'tis", "'tis"), ("'?", "?")),
        *(("''", "'"), ("=x", "=x"), ("?", None), ("'", "'")),
    ],
)
def test_what_guards_a_cell_is_taken_off(tmp_path, cell, answer):
    write_lines(tmp_path / "x.csv", f"{CAMPAIGN},0,s1,{cell},Ann")
    assert said(tmp_path / "x.csv") == [(1, (answer, "Ann", ""))]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [],
            r"line 1: no column 'campaign', 'client', 'sample', 'answer'; found: noth",
        ),
        (["campaign,client,sample", "a,0,s1"], "line 1: no column 'answer'; found: ca"),
        ([f"{HEADER},answer", ROW], "line 1: the column 'answer' is there twice"),
        ([HEADER, ROW, f"{ROW},more"], "line 3: found 6 cells, allowed: 5, as in line"),
        (
            [HEADER, ROW.replace("s1", "4.6E+18")],
            r"line 2: found sample '4\.6E\+18', a",
        ),
        ([HEADER, ROW.replace("s1", "")], "line 2: found sample '', allowed: what the"),
        (
            [HEADER, ROW.replace(",0,", ",x,")],
            "line 2: found client 'x', allowed: a nu",
        ),
        ([HEADER, f'{CAMPAIGN},0,s1,"a\nb",Ann', "x"], "line 4: found client ''"),
        (['"campaign'], "line 1: unexpected end of data"),
        ([HEADER, ROW, 'trial,0,s1,"cat'], "line 3: unexpected end of data"),
        ([HEADER, ROW, 'trial,0,s1,"cat"x,'], "line 3: ',' expected after '\"'"),
        ([HEADER, ROW, "\udcff"], "line 3: not UTF-8; save it as 'CSV UTF-8'"),
        ([HEADER, f"{ROW}{'x' * 200_000}"], "line 2: field larger than field limit"),
    ],
)
def test_a_table_that_is_none_is_refused_by_line(tmp_path, lines, message):
    file = tmp_path / "x.csv"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=rf"^\S*x\.csv, {message}") as caught:
        read_csv(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "cow"}, "found class 'cow', allowed: cat, dog, bird"),
        ({"campaign": "else"}, "found client 0 of campaign 'else', allowed: client 0 "),
        ({"client": "7"}, "found client 7 of campaign 'trial', allowed: client 0 of "),
        ({"annotator": ""}, "does not say who answered; --annotator does"),
        ({"annotator": "A\x07"}, r"found annotator 'A\\x07', allowed: letters that ca"),
        ({"sample": "s1"}, "client 0 never asked for sample 1"),
        ({"answer": "dog"}, r"contradicts \S*x\.csv, line 2, which says otherwise abo"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_by_line(
    client, tmp_path, change, message
):
    good = client.row(0, "cat")
    cells = dict(zip(HEADER.split(","), good.split(","), strict=True)) | change
    file = write_lines(tmp_path / "x.csv", good, good, ",".join(cells.values()))
    before = client.ledger.head
    with pytest.raises(UserError, match=rf"^\S*x\.csv, line 4: {message}") as caught:
        import_answers([client.asker], file)
    assert "\n" not in str(caught.value)
    assert client.ledger.head == before


def test_of_many_classes_some_are_named(tmp_path):
    for number, end in ((100, "class-19 and 80 more"), (20, "class-19")):
        names = tuple(f"class-{place}" for place in range(number))
        client = Client(tmp_path / str(number), class_names=names)
        file = write_lines(tmp_path / "x.csv", client.row(0, "cow"))
        with pytest.raises(UserError, match=rf"allowed: class-0, .*, {end}\.$"):
            import_answers([client.asker], file)


def test_where_one_person_is_enough_two_are_one_answer_or_contradict(client, tmp_path):
    rows = [client.row(0, answer, who) for answer in ("cat", "dog") for who in "AB"]
    file = write_lines(tmp_path / "x.csv", *rows)
    with pytest.raises(UserError, match=r"line 4: contradicts \S*x\.csv, line 2"):
        import_answers([client.asker], file)
    file = write_lines(tmp_path / "x.csv", *rows[:2])
    assert import_answers([client.asker], file) == Outcome(1)
    assert client.standing()[client.ids[0]] == [("cat", "A")]


def test_two_votes_of_one_person_contradict_and_of_two_do_not(tmp_path):
    client = Client(tmp_path / "state", votes=2)
    two = write_lines(
        tmp_path / "x.csv", client.row(0, "cat"), client.row(0, "dog", "")
    )
    with pytest.raises(UserError, match=r"line 3: contradicts \S*x\.csv, line 2"):
        import_answers([client.asker], two, annotator="Ann")
    assert import_answers([client.asker], two, annotator="Bo") == Outcome(2)


def test_a_task_is_what_label_studio_imports(client, tmp_path):
    client.ledger.answer(client.ids[1], 2, "Ann")
    client.ledger.answer(client.ids[2], None, "Ann")
    (tmp_path / "images").rename(tmp_path / "ä & b")
    client.sheet.__dict__["folder"] = str(tmp_path / "ä & b")
    export_questions([client.asker], tmp_path / "x.json", document_root=tmp_path)
    tasks = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert len(tasks) == 6
    address = tasks[1]["data"].pop("image")
    assert urlsplit(address).path == "/data/local-files/"
    assert parse_qs(urlsplit(address).query) == {"d": ["ä & b/0-1.png"]}
    assert tasks[1]["data"] == {
        "campaign": CAMPAIGN,
        "client": 0,
        "sample": f"s{client.ids[1]}",
    }
    choice = {"from_name": "class", "to_name": "image", "type": "choices"}
    assert tasks[1]["predictions"] == [
        {
            "model_version": "fairfal, cycle 1",
            "score": 0.25,
            "result": [{**choice, "value": {"choices": ["dog"]}}],
        }
    ]
    assert "score" not in tasks[5]["predictions"][0]  # JSON knows no infinity
    assert not tasks[1]["annotations"][0]["ground_truth"]
    chosen = [
        [a["result"][0]["value"]["choices"] for a in task["annotations"]]
        for task in tasks[:3]
    ]
    assert chosen == [[], [["bird"]], [["cannot tell"]]]


def test_an_export_of_label_studio_answers(client, tmp_path):
    text = {"type": "textarea", "value": {"text": ["blurred"]}}
    tasks = [
        client.task(0, annotation("cat", by={"id": 3, "email": "ann@example.org"})),
        client.task(1, annotation("cannot tell", by={"username": "bo"})),
        client.task(2, annotation("dog", was_cancelled=True)),
        client.task(3, annotation()),
        client.task(
            4,
            annotation("cat", at="2026-01-02T10:00:00.5Z"),
            annotation("dog", at="2026-01-02T11:00:00.5Z", by=7),
            annotation("bird", at="2026-01-01T23:00:00.5Z"),
            annotation("cat", by={"id": 9}, created_at="2026-01-02T12:00:00.5Z"),
            annotation("bird", at="2026-01-03T23:00:00.5Z", was_cancelled=True),
        ),
        client.task(5, annotation("dog", by={"id": None})),
    ]
    tasks[0]["annotations"][0]["result"].append(text)
    file = write_json(tmp_path / "x.json", tasks)
    assert import_answers([client.asker], file, annotator="Cy") == Outcome(4)
    assert list(client.standing().values()) == [
        [("cat", "ann@example.org")],
        [(None, "bo")],
        [],
        [],
        [("cat", "Label Studio user 9")],
        [("dog", "Cy")],
    ]


def test_each_persons_last_annotation_is_a_vote(tmp_path):
    client = Client(tmp_path / "state", votes=2)
    people = [annotation("cat", by=1), annotation("dog", by=2), annotation("dog", by=1)]
    file = write_json(tmp_path / "x.json", [client.task(0, *people)])
    assert import_answers([client.asker], file) == Outcome(2)
    assert next(iter(client.standing().values()))[0] == (
        "dog",
        "Label Studio user 2 & Label Studio user 1",
    )


def test_an_answer_that_was_changed_in_label_studio_is_whose_who_changed_it(
    client, tmp_path
):
    for place in (0, 1):
        client.ledger.answer(client.ids[place], 0, "Ann")
    export_questions([client.asker], tmp_path / "x.json")
    tasks = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    for task in tasks:
        for done in task["annotations"]:
            done["completed_by"] = 8
    tasks[1]["annotations"][0]["result"][0]["value"]["choices"] = ["dog"]
    fresh = Client(tmp_path / "fresh" / "state")
    import_answers([fresh.asker], write_json(tmp_path / "y.json", tasks))
    assert list(fresh.standing().values())[:2] == [
        [("cat", "Ann")],
        [("dog", "Label Studio user 8")],
    ]


TASK = {"data": {"campaign": CAMPAIGN, "client": 0, "sample": "s1"}, "annotations": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "x.json: Invalid JSON: EOF"),
        ("[" * 5000, "x.json: Invalid JSON: recursion limit"),
        ({"tasks": []}, "x.json: Input should be a valid array"),
        ([TASK, 7], "x.json, task 2: Input should be"),
        ([TASK, {"data": TASK["data"]}], "x.json, task 2, annotations: Field required"),
        (
            [{**TASK, "data": {"campaign": CAMPAIGN, "client": 0}}],
            "x.json, task 1, data.sample: Field required",
        ),
        (
            [{**TASK, "data": {**TASK["data"], "sample": "4.6e18"}}],
            "x.json, task 1: found sample '4.6e18', allowed",
        ),
        (
            [TASK, {**TASK, "annotations": [annotation("cat", "dog")]}],
            "x.json, task 2: found ['cat', 'dog'], allowed: one class",
        ),
        (
            [TASK, {**TASK, "annotations": [annotation(3)]}],
            "x.json, task 2, annotations.0.result.0.value.choices.0: Input should be",
        ),
        ([TASK], "x.json, task 1: client 0 never asked for sample 1"),
    ],
)
def test_a_file_of_tasks_that_is_none_is_refused_by_task(
    client, tmp_path, content, message
):
    file = tmp_path / "x.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    before = client.ledger.head
    with pytest.raises(UserError) as caught:
        import_answers([client.asker], file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert client.ledger.head == before
