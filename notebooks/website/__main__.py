"""Makes the documentation: `python notebooks/website` writes notebooks, reference and a search to build/website.

Open `build/website/index.html`; it needs no server. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import html
import inspect
import json
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pdoc
import pdoc.doc
import pdoc.render
from formulas import FORMULA, drawn
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEXTS = {
    "README.md": "Read me", "notebooks/README.md": "How to", "experiments/README.md": "Results",
    "CONTRIBUTING.md": "Contributing", "CHANGELOG.md": "Changes",
}  # fmt: skip
_CODE = re.compile(r"(```.*?```|``.*?``|`[^`]*`)", re.DOTALL)
_MAGIC = re.compile(r"^%(matplotlib|config) .*\n?", re.MULTILINE)  # of Jupyter, for its own settings
_MOST = 1500  # characters of a section that are searched


@dataclass
class Page:
    """A page: its title, its body, and its sections as (heading, anchor, text)."""

    title: str
    body: str
    sections: list[tuple[str, str, str]] = field(default_factory=list)


def code(text: str, language: str) -> str:
    """Highlighted code."""
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    return highlight(text, lexer, HtmlFormatter(cssclass="pdoc-code code"))


_MARKDOWN = MarkdownIt("commonmark", {"html": True, "highlight": lambda text, lang, _: code(text, lang)}).enable(
    "table"
)


def markdown(text: str) -> str:
    """HTML of Markdown, with formulas between dollar signs, and an anchor for each heading."""
    formulas: list[str] = []

    def keep(found: re.Match[str]) -> str:
        formulas.append(drawn(found[1] or found[2], display=found[1] is not None))
        return f"\ue000{len(formulas) - 1}\ue000"

    parts = _CODE.split(text)
    parts[::2] = [FORMULA.sub(keep, part) for part in parts[::2]]  # the others are code
    result = _MARKDOWN.render("".join(parts))
    result = re.sub("\ue000(\\d+)\ue000", lambda found: formulas[int(found[1])], result)
    result = re.sub(r"<pre><code[^>]*>(<div.*?</div>\n?)</code></pre>", r"\1", result, flags=re.DOTALL)
    result = result.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return re.sub(r"<h([1-6])>(.*?)</h\1>", _heading, result)


def _heading(found: re.Match[str]) -> str:
    anchor = _anchor(_words(found[2]))
    return f'<h{found[1]} id="{anchor}"><a class="anchor" href="#{anchor}">{found[2]}</a></h{found[1]}>'


def _anchor(text: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def _words(markup: str) -> str:
    """The text of HTML, a formula as its TeX."""
    markup = re.sub(r'<svg[^>]*aria-label="([^"]*)".*?</svg>', r"\1", markup, flags=re.DOTALL)
    markup = re.sub(r"</?(?:a|b|code|em|i|span|strong)\b[^>]*>", "", markup)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def sections(body: str) -> list[tuple[str, str, str]]:
    """The headings of a page, each with its anchor and the text up to the next one."""
    prose = re.sub(r'<div class="pdoc-code code">.*?</div>', "", body, flags=re.DOTALL)
    parts = re.split(r'<h[1-4] id="([^"]*)">(.*?)</h[1-4]>', prose)
    return [(_words(parts[i + 1]), parts[i], _words(parts[i + 2])[:_MOST]) for i in range(1, len(parts), 3)]


def notebook(path: Path) -> Page:
    """A notebook as it was last run."""
    cells: list[str] = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            cells.append(f'<div class="text">{markdown(cell.source)}</div>')
        elif source := _MAGIC.sub("", cell.source).strip():
            cells.append(code(source, "python"))
            cells += [_output(output) for output in cell.outputs]
    body = "\n".join(cells)
    found = sections(body)
    return Page(found[0][0] if found else path.stem, body, found)


def _output(output: Any) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        width = output.get("metadata", {}).get("image/png", {}).get("width")
        size = f' width="{width}"' if width else ""
        source = f"data:image/png;base64,{data['image/png']}"
        return f'<img class="output" alt="the figure that the cell draws"{size} src="{source}">'
    if "text/html" in data:
        return f'<div class="output wide">{data["text/html"]}</div>'
    text = output.get("text") or data.get("text/plain") or "\n".join(output.get("traceback", []))
    return f'<pre class="output">{html.escape(text)}</pre>'


def page_of(name: str) -> str:
    """The page of a text: `readme.html`, and of a folder's README that of the folder, `experiments.html`."""
    path = Path(name)
    return f"{path.parent.name.lower() or path.stem.lower()}.html"


def links(body: str, out: Path, folder: str = "") -> str:
    """The links of a text of this repository, to the pages of the website; what has no page there is no link.

    Args:
      folder: that of the text; links are relative to it.
    """

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[2].partition("#")
        target = target if ":" in target else posixpath.normpath(posixpath.join(folder, target))
        path = Path(target)
        if path.suffix == ".ipynb":
            target = f"{path.stem}.html"
        elif target in TEXTS:
            target = page_of(target)
        elif target.startswith("jaxcnn/") and path.suffix == ".py":
            target = f"reference/{path.parent if path.stem == '__init__' else path.with_suffix('')}.html"
        elif found[1] == "src" and "/" in target and ":" not in target:
            target = f"pictures/{path.name}"
        return f'{found[1]}="{target}{"#" * bool(anchor)}{anchor}"'

    def gone(found: re.Match[str]) -> str:
        return found[0] if (out / found[1]).is_file() else found[2]

    body = re.sub(r'\b(href|src)="([^"#:]+(?:#[^"]*)?)"', link, body)
    return re.sub(r'<a href="(reference/[^"#]*)[^"]*">(.*?)</a>', gone, body)


def written(title: str, body: str, depth: int = 0, kind: str = "page") -> str:
    """A page with the bar above it."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)} · jaxcnn</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{_head("../" * depth)}</head>'
        f'<body>{_bar("../" * depth)}<main class="{kind}">{body}</main></body></html>'
    )


def _head(up: str) -> str:
    return f'<link rel="stylesheet" href="{up}style.css"><script src="{up}site.js" data-up="{up}"></script>'


def _bar(up: str) -> str:
    return (
        f'<div class="bar" role="banner"><a class="name" href="{up}index.html">jaxcnn</a>'
        f'<a href="{up}index.html#notebooks">Notebooks</a><a href="{up}reference/jaxcnn.html">Reference</a>'
        '<span class="find"><input id="find" type="search" placeholder="Search" autocomplete="off" '
        'aria-label="Search"><ol id="found"></ol></span>'
        '<button id="theme" title="dark or light" aria-label="dark or light">◐</button></div>'
    )


def reference(out: Path) -> Iterator[tuple[str, str, str, str]]:
    """Writes a page for each module; yields what is searched: a name, its kind, its address, its first sentence."""
    pdoc.render.configure(docformat="google", search=False)
    pdoc.pdoc("jaxcnn", output_directory=out / "reference")
    (out / "reference/index.html").unlink(missing_ok=True)
    for path in sorted((out / "reference").rglob("*.html")):
        up = "../" * (len(path.relative_to(out).parts) - 1)
        text = path.read_text()
        text = text.replace("</head>", f"{_head(up)}</head>", 1)
        path.write_text(re.sub(r"<body[^>]*>", lambda found, up=up: found[0] + _bar(up), text, count=1))
        name = ".".join(path.relative_to(out / "reference").with_suffix("").parts)
        address = path.relative_to(out).as_posix()
        module = pdoc.doc.Module.from_name(name)
        yield name, "module", address, _first(module.docstring)
        for member in module.flattened_own_members:
            public = not any(part.startswith("_") for part in member.qualname.split("."))
            if public and member.docstring and inspect.ismodule(getattr(member, "obj", None)) is False:
                yield f"{name}.{member.qualname}", member.kind, f"{address}#{member.qualname}", _first(member.docstring)


def _first(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())[:300]


def make(out: Path) -> int:
    """Writes the website; the number of its pages."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "pictures").mkdir(parents=True)
    index: list[tuple[str, str, str, str]] = []
    cards: list[str] = []
    named = list(reference(out))
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        page = notebook(path)
        address = f"{path.stem}.html"
        (out / address).write_text(written(page.title, links(page.body, out, "notebooks")))
        about = re.split(r"</?p>", page.body.partition("</h1>")[2])[1]
        cards.append(f'<li><a href="{address}">{html.escape(page.title)}</a><p>{links(about, out)}</p></li>')
        index += [(title, page.title, f"{address}#{anchor}", text) for title, anchor, text in page.sections]
    for name, title in TEXTS.items():
        body = markdown((ROOT / name).read_text())
        address = page_of(name)
        (out / address).write_text(written(title, links(body, out, str(Path(name).parent))))
        index += [(heading, title, f"{address}#{anchor}", text) for heading, anchor, text in sections(body)]
    index += named
    for picture in [*(ROOT / "notebooks").glob("*.png"), *(ROOT / "notebooks").glob("*.jpg")]:
        shutil.copy(picture, out / "pictures")
    shutil.copy(ROOT / "CITATION.cff", out)  # the README links to it
    (out / "index.html").write_text(written("Documentation", _home(cards, index), kind="page home"))
    shutil.copy(HERE / "site.js", out)
    styles = [
        (HERE / "style.css").read_text(),
        HtmlFormatter(style="default").get_style_defs(".pdoc-code"),
        HtmlFormatter(style="github-dark").get_style_defs('[data-theme="dark"] .pdoc-code'),
    ]
    (out / "style.css").write_text("\n".join(styles))
    (out / "index.js").write_text(f"const INDEX = {json.dumps(index, ensure_ascii=False)};\n")
    return len(list(out.rglob("*.html")))


def _home(cards: list[str], index: list[tuple[str, str, str, str]]) -> str:
    about = markdown((ROOT / "README.md").read_text().split("\n\n")[1])
    rooms = [
        f'<li><a href="{address}"><code>{name}</code></a><p>{html.escape(text)}</p></li>'
        for name, kind, address, text in index
        if kind == "module" and name.count(".") == 1
    ]
    more = " · ".join(f'<a href="{page_of(name)}">{title}</a>' for name, title in TEXTS.items())
    return (
        f'<h1>jaxcnn</h1>{about}<p>{more}</p><h2 id="notebooks">Notebooks</h2><ul class="cards">{"".join(cards)}'
        f'</ul><h2 id="reference">Reference</h2><ul class="cards">{"".join(rooms)}</ul>'
    )


def main() -> None:
    sys.path.insert(0, str(ROOT))  # what is documented is the package beside this folder, installed or not
    parser = argparse.ArgumentParser(prog="python notebooks/website", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/website", metavar="FOLDER")
    out = parser.parse_args().out.absolute()
    if out.exists() and any(out.iterdir()) and not (out / "index.js").is_file():
        sys.exit(f"{out} is not empty and no website: choose another folder by --out")
    print(f"{make(out)} pages: {out / 'index.html'}")


if __name__ == "__main__":
    main()
