"""k-means, and the sample nearest to each centroid."""

import warnings
from dataclasses import dataclass

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Generator, Tensor

from fairfal_flwr.query.selection import rank_within

__all__ = ["Clusters", "k_means", "nearest_members"]


@dataclass(frozen=True)
class Clusters:
    """A partition of N points.

    Parameters
    ----------
    labels : Tensor, shape (N,), int64
        The cluster of each point, in [0, k); a cluster may be empty where fewer than
        k points are distinct.
    centers : Tensor, shape (k, D)
        The centroids.
    """

    labels: Tensor
    centers: Tensor


def k_means(
    points: Tensor,
    num_clusters: int,
    *,
    generator: Generator,
    weights: Tensor | None = None,
    num_starts: int = 1,
) -> Clusters:
    """Cluster points with scikit-learn's k-means, on the CPU.

    Parameters
    ----------
    points : Tensor, shape (N, D), float32
        N >= `num_clusters`.
    num_clusters : int
        k, at least 1.
    generator : torch.Generator
        One draw from it seeds the k-means++ starts.
    weights : Tensor, shape (N,), optional
        Importance of each point, at least 0, not all 0.
    num_starts : int, default 1
        The best of so many runs is kept.

    Returns
    -------
    Clusters
        On the points' device. One thread, so that sums are rounded alike every time.
    """
    from sklearn.cluster import KMeans  # slow to import, and few strategies need it
    from sklearn.exceptions import ConvergenceWarning

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    model = KMeans(num_clusters, n_init=num_starts, random_state=seed)
    array = points.detach().cpu().numpy()
    sample_weight = None if weights is None else weights.cpu().numpy()
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than clusters: some stay empty, as documented.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(array, sample_weight=sample_weight)
    return Clusters(
        torch.from_numpy(model.labels_).long().to(points.device),
        torch.from_numpy(model.cluster_centers_).to(points),
    )


def nearest_members(points: Tensor, clusters: Clusters) -> Tensor:
    """Return the member nearest to the centroid of each cluster that has one.

    Parameters
    ----------
    points : Tensor, shape (N, D)
        The clustered points.
    clusters : Clusters
        From `k_means`.

    Returns
    -------
    Tensor, shape (at most k,), int64
        Distinct positions, by cluster; of equally near members the lowest.

    Examples
    --------
    >>> points = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
    >>> clusters = Clusters(torch.tensor([0, 0, 0, 1]), torch.tensor([[0.8], [9.0]]))
    >>> nearest_members(points, clusters)
    tensor([1, 3])
    """
    distances = (points - clusters.centers[clusters.labels]).square().sum(dim=1)
    nearest = (rank_within(clusters.labels, -distances) == 0).nonzero().flatten()
    return nearest[clusters.labels[nearest].argsort()]
