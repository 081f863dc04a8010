"""The exact partition: counts known in closed form, torch's own forward, and a plain-loop version as oracles."""

import copy
import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import rational_partition
from oracles.loop_partition import area, loop_partition
from scipy.linalg import null_space
from torch import nn
from torch.nn import functional as F

from workbench import WorkbenchError, data
from workbench.nets import ConvNet
from workbench.papers.spline.partition import Absolute, Plane, Residual, partition
from workbench.training import generator


def box(radius, centre=(0.0, 0.0)):
    return radius * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]) + centre


UNIT = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
STRIPS = Plane(torch.zeros(1), torch.ones(1), torch.zeros(1))  # a net of one input: strips across the box


def mlp(*widths, act=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1]).double()


def linear(weight, bias=None):
    weight = torch.as_tensor(np.asarray(weight), dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.weight.data = weight
    layer.bias.data = torch.zeros(len(weight)).double() if bias is None else torch.tensor(bias, dtype=torch.float64)
    return layer


def lines_net(lines, act=nn.ReLU):
    """Lines a x + b y + c = 0, ``[n, 3]``, as one layer."""
    lines = np.asarray(lines, float)
    return nn.Sequential(linear(lines[:, :2], lines[:, 2]), act(), linear(np.ones((2, len(lines)))))


def random_lines(n, seed):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle), rng.normal(size=n)], 1)


def crossings(lines):
    """Where pairs of lines meet, ``[n (n - 1) / 2, 2]``."""
    i, j = np.triu_indices(len(lines), 1)
    left = np.stack([lines[i, :2], lines[j, :2]], 1)
    return np.linalg.solve(left, -np.stack([lines[i, 2:], lines[j, 2:]], 1))[..., 0]


def number_of_lines(n):
    return 1 + n + comb(n, 2)


# --- what must hold of every partition ---------------------------------------------------------------------------


def entering(net, points):
    """(module, its input) of every nonlinear module, in order, from torch's own forward."""
    kinds, seen = (nn.ReLU, nn.LeakyReLU, Absolute, nn.MaxPool2d), []
    hooks = [
        m.register_forward_pre_hook(lambda m, args: seen.append((m, args[0])))
        for m in net.modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        logits = net(points)
    for hook in hooks:
        hook.remove()
    return seen, logits


def check(net, polygon, plane=None):
    """Partition, and hold it against torch's forward, the polygon's area and Euler's formula."""
    net = copy.deepcopy(net).double().eval()
    found = partition(net, polygon, plane)
    points = plane.points if plane else torch.as_tensor
    R, counts = len(found.maps), np.diff(found.starts)
    assert found.areas.min() > 0
    assert found.areas.sum() == pytest.approx(abs(area(np.asarray(polygon))), rel=1e-12)

    # A random point of every region, as a mean of its vertices.
    weights = np.random.default_rng(0).exponential(size=len(found.vertices))
    weights /= np.repeat(np.add.reduceat(weights, found.starts[:-1]), counts)
    inside = np.add.reduceat(weights[:, None] * found.vertices, found.starts[:-1])
    logits = entering(net, points(inside))[1].numpy()
    ours = (found.maps[..., :2] @ inside[..., None])[..., 0] + found.maps[..., 2]
    assert np.abs(ours - logits).max() < 1e-9 * max(1, np.abs(logits).max())

    layers, _ = entering(net, points(found.centroids))
    assert len(layers) == len(found.patterns)
    for (module, x), pattern in zip(layers, found.patterns, strict=True):
        if isinstance(module, nn.MaxPool2d):
            windows = F.unfold(
                F.pad(x, (module.padding,) * 4, value=-1e9), module.kernel_size, module.dilation, 0, module.stride
            )
            windows = windows.unflatten(1, (x.shape[1], -1)).transpose(2, 3).flatten(1, 2)
            best, chosen = windows.max(2).values, windows.gather(2, torch.as_tensor(pattern).long()[..., None])[..., 0]
            assert (best - chosen).max() < 1e-12
        else:
            x = x.flatten(1).numpy()
            clear = np.abs(x) > 1e-12 * max(1, np.abs(x).max())
            assert (np.sign(x) == pattern)[clear].all()
            assert not clear[pattern == 0].any()
    assert len(np.unique(np.hstack(found.patterns), axis=0)) == R
    return found


def euler(found, scale=1.0):
    """V - E + F, and how often an edge belongs to one polygon only."""
    _, vertex = np.unique(np.round(found.vertices / scale, 9) + 0.0, axis=0, return_inverse=True)
    vertex, edges = vertex.ravel(), []
    for a, b in itertools.pairwise(found.starts):
        ids = vertex[a:b]
        edges += [tuple(sorted(pair)) for pair in zip(ids, np.roll(ids, -1), strict=True)]
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert uses.max() <= 2
    return vertex.max() + 1 - len(uses) + len(found.maps)


# --- one layer: arrangements of lines ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 30, 100, 200])
def test_lines_in_general_position(n):
    lines = random_lines(n, seed=n)
    radius = 1.1 * np.abs(crossings(lines)).max(initial=10)
    found = partition(lines_net(lines), box(radius))
    assert len(found.maps) == number_of_lines(n)
    assert found.areas.sum() == pytest.approx(4 * radius**2, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_box_of_a_million_keeps_the_small_regions_at_its_centre(seed):
    lines = random_lines(160, seed)
    far = (np.abs(crossings(lines)) > 1e6).any(1).sum()
    assert len(partition(lines_net(lines), box(1e6)).maps) == number_of_lines(160) - far
    doubled = lines_net(np.concatenate([lines, -3 * lines, lines / 7]))
    assert len(partition(doubled, box(1e6)).maps) == number_of_lines(160) - far


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.3, -0.7)])
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_concurrent_lines(n, centre):
    lines = random_lines(n, seed=n)
    lines[:, 2] = -lines[:, :2] @ centre
    found = check(lines_net(lines), box(1.0))
    assert len(found.maps) == 2 * n
    assert euler(found) == 1


@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-6])
def test_concurrent_lines_at_a_shallow_angle(angle):
    """Rounding moves where two nearly parallel lines meet by 1 / angle ulps; the third still goes through there."""
    for seed in range(20):
        first, *centre = np.random.default_rng(seed).uniform(0.1, 0.9, 3)
        directions = np.array([first, first + angle, first + 1])
        lines = np.stack([np.cos(directions), np.sin(directions), np.zeros(3)], 1)
        lines[:, 2] = -lines[:, :2] @ centre
        for order in itertools.permutations(lines):
            assert len(partition(lines_net(order), box(2.0)).maps) == 6


@pytest.mark.parametrize("width", [1e-3, 1e-9, 1e-12])
def test_strips_are_kept_down_to_some_hundred_ulps(width):
    found = check(lines_net([(1, 0, -0.5), (1, 0, -0.5 - width), (0, 1, 0.3)]), box(1.0))
    assert len(found.maps) == 6
    assert np.sort(found.areas)[:2].sum() == pytest.approx(2 * width, rel=1e-3)


@pytest.mark.parametrize("n", [10, 50, 150])
def test_lines_in_a_small_box(n):
    lines, polygon = random_lines(n, seed=n), box(0.7, (0.2, -0.1))
    values = lines[:, :2] @ polygon.T + lines[:, 2:]
    meet = (values.min(1) < 0) & (values.max(1) > 0)
    where = crossings(lines)
    inside = (np.abs(where - [0.2, -0.1]) < 0.7).all(1).sum()
    found = check(lines_net(lines), polygon)
    assert len(found.maps) == 1 + meet.sum() + inside
    assert euler(found) == 1


def zaslavsky(lines):
    """Regions of different integer lines in the whole plane, in exact arithmetic, and the largest coordinate."""
    through = {}
    for (i, (a, b, c)), (j, (d, e, f)) in itertools.combinations(enumerate(lines), 2):
        if det := a * e - b * d:
            point = Fraction(b * f - c * e, det), Fraction(c * d - a * f, det)
            through.setdefault(point, set()).update((i, j))
    far = max((abs(x) for point in through for x in point), default=1)
    return 1 + len(lines) + sum(len(some) - 1 for some in through.values()), float(far)


def different(lines):
    """Each line once, whatever its scale."""
    seen = {}
    for line in lines:
        if line[0] or line[1]:
            first = next(x for x in line if x)
            seen.setdefault(tuple(Fraction(int(x), int(first)) for x in line), tuple(map(int, line)))
    return list(seen.values())


@pytest.mark.parametrize("directions", [[(1, 0), (0, 1), (1, 1)], [(1, 0), (0, 1), (1, 1), (1, -1), (2, 1)]])
@pytest.mark.parametrize("n", [1, 4, 9])
def test_parallel_families(directions, n):
    lines = [(a, b, c - n // 2) for a, b in directions for c in range(n)]
    count, far = zaslavsky(lines)
    found = check(lines_net(lines), box(3 * far + 20))
    assert len(found.maps) == count
    assert euler(found) == 1


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=1, max_size=14), st.booleans())
def test_integer_lines_meet_many_at_a_point(lines, absolute):
    """With the lines of all zeros, the constants and the repeats left in the network: they must not count."""
    count, far = zaslavsky(different(lines))
    found = check(lines_net(lines, Absolute if absolute else nn.ReLU), box(3 * far + 20))
    assert len(found.maps) == count
    assert euler(found, max(far, 1)) == 1


def test_lines_through_vertices_and_along_edges_of_the_polygon():
    along = [(1, 0, 1), (0, 1, 1), (-2, 0, 2)]
    assert len(check(lines_net(along), box(1.0)).maps) == 1
    diagonals = [(1, 1, 0), (1, -1, 0)]
    assert len(check(lines_net(along + diagonals), box(1.0)).maps) == 4
    touching = [(1, 1, 2), (1, -1, 2)]  # at one corner each
    assert len(check(lines_net(along + touching), box(1.0)).maps) == 1


def test_a_repeated_unit_adds_nothing_and_a_removed_one_never_adds():
    net = mlp(2, 12, 2, seed=3)
    whole = check(net, box(2.0))
    weight, bias = net[0].weight.data, net[0].bias.data
    for scale in (1.0, 7.3, -1.0, -0.013):
        lines = torch.cat([weight, bias[:, None]], 1)
        double = check(lines_net(torch.cat([lines, scale * lines])), box(2.0))
        assert len(double.maps) == len(whole.maps)
        np.testing.assert_allclose(np.sort(double.areas), np.sort(whole.areas), rtol=1e-9)
    for unit in range(12):
        keep = [i for i in range(12) if i != unit]
        assert len(partition(lines_net(lines[keep]), box(2.0)).maps) <= len(whole.maps)


def test_a_positive_rescaling_changes_nothing():
    net = mlp(2, 10, 10, 2, seed=1)
    scaled, factor = copy.deepcopy(net), torch.rand(10, generator=generator("rescale")).double() * 5 + 0.1
    scaled[0].weight.data *= factor[:, None]
    scaled[0].bias.data *= factor
    scaled[2].weight.data /= factor
    before, after = check(net, box(3.0)), check(scaled, box(3.0))
    np.testing.assert_allclose(np.sort(before.areas), np.sort(after.areas), rtol=1e-9)
    for a, b in zip(before.patterns, after.patterns, strict=True):
        assert {row.tobytes() for row in a} == {row.tobytes() for row in b}


# --- several layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_the_tent_map_doubles_with_every_layer(depth):
    fold = nn.Sequential(linear([[2.0]], [-1.0]), Absolute(), linear([[-1.0]], [1.0]))
    found = partition(nn.Sequential(*[fold] * depth, linear([[1.0], [0.0]])), UNIT, STRIPS)
    np.testing.assert_allclose(found.areas, 2.0**-depth, rtol=1e-9)
    assert len(found.maps) == 2**depth


@pytest.mark.parametrize("n", [1, 6, 50])
def test_breakpoints_of_one_input_make_strips(n):
    bias = -np.sort(np.random.default_rng(n).uniform(0, 1, n))
    found = check(nn.Sequential(linear(np.ones((n, 1)), bias), nn.ReLU(), linear(np.ones((1, n)))), UNIT, STRIPS)
    np.testing.assert_allclose(np.sort(found.areas), np.sort(np.diff([0, *-bias, 1])), atol=1e-12)


@pytest.mark.parametrize("widths", [(5, 5), (8, 3, 6), (4, 4, 4, 4)])
def test_the_upper_bound_of_montufar(widths):
    bound = np.prod([number_of_lines(n) for n in widths])
    for seed in range(4):
        found = check(mlp(2, *widths, 2, seed=seed), box(10.0))
        assert len(found.maps) <= bound
        assert euler(found, 10.0) == 1


@pytest.mark.parametrize(("p", "folds", "n"), [(2, 1, 4), (3, 2, 3), (2, 3, 5)])
def test_the_lower_bound_of_montufar_is_reached(p, folds, n):
    """Each layer folds both axes p times, so the last one's lines show up in every one of p^(2 folds) squares."""
    into = np.array([p] + [2 * p] * (p - 1))
    back = -2.0 * np.arange(p)
    signs = (-1.0) ** np.arange(p)
    both = np.eye(2)
    fold = [linear(np.kron(both, into[:, None]), [*back] * 2), nn.ReLU(), linear(np.kron(both, signs))]
    lines = random_lines(n, seed=5)
    reach = np.abs(crossings(lines)).max() * 1.2
    lines[:, 2] -= reach * lines[:, :2].sum(1)  # x = reach (2 u - 1) brings all crossings into the unit square
    lines[:, :2] *= 2 * reach
    net = nn.Sequential(*fold * folds, *lines_net(lines))
    assert len(check(net, UNIT).maps) == p ** (2 * folds) * number_of_lines(n)


# --- beside the loop version -------------------------------------------------------------------------------------


def same_as_the_loops(net, polygon, plane=None):
    found = check(net, polygon, plane)
    loops = loop_partition(copy.deepcopy(net), polygon, plane.points if plane else torch.as_tensor)
    areas = np.sort([abs(area(region)) for region in loops])
    assert len(found.maps) == len(loops)
    np.testing.assert_allclose(np.sort(found.areas), areas, rtol=1e-6, atol=1e-9 * areas.sum())
    return found


ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.2), "absolute": Absolute}


@st.composite
def networks(draw):
    """A random network of two inputs, some with integer weights, dead, repeated or unused units."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    widths = [2, *draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))]
    integer, layers = draw(st.booleans()), []
    act = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]

    def dense(a, b):
        layer = nn.Linear(a, b).double()
        for p in layer.parameters():
            p.data = torch.randint(-2, 3, p.shape).double() if integer else p.data
        match draw(st.sampled_from(["as it is", "dead", "repeated", "zero"])):
            case "dead":
                layer.bias.data[0] = -1000.0
            case "repeated":
                layer.weight.data[-1] = -3 * layer.weight.data[0]
                layer.bias.data[-1] = -3 * layer.bias.data[0]
            case "zero":
                layer.weight.data[0] = 0
                layer.bias.data[0] = draw(st.sampled_from([0.0, 1.0, -1.0]))
        return layer

    for a, b in itertools.pairwise(widths):
        layers.append(dense(a, b))
        if draw(st.booleans()) and not integer:
            norm = nn.BatchNorm1d(b).double()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.2, 2)
            layers.append(norm)
        layers.append(act())
        if draw(st.booleans()):
            body = [dense(b, b), act()]
            layers.append(Residual(nn.Sequential(*body, *[dense(b, b)] * draw(st.integers(0, 1)))))
    return nn.Sequential(*layers, dense(widths[-1], draw(st.integers(1, 3))))


@settings(max_examples=60)
@given(networks())
def test_random_networks_as_by_loops(net):
    found = same_as_the_loops(net, box(2.0, (0.1, 0.2)))
    assert euler(found) == 1


def test_offsets_that_cancel_up_to_rounding_cut_nothing():
    """Lines that should meet in one point miss it by an ulp of what was summed: a leaky slope of 0.2 is not exact.

    With tolerances from the cancelled sums themselves, this network had four more regions, of area 1e-31.
    """
    net = nn.Sequential(
        linear([[0, 0], [1, 1], [0, 2]], [0.0, 0, 2]),
        nn.LeakyReLU(0.2),
        linear([[0, 0, 0], [-2, 2, -2], [-1, 1, 2], [-1, -2, -1], [1, 1, 1], [-2, 1, -1]], [1.0, 1, -2, 2, -2, -2]),
        nn.LeakyReLU(0.2),
        linear([[-6, 6, 3, 6, 6, 3]], [6.0]),
        nn.LeakyReLU(0.2),
        linear([[-1]]),
    )
    found = same_as_the_loops(net, box(2.0, (0.1, 0.2)))
    assert len(found.maps) == 22
    assert euler(found) == 1


@pytest.mark.parametrize("residual", [False, True])
def test_units_that_cancel_to_nothing_cut_nothing(residual):
    active = np.random.default_rng(0).normal(size=(6, 3))
    active[:, 2] += 9  # so ReLU never closes: six affine functions of x and y
    combination = np.random.default_rng(1).normal(size=(40, 3)) @ null_space(active.T).T
    small = nn.Sequential(linear(np.zeros((6, 6)), [1e-12] * 6), nn.ReLU(), linear(np.zeros((6, 6))))
    between = [Residual(small)] if residual else []
    layers = linear(active[:, :2], active[:, 2]), nn.ReLU(), *between, linear(combination), nn.ReLU()
    found = check(nn.Sequential(*layers, linear([[1.0] * 40])), box(1.0))
    assert len(found.maps) == 1
    assert not found.patterns[-1].any()


def test_the_size_of_blocks_does_not_matter(monkeypatch):
    net = mlp(2, 12, 12, 3, seed=4)
    net.insert(2, Residual(nn.Sequential(nn.Linear(12, 12), nn.ReLU()).double()))
    whole = check(net, box(3.0))
    monkeypatch.setattr("workbench.papers.spline.partition.BLOCK", 24 * 12 * 5)  # five regions each
    parts = check(net, box(3.0))
    assert {row.tobytes() for row in np.hstack(parts.patterns)} == {row.tobytes() for row in np.hstack(whole.patterns)}
    with pytest.raises(WorkbenchError, match="too many regions"):
        partition(net, box(3.0), limit=len(whole.maps) - 1)


@pytest.mark.parametrize("sides", [3, 5, 40, 300])
def test_other_polygons_either_way_round(sides):
    angle = 2 * np.pi * np.arange(sides) / sides
    polygon = 3 * np.stack([np.cos(angle), np.sin(angle)], 1)
    net = mlp(2, 9, 7, 3, seed=2)
    there, back = (same_as_the_loops(net, way) for way in (polygon, polygon[::-1].copy()))
    np.testing.assert_allclose(np.sort(there.areas), np.sort(back.areas), rtol=1e-9)


@pytest.fixture(scope="module")
def images():
    return data.digits().x.double()


def test_a_plane_through_three_images(images):
    plane = Plane.through(*images[:3])
    corners = torch.tensor([[0, 0], [1, 0], [0, 1], [0.25, 0.5]])
    expected = [*images[:3], 0.25 * images[0] + 0.25 * images[1] + 0.5 * images[2]]
    assert torch.allclose(plane.points(corners), torch.stack(expected), atol=1e-12)


@pytest.mark.parametrize("pool", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 1}])
def test_convolutions_with_max_pooling_on_a_plane_of_digits(images, pool):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(**pool), nn.Flatten(), nn.LazyLinear(10)
    )
    net(images[:1].float())
    found = same_as_the_loops(net, box(1.0), Plane.through(*images[:3]))
    assert euler(found) == 1


def test_max_pooling_of_affine_functions_is_their_upper_envelope():
    """Nine functions meet a window; three win somewhere, one of them (a peak's foot) at no corner of the box."""
    functions = np.zeros((9, 3))
    functions[:, 2] = -5.0
    functions[2], functions[4], functions[7] = (3, 0, -0.5), (-3, 0, -0.5), (0, 0, 0.25)
    plane = Plane(*torch.tensor(functions.T.copy()).reshape(3, 1, 3, 3)[[2, 0, 1]])
    net = nn.Sequential(nn.MaxPool2d(3), nn.Flatten())
    found = check(net, box(1.0), plane)
    assert sorted(found.patterns[0][:, 0]) == [2, 4, 7]
    np.testing.assert_allclose(np.sort(found.areas), [1.0, 1.5, 1.5])


def test_the_lowest_place_wins_where_a_window_ties_all_over():
    functions = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]]).double().reshape(3, 1, 2, 2)
    found = check(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), box(1.0), Plane(*functions))
    # Entries x, x, y, x: the quarter where all are negative is one region, which place 0 wins at the value 0.
    assert sorted(found.patterns[1][:, 0]) == [0, 0, 0, 2, 2]


def test_pooling_with_padding_stride_and_dilation(images):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, groups=1),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.MaxPool2d(3, 2, padding=1, dilation=1),
        nn.AvgPool2d(2, 1),
        Residual(nn.Sequential(nn.Dropout(), nn.Conv2d(4, 4, 1), Absolute())),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Identity(),
        nn.Sequential(nn.Linear(4, 3)),
    )
    assert len(check(net, box(0.3), Plane.through(*images[3:6])).maps) > 100


@pytest.mark.parametrize("trained", [False, True])
def test_the_convolutional_net_of_the_workbench(images, trained):
    torch.manual_seed(0)
    net = ConvNet((2, 3))
    if trained:
        optimiser, y = torch.optim.Adam(net.parameters(), 0.05), data.digits().y
        for _ in range(20):
            optimiser.zero_grad()
            F.cross_entropy(net(images[:200].float()), y[:200]).backward()
            optimiser.step()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = check(net, UNIT, Plane.through(*images[[0, 10, 20]]))
    assert len(found.maps) > 100
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training


def test_slices_through_images_on_a_line_and_through_one_image(images):
    torch.manual_seed(0)
    net, (a, b) = ConvNet((2, 2)), images[:2]
    # On a line only s + 2 t matters: as many regions as that line has pieces.
    found = check(net, UNIT, Plane.through(a, b, 2 * b - a))
    line = partition(net, [(0, 0), (3, 0), (3, 1), (0, 1)], Plane(a, b - a, torch.zeros_like(a)))
    assert len(found.maps) == len(line.maps) > 10
    assert len(check(net, UNIT, Plane.through(a, a, a)).maps) == 1


# --- the decision boundary ---------------------------------------------------------------------------------------


def lengths(boundary):
    return np.linalg.norm(boundary.segments[:, 1] - boundary.segments[:, 0], axis=1)


def check_boundary(net, polygon, plane=None):
    """Both classes lead and tie along every segment, a step to either side flips, and none is missing or double."""
    net, points = copy.deepcopy(net).double().eval(), plane.points if plane else torch.as_tensor
    found = partition(net, polygon, plane)
    boundary = found.boundary()
    segments, classes = boundary.segments, boundary.classes
    assert (classes[:, 0] < classes[:, 1]).all()
    logits = lambda xy: entering(net, points(xy))[1].numpy()  # noqa: E731
    scale = np.abs(logits(found.vertices)).max()
    for end in (segments[:, 0], segments[:, 1], segments.mean(1)):
        values = logits(end)
        leading = np.take_along_axis(values, classes, 1)
        assert np.abs(values.max(1, keepdims=True) - leading).max(initial=0) < 1e-9 * scale

    along = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / length
    long = (length > 1e-5)[:, 0]
    step = 1e-7 * normal[long]
    either = np.stack([logits(segments[long].mean(1) + way).argmax(1) for way in (step, -step)], 1)
    np.testing.assert_array_equal(np.sort(either, 1), classes[long])

    # Along random chords: wherever torch's argmax changes between samples, the chord crosses a segment there.
    rng, low, high = np.random.default_rng(0), polygon.min(0), polygon.max(0)
    for start, stop in rng.uniform(low, high, (30, 2, 2)):
        position = np.linspace(0, 1, 400)
        winner = logits(start + position[:, None] * (stop - start)).argmax(1)
        a, b = segments[:, 0] - start, segments[:, 1] - start
        d = stop - start
        ca, cb = d[0] * a[:, 1] - d[1] * a[:, 0], d[0] * b[:, 1] - d[1] * b[:, 0]
        hit = ca * cb < 0
        w = (ca / np.where(hit, ca - cb, 1))[hit, None]
        met = ((a[hit] + w * (b - a)[hit]) @ d) / (d @ d)
        met = met[(met > 0) & (met < 1)]
        changes = np.flatnonzero(np.diff(winner))
        cells = np.searchsorted(position, met) - 1
        assert np.isin(changes, cells).all()
        if found.maps.shape[1] == 2:  # an odd number of crossings between samples is a change
            odd = np.flatnonzero(np.bincount(cells, minlength=399) % 2)
            np.testing.assert_array_equal(odd, changes)
    return boundary


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_boundaries_of_random_networks(classes, act):
    found = 0
    for seed in range(4):
        net = mlp(2, 12, 10, classes, act=ACTIVATIONS[act], seed=seed)
        net[-1].bias.data -= net(torch.zeros(1, 2).double()).detach()[0]  # all classes tie at the origin
        found += len(check_boundary(net, box(4.0)).segments)
    assert found > 20


def test_a_boundary_on_a_plane_of_digits(images):
    torch.manual_seed(0)
    net, plane = ConvNet((2, 3)).double().eval(), Plane.through(*images[:3])
    net[-1].bias.data -= net(plane.points([[0.3, 0.3]])).detach()[0]  # all classes tie between the images
    assert len(check_boundary(net, box(1.5), plane).segments) > 20


def test_the_cross_of_two_absolute_values():
    net = nn.Sequential(Absolute(), linear([[1.0, 0], [0, 1]]))
    boundary = check_boundary(net, box(2.0))
    assert lengths(boundary).sum() == pytest.approx(4 * 2 * np.sqrt(2), rel=1e-12)
    assert len(boundary.segments) == 4


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[1, 0], [0, 1]], [(0, 1)]),  # relu(x) - relu(-x) is zero on the edge x = 0 itself
        ([[1, 0], [0, 1], [0, 0]], [(0, 1)]),  # a third class ties there, and wins nowhere
        ([[0, 0], [1, 0]], [(0, 1)]),  # both classes tie all over x < 0: the lower wins
        ([[1, 0], [0, 0]], []),  # the same, with nothing to flip
        ([[1, 1], [0, 0]], []),  # |x| against 0: they meet, class 0 wins on both sides
        ([[0, 0], [1, 1]], []),  # class 1 does
        ([[0, 0], [0, 0], [0, 0]], []),
    ],
)
def test_boundaries_that_lie_on_region_edges(weights, expected):
    net = nn.Sequential(linear([[1.0, 0], [-1, 0]]), nn.ReLU(), linear(np.array(weights, float)))
    boundary = partition(net, box(2.0)).boundary()
    assert [tuple(pair) for pair in boundary.classes] == expected
    np.testing.assert_allclose(lengths(boundary), [4.0] * len(expected))
    np.testing.assert_allclose(boundary.segments[..., 0], 0.0, atol=1e-15)


def test_three_classes_meet_at_a_point():
    angle = np.array([0.2, 0.2 + 2 * np.pi / 3, 0.2 + 4 * np.pi / 3])
    net = nn.Sequential(linear(np.stack([np.cos(angle), np.sin(angle)], 1)))
    boundary = check_boundary(net, box(1.0))
    assert sorted(map(tuple, boundary.classes)) == [(0, 1), (0, 2), (1, 2)]
    assert (np.abs(boundary.segments).max(2).min(1) < 1e-12).all()  # each has one end at the origin


# --- errors ------------------------------------------------------------------------------------------------------


def broken(value):
    net = mlp(2, 4, 2)
    net[2].weight.data[0, 1] = value
    return net


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (broken(float("nan")), r"layer 2 \(Linear\): weights hold NaN or infinity"),
        (broken(float("inf")), r"layer 2 \(Linear\): weights hold NaN or infinity"),
        (mlp(3, 4, 2), r"layer 0 \(Linear\): does not take an input of shape \(2,\)"),
        (nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Tanh())), r"layer 1.0 \(Tanh\): not supported: use "),
        (nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(-0.1)), r"layer 1 \(LeakyReLU\): its slope is -0.1"),
        (nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(1.5)), r"layer 1 \(LeakyReLU\): its slope is 1.5"),
        (nn.Sequential(Residual(nn.Linear(2, 3))), r"layer 0 \(Residual\): the body turns \(2,\) into \(3,\)"),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), r"layer 0 \(BatchNorm1d\): not supported"),
        (nn.MaxPool2d(2, ceil_mode=True), r"layer at the top \(MaxPool2d\): not supported"),
    ],
)
def test_networks_it_cannot_read(net, text):
    with pytest.raises(WorkbenchError, match=text) as caught:
        partition(net, box(1.0))
    assert "\n" not in str(caught.value)


def test_a_sequential_with_a_forward_of_its_own_is_not_read_as_one():
    class Twice(nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    with pytest.raises(WorkbenchError, match=r"layer 0 \(Twice\): not supported"):
        partition(nn.Sequential(Twice(nn.Linear(2, 2))), box(1.0))


def test_outputs_that_are_not_logits_and_windows_that_are_too_large(images):
    plane = Plane.through(*images[:3])
    with pytest.raises(WorkbenchError, match=r"output has shape \(1, 4, 4\), not \[classes\]"):
        partition(nn.Sequential(nn.AvgPool2d(2)), UNIT, plane)
    big = Plane(*torch.zeros(3, 1, 12, 12))
    with pytest.raises(WorkbenchError, match="windows of 144 entries: at most 127"):
        partition(nn.Sequential(nn.MaxPool2d(12), nn.Flatten()), UNIT, big)


def test_values_that_are_not_numbers():
    with pytest.raises(WorkbenchError, match="the plane's inputs hold NaN or infinity"):
        partition(mlp(2, 4, 2), box(1.0), Plane(*torch.tensor([[0.0, 0], [float("nan"), 0], [0, 1]])))
    with pytest.raises(WorkbenchError, match="values overflow"):
        partition(nn.Sequential(*[linear([[1e200, 0], [0, 1e200]])] * 2), box(1.0))


@pytest.mark.parametrize(
    ("polygon", "text"),
    [
        ([(0, 0), (1, 0)], "three or more vertices"),
        ([], "three or more vertices"),
        ([(0, 0, 0)] * 3, "three or more vertices"),
        ([(0, 0), (1, 0), (float("nan"), 1)], "NaN or infinity"),
        ([(0, 0), (1, 1), (2, 2)], "no area"),
        ([(0, 0), (0, 0), (0, 0)], "twice in a row"),
        ([(0, 0), (1, 0), (1, 0), (0, 1)], "twice in a row"),
        ([(0, 0), (2, 0), (2, 2), (1, 0.5)], "not convex"),
        ([(0, 0), (1, 1), (1, 0), (0, 1)], "not convex"),
        ([(np.cos(4 * np.pi * k / 5), np.sin(4 * np.pi * k / 5)) for k in range(5)], "not convex"),  # a star
    ],
)
def test_polygons_it_refuses(polygon, text):
    with pytest.raises(WorkbenchError, match=text):
        partition(mlp(2, 4, 2), polygon)


def test_the_limit_is_on_all_regions_together():
    net = mlp(2, 16, 16, 2, seed=0)
    R = len(partition(net, box(3.0)).maps)
    assert len(partition(net, box(3.0), limit=R).maps) == R
    for limit in (R - 1, 20, 1):
        with pytest.raises(WorkbenchError, match="too many regions"):
            partition(net, box(3.0), limit=limit)


@given(st.integers(0, 2**31), st.integers(0, 18), st.sampled_from([0, 2]))
@settings(max_examples=25)
def test_units_of_any_size_are_cut_exactly_or_refused(seed, power, layer):
    net = mlp(2, 4, 3, 2, seed=seed)
    with torch.no_grad():
        net[layer].weight[1] *= 10.0**power
        net[layer].bias[1] *= 10.0**power
    layers = [(one.weight.tolist(), one.bias.tolist()) for one in net if isinstance(one, nn.Linear)]
    exact = rational_partition.regions(layers, [(-1, -1), (1, -1), (1, 1), (-1, 1)])
    try:
        found = partition(net, box(1))
    except WorkbenchError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "larger than others" in refused or "times most others'" in refused
        assert power >= 3
        return
    wanted, got = np.zeros((2, max(len(exact), len(found.areas))))  # an area that rounds away counts as 0
    wanted[: len(exact)] = sorted((float(rational_partition.area(polygon)) for polygon, _ in exact), reverse=True)
    got[: len(found.areas)] = sorted(found.areas, reverse=True)
    np.testing.assert_allclose(got, wanted, atol=1e-9)
    won = [sum(area(polygon) for polygon in found.won_by(label)) for label in range(2)]
    np.testing.assert_allclose(won, [float(each) for each in rational_partition.winners(exact)], atol=1e-8)
