"""Energy sections of the notebooks: dense and pruned, static and cyclic bits, against breakdowns one by one."""

import numpy as np
import pytest
import torch
from common import saved

from workbench import hardware
from workbench.accelerator import generic
from workbench.evidence import Result
from workbench.nets import GCN, Features, Pattern
from workbench.papers.cpt import published as cpt
from workbench.papers.cpt.method import cyclic
from workbench.papers.fractrain import cost as fractrain
from workbench.papers.gebt import cost as gebt
from workbench.papers.gebt import views as gebt_views
from workbench.papers.spline import views as spline_views
from workbench.resnets import cifar_resnet


def energies(view, tmp_path, monkeypatch, **parameters):
    return saved(view, Result({}, [], parameters, "none"), tmp_path, monkeypatch)[0]


def test_cpts_mean_is_the_mean_over_its_steps(monkeypatch):
    monkeypatch.setitem(cpt.NETWORKS, "tiny", (lambda: cifar_resnet(8, width=4), 8))
    monkeypatch.setattr(cpt, "BATCH", 4)
    found = cpt.energy("tiny", 3, 8, 8, scalable=True)["pj"].sum()
    with torch.device("meta"):
        net, x = cifar_resnet(8, width=4), torch.empty(4, 3, 8, 8)
    each = {
        b: hardware.breakdown(net, x, training=True, weight_bits=b, input_bits=b, error_bits=8)["pj"].sum()
        for b in range(3, 9)
    }
    assert found == pytest.approx(np.mean([each[int(b)] for b in cyclic(cpt.ITERATIONS, 3, 8)]))
    static, fixed = (cpt.energy("tiny", 8, 8, 8, scalable)["pj"].sum() for scalable in (True, False))
    assert static == pytest.approx(fixed)  # 8-bit multipliers are wide enough
    assert found < cpt.energy("tiny", 3, 8, 8, scalable=False)["pj"].sum() < static


def test_pfqs_stages_cost_more_one_after_the_other():
    energy = [fractrain.energy(8, b, g)["pj"].sum() for b, g in ((3, 6), (4, 6), (6, 8), (8, 8))]
    assert energy == sorted(energy)
    assert energy[0] / energy[-1] > fractrain.cp(3, 3, 6) / fractrain.cp(8, 8, 8)  # what moves shrinks less than BitOps


def test_gebts_layers_are_the_products_of_a_gcn():
    dense, ticket = (gebt.layers("cora", *pruned) for pruned in ((0.0, 0.0), (0.2, 0.8)))
    macs = [layer.macs * layer.density for layer in dense]
    counted = gebt.gcn_macs("cora", "transform first", 0.0, 0.0)
    assert macs[0] + macs[2] == counted["transform"]
    assert macs[1] + macs[3] == pytest.approx(counted["aggregate"])
    aggregate = sum(layer.macs * layer.density for layer in ticket if "aggregate" in layer.name)
    assert aggregate == pytest.approx(gebt.gcn_macs("cora", "transform first", 0.2, 0.8)["aggregate"])
    energy = [hardware.breakdown(layers)["pj"].sum() for layers in (dense, ticket)]
    assert energy[1] < energy[0]


def test_a_gcn_of_the_workbench_has_the_same_layers_when_it_runs():
    """The recorder sees the four products in a real pass, of sparse features by their non-zeros."""

    class Pass(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net
            start = net.init([torch.Generator().manual_seed(0)])
            self.names, self.weights = list(start), torch.nn.ParameterList(start.values())

        def forward(self, edges):
            p = dict(zip(self.names, self.weights, strict=True))
            graph = self.net.graph(edges)
            return self.net.logits(p, graph, self.net.hidden(p, graph))

    edges = torch.combinations(torch.arange(12))[::3].T
    full = torch.rand(12, 7, generator=torch.Generator().manual_seed(1))
    entries = 2 * edges.shape[1] + 12
    for x, first in ((full, 12 * 7), (full * (full > 0.8), int((full > 0.8).sum()))):
        net = Pass(GCN(Features(x), Pattern(edges, 12), 3))
        found = hardware.layers(net, torch.ones(1, edges.shape[1]))
        macs = [layer.macs * layer.density for layer in found if layer.arithmetic.multiplies]
        assert macs == pytest.approx([first * 16, entries * 16, 12 * 16 * 3, entries * 3])


def test_gebts_and_splines_figures(tmp_path, monkeypatch):
    table = energies(gebt_views.energy, tmp_path, monkeypatch, paper="gebt").groupby("arm")["pj"].sum()
    assert table["cora, dense"] > table["cora, ticket"]
    images = ("digits 16-16-32 8", "cifar10 8-32-64 15")
    table = energies(
        spline_views.energy, tmp_path, monkeypatch, paper="spline", images=images, image_ratios=(0.5, 0.75)
    )
    for data in ("digits", "cifar10"):
        total = table[table["arm"].str.startswith(data)].groupby("arm", sort=False)["pj"].sum()
        dense, half, quarter = total
        assert dense > half > quarter
        assert 0.25 < half / dense < 0.5
    explorer = spline_views.explore_energy(Result({}, [], {"images": images[:1]}, "none"))
    net, x = spline_views._sized(spline_views.Setup.read(images[0]), 0.0)
    shown = explorer(bits=4, array=32)["One pass"]["energy"]
    expected = hardware.breakdown(net, x, accelerator=generic(32, 32), weight_bits=4, input_bits=4)["pj"].sum()
    assert shown == f"{expected / 1e6:.3g} µJ"
