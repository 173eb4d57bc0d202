"""Slow, obvious versions of the query maths: Python loops and explicit embeddings."""

import itertools
import math

import torch
from torch import Tensor

from fairfal_flwr.query import Outputs, QueryContext


def quotas(pool_sizes: list[int], budget: int) -> list[int]:
    """Deal a budget among classes, one sample after the other (method §5.1)."""
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
    """Follow method §3–5 sentence by sentence."""
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


def badge(vectors: Tensor, budget: int, draws: list[float]) -> list[int]:
    """k-means++ on explicit vectors; draws[i] decides the i-th pick."""
    taken = [max(range(len(vectors)), key=lambda i: float(vectors[i].norm()))]
    for draw in draws[1:budget]:
        weights = [
            min(float((v - vectors[i]).square().sum()) for i in taken) for v in vectors
        ]
        for i in taken:
            weights[i] = 0.0
        target, running = draw * sum(weights), 0.0
        for i, weight in enumerate(weights):
            running += weight
            if running > target:
                taken.append(i)
                break
    return taken


def expected_gradient_length(head: torch.nn.Linear, feature: Tensor) -> float:
    """Backpropagate every class's loss to the weight of the last layer."""
    logits = torch.nn.functional.linear(feature.clone(), head.weight, head.bias)
    total = 0.0
    for c, p in enumerate(logits.softmax(dim=0).tolist()):
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(c))
        (gradient,) = torch.autograd.grad(loss, head.weight, retain_graph=True)
        total += p * float(gradient.norm())
    return total


def reverse_neighbors(
    pool: Tensor,
    labeled: Tensor,
    pool_classes: list[int],
    labeled_classes: list[int],
    num_classes: int,
    k: int,
) -> list[list[float]]:
    """Count the classes of those that have x among their k nearest in the pool."""
    counts = [[1.0] * num_classes for _ in pool]
    everyone = [*pool, *labeled]
    for z, c in enumerate([*pool_classes, *labeled_classes]):
        others = [i for i in range(len(pool)) if i != z]
        others.sort(key=lambda i: -cosine(everyone[z], pool[i]))
        for i in others[: min(k, len(pool) - 1)]:
            counts[i][c] += 1
    return [[n / sum(row) for n in row] for row in counts]


def perturbation(
    network: torch.nn.Module, image: Tensor, *, max_iterations: int, nearest: bool
) -> float:
    """DeepFool on one sample, one class and one step after the other."""
    eta, start = torch.zeros_like(image), None
    for _ in range(max_iterations):
        x = (image + eta).clone().requires_grad_()
        _, logits = network.features_and_logits(x[None])  # type: ignore[operator]
        logits = logits[0]
        predicted = int(logits.argmax())
        start = predicted if start is None else start
        if predicted != start:
            break
        (own,) = torch.autograd.grad(logits[start], x, retain_graph=True)
        best, step = math.inf, torch.zeros_like(image)
        for i in range(len(logits)):
            if i == start:
                continue
            (other,) = torch.autograd.grad(logits[i], x, retain_graph=True)
            w = other - own
            distance = abs(logits[i].item() - logits[start].item()) / float(w.norm())
            if distance < best:
                step = distance / w.norm() * w
                if nearest:
                    best = distance
        eta = eta + step
    return float(eta.square().sum())


def flips(
    feature: Tensor, predicted: int, anchors: Tensor, head: torch.nn.Linear, cap: float
) -> bool:
    """ALFA-Mix on one sample with the gradient by autograd and α written out."""
    h = feature.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(head(h), torch.tensor(predicted))
    (g,) = torch.autograd.grad(loss, h)
    for anchor in anchors:
        z = anchor - feature
        alpha = cap / math.sqrt(len(z)) * z.norm() / g.norm() * g / (z + 1e-8)
        mixed = (1 - alpha) * feature + alpha * anchor
        if int(head(mixed).argmax()) != predicted:
            return True
    return False


def otsu(values: list[float], num_bins: int) -> float:
    """Try every cut of the histogram."""
    low, width = min(values), (max(values) - min(values)) / num_bins
    bins = [min(int((v - low) / width), num_bins - 1) for v in values]
    centers = [low + width * (i + 0.5) for i in range(num_bins)]
    best, threshold = -1.0, low
    for cut in range(num_bins - 1):
        lower = [centers[b] for b in bins if b <= cut]
        upper = [centers[b] for b in bins if b > cut]
        gap = sum(lower) / len(lower) - sum(upper) / len(upper)
        between = len(lower) * len(upper) * gap**2
        if between > best * (1 + 1e-9):
            best, threshold = between, centers[cut]
    return threshold


def best_of_each_cluster(
    clusters: list[int], scores: list[float], budget: int
) -> list[int]:
    """LoGo's micro step and its top-up, walked cluster by cluster."""
    queues = {
        c: sorted(
            (i for i, k in enumerate(clusters) if k == c), key=lambda i: -scores[i]
        )
        for c in sorted(set(clusters))
    }
    chosen = [queue.pop(0) for queue in queues.values()]
    step = max(1, math.ceil((budget - len(chosen)) / len(queues)))
    while len(chosen) < budget:
        for queue in queues.values():
            chosen += [queue.pop(0) for _ in range(min(step, len(queue)))]
    return chosen[:budget]


def typicality(points: Tensor, clusters: list[int], k: int) -> list[float]:
    result = []
    for i, point in enumerate(points):
        distances = sorted(
            float((point - points[j]).norm())
            for j in range(len(points))
            if j != i and clusters[j] == clusters[i]
        )[:k]
        result.append(len(distances) / sum(distances) if distances else 0.0)
    return result


def is_one_from_the_middle_of_each(
    chosen: list[int], points: Tensor, clusters: list[int]
) -> bool:
    """Tell whether no member of a cluster is nearer to its mean than the one chosen.

    The two members of a cluster of two are equally near.
    """
    for position in chosen:
        members = [i for i, c in enumerate(clusters) if c == clusters[position]]
        mean = torch.stack([points[i] for i in members]).double().mean(dim=0)
        distances = {i: float((points[i] - mean).norm()) for i in members}
        if distances[position] > min(distances.values()) + 1e-5:
            return False
    return sorted(clusters[i] for i in chosen) == sorted(set(clusters))
