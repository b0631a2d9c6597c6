"""The page in a real browser: whole, silent, and alone."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import made_up_findings
import pytest
from made_up_findings import STRONG, picture, pictures_of

from surgery.auditing.attack.registry import ATTACKS
from surgery.auditing.judgement.verdict import HIDDEN, NOT_FOUND, NOT_TESTED, REMOVED, STILL, WORDS
from surgery.auditing.report.charts import Attacked, attack_chart, change_chart
from surgery.auditing.report.document import audit_document
from surgery.auditing.report.maps import neuron_map, part_map, short_layer
from surgery.auditing.report.page import CLASSES, MEANINGS, audit_page
from surgery.auditing.report.pictures import uri
from surgery.auditing.report.sentence import WAYS, plain_sentence

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


GONE = {"embedding": [0.02] * 3, "output": [0.01] * 3}
EVERYTHING = {**{name: [0.02, 0.02, 0.8] for name in ATTACKS}, "graft": [0.8, 0.8, 0.8]}


def made_up_page(attacks, settings=STRONG, include_private=False, **more):
    """(document, page) of findings that were made up."""
    found = made_up_findings.findings(attacks, replace(settings, attack=tuple(attacks)), **more)
    document = audit_document(found, include_private)
    return document, audit_page(found, document, include_private, pictures_of)


@pytest.fixture(scope="module")
def everything():
    """(document, page) of an audit with every attack, a twin and private matter."""
    return made_up_page(EVERYTHING, include_private=True, twin=True)


def first_screen(page):
    return re.sub("<[^>]*>", "", page[page.index("<header>") : page.index("</header>")])


def test_the_page_asks_for_nothing_from_outside(everything):
    page = everything[1]
    links = re.findall(r'(?:src|href|xlink:href|action|srcset)="([^"]*)"', page)
    assert links and all(link.startswith("data:") for link in links)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_every_picture_and_stays_silent(everything, tmp_path, width):
    page = everything[1]
    plain, probed = tmp_path / "plain.html", tmp_path / "probed.html"
    plain.write_text(page)
    # The probe needs a script; everything else stays forbidden.
    probed.write_text(
        page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'") + PROBE
    )
    shown = chromium(f"--window-size={width},900", "--dump-dom", probed.as_uri(), cwd=tmp_path)
    probe = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', shown.stdout).group(1)))
    assert probe["images"] == probe["loaded"] >= 3 * (4 + 2 * len(ATTACKS))
    # of each prompt and attack, of the parts, of the ordinary prompts, of the neurons
    assert probe["charts"] == 3 * len(ATTACKS) + 3 and probe["fetched"] == []
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


def test_the_first_screen_holds_the_word_its_budget_and_the_sentence():
    document, page = made_up_page(GONE)
    assert document["phrase"] == "removed (embedding 200, output 50; 24 controls, 4 canaries)"
    shown = " ".join(first_screen(page).split())
    assert document["phrase"] in shown and document["sentence"] in shown
    weaker, page = made_up_page(GONE, replace(STRONG, curve=(0, 50)))
    assert weaker["phrase"].startswith("not found by embedding 50") and "stronger ways" in weaker["sentence"]
    assert weaker["phrase"] in " ".join(first_screen(page).split())


def test_an_attack_that_teaches_is_said_by_its_speed_not_by_what_it_draws_in_the_end(everything):
    document, page = everything
    above = sum(
        entry["attacks"]["relearn"]["judged"]["controls_at_or_above"] == 0 for entry in document["prompts"]
    )
    shown = " ".join(first_screen(page).split())
    assert f"{above} of 3learned again sooner than every never-seen picture (relearn 40)" in shown
    assert "replicas by relearn" not in shown and "replicas by revive 25" in shown


def test_nothing_memorized_is_shown_unless_asked_for(everything):
    targets = [uri(picture(number)) for number in range(3)]
    _, page = everything
    assert all(target in page for target in targets) and "a secret caption 1" in page
    document, page = made_up_page(EVERYTHING, twin=True)
    assert not any(target in page for target in targets) and "secret" not in page
    assert "secret" not in json.dumps(document) and "withheld: replica" in page


def test_what_an_attack_drew_is_shown_only_of_removed_images_and_of_attacks_with_a_say():
    drawn = uri(pictures_of("embedding-patched-0")["attacked"][0])

    def shown(attacks, **more):
        document, page = made_up_page(attacks, **more)
        panel = page[page.index("Prompt by prompt") :].split("<section")[1]
        return document["prompts"][0]["verdict"], panel.count(drawn), panel.count("withheld: attacked")

    # the same strangers' pictures stand beside the prompt, once
    assert shown(GONE) == (REMOVED, 1 + 2, 0)
    assert shown(GONE, settings=replace(STRONG, curve=(0, 50))) == (NOT_FOUND, 1, 4)
    word, count, withheld = shown({**GONE, "relearn": [0.01] * 3, "graft": [0.01] * 3})
    assert (word, count, withheld) == (REMOVED, 1 + 2, 4), "taught and grafted pictures are withheld"


def test_the_table_holds_what_the_verdict_used(everything):
    document, page = everything
    table = page[page.index("<h2>Verdicts") : page.index("What the words mean")]
    assert table.count('class="attack"') == 3 * len(ATTACKS)
    judged = document["prompts"][0]["attacks"]["embedding"]["judged"]
    cells = re.findall(r'<td class="number">([^<]*)</td>', table[table.index("embedding 200") :])[:8]
    assert cells[:3] == ["0.90", "0.02", "0.02"], "SOURCE, PATCHED, twin"
    assert cells[4:] == [
        f"{judged['margin']:.2f}",
        f"{judged['controls_at_or_above']}/{judged['controls']}",
        f"{judged['corrected_p_value']:.3g}",
        f"{judged['removal_p_value']:.3g}",
    ]
    assert ">twin</th>" in table and ">twin</th>" not in made_up_page(GONE)[1]


def test_canaries_and_parts_are_on_the_page(everything):
    assert "finds 4 of 4 before the edit, 4 after a weak one" in everything[1]
    assert "Where the memory sits" in everything[1] and "highest of the controls" in everything[1]
    document, page = made_up_page(GONE, blind=("output",))
    assert document["verdict"] == NOT_TESTED and "<b>blind:</b> finds 0 of 4 canaries" in page
    assert "Where the memory sits" not in page


def test_every_word_has_its_meaning_its_color_and_its_sentence():
    assert set(WORDS) == set(CLASSES) == set(MEANINGS) and set(WAYS) == set(ATTACKS)
    counts = dict.fromkeys(WORDS, 0)

    def said(word, count=17, of=17, attacks=("embedding", "output"), drawn=None):
        return plain_sentence(word, {**counts, word: count}, of, of if drawn is None else drawn, attacks)

    two = (
        "in two ways (by searching for an input that is better than any caption, and by adding fixed numbers "
        "inside the model)"
    )
    assert said(REMOVED) == (
        "None of the 17 pictures came out of the edited file more easily than pictures that the model was "
        f"never shown when we tried to get them out {two}; this does not prove that nobody can get them out."
    )
    assert said(HIDDEN, 5).startswith("5 of the 17 pictures are still stored in the edited file: although no")
    assert said(HIDDEN, 5).endswith(f"calls them up, they came out when we tried {two}.")
    assert "taken together" in said(HIDDEN, 0) and said(HIDDEN, 2, 2).startswith("Both pictures are still")
    assert "stronger ways are known" in said(NOT_FOUND)
    assert said(NOT_TESTED, 3, 3).startswith("For all 3 pictures, which we tried to get out of the edited")
    assert said(STILL, 1).endswith("still draws 1 of the 17 pictures: it was not removed from it.")
    assert "is not known" in said(NOT_TESTED, attacks=()) and "12 were not" in said(
        NOT_TESTED, attacks=(), drawn=5
    )
    assert "says nothing" in said(NOT_TESTED, drawn=0) and "nothing to remove" in said(NOT_TESTED, 0, 0)
    assert "The picture" in said(REMOVED, 1, 1) and "in one way (by" in said(REMOVED, attacks=("prompts",))
    assert "in seven ways (among others by searching" in said(REMOVED, attacks=tuple(WAYS))
    assert len(said(HIDDEN, 5, attacks=tuple(WAYS))) < 300, "the first screen holds it"
    sentences = [said(word, count, of) for word in WORDS for count, of in ((1, 1), (2, 2), (1, 9), (9, 9))]
    for sentence in sentences:
        assert sentence.endswith(".") and sentence.count(". ") == 0, "one sentence"
        assert not re.search("embedding|latent|seed|p-value|control|SOURCE|PATCHED", sentence), "plain words"


def test_charts_draw_what_they_are_given():
    models = [Attacked("#b4541a", [0.9, 1.0], 0.95), Attacked("#1b5e9c", [0.1, 0.8], 0.7)]
    controls = [Attacked("", [0.1, 0.2], 0.2), Attacked("", [0.2, 0.3], 0.25)]
    chart = attack_chart([0, 10], models, controls, 0.5)
    assert chart.count("<polyline") == 3 and chart.count("<polygon") == 1 and chart.count('r="3"') == 4
    assert chart.count('class="score"') == 2 and chart.count('class="control"') == 2
    one_point = attack_chart([0], [Attacked("#1b5e9c", [0.2], 0.2)], [], 0.5)
    assert one_point.count("<polyline") == 1
    assert "<polygon" in attack_chart([24], [], [Attacked("", [0.2], 0.2)], 0.5)
    table = part_map(["nothing", "mid <block>"], [("a", [0.1, 0.9]), ("b", [None, 0.4])], 0.5)
    assert table.count('class="cell"') == 3 and table.count('stroke-width="2"') == 1
    assert "mid &lt;block&gt;" in table and "not measured" in table
    assert change_chart([0.1, 0.2, 1.4]).count("<circle") == 3
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
    mapped = neuron_map(
        {layer: 64, "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": 64}, {layer: [3, 9]}, {}
    )
    assert mapped.count("<title>row") == 2 and "down 1, attention 0, block 0" in mapped
    assert (
        short_layer("mid_block.attentions.0.transformer_blocks.2.attn2.to_v") == "mid, attention 0, block 2"
    )
