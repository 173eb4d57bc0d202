"""Slow, obvious versions of the query maths: Python loops and explicit embeddings."""

import itertools
import math

import torch
from torch import Tensor

from fairfal_flwr.query import Outputs, QueryContext


def quotas(pool_sizes: list[int], budget: int) -> list[int]:
    """Deal a budget among classes, one sample after the other (METHOD §5.1)."""
    num_classes = len(pool_sizes)
    largest_first = sorted(range(num_classes), key=lambda c: (-pool_sizes[c], c))
    wanted = [budget // num_classes] * num_classes
    for c in largest_first[: budget % num_classes]:
        wanted[c] += 1
    given = [min(w, size) for w, size in zip(wanted, pool_sizes, strict=True)]
    excess = budget - sum(given)
    for c in itertools.cycle(largest_first):
        if not excess:
            return given
        if given[c] < pool_sizes[c]:
            given[c] += 1
            excess -= 1
    raise AssertionError


def embedding(probs: Tensor, features: Tensor, label: int) -> Tensor:
    """Return one sample's (onehot(y) - p) ⊗ h as a vector of C·D doubles."""
    residual = -probs.double()
    residual[label] += 1
    return torch.cat([r * features.double() for r in residual])


def embeddings(probs: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    rows = zip(probs, features, labels.tolist(), strict=True)
    return torch.stack([embedding(p, h, y) for p, h, y in rows])


def k_center(points: Tensor, budget: int, anchors: Tensor, first: int = 0) -> list[int]:
    """Greedy k-center on plain points, every distance computed from scratch."""
    covered, taken = list(anchors), []
    for _ in range(budget):
        best, best_distance = -1, -math.inf
        for i, point in enumerate(points):
            if i in taken:
                continue
            distance = min(
                (float((point - center).square().sum()) for center in covered),
                default=math.inf if i == first else 0.0,
            )
            if distance > best_distance:
                best, best_distance = i, distance
        taken.append(best)
        covered.append(points[best])
    return taken


def entropy(probs: Tensor) -> float:
    return -sum(p * math.log(p) for p in probs.tolist() if p > 0)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double()) / float(a.double().norm() * b.double().norm())


def mean_over_balanced(probs: Tensor, counts: Tensor) -> Tensor:
    """Average over an explicit list in which samples are repeated."""
    rows = [p for p, n in zip(probs, counts.tolist(), strict=True) for _ in range(n)]
    return torch.stack(rows).double().mean(dim=0)


def fairfal(
    context: QueryContext,
    budget: int,
    counts: Tensor,
    *,
    threshold: float = 0.75,
    factor: float = 4.0,
) -> list[int]:
    """Follow METHOD §3–5 sentence by sentence."""
    num_classes, labels = context.num_classes, context.labels.tolist()
    gamma = context.global_imbalance
    assert gamma is not None
    pi_g = mean_over_balanced(context.outputs("global", "labeled").probs, counts)
    pi_l = mean_over_balanced(context.outputs("local", "labeled").probs, counts)
    gaps = [abs(g - p) / (g + p) for g, p in zip(pi_g, pi_l, strict=True)]
    d = float(sum(gaps)) / num_classes
    judge = "global" if 1 - (d + gamma) / 2 > threshold else "local"
    embedder = "global" if gamma < 0.5 else "local"

    labeled_features = context.outputs("global", "labeled").features
    prototypes = {}
    for c in sorted(set(labels)):
        units = [h / h.norm() for h, y in zip(labeled_features, labels) if y == c]  # noqa: B905
        prototypes[c] = torch.stack(units).mean(dim=0)
    pool = context.outputs("global", "pool").features
    pseudo = [max(prototypes, key=lambda c: cosine(h, prototypes[c])) for h in pool]
    sizes = [pseudo.count(c) for c in range(num_classes)]

    uncertainty = [entropy(p) for p in context.outputs(judge, "pool").probs]
    pool_probs = context.outputs(embedder, "pool").probs
    labeled_probs = context.outputs(embedder, "labeled").probs
    points = embeddings(pool_probs, pool, pool_probs.argmax(dim=1))
    covered = embeddings(labeled_probs, labeled_features, context.labels)
    chosen = []
    for c, quota in enumerate(quotas(sizes, budget)):
        members = [i for i in range(len(pool)) if pseudo[i] == c]
        members.sort(key=lambda i: -uncertainty[i])
        candidates = members[: max(1, math.floor(factor * quota))]
        if len(candidates) > quota:
            anchors = covered[context.labels == c]
            picks = k_center(points[candidates], quota, anchors)
            candidates = [candidates[i] for i in picks]
        chosen += candidates
    return chosen


def random_outputs(
    num_samples: int, num_classes: int, dim: int, generator: torch.Generator
) -> Outputs:
    logits = torch.randn(num_samples, num_classes, generator=generator)
    features = torch.randn(num_samples, dim, generator=generator).relu() + 0.01
    return Outputs((2 * logits).softmax(dim=1), features)
