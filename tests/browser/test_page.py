"""The page in a real browser, from a file: sort, filter, click a cell, move the slider; no error, no request."""

import base64
import hashlib
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from gwfbench.audit import calibrate
from gwfbench.report.page import build
from gwfbench.report.page.draws import Cloud, Grid, Plane, Views, _png

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("jinja2")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
reason = "no chromium and chromedriver on this machine"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (BROWSER and DRIVER), reason=reason)]

EVIL = "evil:note=</script><script>document.title='gone'</script><img src=x onerror=document.title='gone'>"
METHODS = {"vjko": 0.5, "ula:steps=20": 0.2, EVIL: 0.9, "exact": 0.1, "still": 4.0}
ROLES = {"exact": "floor", "still": "control"}
LAWS = 5


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


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    table = calibrate.Row("toy2d", "w2", "ok", "", None, "lower", 1024, 0.1, 1.0, 10.0, 5.0, 0.1, 0.1, 0.1)
    text = build.page(rows_and_a_failure(), {"e0": {"commit": "abcdef", "cpu": EVIL}}, seen(), calibrated=[table])
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text, encoding="utf-8")
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
def page(started, file):
    """The page, fresh; afterwards nothing was said on its console, and nothing but the file was asked for."""
    for kind in ("browser", "performance"):
        started.get_log(kind)
    started.get(file.as_uri())
    yield started
    assert started.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert started.title == "gwfbench report"


def find(page, css):
    return page.find_element("css selector", css)


def texts(page, css):
    return [one.text for one in page.find_elements("css selector", css)]


def click(page, css):
    one = find(page, css)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)  # from under the bar that stays on top
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
    return texts(page, "#board-table tbody td:first-child")


def test_headers_sort(page):
    assert methods(page) == ["exact", "ula:steps=20", "vjko", EVIL, "still"]
    click(page, "#board-table th:nth-child(2) button")
    assert methods(page) == ["still", EVIL, "vjko", "ula:steps=20", "exact"]
    assert find(page, "#board-table th:nth-child(2)").get_attribute("aria-sort") == "descending"
    click(page, "#board-table th:first-child button")
    assert methods(page) == sorted(METHODS, key=str.lower)
    keys(page, webdriver.Keys.ENTER)  # the header has kept the focus
    assert methods(page) == sorted(METHODS, key=str.lower, reverse=True)


def test_filters(page):
    find(page, "#search").send_keys("ULA")
    assert methods(page) == ["ula:steps=20"]
    assert find(page, "#count").text == "1 of 5 rows"
    find(page, "#search").clear()
    find(page, "#search").send_keys(" ")
    choose(page, "information", "Initial LogDensity")
    assert methods(page) == ["vjko"]


def test_a_cell_opens_its_provenance_by_keyboard_too(page):
    dialog = find(page, "#cell")
    click(page, "#board-table tbody tr:nth-child(2) button")
    assert dialog.is_displayed()
    assert find(page, "#command").text == "python -m gwfbench run --task toy2d --method ula:steps=20 --seeds 3"
    assert "abcdef" in find(page, "#cell-body").text
    key = hashlib.sha256(b"toy2d ula:steps=20 0").hexdigest()[:16]
    assert key in find(page, "#cell-body").text
    click(page, "#copy")
    end = time.monotonic() + 60
    while find(page, "#copy").text not in ("Copied", "Selected: press Ctrl+C"):
        assert time.monotonic() < end
        time.sleep(0.02)
    keys(page, webdriver.Keys.ESCAPE)
    assert not dialog.is_displayed()
    keys(page, webdriver.Keys.TAB, webdriver.Keys.ENTER)  # on to the next row's
    assert dialog.is_displayed()
    assert find(page, "#cell-head").text == "vjko on toy2d: sliced_w2"


def test_tasks_metrics_and_plots(page):
    drawn = "return [...document.querySelectorAll('.plot')].map((one) => one.data ? one.data.length : 0)"
    assert page.execute_script(drawn) == [3, 9]
    choose(page, "task", "ou")
    assert page.execute_script(drawn) == [3, 15]
    assert page.execute_script("return document.getElementById('curve-x').value") == "t"
    choose(page, "metric", "w2")
    assert texts(page, "#board-table th")[1].startswith("w2")
    click(page, "#curve .legend button")
    assert page.execute_script(drawn)[1] == 12
    choose(page, "cost-x", "score_calls")
    assert "score calls" in page.execute_script("return document.getElementById('cost-plot').textContent")
    names = page.execute_script("return document.getElementById('cost-plot').data.map((one) => one.name)")
    assert not any("<" in name for name in names)


def test_a_task_without_any_value_is_shown_too(page):
    choose(page, "task", "lost")
    assert methods(page) == ["vjko"]
    assert "0/1, 1 diverged" in find(page, "#board-table tbody").text
    assert find(page, "#cost-note").text == "No method has this metric."


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


def test_dark_and_narrow(page):
    back = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(back)
    click(page, "#theme")
    assert page.execute_script(back) != before
    try:
        page.set_window_size(500, 900)
        page.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        )
        page.refresh()
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.set_window_size(1400, 900)
        page.get_log("performance")
        page.refresh()


def test_all_else_is_there(page):
    assert page.execute_script("return document.querySelector('#images img').naturalWidth") > 0
    assert texts(page, "#calibration-table tbody td")[:2] == ["toy2d", "w2"]
    click(page, "#provenance summary")
    assert EVIL in find(page, "#provenance").text
    click(page, "#every")
    assert texts(page, "#board-table th")[1:3] == ["sliced_w2", "w2"]
