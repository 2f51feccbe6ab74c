"""What every tutorial owes its reader."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "nbs/00_tutorials").glob("[0-9]*.ipynb"))
ORDER = ["first site", "hybrid", "calibration", "greenness", "process", "network", "FLUXNET sites", "Uncertainty", "map"]


def test_they_come_in_the_order_of_a_reader():
    parts = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = next(p["contents"] for p in parts if isinstance(p, dict) and p["section"] == "Tutorials")
    assert listed == [p.relative_to(ROOT / "nbs").as_posix() for p in TUTORIALS] and len(TUTORIALS) == len(ORDER)
    for path, words in zip(TUTORIALS, ORDER):
        title = json.loads(path.read_text())["cells"][0]["source"][0]
        assert words in title, f"{path.name}: {title}"


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial(path):
    cells = json.loads(path.read_text())["cells"]
    head, install = "".join(cells[1]["source"]), "".join(cells[2]["source"])  # what follows the title in its own cell is lost on the site
    assert all(f"**{word}" in head for word in ("Data:", "Time:", "You will learn")), "data, time and what one learns stand at the top"
    assert len(cells) < 40 and "find_spec" in install and "git+https://github.com/hybridecosys/hybridecosys" in install
    code = [c for c in cells if c["cell_type"] == "code"]
    assert all(c["execution_count"] is None or c["outputs"] is not None for c in code) and any(c["outputs"] for c in code), "it is kept with its outputs"
    for cell in code:
        source, kinds = "".join(cell["source"]), [k for o in cell["outputs"] for k in o.get("data", {})]
        assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in cell["outputs"]), f"{cell['id']}: an error or a warning is shown"
        assert "image/png" not in kinds or re.search(r"#\| fig-alt: \".{40,}\"", source), f"{cell['id']}: a figure without a description"
        assert "application/vnd.jupyter.widget-view+json" not in kinds, f"{cell['id']}: a slider shows nothing where nothing runs"
    assert path.stat().st_size < 500_000
    links = re.findall(r"\]\((?!http)([^)#]+)", "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown"))
    assert links and all((path.parent / link).exists() for link in links)
