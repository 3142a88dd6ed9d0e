"""The report's page in a real browser: what a reader sees and does."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from browser import Browser, chromium, open_browser

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium (apt install chromium)")

# Contrast of every text against what lies behind it, as WCAG 2 defines it: 4.5 is its level AA.
CONTRAST = """
(() => {
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return [n.slice(0, 3), n[3] ?? 1];
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const [rgb, alpha] = parse(getComputedStyle(e).backgroundColor);
      if (alpha === 1) return rgb;
      if (alpha > 0) throw new Error("half transparent");
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const [a, b] = [parse(getComputedStyle(element).color)[0], ground(element)].map(luminance);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
})()
"""
SHOWN = "[...document.images].filter(i => i.checkVisibility()).map(i => i.className)"
COLUMN = (
    "[...document.querySelectorAll('#cells-table tbody tr:not([hidden])')]"
    ".map(row => row.cells[{}].innerText)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as one:
        yield one


@pytest.fixture(scope="module")
def html(report_folder: Path) -> Path:
    return report_folder / "report.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 375])
def test_it_loads_fits_and_can_be_read(
    browser: Browser, html: Path, width: int, dark: bool
) -> None:
    browser.open(html, width=width, dark=dark)
    assert browser.complaints == []
    assert browser.requests == [html.as_uri()]
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    contrasts = browser.evaluate(CONTRAST)
    assert len(contrasts) > 500
    assert [entry for entry in contrasts if entry[0] < 4.5] == []
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor").endswith("251)")
    assert light != dark
    # Of each plot the twin that fits; all of them drawn.
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 100)")
    shown = browser.evaluate(SHOWN)
    assert len(shown) == 8
    assert set(shown) == {"dark" if dark else "light"}


def test_too_little_contrast_would_be_found(browser: Browser, html: Path) -> None:
    browser.open(html, width=800)
    browser.evaluate("document.querySelector('h1').style.color = '#999'")
    assert min(browser.evaluate(CONTRAST))[1].startswith("What pruning")


def test_headers_sort_up_down_and_back(browser: Browser, html: Path) -> None:
    browser.open(html, width=1280)
    names = browser.evaluate(
        "[...document.querySelectorAll('#cells-table th[scope=col]')].map(h => h.innerText.trim())"
    )
    column = next(i for i, name in enumerate(names) if name.startswith("accuracy"))
    head = f"#cells-table thead th:nth-child({column + 1})"
    script = COLUMN.format(column)
    before = browser.evaluate(script)
    assert len(before) == 14
    seen = {}
    for state in ("descending", "ascending", "none"):
        browser.click(f"{head} button")
        assert browser.evaluate(f"document.querySelector('{head}').ariaSort") == state
        seen[state] = browser.evaluate(script)
    numbers = [float(text.split()[0]) for text in seen["descending"]]
    assert numbers == sorted(numbers, reverse=True)
    assert [float(text.split()[0]) for text in seen["ascending"]] == sorted(numbers)
    assert seen["none"] == before
    # Cells without a value stay last, whichever way.
    p = next(i for i, name in enumerate(names) if name == "p")
    for _ in range(2):
        browser.click(f"#cells-table thead th:nth-child({p + 1}) button")
        values = browser.evaluate(COLUMN.format(p))
        assert values[8:] == [""] * 6
        assert "" not in values[:8]


def test_filters_leave_the_rows_that_fit(browser: Browser, html: Path) -> None:
    browser.open(html, width=375)
    script = COLUMN.format(0)
    form = "document.querySelector('form[data-for=cells-table]')"
    select = f"{form}.querySelector('select[name=%s]')"
    change = (
        "(e => {{ e.value = '{}'; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})({})"
    )
    # One recipe and one budget leave nothing to choose.
    names = browser.evaluate(f"[...{form}.querySelectorAll('select')].map(s => s.name)")
    assert names == ["size", "metric", "side", "keep"]
    browser.evaluate(change.format("el2n", select % "metric"))
    assert browser.evaluate(script) == ["el2n"] * 6
    browser.evaluate(change.format("0.2", select % "keep"))
    assert browser.evaluate(script) == ["el2n"] * 2
    assert browser.evaluate(f"{form}.querySelector('output').textContent") == "2 of 14 rows"
    browser.evaluate(change.format("", select % "metric"))
    browser.evaluate(change.format("loss HARD", f"{form}.querySelector('input')"))
    assert browser.evaluate(script) == ["loss"] * 2


def test_the_gallery_shows_the_pixels_of_the_bundle(browser: Browser, html: Path) -> None:
    browser.open(html, width=1280, dark=True)
    box = browser.evaluate(
        "(e => { e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        " return [b.x + e.clientLeft, b.y + e.clientTop, e.clientWidth, e.clientHeight,"
        " e.querySelector('use').getAttribute('href')] })"
        "(document.querySelector('a.thumb svg'))"
    )
    shot = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR_RGB)
    found = re.search(
        f'id="{box[4][1:]}" .*? href="data:image/png;base64,([^"]*)"', html.read_text()
    )
    assert found is not None
    data = np.frombuffer(base64.b64decode(found[1]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    assert shot is not None
    assert image is not None
    assert image.std() > 50
    x, y, width, height = box[:4]
    centres = (np.arange(8) + 0.5) / 8
    seen = shot[np.ix_((y + height * centres).astype(int), (x + width * centres).astype(int))]
    assert np.abs(seen.astype(int) - image).max() <= 1


@pytest.mark.parametrize("width", [1280, 375])
def test_a_click_on_an_image_shows_its_path_and_all_scores(
    browser: Browser, html: Path, width: int
) -> None:
    browser.open(html, width=width)
    example = browser.evaluate("document.querySelector('a.thumb').hash.slice(2)")
    browser.click("a.thumb")
    assert browser.evaluate("document.querySelector('dialog').open")
    text = browser.evaluate("document.querySelector('dialog').innerText")
    for part in (f"id\n{example}\n", "path\n<i>", "el2n\n", "loss\n"):
        assert part in text
    box = browser.evaluate(
        "(b => [b.left, innerWidth - b.right])"
        "(document.querySelector('dialog').getBoundingClientRect())"
    )
    assert min(box) >= 0
    assert (
        browser.evaluate("document.querySelector('dialog use').getBoundingClientRect().width") > 90
    )
    browser.click("dialog button")
    assert not browser.evaluate("document.querySelector('dialog').open")


def test_it_says_everything_without_scripts(browser: Browser, html: Path) -> None:
    browser.open(html, width=375, scripts=False)
    assert browser.complaints == []
    assert browser.evaluate("document.querySelectorAll('th button').length") == 0
    assert not browser.evaluate("document.querySelector('form.filters').checkVisibility()")
    assert not browser.evaluate("document.querySelector('button.plain').checkVisibility()")
    assert len(browser.evaluate(COLUMN.format(0))) == 14
    target = browser.evaluate("document.querySelector('a.thumb').hash")
    browser.click("a.thumb")
    assert browser.evaluate("location.hash") == target
    assert browser.evaluate(f"document.querySelector('{target}').matches(':target')")


def test_it_prints_light_and_whole(browser: Browser, html: Path) -> None:
    browser.open(html, width=720, dark=True)
    browser.resize(720, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor").endswith("251)")
    assert browser.evaluate(SHOWN) == ["light"] * 8
    for part in ("nav", "form.filters", "button.plain"):
        assert not browser.evaluate(f"document.querySelector('{part}').checkVisibility()")
    cut = "[...document.querySelectorAll('.scroll, .plot')].map(e => getComputedStyle(e).overflowX)"
    assert set(browser.evaluate(cut)) == {"visible"}
    # Details are open on paper, and closed again afterwards.
    browser.evaluate(
        "window.opened = []; addEventListener('beforeprint', () => {"
        " opened.push(...document.querySelectorAll('details[open]')) })"
    )
    assert browser.pdf().startswith(b"%PDF")
    assert browser.evaluate("opened.length") == 3
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 0


def test_the_sweep_file_can_be_copied(browser: Browser, html: Path) -> None:
    browser.open(html, width=1280)
    browser.click("button[data-copy=sweep-file]")
    selected = browser.evaluate("getSelection().toString().trim()")
    assert selected == browser.evaluate("document.getElementById('sweep-file').textContent.trim()")
    said = browser.evaluate(
        "new Promise(done => { const button = document.querySelector('button[data-copy]');"
        " const look = () => button.textContent === 'Copy' ? setTimeout(look, 10)"
        " : done(button.textContent); look(); })"
    )
    assert said in ("Copied", "Selected: now copy it")
