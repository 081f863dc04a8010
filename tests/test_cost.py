"""MACs against torch's own counter on random networks, BitOps against loops, the published networks by hand."""

import math
import warnings
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workbench import WorkbenchError
from workbench.cost import Macs, Operations, as_published, count, record, total, training_bitops
from workbench.hardware import DATAFLOWS, breakdown, costs, layers
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


class Unused(nn.Linear):
    """An experiment's leftover."""

    def __init__(self):
        super().__init__(4, 4)
        self.left, self.over = nn.Parameter(torch.ones(4)), nn.ParameterList([torch.ones(4)])


class Foreign(nn.Module):
    """Work that torch cannot see."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return torch.from_numpy(x.detach().numpy() @ self.weight.detach().numpy())


@pytest.mark.parametrize(("layer", "left"), [(Unused(), "left, 0"), (Foreign(), "weight")])
def test_a_parameter_that_no_operation_takes_is_a_loud_warning(layer, left):
    with pytest.warns(
        UserWarning, match=rf"^1 \({type(layer).__name__}\): no operation seen here takes its {left}, so"
    ):
        count(nn.Sequential(nn.Linear(4, 4), layer), torch.zeros(3, 4))


@pytest.mark.filterwarnings("ignore:.*spectral_norm")
def test_a_weight_that_a_hook_computes_belongs_to_its_layer():
    net = nn.utils.spectral_norm(nn.Linear(6, 5)).train()  # two products with vectors find its largest singular value
    table = count(nn.Sequential(nn.ReLU(), net), torch.zeros(4, 6))
    assert set(table.loc[table["forward"] > 0, "layer"]) == {"1"}
    assert table["forward"].sum() == count(net, torch.zeros(4, 6))["forward"].sum() >= (4 + 3) * 30


def test_a_loss_is_counted_without_a_warning():
    x, y = torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert forward_work(nn.MSELoss(), x, x) == Operations(24, 24 + 23)
        assert forward_work(nn.NLLLoss(), x, y) == Operations(adds=6)
        assert forward_work(nn.CrossEntropyLoss(), x, y) == Operations(48, 48 + 6, 0, 24)


def test_a_parameter_in_elementwise_work_is_no_product_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layer in (Adder(), Listed()):
            table = count(nn.Sequential(nn.Linear(4, 4), layer), torch.zeros(3, 4))
            assert table.loc[table["forward"] > 0, "layer"].tolist() == ["0"]
            assert table.loc[table["layer"] == "1", ["adds", "multiplies"]].to_numpy().sum() > 0


class Vision(nn.Module):
    """What transformers and modern convolutional networks have beside their products."""

    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 17, 8))
        self.scale, self.mix = nn.Parameter(torch.ones(8)), nn.Linear(8, 8)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return x + self.scale * self.mix(x)


QUIET = [
    (Vision(), (2, 16, 8), 2 * 17 * 64),
    (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.Hardsigmoid(), nn.Mish(), nn.SiLU()), (1, 3, 32, 32), 12288),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 32, 32), 0),
    (nn.Upsample(scale_factor=2, mode="trilinear"), (1, 3, 8, 8, 8), 0),
    (nn.Upsample(scale_factor=2, mode="nearest"), (1, 3, 8, 8, 8), 0),
    (nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.MaxPool3d(2), nn.AvgPool3d(2)), (1, 1, 8, 16, 16), 2 * 27 * 2048),
    (nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.PixelUnshuffle(2), nn.LPPool2d(2, 2)), (1, 3, 32, 32), 0),
    (nn.Sequential(nn.Unfold(3, padding=1), nn.Fold(32, 3, padding=1)), (1, 3, 32, 32), 0),
    (nn.utils.parametrizations.weight_norm(nn.Linear(64, 32)), (4, 64), 4 * 64 * 32),
    (First(nn.LSTM(32, 16)), (10, 4, 32), 10 * 4 * 4 * 16 * (32 + 16)),
    (nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LocalResponseNorm(2)), (2, 4, 16, 16), 0),
    (nn.Sequential(nn.RMSNorm(64), nn.PReLU(), nn.GLU(), nn.Softplus(), nn.LogSigmoid()), (64, 64), 0),
    (
        nn.Sequential(nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.ZeroPad2d(1)),
        (1, 3, 32, 32),
        0,
    ),
]


@pytest.mark.parametrize(("net", "shape", "macs"), QUIET, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("train", [True, False])
def test_what_is_counted_exactly_warns_of_nothing(net, shape, macs, train):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(net.train(train), torch.zeros(shape))["forward"].sum() == macs


def test_products_that_are_not_known_are_loud_however_small():
    class Solve(nn.Module):
        def forward(self, x):
            return torch.linalg.solve(x @ x.T + torch.eye(len(x)), x)

    class Distance(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x)

    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real

    for net, op in ((Solve(), "_linalg_solve_ex"), (Distance(), "_cdist_forward"), (Spectrum(), "_fft_r2c")):
        with pytest.warns(
            UserWarning, match=rf"^1: the operation {op} on \d+ elements is not known here and counts as 0"
        ):
            count(nn.Sequential(nn.Linear(3, 3), net), torch.ones(2, 3))


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.filterwarnings("ignore:torch.ao.quantization", "ignore:.*torchao", "ignore:.*quantize_per_tensor")
def test_a_quantised_layer_is_counted_though_its_weights_are_packed(batch):
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    table = count(torch.ao.quantization.quantize_dynamic(net, {nn.Linear}), torch.zeros(batch, 20))
    assert table["forward"].sum() == batch * 900
    assert table["weights"].sum() == 900
    assert table[["dx", "dw"]].sum().sum() == 0  # there is no gradient
    recurrent = torch.ao.quantization.quantize_dynamic(First(nn.LSTM(3, 4)), {nn.LSTM})
    with pytest.warns(UserWarning, match="quantized_lstm on 8 elements is not known here"):
        count(recurrent, torch.zeros(1, 2, 3))


def test_known_layers_are_counted_without_a_warning():
    parts = nn.ModuleList([nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4), nn.PReLU(), nn.Embedding(3, 4)])
    parts.append(nn.EmbeddingBag(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for part in parts:
            lookup = isinstance(part, nn.Embedding | nn.EmbeddingBag)
            x = torch.zeros(2, 4, dtype=torch.long) if lookup else torch.zeros(2, 4)
            assert count(part, x)["forward"].sum() == 0
        assert count(nn.MultiheadAttention(4, 2), *[torch.zeros(3, 1, 4)] * 3)["forward"].sum() > 0


@pytest.mark.parametrize("net", [nn.Linear(3, 2), nn.Conv2d(1, 1, 3)])
def test_inputs_that_do_not_fit_are_refused_in_one_line(net):
    with pytest.raises(WorkbenchError, match=rf"{type(net).__name__} cannot be counted on inputs \(2, 5\)") as error:
        count(net, torch.zeros(2, 5))
    assert "\n" not in str(error.value)


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

    def training_operations(self, x, out):
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


# --- every argument of torch's layers ----------------------------------------------------------------------------


def touched(net, *shapes):
    """Elements of weight and inputs that a layer without bias uses, and of outputs it makes; others have gradient 0."""
    net, inputs = net.double(), [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    out = net(*inputs)
    out.sum().backward()
    (weight,) = net.parameters()
    return int((weight.grad != 0).sum()), sum(int((x.grad != 0).sum()) for x in inputs), int((out != 0).sum())


def windows(size, kernel, stride, padding, dilation):
    """Taps of a row of outputs one by one, those over the padding among them."""
    taps = range(-padding, size + padding)
    starts = [y for y in taps[::stride] if y + dilation * (kernel - 1) in taps]
    return sum(1 for _ in starts for _ in range(kernel)), len(starts)


@st.composite
def convolutions(draw):
    """A convolution of one to three dimensions with any arguments, plain or transposed; and its input's shape."""
    rank, groups, transposed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.booleans())

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 3), each(0, 2)
    spans = [step * (taps - 1) + 1 for step, taps in zip(dilation, kernel, strict=True)]
    size = tuple(draw(st.integers(max(1, span - 2 * pad), 9)) for span, pad in zip(spans, padding, strict=True))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    if transposed:
        extra = tuple(draw(st.integers(0, max(pair) - 1)) for pair in zip(stride, dilation, strict=True))
        small = any((n - 1) * s + span <= 2 * p for n, s, span, p in zip(size, stride, spans, padding, strict=True))
        options |= {"output_padding": extra, "padding": (0,) * rank if small else padding}
    elif all(n > pad for n, pad in zip(size, padding, strict=True)):
        options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    return kinds[3 * transposed + rank - 1](inputs, outputs, kernel, bias=False, **options), (
        draw(st.integers(1, 3)),
        inputs,
        *size,
    )


@given(convolutions())
def test_any_convolution_tap_by_tap(case):
    net, shape = case
    batch, _, *size = shape
    pairs = batch * net.in_channels * net.out_channels // net.groups
    if net.transposed:  # each input meets the whole kernel
        taps = math.prod(size) * math.prod(net.kernel_size)
    else:
        args = zip(size, net.kernel_size, net.stride, net.padding, net.dilation, strict=True)
        taps = math.prod(windows(*arg)[0] for arg in args)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = total(count(net, torch.zeros(shape, requires_grad=True)))
    assert found == Macs(*[pairs * taps] * 3)
    assert total(count(net, torch.zeros(shape))).dx == 0
    assert total(count(net.requires_grad_(False), torch.zeros(shape, requires_grad=True))).dw == 0


@given(convolutions(), st.sampled_from(DATAFLOWS), st.booleans())
@settings(max_examples=20)
def test_no_operand_of_a_convolution_is_moved_less_than_once(case, dataflow, training):
    net, shape = case
    assume(len(shape) < 5)
    rows = costs(net, torch.zeros(shape, requires_grad=True), dataflow=dataflow, training=training)
    macs = total(count(net, torch.zeros(shape, requires_grad=True)))
    assert sum(layer.macs for layer, _ in rows) == (macs.forward + macs.dx + macs.dw if training else macs.forward)
    used = dict(zip(("weights", "inputs", "outputs"), touched(net, shape), strict=True))
    if net.transposed:  # the dX of a convolution, named as there
        used = used | {"inputs": used["outputs"], "outputs": used["inputs"]}
    moved = defaultdict(float)
    for layer, cost in rows:
        for (level, operand), accesses in cost.accesses.items():
            moved[layer.product, level, operand] += float(accesses)
    for (product, level, operand), accesses in moved.items():
        if operand != "arithmetic":
            assert accesses >= used[operand], (product, level, operand)


WAYS = {
    "x W'": lambda w, x: (x.mT @ w.T).mT,
    "W x": lambda w, x: w @ x,
    "F.linear": lambda w, x: F.linear(x.mT, w).mT,
    "einsum": lambda w, x: torch.einsum("oc,...cn->...on", w, x),
    "einsum, features first": lambda w, x: torch.einsum("...cn,oc->...on", x, w),
    "expanded": lambda w, x: torch.matmul(w.expand(*x.shape[:-2], *w.shape), x),
    "quantised": lambda w, x: ((w * 4).round() / 4) @ x,
    "stored the other way": lambda w, x: w.clone().T.contiguous().T @ x,
    "joined": lambda w, x: torch.cat([w[:1], w[1:]]) @ x,
    "with a bias": lambda w, x: torch.addmm(w[:, :1], w, x) if x.dim() == 2 else w @ x + w[:, :1],
}


class Product(nn.Module):
    """A matrix of weights times features, written in one of many ways; the features stand as columns."""

    def __init__(self, way, outputs, inputs, frozen=False):
        super().__init__()
        weight = torch.ones(outputs, inputs)
        if frozen:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)
        self.way = way

    def forward(self, x):
        return WAYS[self.way](self.weight, x)


@given(
    st.sampled_from(list(WAYS)), st.integers(2, 4), st.integers(2, 4), st.integers(2, 5),
    st.lists(st.integers(2, 3), max_size=2), st.booleans(), st.booleans(), st.sampled_from(DATAFLOWS),
)  # fmt: skip
@settings(max_examples=40)
def test_weights_are_weights_on_whichever_side_they_stand(way, outputs, inputs, rows, batch, frozen, on_cpu, dataflow):
    class Net(Product):
        def forward(self, x):
            if on_cpu:
                x.sum().item()  # cannot run on the meta device
            return super().forward(x)

    net = Net(way, outputs, inputs, frozen)
    x = torch.zeros(*batch, inputs, rows)
    table = count(net, x)
    row, n = table[table["forward"] > 0].iloc[0], x.numel() // inputs
    macs = n * inputs * outputs
    assert row[["forward", "dx", "dw"]].tolist() == [macs, 0, 0 if frozen else macs]
    assert row[["weights", "inputs", "outputs"]].tolist() == [inputs * outputs, n * inputs, n * outputs]
    ((layer, cost),) = costs(net, x, dataflow=dataflow)
    assert layer.volumes == {"weights": inputs * outputs, "inputs": n * inputs, "outputs": n * outputs}
    moved = {place: number for place, number in cost.accesses.items() if place[1] != "arithmetic"}
    assert all(number >= layer.volumes[operand] for (_, operand), number in moved.items())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_a_bilinear_layer_is_a_linear_one_on_products_of_its_inputs(batch, first, second, outputs, bias, needs):
    net = nn.Bilinear(first, second, outputs, bias)
    x, z = torch.zeros(batch, first, requires_grad=needs), torch.zeros(batch, second)
    pairs, table = batch * first * second, count(net, x, z)
    assert total(table) == Macs(pairs * outputs, pairs * outputs * needs, pairs * outputs)
    assert table["multiplies"].sum() == pairs * (1 + outputs)
    (layer,) = layers(net, x, z)
    assert layer.volumes == {"weights": first * second * outputs, "inputs": pairs, "outputs": batch * outputs}


@st.composite
def recurrent(draw):
    kind, options = draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU])), {"num_layers": draw(st.integers(1, 3))}
    options |= {name: draw(st.booleans()) for name in ("bias", "bidirectional", "batch_first")}
    width, hidden = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    if kind is nn.LSTM and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    return kind(width, hidden, **options)


@given(recurrent(), st.integers(1, 4), st.integers(1, 3), st.booleans())
@settings(max_examples=20)
def test_any_recurrent_layer_is_its_gates(net, steps, batch, on_cpu):
    class Net(First):
        def forward(self, x):
            if on_cpu:
                x.sum().item()
            return super().forward(x)

    gates, out = {"RNN": 1, "LSTM": 4, "GRU": 3}[type(net).__name__], net.proj_size or net.hidden_size
    ways, macs, inputs = 1 + net.bidirectional, 0, net.input_size
    for _ in range(net.num_layers):
        macs += ways * (gates * net.hidden_size * (inputs + out) + net.hidden_size * net.proj_size)
        inputs = ways * out
    shape = (batch, steps, net.input_size) if net.batch_first else (steps, batch, net.input_size)
    assert count(Net(net), torch.zeros(shape))["forward"].sum() == macs * steps * batch


@given(
    st.sampled_from([1, 2, 3]), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4),
    st.integers(1, 5), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=20)
def test_any_attention_is_its_four_projections_and_two_products(
    heads, size, keys, batch, steps, width, bias, batch_first, zero, shown
):
    embed, keyed = heads * size, width + heads * size
    options = {"bias": bias, "batch_first": batch_first, "add_zero_attn": zero, "kdim": keyed, "vdim": width}
    net = nn.MultiheadAttention(embed, heads, **options)
    shapes = [(steps, batch, embed), (keys, batch, keyed), (keys, batch, width)]
    q, k, v = (torch.zeros(shape).transpose(0, 1) if batch_first else torch.zeros(shape) for shape in shapes)
    projections = batch * (2 * steps * embed * embed + keys * (keyed + width) * embed)
    products = 2 * batch * steps * (keys + zero) * embed
    assert count(net, q, k, v, need_weights=shown)["forward"].sum() == projections + products


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_a_complex_product_is_four_real_ones(rows, inner, columns, batch, needs):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(inner, columns, dtype=torch.cfloat))

        def forward(self, x):
            return x @ self.weight

    class Real(Complex):
        def forward(self, x):
            a, b, c, d = x.real, x.imag, self.weight.real, self.weight.imag
            return torch.complex(a @ c - b @ d, a @ d + b @ c)

    x = torch.zeros(batch, rows, inner, dtype=torch.cfloat, requires_grad=needs)
    table, real = count(Complex(), x), count(Real(), x)
    assert total(table) == total(real)
    macs = 4 * batch * rows * inner * columns
    assert total(table) == Macs(macs, macs * needs, macs)
    assert table[["weights", "inputs"]].sum().tolist() == [2 * inner * columns, 2 * x.numel()]
    assert sum(layer.macs for layer in layers(Complex(), x, training=True)) == macs * (2 + needs)


def test_elementwise_work_of_complex_numbers():
    class Do(nn.Module):
        def __init__(self, work):
            super().__init__()
            self.work = work

        def forward(self, *x):
            return self.work(*x)

    z, x = torch.zeros(5, dtype=torch.cfloat), torch.zeros(5)
    for work, inputs, expected in [
        (torch.add, (z, z), Operations(adds=10)),
        (torch.mul, (z, z), Operations(20, 10)),
        (torch.mul, (z, x), Operations(10)),
        (lambda z: z * 2, (z,), Operations(10)),
        (lambda z: z * 2j, (z,), Operations(20, 10)),
        (torch.abs, (z,), Operations(15, 5)),
        (torch.conj, (z,), Operations()),
    ]:
        assert forward_work(Do(work), *inputs) == expected


@st.composite
def poolings(draw):
    """A pooling with any kernel of one to three dimensions, and its input's shape."""
    rank, batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    size = tuple(draw(st.integers(3, 8)) for _ in range(rank))
    kernel, stride = (tuple(draw(st.integers(1, 3)) for _ in range(rank)) for _ in range(2))
    name, adaptive = draw(st.sampled_from(["Max", "Avg"])), draw(st.booleans())
    layer = getattr(nn, f"{'Adaptive' * adaptive}{name}Pool{rank}d")
    return layer(kernel if rank > 1 else kernel[0]) if adaptive else layer(kernel, stride), (batch, channels, *size)


@given(poolings())
def test_any_pooling_compares_or_adds_all_of_a_window_but_the_first(case):
    net, shape = case
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    out = net.double()(x)
    if "Avg" in type(net).__name__:  # a window of n elements has n gradients of 1 / n
        sizes = []
        for y in out[0, 0].flatten():
            (grad,) = torch.autograd.grad(y, x, retain_graph=True)
            sizes.append(int((grad != 0).sum()))
        expected = Operations(out.numel(), (sum(sizes) - len(sizes)) * shape[0] * shape[1])
    else:  # an average with the same windows knows their sizes
        twin = getattr(nn, type(net).__name__.replace("Max", "Avg"))
        args = (net.output_size,) if hasattr(net, "output_size") else (net.kernel_size, net.stride)
        expected = Operations(comparisons=forward_work(twin(*args), torch.zeros(shape)).adds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert forward_work(net, torch.zeros(shape)) == expected


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 5), st.booleans(), st.booleans())
@settings(max_examples=20)
def test_any_norm_is_statistics_and_a_scale(batch, channels, size, affine, train):
    nets = [nn.BatchNorm2d(2 * channels, affine=affine), nn.BatchNorm2d(2 * channels, track_running_stats=False)]
    nets += [nn.InstanceNorm2d(2 * channels, affine=affine), nn.GroupNorm(2, 2 * channels, affine=affine)]
    nets += [nn.LayerNorm([2 * channels, size, size], elementwise_affine=affine)]
    x = torch.zeros(batch, 2 * channels, size, size)
    for net in nets:
        own = train or not isinstance(net, nn.BatchNorm2d) or not net.track_running_stats
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = count(net.train(train), x)
        assert table["normalised"].sum() == x.numel()
        work = Operations(*(table[name].sum() for name in ("multiplies", "adds", "shifts", "comparisons")))
        assert work == Operations(1 + own, 1 + 2 * own).times(x.numel())


# --- models of a reader ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize(
    ("build", "shape", "macs"),
    [
        (lambda: nn.LazyLinear(4), (5, 7), 5 * 28),
        (lambda: nn.LazyConv2d(4, 3), (1, 2, 5, 5), 9 * 9 * 2 * 4),
        (lambda: nn.Sequential(nn.LazyConvTranspose1d(2, 3), nn.LazyBatchNorm1d()), (1, 3, 4), 4 * 3 * 2 * 3),
    ],
)
def test_a_lazy_model_is_counted_and_stays_lazy(build, shape, macs, on_cpu):
    class Peeking(nn.Identity):
        def forward(self, x):
            return x + x.sum().item() if on_cpu else x

    net, x, state = nn.Sequential(Peeking(), build()), torch.zeros(shape), torch.get_rng_state()
    assert count(net, x)["forward"].sum() == macs
    assert sum(layer.macs for layer in layers(net, x)) == macs
    assert any(isinstance(p, nn.UninitializedParameter) for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert net(x).shape[0] == shape[0]  # it still works


@pytest.mark.parametrize("compiled", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(2, 4))])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_compiled_model_is_refused_in_one_line(compiled):
    net = compiled(nn.Sequential(nn.Linear(4, 4)))
    for model, name in ((net, "the network itself"), (nn.Sequential(nn.ReLU(), net), "1")):
        with pytest.raises(WorkbenchError, match=rf"^{name} is compiled by torch.jit.*count the module that it was"):
            count(model, torch.zeros(2, 4))


@pytest.mark.parametrize("error", [AssertionError(), IndexError(), KeyError("a"), ZeroDivisionError("b\nc"), OSError()])
def test_whatever_a_model_raises_is_one_line(error):
    class Raising(nn.Module):
        def forward(self, x):
            raise error

    with pytest.raises(WorkbenchError, match=r"Raising cannot be counted on inputs \(2, 4\): .") as found:
        count(Raising(), torch.zeros(2, 4))
    assert "\n" not in str(found.value)
    with pytest.raises(WorkbenchError, match=r"only a torch\.nn\.Module can be counted; got function"):
        count(lambda x: x, torch.zeros(2, 4))


def test_an_attribute_called_operations_is_an_attribute():
    class Cell(nn.Module):
        def __init__(self, operations):
            super().__init__()
            self.operations = operations
            self.training_operations = operations  # no method

        def forward(self, x):
            for operation in self.operations:
                x = operation(x)
            return x

    for operations in (nn.ModuleList([nn.Linear(4, 4), nn.ReLU()]), [nn.Linear(4, 4)]):
        table = count(Cell(operations), torch.zeros(2, 4))
        assert table["op"].iloc[0] == "addmm"
        assert table["forward"].sum() == 32


def test_inputs_may_have_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, *, x, scale=1.0):
            return self.inner(x) * scale

    x = torch.zeros(2, 4)
    assert count(Named(), x=x, scale=2.0)["forward"].sum() == 24
    assert [layer.macs for layer in layers(Named(), x=x, weight_bits=4)] == [24]
    assert (
        breakdown(Named(), x=x, weight_bits=4)["pj"].sum() == breakdown(layers(Named(), x=x, weight_bits=4))["pj"].sum()
    )
    with pytest.raises(WorkbenchError, match="no option weigth_bits"):
        breakdown(Named(), x=x, weigth_bits=4)

    class Counted(Adding):
        def forward(self, x):
            return super().forward(x)

    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Counted()

        def forward(self, x):
            return self.inner(x=x)

    assert count(Keyed(), torch.zeros(3, 4))["adds"].sum() == 120


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
