"""The site as a reader meets it: built, every link followed, every page opened in a browser, wide and narrow.

What the browser showed is kept in _screens, to be looked at: the top of every page at both widths, and, with HYBRIDECOSYS_SCREENS=whole in the environment, whole pages, in the light and the dark."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hybridecosys as he

ROOT = Path(__file__).resolve().parents[1]
DOCS, SCREENS = ROOT / "_docs", ROOT / "_screens"
WHOLE = os.environ.get("HYBRIDECOSYS_SCREENS") == "whole"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--no-sandbox --headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}


def builder():
    """The module that builds the site."""
    spec = importlib.util.spec_from_file_location("site_builder", ROOT / ".ci" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site() -> Path:
    """The site, built as `make docs` builds it where Quarto is absent: it ends with an error where a link leads nowhere."""
    for package in ("nbdev", "execnb", "smalldocs", "latex2mathml"):
        pytest.importorskip(package, reason=f"{package}, which the site is built with, is a package of development")
    done = subprocess.run([sys.executable, ROOT / ".ci" / "site.py", "prepare", "render", "finish"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return DOCS


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


LOOK = """() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    sidebar: !!document.querySelector('#quarto-sidebar .sidebar-link') && document.querySelector('#quarto-sidebar').getBoundingClientRect().right > 0,
    open: document.querySelector('#quarto-sidebar').classList.contains('show'),
    noalt: [...document.querySelectorAll('main img')].filter(i => !(i.alt || '').trim()).length,
    broken: [...document.querySelectorAll('main img')].filter(i => i.complete && !i.naturalWidth).length,
    flat: [...document.querySelectorAll('main math')].filter(m => !m.getBoundingClientRect().width).length,
    tex: [...document.querySelectorAll('main .math')].filter(m => !m.querySelector('math')).length,
    bare: (() => { const m = document.querySelector('main').cloneNode(true); m.querySelectorAll('pre, code, math').forEach(x => x.remove());
                   return (m.textContent.match(/\\\\[(\\[a-z]{2,}|\\$[^$\\n]{1,80}\\$/g) || []).slice(0, 3); })(),
    code: [...document.querySelectorAll('main pre')].filter(p => p.getBoundingClientRect().right > window.innerWidth + 1).length,
})"""


def keep_screen(page, name: str) -> None:
    """What the browser shows, as a picture of that name; the whole page in both modes, where that is wanted."""
    page.screenshot(path=SCREENS / f"{name}.jpg", type="jpeg", quality=60, full_page=WHOLE)
    if WHOLE:
        mode = "() => document.documentElement.classList.toggle('quarto-dark')"
        page.evaluate(mode)
        page.screenshot(path=SCREENS / f"{name} dark.jpg", type="jpeg", quality=60, full_page=True)
        page.evaluate(mode)


@pytest.fixture(scope="module")
def seen(browser, address, site) -> dict[str, dict]:
    """What a browser finds on every page: at both widths, its complaints, and what it asked of other hosts."""
    found, here = {}, {}
    shutil.rmtree(SCREENS, ignore_errors=True)
    SCREENS.mkdir()
    page = browser.new_page(viewport=WIDE)
    page.on("console", lambda m: here["complaints"].append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: here["complaints"].append(str(e)))
    page.on("request", lambda r: here["outside"].append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        here = found[name] = {"complaints": [], "outside": []}
        page.set_viewport_size(WIDE)
        page.goto(f"{address}/{name}", wait_until="load")
        for width, size in (("wide", WIDE), ("narrow", NARROW)):
            page.set_viewport_size(size)
            here[width] = page.evaluate(LOOK)
            keep_screen(page, f"{name.removesuffix('.html').replace('/', ' ')} {size['width']}")
    page.close()
    return found


def bad(seen, what) -> dict:
    """Pages for which `what` is anything."""
    return {name: value for name, look in seen.items() if (value := what(look))}


def test_every_page_is_built(site):
    pages = {p.relative_to(ROOT / "nbs").with_suffix(".html") for p in (ROOT / "nbs").rglob("*") if p.suffix in (".ipynb", ".md") and ".ipynb_checkpoints" not in p.parts}
    assert {p.relative_to(site) for p in site.rglob("*.html")} == pages


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<main id="here"><a href="#here"></a><a href="b.html"></a><a href="#gone"></a><img src="c.png" alt="c"></main>')
    assert [line.split(": ")[1] for line in builder().broken(tmp_path)] == ["b.html leads nowhere", "#gone has no such anchor", "c.png leads nowhere"]


def test_formulas_become_mathml_and_their_scripts_go():
    pytest.importorskip("latex2mathml", reason="latex2mathml is a package of development")
    page = '<script src="https://cdn.jsdelivr.net/npm/katex@0/katex.min.js"></script><p><span class="math inline">\\(a &lt; \\frac{b}{c}\\)</span></p>'
    made = builder().with_mathml(page)
    assert "<mfrac>" in made and "jsdelivr" not in made and "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", made)


def test_reference_names_everything(site):
    names = (site / "07_reference/01_names.html").read_text()
    assert [n for n in he.__all__ if f'id="{n.lower()}"' not in names] == []
    parameters = (site / "07_reference/02_parameters.html").read_text()
    assert [n for n in he.wroasted().parameter_table if f'id="{n}"' not in parameters] == []
    variables = (site / "07_reference/03_variables.html").read_text()
    assert [n for n in he.wroasted().outputs if f"<code>{n}</code>" not in variables] == []


def test_works_that_are_cited_are_in_the_bibliography():
    listed = (ROOT / "nbs/references.bib").read_text().lower()
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in notebook.parts:
            continue
        text = re.sub(r'"image/png": "[^"]*"', "", notebook.read_text())
        for doi in re.findall(r"(?:doi:|doi\.org/)\s?(10\.\d{4,9}/[^\s,;\\\"'<>\]]+)", text):
            doi = doi.rstrip(".:)") if doi.count("(") < doi.count(")") or doi.endswith((".", ":")) else doi
            assert doi.lower() in listed or doi.startswith("10.18140/FLX/"), f"{notebook.name}: {doi} is not in nbs/references.bib"


def test_screens_are_kept(seen):
    assert len(list(SCREENS.glob("*.jpg"))) == len(seen) * (4 if WHOLE else 2)


def test_pages_fit_wide_and_narrow(seen):
    assert not bad(seen, lambda look: {w: look[w]["wide"] for w in ("wide", "narrow") if look[w]["wide"] > 0}), "pages wider than the window"
    assert not bad(seen, lambda look: {w: look[w]["code"] for w in ("wide", "narrow") if look[w]["code"]}), "code runs out of the window"


def test_pages_ask_nothing_of_other_hosts_and_do_not_complain(seen):
    assert not bad(seen, lambda look: look["outside"])
    assert not bad(seen, lambda look: look["complaints"])


def test_figures_are_there_and_say_what_they_show(seen):
    assert not bad(seen, lambda look: look["wide"]["broken"])
    assert not bad(seen, lambda look: look["wide"]["noalt"]), "figures without #| fig-alt"


def test_formulas_are_set(seen):
    assert not bad(seen, lambda look: look["narrow"]["flat"] + look["wide"]["tex"])
    assert not bad(seen, lambda look: look["wide"]["bare"]), "TeX between words"


def test_sidebar_opens_on_a_narrow_screen_and_stands_on_a_wide_one(seen, browser, address):
    assert not bad(seen, lambda look: not look["wide"]["sidebar"] or look["narrow"]["open"])
    page = browser.new_page(viewport=NARROW)
    page.goto(f"{address}/00_start/01_start.html")
    page.click(".quarto-btn-toggle")
    page.locator("#quarto-sidebar .sidebar-link", has_text="Which method when").click()
    page.wait_for_url("**/03_which_method.html")
    assert page.locator(".nav-page-next a, .nav-page-previous a").count() == 2
    page.close()


@pytest.mark.parametrize("words, where", [("own data", "00_start/02_your_data.html"), ("missing values", "00_start/05_faq.html"), ("GPU", "00_start/05_faq.html"),
                                          ("eps_max", "07_reference/02_parameters.html")])
def test_search_finds(browser, address, words, where):
    page = browser.new_page(viewport=WIDE)
    page.goto(f"{address}/index.html")
    page.locator(".smalldocs-search input").first.fill(words)
    page.wait_for_selector(".search-result")
    assert any(where in (a.get_attribute("href") or "") for a in page.locator(".search-result").all()), words
    page.close()


def test_the_dark_is_dark(browser, address):
    page = browser.new_page(viewport=WIDE)
    page.goto(f"{address}/00_start/01_start.html")
    light = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
    assert page.evaluate(light) > 200
    page.click(".quarto-color-scheme-toggle")
    page.wait_for_timeout(300)
    assert page.evaluate(light) < 80
    page.close()
