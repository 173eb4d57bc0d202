"""A sample of the malformed replies and configs of tests/soak, on every change."""

import pytest
from soak import configs, replies

from fairfal_flwr.console import one_line


def test_whatever_a_reply_is_the_worst_is_that_it_is_dropped(tmp_path):
    ends = replies.run(60, 1, tmp_path)
    assert sum(ends.values()) == 60
    for kind in replies.KINDS[1:]:
        assert ends[f"{kind} dropped"] >= 6
    assert ends["query.status stopped with a line"] >= 6


def test_whatever_a_config_is_it_is_valid_or_refused_in_one_line():
    ends = configs.run(100, 1)
    assert ends["valid"] >= 5
    assert ends["refused in one line"] >= 50


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("as it is", "as it is"),
        (" two\r\n lines\t", "two lines"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\u200b\ufeff\ud800", r"\u200b\ufeff\ud800"),
        ("Zürich 10⁶", "Zürich 10⁶"),
        ("x" * 301, "x" * 300 + "…"),
        ("\x00" * 300, r"\x00" * 75 + "…"),
        ("", ""),
    ],
    ids=repr,
)
def test_a_text_of_others_does_nothing_to_a_terminal(text, line):
    assert one_line(text) == line
    assert one_line(text).isprintable()


def test_a_text_is_cut_before_it_is_worked_on():
    assert one_line("\n" * 10**7 + "late") == ""
