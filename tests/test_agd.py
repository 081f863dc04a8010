"""AGD: generators against closed forms, search against finite differences, and proof that only the teacher teaches."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from workbench import WorkbenchError, data, supernet
from workbench.cost import count
from workbench.papers.agd import analytic, method, record, students, tasks, teachers
from workbench.papers.agd.method import OPERATORS, WIDTHS, Plan, Skeleton
from workbench.papers.agd.tasks import TASKS, Features, Task
from workbench.recorded import state_hash
from workbench.training import generator

SHAPES = [Skeleton(3, 1, 4), Skeleton(2, 1, 2), Skeleton(3, 2, 2), Skeleton(4, 1, 2, cell=2)]


def draw(*stream):
    return generator("agd test", *stream)


def random_design(skeleton, *stream):
    costs = method.space(skeleton)
    found = [int(torch.randint(s, (), generator=draw(*stream, i))) for i, s in enumerate(costs.sizes)]
    return method.design_of(skeleton, torch.tensor(found))


def macs_by_counting(skeleton, design, side=8):
    """MACs a pixel of the body as torch itself runs them."""
    net, x = method.build(skeleton, design, 0), torch.zeros(1, 3, side, side)
    return float(count(net, x)["forward"].sum()) / (side // skeleton.down) ** 2


def absolute(a, b):
    return (a - b).abs().mean()


# --- generators ------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.sampled_from(SHAPES), st.integers(0, 10_000))
def test_macs_are_those_that_torch_runs_for_every_design(skeleton, seed):
    design = random_design(skeleton, "design", seed)
    counted = macs_by_counting(skeleton, design)
    assert method.macs(skeleton, design) == counted
    choices = [OPERATORS.index(o) for o, _ in design]
    choices += [of.index(w) for of, (_, w) in zip(skeleton.widths, design, strict=True)]
    assert method.design_of(skeleton, torch.tensor(choices)) == design
    assert float(method.space(skeleton).cost(torch.tensor(choices))) == counted


@pytest.mark.parametrize("skeleton", SHAPES)
def test_output_has_the_magnification_and_no_image_shortcut(skeleton):
    net = method.build(skeleton, random_design(skeleton, "shape"), 0)
    x = torch.rand(2, 3, 8, 8, generator=draw("x"))
    assert net(x).shape == (2, 3, 8 * skeleton.up // skeleton.down, 8 * skeleton.up // skeleton.down)
    for p in net.last.parameters():  # all that is seen passes through the last convolution
        nn.init.zeros_(p)
    assert torch.equal(net(x), torch.full_like(net(x), 0.5))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("inputs", "width"), [(4, 12), (8, 8), (12, 6)])
def test_a_path_through_the_supernet_is_the_small_network_with_the_leading_slices(name, inputs, width):
    wide = method.operator(name, 12, 12, sliced=True)
    small = method.operator(name, inputs, width)
    for key, p in small.named_parameters():
        big = dict(wide.named_parameters())[key]
        slices = tuple(slice(n) for n in p.shape)
        p.data.copy_(big[slices])
    x = torch.randn(2, inputs, 5, 5, generator=draw("path"))
    torch.testing.assert_close(wide(x, width), small(x))


def test_residual_adds_its_input_and_the_depthwise_block_mixes_channels_only_by_1x1():
    block = method.operator("residual", 8, 8)
    assert block.shortcut is None
    nn.init.zeros_(block.second.weight), nn.init.zeros_(block.second.bias)
    x = torch.randn(1, 8, 4, 4, generator=draw("residual"))
    assert torch.equal(block(x), x)
    depth = method.operator("depthwise", 8, 12)
    assert depth.depth.weight.shape == (16, 1, 3, 3)
    assert depth.shortcut.kernel_size == (1, 1)


def slices_of(net, small):
    """Give a small network the leading slices of a supernet's weights."""
    big = dict(net.named_parameters())
    for key, p in small.named_parameters():
        place, *rest = key.removeprefix("body.").split(".")
        name = f"body.{place}.{OPERATORS.index(small.names[int(place)])}.{'.'.join(rest)}" if "body." in key else key
        p.data.copy_(big[name][tuple(slice(n) for n in p.shape)])


@settings(max_examples=12)
@given(st.sampled_from(SHAPES), st.integers(0, 10_000))
def test_a_design_is_its_path_through_the_supernet(skeleton, seed):
    design = random_design(skeleton, "path", seed)
    net, small = method.supernet(skeleton, seed), method.build(skeleton, design, 0)
    small.names = [name for name, _ in design]
    slices_of(net, small)
    x = images_of(2, 8, "x", seed)
    torch.testing.assert_close(method.fixed_path(net, design)(x), small(x))


def test_a_cell_adds_a_fifth_of_what_it_makes_to_what_comes():
    """By hand, layer after layer; and where the last layers make nothing, the body is the identity."""
    skeleton = Skeleton(4, 1, 2, cell=2)
    assert [len(of) for of in skeleton.widths] == [5, 1, 5, 1]
    for seed in range(5):
        design = random_design(skeleton, "cell", seed)
        assert design[1][1] == design[3][1] == skeleton.stem
        body, x = method.build(skeleton, design, 0).body, torch.randn(1, 8, 6, 6, generator=draw("cell x", seed))
        first = x + 0.2 * body[1](body[0](x))
        torch.testing.assert_close(body(x), first + 0.2 * body[3](body[2](first)))
    body = method.build(skeleton, (("residual", 4), ("3x3", 8)) * 2, 0).body
    for layer in (body[1], body[3]):
        nn.init.zeros_(layer.conv.weight), nn.init.zeros_(layer.conv.bias)
    assert torch.equal(body(x), x)


def test_super_resolution_has_the_papers_paths_and_translation_none():
    for task in map(Task.read, TASKS):
        assert task.skeleton.cell == (3 if task.scale > 1 else 0)
        assert teachers.skeleton(task).widths[2] == ((24,) if task.scale > 1 else WIDTHS)
        assert students.uniform(task) == (("residual", 8),) * task.skeleton.layers


def test_identities_are_the_blocks_without_a_projection():
    skeleton = Skeleton(5, 1, 4)
    for seed in range(20):
        design = random_design(skeleton, "identities", seed)
        body = method.build(skeleton, design, 0).body
        assert method.identities(skeleton, design) == sum(getattr(layer, "shortcut", layer) is None for layer in body)
    assert method.identities(skeleton, (("residual", 8),) * 5) == 5


def test_a_network_starts_alike_in_every_process_and_leaves_torch_alone():
    before = torch.random.get_rng_state()
    design = random_design(SHAPES[0], "start")
    first, again, other = (method.build(SHAPES[0], design, s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert state_hash(first.state_dict()) == state_hash(again.state_dict()) != state_hash(other.state_dict())


# --- the space and the cost ------------------------------------------------------------------------------------------

SMALL = Skeleton(2, 1, 2)


def logits_of(skeleton, seed=0, scale=1.0):
    sizes = method.space(skeleton).sizes
    return [(scale * torch.randn(n, generator=draw("logits", seed, i))).double().requires_grad_() for i, n in
            enumerate(sizes)]  # fmt: skip


def test_expected_cost_is_that_of_all_designs_by_their_probability():
    logits, costs = logits_of(SMALL), method.space(SMALL)
    soft = [each.detach().softmax(0) for each in logits]
    total = sum(
        math.prod(float(p[c]) for p, c in zip(soft, choice, strict=True)) * macs_of(choice)
        for choice in itertools.product(*(range(n) for n in costs.sizes))
    )
    assert float(costs.expected(soft)) == pytest.approx(total, rel=1e-9)


def macs_of(choice):
    n = len(choice) // 2
    return method.macs(SMALL, tuple((OPERATORS[o], WIDTHS[w]) for o, w in zip(choice[:n], choice[n:], strict=True)))


def test_decoupled_cost_holds_widths_at_the_largest_and_operators_uniform():
    logits = logits_of(SMALL)
    by_operator, by_width = method.decoupled_cost(logits, method.space(SMALL))
    wide = sum(
        math.prod(float(p.detach().softmax(0)[o]) for p, o in zip(logits[:2], chosen, strict=True))
        * macs_of((*chosen, 4, 4))
        for chosen in itertools.product(range(4), repeat=2)
    )
    even = sum(
        math.prod(float(p.detach().softmax(0)[w]) for p, w in zip(logits[2:], chosen, strict=True))
        * np.mean([macs_of((a, b, *chosen)) for a in range(4) for b in range(4)])
        for chosen in itertools.product(range(5), repeat=2)
    )
    assert float(by_operator.detach()) == pytest.approx(wide, rel=1e-9)
    assert float(by_width.detach()) == pytest.approx(even, rel=1e-9)


def test_gradients_of_the_decoupled_cost_agree_with_finite_differences_and_reach_every_logit():
    logits, costs = logits_of(SMALL), method.space(SMALL)
    for part, own in zip(range(2), (slice(2), slice(2, 4)), strict=True):
        grads = torch.autograd.grad(method.decoupled_cost(logits, costs)[part], logits, allow_unused=True)
        assert all(g is not None and g.abs().max() > 0 for g in grads[own])
        assert all(g is None or not g.any() for g in grads[: own.start or 0] + grads[own.stop :])
        for place, grad in list(enumerate(grads))[own]:
            for k in range(len(grad)):
                ends = []
                for sign in (1, -1):
                    moved = [each.detach().clone() for each in logits]
                    moved[place][k] += sign * 1e-4
                    ends.append(float(method.decoupled_cost(moved, costs)[part]))
                assert float(grad[k]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-5)


# --- search ----------------------------------------------------------------------------------------------------------


def images_of(n, side, *stream):
    return torch.rand(n, 3, side, side, generator=draw(*stream))


def searched(skeleton=SMALL, targets=None, plan=None, budget=None, seed=0, inputs=None):
    inputs = images_of(24, 8, "inputs") if inputs is None else inputs
    side = 8 * skeleton.up // skeleton.down
    targets = images_of(24, side, "targets") if targets is None else targets
    net = method.supernet(skeleton, seed, "super")
    budget = budget or 1.02 * method.macs(skeleton, (("residual", 8),) * skeleton.layers)
    plan = plan or Plan(1, 6, 4, 2e-3, 0.1)
    return method.search(net, inputs, targets, method.halves(24, seed), absolute, budget, plan, seed), budget


def test_halves_are_disjoint_and_cover_the_training_set():
    first, second = method.halves(101, 3, "halves")
    assert not set(first.tolist()) & set(second.tolist())
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(101))
    assert abs(len(first) - len(second)) <= 1


def test_weights_see_only_their_half_and_choices_only_theirs():
    seen = []

    def spy(made, target):
        seen.append(target[:, 0, 0, 0].round(decimals=3).tolist())
        return absolute(made, target)

    targets = torch.arange(24.0).view(-1, 1, 1, 1).expand(-1, 3, 16, 16) / 24
    net, split = method.supernet(SMALL, 0), method.halves(24, 0)
    method.search(net, images_of(24, 8, "i"), targets, split, spy, 5000.0, Plan(2, 3, 4, 1e-3, 0.1), 0)
    half = [{round(i / 24, 3) for i in part.tolist()} for part in split]
    calls = [0] * 8 + ([1] + [0] * 3) * 3  # pretraining: 4 widths twice; then a choice's pass and three of weights
    assert len(seen) == len(calls)
    for owner, images in zip(calls, seen, strict=True):
        assert {round(v, 3) for v in images} <= half[owner]


def test_after_one_step_every_choice_has_moved_and_the_teachers_outputs_have_not():
    targets = images_of(24, 16, "targets")
    before = targets.clone()
    trace, _ = searched(targets=targets, plan=Plan(0, 1, 4, 2e-3, 0.1))
    assert all((logits - 1e-3).abs().max() > 1e-4 for logits in trace.logits)
    assert torch.equal(targets, before)


def test_distillation_alone_moves_operators_and_drawn_widths():
    """No cost term: the gradient of a width comes through the scores, of an operator through its share."""
    net = method.supernet(SMALL, 0)
    logits = [torch.zeros(n, requires_grad=True) for n in method.space(SMALL).sizes]
    soft = [supernet.choose_soft(each) for each in logits[:2]]
    hard = [supernet.choose_hard(each, 1.0, draw("hard", i)) for i, each in enumerate(logits[2:])]
    out = net(images_of(2, 8, "x"), soft, hard)
    grads = torch.autograd.grad(absolute(out, images_of(2, 16, "t")), logits)
    assert all(g.abs().max() > 0 for g in grads)


def test_probabilities_change_step_by_step_and_with_the_seed():
    (trace, _), (other, _) = searched(seed=0), searched(seed=1)
    for values in (trace.operators, trace.widths):
        assert (values[1:] != values[:-1]).any((1, 2)).all()
        torch.testing.assert_close(values.sum(2), torch.ones(values.shape[:2]))
    assert not torch.equal(trace.operators, other.operators)
    assert trace.entropy[-1] < trace.entropy[0] <= math.log(4) + 1e-6


def test_a_search_of_cells_leaves_the_width_at_their_ends_alone():
    trace, budget = searched(Skeleton(4, 1, 2, cell=2))
    ends = F.one_hot(torch.tensor(WIDTHS.index(8)), len(WIDTHS)).float()
    assert (trace.widths[:, [1, 3]] == ends).all()
    assert (trace.widths[:, [0, 2]] > 0).all()
    costs = method.space(Skeleton(4, 1, 2, cell=2))
    design = supernet.most_probable(trace.logits, costs, 0.95 * budget, budget)
    assert method.design_of(Skeleton(4, 1, 2, cell=2), design)[1][1] == 8


def cost_only(rule, weight=5.0, steps=60, budget=None):
    """A search in which targets say nothing: the cost term alone decides."""
    skeleton = SMALL
    net, costs = method.supernet(skeleton, 0), method.space(skeleton)
    budget = budget or 1.02 * method.macs(skeleton, (("residual", 8),) * 2)
    x, nothing = torch.zeros(4, 3, 1, 1), lambda made, target: 0.0 * made.sum()
    plan = Plan(0, steps, 1, 1e-3, 0.3, rule, weight, every=5)
    trace = method.search(net, x, torch.zeros(4, 3, 2, 2), method.halves(4, 0), nothing, budget, plan, 0)
    return trace, budget, costs


def test_a_fixed_weight_collapses_to_the_cheapest_design_and_the_log_ratio_does_not():
    trace, budget, costs = cost_only("fixed")
    cheapest = min(float(c) for c in costs.cost(costs.designs()))
    assert float(trace.argmax[-1]) == cheapest
    trace, budget, _ = cost_only("log-ratio")
    assert float(trace.expected[-1]) == pytest.approx(budget, rel=0.05)
    trace, budget, _ = cost_only("log-ratio", budget=1.4 * cheapest)
    assert float(trace.expected[-1]) == pytest.approx(1.4 * cheapest, rel=0.05)


def test_the_derived_design_keeps_the_band_and_is_not_the_cheapest():
    trace, budget = searched()
    costs = method.space(SMALL)
    design = supernet.most_probable(trace.logits, costs, 0.95 * budget, budget)
    assert 0.95 * budget <= float(costs.cost(design)) <= budget
    assert float(costs.cost(design)) > float(costs.cost(costs.designs()).min())


def test_search_cost_counts_every_pass():
    plan, ran = Plan(2, 3, 4, 1e-3, 0.1), []
    net = method.supernet(SMALL, 0)

    def hook(module, args, out):
        ran.append(args[0].shape[0])

    net.register_forward_hook(hook)
    method.search(net, images_of(24, 8, "i"), images_of(24, 16, "t"), method.halves(24, 0), absolute, 5e3, plan, 0)
    assert len(ran) == 4 * (plan.pretrain + plan.steps)
    assert set(ran) == {plan.batch}
    every = [supernet.Chosen(torch.ones(4), (0, 1, 2, 3))] * 2
    spent = [float(count(_At(net, every, [supernet.fixed(a, 5), supernet.fixed(b, 5)]), torch.zeros(1, 3, 8, 8))
                   ["forward"].sum()) / 64 for a in range(5) for b in range(5)]  # fmt: skip
    wanted = plan.batch * 5 * (spent[0] + spent[-1] + 2 * np.mean(spent))
    # The space counts no shortcut where widths are equal, and neither does the network.
    assert method.search_macs(SMALL, plan) == pytest.approx(wanted, rel=1e-6)


class _At(nn.Module):
    def __init__(self, net, operators, widths):
        super().__init__()
        self.net, self.choices = net, (operators, widths)

    def forward(self, x):
        return self.net(x, *self.choices)


# --- only the teacher teaches ----------------------------------------------------------------------------------------


def test_gradient_reaches_the_student_from_the_teachers_outputs_and_never_the_teacher():
    task = Task.read("digits paint")
    teacher, features = record.teacher(task), record.features()
    before = state_hash(teacher.state_dict())
    x = images_of(6, 16, "x")
    targets = method.outputs(teacher, x)
    assert not targets.requires_grad
    found = []
    for shift in (0.0, 0.1):  # another output of the teacher, another gradient of the student
        net = method.build(task.skeleton, students.uniform(task), 0)
        students.distance(task, features)(net(x), targets + shift).backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert found[0].abs().max() > 0
    assert (found[0] - found[1]).abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for m in (teacher, features) for p in m.parameters())
    assert state_hash(teacher.state_dict()) == before


def test_style_and_content_are_zero_for_equal_pictures_and_against_closed_forms():
    features = record.features()
    distance = students.Perceptual(features, pixel=1.0, content=2.0, style=3.0)
    a, b = images_of(2, 16, "a"), images_of(2, 16, "b")
    assert float(distance(a, a)) == 0
    fa, fb = features(a), features(b)
    grams = [[torch.einsum("nchw,ndhw->ncd", f, f) / f[0, 0].numel() for f in each] for each in (fa, fb)]
    wanted = (a - b).abs().mean() + 2 * (fa[1] - fb[1]).abs().mean()
    wanted = wanted + 3 * sum(((p - q) ** 2).mean() for p, q in zip(*grams, strict=True))
    torch.testing.assert_close(distance(a, b), wanted)


# --- the pruned teacher, eight bits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["photographs 4", "digits paint"])
def test_pruning_keeps_the_function_where_the_removed_channels_were_zero(text):
    task = Task.read(text)
    teacher = teachers.untrained(task)
    narrow = students.UNIFORM

    def silence(conv, kept):
        conv.weight.data[kept:] = 0
        conv.bias.data[kept:] = 0

    for conv in (teacher.stem[-1], *(b.second for b in teacher.body), *(b.first for b in teacher.body)):
        silence(conv, narrow)
    silence(teacher.grow, task.skeleton.tail)
    for conv in teacher.stem[:-1]:
        silence(conv, task.skeleton.tail)
    small, x = students.prune(teacher, task), images_of(2, 8, "x")
    torch.testing.assert_close(small(x), teacher(x), atol=1e-5, rtol=1e-4)
    own = method.macs(task.skeleton, students.uniform(task))
    assert float(count(small, torch.zeros(1, 3, 8, 8))["forward"].sum()) == own * (8 // task.skeleton.down) ** 2


def test_pruning_takes_the_largest_filters():
    task = Task.read("photographs 4")
    teacher = record.teacher(task)
    small = students.prune(teacher, task)
    norms = teacher.grow.weight.abs().sum((1, 2, 3))
    kept = {round(w, 5) for w in small.grow.bias.tolist()}
    assert kept == {round(w, 5) for w in teacher.grow.bias[norms.topk(task.skeleton.tail).indices].tolist()}


def test_eight_bits_are_on_a_grid_and_near_the_network():
    task = Task.read("photographs 4")
    net, x = record.teacher(task), images_of(8, 8, "x")
    twin = students.eight_bits(net, x)
    assert 0 < (twin(x) - net(x)).abs().max() < 0.1
    layers = [m for m in twin.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == len([m for m in net.modules() if isinstance(m, nn.Conv2d)])
    assert all(type(m).__name__ == "QuantConv2d" and m.bits == 8 for m in layers)


# --- images and measures ---------------------------------------------------------------------------------------------


def test_photographs_are_cut_into_rectangles_that_are_apart(monkeypatch):
    tasks.assert_disjoint()
    for name, parts in tasks.RECTANGLES.items():
        columns = [c for spans in parts.values() for left, right in spans for c in range(left, right)]
        assert len(columns) == len(set(columns)), name
        assert max(columns) < 640
    touching = {"china": {"train": ((0, 340),), "test": ((344, 400),)}}
    monkeypatch.setattr(tasks, "RECTANGLES", touching)
    with pytest.raises(WorkbenchError, match="china: training, validation and test"):
        tasks.assert_disjoint()


def test_bicubic_on_the_test_bands_is_no_blur_and_has_the_known_quality():
    found = []
    for name, (left, right) in {"china": (448, 640), "flower": (224, 304)}.items():
        assert tasks.RECTANGLES[name]["test"] == ((left, right),)
        band = data.photographs()[name][None, :, :426, left:right]
        found.append(float(tasks.psnr(tasks.enlarge(tasks.reduce(band, 2), 2), band, 4)))
    assert found == pytest.approx([25.24, 30.01], abs=0.02)


def test_training_crops_lie_in_the_training_rectangles_and_fit_their_inputs(monkeypatch):
    task = Task.read("photographs 4")
    at = torch.arange(640.0).expand(3, 427, 640) / 640  # a pixel's value is its column
    monkeypatch.setattr(tasks.data, "photographs", lambda: {"china": at, "flower": at})
    found = tasks.images(task, 60, 0)
    assert found.inputs.shape == (60, 3, 8, 8)
    assert found.truths.shape == (60, 3, 8 * task.scale, 8 * task.scale)
    allowed = {c for parts in tasks.RECTANGLES.values() for a, b in parts["train"] for c in range(a, b)}
    assert set((found.truths[:, 0, 0] * 640).round().int().flatten().tolist()) <= allowed
    torch.testing.assert_close(found.inputs.mean((1, 2, 3)), found.truths.mean((1, 2, 3)), atol=0.02, rtol=0)
    for pairs in (found.validation, found.test):
        for small, large in zip(pairs.inputs, pairs.truths, strict=True):
            assert [s * task.scale for s in small.shape[2:]] == [*large.shape[2:]]


@pytest.mark.parametrize("text", ["photographs 4", "photographs 2"])
def test_crops_are_turned_with_their_inputs(text):
    """Reduced again, a truth is its input, but for the border where the photograph went on."""
    task = Task.read(text)
    found = tasks.images(task, 60, 0)
    again = tasks.reduce(found.truths, task.scale)
    torch.testing.assert_close(again[..., 2:-2, 2:-2], found.inputs[..., 2:-2, 2:-2], atol=1e-5, rtol=0)


def test_a_square_has_eight_views():
    square = torch.arange(4.0).view(1, 2, 2)
    views = {tuple(tasks._turned(square, k, flip).flatten().tolist()) for k in range(4) for flip in (False, True)}
    assert len(views) == 8


def test_digits_are_used_once_and_no_pair_is_in_reach(monkeypatch):
    names = data.digits()
    x = torch.arange(1797.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8) / 1797
    monkeypatch.setattr(tasks.data, "digits", lambda: data.Images("digits", x, names.y))
    monkeypatch.setattr(tasks, "painted", lambda pictures: pictures + 10)
    found = tasks.images(Task.read("digits paint"), 10_000)
    number = lambda p, shift=0.0: set(((p[:, 0, 0, 0] - shift) * 1797).round().int().tolist())  # noqa: E731
    parts = [number(found.inputs), number(found.style, 10), number(found.reference, 10)]
    parts += [number(found.test.inputs[0]), number(found.validation.inputs[0])]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert number(found.truths, 10) == number(found.inputs)


def psnr_slowly(a, b, crop):
    a, b = (np.round(np.clip(x.double().numpy(), 0, 1) * 255) for x in (a, b))
    y = [16 + (65.481 * x[0] + 128.553 * x[1] + 24.966 * x[2]) / 255 for x in (a, b)]
    y = [v[crop:-crop, crop:-crop] for v in y]
    return 10 * math.log10(255**2 / np.mean((y[0] - y[1]) ** 2))


def ssim_slowly(a, b, crop):
    """Every window in a loop, from the definition."""
    x, y = tasks.y_channel(a[None], crop)[0].numpy(), tasks.y_channel(b[None], crop)[0].numpy()
    w = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    w /= w.sum()
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            found.append((2 * mp * mq + c1) * (2 * c + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return np.mean(found)


def test_psnr_and_ssim_are_those_of_the_definition():
    a = images_of(2, 20, "a")
    b = (a + 0.1 * torch.randn(a.shape, generator=draw("b"))).clamp(0, 1)
    for k in range(2):
        assert float(tasks.psnr(a, b, 2)[k]) == pytest.approx(psnr_slowly(a[k], b[k], 2), abs=1e-4)
        assert float(tasks.ssim(a, b, 2)[k]) == pytest.approx(ssim_slowly(a[k], b[k], 2), abs=1e-6)
    assert torch.equal(tasks.ssim(a, a, 2), torch.ones(2))
    assert torch.equal(tasks.psnr(a, a, 2), torch.full((2,), 100.0))
    grey = torch.full((1, 3, 16, 16), 100 / 255)
    assert float(tasks.psnr(grey, torch.full_like(grey, 110 / 255), 2)) == pytest.approx(
        20 * math.log10(255 / (10 * 219 / 255)), abs=1e-3
    )


def test_frechet_distance_of_gaussians_is_the_closed_form():
    x = torch.randn(4000, 3, generator=draw("x"), dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # mean 0, covariance 1
    scale, shift = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, -2.0])
    wanted = 5 + 0 + 1 + 4  # of means; sum over axes of (deviation - 1)^2
    assert tasks.frechet(x, scale * x + shift) == pytest.approx(wanted, rel=1e-6)
    assert tasks.frechet(x, x) == pytest.approx(0, abs=1e-8)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=draw("q"), dtype=torch.float64)).Q
    spread = scale * x
    assert tasks.frechet(spread @ turned, x @ turned) == pytest.approx(5, rel=1e-6)
    assert tasks.frechet(x, spread) == pytest.approx(tasks.frechet(spread, x), rel=1e-9)


def test_painted_pictures_are_a_duotone_with_white_outlines():
    flat = torch.full((1, 3, 6, 6), 0.5)
    colour = tasks.painted(flat)[0, :, 3, 3]
    torch.testing.assert_close(colour, torch.tensor([0.525, 0.325, 0.225]))
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1.0
    assert (tasks.painted(step)[0, :, 4, 3:5] == 1).all()
    torch.testing.assert_close(tasks.painted(step)[0, :, 4, 0], torch.tensor([0.05, 0.05, 0.35]))


# --- teachers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TASKS)
def test_recorded_teachers_beat_what_needs_no_network(text):
    task = Task.read(text)
    if task.dataset == "cifar10" and not data.status("cifar10").startswith(("found", "cached")):
        pytest.skip("CIFAR-10 is not here")
    found, features = tasks.images(task, 100, 0), record.features()
    plain = (lambda x: tasks.enlarge(x, task.scale)) if task.scale > 1 else lambda x: x
    teacher, nothing = (
        students.score(task, students.apply(net, found.test), found.test, found, features)
        for net in (record.teacher(task), plain)
    )
    assert teacher > nothing + (0.04 if task.scale > 1 else math.log(5))


def test_a_cyclegan_learns_from_unpaired_pictures_only():
    """Shuffling the style changes nothing but the order of draws; the truths are never read."""
    task = Task.read("digits paint")
    found = tasks.images(task, 64)
    blind = tasks.Images(found.inputs, torch.full_like(found.truths, torch.nan), found.validation, found.test,
                         found.style, None)  # fmt: skip
    nets = []
    for pictures in (found, blind):
        ways = [method.build(task.skeleton, students.uniform(task), way) for way in ("there", "back")]
        nets.append(teachers.cyclegan(*ways, pictures, 2, "test"))
    assert state_hash(nets[0].state_dict()) == state_hash(nets[1].state_dict())


def test_features_are_three_layers_and_their_means():
    net = Features()
    x = images_of(2, 16, "f")
    assert [f.shape[1:] for f in net(x)] == [(8, 8, 8), (16, 4, 4), (32, 2, 2)]
    assert net.pooled(x).shape == (2, 56)
    assert net.logits(x).shape == (2, 10)


# --- the paper's own networks ----------------------------------------------------------------------------------------


def torch_convs(layers):
    """The same layers, built and run by torch on the meta device."""
    found = []
    with torch.device("meta"):
        for layer in layers:
            side = math.isqrt(layer.pixels)
            if layer.up:
                conv = nn.ConvTranspose2d(layer.inputs, layer.outputs, 3, 2, 1, 1)
                x = torch.zeros(1, layer.inputs, side // 2, side // 2)
            else:
                conv = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, 1, layer.kernel // 2, groups=layer.groups)
                x = torch.zeros(1, layer.inputs, side, side)
            found.append((conv, x))
    return found


@pytest.mark.parametrize("network", ["esrgan", "cyclegan"])
def test_counts_are_those_of_the_built_network(network):
    layers = list(analytic.esrgan(64) if network == "esrgan" else analytic.cyclegan(64))
    built, flops = torch_convs(layers), 0
    for conv, x in built:
        with FlopCounterMode(display=False) as counter:
            out = conv(x)
        flops += counter.get_total_flops()
        assert out.shape[2] * out.shape[3] in {layer.pixels for layer in layers}
    totals = analytic.totals(iter(layers))
    assert totals["parameters"] == sum(p.numel() for conv, _ in built for p in conv.parameters())
    assert totals["macs"] * 2e9 == pytest.approx(flops, rel=1e-9)


def test_golden_cells():
    cells = analytic.conventions().set_index("network")
    assert cells.loc["ESRGAN", "parameters"] == 16_697_987
    assert cells.loc["ESRGAN", "macs"] == pytest.approx(1174.854, abs=1e-3)
    assert cells.loc["ESRGAN", "mac_bias_act"] == pytest.approx(1176.614, abs=1e-3)
    assert cells.loc["CycleGAN", "parameters"] == 11_378_179
    assert cells.loc["CycleGAN", "macs"] == pytest.approx(49.55, abs=5e-3)
    skeleton = cells.loc["skeleton of AGD's super resolution"]
    assert (skeleton["parameters"], round(skeleton["macs"], 2)) == (151_235, 91.31)
    assert cells.loc["student, widths as printed", "window_macs"] == pytest.approx(22.30, abs=5e-3)
    assert cells.loc["student, widths read as ratios of 256", "window_macs"] == pytest.approx(6.77, abs=5e-3)
    assert cells.loc["student, widths read as ratios of 256", "mebibytes"] == pytest.approx(3.08, abs=5e-3)
    # Printed as 52.90: a G is 2^30 here.
    assert cells.loc["CycleGAN", "window_macs"] * 1e9 == pytest.approx(56_799_264_768, rel=1e-12)
    assert analytic.recomputed()["agd.cyclegan.cost"] == pytest.approx(52.90, abs=5e-3)


def test_window_macs_are_four_times_the_useful_ones_where_a_convolution_is_transposed():
    conv = analytic.Conv(8, 4, 3, 64, up=True)
    useful = sum(
        1 for y, x in itertools.product(range(8), repeat=2) for i, j in itertools.product(range(3), repeat=2)
        if (y + 1 - i) % 2 == 0 and (x + 1 - j) % 2 == 0
    )  # fmt: skip
    assert conv.window_macs == 9 * 8 * 4 * 64
    assert useful * 8 * 4 == pytest.approx(conv.macs, rel=0.05)  # but for the edges
    assert F.conv_transpose2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), stride=2, padding=1,
                              output_padding=1).shape[2:] == (8, 8)  # fmt: skip
