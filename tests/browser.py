"""A headless Chromium, driven by chromedriver over W3C WebDriver (JSON over HTTP): no package is needed for it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.jobs import free_port

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1400,1000"),
]
# TensorBoard's pages are nested shadow roots, which a document's own text leaves out.
SEEN = """
function text(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (["STYLE", "SCRIPT", "TEMPLATE", "DOM-MODULE"].includes(node.nodeName)) return "";
  if (node.nodeType === Node.ELEMENT_NODE && getComputedStyle(node).display === "none") return "";
  return [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].map(text).join(" ");
}
return text(document.body).replace(/\\s+/g, " ");
"""
COUNT = """
function count(node, what) {
  const element = node.nodeType === Node.ELEMENT_NODE;
  let found = element && node.matches(what) && node.getBoundingClientRect().width > 0 ? 1 : 0;
  for (const child of [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]) found += count(child, what);
  return found;
}
return count(document.body, arguments[0]);
"""


class Page:
    """One tab; every method asks the browser anew."""

    def __init__(self, session: str):
        self.session = session

    def open(self, address: str) -> None:
        ask(f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        return ask(f"{self.session}/execute/sync", {"script": script, "args": arguments})

    def text(self) -> str:
        """All visible text."""
        return self.run(SEEN)

    def count(self, selector: str) -> int:
        """How many visible elements match the CSS ``selector``."""
        return self.run(COUNT, selector)

    def wait_for(self, what: Callable[[Page], bool], seconds: float = 60) -> None:
        """Return as soon as ``what`` holds.

        Raises:
            AssertionError: with the page's text, when it does not in time.
        """
        end = time.monotonic() + seconds
        while not what(self):
            assert time.monotonic() < end, f"not seen within {seconds} s; the page says: {self.text()}"
            time.sleep(0.3)

    def save(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        path.write_bytes(base64.b64decode(ask(f"{self.session}/screenshot")))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with the new, empty ``profile`` folder; closed at the end."""
    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
    server = f"http://127.0.0.1:{port}"
    try:
        wait_until_served(f"{server}/status")
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        session = f"{server}/session/{ask(f'{server}/session', wanted)['sessionId']}"
        try:
            yield Page(session)
        finally:
            ask(session, method="DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=30)


def ask(address: str, body: object = None, method: str | None = None) -> Any:
    """Send one command and return its value."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["value"]


def wait_until_served(address: str, seconds: float = 60) -> None:
    """Return once ``address`` answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
