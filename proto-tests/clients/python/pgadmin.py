"""pgAdmin 4 as its users have it: in a browser, with a pointer and a keyboard.

`CLIENT_SCREENSHOT` names a file for a picture of the query tool.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import traceback

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import cells

# Only a broken page needs as long.
PATIENCE = 90
# What a page says of what it is just drawing anew.
MOVING = [ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException]
NAMES = "return Array.from(document.querySelectorAll('span.file-name')).map(span => span.textContent)"
SETTINGS = """
import os
SERVER_MODE = False
DATA_DIR = {data!r}
LOG_FILE = os.path.join(DATA_DIR, "log")
SQLITE_PATH = os.path.join(DATA_DIR, "pgadmin.db")
SESSION_DB_PATH = os.path.join(DATA_DIR, "sessions")
STORAGE_DIR = os.path.join(DATA_DIR, "storage")
DEFAULT_SERVER = "127.0.0.1"
DEFAULT_SERVER_PORT = {port}
MASTER_PASSWORD_REQUIRED = False
USE_OS_SECRET_STORAGE = False
UPGRADE_CHECK_ENABLED = False
CONSOLE_LOG_LEVEL = 40
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Program:
    """pgAdmin's own server, with its data in this folder."""

    def __init__(self):
        self.port = free_port()
        package = pathlib.Path(importlib.util.find_spec("pgadmin4").submodule_search_locations[0])
        # It looks for its settings on its path before its own folder.
        settings = pathlib.Path("settings")
        settings.mkdir(exist_ok=True)
        text = SETTINGS.format(data=os.path.abspath("data"), port=self.port)
        (settings / "config_local.py").write_text(text)
        environment = {**os.environ, "PYTHONPATH": str(settings.resolve())}
        self.log = open("pgadmin.log", "ab")
        command = [sys.executable, str(package / "pgAdmin4.py")]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def url(self):
        return f"http://127.0.0.1:{self.port}/browser/"

    def wait(self):
        def listens():
            assert self.process.poll() is None, pathlib.Path("pgadmin.log").read_text()[-2000:]
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        cells.wait_until(listens)

    def end(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Page:
    def __init__(self, url):
        options = webdriver.ChromeOptions()
        profile = os.path.abspath(f"profile-{time.monotonic_ns()}")
        for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"]:
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService("/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.get(url)

    def until(self, holds):
        return WebDriverWait(self.driver, PATIENCE, 0.2, MOVING).until(lambda _: holds())

    def shown(self, path):
        return next((found for found in self.driver.find_elements(By.XPATH, path) if found.is_displayed()), None)

    def see(self, path):
        return self.until(lambda: self.shown(path))

    def click(self, path):
        def click():
            found = self.shown(path)
            if found:
                found.click()
            return found

        return self.until(click)

    def fill(self, name, value):
        field = self.see(f"//input[@name='{name}']")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def names(self):
        return self.driver.execute_script(NAMES)

    def branch(self, name):
        return f"//span[contains(@class,'file-name') and normalize-space()='{name}']"

    def open(self, name, child):
        """Opens a branch of the tree, once more where another has that child already."""
        before = self.names().count(child)

        def opened():
            refused = self.shown("//*[@role='dialog' or @role='alert']")
            assert refused is None, refused.text
            return self.names().count(child) > before

        self.double_click(name)
        self.until(opened)

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def double_click(self, name):
        ActionChains(self.driver).double_click(self.see(self.branch(name))).perform()

    def type(self, sql):
        """Into the query tool, in the place of what is there."""
        editor = self.see("//div[contains(@class,'cm-content')]")
        editor.click()
        editor.send_keys(Keys.CONTROL, "a")
        editor.send_keys(sql)


class Visit:
    """One person's visit, from the registration of a server to a restart of pgAdmin."""

    def __init__(self):
        self.program = Program()
        self.program.wait()
        self.page = Page(self.program.url())

    def register(self):
        page = self.page
        page.click("//*[text()='Add New Server']")
        page.fill("name", "shop")
        page.click("//button[@role='tab' and .='Connection']")
        page.fill("host", cells.HOST)
        page.fill("port", str(cells.PORT))
        page.fill("db", "app")
        page.fill("username", cells.USER)
        page.click("//button[.='Save']")
        page.see(page.branch("shop"))

    def databases(self):
        self.page.open("shop", "Databases")
        self.page.open("Databases", "postgres")

    def another(self):
        self.page.open("postgres", "Schemas")

    def tree(self):
        self.page.open("app", "Schemas")
        self.page.open("Schemas", "public")

    def query(self):
        page = self.page
        ActionChains(page.driver).context_click(page.see(page.branch("app"))).perform()
        page.click("//*[@role='menuitem' and starts-with(normalize-space(.),'Query Tool')]")
        # It is a page of its own, in a frame.
        frame = page.until(lambda: next(iter(page.driver.find_elements(By.TAG_NAME, "iframe")), None))
        page.driver.switch_to.frame(frame)
        page.type("select 6 * 7 as answer, current_user as me")
        page.press(Keys.F5)
        page.see("//div[@role='gridcell' and contains(.,'42')]")
        page.see("//div[@role='gridcell' and contains(.,'app')]")
        if "CLIENT_SCREENSHOT" in os.environ:
            page.driver.save_screenshot(os.environ["CLIENT_SCREENSHOT"])

    def cancel(self):
        page = self.page
        page.type("select pg_sleep(600)")
        page.press(Keys.F5)
        page.click("//button[not(@disabled) and (contains(@data-label,'Cancel query') or contains(@aria-label,'Cancel query'))]")
        page.see("//*[contains(.,'canceling statement due to user request')]")

    def restart(self):
        """It has forgotten the connection, and asks for a password: an empty one is right."""
        self.page.driver.quit()
        self.program.end()
        self.program = Program()
        self.program.wait()
        self.page = page = Page(self.program.url())
        page.see(page.branch("Servers"))
        # It unfolds by itself what was unfolded before, in its own time; so does a click.
        page.until(lambda: "shop" in page.names() or self.unfold_servers())
        page.double_click("shop")
        page.click("//*[@role='dialog']//button[.='OK']")
        page.until(lambda: "Databases" in page.names())

    def unfold_servers(self):
        self.page.double_click("Servers")
        ended = time.monotonic() + 10
        while "shop" not in self.page.names() and time.monotonic() < ended:
            time.sleep(0.1)
        return False

    def end(self):
        self.page.driver.quit()
        self.program.end()


def main():
    visit = Visit()
    steps = {
        "register a server": visit.register,
        "databases": visit.databases,
        "another database": visit.another,
        "schemas": visit.tree,
        "query tool": visit.query,
        "stop": visit.cancel,
        "after a restart": visit.restart,
    }
    cells.say(version=importlib.metadata.version("pgadmin4"))
    try:
        for name, step in steps.items():
            step()
            cells.say(cell=name, ok=True)
    except Exception:
        picture = os.environ.get("CLIENT_FAILURE", "failure.png")
        visit.page.driver.save_screenshot(picture)
        cells.say(cell=name, ok=False, detail=traceback.format_exc(limit=6))
    finally:
        visit.end()


main()
