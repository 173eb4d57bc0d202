"""Questions, answers and people on the labeling page, without a browser."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from asked import Asked, Page

from fairfal_flwr.annotate import desk as desk_module
from fairfal_flwr.annotate.leases import SECONDS, Leases
from fairfal_flwr.client.sheet import Word, write_word


@pytest.fixture
def asked(tmp_path):
    asked = Asked(tmp_path / "state")
    asked.ask(6)
    return asked


@pytest.fixture
def page(asked, tmp_path):
    return Page(tmp_path / "state")


def ids(questions):
    return [question["id"] for question in questions]


def test_an_answer_is_in_the_ledger(asked, page):
    ann = page.person()
    (question, *_) = ann.queue()
    said = ann.answer([question], 7)
    assert said == {"done": [question["id"]], "stale": [], "late": False}
    assert asked.decisions() == {int(question["id"]): 7}
    assert question["id"] not in ids(ann.queue())
    assert ann.state()["progress"]["answered"] == 1


def test_questions_come_in_the_order_asked(asked, page):
    ann = page.person()
    seen = []
    while queue := ann.queue():
        seen.append(int(queue[0]["id"]))
        ann.answer(queue[:1], 1)
    assert seen == asked.ledger.selection(1).tolist()


def test_who_cannot_tell_sets_aside(asked, page):
    ann = page.person()
    ann.answer(ann.queue()[:1], None)
    assert list(asked.decisions().values()) == [None]


def test_an_answer_can_be_taken_back_until_none_is_left(asked, page):
    ann = page.person()
    first, second, *_ = ann.queue()
    ann.answer([first], 1)
    ann.answer([second], 2)
    assert ids(ann.say("undo")["questions"]) == [second["id"]]
    assert asked.decisions() == {int(first["id"]): 1}
    assert ids(ann.say("undo")["questions"]) == [first["id"]]
    assert asked.decisions() == {}
    assert ann.say("undo")["questions"] == []


def test_what_was_answered_at_once_is_taken_back_at_once(asked, page):
    ann = page.person()
    first, *others = ann.queue()
    ann.answer([first], 1)
    ann.answer(others, 2)
    assert ids(ann.say("undo")["questions"]) == ids(others)
    assert asked.decisions() == {int(first["id"]): 1}


def test_nobody_takes_anothers_answer_back(asked, page):
    ann, bo = page.person(), page.person("Bo")
    ann.answer(ann.queue()[:1], 1)
    bo.state()
    assert bo.say("undo")["questions"] == []
    assert len(asked.decisions()) == 1


def test_an_answered_question_is_answered_anew(asked, page):
    ann = page.person()
    ann.answer(ann.queue()[:1], 1)
    (answered,) = ann.say("history")["items"]
    assert answered["mine"] == {"label": 1}
    ann.answer([answered], 4)
    assert list(asked.decisions().values()) == [4]


def test_sixty_are_answered_in_one_transaction(tmp_path):
    asked = Asked(tmp_path / "state")
    asked.ask(60)
    ann = Page(tmp_path / "state").person()
    ann.state()
    before = asked.ledger.head.entries
    items = ann.say("grid", suggestion=0)["items"]
    ann.answer(items, 5)
    assert asked.ledger.head.entries == before + 1
    assert len(asked.decisions()) == len(items) == 20


def test_who_comes_second_is_told_and_nothing_is_written(asked, page):
    ann, bo = page.person(), page.person("Bo")
    (question, *_) = ann.queue()
    bo.state()
    ann.answer([question], 1)
    (stale,) = bo.answer([question], 2)["stale"]
    assert (stale["decision"]["by"], stale["decision"]["name"]) == ("Ann", "digit 1")
    assert list(asked.decisions().values()) == [1]
    assert bo.answer([stale], 2)["stale"] == []
    assert list(asked.decisions().values()) == [2]


def test_an_answer_that_is_sent_twice_counts_once(asked, page):
    ann = page.person()
    (question, *_) = ann.queue()
    first, second = (ann.answer([question], 1) for _ in range(2))
    assert first["done"] == second["done"] == [question["id"]]
    assert second["stale"] == []
    assert len(asked.ledger.questions()[0].rows) == 1


def test_the_stale_ones_of_many_are_told_and_the_others_written(asked, page):
    ann, bo = page.person(), page.person("Bo")
    many = ann.queue()
    bo.state()
    bo.answer(many[:1], 9)
    said = ann.answer(many, 2)
    assert ids(said["stale"]) == ids(many[:1])
    assert sorted(asked.decisions().values()) == [2] * (len(many) - 1) + [9]


def test_an_answer_to_a_closed_cycle_says_that_it_counts_later(asked, page):
    ann = page.person()
    asked.ledger.close(1)
    (question, *_) = ann.queue()
    assert question["late"]
    assert ann.answer([question], 1)["late"]
    assert asked.ledger.labeled(1)[0].size == 0
    asked.ask(2)
    assert asked.ledger.labeled(2)[1].tolist() == [1]


def test_the_present_cycle_comes_before_what_is_left_of_closed_ones(asked, page):
    asked.ledger.close(1)
    new = asked.ask(2)
    assert ids(page.person().queue())[:2] == [str(sample) for sample in new]


def test_a_skipped_question_comes_last(asked, page):
    ann = page.person()
    first = ann.queue()[0]["id"]
    ann.say("skip", id=first)
    order = []
    while queue := ann.queue():
        order.append(queue[0]["id"])
        ann.answer(queue[:1], 1)
    assert (order[-1], len(order)) == (first, 6)


def test_two_people_get_different_questions(asked, page):
    ann, bo = page.person(), page.person("Bo")
    assert ids(ann.queue())[0] not in ids(bo.queue())
    assert ids(bo.queue())[0] not in ids(ann.queue())


def test_a_question_that_was_left_comes_to_somebody_else(asked):
    time = 0.0
    leases = Leases(lambda: time)
    questions = asked.ledger.questions()
    leases.hold("Ann", [q.sample_id for q in questions], ())
    assert leases.choose("Bo", questions, 1) == []
    assert leases.choose("Ann", questions, 1) == questions
    time = SECONDS
    assert leases.choose("Bo", questions, 1) == questions


def test_what_somebody_will_see_next_is_given_from_its_end(asked):
    leases = Leases()
    first, *following = asked.ledger.questions()
    leases.hold("Ann", [first.sample_id], [q.sample_id for q in following])
    assert leases.choose("Bo", [first, *following], 1) == following[::-1]


def test_the_question_on_the_screen_stays(asked, page):
    ann = page.person()
    third = ids(ann.queue())[2]
    assert ids(ann.state(showing=[third])["queue"])[0] == third


class TestVotes:
    @pytest.fixture
    def people(self, asked, tmp_path):
        page = Page(tmp_path / "state", votes=2)
        people = [page.person(name) for name in ("Ann", "Bo", "Cy")]
        for person in people:
            person.state()
        return people

    def one(self, person, sample):
        return person.say("question", id=sample)

    def test_two_that_agree_decide(self, asked, people):
        ann, bo, cy = people
        sample = ids(ann.queue())[0]
        ann.answer([self.one(ann, sample)], 3)
        assert asked.decisions() == {}
        assert sample not in ids(ann.queue())
        bo.answer([self.one(bo, sample)], 3)
        assert asked.decisions() == {int(sample): 3}
        assert self.one(cy, sample)["decision"]["by"] == "Ann and Bo"

    def test_nobody_sees_a_vote_before_the_own_one(self, people):
        ann, bo, _ = people
        sample = ids(ann.queue())[0]
        ann.answer([self.one(ann, sample)], 3)
        seen = self.one(bo, sample)
        assert (seen["votes"], seen["decision"], seen["mine"]) == ([], None, None)

    def test_a_third_person_sees_both_votes_and_decides(self, asked, people):
        ann, bo, cy = people
        sample = ids(ann.queue())[0]
        ann.answer([self.one(ann, sample)], 3)
        bo.answer([self.one(bo, sample)], 5)
        assert asked.decisions() == {}
        seen = self.one(cy, sample)
        assert seen["votes"] == [{"by": "Ann", "label": 3}, {"by": "Bo", "label": 5}]
        cy.answer([seen], 5)
        assert asked.decisions() == {int(sample): 5}

    def test_two_at_one_question_need_not_look_again(self, asked, people):
        ann, bo, cy = people
        question = ann.queue()[0]
        late = self.one(cy, question["id"])
        assert question["id"] in ids(bo.queue())
        ann.answer([question], 3)
        assert bo.answer([question], 4)["stale"] == []
        assert asked.decisions() == {}
        (shown,) = cy.answer([late], 4)["stale"]
        assert len(shown["votes"]) == 2, "who decides sees what the others said"
        assert asked.decisions() == {}

    def test_a_vote_that_was_taken_back_does_not_come_again(self, asked, people):
        ann, *_ = people
        question = ann.queue()[0]
        ann.answer([question], 3)
        ann.say("undo")
        assert ids(ann.answer([question], 3)["stale"]) == [question["id"]]

    def test_one_vote_is_taken_back(self, asked, people):
        ann, bo, _ = people
        sample = ids(ann.queue())[0]
        ann.answer([self.one(ann, sample)], 3)
        assert ids(ann.say("undo")["questions"]) == [sample]
        bo.answer([self.one(bo, sample)], 3)
        assert asked.decisions() == {}

    def test_many_at_once_are_votes_too(self, asked, people):
        ann, bo, _ = people
        many = ann.queue()
        ann.answer(many, 1)
        bo.answer([self.one(bo, question["id"]) for question in many], 1)
        assert set(asked.decisions()) == {int(question["id"]) for question in many}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"label": 10}, 404),
        ({"label": -1}, 400),
        ({"label": True}, 400),
        ({"label": "1"}, 400),
        ({"label": 1.5}, 400),
        ({"items": []}, 400),
        ({"items": None}, 400),
        ({"items": [{"id": "1", "seen": 0}] * 501}, 400),
        ({"items": [{"id": "1", "seen": 0}]}, 404),
        ({"items": [{"id": 1, "seen": 0}]}, 404),
        ({"items": [{"id": "-1", "seen": 0}]}, 404),
        ({"items": [{"id": "1", "seen": "0"}]}, 400),
        ({"items": [{"id": "1", "seen": -1}]}, 400),
        ({"items": [{"id": "1"}]}, 400),
        ({"items": ["1"]}, 400),
        ({"desk": "other"}, 404),
        ({"desk": None}, 404),
    ],
)
def test_an_answer_that_makes_no_sense_writes_nothing(asked, page, sent, status):
    ann = page.person()
    items = [{"id": q["id"], "seen": q["seen"]} for q in ann.queue()]
    good = {"desk": ann.desk, "label": 1, "items": items}
    refused = ann.http.post("/api/answer", json=good | sent)
    assert refused.status_code == status
    assert "\n" not in refused.json()["error"]
    assert asked.decisions() == {}


@pytest.mark.parametrize("call", ["skip", "question"])
def test_a_question_that_was_never_asked_is_unknown(page, call):
    ann = page.person()
    ann.state()
    assert ann.post(call, id="5").status_code == 404


def test_the_history_goes_back_to_the_first_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(desk_module, "MOST_SHOWN", 4)
    Asked(tmp_path / "state").ask(10)
    ann = Page(tmp_path / "state").person()
    order = []
    while queue := ann.queue():
        order.append(queue[0]["id"])
        ann.answer(queue[:1], 1)
    seen, before = [], None
    for _ in range(3):
        part = ann.say("history", before=before)
        assert len(part["items"]) <= 4
        seen += ids(part["items"])
        before = part["older"]
    assert (before, seen) == (None, order[::-1])


def test_the_history_is_mine_or_everybodys(page):
    ann, bo = page.person(), page.person("Bo")
    ann.answer(ann.queue()[:1], 1)
    bo.answer(bo.queue()[:1], 2)
    assert len(ann.say("history")["items"]) == 1
    assert len(ann.say("history", whose="all")["items"]) == 2


def test_the_grid_shows_one_suggested_class_with_the_number_of_each(asked, page):
    ann = page.person()
    ann.state()
    grid = ann.say("grid")
    assert grid["suggestion"] == 0
    assert {q["suggestion"] for q in grid["items"]} == {0}
    assert grid["groups"] == [{"suggestion": s, "open": 2} for s in range(3)]
    assert {q["suggestion"] for q in ann.say("grid", suggestion=2)["items"]} == {2}
    assert ann.say("grid", suggestion=None)["items"] == []


def test_before_the_first_question_the_page_waits(tmp_path):
    ann = Page(tmp_path / "state").person()
    assert ann.state() == {"desks": [], "desk": None}
    asked = Asked(tmp_path / "state")
    assert ann.state()["desk"] is None
    asked.ask(2)
    assert len(ann.queue()) == 2


def test_new_questions_new_clients_and_a_new_campaign_come_by_themselves(
    asked, page, tmp_path
):
    ann = page.person()
    old = ann.state()
    asked.ask(3)
    state = ann.state()
    assert (state["progress"]["cycle"], len(state["desks"])) == (2, 1)
    assert ann.image(asked.ledger.selection(2)[0]).status_code == 200
    other = Asked(tmp_path / "state", client=1)
    other.ask(2)
    assert [d["title"] for d in ann.state()["desks"]] == [
        "trial, client 0",
        "trial, client 1",
    ]
    ann.desk = ann.state()["desks"][1]["key"]
    ann.answer(ann.queue()[:1], 1)
    assert len(other.decisions()) == 1
    Asked(tmp_path / "state", campaign="next").ask(1)
    ann.desk = old["desk"]
    state = ann.state()
    assert [d["title"] for d in state["desks"]] == ["next, client 0"]
    assert state["desk"] == old["desk"], "what is at hand can be finished"


def test_a_ledger_that_is_damaged_is_said_in_one_line(asked, page):
    ann = page.person()
    ann.state()
    asked.path.with_suffix(".sheet.json").write_text("{")
    refused = ann.post("state")
    assert refused.status_code == 503
    assert refused.json()["error"].startswith("Cannot read ")
    asked.write_sheet()
    assert ann.post("state").status_code == 200


def test_why_a_question_was_asked_is_said_in_words(page):
    question = page.person().queue()[1]
    assert question["asked"] == "Asked in cycle 1 by fairfal; 2nd of 6"
    assert question["looks"] == "The model takes it for «digit 1», as 2 of this cycle's"
    assert question["score"] == ("its score 0.917 is higher than 66 % of this cycle's")


def test_what_the_server_said_last_is_passed_on(asked, page):
    told = datetime.now(UTC) - timedelta(seconds=50)
    write_word(asked.path, Word(1, 3, 40, 100.0, told.isoformat()))
    others = page.person().state()["others"]
    assert (others["cycle"], others["sites"], others["open"]) == (1, 3, 40)
    assert 45 < others["seconds"] <= 50


def test_hostile_class_names_are_only_names(tmp_path):
    names = ("<script>alert(1)</script>", "'\"&\u2028</title>")
    Asked(tmp_path / "state", class_names=names).ask(2)
    ann = Page(tmp_path / "state").person()
    answered = ann.post("state")
    assert answered.headers["content-type"] == "application/json"
    assert answered.json()["classes"] == list(names)
    assert "alert(1)" not in ann.http.get("/").text


def test_the_server_needs_neither_torch_nor_flower():
    code = (
        "import sys, fairfal_flwr.annotate.serve, fairfal_flwr.command.annotate;"
        "print([m for m in ('torch', 'flwr', 'ray') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_sample_ids_keep_all_their_digits(tmp_path):
    """JavaScript's numbers end at 2**53."""
    asked = Asked(tmp_path / "state")
    asked.ask(3)
    assert max(asked.files) > 2**53
    queue = Page(tmp_path / "state").person().queue()
    assert np.isin([int(q["id"]) for q in queue], list(asked.files)).all()
    assert all(isinstance(q["id"], str) for q in queue)
