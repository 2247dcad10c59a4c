"""The website of the documentation: every page, every link, its formulas and its search."""

import contextlib
import html
import importlib.util
import io
import re
import sys
import types
import warnings
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
for _needed in ("pdoc", "nbformat", "markdown_it"):
    pytest.importorskip(_needed)


def _load() -> types.ModuleType:
    folder = ROOT / "notebooks/website"
    spec = importlib.util.spec_from_file_location("website", folder / "__main__.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["website"] = module
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


website = _load()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "website"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of pdoc, which test_reference looks at
        website.make(out)
    return out


def test_formulas_are_pictures_with_their_text():
    text = website.markdown("so $h_\\theta(x) \\le \\frac12$, and `$x$` is code; it costs $5 or $6")
    assert text.count("<svg") == 1
    assert "<code>$x$</code>" in text
    assert "costs $5 or $6" in text
    assert website._words(text).startswith("so h_\\theta(x) \\leq \\frac{1}{2}")
    assert 'class="display"' in website.markdown("$$a + b$$")


def test_a_matrix_is_a_table_and_what_cannot_be_set_is_shown_as_tex():
    matrix = website.drawn(r"W = \begin{pmatrix} 1 & -1 \\ 2 & 3 \end{pmatrix}")
    assert matrix.count("<svg") == 5  # W =, and four numbers
    assert 'class="array pmatrix"' in matrix
    assert website.drawn(r"\nothing{a < b}") == r'<code class="tex">\nothing{a &lt; b}</code>'


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nearly_every_formula_of_a_notebook_is_set(path):
    body = website.notebook(path).body
    assert body.count('<code class="tex">') <= 1


def test_links_lead_to_the_pages_of_the_website(tmp_path):
    (tmp_path / "reference/jaxcnn").mkdir(parents=True)
    (tmp_path / "reference/jaxcnn/ops.html").touch()
    for text, expected in {
        '<a href="notebooks/02_layers.ipynb#relu">a</a>': '<a href="02_layers.html#relu">a</a>',
        '<img src="notebooks/depth.png">': '<img src="pictures/depth.png">',
        '<a href="jaxcnn/ops/__init__.py">a</a>': '<a href="reference/jaxcnn/ops.html">a</a>',
        '<a href="jaxcnn/ops/cpu/__init__.py">private</a>': "private",
        '<a href="CONTRIBUTING.md">a</a>': '<a href="contributing.html">a</a>',
        '<a href="https://x.org/a.py">a</a>': '<a href="https://x.org/a.py">a</a>',
    }.items():
        assert website.links(text, tmp_path) == expected


@pytest.mark.slow
def test_every_link_inside_the_website_is_there(site):
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    assert len(pages) > len(NOTEBOOKS) + 20
    anchors = {path.resolve(): set(re.findall(r'\bid="([^"]*)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]*)"', text):
            if re.match("https?:|data:|mailto:", link):
                continue
            target, _, anchor = unquote(html.unescape(link)).partition("#")
            file = (path.parent / target).resolve() if target else path.resolve()
            assert file.is_file(), f"{path.name}: {link}"
            if anchor and file in anchors:
                assert anchor in anchors[file], f"{path.name}: {link}"


@pytest.mark.slow
def test_the_search_finds_names_and_sections_and_the_theme_is_kept(chromium, site):
    page = chromium.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for address in ("index.html", "00_is_this_digit_a_five.html", "reference/jaxcnn/inspect.html"):
        page.goto((site / address).as_uri())
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), address
    page.keyboard.press("/")
    page.keyboard.type("gradient_check")
    page.wait_for_selector("#found a")
    assert "gradient_check" in page.inner_text("#found li:first-child b")
    page.fill("#find", "receptive fields of stacks")
    page.wait_for_function("document.querySelector('#found b')?.textContent.includes('Receptive fields of stacks')")
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_convolution_and_receptive_fields.html#*")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.fill("#find", "qqqq")
    page.wait_for_function("document.querySelector('#found').textContent === 'nothing found'")
    page.close()
    assert wrong == []
