"""The page on the real server: a video's answer is that of `finetune predict`; corrections reach the journal."""

import json
import shutil

import pytest
from serving import serving

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"),
]


@pytest.fixture
def page(trained_run, clip_folder):
    """The page of a server; it logs nothing and asks nothing of other machines."""
    heard = []
    with serving(trained_run) as served, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(30_000)
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith(served.url) or heard.append(request.url))
        page.goto(served.url)
        yield page
        browser.close()
    journal_of(clip_folder).unlink(missing_ok=True)
    assert heard == []


def journal_of(clip_folder):
    return clip_folder.with_name(f"{clip_folder.name}.changes.jsonl")


def changes(clip_folder):
    return [json.loads(line) for line in journal_of(clip_folder).read_text().splitlines()]


def test_a_dropped_video_is_answered_as_predict_does_and_a_label_is_corrected(page, trained_run, clip_folder, finetune):
    clip = next((clip_folder / "test").rglob("*.mp4"))
    _, printed, _ = finetune("predict", trained_run, clip, "--json")
    wanted = json.loads(printed)[0]["top_k"]
    page.set_input_files("input[type=file]", clip)
    page.locator(".result").wait_for()
    bars = page.locator(".guesses li").all_text_contents()
    assert bars == [f"{part['class']}{100 * part['probability']:.1f}\u00a0%" for part in wanted]
    page.locator(".frame img").last.wait_for()
    widths = "[...document.querySelectorAll('.frame img')].map((picture) => picture.naturalWidth)"
    assert all(page.evaluate(widths))
    assert page.locator("video").evaluate(
        "(video) => new Promise((done) => video.readyState ? done(true)"
        " : (video.onloadeddata = () => done(true), video.onerror = () => done(false)))"
    )

    page.get_by_role("link", name="Browse").click()
    page.locator(".filters").get_by_label("Split").select_option("test")
    page.get_by_text("4 clips", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("j")
    page.locator(".clip-body:not([inert]) .editor").wait_for()
    before = page.locator(".choice[aria-pressed=true]").text_content()
    other = page.locator(".choices .choice[aria-pressed=false]").first.text_content()
    page.keyboard.press(other[0])
    page.get_by_text(f"Label: {other[1:]}. Saved.").first.wait_for()
    assert [(change["field"], change["previous"], change["value"]) for change in changes(clip_folder)] == [
        ("label", before[1:], other[1:])
    ]
    page.keyboard.press("u")
    page.locator(f".choice[aria-pressed=true]:has-text('{before[1:]}')").wait_for()
    assert len(changes(clip_folder)) == 2, "the undo is a change too; nothing is deleted"
    page.get_by_role("link", name="Changes").click()
    page.get_by_text("No changes yet.").wait_for()
