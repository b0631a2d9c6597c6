"""The page in a real browser: whole, silent, and alone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from surgery.auditing.report.charts import attack_chart, change_chart, neuron_map, short_layer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--disable-extensions",
    "--enable-logging=stderr",
]
BROWSERS_OWN = ("googleapis.com", "google.com", "gstatic.com")  # updates and time, whatever page is shown

PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images];
  document.documentElement.setAttribute("data-probe", JSON.stringify({
    images: images.length,
    loaded: images.filter(image => image.complete && image.naturalWidth > 0).length,
    charts: document.querySelectorAll("svg").length,
    fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  }));
});</script>"""


def chromium(*arguments, cwd):
    return subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={cwd / 'profile'}", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_the_page_asks_for_nothing_from_outside(hidden):
    page = (hidden[1] / "audit.html").read_text()
    links = re.findall(r'(?:src|href|xlink:href|action|srcset)="([^"]*)"', page)
    assert links and all(link.startswith("data:") for link in links)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_every_picture_and_stays_silent(hidden, tmp_path, width):
    page = (hidden[1] / "audit.html").read_text()
    plain, probed = tmp_path / "plain.html", tmp_path / "probed.html"
    plain.write_text(page)
    # The probe needs a script; everything else stays forbidden.
    probed.write_text(
        page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'") + PROBE
    )
    shown = chromium(f"--window-size={width},900", "--dump-dom", probed.as_uri(), cwd=tmp_path)
    probe = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', shown.stdout).group(1)))
    assert probe["images"] == probe["loaded"] >= 4 + 4 + 4
    assert probe["charts"] == 3 and probe["fetched"] == []
    assert probe["wide"] <= 0, "the page scrolls sideways"
    log, picture = tmp_path / "net.json", tmp_path / "page.png"
    quiet = chromium(
        f"--window-size={width},900",
        f"--log-net-log={log}",
        f"--screenshot={picture}",
        plain.as_uri(),
        cwd=tmp_path,
    )
    assert "CONSOLE" not in quiet.stderr, quiet.stderr
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', log.read_text()))
    assert all(host.endswith(BROWSERS_OWN) for host in hosts), hosts
    assert picture.stat().st_size > 10_000


def test_charts_draw_what_they_are_given():
    chart = attack_chart([0, 10], [0.9, 1.0], [0.1, 0.8], [[0.1, 0.2], [0.2, 0.3]], 0.5)
    assert chart.count("<polyline") == 3 and chart.count("<polygon") == 1 and chart.count("<circle") == 4
    assert attack_chart([0], None, [0.2], [], 0.5).count("<polyline") == 1
    assert change_chart([0.1, 0.2, 1.4]).count("<circle") == 3
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
    mapped = neuron_map(
        {layer: 64, "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": 64}, {layer: [3, 9]}, {}
    )
    assert mapped.count("<title>row") == 2 and "down 1, attention 0, block 0" in mapped
    assert (
        short_layer("mid_block.attentions.0.transformer_blocks.2.attn2.to_v") == "mid, attention 0, block 2"
    )
