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
def clips(clip_folder, tmp_path):
    """A copy of the clips, with a journal of its own."""
    return shutil.copytree(clip_folder, tmp_path / clip_folder.name)


@pytest.fixture
def run(trained_run, clip_folder, clips, tmp_path):
    """A copy of the run, trained on the copy of the clips."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    for file in (run / "recipe.yaml", run / "manifest.csv"):
        file.write_text(file.read_text().replace(str(clip_folder), str(clips)))
    return run


@pytest.fixture
def page(run):
    """The page of a server; it logs nothing and asks nothing of other machines."""
    heard = []
    with serving(run) as served, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(30_000)
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith(served.url) or heard.append(request.url))
        page.goto(served.url)
        yield page
        browser.close()
    assert heard == []


def changes(clips):
    return [json.loads(line) for line in clips.with_name(f"{clips.name}.changes.jsonl").read_text().splitlines()]


def test_a_dropped_video_is_answered_as_predict_does_and_a_label_is_corrected(page, run, clips, finetune):
    clip = next((clips / "test").rglob("*.mp4"))
    _, printed, _ = finetune("predict", run, clip, "--json")
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
    assert [(change["field"], change["previous"], change["value"]) for change in changes(clips)] == [
        ("label", before[1:], other[1:])
    ]
    page.keyboard.press("u")
    page.locator(f".choice[aria-pressed=true]:has-text('{before[1:]}')").wait_for()
    assert len(changes(clips)) == 2, "the undo is a change too; nothing is deleted"
    page.get_by_role("link", name="Changes").click()
    page.get_by_text("No changes yet.").wait_for()
