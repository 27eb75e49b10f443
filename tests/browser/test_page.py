"""The page in a real browser, from a file: choose, filter, open a cell, move the slider; no error, no request."""

import base64
import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gwfbench.audit import calibrate
from gwfbench.report.board.suites import of_suite as rows_of_suite
from gwfbench.report.page import build
from gwfbench.report.page.draws import Cloud, Grid, Plane, Views, _png
from gwfbench.report.page.groups import Group, of_rows, of_suite
from gwfbench.report.page.published import Published
from gwfbench.suites.suite import Part, Suite

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("jinja2")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
reason = "no chromium and chromedriver on this machine"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (BROWSER and DRIVER), reason=reason)]

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"  # npm install --no-save axe-core
EVIL = "evil:note=</script><script>document.title='gone'</script><img src=x onerror=document.title='gone'>"
METHODS = {"vjko": 0.5, "ula:steps=20": 0.2, EVIL: 0.9, "exact": 0.1, "still": 4.0}
ROLES = {"exact": "floor", "still": "control"}
LAWS = 5
PARTS = (Part("toy2d", "sliced_w2", ("vjko", "ula:steps=20")), Part("ou", "w2", ("vjko", "ula:steps=20")))
SUITES = [Suite(name, f"The suite {name}", "default", 3, PARTS) for name in ("one", "two")]


def rows():
    noise = np.random.default_rng(0)
    for task, times in (("toy2d", [None] * LAWS), ("ou", [0.1 * k for k in range(1, LAWS + 1)])):
        for method, value in METHODS.items():
            for seed in range(3):
                key = hashlib.sha256(f"{task} {method} {seed}".encode()).hexdigest()[:16]
                for step, t in enumerate(times, start=1):
                    for metric in ("sliced_w2", "w2"):
                        yield {
                            "task": task, "method": method, "seed": seed, "step": step, "t": t, "metric": metric,
                            "metric_version": 1, "better": "lower", "law": "flow", "role": ROLES.get(method, "method"),
                            "value": value * (1 + 1 / step) * np.exp(0.05 * noise.normal()), "se": 0.001, "n": 1024,
                            "seconds": 0.5 * step, "score_calls": 10 * step, "log_prob_calls": 0, "draw_calls": 0,
                            "sample_seconds": 0.1, "sample_calls": 0.0, "metric_code": "abc", "status": "ok",
                            "reason": "", "information": "Initial LogDensity" if "vjko" in method else "Initial",
                            "track": "default", "dtype": "float32", "device": "cpu", "budget": "", "batch": 1,
                            "run_key": key, "attempt": key[:8], "code": "c0de", "env": "e0",
                        }  # fmt: skip


def rows_and_a_failure():
    """And a task on which nobody has any value."""
    every = list(rows())
    none = {
        "task": "lost",
        "metric": None,
        "value": None,
        "step": None,
        "t": None,
        "status": "diverged",
        "reason": "nan",
    }
    return pd.DataFrame([*every, every[0] | none | {"run_key": "0" * 16, "attempt": "0" * 8}])


def seen():
    noise = np.random.default_rng(1)

    def law(middle):
        return base64.b64encode((noise.normal(middle, 2000, (200, 2)).clip(0, 65535)).astype("<u2").tobytes()).decode()

    def cloud(method):
        return Cloud(method, 0, True, [f"step {k}" for k in range(LAWS)], [law(26000 + 3000 * k) for k in range(LAWS)])

    plane = Plane("toy2d", [0.0, 1.0, 0.0, 1.0], [1 / 3, 2 / 3, 1 / 3, 2 / 3], law(38000), [cloud("vjko"), cloud(EVIL)])
    return Views([plane], [Grid("toy2d", "vjko", "seed 0", _png(noise.normal(size=(9, 1, 8, 8))))], ["a note"])


FACTS = {"e0": {"commit": "abcdef", "cpu": EVIL}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Of rows of one's own, with kept draws."""
    table = calibrate.Row("toy2d", "w2", "ok", "", None, "lower", 1024, 0.1, 1.0, 10.0, 5.0, 0.1, 0.1, 0.1)
    text = build.page([of_rows(rows_and_a_failure())], FACTS, seen(), [table])
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Of two suites, and a paper."""
    points = pd.DataFrame(list(rows()))
    groups = [of_suite(suite, rows_of_suite(points, suite)) for suite in SUITES]
    answered = Published(
        "fan2022", "Table 1", "a row", "0.52 ± 0.01", "better", "own setting", "about", "", "0.6", "[0.5, 0.7]",
        "0.4 to 0.8", "ours", "ou", "vjko", "w2",
    )  # fmt: skip
    not_run = Published("fan2022", "Table 1", "another row", EVIL, "not run", "no results yet", "about", EVIL)
    papers = Group("papers", "Papers", of_rows(points).sheets, [answered, not_run], {}, [], [])
    path = tmp_path_factory.mktemp("page") / "site.html"
    path.write_text(build.page([*groups, papers], FACTS, Views([], [], [])), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def started():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def opened(started):
    """Opens a file, fresh; afterwards nothing was said on its console, and nothing but the file was asked for."""
    files = []

    def one(path, view=""):
        for kind in () if files else ("browser", "performance"):
            started.get_log(kind)
        files.append(path.as_uri())
        started.get("about:blank")
        started.get(path.as_uri() + view)
        until(started, "performance.getEntriesByName('ready').length && window.Plotly")
        return started

    yield one
    assert started.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith(("data:", "blob:", "about:"))} == set(files)
    assert started.title == "gwfbench results"


@pytest.fixture
def page(opened, file):
    return opened(file)


def until(page, condition):
    end = time.monotonic() + 60
    while not page.execute_script(f"return Boolean({condition})"):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def find(page, css):
    return page.find_element("css selector", css)


def texts(page, css):
    return [one.text for one in page.find_elements("css selector", css)]


def click(page, css):
    one = find(page, css)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
    one.click()


def choose(page, name, value):
    page.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(e.type === 'range' ? 'input' : 'change'))",
        name, value,
    )  # fmt: skip


def keys(page, *names):
    webdriver.ActionChains(page).send_keys(*names).perform()


def methods(page):
    named = "document.querySelectorAll('#board-table tbody th[scope=row] .who > span')"
    own = (
        "[...one.childNodes].filter((node) => node.className !== 'sub').map((node) => node.textContent).join('').trim()"
    )
    return page.execute_script(f"return [...{named}].map((one) => {own})")


def heads(page):
    return texts(page, "#board-table thead th button")


def test_headers_sort_between_exact_draws_and_still(page):
    assert methods(page) == ["exact", "ula:steps=20", EVIL, "vjko", "still"]  # by what they use, then by value
    click(page, '#board-table [data-column="sliced_w2"]')
    assert methods(page) == ["exact", EVIL, "ula:steps=20", "vjko", "still"]
    assert texts(page, "#board-table th[aria-sort=descending] button") == ["sliced_w2"]
    click(page, '#board-table [data-column="method"]')
    keys(page, webdriver.Keys.ENTER)  # the header has kept the focus
    assert methods(page) == ["exact", "ula:steps=20", EVIL, "vjko", "still"]


def test_filters_and_choices_survive_a_reload(page):
    choose(page, "task", "ou")
    choose(page, "metric", "sliced_w2")
    choose(page, "uses", "density")
    find(page, "#search").send_keys("VJ")
    for _ in range(2):
        assert methods(page) == ["vjko"]
        assert find(page, "#count").text == "1 of 5 rows"
        assert [find(page, f"#{name}").get_attribute("value") for name in ("task", "metric", "uses", "search")] == [
            "ou", "sliced_w2", "density", "VJ",
        ]  # fmt: skip
        page.refresh()
        until(page, "performance.getEntriesByName('ready').length && window.Plotly")
    page.back()  # from the choice of what is used: the search is on the same page
    until(page, "!document.getElementById('uses').value")
    assert len(methods(page)) == 5


def test_a_cell_opens_its_runs_by_keyboard_too_and_its_link_opens_it(page, opened, file):
    dialog = find(page, "#dialog")
    click(page, "#board-table tbody tr:nth-child(3) button")
    assert dialog.is_displayed()
    assert find(page, "#command").text == "python -m gwfbench run --task toy2d --method ula:steps=20 --seeds 3"
    key = hashlib.sha256(b"toy2d ula:steps=20 0").hexdigest()[:16]
    said = find(page, "#dialog-body").text
    assert "abcdef" in said
    assert key in said
    click(page, "#copy")
    until(page, "['Copied', 'Selected: press Ctrl+C'].includes(document.getElementById('copy').textContent)")
    link = page.execute_script("return location.hash")
    keys(page, webdriver.Keys.ESCAPE)
    until(page, "!document.getElementById('dialog').open && !location.hash.includes('cell')")
    keys(page, webdriver.Keys.TAB, webdriver.Keys.ENTER)  # on to the next row's
    assert find(page, "#dialog-head").text == f"{EVIL} on toy2d"
    again = opened(file, link)
    assert find(again, "#dialog-head").text == "ula:steps=20 on toy2d"
    assert opened(file, "#cell=ou&cell=nobody&cell=w2").execute_script("return notice.textContent.includes('nobody')")


def test_tasks_metrics_and_plots(page):
    drawn = "return [...document.querySelectorAll('.plot')].map((one) => one.data ? one.data.length : 0)"
    assert page.execute_script(drawn) == [3, 9]
    choose(page, "task", "ou")
    assert page.execute_script(drawn) == [3, 9]
    assert page.execute_script("return document.getElementById('curve-x').value") == "t"
    choose(page, "metric", "w2")
    assert "w2" in heads(page)
    click(page, "#curve .legend button")
    assert page.execute_script(drawn) == [2, 6]
    choose(page, "cost-x", "score_calls")
    assert "score calls" in page.execute_script("return document.getElementById('cost-plot').textContent")
    names = page.execute_script("return document.getElementById('cost-plot').data.map((one) => one.name)")
    assert not any("<" in name for name in names)
    choose(page, "metric", "*")
    assert heads(page)[1:3] == ["sliced_w2", "w2"]


def test_a_task_without_any_value_is_shown_too_and_no_empty_section(page):
    choose(page, "task", "lost")
    assert methods(page) == ["vjko"]
    assert "0/1, 1 diverged" in find(page, "#board-table tbody").text
    hidden = [
        name for name in ("cost", "curve", "plane", "images", "calibration") if find(page, f"#{name}").is_displayed()
    ]
    assert hidden == []


def test_the_slider_moves_the_particles(page):
    look = "return [...document.querySelectorAll('#plane canvas')].map((one) => one.toDataURL())"
    slider = find(page, "#time")
    assert (slider.get_attribute("max"), slider.get_attribute("value")) == (str(LAWS - 1), str(LAWS - 1))
    last = page.execute_script(look)
    assert len(last) == 2
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    webdriver.ActionChains(page).drag_and_drop_by_offset(slider, -100, 0).perform()
    assert slider.get_attribute("value") != str(LAWS - 1)
    middle = page.execute_script(look)
    assert all(one != other for one, other in zip(last, middle, strict=True))
    at = int(slider.get_attribute("value"))
    keys(page, webdriver.Keys.ARROW_RIGHT)
    assert slider.get_attribute("value") == str(at + 1)
    assert f"step {at + 1}" in find(page, "#plane figcaption").text
    before = page.execute_script(look)
    click(page, "#paths")
    assert page.execute_script(look) != before


def test_dark_narrow_and_printed(page):
    back = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(back)
    click(page, "#theme")
    assert page.execute_script(back) != before
    assert len(base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])) > 10_000
    until(page, "document.documentElement.dataset.theme === 'dark'")  # paper was white
    try:
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        )
        page.refresh()
        until(page, "performance.getEntriesByName('ready').length && window.Plotly")
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_all_else_is_there(page):
    assert page.execute_script("return document.querySelector('#images img').naturalWidth") > 0
    assert texts(page, "#calibration-table tbody td")[0] == "w2"
    assert not find(page, "#suites").is_displayed()
    click(page, "#machines summary")
    click(page, "#machines details details summary")
    assert EVIL in find(page, "#machines").text


def test_boards_are_files(page):
    def text(form):
        click(page, f"#{form}")
        found = find(page, "#text").text
        click(page, "#close")
        return found

    csv = text("csv").splitlines()
    assert csv[0].split(",")[:4] == ["method", "tier", "sliced_w2", "sliced_w2_low"]
    assert len(csv) == 6
    latex = text("tex")
    assert r"\toprule" in latex
    assert r"ula:steps=20" in latex
    assert r"\textless{}" in latex
    assert text("bib").count("@") >= 2


def test_a_suites_board_leads_to_its_tasks_and_cells(opened, site):
    page = opened(site)
    assert texts(page, ".card h3") == ["The suite one", "The suite two"]
    click(page, '.card[data-suite="two"]')
    until(page, "document.querySelector('.card[data-suite=two]').hasAttribute('aria-current')")
    assert find(page, "#board-head").text == "The suite two"
    assert heads(page)[:2] == ["method", "score"]
    assert {"toy2d", "ou"} <= set(heads(page))
    click(page, "#board-table td button")
    assert find(page, "#command").text.startswith("python -m gwfbench run --suite two --task toy2d --method ")
    keys(page, webdriver.Keys.ESCAPE)
    click(page, 'a[aria-label$="the board of ou"]')
    until(page, "document.getElementById('task').value === 'ou'")
    assert find(page, "#metric").get_attribute("value") == "w2"


def test_a_papers_numbers_stand_next_to_ours(opened, site):
    page = opened(site, "#paper=fan2022")
    assert texts(page, "#board-table tbody th[scope=row]")[0] == "a row"
    choose(page, "uses", "better")
    assert len(texts(page, "#board-table tbody th[scope=row]")) == 1
    click(page, "#board-table td button")
    assert find(page, "#dialog-head").text == "vjko on ou"
    assert "0.52 ± 0.01" in find(page, "#dialog-body").text


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: npm install --no-save axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["", "#task=ou", "#paper=fan2022", "#suite=one&cell=ou&cell=vjko&cell=w2"])
def test_axe_finds_nothing_serious(opened, site, theme, view):
    page = opened(site, view)
    page.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    page.execute_script(AXE.read_text(encoding="utf-8"))
    found = page.execute_async_script("const done = arguments[0]; axe.run().then((all) => done(all.violations))")
    serious = {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in found
               if one["impact"] in ("serious", "critical")}  # fmt: skip
    assert serious == {}
