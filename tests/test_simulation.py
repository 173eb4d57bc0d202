"""The app under real Flower: SuperLink, simulation runtime, Ray actors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from superlink import COMPLETED, local_superlink, run_app
from torch import equal

from fairfal_flwr.client.ledger import Ledger

ROOT = Path(__file__).parents[1]
FAIRFAL = str(Path(sys.executable).parent / "fairfal")
SHORT = {
    "num-clients": 3,
    "campaign.num-cycles": 2,
    "campaign.num-rounds": 2,
    "train.epochs": 1,
    "local.max-epochs": 3,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def superlink():
    with local_superlink() as link:
        yield link


@pytest.fixture
def places(tmp_path):
    return {
        "output-dir": str(tmp_path / "runs"),
        "state-dir": str(tmp_path / "state"),
    }


def simulate(superlink, run_config, *, num_supernodes=3, actors=1):
    lines = []
    record = run_app(
        superlink,
        ROOT,
        run_config,
        num_supernodes=num_supernodes,
        actors=actors,
        echo=lines.append,
    )
    return record, "\n".join(lines)


def selections(state_dir):
    ledgers = sorted(Path(state_dir).glob("*/client-*.sqlite"))
    fingerprints = [_fingerprint(path) for path in ledgers]
    books = [Ledger(*pair) for pair in zip(ledgers, fingerprints, strict=True)]
    return [[book.selection(cycle).tolist() for cycle in (1, 2)] for book in books]


def _fingerprint(path):
    import sqlite3

    with sqlite3.connect(path) as db:
        return db.execute("SELECT fingerprint FROM shard").fetchone()[0]


def test_one_actor_or_two_the_run_is_the_same_bit_by_bit(superlink, tmp_path):
    weights, asked = [], []
    for actors in (1, 2):
        places = {
            "output-dir": str(tmp_path / f"runs-{actors}"),
            "state-dir": str(tmp_path / f"state-{actors}"),
        }
        record, output = simulate(superlink, SHORT | places, actors=actors)
        assert record["status"] == COMPLETED, output
        (folder,) = Path(places["output-dir"]).iterdir()
        weights.append(load_file(folder / "model.safetensors"))
        asked.append(selections(places["state-dir"]))
        assert json.loads((folder / "summary.json").read_text())["finished"]
        assert output.count(str(folder)) == 2
        assert "client 2: device" in output
    assert len(asked[0]) == 3
    assert asked[0] == asked[1]
    assert all(equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_mistake_fails_the_run_with_one_line_and_no_stack_trace(superlink, places):
    record, output = simulate(superlink, SHORT | places, num_supernodes=2)
    assert record["status"] == "finished:failed"
    assert "FairFAL: `num-clients` is 3 but 2 SuperNodes are connected" in output
    assert "num-supernodes=3" in output
    assert "Traceback" not in output


def test_the_command_line_does_what_flwr_run_does(superlink, places, tmp_path):
    """It ends with the results, which are those of a run on a SuperLink, bit by bit."""
    record, output = simulate(superlink, SHORT | places)
    assert record["status"] == COMPLETED, output
    (plain,) = Path(places["output-dir"]).iterdir()
    overrides = " ".join(f"{key}={value}" for key, value in SHORT.items())
    folder = tmp_path / "out put"
    command = [FAIRFAL, "run", str(ROOT)]
    command += ["-c", overrides, "-c", f'output-dir="{folder}" state-dir="{tmp_path}"']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = folder.iterdir()
    assert f"results: {results}" in done.stdout.splitlines()[-2:]
    assert (results / "learning-curve.png").exists()
    ours, theirs = (load_file(x / "model.safetensors") for x in (results, plain))
    assert all(equal(ours[key], theirs[key]) for key in theirs)


def test_a_broken_value_is_one_line_and_exit_2(tmp_path):
    command = [FAIRFAL, "run", str(ROOT)]
    command += ["-c", "train.lr=-1.0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line == "fairfal: Run config: `train.lr` is -1.0; allowed: number > 0."
    assert not list(tmp_path.iterdir())
