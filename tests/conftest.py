"""What every test runs under: own folders, no telemetry, the same random examples."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# Before any test imports Flower, and for the processes that tests start.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

# A process that has a handler keeps its lines to those that listen, as `caplog` does.
logging.getLogger("fairfal").addHandler(logging.NullHandler())

# Several folders have one, and none has a doctest: as modules their names would clash.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]


@pytest.fixture(autouse=True, scope="session")
def fairfal_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep results and ledgers out of the user's data folder."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIRFAL_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """Give a browser, whose pages have a minute: a busy machine is slow."""
    from playwright.sync_api import expect, sync_playwright

    path = shutil.which("chromium")
    if path is None and not os.environ.get("CI"):
        pytest.skip("needs Debian's chromium")
    assert path, "CI has Debian's chromium"
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Skip what this machine cannot do, and downloads unless asked for by `-m`."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    no_internet = pytest.mark.skip(reason="downloads; ask for it with `-m internet`")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "internet" in item.keywords and "internet" not in config.option.markexpr:
            item.add_marker(no_internet)
