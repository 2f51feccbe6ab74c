"""A tutorial as a reader runs it: opened in JupyterLab, in a browser, all cells run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "nbs/00_tutorials/01_first_site.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--no-sandbox --headless --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
PATIENCE = 300  # seconds; on a quiet machine the whole test takes less than a minute


@pytest.fixture
def lab(tmp_path):
    """Address and folder of a JupyterLab of its own, which knows nothing of the user's settings; without the outputs that the tutorial is kept with."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (pip install 'hybridecosys[notebooks]')")
    notebook = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / TUTORIAL.name).write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{n}_DIR": str(tmp_path / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")} | {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    arguments = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
                 "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None", "--expose-app-in-browser"]
    with open(tmp_path / "lab.log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *arguments], env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api", server, tmp_path / "lab.log")
        yield address, folder
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    """Until the server answers; its log where it does not."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_a_tutorial_runs_in_jupyterlab(lab):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    address, folder = lab
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{address}/lab/tree/{TUTORIAL.name}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'")
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        shown = page.locator(".jp-OutputArea-output img").count()
        browser.close()
    cells = [c for c in json.loads((folder / TUTORIAL.name).read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    errors = ["\n".join(o["traceback"]) for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    assert not errors, errors[0]
    assert all(c["execution_count"] for c in cells), "a cell was not run"
    kinds = [set(o.get("data", {})) for c in cells for o in c["outputs"]]
    assert sum("image/png" in k for k in kinds) >= 4 and shown > 0, "figures do not show themselves"
    assert any("application/vnd.jupyter.widget-view+json" in k for k in kinds), "the slider is not there"
