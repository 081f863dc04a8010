"""MACs against torch's own counter on random networks, BitOps against loops, the published networks by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workbench import WorkbenchError
from workbench.cost import LOUD, Macs, Operations, as_published, count, record, total, training_bitops
from workbench.resnets import BasicBlock, Bottleneck, _stages, cifar_resnet, imagenet_resnet, mobilenet_v2


def flops(model, *inputs, backward=False):
    """Half of what torch's FlopCounterMode counts: it calls a MAC two FLOPs."""
    inputs = [x.detach().to("meta").requires_grad_(x.requires_grad) for x in inputs]
    model = model.to("meta")
    with FlopCounterMode(display=False) as counter:
        out = model(*inputs)
        if backward:
            out.sum().backward()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


class First(nn.Module):
    """The output alone of a layer that returns more (an LSTM, attention); ``times`` the same input."""

    def __init__(self, inner, times=1):
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x):
        return self.inner(*[x] * self.times)[0]


# --- random networks ---------------------------------------------------------------------------------------------


@st.composite
def conv_nets(draw, grouped):
    """Convolutions of any kind, then a linear layer; and an input that fits."""
    batch, channels, size = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(7, 10))
    x, layers, inputs = torch.zeros(batch, channels, size, size), [], channels
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if inputs % g == 0])) if grouped else 1
        outputs = groups * draw(st.integers(1, 4))
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        options = {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 2)), "groups": groups}
        options |= {"dilation": draw(st.integers(1, 2)), "bias": draw(st.booleans())}
        kind = nn.ConvTranspose2d if draw(st.integers(0, 3)) == 0 else nn.Conv2d
        layers += [kind(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
        h, w = nn.Sequential(*layers[-3:]).eval()(x).shape[2:] if _fits(layers[-3:], x) else (0, 0)
        if min(h, w) < 1:
            del layers[-3:]
            break
        x = torch.zeros(batch, outputs, h, w)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(x[0].numel(), draw(st.integers(1, 5))))
    return net.eval(), torch.zeros(batch, channels, size, size)


def _fits(layers, x):
    try:
        nn.Sequential(*layers).eval()(x)
    except RuntimeError:
        return False
    return True


@st.composite
def sequence_nets(draw):
    """Recurrent layers and attention on ``[batch, steps, width]``."""
    batch, steps, width = draw(st.integers(1, 3)), draw(st.integers(1, 4)), 4 * draw(st.integers(1, 2))
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["lstm", "gru", "attention", "transformer", "linear"]))
        if kind == "attention":
            layers.append(First(nn.MultiheadAttention(width, draw(st.sampled_from([1, 2, 4])), batch_first=True), 3))
        elif kind == "transformer":
            layers.append(nn.TransformerEncoderLayer(width, 2, draw(st.integers(3, 9)), batch_first=True))
        elif kind == "linear":
            layers.append(nn.Linear(width, width, bias=draw(st.booleans())))
        else:
            cell = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
            both, deep = draw(st.booleans()), draw(st.integers(1, 2))
            layers.append(First(cell(width, width // (1 + both), deep, batch_first=True, bidirectional=both)))
    return nn.Sequential(*layers), torch.zeros(batch, steps, width)


@given(st.one_of(conv_nets(grouped=True), sequence_nets()))
@settings(max_examples=40)
def test_the_forward_pass_costs_what_torch_counts(case):
    net, x = case
    assert count(net, x)["forward"].sum() == flops(net, x) > 0


@given(st.one_of(conv_nets(grouped=False), sequence_nets()), st.booleans())
@settings(max_examples=40)
def test_a_whole_step_costs_what_torch_counts(case, input_grad):
    net, x = case
    x.requires_grad_(input_grad)
    found = total(count(net, x))
    assert found.forward + found.dx + found.dw == flops(net, x, backward=True)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
@settings(max_examples=20)
def test_a_grouped_convolution_is_its_groups(groups, inputs, outputs, stride):
    # torch counts the grouped weight gradient `groups` times too often; of one group it counts it right
    x = torch.zeros(2, groups * inputs, 6, 6, requires_grad=True)
    found = total(count(nn.Conv2d(groups * inputs, groups * outputs, 3, stride, groups=groups), x))
    alone = flops(
        nn.Conv2d(inputs, outputs, 3, stride), torch.zeros(2, inputs, 6, 6, requires_grad=True), backward=True
    )
    assert found == Macs(groups * alone / 3, groups * alone / 3, groups * alone / 3)


def test_sums_over_named_layers():
    net = nn.Sequential()
    net.conv, net.norm, net.flat, net.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)
    table = count(net, torch.zeros(2, 3, 4, 4)).set_index("layer")
    assert table.loc["conv", ["forward", "dx", "dw"]].tolist() == [2 * 4 * 4 * 27, 0, 2 * 4 * 4 * 27]
    assert table.loc["fc", ["forward", "dx", "dw"]].tolist() == [2 * 80] * 3
    assert table.loc["norm", ["forward", "normalised"]].tolist() == [0, 2 * 16]
    assert set(table.index) == {"conv", "norm", "fc"}


def test_a_layer_used_twice_counts_twice():
    layer = nn.Linear(3, 3)
    once, twice = (count(nn.Sequential(*[layer] * n), torch.zeros(1, 3)) for n in (1, 2))
    assert twice["forward"].sum() == 2 * once["forward"].sum() == 18


def test_a_frozen_layer_has_no_weight_gradient_and_stops_what_is_below():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    net[0].requires_grad_(False)
    table = count(net, torch.zeros(1, 3))
    assert table["dw"].tolist() == [0, 20, 10]
    assert table["dx"].tolist() == [0, 0, 10]


def test_counting_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.inference_mode():
        table = count(net, torch.randn(2, 1, 4, 4))
    assert table["dw"].sum() > 0  # whatever surrounds the count
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return F.conv2d(x.round(), weight.round())

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


class Quantised(nn.Conv2d):
    def forward(self, x):
        return Rounded.apply(x, self.weight)


def test_a_convolution_inside_an_autograd_function_keeps_its_gradients():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(2, 3, 3, bias=False))
    twin = nn.Sequential(Quantised(1, 2, 3, bias=False), Quantised(2, 3, 3, bias=False))
    x = torch.zeros(1, 1, 8, 8)
    assert count(plain, x).equals(count(twin, x))
    assert total(count(twin, x)).dx > 0


# --- what is not known -------------------------------------------------------------------------------------------


class Adder(nn.Module):
    """AdderNet's layer: the absolute difference of inputs and weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 4))

    def forward(self, x):
        return -(x[:, None] - self.weight).abs().sum(-1)


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.zeros(4)])

    def forward(self, x):
        return x * self.weights[0]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Bilinear(4, 4, 2)

    def forward(self, x):
        return self.inner(x, x)


@pytest.mark.parametrize(("layer", "name"), [(Adder(), "1"), (Listed(), "1"), (Twice(), "1.inner")])
def test_an_unknown_layer_with_parameters_is_a_loud_warning(layer, name):
    with pytest.warns(UserWarning, match=rf"^{name} \({type(layer.get_submodule(name[2:])).__name__}\) has parameters"):
        table = count(nn.Sequential(nn.Linear(4, 4), layer), torch.zeros(3, 4))
    assert table.loc[table["forward"] > 0, "layer"].tolist() == ["0"]


def test_known_layers_are_counted_without_a_warning():
    parts = nn.ModuleList([nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.PReLU(), nn.Embedding(3, 4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for part in parts:
            x = torch.zeros(2, 4, dtype=torch.long) if isinstance(part, nn.Embedding) else torch.zeros(2, 4)
            assert count(part, x)["forward"].sum() == 0
        assert count(nn.MultiheadAttention(4, 2), *[torch.zeros(3, 1, 4)] * 3)["forward"].sum() > 0


@pytest.mark.parametrize("net", [nn.Linear(3, 2), nn.Conv2d(1, 1, 3)])
def test_inputs_that_do_not_fit_are_refused_in_one_line(net):
    with pytest.raises(WorkbenchError, match=rf"{type(net).__name__} cannot be counted on inputs \(2, 5\)") as error:
        count(net, torch.zeros(2, 5))
    assert "\n" not in str(error.value)


def test_an_unknown_operation_on_many_elements_is_loud():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real

    net = nn.Sequential(nn.Linear(8, 8), Spectrum())
    with pytest.warns(
        UserWarning, match=r"^1: the operation _fft_r2c on 1,008 elements is not known here and counts as 0"
    ):
        count(net, torch.zeros(126, 8))
    assert LOUD < 126 * 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count(net, torch.zeros(2, 8))


def test_the_networks_of_the_workbench_have_no_unknown_operation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for build, size in ((lambda: cifar_resnet(8), 32), (mobilenet_v2, 32), (lambda: imagenet_resnet(18), 224)):
            on_meta(build, size=size)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.GELU(), nn.MaxPool2d(2), nn.LeakyReLU(), nn.Dropout(0.1), nn.Flatten()
        )
        count(net.append(nn.Softmax(-1)), torch.zeros(64, 3, 16, 16))


# --- scalar operations -------------------------------------------------------------------------------------------


def forward_work(net, *inputs):
    table = count(net, *inputs)
    return Operations(*(table[name].sum() for name in Operations._fields))


def by_loops(x, weight, stride, padding, groups):
    """Multiplications of a convolution, one by one, padding among them."""
    N, C, H, W = x
    K, c, R, S = weight
    H, W, n = H + 2 * padding, W + 2 * padding, 0
    for _ in range(N):
        for k in range(K):
            for y in range(0, H - R + 1, stride):
                for x in range(0, W - S + 1, stride):
                    for channel in range(C):
                        same_group = channel // c == k // (K // groups)
                        n += sum(same_group and y + r < H and x + q < W for r in range(R) for q in range(S))
    return n


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1))
@settings(max_examples=20)
def test_a_tiny_convolution_multiplication_by_multiplication(batch, groups, channels, kernel, stride, padding):
    net = nn.Conv2d(groups * channels, groups, kernel, stride, padding, groups=groups)
    found = forward_work(net, torch.zeros(batch, groups * channels, 4, 5))
    shapes = (batch, groups * channels, 4, 5), tuple(net.weight.shape)
    macs = by_loops(*shapes, stride, padding, groups)
    assert found == Operations(macs, macs)


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=30)
def test_sparse_products_cost_their_entries(rows, inner, columns, seed):
    class Product(nn.Module):
        def forward(self, a, b):
            return a @ b

    class SparseMM(nn.Module):
        def forward(self, a, b):
            return torch.sparse.mm(a, b)

    matrix = (torch.rand(rows, inner, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
    x, entries = torch.ones(inner, columns, requires_grad=True), int(matrix.sum())
    for sparse in (matrix.to_sparse_coo(), matrix.to_sparse_csr()):
        for product in (Product(), SparseMM()):
            table = count(product, sparse, x)
            assert table[["forward", "dx", "dw"]].sum().tolist() == [entries * columns, entries * columns, 0]
            assert table["weights"].sum() == entries
        assert count(Product(), sparse, x[:, 0])["forward"].sum() == entries
        assert count(Product(), torch.ones(3, rows), sparse)["forward"].sum() == 3 * entries


def edges(nodes, n, seed=0):
    pairs = torch.randint(nodes, (2, n), generator=torch.Generator().manual_seed(seed))
    return pairs[:, pairs[0] != pairs[1]]


@pytest.mark.parametrize("normalised", [True, False])
def test_message_passing_of_a_gcn_is_its_formula(normalised):
    geometric = pytest.importorskip("torch_geometric.nn")
    nodes, width = 40, 6
    graph = edges(nodes, 200)
    entries = graph.shape[1] + nodes * normalised  # E' = E + N with self-loops
    conv = geometric.GCNConv(9, width, normalize=normalised)
    weights = () if normalised else (torch.ones(graph.shape[1]),)
    table = count(conv, torch.zeros(nodes, 9), graph, *weights)
    passing = table[(table["op"] == "scatter_add") & (table["forward"] > 0)].iloc[0]
    assert passing["forward"] == passing["multiplies"] == passing["adds"] == entries * width
    assert passing["dx"] == entries * width
    assert passing["dw"] == 0  # nobody trains the edges
    assert passing["weights"] == entries
    assert table["forward"].sum() == nodes * 9 * width + entries * width


def test_message_passing_without_weights_only_adds_and_a_maximum_only_compares():
    geometric = pytest.importorskip("torch_geometric.nn")
    graph, x = edges(30, 120), torch.zeros(30, 5)
    for aggregate, column in (("sum", "adds"), ("max", "comparisons")):
        table = count(geometric.SAGEConv(5, 4, aggr=aggregate), x, graph)
        passing = table[table["op"].str.startswith("scatter")]
        assert passing[column].sum() == graph.shape[1] * 5
        assert passing[["forward", "multiplies"]].sum().sum() == 0
    gat = count(geometric.GATConv(5, 4, heads=2), x, graph)
    passing = gat[(gat["op"] == "scatter_add") & (gat["forward"] > 0)].iloc[0]
    entries = (graph.shape[1] + 30) * 8
    assert passing[["forward", "dx", "dw"]].tolist() == [entries] * 3  # attention is trained


def test_trained_edge_weights_pay_for_their_gradient():
    geometric = pytest.importorskip("torch_geometric.nn")
    graph = edges(20, 90)
    weights = torch.ones(graph.shape[1], requires_grad=True)
    table = count(geometric.GraphConv(3, 4), torch.zeros(20, 3), graph, weights)
    passing = table[table["op"] == "scatter_add"].iloc[0]
    assert passing[["forward", "dx", "dw"]].tolist() == [3 * graph.shape[1], 0, 3 * graph.shape[1]]


@pytest.mark.parametrize("on_cpu", [False, True])
def test_fused_attention_is_two_products(on_cpu):
    class Attention(nn.Module):
        def forward(self, q, k, v):
            if on_cpu:
                q.sum().item()  # cannot run on the meta device
            return F.scaled_dot_product_attention(q, k, v)

    q = torch.zeros(2, 3, 5, 8, requires_grad=True)
    k, v = torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, 6)
    assert count(Attention(), q, k, v)["forward"].sum() == 2 * 3 * 5 * 7 * (8 + 6)


class Adding(Adder):
    """The same layer, counting itself."""

    def operations(self, x, out):
        taps = out.numel() * self.weight.shape[1]
        return Operations(adds=2 * taps), Operations(adds=2 * taps, comparisons=taps), Operations(taps, taps)


def test_a_layer_that_counts_itself_is_taken_at_its_word():
    net = nn.Sequential(nn.Linear(4, 4), Adding())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = count(net, torch.zeros(3, 4)).set_index("layer")
    assert list(table.index) == ["0", "1"]
    row = table.loc["1"]
    assert (row["op"], row["forward"], row["adds"], row["multiplies"]) == ("Adding", 0, 120, 0)
    assert (row["dx_adds"], row["dx_comparisons"], row["dw_multiplies"], row["dw"]) == (120, 60, 60, 60)
    assert (row["weights"], row["inputs"], row["outputs"]) == (20, 12, 15)
    frozen = count(Adding().requires_grad_(False), torch.zeros(3, 4))
    assert frozen[["dx_adds", "dw_multiplies"]].sum().sum() == 0


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.ReLU(), (2, 3), Operations(comparisons=6)),
        (nn.MaxPool2d(3, 2), (1, 2, 7, 7), Operations(comparisons=2 * 9 * 8)),
        (nn.AvgPool2d(2), (1, 2, 4, 4), Operations(multiplies=8, adds=8 * 3)),
        (nn.AdaptiveAvgPool2d(1), (1, 2, 4, 4), Operations(multiplies=2, adds=2 * 15)),
        (nn.Sigmoid(), (2, 3), Operations(multiplies=6)),
        (nn.Softmax(-1), (2, 3), Operations(12, 12, 0, 6)),
        (nn.BatchNorm2d(3).eval(), (2, 3, 4, 4), Operations(96, 96)),
        (nn.BatchNorm2d(3).train(), (2, 3, 4, 4), Operations(192, 288)),
        (nn.LayerNorm(4), (2, 4), Operations(16, 24)),
        (nn.Flatten(), (2, 3, 4), Operations()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_elementwise_work(layer, shape, expected):
    assert forward_work(layer, torch.zeros(shape)) == expected


def test_a_shortcut_adds():
    table = count(BasicBlock(4, 4), torch.zeros(1, 4, 6, 6))
    assert table.loc[table["op"] == "add", "adds"].sum() == 4 * 36


def test_products_are_multiplications_with_additions_and_touch_their_operands():
    table = count(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), torch.zeros(2, 3, 8, 8))
    for columns in (("forward", "multiplies"), ("dx", "dx_multiplies"), ("dw", "dw_adds")):
        assert (table[columns[0]] == table[columns[1]]).all()
    assert table[["weights", "inputs", "outputs"]].to_numpy().tolist() == [[108, 384, 288], [8, 288, 144]]


def test_a_model_that_asks_for_values_runs_for_real_and_leaves_no_trace():
    class Peeking(nn.Linear):
        def forward(self, x):
            return super().forward(x[x.sum(1) > 0]) + torch.rand(1)

    x, state = torch.tensor([[1.0, 1], [-1, -1], [2, 2]]), torch.get_rng_state()
    assert count(Peeking(2, 3), x)["forward"].sum() == 2 * 2 * 3
    torch.set_rng_state(state)
    net = nn.Sequential(Peeking(2, 3), nn.BatchNorm1d(3)).train()
    before, after = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    record(net, x)
    assert torch.equal(torch.get_rng_state(), after)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


# --- BitOps ------------------------------------------------------------------------------------------------------


def test_bitops_pair_each_product_with_its_two_factors():
    assert Macs(1, 0, 0).bitops(2, 3, 5) == 2 * 3
    assert Macs(0, 1, 0).bitops(2, 3, 5) == 2 * 5
    assert Macs(0, 0, 1).bitops(2, 3, 5) == 3 * 5
    assert Macs(1, 1, 1).bitops(32, 32, 32) == 3 * 1024


@given(
    st.tuples(*[st.integers(0, 10**6)] * 3),
    st.lists(st.tuples(st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=20),
    st.integers(1, 256),
)
@settings(max_examples=40)
def test_bitops_of_a_training_by_a_loop(macs, steps, batch):
    expected = 0
    for b, g in steps:
        for _ in range(batch if batch < 5 else 1):  # images one by one, where they are few
            expected += (macs[0] * b * b + macs[1] * b * g + macs[2] * b * g) * (1 if batch < 5 else batch)
    bits, errors = (torch.tensor(column) for column in zip(*steps, strict=True))
    assert training_bitops(Macs(*macs), bits, errors, batch) == pytest.approx(expected, rel=1e-12)
    assert training_bitops(Macs(*macs), bits.flip(0), errors.flip(0), batch) == pytest.approx(expected, rel=1e-12)


def test_a_training_that_overflows_64_bit_integers_still_counts():
    bits = np.full(64_000, 32)
    expected = 3 * 1024 * 10**10 * 64_000 * 128
    assert expected > 2**63
    assert training_bitops(Macs(10**10, 10**10, 10**10), bits, 32, 128) == pytest.approx(expected)


# --- published networks ------------------------------------------------------------------------------------------


def on_meta(build, *args, size=32, **options):
    with torch.device("meta"):
        net = build(*args, **options)
        return net, count(net, torch.zeros(1, 3, size, size))


@pytest.mark.parametrize("depth", [8, 20, 38, 74, 110, 152])
def test_cifar_resnets_by_hand(depth):
    n = (depth - 2) // 6
    net, table = on_meta(cifar_resnet, depth)
    macs, elements, parameters = 9 * 3 * 16 * 1024, 16 * 1024, 9 * 3 * 16
    inputs = 16
    for width, pixels in ((16, 1024), (32, 256), (64, 64)):
        weights = 9 * inputs * width + (2 * n - 1) * 9 * width * width + (inputs * width if inputs != width else 0)
        macs, parameters = macs + weights * pixels, parameters + weights
        elements += (2 * n + (inputs != width)) * width * pixels
        inputs = width
    norms = 16 + 2 * n * (16 + 32 + 64) + 32 + 64
    assert table["forward"].sum() == macs + 640
    assert table["normalised"].sum() == elements == 28672 * (2 * n + 1)
    assert sum(p.numel() for p in net.parameters()) == parameters + 2 * norms + 650
    assert as_published(table).forward == macs + 640 + 2 * elements
    assert len(net.blocks) == 3 * n


def test_the_bottleneck_resnet_by_hand():
    net, table = on_meta(cifar_resnet, 164, 100, block=Bottleneck)
    macs, inputs, pixels = 9 * 3 * 16 * 1024, 16, 1024
    for stage, width in enumerate((16, 32, 64)):
        for block in range(18):
            before, pixels = pixels, 1024 >> 2 * stage
            macs += inputs * width * before + 9 * width * width * pixels + 4 * width * width * pixels
            macs += 4 * inputs * width * pixels if block == 0 else 0
            inputs = 4 * width
    assert table["forward"].sum() == macs + 256 * 100
    assert len([m for m in net.modules() if isinstance(m, nn.Conv2d)]) - 3 + 1 == 164  # 3 shortcuts, 1 linear


@pytest.mark.parametrize(
    ("depth", "parameters", "gmacs"),
    [(18, 11_689_512, 1.81407), (34, 21_797_672, 3.66376), (50, 25_557_032, 4.08918)],
)
def test_imagenet_resnets(depth, parameters, gmacs):
    net, table = on_meta(imagenet_resnet, depth, size=224)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert table["forward"].sum() == pytest.approx(gmacs * 1e9, rel=1e-5)
    assert total(table).dx == table["forward"].sum() - 3 * 64 * 49 * 112**2  # the first layer's dX is not needed


def chain(*layers):
    """Convolutions and poolings one after the other: (outputs, kernel, stride, groups) or "pool"."""
    net, inputs = nn.Sequential(), 3
    for layer in layers:
        if layer == "pool":
            net.append(nn.MaxPool2d(2))
        else:
            outputs, kernel, stride, groups = layer
            net.append(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
            inputs = outputs
    return net


def vgg16():
    widths = [64, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[512] * 3, "pool", *[512] * 3]
    return chain(*(w if w == "pool" else (w, 3, 1, 1) for w in widths))


def mobilenet_v2_imagenet():
    layers, inputs = [(32, 3, 2, 1)], 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, outputs, repeats, stride in stages:
        for i in range(repeats):
            wide = expand * inputs
            layers += [(wide, 1, 1, 1)] * (expand > 1) + [(wide, 3, stride if i == 0 else 1, wide), (outputs, 1, 1, 1)]
            inputs = outputs
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))
    return nn.Sequential(chain(*layers, (1280, 1, 1, 1)), head)


def resnet50():
    blocks, outputs = _stages(Bottleneck, (3, 4, 6, 3), 64, 64)
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 1000))


@pytest.mark.parametrize(
    ("build", "gmacs"),
    [(vgg16, 15.3466), (mobilenet_v2_imagenet, 0.300775), (resnet50, 4.0892)],
    ids=["vgg16's convolutions", "mobilenet_v2", "resnet50"],
)
def test_published_counts(build, gmacs):
    _, table = on_meta(build, size=224)
    assert table["forward"].sum() / 1e9 == pytest.approx(gmacs, rel=2e-5)


def test_mobilenet_by_hand():
    net, table = on_meta(mobilenet_v2)
    macs, inputs, size = 9 * 3 * 32 * 1024, 32, 32
    stages = [(1, 16, 1), (6, 24, 1), (6, 24, 1), (6, 32, 2), *[(6, 32, 1)] * 2, (6, 64, 2), *[(6, 64, 1)] * 3]
    stages += [(6, 96, 1)] * 3 + [(6, 160, 2)] + [(6, 160, 1)] * 2 + [(6, 320, 1)]
    for expand, outputs, stride in stages:
        wide, small = expand * inputs, size // stride
        macs += inputs * wide * size**2 + (9 * wide + wide * outputs) * small**2
        macs += inputs * outputs * size**2 if stride == 1 and inputs != outputs else 0
        inputs, size = outputs, small
    assert (inputs, size) == (320, 4)
    assert table["forward"].sum() == macs + 320 * 1280 * 16 + 12800
    depthwise = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 17
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)


def test_a_basic_block_is_its_formula():
    block = BasicBlock(4, 4).eval()
    conv1, norm1, _, conv2, norm2 = block.body
    x = torch.randn(2, 4, 6, 6)
    expected = F.relu(norm2(conv2(F.relu(norm1(conv1(x))))) + x)
    torch.testing.assert_close(block(x), expected)
    wider = BasicBlock(4, 8, stride=2).eval()
    nn.init.zeros_(wider.body[-1].weight)  # what is left is the shortcut
    shortcut, norm = wider.shortcut
    torch.testing.assert_close(wider(x), F.relu(norm(F.conv2d(x[:, :, ::2, ::2], shortcut.weight))))


@pytest.mark.parametrize(
    ("net", "shape", "classes"),
    [
        (cifar_resnet(8, width=4, channels=1), (4, 1, 8, 8), 10),
        (cifar_resnet(11, 100, width=4, block=Bottleneck), (2, 3, 32, 32), 100),
        (mobilenet_v2(), (2, 3, 32, 32), 10),
        (imagenet_resnet(18, 7), (2, 3, 64, 64), 7),
    ],
    ids=["resnet8", "bottleneck", "mobilenet", "imagenet"],
)
def test_networks_train(net, shape, classes):
    out = net.train()(torch.randn(shape))
    assert out.shape == (shape[0], classes)
    F.cross_entropy(out, torch.zeros(shape[0], dtype=torch.long)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert [name for name, _ in net.named_children()] == ["stem", "blocks", "head"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cifar_resnet(9), r"choose 6 n \+ 2, as 8"),
        (lambda: cifar_resnet(2), "no ResNet of 2 layers"),
        (lambda: cifar_resnet(22, block=Bottleneck), r"choose 9 n \+ 2, as 11"),
        (lambda: imagenet_resnet(101), "choose 18, 34 or 50"),
    ],
)
def test_a_depth_that_does_not_exist_is_refused(build, message):
    with pytest.raises(WorkbenchError, match=message):
        build()
