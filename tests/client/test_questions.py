"""What people say about questions: votes and what they come to, who saw what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_ids import ids

from fairfal_flwr.client.ledger import Ledger
from fairfal_flwr.client.questions import Answer, Question, Row, StaleError, verdict_of
from fairfal_flwr.errors import UserError


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "client.sqlite", "abc")
    ledger.record_selection(
        1, "fairfal", ids(9, 4, 7), suggestions=ids(0, 2, 1), scores=ids(3, 2, 1) / 4
    )
    return ledger


def of(ledger: Ledger, sample_id: int) -> Question:
    return next(q for q in ledger.questions() if q.sample_id == sample_id)


def said(question: Question) -> list[tuple[str, int | None, str]]:
    return [(row.action, row.label, row.annotator) for row in question.rows]


def test_a_question_says_when_and_why_it_was_asked(ledger):
    ledger.record_selection(2, "random", ids(5))
    first, _, third, fourth = ledger.questions()
    assert (first.sample_id, first.cycle, first.rank) == (9, 1, 0)
    assert (first.strategy, first.suggestion, first.score) == ("fairfal", 0, 0.75)
    assert (third.sample_id, third.rank) == (7, 2)
    assert (fourth.cycle, fourth.strategy) == (2, "random")
    assert (fourth.suggestion, fourth.score) == (None, None)
    assert first.last == 0
    assert first.rows == ()
    assert first.decision is None


def test_rows_are_those_of_the_question_in_their_order(ledger):
    ledger.answer(4, 2, "Ann")
    ledger.answer(9, None, "Bo")
    ledger.answer(4, 1, "Bo")
    ledger.withdraw(9, "Ann")
    assert said(of(ledger, 4)) == [("label", 2, "Ann"), ("label", 1, "Bo")]
    assert said(of(ledger, 9)) == [("set-aside", None, "Bo"), ("withdraw", None, "Ann")]
    assert [row.number for row in of(ledger, 4).rows] == [1, 3]
    assert of(ledger, 4).decision == of(ledger, 4).rows[-1]
    assert of(ledger, 9).decision is None


def test_who_did_not_see_the_last_word_writes_nothing(ledger):
    ledger.answer(4, 2, "Ann", seen=0)
    before = ledger.head
    with pytest.raises(StaleError):
        ledger.answer(4, 1, "Bo", seen=0)
    with pytest.raises(StaleError):
        ledger.withdraw(4, "Bo", seen=0)
    assert ledger.head == before
    ledger.answer(4, 1, "Bo", seen=of(ledger, 4).last)
    assert of(ledger, 4).decision.label == 1
    ledger.withdraw(4, "Bo", seen=of(ledger, 4).last)
    assert of(ledger, 4).decision is None


def test_of_a_batch_only_what_is_stale_is_left_out(ledger):
    ledger.answer(4, 2, "Ann")
    entries = ledger.head.entries
    batch = [Answer(9, 0, "Bo", 0), Answer(4, 0, "Bo", 0), Answer(7, 0, "Bo", 0)]
    assert ledger.answer_all(batch) == [batch[1]]
    assert ledger.labeled(1)[1].tolist() == [2, 0, 0]
    assert ledger.head.entries == entries + 1
    assert ledger.answer_all(batch) == batch
    assert ledger.head.entries == entries + 1


def test_a_batch_that_answers_twice_sees_itself(ledger):
    twice = [Answer(4, 1, "Ann", 0), Answer(4, 2, "Bo", 0), Answer(4, 3, "Bo", 1)]
    assert ledger.answer_all(twice) == [twice[1]]
    assert said(of(ledger, 4)) == [("label", 1, "Ann"), ("label", 3, "Bo")]


def test_two_who_agree_make_a_label(ledger):
    ledger.answer(4, 2, "Ann", votes=2)
    assert ledger.unanswered().tolist() == [9, 4, 7]
    assert not of(ledger, 4).awaits("Ann", 2)
    assert of(ledger, 4).awaits("Bo", 2)
    ledger.answer(4, 2, "Bo", votes=2)
    assert said(of(ledger, 4)) == [
        ("vote", 2, "Ann"),
        ("vote", 2, "Bo"),
        ("label", 2, "Ann & Bo"),
    ]
    assert ledger.labeled(1)[1].tolist() == [2]
    assert not of(ledger, 4).awaits("Cy", 2)


def test_a_third_decides_what_two_see_otherwise(ledger):
    ledger.answer(4, 2, "Ann", votes=2)
    ledger.answer(4, None, "Bo", votes=2)
    assert ledger.unanswered().tolist() == [9, 4, 7]
    assert of(ledger, 4).votes == {"Ann": 2, "Bo": None}
    ledger.answer(4, 5, "Cy", votes=2)
    assert said(of(ledger, 4))[-1] == ("label", 5, "Cy")


def test_two_who_cannot_tell_set_a_sample_aside(ledger):
    ledger.answer(4, None, "Ann", votes=2)
    assert ledger.set_aside(1).tolist() == []
    ledger.answer(4, None, "Bo", votes=2)
    assert ledger.set_aside(1).tolist() == [4]
    assert ledger.unanswered().tolist() == [9, 7]


def test_a_vote_may_be_changed_and_taken_back(ledger):
    ledger.answer(4, 2, "Ann", votes=2)
    ledger.answer(4, 3, "Ann", votes=2)
    assert of(ledger, 4).votes == {"Ann": 3}
    ledger.withdraw(4, "Bo", votes=2)
    assert of(ledger, 4).votes == {"Ann": 3}
    ledger.withdraw(4, "Ann", votes=2)
    assert of(ledger, 4).votes == {}
    assert of(ledger, 4).awaits("Ann", 2)


def test_a_vote_on_what_was_decided_opens_it_until_two_agree_again(ledger):
    for who in ("Ann", "Bo"):
        ledger.answer(4, 2, who, votes=2)
    ledger.answer(4, 6, "Ann", votes=2)
    assert of(ledger, 4).decision is None
    assert of(ledger, 4).votes == {"Bo": 2, "Ann": 6}
    ledger.answer(4, 6, "Cy", votes=2)
    assert of(ledger, 4).decision.label == 6
    assert of(ledger, 4).decision.annotator == "Ann & Cy"


def test_what_two_agree_on_stands_when_a_third_has_second_thoughts(ledger):
    for who, label in (("Ann", 2), ("Bo", 2), ("Cy", 5)):
        ledger.answer(4, label, who, votes=2)
    ledger.withdraw(4, "Cy", votes=2)
    assert of(ledger, 4).decision.annotator == "Ann & Bo"
    ledger.withdraw(4, "Cy", votes=2)
    assert said(of(ledger, 4))[-2:] == [
        ("withdraw", None, "Cy"),
        ("label", 2, "Ann & Bo"),
    ]


def test_votes_after_a_cycle_was_closed_change_the_next_one_only(ledger):
    for who in ("Ann", "Bo"):
        ledger.answer(4, 2, who, votes=2)
    ledger.close(1)
    assert ledger.closed_cycles() == 1
    for who in ("Ann", "Bo"):
        ledger.answer(4, 6, who, votes=2)
    assert ledger.labeled(1)[1].tolist() == [2]
    assert ledger.labeled(2)[1].tolist() == [6]


def test_what_was_said_after_a_row_can_be_read_alone(ledger):
    ledger.answer(4, 2, "Ann")
    ledger.answer(9, 1, "Ann")
    ledger.withdraw(4, "Ann")
    assert ledger.questions(after=2) == [of(ledger, 4)]
    assert ledger.questions(after=0) == [of(ledger, 9), of(ledger, 4)]
    assert ledger.questions(after=3) == []


def test_whose_ledger_it_is_need_not_be_known(ledger):
    ledger.answer(4, 2, "Ann")
    assert Ledger(ledger.path, None).questions() == ledger.questions()
    with pytest.raises(UserError, match=r"There is no label ledger .*none\.sqlite"):
        Ledger(ledger.path.with_name("none.sqlite"), None)
    assert not ledger.path.with_name("none.sqlite").exists()


votes = st.dictionaries(st.sampled_from("ABCD"), st.none() | st.integers(0, 2))


@given(votes, st.integers(1, 3))
def test_a_verdict_is_of_enough_who_agree_or_of_one_more(votes, needed):
    verdict = verdict_of(votes, needed)
    most = max((list(votes.values()).count(v) for v in votes.values()), default=0)
    assert (verdict is not None) == (most >= needed or len(votes) > needed)
    if verdict:
        assert verdict.annotators == tuple(
            who for who, label in votes.items() if label == verdict.label
        )
        assert len(verdict.annotators) >= needed or most < needed


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Ann", "Bo", "Cy"]),
            st.sampled_from(["withdraw", None, 0, 1]),
        ),
        max_size=12,
    )
)
def test_a_decision_is_what_those_who_stand_by_a_vote_come_to(tmp_path_factory, words):
    """Each word in turn, against a plain account of who says what."""
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger(folder / "client.sqlite", "abc")
    ledger.record_selection(1, "random", ids(4))
    account: dict[str, int | None] = {}
    for who, word in words:
        account.pop(who, None)
        if word == "withdraw":
            ledger.withdraw(4, who, votes=2)
        else:
            ledger.answer(4, word, who, votes=2)
            account[who] = word
        values = list(account.values())
        twice = [label for label in values if values.count(label) >= 2]
        decided = twice[:1] or (values[-1:] if len(values) > 2 else [])
        question = of(ledger, 4)
        assert question.votes == account
        assert bool(question.decision) == bool(decided)
        if decided:
            assert question.decision.label == decided[0]
    assert isinstance(of(ledger, 4).last, int)
    assert all(isinstance(row, Row) for row in of(ledger, 4).rows)
