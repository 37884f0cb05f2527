"""How Sphinx builds the site: `sphinx-build -W --keep-going docs FOLDER`."""

from __future__ import annotations

import re

import shiftsearch

project = "shiftsearch"
author = "the shiftsearch developers"
version = release = shiftsearch.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["make"]
smartquotes = False  # what is quoted is code
html_theme = "furo"
html_title = f"shiftsearch {release}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what an argument is
autodoc_inherit_docstrings = False  # those of torch.nn.Module say nothing of ours
napoleon_use_rtype = False
napoleon_use_ivar = True


def as_markup(app, what, name, found, options, lines) -> None:
    """Write a docstring, which is plain text with code in single quotes, as reStructuredText."""
    example = False
    for n, line in enumerate(lines):
        example = example or line.strip() == "Example:"
        if example or line.startswith("    >>>"):
            continue
        parts = re.split(r"(`[^`]+`)", line)
        escaped = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
        code = [f"`{part}`" for part in parts[1::2]]
        lines[n] = "".join(text + quoted for text, quoted in zip(escaped, [*code, ""], strict=True))


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_markup, priority=400)  # before napoleon reads Args and Returns
