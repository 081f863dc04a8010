"""The data room. Downloads run against a real server on the loopback; no test needs the network.

Tests of the real files run where WORKBENCH_DATA is set; synthetic files in the publishers' formats serve
the rest.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import warnings
from collections import Counter, defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from workbench import WorkbenchError, data

REAL = os.environ.get("WORKBENCH_DATA")
real_data = pytest.mark.skipif(not REAL, reason="WORKBENCH_DATA does not name a folder with the real files")


@pytest.fixture(autouse=True)
def waits(monkeypatch, tmp_path):
    """An empty cache, no WORKBENCH_DATA, no proxy; pooch's waits between attempts are only noted."""
    waits = []
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=waits.append))
    return waits


class Publisher(ThreadingHTTPServer):
    """Serves `files` by name; `faults` come first, once each: a status, "truncate" or "hang"."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.faults, self.requests = {}, [], []
        self.closing = threading.Event()
        self.meeting = None


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.removeprefix("/")
        self.server.requests.append(name)
        if self.server.meeting:
            self.server.meeting.wait()
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "hang":
            self.server.closing.wait()
        elif isinstance(fault, int) or name not in self.server.files:
            self.send_error(fault or 404)
        else:
            body = self.server.files[name]
            self.send_response(200)
            self.send_header("Content-Length", len(body))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "truncate" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(monkeypatch):
    server = Publisher()
    monkeypatch.setattr(data, "PLANETOID_URL", server.url)
    monkeypatch.setattr(data, "CIFAR10_URL", server.url)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files_below(folder)}


@contextmanager
def workbench_error(*phrases):
    with pytest.raises(WorkbenchError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for phrase in phrases:
        assert phrase in message


@contextmanager
def files_up_to(limit):
    """Writing beyond `limit` bytes of a file fails half-way with an OSError, as on a full disk."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


# --- synthetic files in the publishers' formats


def planetoid_files(name, seed=0):
    """The eight files of a random graph as the publisher would write them, and the graph they hold."""
    rng = np.random.default_rng(seed)
    known, labelled, features, classes = 560, 30, 12, 3
    span = np.arange(known, known + 45)
    test = rng.permutation(span)
    if name == "citeseer":  # some test nodes occur in no file: they have no words, and class 0
        test = test[(test != span[3]) & (test != span[20])]
    nodes = known + len(span)
    x = rng.integers(0, 3, (nodes, features)).astype(np.float32) * (rng.random((nodes, features)) < 0.4)
    x[7] = 0
    y = rng.integers(0, classes, nodes)
    absent = np.setdiff1d(span, test)
    x[absent], y[absent] = 0, 0
    one_hot = np.eye(classes, dtype=np.int32)[y]

    graph = defaultdict(list, {node: [] for node in range(nodes)})
    edges = set()
    for i, j in rng.integers(0, nodes, (1500, 2)).tolist():
        graph[i].append(j)
        if rng.random() < 0.8:
            graph[j] += [i, i]  # listed twice, as some links of CiteSeer are
        if i != j:
            edges.add((min(i, j), max(i, j)))
    graph[5].append(5)

    def pickled(content):
        return pickle.dumps(content, protocol=2).replace(b"scipy.sparse._csr", b"scipy.sparse.csr")

    parts = {
        "x": pickled(scipy.sparse.csr_matrix(x[:labelled])),
        "tx": pickled(scipy.sparse.csr_matrix(x[test])),
        "allx": pickled(scipy.sparse.csr_matrix(x[:known])),
        "y": pickled(one_hot[:labelled]),
        "ty": pickled(one_hot[test]),
        "ally": pickled(one_hot[:known]),
        "graph": pickled(graph),
        "test.index": "".join(f"{node}\n" for node in test).encode(),
    }
    splits = {"train": range(30), "val": range(30, 530), "test": sorted(test)}
    truth = SimpleNamespace(x=x, y=y, edges=sorted(edges), **splits)
    return {f"ind.{name}.{part}": content for part, content in parts.items()}, truth


@pytest.fixture(params=["cora", "citeseer"])
def synthetic(request, monkeypatch):
    """(name, files, truth) of a synthetic graph whose hashes are the known ones."""
    return make_known(monkeypatch, request.param)


@pytest.fixture
def cora(monkeypatch):
    return make_known(monkeypatch, "cora")


def make_known(monkeypatch, name):
    files, truth = planetoid_files(name)
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(data.PLANETOID, name, hashes)
    return name, files, truth


def lay_out(root, name, files):
    folder = root / data.FOLDERS[name]
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def check_graph(graph, truth):
    sums = truth.x.sum(1, keepdims=True)
    expected = np.divide(truth.x, sums, out=np.zeros_like(truth.x), where=sums > 0)
    np.testing.assert_allclose(graph.x, expected, atol=1e-6)
    assert graph.y.tolist() == truth.y.tolist()
    assert [tuple(edge) for edge in graph.edges.T.tolist()] == truth.edges
    for part in ("train", "val", "test"):
        assert getattr(graph, part).tolist() == [list(getattr(truth, part))], part
    assert (graph.x.dtype, graph.y.dtype, graph.edges.dtype) == (torch.float32, torch.int64, torch.int64)


def cifar10_batches(records=10, seed=0):
    """The six files of the binary version with a few random images each."""
    rng = np.random.default_rng(seed)
    batches = {}
    for file in data.CIFAR10:
        content = rng.integers(0, 256, (records, 3073), dtype=np.uint8)
        content[:, 0] = rng.integers(0, 10, records)
        batches[file] = content
    return batches


@pytest.fixture
def cifar10_archive(monkeypatch, publisher):
    """The publisher serves a small archive with the known hash; returns its batches."""
    batches = cifar10_batches()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file in ("batches.meta.txt", "data_batch_3.bin", *sorted(set(batches) - {"data_batch_3.bin"})):
            content = batches[file].tobytes() if file in batches else b"airplane\n"
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    archive = buffer.getvalue()
    publisher.files[data.CIFAR10_ARCHIVE] = archive
    monkeypatch.setattr(data, "CIFAR10_HASH", f"md5:{hashlib.md5(archive).hexdigest()}")
    return batches


def check_images(images, batches):
    records = np.concatenate(batches)
    assert images.y.tolist() == records[:, 0].tolist()
    for image, record in zip(images.x, records, strict=True):
        assert (image * 255).round().byte().flatten().tolist() == record[1:].tolist()
    assert images.x.dtype == torch.float32
    assert images.x.shape[1:] == (3, 32, 32)


# --- writing


def test_write_atomic_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    data.write_atomic(path, b"one")
    data.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert files_below(tmp_path) == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode  # others may read it as any other file


def test_write_atomic_that_fails_half_way_leaves_the_old_content_only(tmp_path):
    path = tmp_path / "figure.csv"
    data.write_atomic(path, b"old")
    with files_up_to(100_000), workbench_error("cannot write", "figure.csv", "make room"):
        data.write_atomic(path, b"new" * 100_000)
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == [path]


def test_write_atomic_that_cannot_rename_leaves_the_old_content_only(tmp_path, monkeypatch):
    path = tmp_path / "figure.csv"
    data.write_atomic(path, b"old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with workbench_error("No space left on device", str(path)):
        data.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == [path]


# --- embedded data


def test_digits_are_scaled_images():
    images = data.digits()
    assert images.x.shape == (1797, 1, 8, 8)
    assert (images.x.min(), images.x.max()) == (0, 1)
    assert set((images.x * 16).unique().tolist()) == set(range(17))
    assert images.y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.hash == data.digits().hash
    assert len(images.hash) == 16


def test_hash_sees_every_part():
    images = data.digits()
    changed = images.x.clone()
    changed[0, 0, 0, 0] += 1
    graph = data.digits_graph([0])
    variants = [
        images,
        dataclasses.replace(images, name="other"),
        dataclasses.replace(images, x=changed),
        dataclasses.replace(images, x=images.x.flatten(1)),
        dataclasses.replace(images, y=images.y.flip(0)),
        graph,
        dataclasses.replace(graph, edges=graph.edges[:, 1:]),
        dataclasses.replace(graph, val=graph.test, test=graph.val),
    ]
    assert len({variant.hash for variant in variants}) == len(variants)


def test_photographs_have_channels_first():
    from sklearn.datasets import load_sample_image

    pictures = data.photographs()
    assert set(pictures) == {"china", "flower"}
    for name, picture in pictures.items():
        assert picture.shape == (3, 427, 640)
        assert picture.dtype == torch.float32
        expected = load_sample_image(f"{name}.jpg")
        for row, column in ((0, 0), (100, 600), (426, 3)):
            assert (picture[:, row, column] * 255).round().tolist() == expected[row, column].tolist()


def test_digits_graph_joins_the_ten_nearest():
    """Against distances in whole numbers, where a tie for the tenth place may fall either way."""
    graph = data.digits_graph([0])
    assert (graph.num_nodes, graph.num_edges, graph.num_classes) == (1797, 12_340, 10)
    pixels = (graph.x.numpy() * 16).astype(np.int32)
    distance = np.stack([((pixels - row) ** 2).sum(1) for row in pixels])
    np.fill_diagonal(distance, np.iinfo(np.int32).max)
    tenth = np.sort(distance, axis=1)[:, 9:10]
    joined = np.zeros(distance.shape, bool)
    joined[tuple(graph.edges.numpy())] = True
    joined |= joined.T
    nearer = distance < tenth
    assert joined[nearer | nearer.T].all()
    near = distance <= tenth
    assert (near | near.T)[joined].all()
    assert (joined & near).sum(1).min() >= 10


def test_digits_graph_edges_are_canonical():
    i, j = data.digits_graph([0]).edges.tolist()
    pairs = list(zip(i, j, strict=True))
    assert all(a < b for a, b in pairs)
    assert pairs == sorted(set(pairs))


def test_digits_graph_does_not_depend_on_the_number_of_threads():
    with threadpool_limits(4):
        many = data.digits_graph([0])
    with threadpool_limits(1):
        assert many.hash == data.digits_graph([0]).hash


def test_digits_graph_splits():
    graph = data.digits_graph([3, 4, 3])
    assert (graph.train.shape, graph.val.shape, graph.test.shape) == ((3, 200), (3, 500), (3, 1000))
    for train, val, test in zip(graph.train, graph.val, graph.test, strict=True):
        assert graph.y[train].bincount().tolist() == [20] * 10
        assert len(set(train.tolist()) | set(val.tolist()) | set(test.tolist())) == 1700
    for part in (graph.train, graph.val, graph.test):
        assert torch.equal(part[0], part[2])
        assert not torch.equal(part[0], part[1])
    assert torch.equal(graph.train[1], data.digits_graph([4]).train[0])


# --- Planetoid, from a folder of one's own


def test_planetoid_reads_the_publishers_files(synthetic, monkeypatch, tmp_path):
    name, files, truth = synthetic
    lay_out(tmp_path / "own", name, files)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "own"))
    before = snapshot(tmp_path / "own")
    first, second = data.planetoid(name), data.planetoid(name)
    check_graph(first, truth)
    check_graph(second, truth)
    assert first.hash == second.hash
    assert snapshot(tmp_path / "own") == before


def test_the_room_is_light_to_import_and_loads_quietly(cora, tmp_path):
    name, files, _ = cora
    lay_out(tmp_path, name, files)
    code = (
        "import json, pathlib, sys; from workbench import data; "
        "print(*{'torch_geometric', 'sklearn', 'scipy'} & set(sys.modules)); "
        "data.CACHE, data.PLANETOID['cora'] = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]); "
        "print(data.planetoid('cora').num_nodes)"
    )
    command = [sys.executable, "-c", code, str(data.CACHE), json.dumps(data.PLANETOID[name])]
    environment = os.environ | {"WORKBENCH_DATA": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("\n605\n", "")


def test_planetoid_is_parsed_once(cora, monkeypatch, tmp_path):
    name, files, truth = cora
    lay_out(tmp_path, name, files)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    data.planetoid(name)

    def no_parsing(*args):
        raise AssertionError("parsed again")

    with monkeypatch.context() as patch:
        patch.setattr("torch_geometric.io.read_planetoid_data", no_parsing)
        check_graph(data.planetoid(name), truth)

    (parsed,) = files_below(data.CACHE)
    content = bytearray(parsed.read_bytes())
    content[len(content) // 2] ^= 1  # one flipped bit is enough
    parsed.write_bytes(content)
    check_graph(data.planetoid(name), truth)


def test_planetoid_needs_no_cache(cora, monkeypatch, tmp_path):
    name, files, truth = cora
    lay_out(tmp_path / "own", name, files)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "own"))
    (tmp_path / "cache").write_text("a file where the cache folder should be")
    check_graph(data.planetoid(name), truth)


def test_no_pickle_is_opened_unverified(cora, monkeypatch, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    name, files, _ = cora
    folder = lay_out(tmp_path, name, files)
    (folder / "ind.cora.graph").write_bytes(pickle.dumps(Trap()))
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    with workbench_error("ind.cora.graph", "wrong hash", "fetch it again"):
        data.planetoid(name)
    assert not (tmp_path / "sprung").exists()


def test_planetoid_names_the_file_that_is_missing(cora, monkeypatch, tmp_path):
    name, files, _ = cora
    (lay_out(tmp_path, name, files) / "ind.cora.ty").unlink()
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    with workbench_error("lacks ind.cora.ty", str(tmp_path)):
        data.planetoid(name)


def test_planetoid_names_the_graphs_there_are():
    with workbench_error("'pubmed'", "cora or citeseer"):
        data.planetoid("pubmed")


@pytest.mark.parametrize("load", [lambda: data.planetoid("cora"), lambda: data.cifar10(True)])
def test_a_data_folder_that_does_not_exist_is_said_so(load, monkeypatch, tmp_path, publisher):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "nowhere"))
    with workbench_error("WORKBENCH_DATA", "nowhere", "unset"):
        load()
    assert publisher.requests == []


def test_a_data_folder_without_this_data_set_is_passed_over(cora, monkeypatch, tmp_path, publisher):
    name, publisher.files, truth = cora
    lay_out(tmp_path / "own", "cifar10", {})
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "own"))
    check_graph(data.planetoid(name), truth)
    assert files_below(tmp_path / "own") == []


# --- downloads


def test_a_download_is_verified_kept_and_not_repeated(synthetic, publisher):
    name, publisher.files, truth = synthetic
    assert data.status(name) == "to be downloaded"
    check_graph(data.planetoid(name), truth)
    folder = data.CACHE / data.FOLDERS[name]
    assert {path.name: path.read_bytes() for path in files_below(folder)} == publisher.files
    assert data.status(name) == f"cached in {folder}"
    assert sorted(publisher.requests) == sorted(publisher.files)

    publisher.requests.clear()
    check_graph(data.planetoid(name), truth)
    assert publisher.requests == []


FAULTS = {
    "not found": (404, "the server answered 404"),
    "server error": (500, "the server answered 500"),
    "truncated body": ("truncate", "broke off"),
    "no answer": ("hang", "no answer within 0.2 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["cora", "cifar10"])
def test_a_failed_download_leaves_nothing(name, fault, cora, cifar10_archive, publisher, monkeypatch):
    publisher.files.update(cora[1])
    what, phrase = FAULTS[fault]
    publisher.faults = [what] * (1 + data.RETRIES)
    monkeypatch.setattr(data, "TIMEOUT", 0.2)
    file = "ind.cora.x" if name == "cora" else data.CIFAR10_ARCHIVE
    with workbench_error(f"{publisher.url}/{file}", phrase, data.FOLDERS[name], "set WORKBENCH_DATA"):
        data.fetch(name)
    assert publisher.requests == [file] * (1 + data.RETRIES)
    assert files_below(data.CACHE) == []
    assert data.status(name) == "to be downloaded"
    data.fetch(name)  # the fault is over: nothing stands in the way
    assert data.status(name).startswith("cached")


@pytest.mark.parametrize("name", ["cora", "cifar10"])
def test_a_file_with_the_wrong_hash_is_not_kept(name, cora, cifar10_archive, publisher):
    publisher.files.update(cora[1])
    file = "ind.cora.x" if name == "cora" else data.CIFAR10_ARCHIVE
    publisher.files[file] = b"<html>Please log in</html>"
    with workbench_error(file, "wrong hash", "set WORKBENCH_DATA"):
        data.fetch(name)
    assert files_below(data.CACHE) == []


@pytest.mark.parametrize("name", ["cora", "cifar10"])
def test_no_connection_is_one_line(name, cora, cifar10_archive, publisher, monkeypatch, waits):
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as gone:
        url = f"http://127.0.0.1:{gone.server_port}"
    monkeypatch.setattr(data, "PLANETOID_URL", url)
    monkeypatch.setattr(data, "CIFAR10_URL", url)
    with workbench_error("cannot download", "no connection", "connect and try again", "WORKBENCH_DATA"):
        data.fetch(name)
    assert files_below(data.CACHE) == []
    assert len(waits) == data.RETRIES


def test_a_passing_fault_is_retried(cora, publisher, waits):
    name, publisher.files, truth = cora
    publisher.faults = [500, "truncate"]
    check_graph(data.planetoid(name), truth)
    assert Counter(publisher.requests)["ind.cora.x"] == 3
    assert len(waits) == 2


def test_a_damaged_file_in_the_cache_is_fetched_again(cora, publisher):
    name, publisher.files, truth = cora
    data.planetoid(name)
    (data.CACHE / data.FOLDERS[name] / "ind.cora.graph").write_bytes(b"damaged")
    publisher.requests.clear()
    check_graph(data.planetoid(name), truth)
    assert publisher.requests == ["ind.cora.graph"]


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(cifar10_archive, publisher):
    assert len(publisher.files[data.CIFAR10_ARCHIVE]) > 100_000
    with files_up_to(65_536), workbench_error("cannot write", data.CIFAR10_ARCHIVE, "make room"):
        data.cifar10(True)
    assert files_below(data.CACHE) == []


# --- CIFAR-10


def test_cifar10_from_the_archive(cifar10_archive, publisher):
    check_images(data.cifar10(True), [cifar10_archive[f"data_batch_{i}.bin"] for i in range(1, 6)])
    check_images(data.cifar10(False), [cifar10_archive["test_batch.bin"]])
    assert data.cifar10(True).hash != data.cifar10(False).hash
    assert publisher.requests == [data.CIFAR10_ARCHIVE]


def test_cifar10_extraction_that_broke_off_is_completed(cifar10_archive, monkeypatch):
    write, calls = data.write_atomic, []

    def breaks_off(path, content):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(data, "write_atomic", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            data.cifar10(True)
    assert data.status("cifar10") == "to be downloaded"
    check_images(data.cifar10(True), [cifar10_archive[f"data_batch_{i}.bin"] for i in range(1, 6)])


def test_two_processes_may_fetch_at_once(cifar10_archive, publisher, tmp_path):
    publisher.meeting = threading.Barrier(2, timeout=120)  # each waits until the other downloads, too
    code = (
        "import pathlib, sys; from workbench import data; "
        "data.CACHE = pathlib.Path(sys.argv[1]); data.CIFAR10_URL, data.CIFAR10_HASH = sys.argv[2:]; "
        "print(data.cifar10(True).hash)"
    )
    command = [sys.executable, "-c", code, str(data.CACHE), publisher.url, data.CIFAR10_HASH]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = [process.communicate()[0].strip() for process in both]
    assert len(publisher.requests) == 2
    assert hashes == [data.cifar10(True).hash] * 2
    assert {path.name for path in files_below(data.CACHE)} == {data.CIFAR10_ARCHIVE, *data.CIFAR10}


def test_cifar10_takes_the_batches_there_are(monkeypatch, tmp_path):
    batches = cifar10_batches()
    chosen = ("data_batch_2.bin", "data_batch_4.bin", "test_batch.bin")
    folder = lay_out(tmp_path, "cifar10", {file: batches[file].tobytes() for file in chosen})
    (folder / "test_batch.bin").write_bytes(batches["test_batch.bin"][:4].tobytes())
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    before = snapshot(tmp_path)
    check_images(data.cifar10(True), [batches["data_batch_2.bin"], batches["data_batch_4.bin"]])
    check_images(data.cifar10(False), [batches["test_batch.bin"][:4]])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3 * 3073 - 1), b"\x0a" + bytes(3072)])
def test_cifar10_refuses_a_damaged_batch(content, monkeypatch, tmp_path):
    batches = {"data_batch_1.bin": bytes(3073), "data_batch_2.bin": content, "test_batch.bin": bytes(3073)}
    lay_out(tmp_path, "cifar10", batches)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    for load in (lambda: data.cifar10(True), lambda: data.fetch("cifar10")):
        with workbench_error("truncated file", "data_batch_2.bin", "fetch it again"):
            load()
    assert len(data.cifar10(False).y) == 1


def test_cifar10_names_the_batches_that_are_missing(monkeypatch, tmp_path):
    lay_out(tmp_path, "cifar10", {"test_batch.bin": bytes(3073)})
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    with workbench_error("lacks data_batch_*.bin", str(tmp_path)):
        data.cifar10(True)


# --- the table of `workbench data`


def test_status_and_fetch_know_every_data_set(cora, monkeypatch, tmp_path):
    assert {name: data.status(name) for name in data.DATASETS} == {
        "digits": "embedded in scikit-learn",
        "photographs": "embedded in scikit-learn",
        "cora": "to be downloaded",
        "citeseer": "to be downloaded",
        "cifar10": "to be downloaded",
    }
    folder = lay_out(tmp_path, *cora[:2])
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert data.status("cora") == data.fetch("cora") == f"found in {folder}"
    assert data.fetch("digits") == "embedded in scikit-learn"
    for ask in (data.status, data.fetch):
        with workbench_error("'imagenet'", "digits, photographs, cora, citeseer, cifar10"):
            ask("imagenet")


# --- validation split


@given(
    y=st.lists(st.integers(0, 4), max_size=200),
    fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_validation_split_is_a_stratified_partition(y, fraction, seed):
    y = torch.tensor(y, dtype=torch.int64)
    train, val = data.validation_split(y, fraction, seed)
    assert sorted(train.tolist() + val.tolist()) == list(range(len(y)))
    assert train.tolist() == sorted(train.tolist())
    assert abs(len(val) - fraction * len(y)) <= 0.5 + 1e-9
    for label in range(5):
        share = fraction * (y == label).sum().item()
        assert abs((y[val] == label).sum().item() - share) <= 1 + 1e-9
    assert torch.equal(val, data.validation_split(y, fraction, seed)[1])


def test_validation_split_is_random_within_a_class():
    y = torch.arange(100) % 2
    splits = [data.validation_split(y, 0.3, seed)[1] for seed in range(200)]
    times = torch.cat(splits).bincount(minlength=100)
    assert (times - 60).abs().max() < 33  # five standard deviations: each index is drawn in 0.3 of the splits


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_validation_split_refuses_an_impossible_fraction(fraction):
    with workbench_error("between 0 and 1", str(fraction)):
        data.validation_split(torch.zeros(10), fraction, 0)


# --- the real files


@pytest.fixture
def real(monkeypatch):
    """The real folder; the test fails if loading changes anything in the parts that are read."""
    monkeypatch.setenv("WORKBENCH_DATA", REAL)
    folders = [Path(REAL) / part for part in ("Planetoid", "cifar-10-batches-bin")]
    before = [snapshot(folder) for folder in folders]
    yield Path(REAL)
    assert [snapshot(folder) for folder in folders] == before


def oracle(folder, name):
    """The reading of Kipf and Welling's gcn/utils.py, written anew with scipy and sets."""

    def part(key):
        with open(folder / f"ind.{name}.{key}", "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pickle.load(file, encoding="latin1")

    test = [int(line) for line in (folder / f"ind.{name}.test.index").read_text().split()]
    known, nodes = part("allx").shape[0], max(test) + 1
    x = np.zeros((nodes, part("allx").shape[1]), np.float32)
    y = np.zeros((nodes, part("ally").shape[1]), int)
    x[:known], y[:known] = part("allx").toarray(), part("ally")
    x[test], y[test] = part("tx").toarray(), part("ty")
    links = {(min(i, j), max(i, j)) for i, near in part("graph").items() for j in near if i != j}
    labelled = len(part("y"))
    return SimpleNamespace(
        x=x,
        y=y.argmax(1),
        edges=sorted(links),
        train=range(labelled),
        val=range(labelled, labelled + 500),
        test=sorted(test),
    )


@real_data
@pytest.mark.parametrize(
    ("name", "folder", "counts", "labelled", "homophily"),
    [
        ("cora", "Cora", (2708, 5278, 1433, 7), 140, 0.81),
        ("citeseer", "CiteSeer", (3327, 4552, 3703, 6), 120, 0.74),
    ],
)
def test_the_real_citation_graphs(real, name, folder, counts, labelled, homophily):
    graph = data.planetoid(name)
    check_graph(graph, oracle(real / "Planetoid" / folder / "raw", name))
    assert (graph.num_nodes, graph.num_edges, graph.x.shape[1], graph.num_classes) == counts
    assert [part.shape[1] for part in (graph.train, graph.val, graph.test)] == [labelled, 500, 1000]
    same = (graph.y[graph.edges[0]] == graph.y[graph.edges[1]]).double().mean()
    assert same == pytest.approx(homophily, abs=0.005)
    alone = graph.num_nodes - len(graph.edges.unique())
    assert alone == {"cora": 0, "citeseer": 48}[name]


@real_data
def test_the_real_citation_graph_travels_through_a_download(real, publisher, monkeypatch):
    raw = real / data.FOLDERS["cora"]
    own = data.planetoid("cora").hash
    publisher.files = {file: (raw / file).read_bytes() for file in data.PLANETOID["cora"]}
    monkeypatch.delenv("WORKBENCH_DATA")
    assert data.planetoid("cora").hash == own
    assert len(publisher.requests) == 8


@real_data
@pytest.mark.parametrize("train", [True, False])
def test_the_real_cifar10(real, train):
    images = data.cifar10(train)
    count = len(images.y)
    assert count in range(5_000, 50_001, 5_000)
    assert images.x.shape == (count, 3, 32, 32)
    assert (images.x.min(), images.x.max()) == (0, 1)
    assert images.y.bincount().tolist() == pytest.approx([count / 10] * 10, rel=0.1)
    assert images.x.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)
    across = (images.x[..., 1:] - images.x[..., :-1]).abs().mean()
    assert across < 0.1  # neighbouring pixels are alike only where the layout is read right
