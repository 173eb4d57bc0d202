"""The page of a report: what it says, that it needs nothing, and what it refuses."""

import json
import re
import shutil

import numpy as np
import pytest
from made_up import make_run
from matplotlib.colors import to_rgb
from typer.testing import CliRunner

from fairfal_flwr.command.cli import app
from fairfal_flwr.command.simulated import facts_of
from fairfal_flwr.report.compare import comparison
from fairfal_flwr.report.content import sections_of
from fairfal_flwr.report.facts import Facts
from fairfal_flwr.report.figures import tied
from fairfal_flwr.report.groups import read_groups
from fairfal_flwr.report.palette import DARK, DARK_PAPER, LIGHT, LIGHT_PAPER
from fairfal_flwr.report.times import seconds_by_stage, traffic_of
from fairfal_flwr.runs.reader import read_run


def report(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def content(folders, known=facts_of):
    """Return the sections of a report by title."""
    groups = read_groups(folders)
    members = [member for of in groups.finished.values() for member in of]
    facts = {member.run.folder.name: known(member.run) for member in members}
    return {section.title: section for section in sections_of(groups, facts)}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Six seeds; margin is the worst of four, and random beats it in all of them."""
    root = tmp_path_factory.mktemp("several")
    gains = {"random": 0.0, "margin": -0.05, "fairfal": 0.04}
    return [
        make_run(root, name, seed, gain=gain * (1 + seed / 50), ledgers=False)
        for name, gain in gains.items()
        for seed in range(7)
    ]


def test_a_run_gets_a_page_its_pictures_and_its_tables(single):
    result = report(single)
    assert result.exit_code == 0, result.stderr
    folder = single / "report"
    assert result.stdout == f"{folder / 'report.html'}\n"
    text = (folder / "report.md").read_text()
    pictures = re.findall(r"\]\((.*?)\)", text)
    assert {"curve-1.png", "recall.png", "asked-1.png", "partition.png"} <= set(
        pictures
    )
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {
        *pictures,
        "report.md",
        "report.html",
    }


def test_the_page_needs_nothing_else(single):
    report(single)
    page = (single / "report" / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"@import|<link|<img|<iframe", page)
    addresses = set(re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", page))
    assert {address for address in addresses if not address.startswith("#")} <= {
        address for address in addresses if address.startswith("data:image/png;base64")
    }
    assert page.count("<svg") == len(list((single / "report").glob("*.png")))
    assert "var(--line-0)" in page
    assert "currentColor" in page
    assert all(color not in page.split("</style>")[1] for color in LIGHT)


def test_every_axis_of_every_picture_has_a_unit(several):
    sections = content(several[:2] + several[7:9] + several[14:16])
    pictures = [p for section in sections.values() for p in section.pictures]
    assert len(pictures) > 4
    for picture in pictures:
        axes = picture.figure.axes[0]
        labels = [axes.get_xlabel()]
        labels += [axes.get_ylabel()] if picture.name not in ("ranks", "stages") else []
        for label in labels:
            assert re.search(r"\((%|number|s|min)|rank|class|images", label), label


def test_what_was_asked_for_is_counted_by_true_class(single):
    """A made-up client asks for its samples in their order."""
    from fairfal_flwr.config import RunConfig
    from fairfal_flwr.data import load_shard

    run = read_run(single)
    facts = facts_of(run)
    config = RunConfig.from_flat(run.config)
    for client in range(3):
        _, labels = load_shard(config.image_spec(), config.partition_spec(), client)
        budget = config.campaign.labels_per_cycle(len(labels))
        for cycle in (1, 2):
            chosen = labels[budget * (cycle - 1) : budget * cycle]
            expected = np.bincount(chosen, minlength=10)
            assert facts.asked[cycle][client].tolist() == expected.tolist()
        assert (
            facts.counts[client].tolist() == np.bincount(labels, minlength=10).tolist()
        )
    left = facts.counts - facts.asked[1]
    assert facts.pool(2).tolist() == left.tolist()
    assert facts.pool(1).tolist() == facts.counts.tolist()


def test_the_color_says_how_often_a_class_was_asked_for_beside_chance(single, drawn):
    from fairfal_flwr.report.figures import asked_figure

    figure = asked_figure(
        [np.array([6, 2, 0])], [np.array([50, 50, 0])], ["cat", "dog", "emu"]
    )
    (mesh,) = figure.axes[0].collections
    shades = np.ma.filled(mesh.get_array(), np.nan).ravel()
    assert shades == pytest.approx([np.log2(1.5), -1, np.nan], nan_ok=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["6", "2"]


def test_each_choice_of_a_model_is_in_the_table(single):
    (table,) = content([single])["Which model queried"].tables
    assert table.heads[:3] == ["cycle", "client", "model"]
    assert table.rows == [
        ["2", "0", "local", "0.700", "0.700", "0.250", "0.500"],
        ["2", "1", "global", "0.700", "0.700", "0.250", "0.501"],
        ["2", "2", "local", "0.700", "0.700", "0.250", "0.502"],
    ]


def test_a_deployed_run_says_why_it_does_not_know(several):
    section = content(several[:1])["What was asked for"]
    assert not section.pictures
    (note,) = section.notes
    assert "no ledger of it is in" in note
    assert "deployed run stay at its sites" in note


def test_images_that_are_not_here_are_missed_in_words(tmp_path):
    folder = make_run(tmp_path, ledgers=False)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('"digits"', '"fashion-none"'))
    sections = content([folder])
    assert (
        "The images cannot be counted here" in sections["What was asked for"].notes[0]
    )
    assert "Partition" not in sections
    axes = sections["Classes"].pictures[0].figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == "class 0"


def test_other_images_or_a_broken_ledger_are_named(tmp_path):
    folder = make_run(tmp_path)
    ledger = tmp_path / "state" / folder.name / "client-0001.sqlite"
    ledger.write_bytes(b"no database")
    for beside in ledger.parent.glob("client-0001.sqlite-*"):
        beside.unlink()
    (why,) = facts_of(read_run(folder)).missing
    assert f"{ledger} cannot be read" in why
    shutil.copy(ledger.with_name("client-0000.sqlite"), ledger)
    (why,) = facts_of(read_run(folder)).missing
    assert "client 1 asked for images that `data.name` does not deal to it" in why


def test_it_says_plainly_when_random_wins(several):
    words = content(several)["In short"].words
    assert words[0].startswith("Random wins against margin by ")
    assert any(line.startswith("Fairfal wins against random by ") for line in words)


def test_it_says_when_nothing_is_shown(several):
    few = [folder for folder in several if folder.name.split("seed")[1][0] in "01"]
    words = content(few)["In short"].words
    assert all(line.startswith("Too few pairs to tell ") for line in words)
    alone = content(several[:7])["In short"].words
    assert alone == ["Nothing else has the seed and partition of a run of random."]
    without = content(several[7:])["In short"].words
    assert without == ["No run of random is among these, so nothing says who wins."]


def test_strategies_that_do_the_same_do_not_differ(tmp_path):
    twins = [make_run(tmp_path, name, ledgers=False) for name in ("random", "margin")]
    words = content(twins)["In short"].words
    assert words[0].startswith("Margin and random do not differ in AULC")


def test_its_tables_are_those_of_compare(several):
    groups = read_groups(several)
    sections = content(several)
    shown = [
        t
        for s in ("Learning curves", "Against random, pair by pair")
        for t in sections[s].tables
    ]
    assert all("\n".join(t.markdown()) in comparison(groups) for t in shown)


def test_time_and_bytes_are_those_of_the_exchanges(single):
    """Two cycles: a query of 2 s each, two rounds of 5 s each, of 36 s in all."""
    run = read_run(single)
    spent = seconds_by_stage(run)
    assert {stage: s for stage, s in spent.items() if s} == {
        "query": 4.0,
        "train": 20.0,
        "aggregate, test, save": 12.0,
    }
    traffic = traffic_of([run, run])
    assert (traffic.rounds, traffic.sent, traffic.received) == (8, 1000, 2000)
    assert traffic.total == 2 * 6 * 3000


def luminance(color):
    parts = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in to_rgb(color)
    ]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("colors", "paper"), [(LIGHT, LIGHT_PAPER), (DARK, DARK_PAPER)]
)
def test_lines_stand_out_from_the_paper(colors, paper):
    """WCAG 2.2, 1.4.11: at least 3:1."""
    assert contrast("white", "black") == pytest.approx(21)
    assert all(contrast(color, paper) >= 3 for color in colors)


# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
DEUTAN = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTAN = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


@pytest.mark.parametrize("seen", [np.eye(3), np.array(DEUTAN), np.array(PROTAN)])
@pytest.mark.parametrize("colors", [LIGHT[:4], DARK[:4]])
def test_color_blind_readers_tell_the_first_four_lines_apart(colors, seen):
    linear = [
        np.array(
            [
                c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                for c in to_rgb(color)
            ]
        )
        for color in colors
    ]
    shown = [np.cbrt(np.clip(seen @ color, 0, 1)) for color in linear]
    apart = [np.linalg.norm(a - b) for n, a in enumerate(shown) for b in shown[:n]]
    assert min(apart) > 0.12


@pytest.mark.parametrize(
    ("ranks", "difference", "expected"),
    [
        ([1.0, 2.0, 3.0], 0.5, []),
        ([1.0, 1.2, 1.4], 5.0, [(0, 2)]),
        ([1.0, 2.0, 3.0, 3.5], 1.5, [(0, 1), (1, 2), (2, 3)]),
        ([1.0, 2.0, 3.0, 3.4], 1.5, [(0, 1), (1, 3)]),
        ([1.0, 2.0, 2.9, 4.9], 2.0, [(0, 2)]),
    ],
)
def test_a_bar_ties_the_largest_sets_that_are_no_different(ranks, difference, expected):
    assert tied(ranks, difference) == expected


@pytest.mark.parametrize("name", ["summary.json", "rounds.csv", "queries.csv"])
def test_a_cut_file_is_one_line(tmp_path, name):
    folder = make_run(tmp_path, ledgers=False)
    path = folder / name
    data = path.read_bytes()
    cut = data[: len(data) // 2]
    path.write_bytes(cut if name.endswith("json") else cut + b'"\n')
    result = report(folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fairfal: {path} is damaged")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_event_that_lacks_a_fact_is_one_line(tmp_path):
    folder = make_run(tmp_path, ledgers=False)
    with (folder / "events.jsonl").open("a") as file:
        entry = {"time": "2026-01-01T00:00:00+00:00", "event": "exchanged"}
        file.write(json.dumps(entry | {"message": "train"}) + "\n")
    result = report(folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == (
        f"fairfal: {folder / 'events.jsonl'} is damaged: an `exchanged` whose "
        "`seconds` is None; allowed: a number.\n"
    )


@pytest.mark.parametrize("name", ["rounds.csv", "queries.csv", "events.jsonl"])
def test_a_missing_file_is_no_reason_to_say_nothing(tmp_path, name):
    folder = make_run(tmp_path, ledgers=False)
    (folder / name).unlink()
    result = report(folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output


def test_what_is_no_run_is_one_line(tmp_path):
    (tmp_path / "summary.json").write_text('{"format": 99}')
    result = report(tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "has the format 99; known is 1" in result.stderr
    (tmp_path / "summary.json").write_text("[1, 2]")
    assert "has the format None" in report(tmp_path).stderr
    (tmp_path / "summary.json").unlink()
    assert report(tmp_path).stderr.startswith(f"fairfal: {tmp_path} is no folder of")


def test_an_unfinished_run_and_an_unknown_baseline_are_one_line(tmp_path):
    folder = make_run(tmp_path, ledgers=False, finished=False)
    result = report(folder)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    good = make_run(tmp_path, ledgers=False)
    result = report(good, "--baseline", "badge")
    assert result.stderr == "fairfal: The baseline is 'badge'; allowed: fairfal.\n"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    folder = make_run(tmp_path, ledgers=False)
    (tmp_path / "file").touch()
    result = report(folder, "-o", tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fairfal: Cannot write the report to {tmp_path}")


def test_a_run_without_anything_known_has_a_page(tmp_path):
    folder = make_run(tmp_path, ledgers=False)
    nothing = content([folder], known=lambda run: Facts(missing=("Nobody knows.",)))
    assert nothing["What was asked for"].notes == ["fairfal: Nobody knows."]
