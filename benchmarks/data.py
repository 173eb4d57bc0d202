"""How long a client process waits for its images.

    python benchmarks/data.py

Each line is the processor time of `load_shard` in a new Python process, imports not
counted, which a busy machine hardly disturbs: the first makes the shard from the image
set and keeps it, the others find it. That is what a deployed client pays for every
message.
"""

import json
import os
import subprocess
import sys
import tempfile

RUNS = {
    "digits, 5 clients": {},
    "Fashion-MNIST, 10 clients (paper)": {
        "num-clients": 10,
        "data.name": "fashion-mnist",
        "data.imbalance-ratio": 20.0,
    },
    "Fashion-MNIST, all images, 1 client": {
        "num-clients": 1,
        "data.name": "fashion-mnist",
        "data.imbalance-ratio": 1.0,
    },
}
REPEATS = 3
PROGRAM = """
import sys, json
from time import process_time
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import ShardCache, load_shard
from fairfal_flwr.paths import state_root
config = RunConfig.from_flat(json.loads(sys.argv[1]))
images, partition = config.image_spec(), config.partition_spec()
cache = ShardCache(state_root("") / "shards", config.data.cache_mb, images.memory_mb)
started = process_time()
shard, _ = load_shard(images, partition, 0, cache=cache)
elapsed = process_time() - started
print(f"{1000 * elapsed:.1f} {len(shard)}")
"""


def measure(config: str) -> tuple[float, int]:
    """Return milliseconds and images of one load in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, config]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    milliseconds, images = done.stdout.split()
    return float(milliseconds), int(images)


def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FAIRFAL_HOME"] = folder
        print(f"{'':38}{'images':>8}{'first':>12}{'best after':>12}{'worst':>12}")
        for name, config in RUNS.items():
            text = json.dumps(config)
            first, images = measure(text)
            after = sorted(measure(text)[0] for _ in range(REPEATS))
            print(
                f"{name:38}{images:8d}{first:9.1f} ms{after[0]:9.1f} ms"
                f"{after[-1]:9.1f} ms"
            )


if __name__ == "__main__":
    main()
