"""GEBT's graph step as the released code does it: two dense N x N copies of the adjacency.

Written from the description of that code, not from the package: no edge vector, no sparse product. Each layer
has its own copy; gradients are masked to the graph's first edges, symmetrised, summed over the two copies,
divided by four and given to both.
"""

import torch
from torch.nn import functional as F


def adjacency(edges, num_nodes):
    """Dense ``[N, N]`` with ones at both triangles of the edges and on the diagonal."""
    dense = torch.eye(num_nodes)
    for i, j in edges.t().tolist():
        dense[i, j] = dense[j, i] = 1.0
    return dense


def normalise(dense):
    """D^-1/2 A D^-1/2 by two dense diagonal matrices, differentiable through D."""
    root = torch.diag(dense.sum(1) ** -0.5)
    return root @ dense @ root


class DenseGraphTraining:
    """Train both copies under a frozen two-layer GCN (weights ``[F, H]``, ``[H, C]``, biases)."""

    def __init__(self, edges, x, labels, train, layers, lr):
        self.x, self.labels, self.train_nodes, self.layers = x, labels, train, layers
        first = adjacency(edges, len(x))
        self.allowed = (first != 0).to(x.dtype) - torch.eye(len(x))
        self.copies = [first.clone().requires_grad_() for _ in range(2)]
        self.optimiser = torch.optim.Adam(self.copies, lr=lr)

    def forward(self, dropout):
        (w1, b1), (w2, b2) = self.layers
        hidden = torch.relu(normalise(self.copies[0]) @ (self.x @ w1) + b1)
        return normalise(self.copies[1]) @ ((hidden * dropout) @ w2) + b2

    def gradient(self, dropout):
        """What both copies get: dense ``[N, N]``."""
        logits = self.forward(dropout)
        loss = F.cross_entropy(logits[self.train_nodes], self.labels[self.train_nodes])
        grads = torch.autograd.grad(loss, self.copies)
        masked = [g * self.allowed for g in grads]
        return sum(g + g.t() for g in masked) / 4

    def step(self, dropout):
        shared = self.gradient(dropout)
        for copy in self.copies:
            copy.grad = shared.clone()
        self.optimiser.step()


def mask(dense, ratio):
    """Bool ``[N, N]``: without the ``int(ratio E)`` smallest of the lower triangle's non-zeros, mirrored."""
    lower = [(abs(dense[i, j].item()), i, j) for i in range(len(dense)) for j in range(i) if dense[i, j] != 0]
    kept = torch.zeros(dense.shape, dtype=torch.bool)
    for _, i, j in sorted(lower)[int(ratio * len(lower)) :]:
        kept[i, j] = kept[j, i] = True
    return kept
