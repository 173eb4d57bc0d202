"""Questions out, answers in: what a ledger then has, and when it stays as it was."""

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from files_of_answers import (
    CAMPAIGN,
    Client,
    annotation,
    read_rows,
    write_json,
    write_lines,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fairfal_flwr.annotate.exchange import (
    Outcome,
    export_config,
    export_questions,
    import_answers,
)
from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.questions import Answer
from fairfal_flwr.client.sheet import sheet_file
from fairfal_flwr.command.cli import app
from fairfal_flwr.errors import UserError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def client(root):
    return Client(root)


def run(*words):
    return CliRunner().invoke(app, ["questions", *map(str, words)])


@settings(max_examples=8)
@given(
    st.sampled_from([".csv", ".json"]),
    st.integers(1, 2),
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["Ann", "@Bo", "=Cy()"]),
            st.sampled_from([None, 0, 1]),
        ),
        max_size=12,
    ),
)
def test_what_goes_out_and_comes_into_a_fresh_copy_is_the_same(ending, votes, said):
    with TemporaryDirectory() as folder:
        file = Path(folder, f"answers{ending}")
        first, second = (
            Client(Path(folder, place), class_names=("?", "=x"), votes=votes)
            for place in ("here", "there")
        )
        answers = [Answer(first.ids[place], label, who) for place, who, label in said]
        first.ledger.answer_all(answers, votes)
        export_questions([first.asker], file)
        import_answers([second.asker], file)
        assert second.standing() == first.standing()
        for client in (first, second):
            head = client.ledger.head
            assert import_answers([client.asker], file).written == 0
            assert client.ledger.head == head


def test_a_table_has_a_row_per_question_with_all_that_is_known(client, tmp_path):
    client.ledger.answer(client.ids[1], 2, "Ann")
    client.ledger.answer(client.ids[2], None, "Bo")
    export_questions([client.asker], tmp_path / "x.csv")
    rows = read_rows(tmp_path / "x.csv")
    assert len(rows) == 6
    at = rows[1].pop("answered-at")
    assert at == client.ledger.questions()[1].decision.answered_at
    assert rows[1] == {
        "campaign": CAMPAIGN,
        "client": "0",
        "sample": f"s{client.ids[1]}",
        "file": str(tmp_path / "images" / "0-1.png"),
        "cycle": "1",
        "strategy": "fairfal",
        "suggestion": "dog",
        "score": "0.25",
        "answer": "bird",
        "annotator": "Ann",
    }
    assert [row["answer"] for row in rows] == ["", "bird", "?", "", "", ""]
    assert (rows[0]["annotator"], rows[0]["answered-at"]) == ("", "")
    assert (tmp_path / "x.csv").read_bytes().startswith(b"\xef\xbb\xbfcampaign,client,")


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_without_reasons_there_are_none_in_the_file(root, tmp_path, ending):
    client = Client(root, has_reasons=False)
    export_questions([client.asker], tmp_path / f"x{ending}")
    if ending == ".csv":
        rows = read_rows(tmp_path / "x.csv")
        assert {(row["suggestion"], row["score"]) for row in rows} == {("", "")}
    else:
        tasks = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
        assert [task["predictions"] for task in tasks] == [[]] * 6


def test_an_answer_that_came_from_votes_is_one_where_one_person_is_enough(
    client, tmp_path
):
    for who in ("Ann", "Bo"):
        client.ledger.answer(client.ids[0], 1, who, votes=2)
    client.ledger.answer(client.ids[1], 2, "Ann", votes=2)
    export_questions([client.asker], tmp_path / "x.csv")
    rows = read_rows(tmp_path / "x.csv")
    assert [(row["answer"], row["annotator"]) for row in rows[:2]] == [
        ("dog", "Ann & Bo"),
        ("", ""),
    ]
    file = write_lines(tmp_path / "y.csv", client.row(0, "cat"), client.row(1, "bird"))
    assert import_answers([client.asker], file) == Outcome(1, 0, 1)


def test_only_what_is_open_goes_out_without_what_was_said(root, tmp_path):
    client = Client(root, votes=2)
    for who in ("Ann", "Bo"):
        client.ledger.answer(client.ids[0], 1, who, votes=2)
    client.ledger.answer(client.ids[1], 1, "Ann", votes=2)
    assert export_questions([client.asker], tmp_path / "x.csv", only_open=True) == 5
    rows = read_rows(tmp_path / "x.csv")
    assert [row["sample"] for row in rows] == [f"s{i}" for i in client.ids[1:]]
    assert {row["answer"] + row["annotator"] for row in rows} == {""}
    export_questions([client.asker], tmp_path / "all.csv")
    said = [(r["answer"], r["annotator"]) for r in read_rows(tmp_path / "all.csv")]
    assert said[:4] == [("dog", "Ann"), ("dog", "Bo"), ("dog", "Ann"), ("", "")]


def test_no_cell_begins_a_formula_or_is_a_number_that_is_rounded(root, tmp_path):
    client = Client(root, class_names=("=A1", "+1", "-1", "@x", "\tx", "'=1"))
    for place, sample_id in enumerate(client.ids):
        client.ledger.answer(sample_id, place, "=HYPERLINK()")
    export_questions([client.asker], tmp_path / "x.csv")
    for row in read_rows(tmp_path / "x.csv"):
        assert not any(re.match(r"[=+\-@\t\r]|\d{16}", cell) for cell in row.values())
        assert row["answer"].startswith("'")


@pytest.mark.parametrize("harm", ["missing", "changed", "not in the sheet"])
def test_an_image_that_is_not_what_was_asked_for_does_not_go_out(
    client, tmp_path, harm
):
    image = tmp_path / "images" / "0-2.png"
    if harm == "not in the sheet":
        del client.sheet.files[client.ids[2]]
    elif harm == "changed":
        image.write_bytes(b"other")
    else:
        image.unlink()
    with pytest.raises(UserError, match=r"1 image.* missing or changed .*(0-2|sample)"):
        export_questions([client.asker], tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
    if harm != "not in the sheet":
        client.ledger.answer(client.ids[2], 1, "Ann")
        assert export_questions([client.asker], tmp_path / "x.csv") == 6


def test_an_image_that_the_client_wrote_needs_only_be_there(root, tmp_path):
    client = Client(root, by_content=False)
    (tmp_path / "images" / "0-2.png").write_bytes(b"other")
    assert export_questions([client.asker], tmp_path / "x.csv") == 6
    (tmp_path / "images" / "0-2.png").unlink()
    with pytest.raises(UserError, match=r"1 image.* first '0-2\.png'"):
        export_questions([client.asker], tmp_path / "y.csv")


def test_a_file_that_is_there_is_kept(client, tmp_path):
    write_lines(tmp_path / "x.csv", client.row(0, "cat"))
    before = (tmp_path / "x.csv").read_bytes()
    with pytest.raises(UserError, match=r"x\.csv is there already"):
        export_questions([client.asker], tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == before


def test_an_answer_comes_in_with_who_said_it(client, tmp_path):
    file = write_lines(
        tmp_path / "x.csv",
        client.row(0, "dog"),
        client.row(1, "?", ""),
        client.row(2, "", ""),
        client.row(3, "dog", "  Bo   B. "),
    )
    before = client.ledger.head.entries
    done = import_answers([client.asker], file, annotator="The reading room")
    assert done == Outcome(written=3)
    assert [said for said in client.standing().values() if said] == [
        [("dog", "Ann")],
        [(None, "The reading room")],
        [("dog", "Bo B.")],
    ]
    assert client.ledger.head.entries == before + 1


def test_what_was_answered_otherwise_stays_unless_the_file_shall_win(client, tmp_path):
    file = write_lines(tmp_path / "x.csv", *(client.row(i, "dog") for i in range(4)))
    client.ledger.answer(client.ids[0], 2, "Bo")
    client.ledger.answer(client.ids[1], 1, "Bo")
    client.ledger.answer(client.ids[2], None, "Bo")
    client.ledger.answer(client.ids[3], 2, "Bo")
    client.ledger.withdraw(client.ids[3], "Bo")
    assert import_answers([client.asker], file) == Outcome(1, 1, 2)
    standing = list(client.standing().values())
    assert standing[:3] == [[("bird", "Bo")], [("dog", "Bo")], [(None, "Bo")]]
    assert standing[3] == [("dog", "Ann")]
    assert import_answers([client.asker], file, relabel=True) == Outcome(2, 2, 0)
    assert import_answers([client.asker], file, relabel=True) == Outcome(0, 4, 0)
    assert {said[0][0] for said in client.standing().values() if said} == {"dog"}


def test_votes_come_in_one_by_one(root, tmp_path):
    client = Client(root, votes=2)
    rows = [
        *(client.row(0, "cat", "Ann"), client.row(0, "cat", "Bo")),
        *(client.row(1, "cat", "Ann"), client.row(1, "?", "Bo")),
        *(client.row(2, "cat", "Ann"), client.row(2, "?", "Bo")),
        *(client.row(2, "dog", "Cy"), client.row(3, "cat", "Ann")),
    ]
    file = write_lines(tmp_path / "x.csv", *rows)
    assert import_answers([client.asker], file) == Outcome(8)
    decided = {q.rank: q.decision for q in client.ledger.questions() if q.decision}
    assert {rank: row.label for rank, row in decided.items()} == {0: 0, 2: 1}
    assert decided[0].annotator == "Ann & Bo"
    late = write_lines(
        tmp_path / "y.csv",
        *(client.row(0, "cat", "Cy"), client.row(0, "dog", "Di")),
        *(client.row(1, "dog", "Ann"), client.row(3, "cat", "Bo")),
    )
    assert import_answers([client.asker], late) == Outcome(1, 1, 2)
    assert import_answers([client.asker], late, relabel=True) == Outcome(2, 2)


def test_answers_to_a_closed_cycle_are_counted(client, tmp_path):
    client.ledger.answer(client.ids[0], 1, "Bo")
    client.ledger.close(1)
    file = write_lines(tmp_path / "x.csv", client.row(0, "dog"), client.row(1, "dog"))
    assert import_answers([client.asker], file) == Outcome(1, 1, late=1)
    assert client.ledger.labeled(1)[0].tolist() == [client.ids[0]]


def test_who_answers_while_a_file_comes_in_was_there_before_it(
    client, tmp_path, monkeypatch
):
    file = write_lines(tmp_path / "x.csv", *(client.row(i, "dog") for i in range(3)))
    write_all = Ledger.answer_all

    def late(ledger, answers, votes):
        if not ledger.answered().size:
            ledger.record_answers(
                ledger.selection(1)[:2], ledger.selection(1)[:2] * 0 + 1, "Bo"
            )
            ledger.answer(client.ids[0], 2, "Bo")
        return write_all(ledger, answers, votes)

    monkeypatch.setattr(Ledger, "answer_all", late)
    assert import_answers([client.asker], file) == Outcome(1, 1, 1)
    assert [said for said in client.standing().values() if said] == [
        [("bird", "Bo")],
        [("dog", "Bo")],
        [("dog", "Ann")],
    ]


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_a_mistake_in_the_last_row_keeps_all_clients_as_they_were(
    root, tmp_path, ending
):
    clients = [Client(root), Client(root, index=1)]
    file = tmp_path / f"x{ending}"
    if ending == ".csv":
        write_lines(file, *(c.row(i, "dog") for c in clients for i in range(3)))
    else:
        write_json(
            file, [c.task(i, annotation("dog")) for c in clients for i in (0, 1)]
        )
    good = file.read_text(encoding="utf-8")
    before = [client.ledger.head for client in clients]
    at = good.rindex("dog")
    file.write_text(f"{good[:at]}cow{good[at + 3 :]}", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"(line 7|task 4): found class 'cow', allowed: cat"
    ):
        import_answers([client.asker for client in clients], file)
    assert [client.ledger.head for client in clients] == before
    file.write_text(good, encoding="utf-8")
    assert import_answers([client.asker for client in clients], file).written > 3


def test_the_labeling_config_has_every_class_and_one_for_who_cannot_tell(
    root, tmp_path
):
    client = Client(root, class_names=('<b>"ä"&', "dog"))
    export_config([client.asker], tmp_path / "x.xml")
    assert (tmp_path / "x.xml").read_text(encoding="utf-8") == (
        "<View>\n"
        '  <Image name="image" value="$image" zoom="true" />\n'
        '  <Choices name="class" toName="image" choice="single" showInline="true">\n'
        '    <Choice value="&lt;b&gt;&quot;ä&quot;&amp;" />\n'
        '    <Choice value="dog" />\n'
        '    <Choice value="cannot tell" />\n'
        "  </Choices>\n"
        "</View>"
    )


def test_a_class_that_is_taken_for_cannot_tell_goes_out_as_a_table_only(root, tmp_path):
    client = Client(root, class_names=("cannot tell", "dog"))
    for write in (export_questions, export_config):
        with pytest.raises(UserError, match="named 'cannot tell'"):
            write([client.asker], tmp_path / "x.json")
    assert export_questions([client.asker], tmp_path / "x.csv") == 6


def test_the_commands_take_the_campaign_that_asked_last(root, tmp_path):
    old = Client(root, campaign="was before")
    clients = [Client(root), Client(root, index=1)]
    os.utime(sheet_file(old.path), (1, 1))
    here = "--state-dir", root
    file = tmp_path / "x.csv"
    result = run("export", file, *here, "--label-studio-config", tmp_path / "x.xml")
    assert result.output == (
        f"{file}: 12 question(s)\n{tmp_path / 'x.xml'}: the labeling config\n"
    )
    answers = write_lines(file, clients[0].row(0, "dog"), clients[1].row(1, "cat"))
    result = run("import", answers, *here)
    assert result.output == "2 answer(s) written, 0 were there already\n"
    clients[0].ledger.close(1)
    write_lines(file, clients[0].row(0, "cat"), clients[0].row(1, "cat"))
    lines = run("import", answers, *here).output.splitlines()
    assert lines[0] == "1 answer(s) written, 0 were there already"
    assert lines[1].startswith("1 of them to cycles whose training has begun")
    assert lines[2].startswith("1 were answered otherwise and stay; --relabel takes")
    result = run("import", answers, *here, "--relabel")
    assert result.output.startswith("1 answer(s) written, 1 were there already\n")
    assert old.ledger.answered().size == 0
    result = run("import", answers, *here, "--campaign", old.sheet.campaign)
    assert result.exit_code == 2
    assert "found client 0 of campaign 'trial', allowed: client 0 of 'was b" in (
        result.output
    )
    result = run("import", answers, *here, "--client", 1)
    assert "line 2: found client 0 of campaign 'trial'" in result.output


def test_the_commands_options_say_what_goes_out_and_who_answered(
    client, root, tmp_path
):
    here = "--state-dir", root
    file = write_lines(tmp_path / "x.csv", client.row(0, "dog", ""))
    assert "--annotator does" in run("import", file, *here).output
    assert run("import", file, *here, "--annotator", "Ann").exit_code == 0
    assert client.standing()[client.ids[0]] == [("dog", "Ann")]
    for name, options, number in (("all", (), 6), ("open", ("--open",), 5)):
        result = run("export", tmp_path / f"{name}.csv", *here, *options)
        assert result.exit_code == 0
        assert len(read_rows(tmp_path / f"{name}.csv")) == number
    config = tmp_path / "x.xml"
    run("export", tmp_path / "x.json", *here, "--label-studio-config", config)
    assert '<Choice value="dog" />' in config.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "x.csv", "--campaign", "none"], "No client of campaign 'none' has"),
        (["import", "x.csv", "--client", 7], "No client 7 of any campaign has asked"),
        (["import", "x.csv"], "Cannot read x.csv: No such file or directory."),
        (["import", "x.xlsx"], "Found the file x.xlsx, allowed: a name in .csv or"),
        (["export", "x.txt"], "Found the file x.txt, allowed: a name in .csv or .json"),
        (["export", "none/x.csv"], "Cannot write none/x.csv: No such file or"),
        (["export", "x.json", "--document-root", "/other"], "is not below --document-"),
    ],
)
def test_a_mistake_is_one_line(client, root, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run(*words, "--state-dir", root)
    assert result.exit_code == 2
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert message in result.stderr
    assert not list(tmp_path.glob("*.*"))


def test_without_any_campaign_the_line_says_where_it_looked(tmp_path):
    result = run("export", tmp_path / "x.csv", "--state-dir", tmp_path)
    assert result.output == (
        f"fairfal: No client of any campaign has asked people anything below {tmp_path}"
        "; check --state-dir, --campaign and --client.\n"
    )
