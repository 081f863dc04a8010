"""Detectors: what they measure, when they must fire, and above all when they must not."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workbench import WorkbenchError
from workbench.early_bird import (
    EarlyBird,
    channel_mask,
    detector_distance,
    emergence,
    normalise_by_first,
    pairwise_distance,
    slim,
)
from workbench.nets import ConvNet
from workbench.training import generator

FIFO = 3


def rows(*bits):
    return torch.tensor([[bit == "1" for bit in row] for row in bits])


def random_masks(p, T=40, n=2000, seed=0):
    """A fresh mask of its own each epoch: nothing ever settles."""
    masks = torch.ones(T, n, dtype=torch.bool)
    for t in range(T):
        masks[t, torch.randperm(n, generator=generator(seed, t))[: int(p * n)]] = False
    return masks


@pytest.mark.parametrize("shape", [(7, 23), (2, 5, 11), (1, 4)])
def test_pairwise_distance_equals_counting(shape):
    masks = torch.rand(shape, generator=generator("masks")) < 0.4
    found = pairwise_distance(masks)
    assert found.shape == (*shape[:-1], shape[-2])
    for lead in itertools.product(*map(range, shape[:-2])):
        some = masks[lead]
        for a in range(shape[-2]):
            for b in range(shape[-2]):
                differ = sum(x != y for x, y in zip(some[a].tolist(), some[b].tolist(), strict=True))
                assert found[lead][a, b].item() == pytest.approx(differ / shape[-1], abs=1e-6)


@pytest.mark.parametrize("rule", ["code", "paper"])
@pytest.mark.parametrize("p", [0.2, 0.8])
def test_fresh_random_masks_never_are_a_ticket(rule, p):
    pairwise = pairwise_distance(random_masks(p))
    off_diagonal = pairwise[~torch.eye(len(pairwise), dtype=torch.bool)]
    assert off_diagonal.mean().item() == pytest.approx(2 * p * (1 - p), abs=0.01)
    watched = detector_distance(pairwise, FIFO, rule)
    assert watched[FIFO:].min() > 0.25
    assert emergence(watched, 0.1).isnan()
    assert emergence(normalise_by_first(watched, FIFO), 0.1).isnan()
    eager = EarlyBird(FIFO + 1)
    assert not any(eager.add(mask) for mask in random_masks(p))


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_constant_masks_are_a_ticket_as_soon_as_the_fifo_is_full(rule):
    masks = random_masks(0.4, T=1).expand(12, -1)
    watched = detector_distance(pairwise_distance(masks), FIFO, rule)
    assert watched[:FIFO].isnan().all()
    assert not watched[FIFO:].any()
    assert emergence(watched, 0.1).item() == FIFO + 1
    assert emergence(normalise_by_first(watched, FIFO), 0.1).item() == FIFO + 1
    assert emergence(watched, 0.1, after=5).item() == 6


def test_both_rules_on_six_masks_checked_by_hand():
    masks = rows("11110000", "11101000", "11001100", "10001110", "10001110", "10001110")
    # Distances in eighths: each of the first steps swaps one kept entry for another, so 2 entries differ.
    assert (8 * pairwise_distance(masks)).round().tolist() == [
        [0, 2, 4, 6, 6, 6],
        [2, 0, 2, 4, 4, 4],
        [4, 2, 0, 2, 2, 2],
        [6, 4, 2, 0, 0, 0],
        [6, 4, 2, 0, 0, 0],
        [6, 4, 2, 0, 0, 0],
    ]
    pairwise = pairwise_distance(masks)
    code, paper = (8 * detector_distance(pairwise, FIFO, rule) for rule in ("code", "paper"))
    assert code[3:].tolist() == [6, 4, 2]  # farthest of the last three masks from the newest
    assert paper[3:].tolist() == [2, 2, 2]  # largest of the last three steps
    assert code[:3].isnan().all()
    assert paper[:3].isnan().all()
    assert normalise_by_first(code, FIFO)[3:].tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert normalise_by_first(paper, FIFO)[3:].tolist() == pytest.approx([1, 1, 1])
    assert emergence(code / 8, 0.3).item() == 6
    assert emergence(paper / 8, 0.3).item() == 4


def test_normalising_a_first_distance_of_zero():
    watched = torch.tensor([torch.nan, torch.nan, torch.nan, 0.0, 0.0, 0.2])
    assert normalise_by_first(watched, FIFO)[3:].tolist() == [0, 0, torch.inf]


def test_emergence_is_the_first_epoch_below_and_nan_where_there_is_none():
    nan = torch.nan
    watched = torch.tensor([[nan, 0.5, 0.05, 0.5, 0.01], [nan, 0.1, 0.1, 0.1, 0.1]])
    found = emergence(watched, 0.1)
    assert found[0] == 3
    assert found[1].isnan()  # equal to eta is not below it
    assert emergence(watched, 0.1, after=3)[0] == 5


# --- channels ----------------------------------------------------------------------------------------------------


def settled(distance, n=100):
    """Masks of n entries, ``distance`` entries apart from the first one."""
    mask = torch.ones(n, dtype=torch.bool)
    mask[:distance] = False
    return mask


def test_early_bird_never_fires_before_its_fifo_is_full():
    for fifo in (2, 3, 5, 8):
        bird = EarlyBird(fifo)
        assert [bird.add(settled(0)) for _ in range(fifo + 2)] == [False] * (fifo - 1) + [True] * 3


def test_early_bird_compares_the_newest_with_each_older_one():
    bird = EarlyBird(3, epsilon=0.1)
    # 0, 8, 16: steps of 8 % each are small, but the newest is 16 % away from the oldest.
    assert [bird.add(settled(d)) for d in (0, 8, 16)] == [False] * 3
    assert bird.add(settled(17)) is True  # 8 and 16 are 9 and 1 away
    assert EarlyBird().masks.maxlen == 5
    assert EarlyBird().epsilon == 0.1


def test_a_mask_exactly_epsilon_away_is_still_within_epsilon():
    bird = EarlyBird(2, epsilon=0.1)
    bird.add(settled(0))
    assert bird.add(settled(10)) is True  # 10 of 100
    assert bird.add(settled(21)) is False


def scales_of(net, *values):
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, value in zip(norms, values, strict=True):
        norm.weight.data = torch.tensor(value)
    return net


def test_channel_mask_drops_the_smallest_scales_of_all_layers_together():
    net = scales_of(ConvNet((2, 3)), [0.9, -0.1], [0.2, -0.8, 0.3])
    assert channel_mask(net, 0.4).tolist() == [True, False, False, True, True]
    assert channel_mask(net, 0.6).tolist() == [True, False, False, True, False]


def test_channel_mask_keeps_one_channel_in_every_layer():
    net = scales_of(ConvNet((2, 3)), [0.01, 0.02], [2.0, 3.0, 4.0])
    assert channel_mask(net, 0.6).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.29, 0.3, 0.5, 0.7, 0.95])
def test_channel_mask_has_the_exact_count_with_and_without_ties(ratio, tied):
    net = ConvNet()
    if not tied:
        for norm in (m for m in net if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight)
    keep = channel_mask(net, ratio)
    assert int(keep.sum()) == 128 - int(ratio * 128)
    assert all(part.any() for part in keep.split([32, 32, 64]))


def test_a_net_that_does_not_train_has_one_mask_and_so_fires_when_the_fifo_is_full():
    """A trap left to the caller, written down here: without a step the mask cannot move.

    The official code keeps nothing of tied scales; ours keeps one definite mask. Either way every distance is
    zero, so a detector fed an untrained net (or a learning rate of 0) reports a ticket after ``fifo`` epochs.
    It must at least be no sooner, and the mask must depend on order alone.
    """
    torch.manual_seed(0)
    net, bird = ConvNet(), EarlyBird()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    fired, masks = [], []
    for _ in range(6):
        optimiser.zero_grad()
        net(torch.rand(4, 1, 8, 8)).square().sum().backward()
        optimiser.step()
        masks.append(channel_mask(net, 0.5))
        fired.append(bird.add(masks[-1]))
    assert fired == [False] * 4 + [True] * 2
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    # Ties fall to the later channel: the first 64 go, except each layer's first largest one.
    assert masks[0].nonzero().flatten().tolist() == [0, 32, 64, *range(67, 128)]


# --- what is refused ---------------------------------------------------------------------------------------------


@given(
    st.integers(1, 6), st.integers(1, 12), st.integers(0, 99), st.sampled_from([torch.bool, torch.float32, torch.int64])
)
def test_distances_do_not_depend_on_the_masks_dtype_and_leave_them_alone(T, n, seed, dtype):
    masks = torch.rand(T, n, generator=generator("masks", seed)) < 0.5
    given = masks.to(dtype)
    found = pairwise_distance(given)
    assert torch.equal(given, masks.to(dtype))
    assert torch.equal(found, pairwise_distance(given))
    assert torch.equal(found, (masks[:, None] != masks).sum(-1) / n)


def test_a_mask_changed_later_does_not_change_what_the_detector_has_seen():
    bird, mask = EarlyBird(2), settled(0)
    bird.add(mask)
    mask[:50] = False
    assert bird.add(mask) is False


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_a_channel_mask_leaves_every_layer_one_channel_or_is_refused(widths, ratio, relative, seed):
    net = nn.Sequential(*(nn.BatchNorm2d(width) for width in widths))
    draws = generator("scales", seed)
    for norm in net:
        nn.init.normal_(norm.weight, generator=draws)
    n, count = sum(widths), int(ratio * sum(widths))
    if count > n - len(widths):
        with pytest.raises(WorkbenchError, match=f"at most {n - len(widths)} can go"):
            channel_mask(net, ratio, relative)
        return
    keep = channel_mask(net, ratio, relative)
    assert int(keep.sum()) == n - count
    assert all(part.any() for part in keep.split(widths))


def test_the_official_mask_drops_one_channel_more():
    """Its threshold is the sorted entry at int(p n), and what is kept must be above it."""
    net, draws = ConvNet(), generator("official")
    for norm in (m for m in net if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, generator=draws)
    scales = torch.cat([m.weight.detach() for m in net if isinstance(m, nn.BatchNorm2d)])
    official = scales > scales.sort().values[int(0.3 * len(scales))]
    ours = channel_mask(net, 0.3)
    assert int(ours.sum()) == 128 - 38
    assert int(official.sum()) == 128 - 39
    assert (ours | official).equal(ours)


def test_scales_of_zero_are_the_smallest_of_all_also_relative_to_their_layer():
    assert channel_mask(scales_of(ConvNet((2, 2)), [0.0, 0.0], [1.0, 2.0]), 0.25, True).tolist() == [
        True,
        False,
        True,
        True,
    ]


PAIRS = torch.zeros(4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EarlyBird(0), "fifo must be a whole number of at least 2"),
        (lambda: EarlyBird(1), "fifo must be a whole number of at least 2"),
        (lambda: EarlyBird(5, torch.nan), "epsilon must be a number"),
        (lambda: EarlyBird(5).add(torch.tensor([0.3, 1.0])), "0 and 1 only"),
        (lambda: [bird.add(settled(0, n)) for bird in [EarlyBird(3)] for n in (5, 6)], "after one of"),
        (lambda: detector_distance(PAIRS, 2, "cod"), "rule 'cod' is unknown: choose from code, paper"),
        (lambda: detector_distance(PAIRS, 0), "fifo must be a whole number"),
        (lambda: detector_distance(PAIRS[:2], 1), "every pair of epochs"),
        (lambda: pairwise_distance(torch.tensor([[0.5, torch.nan]])), "0 and 1 only"),
        (lambda: pairwise_distance(torch.ones(3, 0)), "0 and 1 only"),
        (lambda: normalise_by_first(PAIRS[0], 4), "fifo must be a whole number"),
        (lambda: emergence(PAIRS[0], torch.nan), "eta must be a number"),
        (lambda: emergence(PAIRS[0], 0.1, -1), "after must be a whole number"),
        (lambda: channel_mask(nn.Linear(2, 2), 0.5), "no BatchNorm2d with scales"),
        (lambda: channel_mask(ConvNet(), -0.1), "ratio must be a number"),
        (lambda: channel_mask(scales_of(ConvNet((2, 2)), [1.0, torch.nan], [1.0, 1.0]), 0.5), "not finite"),
        (lambda: slim(ConvNet(), 1e-4), "call slim after backward"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(WorkbenchError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
