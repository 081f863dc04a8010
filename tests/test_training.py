"""The shared loop: models side by side are as if alone, streams depend on their name only, steps stay whole."""

import os
import signal
import subprocess
import sys
import threading

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

from workbench.nets import GAT, GCN, GIN, SAGE, Features, Pattern
from workbench.papers.gebt import method
from workbench.progress import progress
from workbench.training import dropout_masks, generator, train, whole_steps

N, C = 24, 3


def ring_task(seeds):
    g = generator("ring")
    pairs = torch.combinations(torch.arange(N))
    edges = pairs[torch.rand(len(pairs), generator=g) < 0.15].t().contiguous()
    x, y = torch.randn(N, 6, generator=g), torch.randint(C, (N,), generator=g)
    rows = [torch.stack([torch.randperm(N, generator=generator(s, "split")) for s in seeds])] * 3
    train_nodes, val, test = rows[0][:, :8], rows[1][:, 8:14], rows[2][:, 14:]
    return Features(x), Pattern(edges, N), method.Task(y.expand(len(seeds), -1), train_nodes, val, test, seeds)


@pytest.mark.parametrize("kind", [GCN, GIN, SAGE, GAT])
def test_models_side_by_side_end_as_if_trained_alone(kind):
    seeds = [0, 1, 7]
    features, pattern, task = ring_task(seeds)
    net = kind(features, pattern, C)
    start = net.init([generator(s, "init") for s in seeds])
    weights = torch.stack([(torch.rand(pattern.num_edges, generator=generator(s, "e")) < 0.8).float() for s in seeds])
    together = method.train_network(net, start, weights, task, 15)
    for k, seed in enumerate(seeds):
        one = slice(k, k + 1)
        _, _, alone_task = ring_task([seed])
        alone = method.train_network(net, {n: p[one] for n, p in start.items()}, weights[one], alone_task, 15)
        for name, value in alone.parameters.items():
            assert (value - start[name][one]).abs().max() > 1e-3, "nothing was learnt: the test shows nothing"
            torch.testing.assert_close(together.parameters[name][one], value, atol=1e-6, rtol=1e-5)
        for a, b in zip(together.val, alone.val, strict=True):
            assert a[k] == pytest.approx(b.item())


def test_masked_weights_stay_side_by_side_too():
    features, pattern, task = ring_task([0, 1])
    net = GCN(features, pattern, C)
    start = net.init([generator(s, "init") for s in (0, 1)])
    masks = method.prune_weights(start, torch.tensor([0.5, 0.9], dtype=torch.float64))
    ones = torch.ones(2, pattern.num_edges)
    together = method.train_network(net, start, ones, task, 8, masks)
    for k in (0, 1):
        pick = lambda values, k=k: {n: v[k : k + 1] for n, v in values.items()}  # noqa: E731
        alone = method.train_network(net, pick(start), ones[:1], ring_task([k])[2], 8, pick(masks))
        for name, value in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name][k], value[0], atol=1e-6, rtol=1e-5)


# --- random streams ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 50))
@settings(max_examples=20)
def test_dropout_of_a_model_depends_on_its_seed_and_the_epoch_only(seeds, epoch):
    torch.manual_seed(len(seeds))  # the global stream must not matter
    together = dropout_masks(seeds, epoch, (4, 5), 0.5)
    for k, seed in enumerate(seeds):
        assert torch.equal(together[k], dropout_masks([seed], epoch, (4, 5), 0.5)[0])
    assert not torch.equal(dropout_masks([6], epoch, (4, 5), 0.5), dropout_masks([7], epoch, (4, 5), 0.5))
    assert not torch.equal(dropout_masks([6], epoch, (4, 5), 0.5), dropout_masks([6], epoch + 1, (4, 5), 0.5))


def test_dropout_keeps_the_mean_and_the_rate():
    factors = dropout_masks([0], 0, (200, 500), 0.3)
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (factors == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert factors.mean().item() == pytest.approx(1, abs=0.01)


def test_a_stream_is_the_same_in_another_process_and_another_for_another_name():
    names = [(0,), (1,), (0, "dropout", 1), (0, "dropout", 11), (0, "dropout1", 1), ("0",), (0, "1")]
    here = [torch.rand(3, generator=generator(*name)).tolist() for name in names]
    code = (
        "import torch; from workbench.training import generator\n"
        f"print([torch.rand(3, generator=generator(*name)).tolist() for name in {names!r}])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == repr(here)
    assert len({tuple(numbers) for numbers in here}) == len(names)


# --- the loop ----------------------------------------------------------------------------------------------------


def test_the_loop_equals_a_loop_written_out_by_hand():
    w = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    order = []
    train(
        lambda step: order.append(("loss", step)) or (w - step) ** 2,
        torch.optim.SGD([w], lr=0.1),
        3,
        before_step=lambda step: order.append(("before", step)),
        after_step=lambda step: order.append(("after", step)),
    )
    expected = [1.0, -2.0, 3.0]
    for step in range(3):
        expected = [v - 0.1 * 2 * (v - step) for v in expected]
    assert w.tolist() == pytest.approx(expected)
    assert order == [(what, step) for step in range(3) for what in ("loss", "before", "after")]


@pytest.mark.parametrize("moment", ["loss", "before", "after"])
def test_an_interrupt_waits_until_the_step_is_whole(moment):
    w = torch.zeros(2, requires_grad=True)
    recorded = []

    def interrupt(now, step):
        if now == moment and step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def loss(step):
        interrupt("loss", step)
        return w - 5.0

    def after(step):
        interrupt("after", step)
        recorded.append(w.tolist())

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(
            loss,
            torch.optim.SGD([w], lr=1.0),
            10,
            before_step=lambda step: interrupt("before", step),
            after_step=after,
        )
    assert w.tolist() == [-3.0, -3.0], "three whole steps"
    assert recorded == [[-1.0] * 2, [-2.0] * 2, [-3.0] * 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_comes_back_after_an_error_and_other_threads_may_train():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), whole_steps():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
    w = torch.zeros(1, requires_grad=True)
    thread = threading.Thread(target=train, args=(lambda _: w - 1, torch.optim.SGD([w], lr=1.0), 2))
    thread.start()
    thread.join()
    assert w.item() == -2


def test_a_loss_that_is_not_finite_names_the_models_and_moves_nothing():
    w = torch.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)

    def loss(step):
        broken = torch.tensor([0.0, float("nan"), 0.0, float("inf")]) if step == 1 else torch.zeros(4)
        return w + broken

    with pytest.raises(FloatingPointError, match=r"arm x: .*\[1, 3\].*step 1"):
        train(loss, torch.optim.SGD([w], lr=0.5), 5, label="arm x")
    assert w.tolist() == [0.5] * 4, "only the first step moved"


def test_one_broken_model_of_a_real_run_is_named():
    features, pattern, task = ring_task([0, 1])
    net = GCN(features, pattern, C)
    start = net.init([generator(s) for s in (0, 1)])
    start["2.bias"][1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"\[1\]"):
        method.train_network(net, start, torch.ones(2, pattern.num_edges), task, 2)


@pytest.mark.parametrize("disabled", [False, True])
def test_a_notebook_keeps_nothing_of_a_progress_bar(monkeypatch, disabled):
    monkeypatch.setenv("TQDM_DISABLE", "1") if disabled else monkeypatch.delenv("TQDM_DISABLE", raising=False)
    source = "import time\nfrom workbench.progress import progress\nfor _ in progress(range(4), 'x'): time.sleep(0.7)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    seen = []
    client = NotebookClient(notebook, kernel_name="python3")
    process = client.process_message
    client.process_message = lambda message, *rest: (seen.append(message), process(message, *rest))[1]
    client.execute()
    shown = [message["content"]["data"] for message in seen if "display_data" in message["msg_type"]]
    assert [output.data for output in notebook.cells[0].outputs] == ([] if disabled else [{}])
    assert any("x: " in data.get("text/plain", "") for data in shown) != disabled


def test_progress_passes_on_all_items_in_order():
    assert list(progress([3, 1, 2], "x")) == [3, 1, 2]
    with progress(None, "x", 3) as bar:
        bar.update(2)
    assert bar.n == 2 or bar.disable
