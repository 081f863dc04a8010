"""Graph early-bird tickets: prune a graph's edges, and a GCN's weights, early in training.

You, Lu, Zhou, Fu, Lin: "Early-Bird GCNs: Graph-Network Co-Optimization Towards More Efficient GCN Training
and Inference via Drawing Early-Bird Lottery Tickets", AAAI 2022.

The trainable graph is ONE weight per undirected edge. The released code trains two dense N x N copies, but
symmetrises their gradients, masks them to the edges of the graph and gives both the same sum: the copies stay
equal, and an edge moves by a quarter of the gradient used here. Adam does not see that factor, once its eps
is four times the code's, too.

Leading axis K everywhere: edge weights ``[K, E]``, labels ``[K, N]``, node lists ``[K, n]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from workbench import WorkbenchError, check_choice, check_number
from workbench.nets import GCN, GraphNet, Parameters
from workbench.training import dropout_masks, generator, train

EDGE_EPS = 4e-8  # Adam's eps of 1e-8 on a quarter of the gradient, as in the code
DROPOUT = 0.5
WEIGHT_DECAY = 5e-4  # first layer only, as in Kipf and Welling
LR = 0.01  # of the network

AdmmForm = Literal["sum", "mean"]


@dataclass
class Task:
    """Node classification for K models: what each may learn from, and what measures it.

    ``labels`` int64 ``[K, N]``; ``train``, ``val``, ``test`` int64 ``[K, n]``; ``seeds`` name the dropout streams.
    """

    labels: Tensor
    train: Tensor
    val: Tensor
    test: Tensor
    seeds: Sequence[int]

    def loss(self, logits: Tensor) -> Tensor:
        """Mean cross entropy over the training nodes, ``[K, N, C]`` to ``[K]``."""
        k = torch.arange(len(logits))[:, None]
        log_p = logits[k, self.train].log_softmax(-1)
        return -log_p.gather(-1, self.labels.gather(1, self.train)[..., None]).mean((1, 2))

    def accuracy(self, logits: Tensor, nodes: Tensor) -> Tensor:
        """Share of ``nodes`` that are right, ``[K]``."""
        k = torch.arange(len(logits))[:, None]
        return (logits[k, nodes].argmax(-1) == self.labels.gather(1, nodes)).float().mean(1)

    def dropout(self, epoch: int, hidden: Tensor) -> Tensor:
        """Drop hidden units by each model's own stream."""
        return hidden * dropout_masks(self.seeds, epoch, tuple(hidden.shape[1:]), DROPOUT)


@dataclass
class Training:
    """How K networks went: ``val`` and ``test`` accuracy ``[K, epochs + 1]``, from before the first step."""

    parameters: Parameters
    val: list[Tensor] = field(default_factory=list)
    test: list[Tensor] = field(default_factory=list)

    def part(self, models: slice) -> Training:
        """The slice of some of the models."""
        pick = lambda values: [value[models] for value in values]  # noqa: E731
        parameters = {name: p[models] for name, p in self.parameters.items()}
        return Training(parameters, pick(self.val), pick(self.test))

    def at_best_validation(self) -> Tensor:
        """Test accuracy ``[K]`` at the first epoch of best validation accuracy: the test set chooses nothing."""
        best = torch.stack(self.val, 1).argmax(1, keepdim=True)
        return torch.stack(self.test, 1).gather(1, best).squeeze(1)


def adam(parameters: Parameters, lr: float) -> torch.optim.Adam:
    """Adam with weight decay on the first layer only."""
    first = [p for name, p in parameters.items() if name.startswith("1.")]
    rest = [p for name, p in parameters.items() if not name.startswith("1.")]
    return torch.optim.Adam([{"params": first, "weight_decay": WEIGHT_DECAY}, {"params": rest}], lr=lr)


def train_network(
    net: GraphNet,
    start: Parameters,
    weights: Tensor,
    task: Task,
    epochs: int,
    masks: Parameters | None = None,
    lr: float = LR,
) -> Training:
    """Train K networks on K drawn graphs; with ``masks`` their weights stay exactly as sparse as these.

    Args:
        net: the graph network.
        start: initial parameters ``[K, ...]`` (copied).
        weights: edge weights ``[K, E]``, 0 where an edge was removed.
        task: labels and nodes.
        epochs: Adam steps.
        masks: bool ``[K, ...]`` for some parameters, by name; re-applied after every step.
        lr: Adam's step.
    """
    parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
    graph = net.graph(weights)
    run = Training(parameters)

    def apply_masks(_: int) -> None:
        with torch.no_grad():
            for name, mask in (masks or {}).items():
                parameters[name].mul_(mask)

    def evaluate(hidden: Tensor) -> None:
        with torch.no_grad():
            logits = net.logits(parameters, graph, hidden)
        run.val.append(task.accuracy(logits, task.val))
        run.test.append(task.accuracy(logits, task.test))

    def loss(epoch: int) -> Tensor:
        hidden = net.hidden(parameters, graph)
        evaluate(hidden.detach())  # shares the first layer with the training pass
        return task.loss(net.logits(parameters, graph, task.dropout(epoch, hidden)))

    apply_masks(0)
    train(loss, adam(parameters, lr), epochs, after_step=apply_masks, label="retraining")
    with torch.no_grad():
        evaluate(net.hidden(parameters, graph))
    run.parameters = {name: p.detach() for name, p in parameters.items()}
    return run


def rank_edges(weights: Tensor, ties: Sequence[int], largest: bool = False) -> Tensor:
    """Place of every edge when sorted by weight, smallest (or ``largest``) first: ``[K, E]`` to int64.

    Many edges never get a gradient and tie exactly; ties fall by a permutation drawn from ``ties`` (one seed
    a model), not by edge order, which in citation data follows the node numbering.
    """
    if weights.ndim != 2 or len(ties) != len(weights) or not weights.isfinite().all():
        raise WorkbenchError(f"edge weights {list(weights.shape)}, {len(ties)} ties: give finite [K, E] and K seeds")
    shuffles = {seed: torch.randperm(weights.shape[1], generator=generator(seed, "ties")) for seed in set(ties)}
    shuffle = torch.stack([shuffles[seed] for seed in ties])
    order = shuffle.gather(1, weights.gather(1, shuffle).argsort(dim=1, stable=True, descending=largest))
    return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))


def draw_edges(weights: Tensor, ratio: float, ties: Sequence[int], largest: bool = False) -> Tensor:
    """Keep all but the ``int(ratio E)`` smallest (or ``largest``) of the edge weights: ``[K, E]`` to bool."""
    check_number("ratio", ratio, 0, 1)
    return rank_edges(weights, ties, largest) >= int(ratio * weights.shape[1])


@dataclass
class Admm:
    """The sparsifier of GEBT, equation 3: pull the edge weights w towards their own pruned copy z.

    Args:
        ratio: share of edges that z lacks.
        rho: strength.
        form: ``"sum"`` adds rho/2 \\|A - z + u\\|^2 over all entries (the paper; the TensorFlow code);
            ``"mean"`` divides by the N^2 entries of the matrix (``mse_loss`` in the PyTorch code), which
            leaves a gradient of about 1e-10 of itself.
        every: epochs between updates of z and u.
    """

    ratio: float
    rho: float
    form: AdmmForm
    every: int

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_choice("form", self.form, get_args(AdmmForm))
        check_number("ratio", self.ratio, 0, 1)
        check_number("rho", self.rho, 0)
        check_number("every", self.every, 1, whole=True)

    def start(self, weights: Tensor, num_nodes: int, seeds: Sequence[int]) -> None:
        """z = prune(w), u = 0."""
        self.seeds, self.u = seeds, torch.zeros_like(weights)
        # An edge stands in both triangles of both layers' copies: four entries pull on it.
        self.scale = self.rho * (4.0 if self.form == "sum" else 4.0 * 2 / num_nodes**2)
        self._update(weights)

    def _update(self, weights: Tensor) -> None:
        target = weights.detach() + self.u
        self.z = target * draw_edges(target.abs(), self.ratio, self.seeds)

    def gradient(self, weights: Tensor) -> Tensor:
        """The regulariser's gradient, ``[K, E]``."""
        return self.scale * (weights.detach() - self.z + self.u)

    def pull(self, weights: Tensor) -> Tensor:
        """Add that gradient to the task's; returns the ratio of their norms, ``[K]``."""
        own = self.gradient(weights)
        ratio = own.norm(dim=1) / weights.grad.norm(dim=1)
        weights.grad += own
        return ratio

    def after_step(self, epoch: int, weights: Tensor) -> None:
        """Update z, then u, every ``every`` epochs."""
        if (epoch + 1) % self.every == 0:
            self._update(weights)
            self.u += weights.detach() - self.z


@dataclass
class GraphTraining:
    """What graph training recorded.

    ``trajectory`` ``[epochs, K, E]`` edge weights after each epoch; ``touched`` ``[K, E]`` edges that ever had a
    task gradient; ``ratio`` ``[epochs, K]`` norm of the regulariser's gradient over the task's (0 without one).
    """

    trajectory: Tensor
    touched: Tensor
    ratio: Tensor


def train_graph(
    net: GCN, parameters: Parameters, task: Task, epochs: int, lr: float, admm: Admm | None = None
) -> GraphTraining:
    """Train the edge weights from 1 under frozen network weights (GEBT, section 3.2)."""
    K, E = len(task.seeds), net.pattern.num_edges
    weights = torch.ones(K, E, requires_grad=True)
    run = GraphTraining(torch.empty(epochs, K, E), torch.zeros(K, E, dtype=torch.bool), torch.zeros(epochs, K))
    projected = net.features.project(parameters["1.weight"])  # frozen: the same in every epoch
    if admm is not None:
        admm.start(weights, net.pattern.num_nodes, task.seeds)

    def loss(epoch: int) -> Tensor:
        graph = net.graph(weights)
        hidden = net.aggregate(parameters, graph, projected)
        return task.loss(net.logits(parameters, graph, task.dropout(epoch, hidden)))

    def before_step(epoch: int) -> None:
        run.touched |= weights.grad != 0
        if admm is not None:
            run.ratio[epoch] = admm.pull(weights)

    def after_step(epoch: int) -> None:
        with torch.no_grad():
            weights.clamp_(min=0)  # a negative edge has no meaning in D^-1/2
        run.trajectory[epoch] = weights.detach()
        if admm is not None:
            admm.after_step(epoch, weights)

    optimiser = torch.optim.Adam([weights], lr=lr, eps=EDGE_EPS)
    train(loss, optimiser, epochs, before_step=before_step, after_step=after_step, label="graph training")
    return run


def prune_weights(parameters: Parameters, ratio: Tensor) -> Parameters:
    """Global magnitude masks over both layers' weight matrices: ``int(p n)`` smallest of model k dropped.

    Args:
        parameters: with ``"1.weight"`` and ``"2.weight"``, ``[K, ...]``.
        ratio: p_w of each model, float64 ``[K]``.
    """
    check_number("ratio", ratio, 0, 1)
    names = ("1.weight", "2.weight")
    flat = torch.cat([parameters[name].detach().flatten(1) for name in names], 1).abs()
    if ratio.shape != (len(flat),):
        raise WorkbenchError(f"ratios {list(ratio.shape)} for {len(flat)} models: give one a model, [K]")
    order, keep = flat.sort(dim=1, stable=True).indices, torch.ones_like(flat, dtype=torch.bool)
    for k, p in enumerate(ratio.tolist()):
        keep[k, order[k, : int(p * flat.shape[1])]] = False
    sizes = [parameters[name][0].numel() for name in names]
    parts = keep.split(sizes, 1)
    return {name: part.view_as(parameters[name]) for name, part in zip(names, parts, strict=True)}


@dataclass
class JointSearch:
    """What the joint search recorded.

    ``edges`` ``[epochs, K, E]`` edge weights; ``weight_masks`` by layer ``[epochs, K, n]``; ``snapshots``
    parameters at the epochs asked for (counted from 1); ``ratio`` ``[epochs, K]`` norm of the regulariser's
    gradient over the task's (0 without one).
    """

    edges: Tensor
    weight_masks: dict[str, Tensor]
    snapshots: dict[int, Parameters]
    ratio: Tensor


def joint_search(
    net: GCN,
    start: Parameters,
    task: Task,
    p_w: Tensor,
    epochs: int,
    graph_lr: float,
    keep: Callable[[int], bool],
    lr: float = LR,
    admm: Admm | None = None,
) -> JointSearch:
    """Co-optimise graph and network (GEBT, algorithm 2): in each epoch a weight step, a prune, an edge step.

    The regulariser acts on the edges alone, so it enters the edge step (the code adds it to the weight step's
    loss too, where its gradient is zero).

    Weights are multiplied by their mask at once and may regrow in the next step, as in the code. ``keep(epoch)``
    says at which epochs (from 1) parameters are kept for drawing a ticket there.
    """
    K, E = len(task.seeds), net.pattern.num_edges
    parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
    edges = torch.ones(K, E, requires_grad=True)
    edge_step = torch.optim.Adam([edges], lr=graph_lr, eps=EDGE_EPS)
    run = JointSearch(torch.empty(epochs, K, E), {"1.weight": [], "2.weight": []}, {}, torch.zeros(epochs, K))
    if admm is not None:
        admm.start(edges, net.pattern.num_nodes, task.seeds)

    def loss(epoch: int) -> Tensor:
        graph = net.graph(edges.detach())
        hidden = net.hidden(parameters, graph)
        return task.loss(net.logits(parameters, graph, task.dropout(epoch, hidden)))

    def after_step(epoch: int) -> None:
        masks = prune_weights(parameters, p_w)
        frozen = {name: p.detach() for name, p in parameters.items()}
        for name, mask in masks.items():
            frozen[name].mul_(mask)
            run.weight_masks[name].append(mask.flatten(1))
        graph = net.graph(edges)
        hidden = net.hidden(frozen, graph)
        edge_step.zero_grad()
        task.loss(net.logits(frozen, graph, task.dropout(epoch, hidden))).sum().backward()
        if admm is not None:
            run.ratio[epoch] = admm.pull(edges)
        edge_step.step()
        with torch.no_grad():
            edges.clamp_(min=0)
        run.edges[epoch] = edges.detach()
        if admm is not None:
            admm.after_step(epoch, edges)
        if keep(epoch + 1):
            run.snapshots[epoch + 1] = {name: p.clone() for name, p in frozen.items()}

    train(loss, adam(parameters, lr), epochs, after_step=after_step, label="joint search")
    run.weight_masks = {name: torch.stack(masks) for name, masks in run.weight_masks.items()}
    return run
