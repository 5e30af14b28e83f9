"""The page as people meet it: in a browser, before a server under load.

Every test that opens it also checks that nothing was written to the console, that no request failed, and that none
went anywhere else (see conftest.py).
"""

import base64
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from stage import show_photograph, until, until_answer

from regard_models.samples import sample_photographs

CHELSEA = next(path for path in sample_photographs() if path.stem == "chelsea")
AXE = Path(__file__).parents[3] / ".cache/axe-core/axe.min.js"
PHONE = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
# The charts' canvases, as the number of points that uPlot was given cannot be read from them.
DRAWN = """(id) => {
  const canvas = document.querySelector(`#${id} canvas`);
  const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(image.data.buffer)).size;
}"""


def drop(page, path):
    """Drop a file on the page, as from a desktop."""
    data = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(
        """([name, data]) => {
          const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
          for (const kind of ["dragover", "drop"]) {
            document.querySelector("#drop").dispatchEvent(
              new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
          }
        }""",
        [path.name, data],
    )
    until_answer(page, f"{path.name}: nearest")


def test_charts_and_tables_fill_under_load(visit):
    """Within seconds every chart has drawn something and the tables have the stages, models and outcomes."""
    page = visit().page
    until(page, "document.querySelector('#state').textContent.startsWith('ready')")
    until(page, "document.querySelectorAll('#stages tbody th').length === 4")
    until(page, "Number.parseFloat(document.querySelector('#tile-rate').textContent) > 0")
    for chart in ("latency", "rate", "queue", "batch"):
        until(page, f"({DRAWN})('{chart}') > 2")
    names = page.locator("#models tbody th").all_text_contents()
    assert names == ["mhsa_mini", "resnet_mini", "ea_mini", "sk_mini"]
    assert "invalid" in page.locator("#items").text_content()
    until(page, "document.querySelector('#items').textContent.includes('mhsa_miniok')")


def test_a_dropped_photograph_shows_neighbours_and_attention(visit):
    """The nearest sample of a sample is itself; the overlay is on the picture until the slider takes it off."""
    page = visit().page
    page.select_option("#model", "mhsa_mini")
    drop(page, CHELSEA)
    assert page.locator("#neighbours li").count() == 4
    assert page.locator("#neighbours p").first.text_content() == "chelsea1.000"
    assert "mhsa_mini is untrained" in page.locator("#untrained").text_content()
    assert "layer4.0.attention_received" in page.locator("#overlay-caption").text_content()
    until(page, "[...document.querySelectorAll('#neighbours img')].every((image) => image.naturalWidth > 0)")
    shown = page.locator("#overlay").screenshot()
    page.locator("#opacity").fill("0")
    assert page.locator("#overlay").screenshot() != shown


def test_a_model_without_places_says_so(visit):
    """Neighbours come all the same; what has no attention, or none over places, is not drawn over the picture."""
    page = visit().page
    for model, words in (("resnet_mini", "no attention mechanism"), ("sk_mini", "not over places")):
        show_photograph(page, CHELSEA, model)
        assert words in page.locator("#no-map").text_content()
        assert "without attention" in page.locator("#overlay-caption").text_content()
        assert page.locator("#map").is_disabled()


def test_what_is_no_photograph_is_told_in_words(chromium, served, load, tmp_path):  # noqa: ARG001
    """The server's reason is shown; the browser itself notes the refusal on the console."""
    file = tmp_path / "notes.jpg"
    file.write_text("no picture")
    page = chromium.new_page()
    page.goto(served.page)
    page.wait_for_selector("#form:not([hidden])")
    page.set_input_files("#file", file)
    until_answer(page, "The image is in no known format")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shape", [{}, PHONE], ids=["desktop", "phone"])
def test_everybody_can_use_it(visit, scheme, shape):
    """axe-core finds nothing, with a photograph looked at, in both schemes, wide and narrow; nothing sticks out."""
    page = visit(color_scheme=scheme, bypass_csp=True, **shape).page  # axe is put in from outside
    show_photograph(page, CHELSEA)
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_dark_mode_is_dark(visit):
    """Ground and charts follow the scheme, also when it changes while the page is open."""
    page = visit(color_scheme="light").page
    ground = "getComputedStyle(document.body).backgroundColor"
    until(page, f"({DRAWN})('rate') > 2")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    until(page, f"{ground} !== '{light}'")
    assert page.locator("#latency .uplot").count() == 1
    assert sum(map(int, page.evaluate(ground)[4:-1].split(","))) < 100


def test_the_keyboard_is_enough(visit):
    """Tab reaches the percentile, the file, the model and the samples; Enter on a sample looks at it."""
    page = visit().page
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "document.activeElement.id || document.activeElement.name || document.activeElement.title"
        )
        reached.append(found)
        if found == "chelsea":
            break
    assert {"pause", "quantile", "file", "model"} <= set(reached)
    page.keyboard.press("Enter")
    until_answer(page, "chelsea.jpg: nearest")


def test_the_policy_holds(visit):
    """A script that found its way into the page would not run, and could tell nobody."""
    opened = visit()
    opened.page.evaluate(
        "document.head.append(Object.assign(document.createElement('style'), { textContent: 'body {}' }))"
    )
    assert opened.page.evaluate("[...document.styleSheets].at(-1).cssRules.length") == 2 or opened.complaints
    assert any("Content Security Policy" in each for each in opened.complaints)
    opened.complaints.clear()


def test_pause_stops_the_figures(visit):
    """Nothing is asked for while it is pressed, and what was missed comes afterwards."""
    opened = visit()
    opened.page.click("#pause")
    opened.page.wait_for_load_state("networkidle")
    opened.requested.clear()
    opened.page.click("#samples button >> nth=0")
    until_answer(opened.page, "astronaut.jpg: nearest")
    assert not any("live.json" in url for url in opened.requested)
    with opened.page.expect_response("**/page/live.json*"):
        opened.page.click("#pause")


def test_the_tables_agree_with_metrics(visit, served, load):
    """When the load has ended, what the page counts is what /metrics says; hence the last test."""
    page = visit().page
    load.stop()
    with urllib.request.urlopen(f"{served.page}metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = {
            (each.name, *sorted(each.labels.values())): each.value
            for family in families
            for each in family.samples
        }
    calls, images = (
        int(samples[name])
        for name in (("regard_requests_total", "Extract", "OK"), ("regard_items_total", "mhsa_mini", "ok"))
    )
    until(page, "(text) => document.querySelector('#requests').textContent.includes(text)", f"{calls:,}")
    until(page, "(text) => document.querySelector('#items').textContent.includes(text)", f"{images:,}")
