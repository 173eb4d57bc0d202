"""Digests of whole campaigns, to see that a change leaves the results as they were.

Each case runs in this process through the real messages; its line holds a digest of all
selections and one of the final weights. Run it on two commits and compare the lines::

    python benchmarks/digests.py > before.txt
"""

import argparse
import hashlib
import logging
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common.config import flatten_dict
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from grid import run_campaign  # noqa: E402

from fairfal_flwr.client.participant import find_participant  # noqa: E402

DIGITS = {"campaign.num-cycles": 4, "campaign.num-rounds": 6, "train.epochs": 4}
FASHION = {"campaign.num-cycles": 3, "campaign.num-rounds": 3, "train.epochs": 1}
CASES = {
    "fairfal": {},
    "chase": {
        "query.strategy": "chase",
        "train.objective": "alignment",
        "query.max-pool": 120,
    },
    "ksas": {"query.strategy": "ksas", "train.objective": "kcfu"},
    "ifal": {"query.strategy": "ifal", "distill.max-epochs": 20},
    "entropy-adaptive": {"query.strategy": "entropy", "query.model": "adaptive"},
    "scaffold": {"federation.strategy": "scaffold"},
    "fedprox": {"federation.strategy": "fedprox", "federation.proximal-mu": 0.1},
    "fedadam": {
        "federation.strategy": "fedadam",
        "federation.eta": 0.01,
        "campaign.reset": "continue",
        "federation.fraction-train": 0.6,
    },
    "client-fixed": {
        "privacy.mechanism": "client-fixed",
        "privacy.noise-multiplier": 0.01,
    },
}


def run(values: dict[str, Any]) -> str:
    """Run one campaign; return its two digests and the accuracy by cycle."""
    np.random.seed(0)  # noqa: NPY002 (Flower's noise is drawn from the global generator)
    campaign, _ = run_campaign(values)
    config, folder = campaign.config, campaign.recorder.folder
    chosen = hashlib.sha256()
    for client in range(config.num_clients):
        ledger = find_participant(config, client, folder.name).ledger
        for cycle in range(1, config.campaign.num_cycles + 1):
            chosen.update(
                f"{client} {cycle} {ledger.selection(cycle).tolist()}".encode()
            )
    weights = hashlib.sha256()
    for name, value in sorted(load_file(folder / "model.safetensors").items()):
        weights.update(name.encode() + value.contiguous().numpy().tobytes())
    accuracies = " ".join(f"{row.accuracy:.4f}" for row in campaign.recorder.cycles)
    return f"{chosen.hexdigest()[:16]} {weights.hexdigest()[:16]} {accuracies}"


def main() -> None:
    """Print a line per image set and case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    logging.getLogger("fairfal").addHandler(logging.NullHandler())
    base = dict(DIGITS)
    if arguments.data == "fashion-mnist":
        preset = tomllib.loads((ROOT / "configs/fmnist-quick.toml").read_text())
        base = flatten_dict(preset) | FASHION
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            places = {"output-dir": f"{folder}/runs", "state-dir": f"{folder}/state"}
            print(arguments.data, name, run(base | CASES[name] | places), flush=True)


if __name__ == "__main__":
    main()
