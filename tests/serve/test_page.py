"""The page of `finetune serve` in headless Chromium, on a server whose answers the tests choose.

Skipped where Playwright or a Chromium is missing. A request off loopback, a breach of the content security policy,
and whatever the page logs fail the test that opened it.
"""

import itertools
import re
import shutil
import time
from pathlib import Path

import pytest
from fake_serve import FakeServe, running
from grey import make_clip

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium"),
]
ODD = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "\u202eright to left", "挥手", "a", "b"]
CLASSES = ["wave", "clap", "jump", "sit", "hand_shaking", "pushing"]
FIND_FAULTS = Path(__file__).parent.with_name("page_layout.js").read_text(encoding="utf-8")
CANVAS_CAMERA = """
Object.defineProperty(navigator, "mediaDevices", { value: { getUserMedia: async () => {
  const canvas = document.createElement("canvas"), draw = canvas.getContext("2d");
  setInterval(() => draw.fillRect(0, 0, 40 * Math.random(), 40), 30);
  return canvas.captureStream(30);
} } });
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("video") / "clip.mp4", 50, size=64, step=3)


@pytest.fixture(scope="module")
def serving(video):
    """The address of one server whose state each test replaces."""
    fake = FakeServe(video, CLASSES)
    with running(fake.app()) as address:
        yield fake, address


@pytest.fixture
def fake(serving, video):
    fake, _ = serving
    fake.__init__(video, CLASSES)
    return fake


@pytest.fixture
def show(browser, serving):
    """Open a view in a window of its own; what it logs or asks of other machines fails the test at its end.

    `expected` is text of log entries that the test provokes, such as a status.
    """
    contexts, heard, allowed = [], [], []

    def opened(at="", *, width=1280, expected=(), script=None, **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        context.set_default_timeout(10_000)
        contexts.append(context)
        allowed.extend(expected)
        page, address = context.new_page(), serving[1]
        if script:
            page.add_init_script(script)
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith((address, "blob:")) or heard.append(request.url))
        page.goto(f"{address}/{at}")
        page.wait_for_selector("h1")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in heard if not any(part in text for part in allowed)] == []


def until(condition, *, seconds=10):
    """Wait until a condition of the test's own holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def focused(page):
    return page.evaluate("document.activeElement.textContent || document.activeElement.tagName").strip()


def keys(page, *pressed):
    for key in pressed:
        page.keyboard.press(key)


def files(*names, size=2000):
    return [{"name": name, "mimeType": "video/mp4", "buffer": b"x" * size} for name in names]


def send(page, *names, **how):
    page.set_input_files("input[type=file]", files(*names, **how))


def loaded(page):
    page.locator(".clip-body:not([inert]) .editor").wait_for()


def duration(page):
    return page.locator("video").first.evaluate(
        "(video) => new Promise((done) => video.readyState ? done(video.duration)"
        " : video.addEventListener('loadedmetadata', () => done(video.duration)))"
    )


# Every view


VIEWS = {
    "": ".drop",
    "#browse": ".clips li",
    "#browse?wrong=true&clip=3": ".frames img",
    "#suspects": ".suggestion button",
    "#next": ".suggestion button",
    "#changes": ".changes",
    "#browse?text=no+such+clip": "text=No clip matches these filters.",
    "#browse?clip=no-such-clip": "text=There is no such clip.",
}


@pytest.mark.parametrize("at", VIEWS)
def test_each_view_fits_its_window_and_is_legible_light_and_dark(fake, show, at):
    for number in range(20, 24):
        fake.clips[str(number)]["label"] = ""
    fake.change({"clip": "0", "field": "label", "value": "clap", "previous": "wave"})
    page = show(at, expected=["404"] if "no-such-clip" in at else ())
    page.locator(VIEWS[at]).first.wait_for()
    if at == "":
        send(page, "one.mp4", "unlike the classes and with a very long name indeed.mp4")
        page.locator(".timebar").wait_for()
    for fold in page.locator("summary:visible").all():
        fold.click()
    page.wait_for_timeout(100)
    for width, scheme in itertools.product((1280, 640, 390), ("light", "dark")):  # 640: 1280 at 200 % zoom
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background))) / 3
        assert page.evaluate(FIND_FAULTS) == []
        assert brightness > 240 if scheme == "light" else brightness < 40


def test_names_that_try_to_be_markup_are_shown_as_they_are(fake, show, video):
    odd = "<img src=x onerror=alert(3)>{}.mp4"
    fake.__init__(video, ODD, clip_name=odd)
    fake.groups[0] = "<b>group"
    fake.clips["0"].update(label="", group="<b>group")
    fake.change({"clip": "1", "field": "label", "value": "<i>new", "previous": ODD[1]})
    name = "<svg onload=alert(4)>.mp4"
    for at, texts in {
        "": [name, *ODD],
        "#browse?clip=3": [odd.format(3), *ODD],
        "#suspects": [odd.format(1)],
        "#next": [odd.format(0)],
        "#changes": [odd.format(1), "<i>new", ODD[1]],
    }.items():
        page = show(at)
        if not at:
            send(page, name)
        for text in texts:
            page.get_by_text(text, exact=False).first.wait_for(state="attached")
        for fold in page.locator("summary").all():
            fold.click()
        assert page.locator("img[src='x'], main svg, main b > i, main script").count() == 0
        assert page.locator("header b").text_content() == "<b>run"


def test_every_control_is_reached_by_tab_and_shows_that_it_has_the_focus(fake, show):
    page = show("#browse?clip=3")
    page.locator(".frames img").first.wait_for()
    # The page has moved the focus to the clip: start again from the top.
    page.evaluate("document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex')")
    reached = []  # the start tag of each control, in order
    for _ in range(80):
        page.keyboard.press("Tab")
        control = page.evaluate("document.activeElement.cloneNode(false).outerHTML")
        if control.startswith("<body"):
            break
        if control not in reached:  # the controls within a video are its own
            reached.append(control)
            assert (
                "<video" in control or page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            )
    in_order = ('"#main"', "#try", 'type="search"', 'data-id="3"', "<video", 'class="frame"', "aria-pressed")
    places = [next(place for place, control in enumerate(reached) if part in control) for part in in_order]
    assert places == sorted(places)
    assert sum("data-id=" in control for control in reached) == 1, "the list is one stop"


def test_the_sheet_of_keys_opens_with_a_question_mark_and_keys_can_be_switched_off(fake, show):
    page = show("#browse")
    page.locator(".clips li").first.wait_for()
    keys(page, "?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.get_by_label("Single keys are shortcuts").uncheck()
    keys(page, "Escape")
    assert not page.locator("dialog").is_visible()
    keys(page, "j", "?")
    page.wait_for_timeout(100)
    assert "clip=" not in page.url and not page.locator("dialog").is_visible()


def test_the_run_is_named_with_its_metric_and_interval(fake, show):
    page = show("#try")
    page.locator("nav a").first.wait_for()
    assert "top-1 0.750 on test (95 % interval 0.500 to 0.900)" in page.locator("#about").text_content()


def test_a_view_that_the_server_cannot_give_is_not_offered(fake, show):
    fake.can.update(browse=False, label=False, suspects=False, next=False, heatmap=False)
    page = show("#suspects")
    assert page.locator("nav a").all_text_contents() == ["Try"]
    assert page.locator("h1").text_content() == "Try a video"
    send(page, "one.mp4")
    page.locator(".frames img").first.wait_for()


def test_a_server_that_is_gone_is_said_and_the_page_goes_on_when_it_is_back(fake, show):
    page = show("#browse", expected=["ERR_"])
    page.locator(".clips li").first.wait_for()
    page.context.set_offline(True)
    page.get_by_label("Wrong").check()
    assert "does not answer" in page.get_by_role("alert").first.text_content()
    page.context.set_offline(False)
    page.locator("#connection").get_by_role("button", name="Try again").click()
    page.get_by_text("9 clips", exact=True).wait_for()
    assert not page.locator("#connection").is_visible()


def test_without_the_token_the_page_asks_for_it(fake, show):
    fake.token = "secret"
    page = show("", expected=["401"])
    page.get_by_label("Token").fill("secret")
    keys(page, "Enter")
    page.locator(".drop").wait_for()
    assert page.locator("nav a").count() == 5


# Try


def test_videos_are_sent_queued_and_answered_by_keyboard(fake, show):
    fake.step = 0.5
    page = show()
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.wait_for_timeout(300)  # until the browser hands its dialog to the test
    keys(page, "o")
    until(lambda: page.title() and choosers)
    choosers[0].set_files(files("one.mp4", "two.mp4", "three.mp4"))
    page.locator(".job.done").nth(2).wait_for()
    assert page.locator("h2", has_text="one.mp4").is_visible(), "the first answer is shown at once"
    assert page.locator(".job.done .state").all_text_contents() == ["wave, 90.0\u00a0%"] * 3
    keys(page, "k")
    assert page.locator(".result h2").text_content() == "two.mp4"
    assert "two.mp4" in focused(page)
    assert page.locator("#announcer").text_content() == "three.mp4: wave, 90.0\u00a0%"


def test_an_answer_has_classes_frames_heat_maps_numbers_and_events_that_seek(fake, show):
    page = show()
    send(page, "one.mp4")
    page.locator(".result").wait_for()
    assert page.locator(".answer b").all_text_contents() == ["wave", "wave, clap"]
    assert page.locator(".guesses").first.locator("li").first.text_content() == "wave90.0\u00a0%"
    assert "12.5 px" in page.locator(".result table").first.text_content()
    assert page.locator(".frame span").all_text_contents() == [f"{0.4 * place:.2f}\u00a0s" for place in range(4)]
    assert duration(page) == pytest.approx(2, abs=0.1)
    now = "document.querySelector('video').currentTime"
    page.locator(".frame").nth(2).click()
    assert page.evaluate(now) == pytest.approx(0.8)
    page.locator(".event").nth(1).focus()
    keys(page, "Enter")
    assert page.evaluate(now) == pytest.approx(0.4)
    page.locator("h1").click()
    keys(page, "h")
    assert "?heat" in page.locator(".frame img").first.get_attribute("src")
    assert page.get_by_label("Heat maps (Grad-CAM)").is_checked()
    keys(page, " ")
    until(lambda: not page.evaluate("document.querySelector('video').paused"))


def test_a_clip_unlike_all_classes_is_called_none_of_these(fake, show):
    page = show()
    send(page, "unlike.mp4")
    page.locator(".verdict", has_text="None of these.").wait_for()
    assert page.locator(".job .state").text_content() == "none of these"


def test_jobs_wait_in_order_and_can_be_cancelled_and_removed(fake, show):
    fake.step = 0
    page = show()
    send(page, "one.mp4", "two.mp4", "three.mp4")
    page.locator(".job", has_text="three.mp4").get_by_text("queued, 2 videos before it").wait_for()
    page.get_by_role("button", name="Cancel two.mp4").focus()
    keys(page, "Enter")
    page.locator(".job.cancelled").wait_for()
    assert focused(page) == "Remove", "the focus stays where it was"
    keys(page, "Enter")
    until(lambda: page.locator(".job").count() == 2)
    assert [job["state"] for job in fake.jobs.values()] == ["running", "queued"]


def test_failures_of_files_are_said_in_words_beside_the_file(fake, show):
    fake.answer_of_job["broken.mp4"] = ("failed", "The file is no video.")
    page = show(expected=["413"])
    send(page, "broken.mp4")
    page.locator(".job.failed", has_text="The file is no video.").wait_for()
    page.get_by_role("button", name="Remove broken.mp4").click()
    until(lambda: page.locator(".job").count() == 0 and not fake.jobs)
    send(page, "large.mp4", size=1_000_001)
    page.get_by_text("large.mp4 has 1.0\u00a0MB; the limit is 1.0\u00a0MB.").wait_for()
    send(page, *(f"{number}.mp4" for number in range(6)))
    page.get_by_text("Only 5 files are taken at a time; the others were left out.").wait_for()
    page.locator(".job.done").nth(4).wait_for()
    fake.failing["/api/jobs"] = (413, "The queue is full.")
    send(page, "late.mp4")
    page.locator(".job.failed", has_text="The queue is full.").wait_for()


def test_files_can_be_dropped(fake, show):
    page = show()
    transfer = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['x'], 'dropped.mp4')); return data; }"
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    page.locator(".result h2", has_text="dropped.mp4").wait_for()


def test_the_camera_records_a_few_seconds_after_a_click_and_is_released(fake, show):
    page = show(script=CANVAS_CAMERA)
    page.get_by_label("Length").select_option("2")
    page.get_by_role("button", name="Record from the camera").click()
    page.get_by_role("button", name="Stop and classify").wait_for()
    keys(page, "Enter")
    page.locator(".result h2", has_text="camera-").wait_for()
    assert page.locator(".camera video").count() == 0
    assert next(iter(fake.jobs.values()))["name"].endswith(".webm")


def test_a_missing_camera_is_said(fake, show):
    page = show()
    page.get_by_role("button", name="Record from the camera").click()
    page.get_by_text(re.compile("No camera was found|did not allow the camera")).wait_for()
    page = show(script="Object.defineProperty(navigator, 'mediaDevices', { value: undefined });")
    page.get_by_role("button", name="Record from the camera").click()
    page.get_by_text("only to pages on localhost or https").wait_for()


# Browse


def names(page):
    return page.locator(".clips .name").all_text_contents()


def test_filters_are_in_the_address_and_the_back_button_undoes_them(fake, show):
    page = show("#browse")
    page.get_by_text("60 clips, 1 to 50").wait_for()
    page.get_by_label("Wrong").check()
    page.get_by_text("9 clips", exact=True).wait_for()
    page.locator(".filters").get_by_label("Split").select_option("train")
    page.get_by_text("3 clips", exact=True).wait_for()
    assert page.url.endswith("#browse?split=train&wrong=true")
    wanted = [clip["name"] for clip in fake.clips.values() if clip["wrong"] and clip["split"] == "train"]
    assert names(page) == wanted
    page.reload()
    page.get_by_text("3 clips", exact=True).wait_for()
    page.go_back()
    page.get_by_text("9 clips", exact=True).wait_for()
    assert page.locator(".filters").get_by_label("Split").input_value() == ""
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_text("60 clips, 1 to 50").wait_for()


def test_a_cell_of_the_matrix_lists_its_clips(fake, show):
    page = show("#browse")
    page.get_by_text("Confusion matrix").click()
    first = page.locator(".cell").first
    first.focus()
    keys(page, "ArrowRight")
    words = page.evaluate("document.activeElement.title")
    label, predicted, count = re.match(r"(\w+) predicted as (\w+): (\d+) clip", words).groups()
    keys(page, "Enter")
    page.get_by_text(re.compile(f"^{count} clips?$")).wait_for()
    wanted = [clip for clip in fake.clips.values() if (clip["label"], clip["predicted"]) == (label, predicted)]
    assert names(page) == [clip["name"] for clip in wanted]


def test_clips_are_searched_sorted_and_stepped_through_by_keyboard(fake, show):
    page = show("#browse")
    page.locator(".clips li").first.wait_for()
    keys(page, "/")
    page.keyboard.type("0001")
    page.get_by_text("11 clips", exact=True).wait_for()
    assert page.evaluate("document.activeElement.value") == "0001", "the field keeps text and focus"
    page.get_by_label("Order").select_option("-confidence")
    shares = ("document", "[...document.querySelectorAll('.clips .n')].map((part) => parseFloat(part.textContent))")[1]
    until(lambda: page.evaluate(shares) == sorted(page.evaluate(shares), reverse=True))
    page.locator("h1").click()
    keys(page, "j", "j")
    page.locator(".clip h2", has_text=names(page)[1]).wait_for()
    keys(page, "k")
    page.locator(".clip h2", has_text=names(page)[0]).wait_for()
    keys(page, "Escape")
    until(lambda: "clip=" not in page.url)
    assert page.locator(".clips li:focus").count() == 1


def test_stepping_goes_on_over_the_border_of_a_page(fake, show):
    page = show("#browse?clip=49")
    page.locator("[aria-selected=true]").wait_for()
    keys(page, "j")
    page.get_by_text("60 clips, 51 to 60").wait_for()
    page.locator(".clip h2", has_text="clip00050.mp4").wait_for()
    keys(page, "k")
    page.locator(".clip h2", has_text="clip00049.mp4").wait_for()


def test_a_clip_shows_frames_heat_maps_and_nearest_clips(fake, show):
    page = show("#browse?clip=3")
    page.locator(".frames img").first.wait_for()
    keys(page, "h")
    assert page.locator(".frame img").first.get_attribute("src") == "/api/clips/3/heatmaps/0.jpg"
    page.get_by_text("Nearest clips").click()
    page.locator(".near a").nth(1).click()
    page.locator(".clip h2", has_text="clip00001.mp4").wait_for()


def test_on_a_phone_a_clip_takes_the_place_of_the_list(fake, show):
    page = show("#browse", width=390)
    page.locator(".clips li").nth(2).click()
    page.get_by_role("link", name="Back to the list").click()
    page.locator(".clips li").nth(2).wait_for()
    assert page.locator(".clip").is_hidden()


def test_ten_thousand_clips_open_quickly_and_stay_a_short_list(fake, show, video):
    fake.__init__(video, CLASSES, clips=10_000)
    started = time.perf_counter()
    page = show("#browse")
    page.get_by_text("10,000 clips, 1 to 50").wait_for()
    opened = time.perf_counter() - started
    started = time.perf_counter()
    page.get_by_role("button", name="Next page").click()
    page.get_by_text("10,000 clips, 51 to 100").wait_for()
    turned = time.perf_counter() - started
    print(f"10,000 clips: opened in {opened:.2f} s, next page in {turned:.2f} s")
    assert page.locator(".clips li").count() == 50
    assert opened < 5 and turned < 2


# Correct and label


def test_a_digit_changes_the_label_and_u_undoes_it(fake, show):
    page = show("#browse?clip=3")
    page.locator(".editor").wait_for()
    keys(page, "2")
    page.locator(".facts", has_text="clapwas sit").or_(page.locator(".facts", has_text="clap was sit")).wait_for()
    assert fake.clips["3"]["label"] == "clap"
    assert page.locator(".editor [role=status]").text_content() == "Label: clap. Saved."
    assert page.locator(".clips [data-id='3'] .chip").text_content() == "changed"
    keys(page, "u")
    until(lambda: fake.clips["3"]["label"] == "sit")
    page.get_by_text("Undone: clip00003.mp4.").first.wait_for()


def test_split_group_and_bad_are_changed_by_keyboard(fake, show):
    page = show("#browse?clip=3")
    page.locator(".editor").wait_for()
    keys(page, "x")
    until(lambda: fake.clips["3"]["bad"] is True)
    keys(page, "s")
    page.keyboard.type("test")
    until(lambda: fake.clips["3"]["split"] == "test")
    page.locator("h1").click()
    keys(page, "g")
    page.keyboard.type("person 9")
    keys(page, "Enter")
    until(lambda: fake.clips["3"]["group"] == "person 9")
    assert {change["field"]: change["value"] for change in fake.journal} == {
        "bad": True,
        "split": "test",
        "group": "person 9",
    }


def test_of_many_classes_a_label_is_typed_in_part(fake, show, video):
    fake.__init__(video, [f"action {number}" for number in range(40)])
    page = show("#browse?clip=3")
    page.locator(".editor").wait_for()
    keys(page, "l")
    page.keyboard.type("n 17")
    keys(page, "Enter")
    until(lambda: fake.clips["3"]["label"] == "action 17")


def test_a_change_of_another_window_is_not_overwritten(fake, show):
    page = show("#browse?clip=3", expected=["409"])
    page.locator(".editor").wait_for()
    fake.change({"clip": "3", "field": "label", "value": "jump", "previous": "sit"})
    keys(page, "2")
    page.locator(".editor .problem", has_text="was changed to “jump” in another window").wait_for()
    assert fake.clips["3"]["label"] == "jump"
    assert page.locator(".choice[aria-pressed=true]").text_content() == "3jump"
    keys(page, "2")
    until(lambda: fake.clips["3"]["label"] == "clap")


def test_suspects_are_decided_one_after_the_other_by_keyboard(fake, show):
    suspects = [clip["id"] for clip in fake.clips.values() if clip["wrong"]]
    page = show("#suspects")
    page.get_by_text("0 of 9 clips decided").wait_for()
    loaded(page)
    keys(page, "Enter")
    page.get_by_text("1 of 9 clips decided").wait_for()
    first = fake.clips[suspects[0]]
    assert first["label"] == first["predicted"]
    keys(page, "n")
    page.get_by_text("Clip 3 of 9").wait_for()
    loaded(page)
    keys(page, "1")
    page.get_by_text("3 of 9 clips decided").wait_for()
    loaded(page)
    keys(page, "u")
    page.get_by_text("Clip 3 of 9").wait_for()
    page.get_by_text("2 of 9 clips decided").wait_for()
    for _ in range(7):
        keys(page, "n")
    page.get_by_text("All clips here are decided.").wait_for()
    keys(page, "Enter")
    page.locator(".changes tbody tr").wait_for()


def test_clips_without_a_label_are_labelled_with_the_guess_as_default(fake, show):
    for number in range(10, 34):
        fake.clips[str(number)]["label"] = ""
    page = show("#next")
    for done in range(20):
        page.get_by_text(f"{done} of 20 clips decided").wait_for()
        loaded(page)
        until(lambda number=10 + done: page.locator(".clip h2").text_content() == f"clip{number:05}.mp4")
        keys(page, "Enter")
    page.get_by_role("button", name="Choose 20 more").wait_for()
    assert all(fake.clips[str(number)]["label"] == fake.clips[str(number)]["predicted"] for number in range(10, 30))
    keys(page, "Enter")
    page.get_by_text("0 of 4 clips decided").wait_for()


def test_changes_are_listed_with_the_command_that_applies_them_and_can_be_undone(fake, show):
    fake.change({"clip": "3", "field": "label", "value": "jump", "previous": "sit"})
    page = show("#changes")
    page.locator(".changes", has_text="label: sit → jump").wait_for()
    assert page.locator("pre").text_content() == "finetune data apply 'data/my clips.csv'"
    page.get_by_role("button", name="Undo label of clip00003.mp4").click()
    page.get_by_text("No changes yet.").wait_for()
    assert fake.clips["3"]["label"] == "sit"
