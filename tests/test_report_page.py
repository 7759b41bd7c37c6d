"""The page in a real browser, without a network: what a reader would see."""

import json
import os
import re
import shutil
import subprocess

import pytest

from sdqn_lab.report import main
from tests.test_report import ARMS, GAMES, SEEDS, make_study

pytestmark = pytest.mark.xdist_group("report")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
LOOK = """
<script>
addEventListener("load", () => {
  const seen = {
    images: [...document.images].map((i) => [i.complete, i.naturalWidth, i.width, i.alt]),
    overflow: document.documentElement.scrollWidth - innerWidth,
    sections: [...document.querySelectorAll("h2")].map((h) => h.innerText),
    rows: [...document.querySelectorAll("#table-scores tbody tr")].map((r) =>
      [...r.cells].map((c) => c.innerText)),
    links: [...document.querySelectorAll("nav a")].map(
      (a) => document.querySelector(a.getAttribute("href")) !== null),
  };
  const written = document.createElement("pre");
  written.id = "seen";
  written.textContent = JSON.stringify(seen);
  document.body.append(written);
});
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if BROWSER is None:
        reason = "no chromium here: make browser-packages"
        (pytest.fail if os.environ.get("SDQN_LAB_REQUIRE_BROWSER") else pytest.skip)(reason)
    out = tmp_path_factory.mktemp("page")
    assert main([str(make_study(out / "sweep")), "--out", str(out / "report")]) == 0
    return out / "report" / "index.html"


def chromium(page, *flags):
    common = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *common, *offline, profile, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module", params=[1280, 500], ids=["wide", "narrow"])
def seen(request, page):
    """What the browser made of the page, written by a script into a copy of it."""
    looking = page.with_name("looking.html")
    looking.write_text(page.read_text().replace("</body>", LOOK))
    dom = chromium(looking, f"--window-size={request.param},900", "--dump-dom")
    written = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(written[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_every_figure_is_drawn_and_none_is_wider_than_the_window(seen, page):
    assert len(seen["images"]) == len(list((page.parent / "figures").glob("*.png")))
    for complete, natural, width, name in seen["images"]:
        assert complete, name
        assert natural > 300, name
        assert 0 < width <= 1280, name
    assert seen["overflow"] <= 0


def test_sections_and_links_are_those_of_the_report(seen):
    assert seen["sections"][:2] == ["Who wins?", "What is missing?"]
    assert all(seen["links"])


def test_the_table_that_is_seen_holds_the_scores(seen):
    rows = {(row[0], row[1]): row for row in seen["rows"]}
    assert len(rows) == len(GAMES) * len(ARMS)
    assert rows["minatar_breakout", "dqn"][2] == f"{SEEDS} of {SEEDS}"
    assert rows["minatar_breakout", "dqn"][4] == "5.0 ± 1.0"


def test_a_picture_of_the_page_is_not_blank(page, tmp_path):
    import numpy as np
    from matplotlib.image import imread

    chromium(page, "--window-size=1280,3000", f"--screenshot={tmp_path / 'page.png'}")
    picture = imread(tmp_path / "page.png")[..., :3]
    assert picture.shape[:2] == (3000, 1280)
    dark = (picture.mean(-1) < 0.5).mean(axis=1)
    assert (dark[:1500] > 0).mean() > 0.2
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
