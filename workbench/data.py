"""Data sets as tensors: images and graphs, embedded where possible, fetched and verified where not.

Digits and photographs come with scikit-learn. Cora, CiteSeer and CIFAR-10 are read from the folder that the
environment variable WORKBENCH_DATA names, else from a cache, else they are downloaded into that cache.
Whatever is missing, damaged or out of reach raises a WorkbenchError that says what to do.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from torch import Tensor

from workbench import WorkbenchError, cannot_write, write_atomic

CACHE = pooch.os_cache("efficient-dl-workbench")
"""Downloads and parsed graphs go here; the folder may be deleted at any time."""

RETRIES, TIMEOUT = 3, 30
"""Further attempts of a download, and the seconds to wait for an answer of the server."""

PLANETOID_URL = "https://github.com/kimiyoung/planetoid/raw/master/data"
PLANETOID = {
    "cora": {
        "ind.cora.x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
        "ind.cora.tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
        "ind.cora.allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
        "ind.cora.y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
        "ind.cora.ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
        "ind.cora.ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
        "ind.cora.graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
        "ind.cora.test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
    },
    "citeseer": {
        "ind.citeseer.x": "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6",
        "ind.citeseer.tx": "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
        "ind.citeseer.allx": "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
        "ind.citeseer.y": "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
        "ind.citeseer.ty": "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
        "ind.citeseer.ally": "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
        "ind.citeseer.graph": "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
        "ind.citeseer.test.index": "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
    },
}
"""The publisher's files of the two citation graphs, with their sha256."""

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz"
CIFAR10_ARCHIVE, CIFAR10_HASH = "cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10 = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

FOLDERS = {
    "cora": "Planetoid/Cora/raw",
    "citeseer": "Planetoid/CiteSeer/raw",
    "cifar10": "cifar-10-batches-bin",
}
"""Where the files of a data set lie, under WORKBENCH_DATA as in the cache."""


DATASETS = {
    "digits": ("1,797 handwritten digits, 8x8 grey; also as a 10-nearest-neighbour graph", "none"),
    "photographs": ("2 colour photographs, 427x640", "none"),
    "cora": ("citation graph: 2,708 papers, 5,278 links, 7 classes", "0.6 MB"),
    "citeseer": ("citation graph: 3,327 papers, 4,552 links, 6 classes", "1.0 MB"),
    "cifar10": ("60,000 colour photographs, 32x32, 10 classes", "170 MB"),
}
"""Name -> what it is, and the size of its download."""


def _hash(name: str, *tensors: Tensor) -> str:
    digest = hashlib.sha256(name.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images: `x` float32 [n, c, h, w] in [0, 1], `y` int64 [n]."""

    name: str
    x: Tensor
    y: Tensor

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 over name, shapes and bytes."""
        return _hash(self.name, self.x, self.y)


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph with N nodes, E edges and S splits into training, validation and test nodes.

    `x` float32 [N, F] dense, `y` int64 [N]; `edges` int64 [2, E], each edge once with i < j, no loops,
    sorted by i, then j; `train`, `val`, `test` int64 [S, n], disjoint, each row ascending.
    """

    name: str
    x: Tensor
    y: Tensor
    edges: Tensor
    train: Tensor
    val: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        """Refuse edges that are not as said: they would be counted twice, or lead nowhere."""
        check_edges(self.edges, len(self.x))

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 over name, shapes and bytes."""
        return _hash(self.name, self.x, self.y, self.edges, self.train, self.val, self.test)

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.x)

    @property
    def num_edges(self) -> int:
        """E, each undirected edge counted once."""
        return self.edges.shape[1]

    @property
    def num_classes(self) -> int:
        """The number of labels, which run from 0."""
        return int(self.y.max()) + 1


def digits() -> Images:
    """The 1,797 digits of scikit-learn: x [1797, 1, 8, 8], pixels / 16, ten classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    return Images("digits", x, torch.from_numpy(bunch.target).long())


def digits_graph(seeds: Sequence[int]) -> Graph:
    """The digits as a graph: each joined to its 10 nearest by Euclidean distance, either way round.

    1,797 nodes, 12,340 edges, x [1797, 64]; a graph made as in LDS (Franceschi et al. 2019). One split per
    seed: 20 training nodes a class, 500 for validation, 1,000 for test.
    """
    from sklearn.neighbors import kneighbors_graph
    from threadpoolctl import threadpool_limits

    images = digits()
    x = images.x.flatten(1)
    # 62 digits have a tie for the tenth place; how scikit-learn breaks it depends on the number of threads.
    with threadpool_limits(1):
        pairs = np.stack(kneighbors_graph(x.numpy(), n_neighbors=10).nonzero())
    y = images.y.numpy()
    train, val, test = [], [], []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(y))
        labelled = np.concatenate([order[y[order] == c][:20] for c in range(10)])
        rest = order[~np.isin(order, labelled)]
        for part, nodes in zip((train, val, test), (labelled, rest[:500], rest[500:1500]), strict=True):
            part.append(np.sort(nodes))
    splits = [torch.from_numpy(np.stack(part)) for part in (train, val, test)]
    return Graph("digits-graph", x, images.y, undirected(pairs), *splits)


def undirected(graph: Any, nodes: int | None = None) -> Tensor:
    """The edges of a graph as everything here takes them: int64 [2, E], each once with i < j, no loops, sorted.

    Args:
        graph: pairs of nodes [2, M], in one direction or both, perhaps doubled or with loops, as a tensor or an array;
            a sparse adjacency matrix of torch; or a `torch_geometric.data.Data`, whose `edge_index` is taken.
        nodes: how many nodes there are; None asks the graph itself, or takes the largest node.

    Raises:
        WorkbenchError: where edges have weights, which would be lost; for nodes that are no whole numbers, or out of
            range; for another shape; where no edge is left.
    """
    if hasattr(graph, "edge_index"):
        for name in ("edge_weight", "edge_attr"):
            if getattr(graph, name, None) is not None:
                raise WorkbenchError(
                    f"edges here have no weights, and the graph's {name} would be lost: remove it first"
                )
        nodes, graph = graph.num_nodes if nodes is None else nodes, graph.edge_index
    if isinstance(graph, Tensor) and graph.layout != torch.strided:
        matrix = graph.to_sparse_coo().coalesce()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (matrix.values() != 1).any():
            raise WorkbenchError("a sparse graph is a square matrix of ones: edges here have no weights")
        nodes, graph = matrix.shape[0] if nodes is None else nodes, matrix.indices()
    try:
        pairs = torch.as_tensor(graph)
    except (TypeError, ValueError, RuntimeError):
        raise WorkbenchError(f"cannot read a graph from {type(graph).__name__}: give pairs of nodes [2, M]") from None
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        raise WorkbenchError(f"pairs of nodes have the shape [2, M], not {list(pairs.shape)}")
    if pairs.is_floating_point() or pairs.is_complex() or pairs.dtype == torch.bool:
        raise WorkbenchError(f"nodes are whole numbers from 0, not {pairs.dtype}: convert them with .long()")
    pairs = pairs.long()
    found = pairs[:, pairs[0] != pairs[1]].sort(dim=0).values.unique(dim=1)
    if not found.shape[1]:
        raise WorkbenchError("the graph has no edge between two nodes")
    largest, smallest = int(pairs.max()), int(pairs.min())
    if smallest < 0 or (nodes is not None and largest >= nodes):
        node = smallest if smallest < 0 else largest
        raise WorkbenchError(f"an edge leads to node {node}, and there are {nodes or 'no such'} nodes, from 0 on")
    return found


def check_edges(edges: Tensor, nodes: int) -> None:
    """`WorkbenchError` for edges that are not as `undirected` makes them, or lead out of ``nodes`` nodes."""
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype != torch.int64:
        raise WorkbenchError(
            f"edges are int64 [2, E], not {edges.dtype} {list(edges.shape)}: see workbench.data.undirected"
        )
    if not edges.shape[1]:
        return
    low, high = (int(end) for end in edges.aminmax())
    if low < 0 or high >= nodes:
        raise WorkbenchError(f"edges lead to node {low if low < 0 else high}, and there are {nodes} nodes, from 0 on")
    number = edges[0] * nodes + edges[1]
    if (edges[0] >= edges[1]).any() or len(number.unique()) < len(number):
        raise WorkbenchError(
            "edges must stand once each, with i < j and no loops, or they count twice: "
            "workbench.data.undirected(edges) makes them so"
        )


def photographs() -> dict[str, Tensor]:
    """The two photographs of scikit-learn, "china" and "flower": float32 [3, 427, 640] in [0, 1]."""
    from sklearn.datasets import load_sample_image

    return {
        name: torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1).float().div(255)
        for name in ("china", "flower")
    }


def cifar10(train: bool) -> Images:
    """CIFAR-10, training or test part: x [n, 3, 32, 32].

    n is 50,000 or 10,000, or whatever lies in a folder of your own. Raises WorkbenchError where the files are
    damaged or cannot be fetched.
    """
    records = np.concatenate([_cifar10_records(path) for path in _cifar10_files(train)])
    x = torch.from_numpy(records[:, 1:]).float().div_(255).reshape(-1, 3, 32, 32)
    return Images(f"cifar10-{'train' if train else 'test'}", x, torch.from_numpy(records[:, 0]).long())


def _cifar10_files(train: bool) -> list[Path]:
    folder = _own_folder("cifar10")
    if folder is None:
        folder = CACHE / FOLDERS["cifar10"]
        if not _cached("cifar10", CIFAR10):
            archive = _download("cifar10", CIFAR10_URL, CIFAR10_ARCHIVE, CIFAR10_HASH, CACHE)
            with tarfile.open(archive) as tar:
                for member in tar:
                    if (file := Path(member.name).name) in CIFAR10:
                        write_atomic(folder / file, tar.extractfile(member).read())
    pattern = "data_batch_*.bin" if train else "test_batch.bin"
    if not (files := sorted(folder.glob(pattern))):
        raise WorkbenchError(f"{folder} lacks {pattern}: put it there, or unset WORKBENCH_DATA to download")
    return files


def _cifar10_records(path: Path) -> np.ndarray:
    """uint8 [n, 3073]: a label, then the 32x32 red, green and blue values."""
    content = np.fromfile(path, np.uint8)
    if not content.size or content.size % 3073 or content[::3073].max() > 9:
        raise WorkbenchError(f"truncated file or wrong labels in {path}: delete it and fetch it again")
    return content.reshape(-1, 3073)


def planetoid(name: str) -> Graph:
    """The citation graph "cora" or "citeseer", as split by Yang et al. 2016 (the public split, S = 1).

    Rows of x sum to 1, or to 0 for a paper without words. Raises WorkbenchError for another name, and where
    the files are missing, damaged or cannot be fetched.
    """
    if name not in PLANETOID:
        raise WorkbenchError(f"there is no graph {name!r}: choose {' or '.join(PLANETOID)}")
    arrays = {key: torch.from_numpy(array) for key, array in _planetoid_arrays(name).items()}
    sums = arrays["x"].sum(1, keepdim=True)
    x = arrays["x"] / sums.masked_fill(sums == 0, 1)
    splits = [arrays[f"{part}_mask"].nonzero().T for part in ("train", "val", "test")]
    return Graph(name, x, arrays["y"], undirected(arrays["edge_index"], len(x)), *splits)


def _planetoid_arrays(name: str) -> dict[str, np.ndarray]:
    """PyG's x, y, edge_index and masks, kept in the cache because importing PyG takes 3 s."""
    raw = _planetoid_folder(name)
    key = hashlib.sha256("".join(PLANETOID[name].values()).encode()).hexdigest()[:16]
    parsed = CACHE / "parsed" / f"{name}-{key}.npz"
    with suppress(Exception), np.load(parsed) as arrays:  # not there, or damaged: parse again
        return dict(arrays)
    # The parser inside torch_geometric.datasets.Planetoid, which itself would write beside the raw files.
    from torch_geometric.io import read_planetoid_data

    arrays = {key: value.numpy() for key, value in read_planetoid_data(str(raw), name).to_dict().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with suppress(WorkbenchError):  # a full disk only costs the 3 s again
        write_atomic(parsed, buffer.getvalue())
    return arrays


def _planetoid_folder(name: str) -> Path:
    """The folder of the raw files, each verified: they are pickles, which run code when they are opened."""
    folder = _own_folder(name)
    for file, sha256 in PLANETOID[name].items():
        if folder is None:
            _download(name, PLANETOID_URL, file, sha256, CACHE / FOLDERS[name])
        elif not (folder / file).is_file():
            raise WorkbenchError(f"{folder} lacks {file}: put it there, or unset WORKBENCH_DATA to download")
        elif pooch.file_hash(folder / file) != sha256:
            raise WorkbenchError(f"{folder / file} is not the publisher's file (wrong hash): fetch it again")
    return folder or CACHE / FOLDERS[name]


def _own_folder(name: str) -> Path | None:
    """The data set's folder under WORKBENCH_DATA; None where that is not set or lacks this data set."""
    if not (own := os.environ.get("WORKBENCH_DATA")):
        return None
    root = Path(own).expanduser().resolve()
    if not root.is_dir():
        raise WorkbenchError(f"WORKBENCH_DATA={root} is no folder: correct it, or unset it to download")
    folder = root / FOLDERS[name]
    return folder if folder.is_dir() else None


def _cached(name: str, files: Sequence[str]) -> bool:
    return all((CACHE / FOLDERS[name] / file).is_file() for file in files)


def _download(name: str, url: str, file: str, known_hash: str, folder: Path) -> Path:
    """`folder`/`file`, fetched from `url`/`file` unless it is there with the known hash."""
    import requests

    source = pooch.create(folder, url, registry={file: known_hash}, retry_if_failed=RETRIES)
    try:
        downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16, timeout=TIMEOUT)
        return Path(source.fetch(file, downloader=downloader))
    except requests.HTTPError as error:
        reason = f"the server answered {error.response.status_code}"
    except requests.Timeout:
        reason = f"no answer within {TIMEOUT} s"
    except requests.RequestException as error:
        reason = f"no connection, or it broke off ({type(error).__name__})"
    except ValueError:
        reason = "wrong hash (did a log-in page answer?), so nothing was kept"
    except OSError as error:
        raise cannot_write(folder / file, error) from error
    raise WorkbenchError(
        f"cannot download {url}/{file}: {reason}: connect and try again, "
        f"or put the unpacked files into DIR/{FOLDERS[name]} and set WORKBENCH_DATA=DIR"
    )


def status(name: str) -> str:
    """Where the data set is now: embedded, found under WORKBENCH_DATA, cached, or to be downloaded.

    Raises WorkbenchError for an unknown name, or where WORKBENCH_DATA names no folder.
    """
    if name not in DATASETS:
        raise WorkbenchError(f"there is no data set {name!r}: choose one of {', '.join(DATASETS)}")
    if name not in FOLDERS:
        return "embedded in scikit-learn"
    if folder := _own_folder(name):
        return f"found in {folder}"
    if _cached(name, CIFAR10 if name == "cifar10" else list(PLANETOID[name])):
        return f"cached in {CACHE / FOLDERS[name]}"
    return "to be downloaded"


def fetch(name: str) -> str:
    """Download the data set where it is not at hand, verify its files, and return its new status."""
    if name in PLANETOID:
        _planetoid_folder(name)
    elif name == "cifar10":
        for path in _cifar10_files(train=True) + _cifar10_files(train=False):
            _cifar10_records(path)
    return status(name)


def validation_split(y: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices of `y` [n] into (train, validation), both int64 and ascending.

    Validation gets fraction n of them, rounded, and of each class its share to within one.
    Raises WorkbenchError unless 0 < fraction < 1.
    """
    if not 0 < fraction < 1:
        raise WorkbenchError(f"a validation fraction must lie between 0 and 1, not {fraction}")
    order = np.random.default_rng(seed).permutation(len(y))
    order = order[np.argsort(np.asarray(y)[order], kind="stable")]
    # Along the classes laid end to end, take an item whenever fraction x position passes a half.
    taken = np.diff(np.floor(np.arange(len(y) + 1) * fraction + 0.5)) > 0
    return torch.from_numpy(np.sort(order[~taken])), torch.from_numpy(np.sort(order[taken]))
