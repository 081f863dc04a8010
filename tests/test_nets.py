"""Graph layers against PyTorch Geometric's, gradients against finite differences, channels really removed."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

from workbench import WorkbenchError, early_bird
from workbench.nets import (
    GAT,
    GCN,
    GIN,
    SAGE,
    ConvNet,
    Features,
    Pattern,
    conv_macs,
    mask_channels,
    propagate,
    remove_channels,
    train_conv,
)
from workbench.training import generator

N, F, C, K = 14, 9, 4, 3


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_graph(nodes=N, share=0.35, seed=0):
    """Random undirected edges; the last node has none."""
    g = generator(seed, "test graph")
    pairs = torch.combinations(torch.arange(nodes - 1))
    return pairs[torch.rand(len(pairs), generator=g) < share].t().contiguous()


def inputs(sparse=False):
    x = torch.randn(N, F, generator=generator("x"))
    return x * (torch.rand(N, F, generator=generator("zeros")) < 0.2) if sparse else x


def build(layer, x):
    net = layer(Features(x), Pattern(random_graph(), N), C)
    parameters = net.init([generator(k, "init") for k in range(K)])
    noise = generator("biases")
    for name, value in parameters.items():  # biases start at zero and would hide a lost one
        if name.endswith("bias"):
            value.copy_(torch.randn(value.shape, generator=noise))
    return net, parameters


def linear(weight, bias=None):
    out = nn.Linear(*weight.shape, bias=bias is not None)
    out.weight.data = weight.t().clone()
    if bias is not None:
        out.bias.data = bias.flatten().clone()
    return out


def peer(kind, p, layer, k, x, edge_index):
    """One layer of model k in PyTorch Geometric, before the activation."""
    w = {n.removeprefix(f"{layer}."): v[k] for n, v in p.items() if n.startswith(f"{layer}.")}
    if kind is GCN:
        conv = GCNConv(x.shape[1], w["weight"].shape[1])
        conv.lin.weight.data, conv.bias.data = w["weight"].t().clone(), w["bias"].flatten().clone()
    elif kind is GIN:
        conv = GINConv(nn.Sequential(), eps=0.0)
        first, second = (linear(w[f"{part}.weight"], w[f"{part}.bias"]) for part in "ab")
        conv.nn = nn.Sequential(first, nn.ReLU(), second)  # handed to GINConv it would be drawn anew
    elif kind is SAGE:
        conv = SAGEConv(x.shape[1], w["weight"].shape[1], aggr="mean")
        conv.lin_l = linear(w["weight"], w["bias"])
        conv.lin_r = linear(w["self"])
    else:
        heads, width = w["to"].shape
        conv = GATConv(x.shape[1], width, heads=heads)
        conv.lin.weight.data = w["weight"].t().clone()
        conv.att_dst.data, conv.att_src.data = w["to"][None].clone(), w["from"][None].clone()
        conv.bias.data = w["bias"].flatten().clone()
    return conv(x, edge_index)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense x", "sparse x"])
@pytest.mark.parametrize("removed", [0.0, 0.5, 1.0], ids=["full graph", "half the edges", "no edges"])
@pytest.mark.parametrize("kind", [GCN, GIN, SAGE, GAT])
def test_layers_equal_torch_geometric_for_every_model(kind, removed, sparse):
    x = inputs(sparse)
    net, p = build(kind, x)
    edges = net.pattern.edges
    kept = torch.stack([torch.rand(edges.shape[1], generator=generator(k)) >= removed for k in range(K)])
    if 0 < removed < 1:
        assert 0 < kept.sum() < kept.numel()
        assert len({tuple(row.tolist()) for row in kept}) == K
    graph = net.graph(kept.float())
    hidden = net.hidden(p, graph)
    logits = net.logits(p, graph, hidden)
    activation = torch.nn.functional.elu if kind is GAT else torch.relu
    for k in range(K):
        one_way = edges[:, kept[k]]
        both_ways = torch.cat([one_way, one_way.flip(0)], 1)
        expected = activation(peer(kind, p, "1", k, x, both_ways))
        torch.testing.assert_close(hidden[k], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[k], peer(kind, p, "2", k, expected, both_ways), atol=1e-5, rtol=1e-5)


def test_gcn_with_real_edge_weights_equals_torch_geometric():
    x = inputs()
    net, p = build(GCN, x)
    weights = torch.rand(K, net.pattern.num_edges, generator=generator("w")) + 0.1
    conv = GCNConv(F, net.width)
    hidden = net.hidden(p, net.graph(weights))
    both = torch.cat([net.pattern.edges, net.pattern.edges.flip(0)], 1)
    for k in range(K):
        conv.lin.weight.data, conv.bias.data = p["1.weight"][k].t().clone(), p["1.bias"][k].flatten().clone()
        expected = conv(x, both, weights[k].repeat(2)).relu()
        torch.testing.assert_close(hidden[k], expected, atol=1e-5, rtol=1e-5)


def test_attention_survives_large_scores():
    net, p = build(GAT, inputs())
    for end in ("1.to", "1.from"):
        p[end] = p[end] * 10
    both = torch.cat([net.pattern.edges, net.pattern.edges.flip(0)], 1)
    hidden = net.hidden(p, net.graph(torch.ones(K, net.pattern.num_edges)))
    for k in range(K):
        expected = torch.nn.functional.elu(peer(GAT, p, "1", k, inputs(), both))
        torch.testing.assert_close(hidden[k], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [GCN, GIN, SAGE, GAT])
def test_every_parameter_has_the_gradient_of_finite_differences(kind, float64):
    net, p = build(kind, inputs(sparse=True))
    graph = net.graph(torch.rand(K, net.pattern.num_edges, generator=generator("w")) + 0.5)
    names = list(p)

    def outputs(*values):
        q = dict(zip(names, values, strict=True))
        return net.logits(q, graph, net.hidden(q, graph))

    values = [p[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(outputs, values, fast_mode=True)


@pytest.mark.parametrize("kind", [GCN, GIN, SAGE])
def test_edge_weights_have_the_gradient_of_finite_differences(kind, float64):
    net, p = build(kind, inputs())
    weights = (torch.rand(K, net.pattern.num_edges, generator=generator("w")) + 0.5).requires_grad_()

    def outputs(w):
        graph = net.graph(w)
        return net.logits(p, graph, net.hidden(p, graph))

    assert torch.autograd.gradcheck(outputs, (weights,))


def test_propagate_and_project_have_the_gradient_of_finite_differences(float64):
    pattern = Pattern(random_graph(), N)
    entries = torch.randn(2, len(pattern.rows), generator=generator("e")).requires_grad_()  # not symmetric
    h = torch.randn(2, N, 3, generator=generator("h")).requires_grad_()
    assert torch.autograd.gradcheck(lambda e, x: propagate(e, x, pattern), (entries, h))
    for sparse in (False, True):
        features = Features(inputs(sparse))
        assert (features.x.layout == torch.sparse_csr) == sparse
        weights = torch.randn(2, F, 3, generator=generator("p")).requires_grad_()
        assert torch.autograd.gradcheck(features.project, (weights,))


def test_products_are_those_of_the_dense_matrix_at_the_patterns_entries():
    edges = torch.tensor([[0, 0, 1, 3], [1, 2, 4, 4]])
    pattern = Pattern(edges, 6)  # node 5 has its self-loop only
    a, b = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    dense = a @ b.transpose(1, 2)
    torch.testing.assert_close(pattern.products(a, b), dense[:, pattern.rows, pattern.cols])


def test_propagate_equals_a_dense_product():
    pattern = Pattern(random_graph(), N)
    entries = torch.randn(K, len(pattern.rows), generator=generator("e"))
    h = torch.randn(K, N, 5, generator=generator("h"))
    dense = torch.zeros(K, N, N)
    dense[:, pattern.rows, pattern.cols] = entries
    torch.testing.assert_close(propagate(entries, h, pattern), dense @ h)
    assert torch.equal(pattern.rows[pattern.reverse], pattern.cols)
    assert torch.equal(pattern.cols[pattern.reverse], pattern.rows)


# --- convolutional nets ------------------------------------------------------------------------------------------


def lived_in(widths=(6, 5, 7), inputs=1):
    """A net whose normalisations have scales, shifts and statistics that are nobody's default."""
    torch.manual_seed(3)
    net = ConvNet(widths, inputs=inputs)
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.weight, 0.2), (module.bias, 0.3), (module.running_var, 0.5)):
                nn.init.uniform_(value, low, low + 1)
            nn.init.normal_(module.running_mean)
    return net.eval()


def keep_of(*parts):
    return torch.cat([torch.tensor(part, dtype=torch.bool) for part in parts])


IMAGES = torch.rand(5, 1, 8, 8, generator=generator("images"))


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize("seed", range(3))
def test_a_net_without_channels_answers_as_one_with_them_masked(seed, training):
    net = lived_in().train(training)
    keep = torch.rand(18, generator=generator(seed, "keep")) < 0.6
    keep[[0, 6, 11]] = True
    before = copy.deepcopy(net.state_dict())
    small, masked = remove_channels(net, keep), mask_channels(net, keep)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert small.training == training
    with torch.no_grad():
        assert not torch.allclose(net(IMAGES), masked(IMAGES), atol=1e-3)
        assert (small(IMAGES) - masked(IMAGES)).abs().max() < 1e-5
    widths = tuple(int(part.sum()) for part in keep.split([6, 5, 7]))
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    assert small.widths == widths
    assert shapes["0.weight"] == (widths[0], 1, 3, 3)
    assert shapes["3.weight"] == (widths[1], widths[0], 3, 3)
    assert shapes["7.running_var"] == (widths[2],)
    assert shapes["11.weight"] == (10, widths[2])


def test_masking_the_scale_alone_is_not_enough():
    """The shift must go too: this is the trap that `mask_channels` speaks of."""
    net, keep = lived_in(), keep_of([1] * 5 + [0], [1] * 5, [1] * 7)
    only_scale = copy.deepcopy(net)
    only_scale[1].weight.data[5] = 0
    with torch.no_grad():
        assert (only_scale(IMAGES) - remove_channels(net, keep)(IMAGES)).abs().max() > 1e-3


def test_a_layer_may_shrink_to_one_channel():
    net = lived_in()
    for keep in (
        keep_of([0, 1, 0, 0, 0, 0], [1] * 5, [1] * 7),
        keep_of([1] * 6, [0, 0, 1, 0, 0], [1] * 7),
        keep_of([1] * 6, [1] * 5, [0] * 6 + [1]),
    ):
        with torch.no_grad():
            gap = (remove_channels(net, keep)(IMAGES) - mask_channels(net, keep)(IMAGES)).abs().max()
        assert gap < 1e-5, keep


def test_an_emptied_layer_is_refused_by_name():
    with pytest.raises(WorkbenchError, match=r"\[2\]") as error:
        remove_channels(lived_in(), keep_of([1] * 6, [0] * 5, [1] * 7))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("widths", [(32, 32, 64), (6, 5, 7), (2, 3), (4,), (1, 5, 7)])
@pytest.mark.parametrize(("inputs", "size"), [(1, 8), (3, 32), (3, 9)])
def test_macs_are_half_of_what_torch_counts_as_flops(widths, inputs, size):
    net = ConvNet(widths, inputs=inputs).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, inputs, size, size))
    assert 2 * conv_macs(net, size) == counter.get_total_flops()


def test_channels_of_the_image_always_stay():
    net, keep = lived_in(inputs=3), keep_of([1, 0] * 3, [0, 1, 1, 0, 1], [1] * 7)
    small, x = remove_channels(net, keep), torch.rand(4, 3, 8, 8, generator=generator("colour"))
    assert small[0].weight.shape == (3, 3, 3, 3)
    with torch.no_grad():
        assert (small(x) - mask_channels(net, keep)(x)).abs().max() < 1e-5


def test_training_is_torch_s_sgd_over_batches_of_100_in_an_order_of_the_seed():
    g = generator("to learn from")
    x, y = torch.rand(250, 1, 8, 8, generator=g), torch.randint(10, (250,), generator=g)
    net, alone, seen = lived_in(), lived_in(), []
    train_conv(net, x, y, 5, seed=4, lr=0.05, slim=0.01, after_step=seen.append)
    assert seen == [1, 2, 3, 4, 5]
    assert net.training
    optimiser = torch.optim.SGD(alone.train().parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for step in range(5):  # two batches an epoch: 50 images sit out
        order = torch.randperm(250, generator=generator(4, "order", step // 2))
        rows = order[:100] if step % 2 == 0 else order[100:200]
        optimiser.zero_grad()
        nn.functional.cross_entropy(alone(x[rows]), y[rows]).backward()
        for module in alone:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.grad += 0.01 * module.weight.detach().sign()
        optimiser.step()
    for found, expected in zip(net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_slimming_adds_the_sign_of_the_scales():
    net = lived_in().train()
    net[1].weight.data[0] = -0.4
    net(IMAGES).square().sum().backward()
    before = net[1].weight.grad.clone()
    early_bird.slim(net, 0.25)
    torch.testing.assert_close(net[1].weight.grad - before, 0.25 * net[1].weight.detach().sign())


def test_a_conv_net_is_built_without_memory():
    with torch.device("meta"):
        net = ConvNet((4, 8))
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}
