"""The site without Quarto, and what both renderers leave to do.

    python .ci/site.py prepare      notebooks into _proc; the pages of the reference are run, so that they show the code of today
    python .ci/site.py render       _proc into _docs with smalldocs, the same notebooks and the same _quarto.yml as Quarto reads
    python .ci/site.py finish       in _docs: formulas as MathML, no request to any other host, notebooks to download, figures that can be enlarged, links checked
"""

import html
import json
import os
import re
import shutil
import sys
from configparser import ConfigParser
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
PROC, DOCS, NBS = ROOT / "_proc", ROOT / "_docs", ROOT / "nbs"
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini")
SETTINGS = SETTINGS["DEFAULT"]
HOME = SETTINGS["doc_host"] + SETTINGS["doc_baseurl"]
RUN_AT_BUILD = "07_reference"
"Folder of the notebooks that are run when the site is built."
HEADING_OR_TABLE = re.compile(r'<h[23][^>]*data-anchor-id="([^"]*)"[^>]*>(.*?)</h[23]>|(<table.*?</table>|<div class="docstring">.*?</div>)', re.S)


def prepare() -> None:
    """Notebooks through nbdev's processors into `_proc`; those of the reference are run first."""
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell
    from nbdev.processors import FilterDefaults
    from nbdev.serve import proc_nbs

    os.chdir(ROOT)
    proc_nbs(n_workers=0)
    for source in sorted((NBS / RUN_AT_BUILD).glob("*.ipynb")):
        notebook, shell = read_nb(source), CaptureShell()
        os.chdir(source.parent)
        shell.run_all(notebook, exc_stop=True)
        os.chdir(ROOT)
        os.environ["IN_TEST"] = "1"
        FilterDefaults()(notebook)
        del os.environ["IN_TEST"]
        write_nb(notebook, PROC / source.relative_to(NBS))
    here = {p.relative_to(NBS) for p in NBS.rglob("*") if p.suffix in (".ipynb", ".md")}
    for page in [p for p in PROC.rglob("*") if p.suffix in (".ipynb", ".md") and p.relative_to(PROC) not in here]:
        page.unlink()  # of a notebook that is no more


def render() -> None:
    """`_proc` into `_docs` with smalldocs; its warnings end the build, but for the options that it leaves to `finish`."""
    from smalldocs.site import build

    site = build(PROC, quiet=True)
    expected = r"output-file is not read|html-math-method is ignored"
    if warnings := [w for w in site.warnings if not re.search(expected, w)]:
        sys.exit("\n".join(warnings))
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(site.out, DOCS)


def with_mathml(page: str) -> str:
    """Formulas that a renderer left as TeX, as MathML; and not the scripts that would fetch a renderer of TeX."""
    from latex2mathml.converter import convert

    def formula(match: re.Match) -> str:
        display = match[1] == "display"
        mathml = convert(html.unescape(match[2]), display="block" if display else "inline")
        return f'<span class="math {match[1]}">{mathml}</span>'

    page = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, page, flags=re.S)
    return re.sub(r"""<(?:script|link)\b[^>]*(?:src|href)="https://[^"]*(?:katex|mathjax|polyfill)[^"]*"[^>]*>(?:</script>)?""", "", page, flags=re.I)


def unnumbered(path: Path) -> str:
    """The name of a page without its number: nbdev and Quarto call 02_timeloop.ipynb timeloop.html, smalldocs 02_timeloop.html."""
    return re.sub(r"^\d+[a-z]?_", "", path.stem)


def twin(path: Path) -> Path:
    """`path`, or the page that the other renderer would have put there."""
    if path.exists() or not path.parent.is_dir():
        return path
    return next((p for p in sorted(path.parent.glob(f"*{path.suffix}")) if unnumbered(p) == unnumbered(path)), path)


def nearest(target: Path, anchor: str) -> str:
    """`#anchor` where the page has it; else that of the class whose method it names; else nothing."""
    ids = parsed(target).ids if target.suffix == ".html" and target.exists() else set()
    return next((f"#{a}" for a in (anchor, anchor.rpartition(".")[0]) if a in ids), "")


def with_links(page: str, path: Path) -> str:
    """Links to the published site lead to the page beside this one; a notebook can be downloaded, a tutorial opened elsewhere."""
    up = "../" * (len(path.relative_to(DOCS).parts) - 1)

    def local(match: re.Match) -> str:
        target, _, anchor = (match[1] or "index.html").partition("#")
        return f'href="{up}{target}{nearest(twin(DOCS / target), anchor)}"'

    page = re.sub(rf'href="{re.escape(HOME)}/?([^"]*)"', local, page)

    def settled(match: re.Match) -> str:
        target = path.parent / unquote(match[1])
        return f'href="{match[1].rpartition("/")[0] + "/" if "/" in match[1] else ""}{twin(target).name}'

    page = re.sub(r'href="(?![a-z]+:)([^"#?]+\.html)', settled, page)
    notebook = twin(NBS / path.relative_to(DOCS).with_suffix(".ipynb"))
    if not notebook.exists() or 'class="notebook-links"' in page:
        return page
    shutil.copy(notebook, path.with_suffix(".ipynb"))
    links = [f'<a href="{notebook.name}" download>Download this notebook</a>']
    if notebook.parent.name in ("00_start", "00_tutorials"):
        repo, branch, place = f"{SETTINGS['user']}/{SETTINGS['repo']}", SETTINGS["branch"], f"nbs/{notebook.relative_to(NBS).as_posix()}"
        links.append(f'<a href="https://colab.research.google.com/github/{repo}/blob/{branch}/{place}">Open in Colab</a>')
        links.append(f'<a href="https://mybinder.org/v2/gh/{repo}/{branch}?labpath={quote(place, safe="")}">Open in Binder</a>')
    block = rf'\1<p class="notebook-links">{" · ".join(links)}</p></header>'
    return re.sub(r'(<header id="title-block-header".*?)</header>', block, page, count=1, flags=re.S)


STREAM = re.compile(r'(<div class="cell-output[^"]*(?:stdout|stderr|error|display)[^"]*">\s*(?:<div[^>]*>\s*)?<pre)((?: class="([^"]*)")?[^>]*>(.*?)</pre>)', re.S)


def with_prose(page: str) -> str:
    """What cells print: sentences are marked, so that they wrap; columns of a table, which more than one blank keeps apart, are left as they are."""
    def marked(match: re.Match) -> str:
        lines = html.unescape(re.sub(r"<[^>]+>", "", match[4])).splitlines()
        if any(re.search(r"\S {2,}\S", line) for line in lines) or "sourceCode" in (match[3] or ""):
            return match[0]
        return match[1] + (match[2].replace(f'class="{match[3]}"', f'class="{match[3]} prose"', 1) if match[3] else ' class="prose"' + match[2])

    return STREAM.sub(marked, page)


def with_columns(page: str) -> str:
    """Columns of words in the tables of pandas are marked: they stand to the left, numbers to the right, and sentences wrap."""
    def text(cell: str) -> str:
        return html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()

    def table(match: re.Match) -> str:
        rows = [re.findall(r"<(t[hd])\b[^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr\b.*?</tr>", match[0].partition("<tbody>")[2], re.S)]
        if len({len(r) for r in rows}) != 1:
            return match[0]
        words = [i for i in range(len(rows[0])) if rows[0][i][0] == "th" or not all(re.fullmatch(r"[-+–]?[\d.,]+(?:e[-+]?\d+)?%?|NaN|NaT|inf||\.\.\.", text(r[i][1])) for r in rows)]
        long = {i for i in words if max(len(text(r[i][1])) for r in rows) > 44}

        def row(found: re.Match) -> str:
            counter = iter(range(99))

            def cell(m: re.Match) -> str:
                i = next(counter)
                return f'<{m[1]} class="words{" prose" if i in long else ""}"' if i in words else m[0]

            return re.sub(r"<(t[hd])(?=[\s>])(?![^>]*class=)", cell, found[0])

        return re.sub(r"<tr\b.*?</tr>", row, match[0], flags=re.S)

    return re.sub(r'<table[^>]*class="dataframe".*?</table>', table, page, flags=re.S)


def with_figures(page: str) -> str:
    """Figures that a click, or a key, shows in their own size (styles.css)."""
    head, main, rest = page.partition("<main")
    return head + main + re.sub(r'<img (?![^>]*tabindex)', '<img tabindex="0" ', rest)


@cache
def parsed(path: Path) -> "Page":
    """A page as it was first read: anchors do not change."""
    return Page(path)


class Page(HTMLParser):
    """What a page links to, what it can be linked by, and its pictures."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.images = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[k] for k in ("id", "name") if given.get(k)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "iframe", "source") and given.get("src"):
            self.links.append(given["src"])
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical",):
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)


def broken(docs: Path = DOCS) -> list[str]:
    """Links, anchors and pictures of the site that lead nowhere."""
    pages = {p.resolve(): Page(p) for p in sorted(docs.rglob("*.html"))}
    out = []
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                out.append(f"{path.relative_to(docs.resolve())}: {link} leads nowhere")
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                out.append(f"{path.relative_to(docs.resolve())}: {link} has no such anchor")
    return out


def with_tables(index: list[dict], docs: Path = DOCS) -> list[dict]:
    """The index of the search, and what stands in tables and docstrings that cells have made, which smalldocs leaves out."""
    title = {entry["href"].partition("#")[0]: entry["title"] for entry in index}
    out = list(index)
    for path in sorted((docs / RUN_AT_BUILD).glob("*.html")):
        href, section = path.relative_to(docs).as_posix(), ""
        for anchor, name, table in HEADING_OR_TABLE.findall(path.read_text(encoding="utf-8")):
            if anchor:
                section, heading = f"#{anchor}", re.sub(r"<[^>]+>", "", name)
            else:
                text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", table)))
                out.append({"objectID": f"{href}{section}-{len(out)}", "href": href + section, "title": title.get(href, path.stem), "section": html.unescape(heading) if section else "", "text": text})
    return out


def finish() -> None:
    """Formulas, fonts and links of the rendered site; ends with the list of broken links, if there are any."""
    for path in sorted(DOCS.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        path.write_text(with_links(with_figures(with_columns(with_prose(with_mathml(text)))), path), encoding="utf-8")
    for path in DOCS.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        local = re.sub(r"""@import\s*(?:url\(['"]?https?://[^)]*\)|['"]https?://[^'"]*['"]);""", "", text)
        if local != text:
            path.write_text(local, encoding="utf-8")
    if (search := DOCS / "search.json").exists() and "site_libs/smalldocs.js" in (DOCS / "index.html").read_text(encoding="utf-8"):
        search.write_text(json.dumps(with_tables(json.loads(search.read_text(encoding="utf-8"))), ensure_ascii=False), encoding="utf-8")
    if bad := broken():
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if len(sys.argv) < 2 or set(sys.argv[1:]) - {"prepare", "render", "finish"}:
        sys.exit(__doc__)
    for step in sys.argv[1:]:
        {"prepare": prepare, "render": render, "finish": finish}[step]()
