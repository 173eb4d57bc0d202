"""Query strategies: a query in, rows of its pool out, as many as the budget."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import cycle as over_and_over
from statistics import mean

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, normalize

from textbook.models import Query
from textbook.world import Client, Settings, Weights, World, outputs, with_weights

# -------------------- Which model to trust


def balanced_subset(labels: list[int], seed: int) -> list[int]:
    """Return rows of the labels, repeated so that all classes are equally large.

    Every label once, then each class present is topped up by drawing from it with
    replacement, always with the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = list(range(len(labels)))
    largest = max(Counter(labels).values())
    for c in sorted(set(labels)):
        members = [row for row, label in enumerate(labels) if label == c]
        missing = largest - len(members)
        drawn = torch.randint(len(members), (missing,), generator=generator).tolist()
        rows += [members[i] for i in drawn]
    return rows


def balanced_mean(probs: Tensor, labels: list[int], settings: Settings) -> list[float]:
    """Return π, the mean softmax over the balanced subset: how a model leans."""
    rows = balanced_subset(labels, settings["adaptive.balance-seed"])
    return [mean(float(probs[row, c]) for row in rows) for c in range(probs.shape[1])]


def imbalance(
    world: World, client: Client, weights: Weights, settings: Settings
) -> float:
    """Return γ_k = min π / max π of the global model, over the classes with labels.

    1 is balanced. It is the one number that a client tells the server.
    """
    network = with_weights(world, weights)
    probs, _ = outputs(network, client.inputs[client.labeled])
    pi = balanced_mean(probs, client.known, settings)
    present = [pi[c] for c in set(client.known)]
    return min(present) / max(present)


def trusted_model(query: Query) -> str:
    """Return "global" where s_k = 1 - (d_k + γ̄) / 2 exceeds δ, else "local".

    d_k = (1/C) Σ_c |π_g - π_l| / (π_g + π_l): how differently the models lean.
    """
    pi_g = balanced_mean(query.of_labeled("global")[0], query.labels, query.settings)
    pi_l = balanced_mean(query.of_labeled("local")[0], query.labels, query.settings)
    d = mean(abs(g - p) / (g + p) for g, p in zip(pi_g, pi_l, strict=True))
    score = 1 - (d + query.gamma_bar) / 2
    return "global" if score > query.settings["adaptive.threshold"] else "local"


# -------------------- The simple ones


def best(scores: list[float], count: int) -> list[int]:
    """Return the rows of the largest scores; of equal ones the earlier row first."""
    return sorted(range(len(scores)), key=lambda row: -scores[row])[:count]


def entropy(probs: Tensor) -> list[float]:
    """Return -Σ p log p of each row."""
    return [-sum(p * math.log(p) for p in row if p > 0) for row in probs.tolist()]


def random_sampling(query: Query) -> list[int]:
    """Take any: the first cycle, and the control that others must beat."""
    order = torch.randperm(len(query.pool), generator=query.generator)
    return order[: query.budget].tolist()


def uncertainty_model(query: Query) -> str:
    """Return the model that `query.model` names; "auto" is the global one."""
    option = query.settings["query.model"]
    if option == "adaptive":
        return trusted_model(query)
    return "global" if option == "auto" else option


def entropy_sampling(query: Query) -> list[int]:
    """Take the samples of the largest entropy."""
    probs, _ = query.of_pool(uncertainty_model(query))
    return best(entropy(probs), query.budget)


# -------------------- FairFAL


def fairfal(query: Query) -> list[int]:
    """Every class its share of the budget; in each, spread over what is uncertain.

    1. The model to trust judges uncertainty.
    2. Prototypes of the global model guess the class of every pool sample.
    3. Quotas divide the budget evenly among the classes.
    4. In each class the 4 · quota most uncertain samples are candidates.
    5. Among them k-center covers the space of gradient embeddings.
    """
    settings, num_classes = query.settings, query.world.num_classes
    judge = trusted_model(query)
    guesses = guess_classes(query)
    sizes = [guesses.count(c) for c in range(num_classes)]
    probs, _ = query.of_pool(judge)
    uncertainty = [h / math.log(num_classes) for h in entropy(probs)]
    points, anchors = gradient_embeddings(query)
    chosen = []
    for c, quota in enumerate(quotas(sizes, query.budget)):
        if not quota:
            continue
        members = [row for row, guess in enumerate(guesses) if guess == c]
        members.sort(key=lambda row: -uncertainty[row])
        most = max(1, math.floor(settings["fairfal.candidate-factor"] * quota))
        candidates = members[:most]
        if len(candidates) > quota:
            covered = [a for a, y in zip(anchors, query.labels, strict=True) if y == c]
            candidates = k_center(candidates, points, covered, quota)
        chosen += candidates
    return chosen


def guess_classes(query: Query) -> list[int]:
    """Return the class whose prototype is nearest in angle, for every pool sample.

    A prototype is the mean of the class's labeled features, each of length 1, and then
    of length 1 itself. A class without a label has none, and is never guessed.
    """
    _, labeled = query.of_labeled("global")
    prototypes = {}
    for c in sorted(set(query.labels)):
        units = [
            h / h.norm() for h, y in zip(labeled, query.labels, strict=True) if y == c
        ]
        center = torch.stack(units).mean(dim=0)
        prototypes[c] = center / center.norm()
    _, pool = query.of_pool("global")
    return [
        max(prototypes, key=lambda c: float(h @ prototypes[c] / h.norm())) for h in pool
    ]


def quotas(sizes: list[int], budget: int) -> list[int]:
    """Divide a budget among classes whose pools have these sizes.

    b // C each, the rest one each to the largest pools; what a pool does not hold goes
    one by one, round and round, to the classes with room, the largest pool first.
    """
    largest_first = sorted(range(len(sizes)), key=lambda c: -sizes[c])
    wanted = [budget // len(sizes)] * len(sizes)
    for c in largest_first[: budget % len(sizes)]:
        wanted[c] += 1
    given = [min(w, size) for w, size in zip(wanted, sizes, strict=True)]
    for c in over_and_over(largest_first):
        if sum(given) == budget:
            break
        if given[c] < sizes[c]:
            given[c] += 1
    return given


def gradient_embeddings(query: Query) -> tuple[list[Tensor], list[Tensor]]:
    """Return (onehot(y) - p) ⊗ h of the pool and of the labeled samples.

    It is the gradient of the cross-entropy by the last layer, a vector of C·D numbers.
    h is the global model's feature. p is the global model's softmax where the global
    model is skewed (γ̄ < 0.5), else the local one's, as in the published code (the paper
    says: always the global one's). y is the true class of a labeled sample, the
    likeliest one of a pool sample.
    """
    skewed = query.gamma_bar < query.settings["fairfal.gradient-threshold"]
    model = "global" if skewed else "local"

    def embed(p: Tensor, h: Tensor, y: int) -> Tensor:
        onehot = torch.zeros_like(p)
        onehot[y] = 1
        return torch.outer(onehot - p, h).flatten()

    pool_p, labeled_p = query.of_pool(model)[0], query.of_labeled(model)[0]
    pool_h, labeled_h = query.of_pool("global")[1], query.of_labeled("global")[1]
    pool = [embed(p, h, int(p.argmax())) for p, h in zip(pool_p, pool_h, strict=True)]
    labeled = [
        embed(p, h, y)
        for p, h, y in zip(labeled_p, labeled_h, query.labels, strict=True)
    ]
    return pool, labeled


def k_center(
    candidates: list[int], points: list[Tensor], covered: list[Tensor], count: int
) -> list[int]:
    """Take the candidate farthest from all that is covered, again and again.

    Nothing is covered at first: start with the first, the most uncertain candidate.
    """
    taken: list[int] = []
    while len(taken) < count:
        left = [row for row in candidates if row not in taken]
        centers = covered + [points[row] for row in taken]
        if not centers:
            taken.append(left[0])
            continue
        gaps = [
            min(float((points[row] - center).square().sum()) for center in centers)
            for row in left
        ]
        taken.append(left[gaps.index(max(gaps))])
    return taken


# -------------------- KSAS, the query of KAFAL


def ksas(query: Query) -> list[int]:
    """Take what the global model and the client's own disagree on most.

    Both predictions are shifted by the client's class counts first, z + log n. The
    disagreement is ½ [KL(server ‖ client) + KL(client ‖ server)]; a class without a
    label has no part in it.
    """
    counts = Counter(query.labels)
    present = sorted(counts)
    scale = query.settings["ksas.log-prior"]
    shift = torch.tensor([scale * math.log(counts[c]) for c in present]).double()

    def specialized(model: str) -> Tensor:
        probs, _ = query.of_pool(model)
        return log_softmax(probs[:, present].log() + shift, dim=1)

    scores = []
    for p, q in zip(specialized("global"), specialized("local-last"), strict=True):
        there = (p.exp() * (p - q)).sum()
        back = (q.exp() * (q - p)).sum()
        scores.append(float(there + back) / 2)
    return best(scores, query.budget)


# -------------------- IFAL


def ifal(query: Query) -> list[int]:
    """Take what models contradict each other on, one of each cluster.

    Three models: global G, the client's last L, distilled D. q^φ_ℓ(x) is what the
    neighbors of x say: features of φ, labels of ℓ.

    U1 = max(D_gl / (D_ll + ε), D_ll / (D_gl + ε)) · (D_ll + D_gl)
         with D_ll = W(q^L_G, q^D_G), D_gl = W(q^G_G, q^D_G)
    U2 = W(q^L_L, p^L), U = U1 · U2

    Candidates lie above Otsu's threshold of U. Too few: above that of U1. Still too
    few: the largest U.
    """
    q_lg, q_ll = reverse_neighbors(query, "local-last", ("global", "local-last"))
    (q_gg,) = reverse_neighbors(query, "global", ("global",))
    (q_dg,) = reverse_neighbors(query, "distilled", ("global",))
    p_l = query.of_pool("local-last")[0].tolist()
    quirks, eps = query.settings["ifal.quirks"], 1e-5
    first, scores = [], []
    for row in range(len(query.pool)):
        d_ll = distance(q_lg[row], q_dg[row], quirks)
        d_gl = distance(q_gg[row], q_dg[row], quirks)
        ratio = max(d_gl / (d_ll + eps), d_ll / (d_gl + eps))
        first.append(ratio * (d_ll + d_gl))
        scores.append(first[row] * distance(q_ll[row], p_l[row], quirks))
    for values in (scores, first):
        threshold = otsu(values)
        candidates = [row for row, value in enumerate(values) if value > threshold]
        if len(candidates) >= query.budget:
            break
    else:
        return best(scores, query.budget)
    _, features = query.of_pool("local-last")
    units = normalize(features[candidates].float())
    chosen = one_of_each_cluster(query, candidates, units)
    return filled(chosen, best(scores, len(scores)), query.budget)


def reverse_neighbors(
    query: Query, features: str, labels: tuple[str, ...]
) -> list[list[list[float]]]:
    """Return q(x) for each of some labelings: the classes of those that are near x.

    Everyone, labeled or not, looks for its k most similar samples of the pool, itself
    left out. x counts the classes of those who found it, plus one for every class. A
    labeled sample has its true class, one of the pool what the model says.
    """
    _, pool = query.of_pool(features)
    _, labeled = query.of_labeled(features)
    everyone = torch.cat([pool, labeled])
    units = everyone / everyone.norm(dim=1, keepdim=True)
    found_by: list[list[int]] = [[] for _ in pool]
    for z, similarities in enumerate((units @ units[: len(pool)].T).tolist()):
        others = [row for row in range(len(pool)) if row != z]
        others.sort(key=lambda row: -similarities[row])
        for row in others[: query.settings["ifal.num-neighbors"]]:
            found_by[row].append(z)
    tables = []
    for model in labels:
        classes = query.of_pool(model)[0].argmax(dim=1).tolist() + query.labels
        table = []
        for finders in found_by:
            counts = Counter(classes[z] for z in finders)
            total = len(finders) + query.world.num_classes
            table.append(
                [(1 + counts[c]) / total for c in range(query.world.num_classes)]
            )
        tables.append(table)
    return tables


def distance(a: list[float], b: list[float], quirks: str) -> float:
    """Return W(a, b) as published: the two vectors sorted, so blind to the classes.

    "corrected": the total variation, with every two classes 1 apart.
    """
    if quirks == "faithful":
        a, b = sorted(a), sorted(b)
        return mean(abs(x - y) for x, y in zip(a, b, strict=True))
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2


def otsu(values: list[float], num_bins: int = 256) -> float:
    """Return the cut of a histogram that parts the values best.

    Best: the largest w₀ w₁ (μ₀ - μ₁)², w the sizes and μ the means of the two parts.
    """
    low, high = min(values), max(values)
    if low == high:
        return low
    width = (high - low) / num_bins
    bins = sorted(min(int((v - low) / width), num_bins - 1) for v in values)
    centers = [low + width * (b + 0.5) for b in bins]
    between = []
    for cut in range(num_bins - 1):
        lower = [x for b, x in zip(bins, centers, strict=True) if b <= cut]
        upper = centers[len(lower) :]
        gap = sum(lower) / len(lower) - sum(upper) / len(upper)
        between.append(len(lower) * len(upper) * gap**2)
    # Cuts within a gap part the values alike; rounding must not choose among them.
    cut = next(i for i, b in enumerate(between) if b >= max(between) * (1 - 1e-12))
    return low + width * (cut + 0.5)


def one_of_each_cluster(
    query: Query,
    candidates: list[int],
    points: Tensor,
    importance: list[float] | None = None,
) -> list[int]:
    """Cluster candidates by scikit-learn's k-means, take the nearest to each center.

    The center of two points is as far from one as from the other, and rounding chooses
    between them: so distances are in single precision here, as they are in the app.
    """
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=query.generator))
    starts = query.settings[f"{query.settings['query.strategy']}.num-starts"]
    k_means = KMeans(query.budget, n_init=starts, random_state=seed)
    with threadpool_limits(1):  # sums depend on the number of threads
        k_means.fit(points.numpy(), sample_weight=importance)
    chosen = []
    for cluster, center in enumerate(torch.from_numpy(k_means.cluster_centers_)):
        members = [i for i, label in enumerate(k_means.labels_) if label == cluster]
        if members:
            gaps = (points[members] - center).square().sum(dim=1).tolist()
            chosen.append(candidates[members[gaps.index(min(gaps))]])
    return chosen


def filled(chosen: list[int], ranking: list[int], budget: int) -> list[int]:
    """Append the first of a ranking that are not chosen yet, up to the budget."""
    return (chosen + [row for row in ranking if row not in chosen])[:budget]


# -------------------- CHASe


def chase(query: Query) -> list[int]:
    """Take what the client wavered on most while it trained, among those awake.

    Epistemic variation: how often the prediction changed from one epoch to the next in
    the client's last round. What never wavered is put to sleep; where at most three
    budgets are awake, 40 % of the sleepers return.
    """
    settings, client, budget = query.settings, query.client, query.budget
    last = client.last.changes if client.last else {}
    variation = [last.get(sample, 0) for sample in query.pool]
    asleep = [row for row, s in enumerate(query.pool) if s in client.dormant]
    awake = len(query.pool) - len(asleep)
    if awake <= settings["chase.awaken-factor"] * budget:
        drawn = torch.randperm(len(asleep), generator=query.generator).tolist()
        woken = int(settings["chase.awaken-ratio"] * len(asleep))
        back = {asleep[i] for i in drawn[:woken]}
        asleep = [row for row in asleep if row not in back]
    # A random order: so many variations are equal that the pool's should not decide.
    order = torch.randperm(len(query.pool), generator=query.generator).tolist()
    most = max(settings["chase.subset"], budget)
    looked_at = [row for row in order if row not in asleep][:most]
    looked_at += [row for row in order if row in asleep][
        : max(0, budget - len(looked_at))
    ]
    scores = [float(v) for v in variation]
    if settings["chase.score"] == "variation-entropy":
        global_h = entropy(query.of_pool("global")[0])
        local_h = entropy(query.of_pool("local-last")[0])
        gaps = [g - h for g, h in zip(global_h, local_h, strict=True)]
        low, high = (f(gaps[row] for row in looked_at) for f in (min, max))
        least, most = (f(scores[row] for row in looked_at) for f in (min, max))
        scores = [
            (v - least) / max(most - least, 1) + (gap - low) / (high - low)
            for v, gap in zip(scores, gaps, strict=True)
        ]
    ranked = best([scores[row] for row in looked_at], budget)
    chosen = [looked_at[i] for i in ranked]
    still = [row for row in looked_at if not variation[row]]
    sleepers = {query.pool[row] for row in (*asleep, *still) if row not in chosen}
    client.dormant = (client.dormant - set(query.pool)) | sleepers
    return chosen


# -------------------- ALFA-Mix


def alfa_mix(query: Query) -> list[int]:
    """Take samples whose prediction flips when a little of another class is mixed in.

    Anchors are the mean features of the classes, the mean of all where a class has no
    label. The cap ε on the mixing grows until more samples flip than are needed.
    """
    settings, budget = query.settings, query.budget
    model = uncertainty_model(query)
    judge = "global" if settings["alfa-mix.quirks"] == "faithful" else model
    head = query.model(judge).head
    probs, features = query.of_pool(model)
    _, labeled = query.of_labeled(model)
    anchors = []
    for c in range(query.world.num_classes):
        own = [h for h, y in zip(labeled, query.labels, strict=True) if y == c]
        anchors.append(torch.stack(own or list(labeled)).mean(dim=0))
    guesses = probs.argmax(dim=1)
    step, flipped = settings["alfa-mix.alpha-cap-step"], torch.zeros(len(probs)).bool()
    cap = 0.0
    while int(flipped.sum()) <= budget and cap < 1 - 1e-9:
        cap = min(1.0, cap + step)
        for anchor in anchors:
            flipped |= flips(features, guesses, anchor, head, cap)
    candidates = [row for row, flip in enumerate(flipped.tolist()) if flip]
    chosen = candidates
    if len(candidates) > budget:
        units = normalize(features[candidates].float())
        chosen = one_of_each_cluster(query, candidates, units)
    spare = torch.randperm(len(query.pool), generator=query.generator).tolist()
    return filled(chosen, spare, budget)


def flips(
    features: Tensor, guesses: Tensor, anchor: Tensor, head: nn.Linear, cap: float
) -> Tensor:
    """Return which predictions change for (1 - α) h + α z̄.

    α = (ε/√D) (|z̄ - h| / |g|) g / (z̄ - h), element by element, where g is the gradient
    of the loss of the present prediction by the feature.
    """
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    h = features.clone().requires_grad_()
    loss = cross_entropy(h @ weight.T + bias, guesses, reduction="sum")
    (g,) = torch.autograd.grad(loss, h)
    z = anchor - features
    lengths = z.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True)
    alpha = cap / math.sqrt(features.shape[1]) * lengths * g / (z + 1e-8)
    mixed = (1 - alpha) * features + alpha * anchor
    return (mixed @ weight.T + bias).argmax(dim=1) != guesses


# -------------------- Diverse mini-batches


def diverse_batch(query: Query) -> list[int]:
    """Cluster the 10 b samples of the smallest margin, take one of each cluster.

    The margin is the lead of the likeliest class; a sample weighs 1 - margin.
    """
    probs, features = query.of_pool(uncertainty_model(query))
    margins = [first - second for first, second in probs.topk(2).values.tolist()]
    count = query.settings["diverse-batch.prefilter-factor"] * query.budget
    uncertain = best([-m for m in margins], count)
    importance = [1 - margins[row] for row in uncertain]
    points = features[uncertain].float()
    chosen = one_of_each_cluster(query, uncertain, points, importance)
    return filled(chosen, uncertain, query.budget)


STRATEGIES: dict[str, Callable[[Query], list[int]]] = {
    "random": random_sampling,
    "entropy": entropy_sampling,
    "fairfal": fairfal,
    "ksas": ksas,
    "ifal": ifal,
    "chase": chase,
    "alfa-mix": alfa_mix,
    "diverse-batch": diverse_batch,
}
