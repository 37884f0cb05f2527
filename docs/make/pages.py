"""Run the code of pages: it draws the pictures of tutorials. Write under each block of docs/errors.md what it says.

python docs/make/pages.py [PAGE ...]
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

DOCS = Path(__file__).parent.parent
PICTURES = DOCS / "pictures"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
ERRORS = DOCS / "errors.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SAYS = re.compile(r"```python\n(?P<code>[^`]*?)```\n\n```text\n(?P<text>[^`]*?)\n```")


def run(page: Path) -> None:
    """Run all code of a page, in one namespace, as a reader would who copies it."""
    shared: dict[str, object] = {"__name__": page.stem}
    for code in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(code, page.name, "exec"), shared)


def drawn(page: Path) -> list[str]:
    """Return the names of the pictures that the code of a page saves."""
    return re.findall(r'savefig\("([^"]+)"', page.read_text(encoding="utf-8"))


# --- errors ---------------------------------------------------------------------------------------
def said(page: str) -> list[tuple[str, str]]:
    """Return the blocks of a page that say something, each with the error, or else the warning, that it gives."""
    shared: dict[str, object] = {}
    found = []
    for block in BLOCK.finditer(page):
        message = _message(block[1], shared)
        if SAYS.match(page, block.start()):
            found.append((block[1], message))
        elif message:
            raise AssertionError(f"{block[1]}: {message}")
    return found


def _message(code: str, shared: dict[str, object]) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(compile(code, ERRORS.name, "exec"), shared)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "\n".join(f"{warning.category.__name__}: {warning.message}" for warning in caught)


def with_messages(page: str) -> str:
    """Return the page with what each block says."""
    messages = dict(said(page))
    return SAYS.sub(lambda m: f"```python\n{m['code']}```\n\n```text\n{messages[m['code']]}\n```", page)


def main(names: list[str]) -> None:
    pages = [page for page in [*TUTORIALS, ERRORS] if not names or page.stem in names]
    for page in pages:
        if page == ERRORS:
            page.write_text(with_messages(page.read_text(encoding="utf-8")), encoding="utf-8")
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run(page)
            for name in drawn(page):
                (PICTURES / name).write_bytes(Path(name).read_bytes())
            os.chdir(DOCS)


if __name__ == "__main__":
    main(sys.argv[1:])
