"""Pictures of the web page for docs/app.md, taken with a real browser.

python tools/app_pictures.py --output docs/images

Needs the extras `app` and `test`, and Chromium.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from absl import flags

from mqc_jax.errors import UserError, run

_OUTPUT = flags.DEFINE_string("output", "docs/images", "Folder for app_desk, _running, _phone and _memory.png.")
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def _wait(url: str, process: subprocess.Popen) -> None:
    while True:
        if process.poll() is not None:
            raise UserError("the app did not start; run it by itself: python -m mqc_jax.app")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)


def _shoot(url: str, folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise UserError("there is no Chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)

        def visit(width: int, height: int, scheme: str = "light"):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(300_000)
            page.goto(url)
            page.wait_for_selector("#stage img")
            return page

        def follow(page) -> None:
            page.click("#start")
            page.wait_for_selector("#stop:enabled")
            page.wait_for_selector("#stop:disabled")
            page.wait_for_function("document.querySelector('#stage video').readyState >= 2")
            page.locator("#stage input[type=range]").fill("20")
            page.wait_for_timeout(700)

        def keep(page, name: str, **options) -> None:
            place = folder / name
            page.screenshot(path=place, **options)
            # 256 colours are enough for a picture of a page, and a third of the bytes.
            from PIL import Image

            picture = Image.open(place).convert("RGB")
            few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
            few.save(place, optimize=True)

        page = visit(1280, 900)
        follow(page)
        keep(page, "app_desk.png", full_page=True)
        page.click("text=More settings")
        page.click("text=Chosen frames, with reasons")
        follow(page)
        page.wait_for_function("document.querySelector('.gates img')?.complete")
        keep(page, "app_memory.png", full_page=True)
        page = visit(390, 844)
        follow(page)
        keep(page, "app_phone.png", full_page=True)
        page = visit(1280, 860, "dark")
        page.click("text=Harbour")
        page.wait_for_function("document.querySelector('#sentence textarea').value.includes('yacht')")
        page.click("#start")
        page.wait_for_function("document.querySelector('#stage img')?.src.includes('live.jpg')")
        page.wait_for_timeout(500)
        keep(page, "app_running.png")
        browser.close()


def main(argv: list[str]) -> None:
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    with tempfile.TemporaryDirectory() as work:
        line = [sys.executable, "-m", "mqc_jax.app", "--port", str(port), "--work_dir", work]
        process = subprocess.Popen(line)
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait(url, process)
            _shoot(url, folder)
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    run(main)
