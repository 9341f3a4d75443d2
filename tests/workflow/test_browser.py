"""The report in a browser is complete, without errors or network access, at the width of a laptop and of a phone."""

from pathlib import Path

import pytest

from tests.browser import browser, needs_chromium
from tests.unit.report.test_figures import small
from tests.unit.report.trees import make_tree
from tests.workflow.clones import Clone, clone
from tests.workflow.test_report import make_report

pytestmark = [pytest.mark.slow, needs_chromium]

SIZES = {"laptop": (1366, 768), "phone": (390, 844)}
CATEGORIES = {"1 Verdict": 2, "2 Search": 4, "3 Next levers": 1, "4 Records": 2}
"""How many pages and figures each holds."""

OPEN_S = 3.0
READY = "!!document.body && document.body.innerText.includes('4 Records')"
SHOWN = "[...document.querySelectorAll('#app iframe, #app img')].some(one => one.clientWidth > 300 && one.clientHeight > 100)"
CLOSE_MENU = "if (document.querySelector('nav').clientWidth > 100) document.querySelector('nav h1 a').click()"
"""On a phone Snakemake's menu leaves no room beside it: it has to be closed to read."""

EYES = "document.querySelectorAll('a[iconname=eye]')"


@pytest.fixture(scope="module")
def reported(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone of the finished run that has written its report."""
    one = clone(tmp_path_factory.mktemp("reported"), adopt=finished, results=True)
    make_report(one)
    return one


@pytest.mark.parametrize("size", SIZES)
def test_the_first_thing_seen_is_the_outcome_and_every_page_is_one_press_away(reported: Clone, tmp_path: Path, size: str) -> None:
    outcome = reported.records("verdict.json")["verdict.json"]["outcome"].capitalize()
    width, height = SIZES[size]
    with browser(tmp_path) as page:
        for place in range(sum(CATEGORIES.values())):
            page.open(reported.root / "report.html", width, height)
            page.wait("!!document.querySelector('#app .prose h1')")
            assert page.run("document.querySelector('#app .prose h1').innerText") == outcome
            seen = page.run(
                "(({top, right, bottom}) => [top, right, bottom])(document.querySelector('#app .prose .soft').getBoundingClientRect())"
            )
            assert 0 <= seen[0] < 100 and seen[1] <= width and seen[2] <= height
            page.run(f"document.querySelectorAll('#app .prose a[href^=\"javascript:app.setView\"]')[{place}].click()")
            page.wait(SHOWN)
        assert page.complaints == [] and page.fetched == []


@pytest.mark.parametrize("size", SIZES)
def test_every_page_and_figure_opens_without_a_complaint_and_without_the_network(reported: Clone, tmp_path: Path, size: str) -> None:
    with browser(tmp_path) as page:
        for category, pages in CATEGORIES.items():
            page.open(reported.root / "report.html", *SIZES[size])
            page.wait(READY)
            page.run(f"app.showCategory({category!r})")
            page.wait(f"{EYES}.length == {pages}")
            for place in range(pages):
                page.run(f"{EYES}[{place}].click()")
                page.wait(f"(() => {{ {CLOSE_MENU if size == 'phone' else ''}; return {SHOWN} }})()")
        assert page.complaints == [] and page.fetched == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_no_page_is_wider_than_the_screen_and_each_keeps_to_light_or_dark(reported: Clone, tmp_path: Path, size: str, dark: bool) -> None:
    with browser(tmp_path) as page:
        for path in sorted((reported.root / "results/report").glob("*.html")):
            page.open(path, *SIZES[size], dark=dark)
            page.wait("document.readyState == 'complete' && location.href.endsWith(" + repr(path.name) + ")")
            assert page.run("document.documentElement.scrollWidth <= window.innerWidth"), path.name
            ground = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (max(ground) < 60) if dark else (min(ground) > 240), path.name


def test_the_ledger_is_sorted_by_a_press_and_filtered_by_words(reported: Clone, tmp_path: Path) -> None:
    column = "[...document.querySelectorAll('tbody tr:not([hidden])')].map(row => row.cells[3].textContent)"
    with browser(tmp_path) as page:
        page.open(reported.root / "results/report/ledger.html", *SIZES["laptop"])
        page.wait("document.readyState == 'complete' && !!document.querySelector('th button')")
        page.run("document.querySelectorAll('th button')[3].click()")
        rising = [float(cell) for cell in page.run(column) if cell]
        page.run("document.querySelectorAll('th button')[3].click()")
        falling = [float(cell) for cell in page.run(column) if cell]
        assert rising == sorted(rising) and falling == rising[::-1] and len(set(rising)) > 1
        page.run(
            "(field => { field.value = 'standing serving'; field.dispatchEvent(new Event('input')) })(document.querySelector('input'))"
        )
        rows = page.run("[...document.querySelectorAll('tbody tr')].filter(row => row.offsetHeight).map(row => row.textContent)")
        assert rows and all("standing" in row and "serving" in row for row in rows)
        assert page.run("document.querySelector('output').textContent").startswith(f"{len(rows)} of ")


def test_three_hundred_arms_are_a_report_of_less_than_ten_megabytes_that_opens_in_three_seconds(tmp_path: Path) -> None:
    one = clone(tmp_path / "clone")
    make_tree(one.root, small(strategy="random", options={"arms": 300}))
    assert len(make_report(one)) < 10_000_000
    with browser(tmp_path / "browser") as page:
        page.open(one.root / "report.html", *SIZES["laptop"])
        assert page.wait(READY) < OPEN_S
        page.run("app.showCategory('4 Records')")
        page.wait(f"{EYES}.length == 2")
        page.run(f"{EYES}[0].click()")
        assert page.wait(SHOWN) < OPEN_S
        assert page.complaints == [] and page.fetched == []
