"""The leaderboard's page in a real browser."""

import csv
import shutil
from pathlib import Path

import pytest
from synthetic_records import SMALL, Method, stored, write_records

from erc_bench.leaderboard import build, build_site
from erc_bench.leaderboard.published import read_published

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this system", allow_module_level=True)

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CURVES = [
    {"epoch": e, "dev/weighted_f1": f, "train/loss": loss}
    for e, f, loss in ((1, 40.0, 1.5), (2, 55.0, None), (3, 50.0, 0.5))
]
METHODS = [
    Method("eacl", 0.3),
    Method("spcl", 0.3),
    Method("sacl-lstm", -0.2, context="full"),
    Method(
        "a-method-with-quite-a-long-name", 0.1, (1, 2), changes={"overrides": ["temperature=0.07"]}
    ),
    Method("finetune", 0.0, (1,), SMALL, "small"),
    Method("eacl", -0.5, (1,), SMALL, "smoke"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, headless=True
        )
        yield context.browser or context
        context.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("leaderboard")
    write_records(root, METHODS, ["meld"], 60)
    write_records(root, METHODS[:3], ["emorynlp"], 60)
    build(root)
    return (root / "index.html").as_uri()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of two methods, one of them with curves, and of one try-out."""
    root = tmp_path_factory.mktemp("leaderboard")
    trained = {"training": {"epochs": 3, "best_epoch": 2, "curves": CURVES}}
    some = [
        Method("eacl", 0.3, (1,), changes=trained),
        Method("finetune", 0.0, (1, 2), SMALL, "small"),
    ]
    write_records(root, [*some, Method("eacl", -0.5, (1,), SMALL, "smoke")], ["meld"], 20)
    folder = root / "site"
    build_site(root, folder)
    return folder


@pytest.fixture
def visit(browser):
    """A function that opens an address in a fresh context.

    At the end, there must be no console error and no request but those for the addresses.
    """
    contexts, errors, requests, opened = [], [], [], set()

    def open_page(address: str, width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        opened.add(address)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} == opened


def overflows(page) -> list[str]:
    """The elements that reach beyond the right edge of the window, except in scrollable parts."""
    return page.evaluate(
        """() => {
          const wide = document.documentElement.clientWidth;
          const found = document.documentElement.scrollWidth > wide ? ["page"] : [];
          for (const e of document.querySelectorAll("body *")) {
            if (e.closest("svg, .scroll") || !e.getClientRects().length) continue;
            if (e.getBoundingClientRect().right > wide + 1) found.push(e.outerHTML.slice(0, 90));
          }
          return found;
        }"""
    )


def methods(page) -> list[str]:
    """Titles in the first visible table, from top to bottom."""
    return page.locator(".panel:visible .board").first.locator(".title").all_inner_texts()


def test_tabs_switch(visit, address):
    page = visit(address)
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts()[:3] == ["MELD", "IEMOCAP", "EmoryNLP"]
    assert page.locator(".panel:visible").count() == 1
    assert page.locator("#meld").is_visible()
    page.get_by_role("tab", name="EmoryNLP", exact=True).click()
    assert page.locator("#emorynlp").is_visible()
    assert not page.locator("#meld").is_visible()
    assert page.get_by_role("tab", selected=True).inner_text() == "EmoryNLP"
    assert page.url.endswith("#emorynlp")
    page.reload()
    assert page.locator("#emorynlp").is_visible()


def test_tabs_by_keyboard(visit, address):
    page = visit(address)
    page.get_by_role("tab", name="MELD", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#iemocap").is_visible()
    page.keyboard.press("End")
    assert page.locator("#tryouts").is_visible()
    assert "Not a benchmark" in page.locator("#tryouts").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#meld").is_visible()


def test_sorting(visit, address):
    page = visit(address)
    table = page.locator(".panel:visible .board").first
    first = methods(page)
    assert sorted(first) == ["EACL", "SACL-LSTM", "SPCL-CL", "a-method-with-quite-a-long-name"]
    table.get_by_role("button", name="Weighted-F1").click()
    values = [float(v) for v in table.locator("td.value strong").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    table.get_by_role("button", name="Weighted-F1").click()
    values = [float(v) for v in table.locator("td.value strong").all_inner_texts()]
    assert values == sorted(values)
    table.get_by_role("button", name="Method", exact=True).click()
    assert methods(page) == sorted(first, key=str.casefold)
    assert table.locator("th[aria-sort=ascending]").inner_text() == "Method"
    table.get_by_role("button", name="Rank").click()
    ranks = [int(r) for r in table.locator("td.rank").all_inner_texts()]
    assert ranks == sorted(ranks)


def test_details_open_by_keyboard_and_stay_with_their_row(visit, address):
    page = visit(address)
    button = page.locator(".panel:visible").get_by_role("button", name="SACL-LSTM")
    assert button.get_attribute("aria-expanded") == "false"
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    detail = page.locator("#" + button.get_attribute("aria-controls"))
    text = detail.inner_text()
    for part in ("F1 by emotion", "surprise", "shift", "not in train", "Memory", "GiB", "Device"):
        assert part in text
    assert detail.locator(".matrix td").count() == 49
    page.locator(".panel:visible .board").first.get_by_role(
        "button", name="Method", exact=True
    ).click()
    assert detail.is_visible()
    assert "SACL-LSTM" in detail.locator("xpath=..").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 820, 1100, 1280])
def test_nothing_overflows(visit, address, width):
    page = visit(address, width)
    for tab in page.get_by_role("tab").all():
        tab.click()
        for button in page.locator(".panel:visible .open").all():
            button.click()
        for summary in page.locator(".panel:visible summary").all():
            summary.click()
        assert overflows(page) == []


def test_filters_and_search_narrow_the_rows(visit, address):
    page = visit(address, 390)
    everything = page.locator(".entry:visible").count()
    shown = page.locator(".panel:visible .board:not(.papers) .title:visible")
    page.locator("[name=context]").select_option("full")
    assert shown.all_inner_texts() == ["SACL-LSTM"]
    page.get_by_role("button", name="Show all").click()
    assert page.locator(".entry:visible").count() == everything
    page.locator("[name=encoder]").select_option("all-MiniLM-L6-v2")
    assert shown.all_inner_texts() == ["finetune"]
    page.locator("[name=encoder]").select_option("")
    page.locator("[name=preset]").select_option("small")
    assert shown.all_inner_texts() == ["finetune"]
    page.locator("[name=preset]").select_option("")
    page.locator("[name=tuned]").select_option("yes")
    assert shown.count() == 0
    page.locator("[name=tuned]").select_option("")
    page.get_by_label("Search").fill("TEMPERATURE quite")
    assert shown.all_inner_texts() == ["a-method-with-quite-a-long-name"]
    assert page.locator("output").inner_text() == f"1 of {everything} rows."
    page.get_by_label("Search").fill("eacl")
    page.get_by_role("tab", name="EmoryNLP", exact=True).click()
    assert shown.all_inner_texts() == ["EACL"]  # the search applies to every tab
    assert overflows(page) == []


def test_every_run_has_a_page(site, visit):
    pages = sorted(site.glob("runs/*/*/*.html"))
    assert len(pages) == 4
    page = visit((site / "index.html").as_uri())
    links = page.locator(".facts dd a").evaluate_all("links => links.map(link => link.href)")
    assert {link for link in links if "/runs/" in link} == {path.as_uri() for path in pages}
    (run,) = (path for path in pages if "epoch 2 of 3" in path.read_text("utf-8"))
    page = visit(run.as_uri())
    assert page.locator("h1").inner_text() == "EACL on MELD, seed 1"
    text = page.locator("main").inner_text()
    for part in ("Weighted-F1 on dev, %", "Settings", "encoder", "device", "epoch 2 of 3"):
        assert part in text
    assert page.locator(".curves").first.locator("circle:not(.selected)").count() == 3
    assert page.locator(".curves").nth(1).locator("circle:not(.selected)").count() == 2
    assert page.locator(".curves .selected").count() == 1  # at that epoch the loss was not finite
    assert page.locator(".matrix td").count() == 49
    assert page.locator("pre").inner_text().startswith("@misc{erc-bench-eacl-meld-")
    back = page.get_by_role("link", name="Leaderboard").get_attribute("href")
    assert (run.parent / back.partition("#")[0]).resolve() == site / "index.html"
    with page.expect_download() as download:
        page.get_by_role("link", name="test, CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text("utf-8").splitlines()))
    record = stored(next((site.parent / "records").rglob(f"{run.stem}.json")))
    test = record["predictions"]["test"]
    assert [row["id"] for row in rows] == test["ids"]
    names = record["labels"]
    assert [row["predicted"] for row in rows] == [names[k] for k in test["predicted"]]
    errors: dict[str, int] = {}
    for row in rows:
        dialogue = row["id"].rpartition("-")[0]
        errors[dialogue] = errors.get(dialogue, 0) + (row["gold"] != row["predicted"])
    listed = page.locator("section", has_text="Dialogues with most errors").locator("tbody tr")
    first = listed.first.locator("th, td").all_inner_texts()
    assert errors[first[0]] == int(first[1]) == max(errors.values())


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_of_a_run_fits_and_is_legible(site, visit, width, scheme):
    for path in sorted(site.glob("runs/*/*/*.html"))[:2]:
        page = visit(path.as_uri(), width, color_scheme=scheme)
        assert overflows(page) == []
        ground = luminance(page, "body", "backgroundColor")
        assert (ground < 0.1) == (scheme == "dark")
        for selector in ("body", ".muted", "dt", "pre"):
            ink = luminance(page, selector, "color")
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5


def luminance(page, selector: str, name: str) -> float:
    """Relative luminance 0…1 of a colour of an element."""
    colour = page.eval_on_selector(selector, f"e => getComputedStyle(e).{name}")
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_legible(visit, address, scheme):
    page = visit(address, color_scheme=scheme)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground < 0.1) == (scheme == "dark")
    for selector in ("body", ".muted", ".lead", ".panel th button"):
        ink = luminance(page, selector, "color")
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5
    page.get_by_role("button", name="Change between light and dark").click()
    assert (luminance(page, "body", "backgroundColor") < 0.1) == (scheme == "light")
    page.reload()
    assert (luminance(page, "body", "backgroundColor") < 0.1) == (scheme == "light")


def test_without_javascript_everything_is_visible(visit, address):
    page = visit(address, java_script_enabled=False)
    assert page.locator("#meld").is_visible()
    assert page.locator("#emorynlp").is_visible()
    assert page.locator("#tryouts").is_visible()


def test_an_empty_leaderboard(visit, tmp_path: Path):
    build(tmp_path)
    page = visit((tmp_path / "index.html").as_uri(), 390)
    assert "There are no runs on MELD yet" in page.locator("#meld").inner_text()
    papers = len(read_published(tmp_path).rows["meld"])
    assert page.locator("#meld .papers .entry").count() == papers > 0
    assert page.get_by_role("tab", name="Try-outs").count() == 0
    assert overflows(page) == []
