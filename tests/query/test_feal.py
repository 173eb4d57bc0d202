"""FEAL: by hand, against SciPy and PyTorch, and the walk sentence by sentence."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Dirichlet
from torch.nn.functional import linear, normalize
from worlds import World, near, seeded

from fairfal_flwr.query import select
from fairfal_flwr.query.strategies import feal as module
from fairfal_flwr.query.strategies.feal import (
    crowds,
    data_uncertainty,
    dirichlet_entropy,
    dirichlet_parameters,
    relaxed_walk,
)


def slow_uncertainty(alpha: list[float]) -> float:
    """Integrate -p log p over the marginal of each class, Beta(a, b), b = S - a."""
    total = 0.0
    for a in alpha:
        b = sum(alpha) - a
        log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

        def term(p: float, a: float = a, b: float = b, log_beta: float = log_beta):
            density = math.exp(-log_beta) * p ** (a - 1) * (1 - p) ** (b - 1)
            return -p * math.log(p) * density

        total += quad(term, 0, 1)[0]
    return total


def test_data_uncertainty_is_the_mean_entropy_of_the_dirichlet():
    alpha = 1 + 8 * torch.rand(6, 4, generator=seeded(2))
    expected = [slow_uncertainty(row) for row in alpha.tolist()]
    assert near(data_uncertainty(alpha), expected, 1e-4)


def test_uncertainties_by_hand():
    # (3/4) (ψ(5) - ψ(4)) + (1/4) (ψ(5) - ψ(2)) = 3/16 + 13/48.
    assert near(data_uncertainty(torch.tensor([[3.0, 1.0]])), [3 / 16 + 13 / 48])
    # Beta(3, 1) has the density 3 p²: -∫ 3 p² ln(3 p²) = 2/3 - ln 3.
    assert near(dirichlet_entropy(torch.tensor([[3.0, 1.0]])), [2 / 3 - math.log(3)])


def test_the_entropy_is_pytorch_s():
    alpha = 1 + 30 * torch.rand(40, 5, generator=seeded(3))
    assert near(dirichlet_entropy(alpha), Dirichlet(alpha.double()).entropy(), 1e-3)


def slow_walk(
    scores: list[float], features: torch.Tensor, n: int, tau: float, budget: int
) -> list[int]:
    """Walk by score; fill up by score."""

    def cosine(i: int, j: int) -> float:
        a, b = features[i].double(), features[j].double()
        return float(a @ b / (a.norm() * b.norm()))

    ranking = sorted(range(len(scores)), key=lambda i: -scores[i])
    chosen: list[int] = []
    for i in ranking:
        others = [j for j in range(len(scores)) if j != i and cosine(i, j) > tau]
        nearest = sorted(others, key=lambda j: -cosine(i, j))[:n]
        if len(nearest) == n and any(j in chosen for j in nearest):
            continue
        chosen.append(i)
    return (chosen + [i for i in ranking if i not in chosen])[:budget]


@pytest.fixture(scope="module")
def pool_scores() -> list[float]:
    """Return the scores of the ordinary world, worked out image by image."""
    world, alphas = World(), {}
    for model in ("global", "local-last"):
        head = world.networks[model].head
        features = world.outputs[model, "pool"].features
        logits = linear(features, head.weight.detach(), head.bias.detach())
        alphas[model] = [[max(z, 0.0) + 1 for z in row] for row in logits.tolist()]
    spread = [float(Dirichlet(torch.tensor(a)).entropy()) for a in alphas["global"]]
    low, high = min(spread), max(spread)
    return [
        (e - low) / (high - low) * (slow_uncertainty(g) + slow_uncertainty(c))
        for e, g, c in zip(spread, alphas["global"], alphas["local-last"], strict=True)
    ]


@pytest.mark.parametrize("budget", [1, 7, 20, 39])
@pytest.mark.parametrize(("n", "tau"), [(1, 0.5), (3, 0.7), (5, 0.85), (2, -1.0)])
def test_feal_is_its_slow_twin(pool_scores, n, tau, budget):
    world = World()
    own = world.outputs["local-last", "pool"].features
    expected = slow_walk(pool_scores, own, n, tau, budget)
    options = {"num_neighbors": n, "similarity": tau}
    chosen = select("feal", world.context(), budget, **options)
    assert chosen.positions.tolist() == expected
    assert near(chosen.scores, [pool_scores[i] for i in expected], 1e-3)


def test_the_walk_by_hand():
    """Two pairs of twins and a loner, with one neighbor each: a twin is skipped."""
    angles = torch.tensor([0.0, 0.01, 1.5, 1.52, 3.0])
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    neighbors, crowded = crowds(directions, 1, 0.9)
    assert neighbors[:, 0].tolist()[:4] == [1, 0, 3, 2]
    assert crowded.tolist() == [True] * 4 + [False]
    ranking = torch.tensor([1, 0, 3, 4, 2])
    assert relaxed_walk(ranking, neighbors, crowded, 5).tolist() == [1, 3, 4]
    assert relaxed_walk(ranking, neighbors, crowded, 2).tolist() == [1, 3]


def test_who_has_fewer_near_neighbors_than_n_is_never_skipped():
    directions = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
    neighbors, crowded = crowds(directions, 2, 0.9)
    assert not crowded.any()
    walk = relaxed_walk(torch.tensor([0, 1, 2]), neighbors, crowded, 3)
    assert walk.tolist() == [0, 1, 2]
    assert not crowds(directions, 3, -1.0)[1].any()  # there are but two others


def test_the_chunks_of_similarities_make_no_difference(monkeypatch):
    directions = normalize(torch.randn(30, 4, generator=seeded(1)))
    whole = crowds(directions, 3, 0.6)
    monkeypatch.setattr(module, "CHUNK", 100)
    parts = crowds(directions, 3, 0.6)
    assert all(a.equal(b) for a, b in zip(whole, parts, strict=True))


def test_evidence_is_what_a_logit_has_above_0():
    alpha = dirichlet_parameters(torch.tensor([[-1.0, 0.0, 2.5]]))
    assert alpha.tolist() == [[1.0, 1.0, 3.5]]
