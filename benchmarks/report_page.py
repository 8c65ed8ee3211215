"""The report of many runs: time to write it, its size, and how fast it answers in a headless Chromium.

    python benchmarks/report_page.py [--runs 500] [--points 200] [--rounds 7]

Writes a made-up tree (five tasks, two sizes, three seeds, a log of `--points` lines a run) into a temporary
folder and its report with all tables, then opens that. Times are in milliseconds: `load` until every table in
sight, the list of runs and the chart stand; `sort` and `filter` from the press to the frame that shows the
answer, the median of `--rounds`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mae_bench.report import write

if TYPE_CHECKING:
    from playwright.sync_api import Page

TO_NEXT_FRAME = """([selector, text]) => new Promise(done => {
  const element = document.querySelector(selector);
  const start = performance.now();
  const said = document.querySelector('#said');
  said.textContent = '';
  // An answer is complete when the page says so; what it then still owes is one frame.
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  }).observe(said, {childList: true});
  if (text === null) element.click();
  else {
    element.value = text;
    element.dispatchEvent(new Event('input', {bubbles: true}));
  }
})"""


def measure(page: Page, rounds: int) -> dict[str, float]:
    """Milliseconds of every answer; the wait of a filter for the end of typing is part of it."""
    presses = {
        "sort runs": ("#run-list th:nth-child(4) button", [None]),
        "sort a table": ("#our-tables thead th.number button", [None]),
        "filter all": ("#filter", ["model3", "large", ""]),
        "turn a page": (".pager button:nth-last-child(2)", [None]),
    }
    found = {}
    for name, (selector, texts) in presses.items():
        times = [page.evaluate(TO_NEXT_FRAME, [selector, texts[i % len(texts)]]) for i in range(rounds)]
        if texts != [None]:
            page.evaluate(TO_NEXT_FRAME, [selector, ""])
        found[name] = statistics.median(times)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=500)
    options.add_argument("--points", type=int, default=200, help="lines that a run logged")
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium here: nothing measured")
    from playwright.sync_api import sync_playwright

    # The runs are those of the tests, which are no part of the installed package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.sample_trees import grow

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        grow(Path(folder) / "runs", chosen.runs, chosen.points)
        began = time.perf_counter()
        path = write(Path(folder) / "runs", Path(folder) / "report.html")
        print(f"{chosen.runs} runs, {chosen.points} lines each")
        print(f"write     {time.perf_counter() - began:7.1f} s")
        print(f"size      {path.stat().st_size / 1e6:7.1f} MB")
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_selector("#our-tables table")
        ready = "performance.getEntriesByType('navigation')[0].domComplete"
        print(f"load      {page.evaluate(ready):7.0f} ms")
        for name, milliseconds in measure(page, chosen.rounds).items():
            print(f"{name:14} {milliseconds:7.0f} ms")
        browser.close()


if __name__ == "__main__":
    main()
