"""Make notebooks of the tutorials, which open in Colab.

python docs/make/notebooks.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent
NOTEBOOKS = DOCS / "notebooks"
ADDRESS = "https://github.com/shiftsearch/shiftsearch"
PARTS = re.compile(r"(```python\n.*?```)", re.DOTALL)


def notebook(page: str) -> str:
    """Return a tutorial as a notebook: its code in cells, its text between them, and what to install before."""
    cells = [_cell(0, "code", _install(page))]
    for part in PARTS.split(page):
        if part.startswith("```python\n"):
            cells.append(_cell(len(cells), "code", part[len("```python\n") : -len("```")].rstrip()))
        elif words := _text(part):
            cells.append(_cell(len(cells), "markdown", words))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _install(page: str) -> str:
    """Return the line that installs what the page says that it needs, from the repository."""
    extras, more = re.search(r'`pip install "\.(\[[\w,]+\])"([\w -]*)`', page).groups()
    return f'%pip install -q "shiftsearch{extras} @ git+{ADDRESS}"{more}'


def _text(words: str) -> str:
    """Return text without pictures, which the code draws, and with links that lead to the repository."""
    words = re.sub(r"^!\[.*\)\n", "", words, flags=re.MULTILINE)
    words = re.sub(r"^\[Open this page in Colab\].*\n", "", words, flags=re.MULTILINE)
    words = re.sub(r"^Install what this page needs: [^\n]*(\n[^\n]+)*\n", "", words, flags=re.MULTILINE)
    words = re.sub(r"\]\(\.\./(\w+\.md)\)", rf"]({ADDRESS}/blob/main/docs/\1)", words)
    words = re.sub(r"\]\((\w+\.md)\)", rf"]({ADDRESS}/blob/main/docs/tutorials/\1)", words)
    return re.sub(r"\n{3,}", "\n\n", words).strip()


def _cell(number: int, kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    cell["source"] = text.splitlines(keepends=True)
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def main() -> None:
    NOTEBOOKS.mkdir(exist_ok=True)
    for page in sorted((DOCS / "tutorials").glob("*.md")):
        (NOTEBOOKS / f"{page.stem}.ipynb").write_text(notebook(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
