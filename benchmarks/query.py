"""Time and memory of the query strategies on synthetic outputs, without Flower.

    python benchmarks/query.py                 # FairFAL stage by stage, then all
    python benchmarks/query.py --only fairfal  # the first table alone
    python benchmarks/query.py --only strategies --names badge,coreset

Each case runs in a forked process of its own, after a warm-up on a tiny pool. Times are
processor time on one thread, which a busy machine hardly disturbs: the best of a few
calls, outputs not included. Memory is how far the
process's resident set rose above where it stood before the call (VmHWM − VmRSS of
/proc/self/status, the high-water mark reset before the call); it sees torch, NumPy and
scikit-learn alike. The networks behind `deepfool` and `bald` are two-layer perceptrons:
with a real network those two cost what its passes cost.
"""

import argparse
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairfal_flwr.query import Outputs, QueryContext, select
from fairfal_flwr.query.context import Model, Split
from fairfal_flwr.query.gradient_embedding import OuterProducts
from fairfal_flwr.query.measures import normalized_entropies
from fairfal_flwr.query.model_choice import adaptive_model
from fairfal_flwr.query.quota import class_quotas
from fairfal_flwr.query.registry import STRATEGIES
from fairfal_flwr.query.strategies.fairfal import (
    cover_classes,
    gradient_embeddings,
    guess_classes,
    uncertain_candidates,
)

INPUT_DIM = 16
MOST_GROWTH = 2.3  # of the time when the pool doubles
QUADRATIC = {"ifal"}  # compares every sample with every other
MODELS: tuple[Model, ...] = ("global", "local", "local-last", "finetuned", "distilled")


class Shape(NamedTuple):
    """The size of a query."""

    pool: int
    features: int
    classes: int
    budget: int
    labeled: int

    def __str__(self) -> str:
        return (
            f"N={self.pool} D={self.features} C={self.classes} b={self.budget} "
            f"M={self.labeled}"
        )


SHAPES = [Shape(1700, 256, 10, 85, 170), Shape(1000, 256, 100, 50, 100)]
# Every label taken and every class a few of them: what the pool of a late cycle is.
TINY = Shape(40, 8, 3, 5, 10)


class Perceptron(nn.Module):
    """Inputs to features to logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Linear(INPUT_DIM, shape.features), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(shape.features, shape.classes)

    def features_and_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits."""
        features = self.backbone(inputs)
        return features, self.head(features)


def make_context(shape: Shape) -> QueryContext:
    """Return a context whose outputs are there already: clustered points, five nets."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    centers = 2 * torch.randn(shape.classes, INPUT_DIM, generator=generator)
    labels = torch.arange(shape.labeled) % shape.classes
    classes = torch.randint(shape.classes, (shape.pool,), generator=generator)
    inputs: dict[Split, Tensor] = {
        split: centers[which] + torch.randn(len(which), INPUT_DIM, generator=generator)
        for split, which in [("pool", classes), ("labeled", labels)]
    }
    networks = {model: Perceptron(shape).eval() for model in MODELS}
    outputs: dict[tuple[Model, Split], Outputs] = {}
    with torch.inference_mode():
        for model, network in networks.items():
            for split, images in inputs.items():
                features, logits = network.features_and_logits(images)
                outputs[model, split] = Outputs((4 * logits).softmax(dim=1), features)
    return QueryContext.from_outputs(
        outputs,
        labels=labels,
        num_classes=shape.classes,
        global_imbalance=0.3,
        generator=generator,
        load_network=lambda model: networks[model],
        load_inputs=lambda split: inputs[split],
        memory={"changes": torch.randint(10, (shape.pool,), generator=generator)},
    )


def measure(function: Callable[[], Any]) -> tuple[float, float]:
    """Return the best milliseconds of up to 5 calls, and the MiB of the first."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    times = []
    deadline = perf_counter() + 1
    peak = 0.0
    while len(times) < 5 and (not times or perf_counter() < deadline):
        started = process_time()
        function()
        times.append(1000 * (process_time() - started))
        peak = peak or _memory("VmHWM") - before
    return min(times), peak


def _memory(field: str) -> float:
    """Return a memory field of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stages(shape: Shape) -> dict[str, tuple[float, float]]:
    """Return (ms, MiB) of each stage of FairFAL, and of a dense k-center."""
    context, quick = make_context(shape), {}
    quick["divergence, score"] = measure(lambda: adaptive_model(context))
    quick["prototypes"] = measure(lambda: guess_classes(context))
    pseudo = guess_classes(context)
    sizes = pseudo.bincount(minlength=shape.classes)
    quick["quota"] = measure(lambda: class_quotas(sizes, shape.budget))
    quotas = class_quotas(sizes, shape.budget)

    def candidates() -> dict[int, Tensor]:
        uncertainty = normalized_entropies(context.outputs("global", "pool").probs)
        return {
            c: uncertain_candidates(
                uncertainty, (pseudo == c).nonzero().flatten(), int(quotas[c]), factor=4
            )
            for c in quotas.nonzero().flatten().tolist()
        }

    quick["candidates"] = measure(candidates)
    by_class = candidates()

    def k_center(*, dense: bool) -> dict[int, Tensor]:
        points = gradient_embeddings(context, "global")
        if dense:
            points = tuple(
                OuterProducts.plain(
                    torch.einsum("nc,nd->ncd", p.left, p.right).flatten(1)
                )
                for p in points
            )
        return cover_classes(by_class, quotas, *points, context.labels)

    quick["k-center, factored"] = measure(lambda: k_center(dense=False))
    quick["k-center, dense C·D"] = measure(lambda: k_center(dense=True))
    same = all(
        a.equal(b)
        for a, b in zip(
            k_center(dense=False).values(), k_center(dense=True).values(), strict=True
        )
    )
    assert same, "the dense and the factored picks differ"
    quick["whole selection"] = measure(lambda: select("fairfal", context, shape.budget))
    return quick


def whole(name: str, shape: Shape) -> tuple[float, float]:
    """Return (ms, MiB) of one strategy with its default options."""
    select(name, make_context(TINY), TINY.budget)  # imports, thread pools
    context = make_context(shape)
    return measure(lambda: select(name, context, shape.budget))


def _run(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    pipe.send(function(*arguments))


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a forked process and return what it returned."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_run, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def print_stages() -> None:
    """Print FairFAL stage by stage."""
    for shape in SHAPES:
        print(f"\nfairfal, {shape}")
        results = isolated(stages, shape)
        for stage, (milliseconds, mebibytes) in results.items():
            print(f"  {stage:<20} {milliseconds:9.2f} ms {mebibytes:8.1f} MiB")
        dense, fast = (
            results[f"k-center, {kind}"][0] for kind in ("dense C·D", "factored")
        )
        print(f"  dense / factored: {dense / fast:.1f}, with the same picks")


def print_strategies(names: list[str]) -> None:
    """Print every strategy, and its growth when the pool doubles."""
    for shape in SHAPES:
        print(f"\n{shape}: default options; growth when N doubles")
        print(f"  {'':<18} {'ms':>9} {'MiB':>8} {'growth':>6} {'MiB at 2N':>10}")
        for name in names:
            time, memory = isolated(whole, name, shape)
            more = isolated(whole, name, shape._replace(pool=2 * shape.pool))
            growth = more[0] / time
            remark = f"  above {MOST_GROWTH}" * (growth > MOST_GROWTH)
            remark = "  quadratic" if name in QUADRATIC else remark
            print(
                f"  {name:<18} {time:9.1f} {memory:8.1f} {growth:6.2f} "
                f"{more[1]:10.1f}{remark}",
                flush=True,
            )


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["fairfal", "strategies"])
    parser.add_argument("--names", default=",".join(STRATEGIES), help="with commas")
    arguments = parser.parse_args()
    if arguments.only != "strategies":
        print_stages()
    if arguments.only != "fairfal":
        print_strategies(arguments.names.split(","))


if __name__ == "__main__":
    main()
