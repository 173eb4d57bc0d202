"""The wheel, installed where there is no checkout: `fairfal run` works anywhere."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from fairfal_flwr.command.packaged import HOME, with_package, write_app
from fairfal_flwr.errors import UserError
from fairfal_flwr.runs.reader import read_run

ROOT = Path(__file__).parents[1]
SHORT = "num-clients=2 campaign.num-cycles=2 campaign.num-rounds=1"
PRESET = "configs/fmnist-quick.toml"
DIGITS = "data.name=digits query.strategy=random"


@pytest.fixture
def elsewhere(tmp_path):
    """Return a new environment with the wheel and this one's dependencies."""
    (wheel,) = WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path / "wheel"), versions=["standard"]
    )
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    install = ["pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    # A path in a .pth file is looked into, and its own .pth files are not read: the
    # checkout, which is installed as editable there, stays unknown.
    (packages,) = (environment / "lib").glob("python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment


@pytest.mark.slow
def test_a_run_and_a_copy_of_the_app_need_no_checkout(elsewhere, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": f"{elsewhere / 'bin'}:{os.defpath}"}

    def fairfal(*words):
        command = [elsewhere / "bin/fairfal", *words]
        done = subprocess.run(
            command, cwd=home, env=environment, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    strategies = fairfal("strategies")
    assert "fairfal\n" in strategies
    fairfal("new", "copy")
    file = home / "copy/fairfal_flwr/query/registry.py"
    code = file.read_text("utf-8")
    file.write_text(f"print('of the copy')\n{code}", encoding="utf-8")
    plain = fairfal("run", "-c", PRESET, "-c", DIGITS, "-c", SHORT)
    own = fairfal("run", "copy", "-c", SHORT)
    assert str(ROOT) not in plain + own
    assert ("of the copy" in plain, "of the copy" in own) == (False, True)
    runs = [read_run(folder) for folder in home.glob(".local/share/fairfal/runs/*")]
    assert [run.summary.finished for run in runs] == [True, True]


def test_a_copy_never_replaces_anything(tmp_path):
    (tmp_path / "app").mkdir()
    with pytest.raises(UserError, match="is there already"):
        write_app(tmp_path / "app")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write .*file/app"):
        write_app(tmp_path / "file/app")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "file"]


def test_an_app_that_has_its_package_is_bundled_as_it_is(tmp_path):
    with with_package(HOME) as whole:
        assert whole == HOME
    with with_package(tmp_path) as whole:
        assert whole == tmp_path
