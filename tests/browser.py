"""A headless Chromium, driven through its own debugging protocol over two pipes: nothing beyond Chromium itself has to be installed.

selenium and playwright bring a driver, or a browser, of their own for the five calls that are needed here.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"Backspace": 8, "Tab": 9, "Enter": 13, "ArrowDown": 40}


class Tab:
    """One page of the browser."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        self.messages: list[str] = []  # what the page's console and its errors said

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns the answer to a call of the protocol."""
        return self._browser.call(method, self._session, **params)

    def open(self, url: str) -> None:
        """Goes to an address, and returns once the page has loaded."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def value(self, expression: str) -> Any:
        """Returns what a JavaScript expression gives, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 10) -> None:
        """Returns once an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"{expression} has not come true; the page: {self.value('document.body.innerText')}"
            time.sleep(0.01)

    def press(self, key: str) -> None:
        """Presses a key as a person does."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = KEYS.get(key) or ord(key.upper())
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Types text where the focus is."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Makes the window this large, in CSS pixels, and light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Writes what the window shows, or the whole page, as PNG."""
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(image["data"]))


class Browser:
    """A running Chromium."""

    def __init__(self, writing: int, reading: int) -> None:
        self._writing, self._reading = writing, reading
        self._held = b""
        self._number = 0
        self._tabs: dict[str, Tab] = {}

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Returns the answer to a call; an AssertionError where the browser refuses, or is silent for half a minute."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(method)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self._tabs[answer["sessionId"]].messages.append(json.dumps(answer["params"]))

    def tab(self) -> Tab:
        """Returns a new page with cookies and storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        return tab

    def _next(self, method: str) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._reading], [], [], 30)
            assert ready, f"{method}: the browser does not answer"
            piece = os.read(self._reading, 1 << 16)
            assert piece, f"{method}: the browser has ended"
            self._held += piece
        answer, self._held = self._held.split(b"\0", 1)
        return json.loads(answer)


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A Browser; the test is skipped where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium (apt-get install chromium), so no page is tried in a browser")
    to_browser, writing = os.pipe()
    reading, from_browser = os.pipe()
    # --no-sandbox: CI runs as root in a container, where Chromium's sandbox can't start; the pages are our own.
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            # The protocol is spoken on descriptors 3 and 4.
            ["bash", "-c", f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"', "-", program, *options, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        browser = Browser(writing, reading)
        try:
            yield browser
            browser.call("Browser.close")
            process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(writing)
            os.close(reading)
