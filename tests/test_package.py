"""The package as a whole: light import, public names, modules and site in step with the notebooks, declared requirements."""

import ast
import filecmp
import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

import hybridecosys

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini")
SETTINGS = SETTINGS["DEFAULT"]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.mark.parametrize("given, kept", [(None, []), ("--xla_force_host_platform_device_count=2", ["--xla_force_host_platform_device_count=2"])])
def test_loops_are_compiled_whole_beside_the_flags_that_are_given(given, kept):
    code = "import os, hybridecosys, jax; jax.devices(); print(os.environ['XLA_FLAGS'])"
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | ({} if given is None else {"XLA_FLAGS": given})
    flags = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.split()
    assert flags[:-1] == kept and flags[-1].startswith("--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=")
    assert flags[-1].endswith(",xla_cpu_disable_loop_unrolling=true")


def test_xla_options_of_the_user_stay_as_they_are():
    mine = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1024"
    code = "import os, hybridecosys; print(os.environ['XLA_FLAGS'])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": mine}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mine


def test_import_is_light():
    code = "import sys, hybridecosys; print([m for m in ('jax', 'numpy', 'pandas', 'xarray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_public_names():
    for name in hybridecosys.__all__:
        assert callable(getattr(hybridecosys, name)), name
        assert name in dir(hybridecosys)
    for name in hybridecosys._MODULES:
        assert getattr(hybridecosys, name).__all__ and name in dir(hybridecosys)
    with pytest.raises(AttributeError, match="did you mean 'simulate'"):
        _ = hybridecosys.simulat
    assert not hasattr(hybridecosys, "_repr_html_")


def test_public_names_of_the_version_before_are_still_there():
    """A name, or an argument, that goes needs a deprecation first (see how this is built); what is new is added to the file with a release.

    Options that `**options` takes are arguments like others, and their functions show them."""
    for name, arguments in json.loads((ROOT / "tests/public_names.json").read_text()).items():
        assert name in hybridecosys.__all__, name
        now = inspect.signature(getattr(hybridecosys, name)).parameters
        assert set(arguments) <= set(now), f"{name}: {sorted(set(arguments) - set(now))}"
        first = [a for a in arguments if now[a].kind is now[a].POSITIONAL_OR_KEYWORD]
        assert [a for a in now if a in first] == first, f"{name}: arguments in another order"


def test_source_distribution_has_what_its_setup_reads():
    given = (ROOT / "MANIFEST.in").read_text().split()
    assert {"settings.ini", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"} <= set(given)
    assert SETTINGS["notebooks_requirements"].split()[0].startswith("jupyterlab")


def test_names_for_editors_are_the_lazy_ones():
    blocks = (n for n in ast.parse((ROOT / "hybridecosys/__init__.py").read_text()).body if isinstance(n, ast.If))
    block = next(n for n in blocks if getattr(n.test, "id", "") == "TYPE_CHECKING")
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    modules = {name for name, module in shown.items() if module is None}
    assert modules == set(hybridecosys._MODULES)
    names = {name: module for name, module in shown.items() if name not in modules}
    assert names == hybridecosys._HOME and sorted(names) == sorted(hybridecosys.__all__)


def test_version_is_that_of_settings_and_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert hybridecosys.__version__ == SETTINGS["version"] == citation["version"]


def test_modules_are_in_step_with_the_notebooks(tmp_path):
    pytest.importorskip("nbdev", reason="nbdev, which exports the modules, is a package of development")
    for name in ("nbs", "hybridecosys"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"), symlinks=True)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    modules = {p.relative_to(base).as_posix() for base in (ROOT, tmp_path) for p in (base / "hybridecosys").rglob("*.py")}
    stale = [m for m in sorted(modules) if not ((ROOT / m).exists() and filecmp.cmp(ROOT / m, tmp_path / m, shallow=False))]
    assert not stale, f"not what the notebooks say (make export): {', '.join(stale)}"


MODULES = sorted(p for p in (ROOT / "hybridecosys").rglob("*.py") if not p.name.startswith("_"))


def test_modules_use_public_names_of_one_another():
    """A name with a leading underscore is of its own module: nobody else imports it or reaches for it."""
    for path in MODULES:
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        taken = [(a.asname or a.name, a.name) for n in nodes if isinstance(n, ast.ImportFrom) and (n.level or n.module.startswith("hybridecosys")) for a in n.names]
        reached = [n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in {here for here, _ in taken if here.islower()}]
        private = [name for name in [*(name for _, name in taken), *reached] if re.match(r"_(?!_)", name)]
        assert not private, f"{path.relative_to(ROOT)} uses {', '.join(private)} of another module: give it a name without an underscore"


ROOMS = ["data", "processes", "model", "learning", "evaluation", "study"]


def test_annotations_mean_something():
    """Each annotation of each function and class names types that exist where it stands, and public functions annotate all of their arguments."""
    modules = [import_module(".".join(p.relative_to(ROOT).with_suffix("").parts)) for p in sorted((ROOT / "hybridecosys").rglob("*.py")) if not p.name.startswith("_")]
    for module in modules:
        own = [x for x in vars(module).values() if getattr(x, "__module__", None) == module.__name__ and (inspect.isfunction(x) or inspect.isclass(x))]
        methods = [f for x in own if inspect.isclass(x) for f in vars(x).values() if inspect.isfunction(f)]
        for x in (*own, *methods):
            get_type_hints(x)  # NameError, naming what is not there
    for name in hybridecosys.__all__:
        if inspect.isfunction(x := getattr(hybridecosys, name)):
            signature = inspect.signature(x)
            bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            assert not bare and signature.return_annotation is not signature.empty, f"{name}: {bare or 'what it returns'} is not annotated"


def test_rooms_import_one_way():
    """data, processes, model, learning, evaluation, study: each room knows those before it, none after it."""
    assert {p.name for p in (ROOT / "hybridecosys").iterdir() if (p / "__init__.py").exists()} == set(ROOMS)
    for path in (p for p in MODULES if p.parent.name in ROOMS):
        after = ROOMS[ROOMS.index(path.parent.name) + 1 :]
        for node in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module):
            parts = node.module.removeprefix("hybridecosys.").split(".")
            assert parts[0] not in after or (node.level != 2 and not node.module.startswith("hybridecosys.")), f"{path.relative_to(ROOT)} imports {node.module}"


def test_every_module_has_a_notebook():
    exported = {m.group(1) for nb in NOTEBOOKS for m in re.finditer(r"#\| ?default_exp ([\w.]+)", nb.read_text())}
    modules = {".".join(p.relative_to(ROOT / "hybridecosys").with_suffix("").parts) for p in (ROOT / "hybridecosys").rglob("*.py")}
    assert {m for m in modules if not m.split(".")[-1].startswith("_")} == exported


SIDEBAR = ["Start here", "Your data", "Tutorials", "Which method when", "Your own process", "Processes", "Model", "Learning", "Evaluation", "Reference", "FAQ",
           "How this is built", "Changelog"]


def pages_of(part) -> list[str]:
    """The pages of an entry of the sidebar, those of the sections inside it behind them."""
    return [part] if isinstance(part, str) else [page for inner in part["contents"] for page in pages_of(inner)]


def test_sidebar_lists_every_page_in_the_order_of_a_reader():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    sections = [part for part in site if isinstance(part, dict)]
    sections += [inner for part in sections for inner in part["contents"] if isinstance(inner, dict)]
    parts = {part["section"]: [e for e in part["contents"] if isinstance(e, str)] for part in sections}
    entries = [page for part in site for page in pages_of(part)]
    pages = [p.relative_to(ROOT / "nbs").as_posix() for p in (ROOT / "nbs").rglob("*") if p.suffix in (".ipynb", ".md") and ".ipynb_checkpoints" not in p.parts]
    assert sorted(entries) == sorted(pages), "the sidebar of _quarto.yml must list all pages, each once"
    for name, contents in parts.items():
        assert contents == sorted(contents, key=lambda e: (not e.startswith("00_"), e)), f"{name}: pages out of order"
    titles = [part["section"] if isinstance(part, dict) else title(ROOT / "nbs" / part) for part in site]
    assert titles[0] == "hybridecosys" and titles[1:] == SIDEBAR


def title(page: Path) -> str:
    """The first heading of a page."""
    text = page.read_text()
    source = "".join(json.loads(text)["cells"][0]["source"]) if page.suffix == ".ipynb" else text
    return re.search(r"^# (.+)$", source, re.M)[1].strip()


def test_site_configuration_is_linked_into_the_notebooks():
    link = ROOT / "nbs/_quarto.yml"
    assert link.is_symlink() and link.resolve() == ROOT / "_quarto.yml", "nbs/_quarto.yml must be a link to ../_quarto.yml"


def test_notebooks_leave_the_filters_of_warnings_alone():
    """All notebooks are tested in one process: what one changes for good, the next ones feel."""
    for nb in NOTEBOOKS:
        cells = ["".join(c["source"]) for c in json.loads(nb.read_text())["cells"] if c["cell_type"] == "code"]
        cells = [c for c in cells if not re.match(r"#\| ?slow", c)]
        bad = re.search(r"^(warnings\.(simplefilter|filterwarnings|showwarning|formatwarning)|jax\.config|os\.chdir).*", "\n".join(cells), re.M)
        assert not bad, f"{nb.name}: {bad.group()}"
        assert sum("quiet.enter_context" in c for c in cells) == sum("quiet.close()" in c for c in cells), nb.name


def test_imports_stand_in_cells_of_their_own():
    """The site is built by running every cell that imports something: it must need nothing of other cells."""
    for nb in (nb for nb in NOTEBOOKS if "default_exp" in nb.read_text()):
        for cell in json.loads(nb.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or re.search(r"^#\| *export", source, re.M):
                continue
            nodes = [*ast.walk(ast.parse(source))]
            mixed = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes) and any(isinstance(n, (ast.Expr, ast.Assign)) for n in nodes)
            assert not mixed, f"{nb.name}, cell {cell['id']}: imports and other code in one cell"


def test_site_can_show_every_exported_name():
    pytest.importorskip("nbdev", reason="nbdev, which shows the documentation of names, is a package of development")
    from hybridecosys._showdoc import Renderer

    for path in sorted((ROOT / "hybridecosys").rglob("[a-z]*.py")):
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if callable(value) and not (isinstance(value, type) and "__init__" not in vars(value)):  # fastcore stumbles over an inherited one
                assert name in Renderer(value, name)._repr_markdown_(), f"{path.name}: {name}"


def test_notebooks_carry_no_path_of_a_machine():
    for nb in [*NOTEBOOKS, ROOT / "README.md"]:
        text = nb.read_text()
        found = re.search(r"/(home|root|Users|work)/[\w.]+|/tmp/\w+", text)
        assert not found, f"{nb.name}: {found.group()}"


def test_imports_are_declared():
    declared = {re.split(r"[<>=\[]", r)[0].lower().replace("_", "-") for r in SETTINGS["requirements"].split()}
    owners = packages_distributions()
    for module in set((ROOT / "hybridecosys").rglob("*.py")) - {ROOT / "hybridecosys/_showdoc.py"}:  # only nbdev imports that
        for node in ast.walk(ast.parse(module.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for name in {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"hybridecosys"}:
                owner = {o.lower().replace("_", "-") for o in owners.get(name, [name])}
                assert owner & declared, f"{module.name} imports {name}, which settings.ini does not require"


def test_the_lock_file_meets_the_requirements():
    from packaging.requirements import Requirement

    lines = [line.partition(";")[0].strip() for line in (ROOT / ".ci/lock.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if "//" in line or line.startswith("-")], "the lock file names a host or an option"
    locked = {}
    for name, version in (line.split("==") for line in lines):
        locked.setdefault(name.partition("[")[0].lower(), []).append(version.strip())
    for text in [r for key in ("requirements", "dev_requirements", "notebooks_requirements") for r in SETTINGS[key].split()]:
        wanted = Requirement(text)
        versions = locked.get(wanted.name.lower().replace("_", "-"), [])
        assert versions and all(wanted.specifier.contains(v) for v in versions), f"{text}, but the lock file has {versions or 'none'}"


def test_requirements_are_used():
    engines = {"zarr": "xarray", "cftime": "xarray", "h5py": "h5netcdf", "h5netcdf": "xarray"}  # asked for by others, by name
    text = "\n".join(p.read_text() for p in (ROOT / "hybridecosys").rglob("*.py"))
    owners = {}
    for module, names in packages_distributions().items():
        for name in names:
            owners.setdefault(name.lower().replace("_", "-"), set()).add(module)
    for requirement in SETTINGS["requirements"].split():
        name = re.split(r"[<>=\[]", requirement)[0]
        found = [m for m in owners.get(name.lower(), {name}) if re.search(rf"^\s*(import|from) {m}\b", text, re.M)]
        assert found or name in engines, f"settings.ini requires {name}, which nothing imports"


def test_readme_is_the_index():
    readme = runpy.run_path(str(ROOT / ".ci/readme.py"))["readme"]
    assert (ROOT / "README.md").read_text() == readme(ROOT / "nbs/index.ipynb"), "README.md is stale: make readme"
    for link in re.findall(r"\]\((nbs/[^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / link.partition("#")[0]).exists(), link
