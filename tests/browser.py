"""A headless Chromium for tests of pages: what a page asks for and complains about is kept. Skips where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE = 1000  # looks, 20 ms and more apart


@dataclass
class Opened:
    """A page that was opened, what it complained about, and what it asked for besides itself and what it holds."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def value(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, script: str) -> None:
        """Waits for what a script says. Asked again and again from outside: the page's policy lets no text become a script."""
        for _ in range(_PATIENCE):
            if self.page.evaluate(script):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"never came true: {script}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this computer; the test is skipped, with the reason, where it or its driver is missing."""
    driver = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this computer")
    with driver.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1280, address: str = "", **more: Any) -> Iterator[Opened]:
    """A file as a page of its own, `width` CSS pixels wide. address: what follows the file's in the address."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **more)
    found = Opened(page)
    page.on("console", lambda message: found.complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("data:") else found.requests.append(request.url))
    try:
        page.goto(path.as_uri() + address)
        yield found
    finally:
        page.close()
