"""The report in a real browser: what it shows, and that it answers to mouse, keyboard, phone, dark and paper."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from mae_bench import resources
from mae_bench.report import write
from tests.sample_runs import deviation, store
from tests.sample_trees import grow, write_log

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

EVIL = "</script><img src=x onerror=window.broken=1>{{7*7}}"
FEW = ("mae-fig9", "mae-table3", "mae-table13", "vitdet-table")
LARGE = {"spec": "timm:vit_large_patch16_224.mae", "arch": "vit_large_patch16_224", "digest": "1" * 64,
         "params": 303301632}  # fmt: skip
DASH = "\N{EN DASH}"
TABLE3 = "#table-mae-table3"


def fill(root: Path) -> None:
    """Three seeds of ViT-B, one short training, one ViT-L, a linear probe, and a run with hostile names."""
    for seed, top1 in enumerate([83.4, 83.6, 83.9]):
        folder = store(root, f"base-{seed}", top1, seed=seed, finished=f"2026-01-0{seed + 1}T00:00:00+00:00")
        write_log(folder, 300, "top1", top1)
    Image.new("RGB", (600, 300), "teal").save(root / "base-0" / "reconstructions.png")
    store(root, "short", 80.04, recipe_hash="b" * 64, deviations=[deviation("train.epochs", 100, 12)])
    store(root, "large", 86.1, backbone=LARGE, recipe_hash="c" * 64)
    for blocks, top1 in ((0, 60.0), (4, 80.0)):
        store(root, f"partial-{blocks}", top1, task="imagenet-partial", recipe="imagenet-partial",
              protocol="imagenet-partial-large", recipe_hash=f"{blocks}" * 64, backbone=LARGE,
              config={"blocks": blocks})  # fmt: skip
    evil = store(root, "evil {{7*7}} <b>", 81.0, recipe=EVIL, recipe_hash="e" * 64, selection=EVIL, notes=[EVIL],
                 backbone={"spec": f"timm:{EVIL}", "digest": "e" * 64}, versions={EVIL: EVIL},
                 command=["mae-bench", EVIL])  # fmt: skip
    write_log(evil, 5, "top1", 81.0)
    Image.new("RGB", (40, 40), "orange").save(evil / "<img src=x onerror=window.broken=1>.png")
    going = root / "going"
    going.mkdir()
    (going / "config.yaml").write_text(json.dumps({"task": "imagenet.finetune", "backbone": EVIL, "seed": 4}))
    write_log(going, 20, "top1", 70.0)
    (root / "half").mkdir()
    (root / "half" / "result.json").write_text("{")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def few_tables() -> Iterator[None]:
    every = resources.tables()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "tables", lambda: {name: every[name] for name in FEW})
        yield


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, few_tables: None) -> Path:
    root = tmp_path_factory.mktemp("tree")
    fill(root / "runs")
    return write(root / "runs", root / "report.html")


class Window:
    """A window without a network; keeps what its page complained of and asked for."""

    def __init__(self, browser: Browser, before: str = "", **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        self.context = browser.new_context(**options)
        self.context.set_offline(True)
        self.context.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        if before:
            self.page.add_init_script(before)


@pytest.fixture(scope="module")
def ordinary(browser: Browser) -> Iterator[Window]:
    """The window of all tests that ask for nothing special: opening one takes longer than loading a report."""
    window = Window(browser)
    yield window
    window.context.close()


@pytest.fixture
def show(browser: Browser, ordinary: Window) -> Iterator[Callable[..., Page]]:
    """Open a report offline; at the end nothing may have been complained of or asked for."""
    used: dict[Window, str] = {}

    def opened(file: Path, **options: Any) -> Page:
        window = Window(browser, **options) if options else ordinary
        assert window not in used, "one report a window and test"
        used[window] = file.as_uri()
        page = window.page
        page.mouse.move(0, 0)
        page.goto("about:blank")
        window.asked.clear()
        page.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]", state="attached")
            page.wait_for_selector("#our-tables table")
        return page

    yield opened
    for window, file in used.items():
        # What the page did last is told in answer to this.
        window.page.goto("about:blank")
        if window is not ordinary:
            window.context.close()
        complaints = window.complaints.copy()
        window.complaints.clear()
        assert complaints == []
        assert {url for url in window.asked if not url.startswith("data:")} - {"about:blank"} == {file}


def until(page: Page, expression: str) -> None:
    """Wait until it holds; Playwright's own way would have the page evaluate text, which it refuses."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"{expression} did not come true")


def column(table: Locator, label: str) -> list[str]:
    """The texts of one column of a table, footnote marks and numbers of seeds left out."""
    return table.evaluate(
        """(table, label) => {
          const heads = [...table.querySelectorAll('thead tr:last-child th')];
          const place = heads.findIndex(head => head.querySelector('button').textContent === label);
          return [...table.querySelectorAll('tbody tr:not(.group)')].map(row => {
            const cell = row.cells[place].cloneNode(true);
            cell.querySelectorAll('sup, small').forEach(part => part.remove());
            return cell.textContent.trim();
          });
        }""",
        label,
    )


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split()[0].rstrip("?")) for text in texts if text != DASH]


def head(page: Page, table: str, label: str) -> Locator:
    return page.locator(f"{table} thead th button.sort", has_text=label).first


# ---------------------------------------------------------------- sorting and filtering


def test_sorting_goes_both_ways_by_number_with_missing_ones_last(
    report: Path, show: Callable[..., Page]
) -> None:
    page = show(report)
    table = page.locator(f"{TABLE3} table")
    before = column(table, "ViT-H")
    assert DASH in before
    assert len(set(numbers(before))) > 1
    head(page, TABLE3, "ViT-H").click()
    falling = column(table, "ViT-H")
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert falling[-1] == DASH
    assert numbers(falling) == sorted(numbers(before), reverse=True)
    head(page, TABLE3, "ViT-H").click()
    rising = column(table, "ViT-H")
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert rising[-1] == DASH
    assert numbers(rising) == sorted(numbers(before))
    head(page, TABLE3, "ViT-H").click()
    assert column(table, "ViT-H") == before
    assert table.locator("th[aria-sort]").count() == 0


def test_sorting_by_keyboard_keeps_the_focus_and_says_so(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    head(page, TABLE3, "Method").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.key") == "label"
    labels = column(page.locator(f"{TABLE3} table"), "Method")
    assert labels == sorted(labels, key=str.lower)
    assert "sorted by Method, ascending" in page.locator("#said").inner_text()


def test_one_filter_for_all_and_one_for_each_table(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    page.fill("#filter", "moco")
    until(page, "document.querySelector('#said').textContent.includes('tables')")
    shown = page.locator(f"{TABLE3} tbody tr").all_inner_texts()
    assert shown
    assert all("MoCo" in text for text in shown)
    assert page.locator("#run-list tbody").inner_text() == "No run fits the filters."
    page.click("#filters button[type=reset]")
    until(page, f"document.querySelectorAll('{TABLE3} tbody tr').length > 4")
    page.fill(f"{TABLE3} input[type=search]", "moco")
    until(page, f"document.querySelectorAll('{TABLE3} tbody tr').length < 3")
    assert "of" in page.locator(f"{TABLE3} .count").inner_text()
    assert page.locator("#table-mae-fig9 tbody tr").count() > 2


@pytest.mark.parametrize(("whose", "ours"), [("ours", True), ("published", False)])
def test_rows_of_ours_or_published_alone(
    report: Path, show: Callable[..., Page], whose: str, ours: bool
) -> None:
    page = show(report)
    rows = page.locator(f"{TABLE3} tbody tr")
    both = {"ours": page.locator(f"{TABLE3} tbody tr.ours").count()}
    both["published"] = rows.count() - both["ours"]
    page.locator(f"input[name=whose][value={whose}]").check(force=True)
    until(page, f"document.querySelectorAll('{TABLE3} tbody tr').length === {both[whose]}")
    assert page.locator(f"{TABLE3} tbody tr.ours").count() == (both["ours"] if ours else 0)


def test_a_size_chooses_columns_where_columns_are_sizes(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    page.select_option("#size", "Large")
    until(page, f"document.querySelectorAll('{TABLE3} thead th.number').length === 1")
    assert "ViT-L" in page.locator(f"{TABLE3} thead").inner_text()
    assert page.locator("#run-list tbody tr").count() == 3


def test_columns_come_and_go(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    menu = page.locator(f"{TABLE3} details.menu")
    menu.locator("summary").click()
    menu.get_by_label("ViT-L", exact=True).uncheck()
    heads = page.locator(f"{TABLE3} thead").inner_text()
    assert "ViT-L" not in heads
    assert "ViT-B" in heads
    page.keyboard.press("Escape")
    assert not menu.evaluate("menu => menu.open")


# ---------------------------------------------------------------- where a number comes from


def our_cell(page: Page) -> Locator:
    return page.locator(f"{TABLE3} tr.ours button.cell", has_text="n=3")


def test_pressing_a_number_tells_where_it_comes_from(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    our_cell(page).click()
    card = page.locator("#provenance")
    text = card.inner_text()
    for part in ("83.6", "base-0", "base-1", "base-2", "over 3: 0, 1, 2", "imagenet-finetune", "a" * 64, "d" * 64,
                 "f" * 64, "a device", "125,100", "128,102,400", "source not recorded"):  # fmt: skip
        assert part in text, part
    assert card.get_attribute("role") == "dialog"
    card.locator("summary", has_text="base-1").click()
    assert "mae-bench run --task imagenet-finetune" in card.inner_text()
    assert "1 h 00 min" in card.inner_text() or "60 min" in card.inner_text()
    page.keyboard.press("Escape")
    assert card.is_hidden()
    assert "n=3" in page.evaluate("document.activeElement.textContent")


def test_hovering_shows_it_and_leaving_hides_it(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    our_cell(page).scroll_into_view_if_needed()
    our_cell(page).hover()
    page.wait_for_selector("#provenance:not([hidden])")
    page.mouse.move(5, 5)
    page.wait_for_selector("#provenance", state="hidden")


def test_the_keyboard_reaches_every_number(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    stops = page.locator(f"{TABLE3} button.cell[tabindex='0']")
    assert stops.count() == 1
    stops.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    at = page.evaluate("({...document.activeElement.dataset})")
    assert at["row"] != "0"
    assert page.locator("#provenance").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#provenance").get_attribute("role") == "dialog"
    assert page.evaluate("document.activeElement.id") == "provenance"
    page.keyboard.press("Escape")
    assert page.evaluate("({...document.activeElement.dataset})") == at


def test_published_numbers_tell_their_source(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    page.locator(f"{TABLE3} tr:not(.ours) button.cell").first.click()
    assert "Published in" in page.locator("#provenance").inner_text()
    assert "arXiv" in page.locator("#provenance").inner_text()


def test_the_command_can_be_copied_or_is_selected(report: Path, show: Callable[..., Page]) -> None:
    page = show(report, before="Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.locator("#run-list button.run", has_text="large").click()
    page.locator("#provenance button.copy").click()
    assert page.evaluate("getSelection().toString()") == "mae-bench run --task imagenet-finetune"
    assert page.locator("#said").inner_text() == "The command is selected."


def test_footnote_marks_lead_to_their_footnotes(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    lost = page.evaluate(
        "[...document.querySelectorAll('sup a')].filter(a => !document.querySelector(a.getAttribute('href')))"
        ".map(a => a.outerHTML)"
    )
    assert lost == []
    link = page.locator(f"{TABLE3} tr.ours sup a").first
    link.click()
    target = page.locator("li:target")
    assert target.get_attribute("id") == (link.get_attribute("href") or "").removeprefix("#")
    assert target.inner_text() == link.get_attribute("title")


# ---------------------------------------------------------------- runs, curves, pictures


def test_runs_are_listed_sorted_and_lead_to_their_curves(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    table = page.locator("#run-list table")
    finished = column(table, "Finished")
    assert finished == sorted(finished, reverse=True)
    head(page, "#run-list", "Result").click()
    results = numbers(column(table, "Result"))
    assert results == sorted(results, reverse=True)
    page.fill("#run-list input[type=search]", "base-1")
    until(page, "document.querySelectorAll('#run-list tbody tr').length === 1")
    page.locator("#run-list button.run").click()
    page.locator("#provenance button", has_text="Show its curves").click()
    assert page.locator("#chart path.curve").count() == 1
    assert page.locator("#curve-count").inner_text() == "1 of 5 runs drawn"


def test_curves_lie_over_each_other_and_can_be_read(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    assert page.locator("#chart path.curve").count() == 5
    first = page.locator("#curve-legend button").first.inner_text()
    assert first.split() == ["going", *EVIL.split(), "seed", "4,", "unfinished"]
    drawn = page.locator("#chart path.curve").first.get_attribute("d") or ""
    assert 10 < drawn.count("L") < 200
    page.locator("#curve-legend button", has_text="base-0").click()
    assert page.locator("#chart path.curve").count() == 4
    assert page.locator("#curve-legend button[aria-pressed=false]").count() == 1
    ticks = page.locator("#chart .ticks").text_content()
    page.check("#curve-log")
    assert page.locator("#chart .ticks").text_content() != ticks
    page.select_option("#curve-metric", "eval.top1")
    assert "top-1 (evaluation) (%)" in (page.locator("#chart").text_content() or "")
    page.locator("input[name=axis][value=epoch]").check(force=True)
    assert "Epoch" in (page.locator("#chart").text_content() or "")
    page.locator("#chart > svg").focus()
    page.keyboard.press("End")
    assert "Epoch 100" in page.locator("#chart .tip").inner_text()
    assert "base-2 " in page.locator("#said").inner_text()
    box = page.locator("#chart > svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "Epoch 5" in page.locator("#chart .tip").inner_text()


def test_pictures_are_shown_large(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    broken = page.evaluate(
        "[...document.querySelectorAll('.gallery img')].filter(i => !i.naturalWidth || !i.alt).length"
    )
    assert broken == 0
    page.locator(".gallery button.picture").first.click()
    assert page.locator("dialog[open] img").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


# ---------------------------------------------------------------- safe


def test_hostile_names_are_shown_as_they_are(report: Path, show: Callable[..., Page]) -> None:
    page = show(report)
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.querySelectorAll('img[src=x], b').length") == 0
    page.locator("#run-list button.run", has_text="evil {{7*7}} <b>").click()
    assert EVIL in page.locator("#provenance").inner_text()
    page.keyboard.press("Escape")
    assert any(">{{7*7}}" in text for text in page.locator(f"{TABLE3} tr.ours th").all_inner_texts())
    assert "half" in page.locator(".problem").inner_text()


def test_a_script_that_got_in_would_not_run(report: Path, browser: Browser, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    smuggled = tmp_path / "smuggled.html"
    smuggled.write_text(
        text.replace(
            "<main", "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'><main"
        ),
        encoding="utf-8",
    )
    with browser.new_context() as context:
        page = context.new_page()
        told: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.goto(smuggled.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        assert page.evaluate("window.broken") is None
        # The script, and the picture; the handler is not even asked, or it is refused too.
        assert sum("Content Security Policy" in text for text in told) >= 2


# ---------------------------------------------------------------- for every reader


def luminance(colour: str) -> float:
    red, green, blue = (float(part) / 255 for part in colour[4:-1].split(",")[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_aa_asks_for(
    report: Path, show: Callable[..., Page], scheme: str
) -> None:
    page = show(report, color_scheme=scheme)
    our_cell(page).click()
    pairs = page.evaluate(
        """() => {
          const opaque = colour => !/^rgba\\(.*, 0(\\.\\d+)?\\)$/.test(colour) && !colour.startsWith('color');
          const behind = element => {
            for (; element; element = element.parentElement) {
              const colour = getComputedStyle(element).backgroundColor;
              if (opaque(colour)) return colour;
            }
            return 'rgb(255, 255, 255)';
          };
          const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          const found = {};
          while (walker.nextNode()) {
            const element = walker.currentNode.parentElement;
            if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
            if (element.closest('svg, script, style, button:disabled, option')) continue;
            const key = [getComputedStyle(element).color, behind(element)].join('|');
            found[key] ??= element.tagName + '.' + element.className + ' ' + walker.currentNode.textContent.slice(0, 30);
          }
          return Object.entries(found);
        }"""
    )
    assert len(pairs) > 5
    weak = [(key, where) for key, where in pairs if contrast(*key.split("|")) < 4.5]
    assert weak == []
    lines = page.evaluate(
        "[...document.querySelectorAll('#chart path.curve, .legend .swatch path')].map(e => getComputedStyle(e).stroke)"
    )
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert [line for line in lines if contrast(line, paper) < 3.0] == []


def test_the_choice_of_colours_is_remembered(report: Path, show: Callable[..., Page]) -> None:
    page = show(report, color_scheme="dark")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert luminance(page.evaluate(paper)) < 0.05
    page.select_option("#theme", "light")
    assert luminance(page.evaluate(paper)) > 0.9
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.locator("#theme").input_value() == "light"
    assert luminance(page.evaluate(paper)) > 0.9


def test_without_storage_the_colours_still_change(report: Path, show: Callable[..., Page]) -> None:
    page = show(
        report,
        before="Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})",
    )
    page.select_option("#theme", "dark")
    assert luminance(page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")) < 0.05


def test_on_a_phone_only_tables_scroll_sideways(report: Path, show: Callable[..., Page]) -> None:
    page = show(report, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.locator("#table-mae-fig9 .scroll")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.evaluate("box => { box.scrollLeft = 150; }")
    edges = box.evaluate(
        "box => [box.getBoundingClientRect().left, box.querySelector('tbody th').getBoundingClientRect().left]"
    )
    assert edges[0] == pytest.approx(edges[1], abs=1)
    cell = page.locator(f"{TABLE3} button.cell").first
    cell.tap()
    card = page.locator("#provenance").bounding_box()
    assert card is not None
    assert (card["x"], card["width"]) == (0, 360)
    assert card["y"] + card["height"] == pytest.approx(740, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_on_paper_controls_are_gone_and_tables_are_whole(
    report: Path, show: Callable[..., Page], tmp_path: Path
) -> None:
    page = show(report, color_scheme="dark")
    page.emulate_media(media="print")
    for gone in ("nav.sections", "#filters", ".legend", "#other-tables-box:not([open])"):
        assert page.locator(gone).first.is_hidden(), gone
    assert page.locator(f"{TABLE3} table").is_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_the_page_has_the_landmarks_names_and_headings_of_a_document(
    report: Path, show: Callable[..., Page]
) -> None:
    page = show(report)
    assert page.evaluate("document.documentElement.lang") == "en"
    for landmark in ("main", "header.banner", "footer"):
        assert page.locator(landmark).count() == 1, landmark
    assert page.locator("h1").count() == 1
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].filter(h => h.checkVisibility()).map(h => +h.tagName[1])"
    )
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    repeated = page.evaluate(
        "(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);"
        " return ids.filter((id, i) => ids.indexOf(id) !== i); })()"
    )
    assert repeated == []
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, img, [role=region], [role=img]')].filter(e =>"
        " !(e.textContent.trim() && e.tagName === 'BUTTON') && !e.labels?.length && !e.getAttribute('aria-label') &&"
        " !e.getAttribute('aria-labelledby') && !e.alt && !e.closest('dialog')).map(e => e.outerHTML.slice(0, 120))"
    )
    assert unnamed == []


def test_without_a_program_the_page_says_so(report: Path, show: Callable[..., Page]) -> None:
    page = show(report, java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    assert page.locator("#overview table").is_visible()


# ---------------------------------------------------------------- many runs


@pytest.fixture(scope="module")
def large_report(tmp_path_factory: pytest.TempPathFactory, few_tables: None) -> Path:
    root = tmp_path_factory.mktemp("large")
    grow(root / "runs", 500, points=40)
    return write(root / "runs", root / "report.html")


def test_five_hundred_runs_sort_and_filter_without_lag(large_report: Path, show: Callable[..., Page]) -> None:
    """A check against growing slow: the bounds are some ten times what was measured."""
    page = show(large_report)
    ready = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    assert ready < 5000
    to_next_frame = """selector => new Promise(done => {
      const start = performance.now();
      document.querySelector(selector).click();
      requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
    })"""
    for selector in ("#run-list th:nth-child(4) button", f"{TABLE3} thead th.number button"):
        times = [page.evaluate(to_next_frame, selector) for _ in range(5)]
        assert statistics.median(times) < 500, selector
    assert page.locator("#run-list tbody tr").count() == 50
    page.locator(".pager button", has_text="Next").click()
    assert "51 to 100 of 500" in page.locator(".pager").inner_text()
    page.fill("#filter", "model3 imagenet-linear")
    until(page, "document.querySelector('#run-list .count').textContent.startsWith('6 of')")
    assert page.locator(".pager button").count() == 0
