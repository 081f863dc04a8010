"""GEBT's graph training, tickets and cost count, against a dense oracle and counts written out."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.dense_gebt import DenseGraphTraining, mask

from workbench.evidence import published
from workbench.nets import GCN, Features, Pattern
from workbench.papers.gebt import cost, method
from workbench.papers.gebt.experiment import Bench, Config, contrast
from workbench.papers.gebt.timing import Ticket, median_ms, shrink
from workbench.training import dropout_masks, generator

N, F, C = 12, 5, 3
SEEDS = [0, 4]


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_edges(nodes, share, *stream):
    pairs = torch.combinations(torch.arange(nodes))
    return pairs[torch.rand(len(pairs), generator=generator("edges", *stream)) < share].t().contiguous()


def small_graph(nodes=N, share=0.4, train=6, seeds=SEEDS, edges=None):
    """A random graph, its task (labels and nodes of their own for each seed) and frozen parameters."""
    g = generator("graph", nodes)
    edges = random_edges(nodes, share, nodes) if edges is None else edges
    x = torch.rand(nodes, F, generator=g)
    net = GCN(Features(x), Pattern(edges, nodes), C)
    labels = torch.stack([torch.randint(C, (nodes,), generator=generator(s, "y")) for s in seeds])
    order = torch.stack([torch.randperm(nodes, generator=generator(s, "split")) for s in seeds])
    val = (nodes - train) // 2
    task = method.Task(labels, *order.split([train, val, nodes - train - val], 1), seeds=list(seeds))
    parameters = net.init([generator(s, "init") for s in seeds])
    parameters["1.bias"] += 0.1
    return net, task, parameters, x, edges


def oracle(k, net, task, parameters, x, edges, lr):
    layers = [(parameters[f"{n}.weight"][k], parameters[f"{n}.bias"][k]) for n in (1, 2)]
    return DenseGraphTraining(edges, x, task.labels[k], task.train[k], layers, lr)


def drop(seed, epoch):
    return dropout_masks([seed], epoch, (N, GCN.width), 0.5)[0]


# --- one weight an edge is the official dense form ---------------------------------------------------------------


@pytest.mark.parametrize("k", range(len(SEEDS)))
def test_a_quarter_of_the_edge_gradient_is_the_dense_gradient(k, float64):
    net, task, parameters, x, edges = small_graph()
    weights = torch.ones(len(SEEDS), edges.shape[1], requires_grad=True)
    graph = net.graph(weights)
    logits = net.logits(parameters, graph, task.dropout(3, net.hidden(parameters, graph)))
    task.loss(logits).sum().backward()
    dense = oracle(k, net, task, parameters, x, edges, 1e-3)
    assert torch.allclose(dense.forward(drop(SEEDS[k], 3)), logits[k])
    gradient = dense.gradient(drop(SEEDS[k], 3))
    assert torch.equal(gradient, gradient.t())
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(weights.grad[k] / 4, gradient[edges[0], edges[1]], atol=1e-9, rtol=1e-6)
    elsewhere = gradient.clone()
    elsewhere[edges[0], edges[1]] = elsewhere[edges[1], edges[0]] = 0
    assert not elsewhere.any(), "only edges of the graph move"


def test_twenty_steps_end_where_the_dense_copies_end_with_the_same_masks(float64):
    net, task, parameters, x, edges = small_graph()
    run = method.train_graph(net, parameters, task, 20, 1e-3)
    for k, seed in enumerate(SEEDS):
        dense = oracle(k, net, task, parameters, x, edges, 1e-3)
        for epoch in range(20):
            dense.step(drop(seed, epoch))
            first, second = dense.copies
            assert torch.equal(first, second), "both copies get the same sum"
            ours = run.trajectory[epoch, k]
            torch.testing.assert_close(ours, first.detach()[edges[0], edges[1]], atol=1e-6, rtol=0)
        assert (ours - 1).abs().max() > 5e-3, "they did move"
        for p in (0.1, 0.25, 0.5, 0.9):
            kept = method.draw_edges(ours[None], p, [seed])[0]
            assert torch.equal(kept, mask(first.detach(), p)[edges[0], edges[1]])


def test_tiny_gradients_end_where_the_dense_copies_end_too(float64):
    """Adam sees the factor of four where gradients near its epsilon (1e-8), as on Cora's outer edges."""
    net, task, parameters, x, edges = small_graph()
    parameters["2.weight"] = parameters["2.weight"] * 1e-6
    run = method.train_graph(net, parameters, task, 5, 1e-3)
    for k, seed in enumerate(SEEDS):
        dense = oracle(k, net, task, parameters, x, edges, 1e-3)
        for epoch in range(5):
            dense.step(drop(seed, epoch))
        ours, theirs = run.trajectory[-1, k], dense.copies[0].detach()[edges[0], edges[1]]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_edges_that_no_training_node_sees_never_move():
    """Two layers with degrees: an edge counts when one of its ends is at most two steps from a training node."""
    path = torch.stack([torch.arange(29), torch.arange(1, 30)])
    net, task, parameters, _, _ = small_graph(30, train=1, edges=path)
    task.train = torch.zeros(2, 1, dtype=torch.long)
    run = method.train_graph(net, parameters, task, 5, 1e-2)
    assert torch.equal(run.touched.nonzero(), torch.tensor([[k, e] for k in (0, 1) for e in (0, 1, 2)]))
    assert (run.trajectory[:, :, 3:] == 1).all()


def test_touched_edges_of_a_random_graph_lie_within_two_steps():
    edges = random_edges(60, 0.03, "sparse")
    net, task, parameters, _, _ = small_graph(60, train=4, edges=edges)
    run = method.train_graph(net, parameters, task, 8, 1e-2)
    for k in range(len(SEEDS)):
        near = set(task.train[k].tolist())
        for _ in range(2):
            near |= {b for pair in edges.t().tolist() for a, b in (pair, pair[::-1]) if a in near}
        reach = torch.tensor([i in near or j in near for i, j in edges.t().tolist()])
        assert reach.any()
        assert not reach.all()
        assert not (run.touched[k] & ~reach).any()
        assert (run.trajectory[:, k, ~reach] == 1).all()
        assert run.touched[k].sum() > reach.sum() / 2


# --- drawing -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True), st.integers(1, 4), st.booleans())
@settings(max_examples=60)
def test_the_edge_budget_is_exact_whatever_the_ties(E, p, levels, largest):
    weights = torch.randint(levels, (2, E), generator=generator(E, levels)).float()
    keep = method.draw_edges(weights, p, [0, 1], largest=largest)
    assert keep.sum(1).tolist() == [E - int(p * E)] * 2
    for row, kept in zip(weights, keep, strict=True):
        if kept.any() and not kept.all():
            signed = -row if largest else row
            assert signed[kept].min() >= signed[~kept].max()


def test_ranks_count_who_comes_before():
    weights = torch.randint(4, (3, 40), generator=generator("w")).float()
    for largest in (False, True):
        ranks = method.rank_edges(weights, [0, 1, 1], largest)
        assert all(sorted(row.tolist()) == list(range(40)) for row in ranks)
        signed = -weights if largest else weights
        before = (signed[:, :, None] > signed[:, None, :]).sum(2)  # strictly smaller ones
        ties = (signed[:, :, None] == signed[:, None, :]).sum(2)
        assert ((ranks >= before) & (ranks < before + ties)).all()


def test_edge_order_decides_among_ties_only():
    g = generator("ties")
    weights = torch.cat([torch.rand(30, generator=g), torch.ones(40), 1.5 + torch.rand(30, generator=g)])
    for p in (0.1, 0.25, 0.3, 0.5, 0.7, 0.85):
        plain = method.draw_edges(weights[None], p, [0])[0]
        order = torch.randperm(100, generator=g)
        permuted = torch.empty_like(plain)
        permuted[order] = method.draw_edges(weights[order][None], p, [0])[0]
        differ = plain != permuted
        assert (weights[differ] == 1).all()
        assert plain.sum() == permuted.sum()
        if p in (0.3, 0.7, 0.1, 0.85):  # the cut does not run through the ties
            assert not differ.any()


def test_ties_fall_by_the_seed_and_not_along_the_edge_list():
    keep = method.draw_edges(torch.ones(2, 400), 0.5, [0, 1])
    assert torch.equal(keep, method.draw_edges(torch.ones(2, 400), 0.5, [0, 1]))
    assert not torch.equal(keep[0], keep[1])
    for row in keep:
        assert 60 < row[:200].sum() < 140


def test_random_and_oracle_masks_of_the_bench():
    bench = Bench("digits", Config.at("quick", seeds=2, grid_seeds=2, conv_seeds=2))
    E, (i, j) = bench.pattern.num_edges, bench.graph.edges
    across = bench.graph.y[i] != bench.graph.y[j]
    for p in (0.02, 0.2, 0.6):
        random, best = bench.random_edges(p), bench.oracle_edges(p)
        assert random.sum(1).tolist() == best.sum(1).tolist() == [E - int(p * E)] * 2
        assert not torch.equal(random[0], random[1])
        assert torch.equal(random, bench.random_edges(p))
        share = (~random & across).sum(1) / (~random).sum(1)
        assert share.tolist() == pytest.approx([across.float().mean().item()] * 2, abs=0.08)
        for kept in best:
            assert (~kept & across).sum() == min(across.sum(), int(p * E)), "edges between classes go first"


# --- the test set chooses nothing --------------------------------------------------------------------------------


def test_shuffled_test_labels_leave_trainings_and_masks_bit_identical():
    net, task, parameters, _, edges = small_graph(40, 0.15, train=10)
    shuffled = task.labels.clone()
    for k, nodes in enumerate(task.test):
        shuffled[k, nodes] = (shuffled[k, nodes] + 1 + torch.arange(len(nodes)) % 2) % C
    lied = method.Task(shuffled, task.train, task.val, task.test, task.seeds)
    p_w, ones = torch.tensor([0.5, 0.8], dtype=torch.float64), torch.ones(2, edges.shape[1])

    def everything(task):
        network = method.train_network(net, parameters, ones, task, 10)
        graph = method.train_graph(net, parameters, task, 10, 1e-2, method.Admm(0.3, 1e-3, "sum", 3))
        joint = method.joint_search(net, parameters, task, p_w, 10, 1e-2, lambda e: e == 10)
        traces = [*network.val, graph.trajectory, graph.touched, joint.edges, *joint.weight_masks.values()]
        traces += [*network.parameters.values(), *joint.snapshots[10].values()]
        drawn = [method.draw_edges(graph.trajectory[-1], p, SEEDS) for p in (0.2, 0.6)]
        return traces + drawn, torch.stack(network.test), network.at_best_validation()

    honest, test, _ = everything(task)
    shown, lied_test, _ = everything(lied)
    assert all(torch.equal(a, b) for a, b in zip(honest, shown, strict=True))
    assert not torch.equal(test, lied_test), "the labels did change what is measured"


def test_accuracy_is_taken_at_the_first_best_validation_epoch():
    val = [torch.tensor(v) for v in ([0.5, 0.9], [0.8, 0.1], [0.8, 0.2])]
    test = [torch.tensor(v) for v in ([0.1, 0.2], [0.3, 0.99], [0.99, 0.4])]
    assert method.Training({}, val, test).at_best_validation().tolist() == pytest.approx([0.3, 0.2])


# --- weights -----------------------------------------------------------------------------------------------------


def test_weights_stay_as_sparse_as_their_masks_through_retraining():
    net, task, parameters, _, edges = small_graph()
    masks = method.prune_weights(parameters, torch.tensor([0.5, 0.9], dtype=torch.float64))
    run = method.train_network(net, parameters, torch.ones(2, edges.shape[1]), task, 12, masks)
    for name, kept in masks.items():
        assert torch.equal(run.parameters[name] != 0, kept)
        moved = (run.parameters[name] - parameters[name]).abs()
        assert moved[kept].max() > 1e-3


@pytest.mark.parametrize("p", [0.0, 0.29, 0.5, 0.9, 0.99])
def test_weights_are_pruned_globally_by_magnitude_to_the_exact_count(p):
    _, _, parameters, _, _ = small_graph()
    parameters["2.weight"] = parameters["2.weight"] * 0.2  # a layerwise rule would keep as many of these
    masks = method.prune_weights(parameters, torch.tensor([p, 0.0], dtype=torch.float64))
    total = 16 * (F + C)
    assert sum(int(m[0].sum()) for m in masks.values()) == total - int(p * total)
    assert all(m[1].all() for m in masks.values())
    kept = torch.cat([parameters[n][0][m[0]] for n, m in masks.items()]).abs()
    gone = torch.cat([parameters[n][0][~m[0]] for n, m in masks.items()]).abs()
    if len(gone):
        assert gone.max() <= kept.min()
    if p == 0.5:
        assert masks["2.weight"][0].float().mean() < 0.2 < 0.5 < masks["1.weight"][0].float().mean()


def test_joint_search_records_masks_of_the_ratio_and_snapshots_under_them():
    net, task, parameters, _, edges = small_graph()
    before = {name: p.clone() for name, p in parameters.items()}
    p_w = torch.tensor([0.5, 0.8], dtype=torch.float64)
    run = method.joint_search(net, parameters, task, p_w, 9, 1e-3, lambda e: e in (1, 9))
    assert all(torch.equal(p, before[name]) for name, p in parameters.items()), "the start is not touched"
    assert run.edges.shape == (9, 2, edges.shape[1])
    total = 16 * (F + C)
    for epoch in range(9):
        kept = sum(run.weight_masks[name][epoch].sum(1) for name in ("1.weight", "2.weight"))
        assert kept.tolist() == [total - int(p * total) for p in p_w.tolist()]
    assert set(run.snapshots) == {1, 9}
    for epoch, snapshot in run.snapshots.items():
        for name, masks in run.weight_masks.items():
            assert torch.equal((snapshot[name] != 0).flatten(1), masks[epoch - 1])
    assert (run.edges[0] - 1).abs().max() <= 1e-3 * 1.001, "one Adam step an epoch"


# --- the regulariser ---------------------------------------------------------------------------------------------


def test_admm_forms_differ_by_two_over_n_squared_and_equal_autograd():
    weights = torch.rand(2, 30, generator=generator("w"))
    pulls = {}
    for form in ("sum", "mean"):
        admm = method.Admm(0.4, 1e-3, form, 5)
        admm.start(weights, 20, SEEDS)
        admm.u = torch.rand(2, 30, generator=generator("u")) - 0.5
        pulls[form] = admm.gradient(weights)
    torch.testing.assert_close(pulls["mean"], pulls["sum"] * 2 / 20**2)
    w = weights.clone().requires_grad_()  # each edge is four entries: two triangles, two layers' copies
    (4 * 1e-3 / 2 * (w - admm.z + admm.u).square().sum()).backward()
    torch.testing.assert_close(pulls["sum"], w.grad)


@pytest.mark.parametrize("p", [0.0, 0.29, 0.4, 0.9])
def test_admm_target_has_the_right_zeros_and_is_updated_in_time(p):
    weights = torch.rand(2, 50, generator=generator("w")) + 0.5
    admm = method.Admm(p, 1e-3, "sum", 4)
    admm.start(weights, 20, SEEDS)
    zeros = [int(p * 50)] * 2
    assert (admm.z == 0).sum(1).tolist() == zeros
    assert torch.equal(admm.z, torch.where(admm.z == 0, 0.0, weights))
    assert not admm.u.any()
    moved = weights.flip(1)
    for epoch in range(3):
        admm.after_step(epoch, moved)
        assert not admm.u.any()
    admm.after_step(3, moved)
    assert (admm.z == 0).sum(1).tolist() == zeros
    torch.testing.assert_close(admm.u, moved - admm.z)
    was = admm.u.clone()
    admm.after_step(7, moved)  # z = prune(w + u), u += w - z
    assert (admm.z == 0).sum(1).tolist() == zeros
    torch.testing.assert_close(admm.u, was + moved - admm.z)


def test_the_regulariser_enters_the_joint_searchs_edge_step_only():
    net, task, parameters, _, _ = small_graph(40, 0.15)
    p_w = torch.tensor([0.5, 0.8], dtype=torch.float64)
    search = lambda epochs, admm=None: method.joint_search(  # noqa: E731
        net, parameters, task, p_w, epochs, 1e-2, lambda e: e == epochs, admm=admm
    )
    plain, pulled = search(1), search(1, method.Admm(0.5, 1e-3, "sum", 1))
    for name, p in plain.snapshots[1].items():
        assert torch.equal(p, pulled.snapshots[1][name]), "the weight step comes first and does not see it"
    assert not plain.ratio.any()
    assert (pulled.ratio > 0).all()
    assert not torch.equal(plain.edges, pulled.edges)
    idle = search(6, method.Admm(0.5, 0.0, "sum", 1))
    assert torch.equal(idle.edges, search(6).edges), "rho = 0 is no regulariser"
    # Strong enough, it holds half of the edges down and the mask at its own first guess.
    held = search(12, method.Admm(0.5, 10.0, "sum", 20))
    first = method.draw_edges(torch.ones_like(held.edges[0]), 0.5, SEEDS)
    assert torch.equal(method.draw_edges(held.edges[-1], 0.5, SEEDS), first)


# --- what is timed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p_w", [0.0, 0.5, 0.9, 0.97])
def test_a_shrunk_network_answers_as_its_masked_ticket(p_w):
    bench = Bench("digits", Config.at("quick", seeds=2, grid_seeds=2, conv_seeds=2))
    start = {name: p[:1] for name, p in bench.start("t").items()}
    start["1.bias"] = torch.linspace(-1, 1, 16).view(1, 1, 16)  # some dead units keep a bias that the ReLU lets pass
    masks = method.prune_weights(start, torch.tensor([p_w], dtype=torch.float64))
    edges = bench.random_edges(0.3)[0]
    net, small, kept = shrink(bench, Ticket("joint", 0.3, p_w, edges, start, masks))
    masked = {name: p * masks[name] if name in masks else p for name, p in start.items()}
    full, cut = bench.net.graph(edges[None].float()), net.graph(torch.ones(1, int(edges.sum())))
    expected = bench.net.logits(masked, full, bench.net.hidden(masked, full))
    torch.testing.assert_close(net.logits(small, cut, net.hidden(small, cut)), expected, atol=1e-5, rtol=1e-5)
    assert all(kept[name].shape == small[name].shape for name in kept)
    if p_w == 0.97:
        assert net.features.shape[1] < bench.features.shape[1]


def test_the_variants_of_a_comparison_take_turns():
    turns = []
    taken = median_ms({name: lambda name=name: turns.append(name) for name in "ab"}, 3)
    assert turns == list("ab") * 4
    assert set(taken) == {"a", "b"}


def test_sum_form_pulls_and_mean_form_is_inert():
    net, task, parameters, _, _ = small_graph(40, 0.15)
    plain = method.train_graph(net, parameters, task, 12, 1e-2)
    runs = {
        form: method.train_graph(net, parameters, task, 12, 1e-2, method.Admm(0.5, 1e-3, form, 3))
        for form in ("sum", "mean")
    }
    assert not plain.ratio.any()
    torch.testing.assert_close(runs["sum"].ratio[0] * 2 / 40**2, runs["mean"].ratio[0])
    away = {form: (run.trajectory[-1] - plain.trajectory[-1]).abs().max() for form, run in runs.items()}
    assert away["sum"] > 10 * away["mean"]


# --- cost --------------------------------------------------------------------------------------------------------

CELLS = published("gebt")
TABLE2 = CELLS[CELLS.index.str.startswith("gebt.table2.")]


def test_every_cell_of_table_2_is_there():
    assert set(cost.table2()["id"]) == set(TABLE2.index)
    assert len(TABLE2) == 19


@pytest.mark.parametrize("key", TABLE2.index)
def test_cells_of_table_2_come_out_of_the_formula(key):
    row = cost.table2().set_index("id").loc[key]
    printed = TABLE2.loc[key, "value"]
    assert row["macs"] == pytest.approx(printed, rel=0.005)
    assert row["pairs"] >= 1
    if "gebt_" not in key:
        assert f"{row['macs']:.4g}" == f"{printed:.4g}"
    else:  # the pair does give the number
        network = row["row"].removeprefix("gebt_")
        again = cost.inference_macs(cost.SHAPES[row["dataset"]], row["p_g"], row["p_w"], network)
        assert again / 1e6 == pytest.approx(row["macs"])


def test_dense_passes_and_the_identified_ticket_to_the_last_digit():
    assert round(cost.inference_macs(cost.SHAPES["cora"]) / 1e6, 2) == 77.95
    assert round(cost.inference_macs(cost.SHAPES["citeseer"]) / 1e6, 1) == 231.6
    assert round(cost.inference_macs(cost.SHAPES["citeseer"], 0.1, 0.9) / 1e6, 1) == 51.2


def test_the_formula_is_a_literal_count_of_loops(monkeypatch):
    n, edges, features, classes = 6, [(0, 1), (0, 2), (1, 4), (3, 5)], 4, 3
    shape = cost.Shape(n, len(edges), features, classes)
    both_ways = [(i, j) for i, j in edges] + [(j, i) for i, j in edges]
    x_nonzero = {(v, f) for v in range(n) for f in range(features) if (v + f) % 3 == 0}

    def loops(*ranges):
        return sum(1 for _ in itertools.product(*ranges))

    aggregate = loops(both_ways, range(features))
    first, second = loops(range(n), range(features), range(16)), loops(range(n), range(16), range(classes))
    assert cost.inference_macs(shape) == aggregate + first + second
    assert cost.inference_macs(shape, 0.5, 0.25) == aggregate / 2 + 0.75 * (first + second)
    assert cost.inference_macs(shape, 0.5, 0.25, "gat") == 8 * cost.inference_macs(shape, 0.5, 0.25, "gcn")
    assert cost.inference_macs(shape, 0.5, 0.25, "sage") == 100 * 0.75 * (first + second)

    monkeypatch.setitem(cost.SHAPES, "toy", shape)
    monkeypatch.setitem(cost.NONZEROS, "toy", len(x_nonzero))
    entries = both_ways + [(v, v) for v in range(n)]
    tail = loops(entries, range(classes))
    expected = {
        "as Table 2 counts": (aggregate, first + second),
        "aggregate first": (loops(entries, range(features)) + tail, first + second),
        "transform first": (loops(entries, range(16)) + tail, first + second),
        "transform first, sparse features": (
            loops(entries, range(16)) + tail,
            loops(x_nonzero, range(16)) + second,
        ),
    }
    assert set(expected) == set(cost.COUNTERS)
    for counter, (aggregation, transform) in expected.items():
        assert cost.gcn_macs("toy", counter, 0, 0) == {"aggregate": aggregation, "transform": transform}
        pruned = cost.gcn_macs("toy", counter, 0.5, 0.75)
        loops_of_nodes = 0 if counter == "as Table 2 counts" else n * (aggregation / len(entries))
        assert pruned["transform"] == transform / 4
        assert pruned["aggregate"] == pytest.approx((aggregation + loops_of_nodes) / 2), "self-loops stay"


def test_multiplication_order_and_sparse_features_beat_every_ticket():
    tickets = cost.table2().query("dataset == 'cora' and row == 'gebt_gcn'")["macs"]
    sparse = sum(cost.gcn_macs("cora", "transform first, sparse features", 0, 0).values()) / 1e6
    assert sparse < tickets.min() / 10


def test_savings_against_sgcn_by_hand():
    table = cost.saving_against_sgcn()

    def row(ticket, epoch):
        return table.query(f"dataset == 'cora' and ticket == '{ticket}' and p_g == 0.4 and epoch == {epoch}").iloc[0]

    # Cora, p_g = 40 %: dense pass 2*5429*1433 + 2708*16*1440 = 77,951,834; pruned 71,728,028.4.
    # GEB at epoch 10: 110 dense + 100 pruned = 15,747,504,580 of SGCN's 200 dense + 100 pruned = 22,763,169,640.
    assert row("geb", 10)["training"] == pytest.approx(100 * (1 - 15_747_504_580 / 22_763_169_640))
    assert row("geb", 10)["inference"] == pytest.approx(0)
    # Joint at epoch 9, p_w = 90 %: drawn 9,335,708.4 + 6,239,232 = 15,574,940.4; 9 dense + 100 drawn.
    assert row("joint", 9)["training"] == pytest.approx(100 * (1 - 2_259_060_546 / 22_763_169_640))
    assert row("joint", 9)["inference"] == pytest.approx(100 * (1 - 15_574_940.4 / 71_728_028.4))
    assert (table.query("ticket == 'geb'")["inference"].abs() < 1e-9).all()


# --- contrasts ---------------------------------------------------------------------------------------------------


def test_contrasts_are_paired_by_seed():
    import pandas as pd

    rows = [(s, "a", 50 + 10 * s + 1) for s in (2, 0, 1)] + [(s, "b", 50 + 10 * s) for s in (0, 1, 2, 3)]
    table = pd.DataFrame(rows, columns=["seed", "arm", "accuracy"])
    found = contrast(table, {"arm": "a"}, {"arm": "b"})
    assert found.samples == (1.0, 1.0, 1.0)
    assert (found.low, found.high) == (1.0, 1.0)


def test_config_refuses_what_cannot_run():
    from workbench import WorkbenchError

    for wrong in ({"p_g": (1.0,)}, {"epochs": 3}, {"draw_epochs": (99,)}, {"datasets": ("reddit",)}, {"eta": 0.0}):
        with pytest.raises(WorkbenchError, match=next(iter(wrong))):
            Config.at("quick", **wrong)
