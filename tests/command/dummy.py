"""An app that only tests run: its server does what its seed says."""

from pathlib import Path

import tomli_w

# Names that no folder on sys.path has, such as this project's own root.
SERVER = """
import time
from pathlib import Path

from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    print("seed is", config["seed"])
    if config["seed"] == 13:
        raise ValueError("an unlucky seed")
    if config["seed"] >= 60:
        folder = Path(config["campaign.resume"] or config["output-dir"]) / "a run"
        folder.mkdir(parents=True)
        if config["seed"] == 61:
            (folder / "checkpoint.safetensors").touch()
        print(f"results: {folder}")
        time.sleep(config["federation.round-timeout"])
"""

CLIENT = """
from flwr.clientapp import ClientApp

app = ClientApp()
"""

PROJECT = {
    "project": {
        "name": "dummy",
        "version": "0.1.0",
        "description": "An app that only its tests run.",
        "license": {"text": "Apache-2.0"},
        "dependencies": ["flwr[simulation]>=1.41.0"],
    },
    "tool": {
        "flwr": {
            "app": {
                "publisher": "fairfal",
                "components": {
                    "serverapp": "dummy_server:app",
                    "clientapp": "dummy_client:app",
                },
                "config": {
                    "seed": 0,
                    "num-clients": 2,
                    "output-dir": "",
                    "campaign": {"num-cycles": 1, "resume": ""},
                    "federation": {"round-timeout": 60.0},
                },
            }
        }
    },
}


def write_app(folder: Path) -> Path:
    """Write the app; return its folder."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(tomli_w.dumps(PROJECT))
    (folder / "dummy_server.py").write_text(SERVER)
    (folder / "dummy_client.py").write_text(CLIENT)
    return folder
