"""The notebooks to explore by hand, in a real JupyterLab in a real browser.

Needs Chromium and its driver (Debian: chromium, chromium-driver); without them the tests are
skipped. Screenshots go to build/screenshots. The server works in a copy, and nothing is saved.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

from uvlm_core.environment import ROOT

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 180  # s until a test gives up; not a measurement
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no Chromium with its driver on this machine"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab over a copy of the notebooks."""
    home = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "figures/laptop"):
        shutil.copytree(ROOT / name, home / name)
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(home / folder) for name, folder in own.items()}
    environment |= {
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    (home / "uvlm_core").symlink_to(ROOT / "uvlm_core")  # for the settings
    options = re.search(r"^LAB = (.*?[^\\])$", (ROOT / "Makefile").read_text(), re.M | re.S)[1]
    words = options.replace("\\\n", " ").replace("$(CURDIR)", str(home)).replace("'", "").split()
    with socket.socket() as free:  # two servers that look for a port at once find the same one
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home / "log"  # a pipe that nobody reads would fill up, and stop the server
    with open(log, "w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--allow-root"]
            + [*words, "--expose-app-in-browser", "--IdentityProvider.token=", f"--port={port}"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + PATIENCE
        while not listens(port):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.add_argument("--window-size=1500,1250")
    found = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


class Page:
    """A notebook in JupyterLab."""

    def __init__(self, browser, lab: str, name: str):
        self.browser = browser
        browser.get(f"{lab}lab/tree/notebooks/{name}.ipynb?reset" if name else lab)
        self.wait(lambda: self.js("return !!window.jupyterapp"), "the application")

    def js(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self, holds, what: str):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = holds()
            if found:
                return found
            time.sleep(0.1)
        self.picture("failed")
        raise AssertionError(f"the page did not show {what}; it shows {self.text()[-2000:]}")

    def text(self) -> str:
        return self.js("return document.body.innerText")

    def shows(self, *words: str) -> None:
        for word in words:
            self.wait(lambda word=word: word in self.text(), word)

    def run(self) -> None:
        """Run all cells, once the kernel is there."""
        self.wait(lambda: "| Idle" in self.text(), "an idle kernel")
        self.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def widget(self, label: str):
        """Return the box of the visible widget with a label."""
        script = """
            return [...document.querySelectorAll('.jupyter-widgets')].find(each => {
                const label = each.querySelector(':scope > .widget-label');
                return label && label.innerText.trim() === arguments[0] && each.offsetParent;
            })"""
        return self.wait(lambda: self.js(script, label), f"the widget {label!r}")

    def type(self, label: str, text: str, inside: str) -> None:
        """Replace the text of a widget, or the number beside a slider, and press Enter."""
        from selenium.webdriver.common.keys import Keys

        box = self.widget(label).find_element("css selector", inside)
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text, Keys.ENTER)

    def choose(self, label: str, option: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.widget(label).find_element("css selector", "select")).select_by_visible_text(
            option
        )

    def click(self, text: str) -> None:
        script = """
            return [...document.querySelectorAll('.lm-TabBar-tabLabel, button')].find(
                each => each.innerText.trim() === arguments[0] && each.offsetParent)"""
        self.wait(lambda: self.js(script, text), f"the button {text!r}").click()

    def picture(self, name: str) -> None:
        folder = ROOT / "build" / "screenshots"
        folder.mkdir(parents=True, exist_ok=True)
        self.browser.save_screenshot(str(folder / f"{name}.png"))


def test_the_lab_opens_with_the_front_page(lab, browser):
    page = Page(browser, lab, "")
    page.shows("Unified vision-language models", "Playground", "Explorer", "Mutual benefit")
    page.wait(
        lambda: page.js("return [...document.images].some(each => each.naturalWidth > 100)"),
        "a picture",
    )
    page.picture("index")


def test_the_playground_answers_draws_and_follows_every_change(lab, browser):
    page = Page(browser, lab, "playground")
    page.run()
    page.shows("VQ-VQ understanding", "10:08:30", "raining ✓")
    page.picture("playground")
    page.type("hour", "4", ".widget-readout")
    page.shows("04:08:30")
    page.type("ask", "is the sky blue?", "input")
    page.shows("is the sky blue?", "not trained on")
    page.choose("battery at", "top left")
    page.shows("weather_corner and battery_corner are both 'top left'")
    page.choose("battery at", "bottom left")
    page.shows("bottom left ✓")
    page.click("Draw")
    page.shows("asked for", "read back")
    page.picture("playground_draw")
    page.choose("model", "SigLIP-VQ unified")
    page.shows("read back")
    page.click("What it looks at")
    page.shows("Attention shows where a model looks")
    page.picture("playground_look")


def test_the_explorer_shows_differences_seeds_and_the_record_behind_a_point(lab, browser):
    page = Page(browser, lab, "explorer")
    page.run()
    page.shows("VQ-VQ: unified", "seeds.", "The scoreboard")
    page.choose("study", "training order")
    page.shows("VQ-VQ: alone for longer")
    page.click("paired differences")
    rows = ", 1,600 understanding rows"
    page.shows(f"alone for longer{rows} − understanding alone{rows}", "8 seeds: yes.")
    page.picture("explorer")
    page.shows("provenance", ".json in figures/runs/laptop")
    page.type("records", "figures/nowhere", "input")
    page.shows("records 'figures/nowhere' is not a folder.")


def test_a_notebook_that_would_train_says_so_where_one_looks(lab, browser):
    page = Page(browser, lab, "08_training_order")
    page.wait(lambda: "| Idle" in page.text(), "an idle kernel")
    page.js(
        """const cells = window.jupyterapp.shell.currentWidget.content.widgets;
           const cell = cells.find(each => each.model.sharedModel.source.startsWith('profile'));
           cell.model.sharedModel.source += '\\nseeds = 9';"""
    )
    page.run()
    page.shows("StudyError: ", "set train = True in the parameters cell")
    assert "Traceback" not in page.text()
    error = page.js(
        """const found = document.querySelector('.jp-RenderedText[data-mime-type*="stderr"], '
           + '[data-mime-type="application/vnd.jupyter.error"]');
           const box = found.getBoundingClientRect();
           return box.top > 0 && box.top < window.innerHeight"""
    )
    page.picture("error")
    assert error
