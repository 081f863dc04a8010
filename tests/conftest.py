"""How property tests draw, and the browser and JupyterLab that some tests look through."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import hypothesis
import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The same examples for everyone, with CI set or not, and no deadline, as a busy machine is no fault of the code.
# `make fuzz` draws at random, with every round anew, and keeps what failed in .hypothesis for the next time.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.register_profile("fuzz", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session")
def browser():
    """A Chromium without a screen."""
    if not CHROMIUM:
        pytest.skip("no Chromium here: install one or set CHROMIUM=path")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def ask(url, method="GET"):
    """The answer of a server here, read as JSON."""
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as answer:
        return json.loads(answer.read() or "null")


@contextmanager
def jupyterlab(command, root, home):
    """The address of a JupyterLab that `command` starts in the folder `root`; what it stores goes to `home`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*command, "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {f"JUPYTERLAB_{name}_DIR": str(home / name) for name in ("SETTINGS", "WORKSPACES")}
    environment = {**os.environ, **folders}
    environment.pop("WORKBENCH_HOST", None)
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        try:
            url, start = f"http://127.0.0.1:{port}", time.monotonic()
            while True:
                try:
                    ask(f"{url}/api")
                    break
                except OSError:
                    log_so_far = (home / "log").read_text()
                    assert server.poll() is None, log_so_far
                    assert time.monotonic() - start < 120, log_so_far
                    time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:  # it waits without end for a kernel that was just starting
                server.kill()
                server.wait()
