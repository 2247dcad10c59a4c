"""Formulas as pictures that need no network: TeX by matplotlib's mathtext, as SVG in the colour of the text."""

from __future__ import annotations

import functools
import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<!\s)\$(?!\d)", re.DOTALL)
"""Between two dollar signs, or twice two: groups 2 and 1."""
_ARRAY = re.compile(r"\\begin\{(pmatrix|cases)\}(.*?)\\end\{\1\}")
_SIZE, _MARGIN = 16, 1  # pixels of the text, and around a picture
# What mathtext has under another name, or wants in braces.
_REWRITTEN = [
    (r"\\([bB]igg?)[lrm]?(?=[^a-zA-Z])", ""),
    (r"\\([bB]igg?)[lrm](?=\\)", ""),
    (r"\\[tdc]frac", r"\\frac"),
    (r"\\frac\s*([^{\s\\])\s*([^{\s\\])", r"\\frac{\1}{\2}"),
    (r"\\frac\s*([^{\s\\])\s*\{", r"\\frac{\1}{"),
    (r"\\(mathcal|mathbb|mathrm|mathbf|hat|bar|sqrt)\s+(\\?[A-Za-z]+?)(?![A-Za-z])", r"\\\1{\2}"),
    (r"\\(mathcal|mathbb|mathrm|mathbf)\s+([A-Za-z])", r"\\\1{\2}"),
    (r"\\sqrt(\\[a-z]+)", r"\\sqrt{\1}"),
    (r"\\le(?![a-zA-Z])", r"\\leq"),
    (r"\\ge(?![a-zA-Z])", r"\\geq"),
    (r"\\[lr]Vert", r"\\Vert"),
    (r"\\(?:textstyle|displaystyle|limits)(?![a-zA-Z])", ""),
]


@functools.cache
def drawn(tex: str, display: bool = False) -> str:
    """A formula in HTML. One that mathtext cannot set is shown as its TeX."""
    text = " ".join(tex.split())
    try:
        parts = _ARRAY.split(text)
        found = [_array(parts[i - 1], part) if i % 3 == 2 else _svg(part) for i, part in enumerate(parts) if i % 3 != 1]
        picture = "".join(found)
    except ValueError:
        picture = f'<code class="tex">{html.escape(text)}</code>'
    return f'<span class="display">{picture}</span>' if display else picture


def _array(kind: str, inside: str) -> str:
    """A matrix or a distinction of cases: a table."""
    rows = [[_svg(cell) for cell in row.split("&")] for row in inside.split(r"\\") if row.strip()]
    cells = ["".join(f"<span>{cell}</span>" for cell in row) for row in rows]
    return f'<span class="array {kind}">{"".join(f"<span>{row}</span>" for row in cells)}</span>'


def _svg(tex: str) -> str:
    tex = tex.strip()
    if not tex:
        return ""
    for pattern, new in _REWRITTEN:
        tex = re.sub(pattern, new, tex)
    font = FontProperties(size=_SIZE * 72 / 96)
    with rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path", "svg.hashsalt": "jaxcnn"}):
        width, height, depth, _, _ = MathTextParser("path").parse(f"${tex}$", 72, font)
        width, height, depth = (max(side, 1) + _MARGIN for side in (width, height, depth))
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_visible(False)
        figure.text(_MARGIN / 2 / width, depth / height, f"${tex}$", fontproperties=font, va="baseline")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = file.getvalue()[file.getvalue().index("<svg") :]
    text = re.sub(r"<(metadata|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    label = html.escape(tex, quote=True)
    size = f'width="{width * 96 / 72:.2f}" height="{height * 96 / 72:.2f}"'
    style = f"vertical-align: {-depth * 96 / 72:.2f}px"
    return re.sub(
        r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        lambda found: (
            f'<svg class="formula" role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'{size} {found[1]} style="{style}">'
        ),
        text,
        count=1,
    ).replace("\n", " ")
