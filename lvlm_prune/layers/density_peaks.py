"""Cluster rows around density peaks (DPC-kNN), as SparseVLM recycles dropped tokens with it.

In: rows `[m, D]` of any dtype and a number of clusters. Out: the centres and each row's cluster.
Distances are Euclidean over sqrt(D), in float32; a row's density is exp(-mean squared distance to
its k nearest rows, itself included) with k the number of clusters; a centre is dense and far from
any denser row (SparseVLM, arXiv 2410.04417, section 3.3; official code 26a5f48). The official adds
1e-6 of random noise to densities, so as to part equal ones; here the earlier row wins and the
result is deterministic. Cost O(m^2 D).
"""

import torch
from torch import Tensor


def cluster(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose centres and assign every row to the nearest.

    Args:
        rows: `[m, D]`.
        count: clusters, 1 <= count <= m.

    Returns:
        Centres `[count]`, best first, and the cluster of each row `[m]`, both int64; a centre is in
        its own cluster.
    """
    rows = rows.detach().float()
    # The product form of distances loses digits between near rows.
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances / rows.shape[1] ** 0.5
    nearest = distances.topk(count, dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    denser = density[None, :] > density[:, None]
    isolation = distances.masked_fill(~denser, torch.inf).amin(dim=-1)
    isolation = isolation.clamp(max=float(distances.max()))
    centres = (isolation * density).sort(descending=True, stable=True).indices[:count]
    assigned = distances[centres].argmin(dim=0)
    assigned[centres] = torch.arange(count, device=rows.device)
    return centres, assigned


def cluster_means(rows: Tensor, assigned: Tensor, count: int) -> Tensor:
    """Mean of each cluster's rows, `[m, D]` and `[m]` to `[count, D]`, in the rows' dtype."""
    member = torch.nn.functional.one_hot(assigned, count).T.float()
    means = (member @ rows.float()) / member.sum(dim=-1, keepdim=True)
    return means.to(rows.dtype)
