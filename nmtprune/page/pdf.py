"""The page as a PDF file, by a browser or by WeasyPrint."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

from nmtprune.errors import EngineError
from nmtprune.page.styles import with_styled_drawings
from nmtprune.process import output_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless-shell")
"""Programs that print a page, in the order in which they are looked for."""

LIMIT_S = 300.0
"""How long a browser may take: one that waits for a display or a lock never ends."""


def check_printer() -> None:
    """Check that something can write PDF files.

    Raises:
        EngineError: neither a browser nor WeasyPrint is installed.
    """
    if _browser() is None:
        _weasyprint()


def pdf(html: str) -> bytes:
    """A page as PDF.

    Raises:
        EngineError: nothing is installed that prints it, or printing failed.
    """
    check_printer()
    browser = _browser()
    if browser is not None:
        return _by_browser(browser, html)
    printed: bytes = _weasyprint().HTML(string=with_styled_drawings(html)).write_pdf()
    return printed


def _weasyprint() -> ModuleType:
    """The package, if it is installed with the libraries that it needs (Pango)."""
    try:
        import weasyprint
    except (ImportError, OSError) as error:
        there = importlib.util.find_spec("weasyprint") is not None
        fault = f"; WeasyPrint is there, but cannot be loaded: {str(error).splitlines()[0]}" if there else ""
        raise EngineError(
            "a PDF file takes Chromium or Chrome on the PATH, or WeasyPrint (pip install weasyprint): write "
            f"-o report.html instead and print it from a browser{fault}"
        ) from None
    found: ModuleType = weasyprint
    return found


def _browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name)) is not None), None)


def _by_browser(browser: str, html: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="nmtprune-") as name:
        folder = Path(name)
        page, printed = folder / "page.html", folder / "page.pdf"
        page.write_text(html, encoding="utf-8")
        # Chromium refuses its sandbox to root; the page loads nothing and runs no script but its own.
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        output_of(
            "browser",
            (
                browser, "--headless", *sandbox, "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
                "--no-pdf-header-footer", f"--print-to-pdf={printed}", page.as_uri(),
            ),
            limit_s=LIMIT_S,
        )  # fmt: skip
        if not printed.is_file():
            raise EngineError(f"{browser} printed no PDF file: write -o report.html instead")
        return printed.read_bytes()
