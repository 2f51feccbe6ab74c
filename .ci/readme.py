"""Write README.md from nbs/index.ipynb (nbdev_readme needs Quarto for this): prose, code and text outputs, links into nbs/."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def readme(notebook: Path) -> str:
    """The notebook as GitHub's Markdown; cells marked `#| hide` are left out, `#| ` directives removed."""
    parts = ["<!-- made from nbs/index.ipynb by `make readme`: edit the notebook -->"]
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if re.search(r"^#\| ?hide\b", source, re.M):
            continue
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\d\d_\w+/|images/)", r"](nbs/\1", source))
            continue
        parts.append("```python\n" + re.sub(r"^#\|.*\n", "", source, flags=re.M) + "\n```")
        for output in cell["outputs"]:
            text = "".join(output.get("text", "") if output.get("name") != "stderr" else "")
            text = text or "".join(output.get("data", {}).get("text/plain", ""))
            if text.strip():
                parts.append("```text\n" + text.rstrip() + "\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(ROOT / "nbs" / "index.ipynb"), encoding="utf-8")
