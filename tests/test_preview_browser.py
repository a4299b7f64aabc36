"""The page in headless Chromium: what a reader sees, types and presses, and that the console stays silent."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium
from test_preview import HOSTILE, IMAGES, NAMES, damage, dataset, make, mapped, mixed, plain  # noqa: F401  (fixtures)

import dali_dr
from dali_dr.errors import DaliDrError
from dali_dr.preview.facts import Reader
from dali_dr.preview.names import names_of
from dali_dr.preview.page import write_page
from dali_dr.preview.serve import Site, make_server

# ruff: noqa: F811  (fixtures of the other file are arguments here)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a page by its URL and waits for its first picture; in the end the console must have said nothing."""
    said: list[str] = []
    with contextlib.ExitStack() as stack:

        def opened(url: str, width: int = 1280, **options: Any) -> Any:
            page = browser.new_page(viewport={"width": width, "height": 860}, **options)
            stack.callback(page.close)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
            page.goto(url)
            until(lambda: page.evaluate("performance.getEntriesByName('first picture').length"))
            return page

        yield opened
    assert said == []


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dali_dr.Dataset], str]:
    """The URL of the page of a set."""
    made: dict[Path, str] = {}

    def url(dataset: dali_dr.Dataset) -> str:
        if dataset.path not in made:
            path = tmp_path_factory.mktemp("page") / "page.html"
            write_page(dataset, path, names=names_of(dataset), progress=False)
            made[dataset.path] = path.as_uri()
        return made[dataset.path]

    return url


@pytest.fixture(scope="module")
def served(dataset: dali_dr.Dataset) -> Iterator[str]:
    with make_server(Site(dataset, names_of(dataset), 8), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Waits: the page's policy lets no text become a script, which playwright's own waiting needs."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.03)


def spoken(page: Any) -> list[str]:
    """What the cards say to who cannot see them, in their order."""
    return [card.get_attribute("aria-label") for card in page.locator(".card").all()]


def count_is(page: Any, text: str) -> None:
    until(lambda: page.inner_text("#count") == text)


def keys_of(dataset: dali_dr.Dataset, numbers: Any) -> list[str]:
    return [dataset.keys[int(number)] for number in numbers]


def shown_keys(page: Any) -> list[str]:
    return [text.split(", ")[0] for text in spoken(page)]


def test_filters_and_orders(dataset: dali_dr.Dataset, written: Any, visit: Open) -> None:
    reader = Reader(dataset, 8, True)
    facts = np.array([reader.read(number).facts for number in range(IMAGES)])
    page = visit(written(dataset), 2400)
    count_is(page, f"{IMAGES} images")
    assert shown_keys(page) == list(dataset.keys)
    page.fill("#text", "IMG_01")
    count_is(page, f"10 of {IMAGES} images")
    page.click("#clear")
    count_is(page, f"{IMAGES} images")
    page.fill("#label", "tabby")
    count_is(page, f"1 of {IMAGES} images")
    assert shown_keys(page) == [dataset.keys[1]]
    page.fill("#label", "")
    name = NAMES[facts["teacher"][4]]
    page.fill("#teacher", name)
    same = int((facts["teacher"] == facts["teacher"][4]).sum())
    count_is(page, f"{same} of {IMAGES} images")
    page.fill("#teacher", "no such class")
    count_is(page, f"0 of {IMAGES} images")
    assert page.inner_text("#nothing") == "No class of the teacher is called so."
    assert page.get_attribute("#teacher", "aria-invalid") == "true"
    page.click("#clear")
    page.fill("#least", "80.5")
    page.fill("#most", "20")
    count_is(page, f"0 of {IMAGES} images")
    why = "Confidence: no image has at least 80.5 % and at most 20 %; exchange the two."
    assert page.inner_text("#nothing") == why and page.get_attribute("#most", "aria-invalid") == "true"
    page.fill("#most", "")
    page.fill("#least", "120")
    until(lambda: page.inner_text("#nothing") == "Confidence: want 0 to 100 %.")
    assert page.get_attribute("#most", "aria-invalid") == "false"
    page.fill("#least", "100")
    until(lambda: page.inner_text("#nothing") == "No image fits these filters.")
    page.click("#clear")
    page.check("#disagree")
    differ = int((facts["teacher"] != facts["label"]).sum())
    count_is(page, f"{differ} of {IMAGES} images")
    page.click("#clear")
    least, most = np.round(100 * np.quantile(facts["confidence"], (0.3, 0.8)))
    page.fill("#least", str(int(least)))
    page.fill("#most", str(int(most)))
    inside = int(((100 * facts["confidence"] >= least) & (100 * facts["confidence"] <= most)).sum())
    count_is(page, f"{inside} of {IMAGES} images")
    page.click("#clear")
    count_is(page, f"{IMAGES} images")
    for order in ("confidence", "entropy", "divergence", "record_bytes"):
        page.select_option("#order", order.removesuffix("_bytes"))
        want = keys_of(dataset, np.argsort(facts[order], kind="stable"))
        until(lambda want=want: shown_keys(page) == want)
    page.click("#turn")
    until(lambda: shown_keys(page) == want[::-1])


def test_dialog_and_keys(dataset: dali_dr.Dataset, written: Any, visit: Open) -> None:
    page = visit(written(dataset))
    page.locator(".card").nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(lambda: page.is_visible("#dialog"))
    assert page.inner_text("#dialog-title") == dataset.keys[1]
    text = page.inner_text("#dialog")
    views = dataset.reinforcements(1)
    height, width = views.crop[0, 2:].tolist()
    assert f"crop {width} × {height} at" in text and "tabby cat (1)" in text
    assert f"{views.soft_probs[0, 0]:.1%}".replace("%", " %") in text
    assert page.locator(".view").count() == len(views)
    page.keyboard.press("ArrowDown")
    assert page.locator(".view").nth(0).get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowRight")
    until(lambda: page.inner_text("#dialog-title") == dataset.keys[2])
    page.keyboard.press("Escape")
    until(lambda: not page.is_visible("#dialog"))
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(dataset.keys[2])
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    page.locator(".card").nth(0).focus()
    page.keyboard.press("End")
    until(lambda: dataset.keys[IMAGES - 1] in page.evaluate("document.activeElement.getAttribute('aria-label')"))


def test_pictures_are_drawn(dataset: dali_dr.Dataset, written: Any, visit: Open) -> None:
    page = visit(written(dataset))
    page.locator(".card").nth(0).click()
    until(lambda: page.is_visible("#dialog"))
    pixel = """() => [...document.querySelectorAll('.original, .view canvas')].map((canvas) => {
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return new Set(data).size;
    })"""
    until(lambda: min(page.evaluate(pixel)) > 20)


def test_names_are_text(dataset: dali_dr.Dataset, written: Any, visit: Open) -> None:
    page = visit(written(dataset))
    page.fill("#label", HOSTILE)
    count_is(page, f"1 of {IMAGES} images")
    assert HOSTILE in page.locator(".card").first.inner_text()
    page.locator(".card").first.click()
    until(lambda: page.is_visible("#dialog"))
    assert HOSTILE in page.inner_text("#dialog")
    page.keyboard.press("Escape")
    page.click("#show-plots")
    until(lambda: page.locator(".plot").count() > 8)
    assert HOSTILE in page.inner_text("#plots") and "Operations" in page.inner_text("#plots")
    page.locator(".plot button", has_text="tabby cat").first.click()
    count_is(page, f"1 of {IMAGES} images")


def test_other_sets(
    plain: dali_dr.Dataset, mixed: dali_dr.Dataset, mapped: dali_dr.Dataset, written: Any, visit: Open
) -> None:
    page = visit(written(plain))
    assert not page.is_visible("#teacher") and not page.is_visible("#disagree")
    assert page.locator("#order option").all_inner_texts() == [
        "position in the set",
        "key",
        "bytes of the image",
        "pixels",
    ]
    page.locator(".card").nth(0).click()
    until(lambda: page.is_visible("#dialog"))
    page = visit(written(mapped))
    assert page.is_visible("#teacher") and "label maps of 15 × 15 cells" in page.inner_text("#summary")
    page.locator(".card").nth(0).click()
    until(lambda: page.locator(".legend li").count() == 8)
    page.keyboard.press("Escape")
    page.click("#show-plots")
    until(lambda: page.locator(".plot").count() > 3)
    plots = page.inner_text("#plots")
    assert "of the cells; the classes with the least" in plots and "view" not in plots
    page = visit(written(mixed))
    page.locator(".card").nth(0).click()
    until(lambda: page.locator(".mixed .link").count() > 0)
    partner = page.locator(".mixed .link").first.inner_text()
    assert partner in list(mixed.keys)
    page.locator(".mixed .link").first.click()
    until(lambda: page.inner_text("#dialog-title") == partner)


def test_phone_and_dark(dataset: dali_dr.Dataset, written: Any, visit: Open) -> None:
    page = visit(written(dataset), 390, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 19, 22)"
    page.locator(".card").nth(1).click()
    until(lambda: page.is_visible("#dialog"))
    assert page.evaluate("document.getElementById('dialog').scrollWidth") <= 390
    page.keyboard.press("Escape")
    page.click("#show-plots")
    until(lambda: page.locator(".plot").count() > 8)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_served(dataset: dali_dr.Dataset, served: str, visit: Open) -> None:
    page = visit(served, 2400)
    count_is(page, f"{IMAGES} images")
    until(lambda: shown_keys(page) == list(dataset.keys))
    page.fill("#text", "img_01")
    count_is(page, f"10 of {IMAGES} images")
    page.click("#clear")
    page.select_option("#order", "divergence")
    reader = Reader(dataset, 8, True)
    facts = np.array([reader.read(number).facts for number in range(IMAGES)])
    want = keys_of(dataset, np.argsort(facts["divergence"], kind="stable"))
    until(lambda: shown_keys(page) == want)
    page.locator(".card").nth(0).click()
    until(lambda: page.is_visible("#dialog") and page.inner_text("#dialog-title") == want[0])
    page.keyboard.press("Escape")
    page.click("#show-plots")
    until(lambda: page.locator(".plot").count() > 8)


def test_records_are_read_when_asked_for(
    dataset: dali_dr.Dataset, served: str, visit: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_dr.preview.serve._READ_ROWS", 4)
    page = visit(served, 390)  # few cards, so few records
    page.select_option("#order", "confidence")
    until(lambda: "needs records" in page.inner_text("#reading"))
    page.click("#reading button")
    count_is(page, f"{IMAGES} images")
    assert page.inner_text("#reading") == ""


def test_a_damaged_image_is_told(dataset: dali_dr.Dataset, visit: Open, tmp_path: Path) -> None:
    broken = damage(dataset, tmp_path / "set")
    write_page(broken, tmp_path / "p.html", names=names_of(broken), progress=False)
    message = broken_message(broken)
    with make_server(Site(broken, names_of(broken), 8), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        for url in ((tmp_path / "p.html").as_uri(), f"http://127.0.0.1:{server.server_port}/"):
            page = visit(url, 2400)
            card = page.locator(".card").nth(2)
            until(lambda card=card: message in (card.get_attribute("title") or ""))
            assert message in (card.get_attribute("aria-label") or "") and message in card.inner_text()
            card.click()
            until(lambda page=page: page.is_visible("#dialog"))
            assert page.inner_text("#dialog [role=alert]") == message
            assert page.inner_text("#dialog-title") == broken.keys[2]
            page.keyboard.press("ArrowRight")
            until(lambda page=page: page.locator(".view").count() > 0)
            assert page.inner_text("#dialog-title") == broken.keys[3]
            page.close()
        server.shutdown()
        thread.join()


def test_a_view_whose_partner_is_damaged(mixed: dali_dr.Dataset, written: Any, visit: Open, tmp_path: Path) -> None:
    partners = {n: mixed.reinforcements(n).mix.partner for n in range(IMAGES)}
    number = next(n for n, whom in partners.items() if n != 2 and 2 in whom)
    places = np.flatnonzero(partners[number] == 2).tolist()
    page = visit(written(damage(mixed, tmp_path / "set")), 2400)
    page.locator(".card").nth(number).click()
    until(lambda: page.locator(".view").count() > 0)
    said = {n: card.locator("[role=alert]") for n, card in enumerate(page.locator(".view").all())}
    assert [n for n, alert in said.items() if alert.count()] == places
    assert mixed.keys[2] in said[places[0]].inner_text() and "CRC-32C" in said[places[0]].inner_text()
    assert page.locator(".view canvas").count() == len(said) - len(places)


def test_the_order_of_views_is_said(dataset: dali_dr.Dataset, written: Any, visit: Open, tmp_path: Path) -> None:
    other = make(tmp_path / "set", row_order="entropy")
    for one, order in ((dataset, "the surest first"), (other, "those of least entropy first")):
        page = visit(written(one))
        page.locator(".card").nth(0).click()
        until(lambda page=page: page.is_visible("#dialog"))
        assert f"as training gets them, {order}." in page.inner_text("#dialog")


def broken_message(broken: dali_dr.Dataset) -> str:
    with pytest.raises(DaliDrError) as raised:
        broken.image(2)
    return str(raised.value)


@pytest.mark.slow
def test_ten_thousand_images(browser: Any, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parent.parent / "bench" / "preview.py"
    out = tmp_path / "preview.json"
    subprocess.run([sys.executable, str(script), "--scratch", str(tmp_path), "--json", str(out)], check=True)
    told = json.loads(out.read_text())
    assert told["images"] == 10_000 and told["bytes"] < 150e6 and told["console"] == []
