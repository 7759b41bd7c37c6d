"""The site is whole, asks for nothing from elsewhere, and fits a desktop and a telephone."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

from sdqn_lab import config
from tests.test_report_page import BROWSER

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.xdist_group("site")
pytest.importorskip("mkdocs", reason="no MkDocs here: pip install -e '.[docs]'")
MAIN = [
    *("index", "tutorials/first_ablation", "tutorials/first_algorithm"),
    *("how-to/run", "how-to/plugins", "how-to/play", "how-to/hostile", "SLURM"),
    *("reference/axes", "reference/keys", "reference/keys/algo", "reference/commands"),
    *("reference/api/spiking", "METRICS", "background/pl_sdqn", "background/findings"),
    *("DEVIATIONS", "SPEED", "results/minatar/index", "CHANGELOG"),
]
LISTEN = b"""<head><script>
seen = [];
addEventListener("error", (e) => seen.push(e.message || e.target.src || e.target.href), true);
addEventListener("unhandledrejection", (e) => seen.push(String(e.reason)));
</script>"""
LOOK = """<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    return {
      page: frame.getAttribute("src"), width: root.clientWidth, errors: frame.contentWindow.seen,
      overflow: root.scrollWidth - root.clientWidth, title: page.querySelector("h1").innerText,
      broken: [...page.images].filter((i) => !i.naturalWidth).map((i) => i.src),
    };
  });
  document.body.innerHTML = "<pre id='seen'></pre>";
  document.getElementById("seen").textContent = encodeURIComponent(JSON.stringify(seen));
});
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    return out


def text(page: Path) -> str:
    """What a reader sees, roughly."""
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_pages_ask_for_nothing_from_elsewhere(site):
    asking = re.compile(
        r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*"
    )
    for page in site.rglob("*.html"):
        assert asking.findall(page.read_text()) == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*", style.read_text()) == [], style


@pytest.mark.parametrize("overrides", [["env=pong"], ["env=cartpole", "experiment=pl_ppo"]])
def test_every_key_of_a_config_has_a_row(site, overrides):
    cfg = config.compose([*overrides, "tracker=wandb"])
    keys = {f"{group}.{key}" for group in config.GROUPS if group in cfg for key in cfg[group]}
    # Of the family's sizes and the classes each page speaks in its own way.
    keys = {key for key in keys if not re.search(r"\._\w+_$", key)}
    shown = "".join(text(page) for page in (site / "reference" / "keys").glob("*.html"))
    assert [key for key in keys if key not in shown] == []
    root = set(cfg) - set(config.GROUPS) - {"choices", "cells"}
    assert [key for key in root if key not in text(site / "reference" / "keys.html")] == []


def test_a_key_is_shown_with_its_range_default_meaning_and_source(site):
    (row,) = re.findall(
        r"<tr>\s*<td><code>neuron\.tau</code></td>.*?</tr>",
        (site / "reference" / "keys" / "neuron.html").read_text().partition('id="neuronlif"')[2],
        re.DOTALL,
    )[:1]
    cells = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
    assert cells[1:3] == ["number", "<code>2.0</code>"]
    assert "membrane time constant" in cells[3]
    assert "Brain-Cog" in cells[4]


class Served(SimpleHTTPRequestHandler):
    """The site with an ear in each page, and a page that looks at others."""

    look = ""

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if self.path == "/look":
            answer = self.look.encode()
        elif file.suffix == ".html":
            answer = file.read_bytes().replace(b"<head>", LISTEN, 1)
        else:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def looked_at(site, tmp_path_factory) -> list[dict[str, Any]]:
    """What a browser made of the main pages, at two widths."""
    if BROWSER is None:
        reason = "no chromium here: make browser-packages"
        (pytest.fail if os.environ.get("SDQN_LAB_REQUIRE_BROWSER") else pytest.skip)(reason)
    frames = [
        f'<iframe src="/{page}.html" width={width} height=900></iframe>'
        for page in MAIN
        for width in (1280, 500)
    ]
    Served.look = f"<html><body>{''.join(frames)}{LOOK}</body></html>"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Served, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        flags += [f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]
        address = f"http://127.0.0.1:{server.server_port}/look"
        command = [BROWSER, "--disable-background-networking", *flags, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        server.shutdown()
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout)
    seen: list[dict[str, Any]] = json.loads(unquote(found))
    assert len(seen) == len(frames)
    return seen


def test_no_page_has_an_error_or_a_missing_picture(looked_at):
    assert [each for each in looked_at if each["errors"] or each["broken"]] == []


def test_no_page_is_wider_than_its_window(looked_at):
    assert {each["width"] for each in looked_at} == {1280, 500}
    assert [each for each in looked_at if each["overflow"] > 0] == []


def test_the_four_kinds_of_pages_are_there(looked_at):
    titles = {each["page"]: each["title"] for each in looked_at}
    assert "Run and sweep" in titles["/how-to/run.html"]
    assert "algo" in titles["/reference/keys/algo.html"]
    assert "PL-SDQN" in titles["/background/pl_sdqn.html"]
    assert "/tutorials/first_ablation.html" in titles
