"""The pages in a real browser, headless Chromium: they ask for nothing, run nothing of a name, and can be used.

Skipped where Playwright or a Chromium is missing. Whatever a page logs, asks for or says in a dialog fails the test
that opened it.
"""

import csv
import itertools
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from grey import make_clip
from reported import (
    KINDS,
    LONG_NAMES,
    write_ablation_of,
    write_large_run,
    write_long_run_of_large_numbers,
    write_multilabel_run,
    write_run_of_tasks,
    write_whole_run,
)
from written import answers_of, change, write_run

from finetune.cli.main import main
from finetune.metrics.event_matching import Event
from finetune.report.compare.compare_runs import compare_runs
from finetune.report.compare.page import write_compare_page
from finetune.report.pages.runs_index import write_index
from finetune.report.pages.search import PageClip, PageQuery, write_search_page
from finetune.report.pages.summary import SummaryFiles, write_summary_page
from finetune.report.pages.tasks_ablation import write_ablation
from finetune.report.pages.timeline import MAX_PICTURES, chosen_events, write_timeline_page
from finetune.report.run.page import write_report
from finetune.summaries.summary import Part, Summary
from finetune.timeline.timeline import TaskTimeline, Timeline
from finetune.video.encode import encode_jpeg

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt-get install chromium")

ODD = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\"quoted\" 'name' & \\more",
    "\u202eright to left",
    "挥手",
    "{{ 7 * 7 }}",
    "no clips",
]
CLIPS_OF = [9, 100, 20, 20, 20, 20, 0]
ODD_CLIP = "<img src=x onerror=alert(3)>\u202e</script><script>alert(4)</script>"
PAGES = (
    "report",
    "folds",
    "tasks",
    "compare",
    "index",
    "check",
    "ablation",
    "many",
    "multilabel",
    "numbers",
    "timeline",
    "search",
)
FIND_FAULTS = Path(__file__).parent.with_name("page_layout.js").read_text(encoding="utf-8")
SLOW = (pytest.mark.slow, pytest.mark.skipif("FINETUNE_ALL" not in os.environ, reason="takes long; set FINETUNE_ALL=1"))
LARGE = [(300, 17), pytest.param(1000, 200, marks=SLOW)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each page by its name, of runs and clips with names that try to be markup."""
    folder = tmp_path_factory.mktemp("runs")
    write_whole_run(folder / ODD[0], classes=ODD, per_class=CLIPS_OF, wrong=0.3, clip_name=ODD_CLIP)
    path_of = lambda number: f"/data/{number % 4}/{ODD_CLIP}{number:03}.mp4"  # noqa: E731
    for name, wrong in (("<u>b", range(30)), ("c & d", [38, 39])):
        write_run(folder / name, answers_of(wrong, classes=ODD[:4]), classes=ODD[:4], path_of=path_of)
    write_run(folder / "stopped", answers_of(), epochs=2)
    (folder / "stopped/evaluation/results.json").unlink()
    written = {"report": write_report(folder / ODD[0], figures_too=False), "compare": folder / "compare.html"}
    write_compare_page(compare_runs([folder / "<u>b", folder / "c & d"]), written["compare"])
    return written | {
        "folds": of_folds(folder / "folds"),
        "tasks": of_tasks(tmp_path_factory.mktemp("tasks")),
        "index": write_index(folder),
        "ablation": write_ablation(write_ablation_of(tmp_path_factory.mktemp("ablation"), recipe=ODD[0])),
        "check": checked(tmp_path_factory.mktemp("clips")),
        "many": of_many_classes(tmp_path_factory.mktemp("many")),
        "multilabel": of(write_multilabel_run, tmp_path_factory.mktemp("multilabel")),
        "numbers": of(write_long_run_of_large_numbers, tmp_path_factory.mktemp("numbers")),
        "timeline": of_recordings(tmp_path_factory.mktemp("timeline"), Path(f"/data/{ODD_CLIP}.mp4")),
        "summary": of_summaries(tmp_path_factory.mktemp("summary"), Path(f"/data/{ODD_CLIP}.mp4")),
        "search": of_queries(tmp_path_factory.mktemp("search")),
    }


def of(write, run):
    """The report of the run that `write` makes in an empty folder."""
    write(run)
    return write_report(run, figures_too=False)


def of_many_classes(run):
    """The report of 50 classes with long names, one of which has a single clip, and about 220 mistakes."""
    write_whole_run(run / "many", classes=LONG_NAMES, per_class=[1] + [9] * 49, wrong=0.5)
    return write_report(run / "many", figures_too=False)


def of_folds(run):
    """The report of a cross-validated run whose recipe was trained with several seeds."""
    figures = write_whole_run(run, per_class=8)["tasks"]["label"]
    fold = {"num_rows": 24, "top1": figures["top1"], "top1_ci": figures["top1_ci"]}
    folds = [fold | {"run": name} for name in ("fold-1", ODD[0])]
    seeds = [{"seed": seed, "value": 0.9 + seed / 100, "href": f"../seed-{seed}/report.html"} for seed in range(3)]
    change(run / "evaluation/results.json", folds=folds, seeds=seeds)
    return write_report(run, figures_too=False)


def of_tasks(run):
    """The report of a run of tasks that have odd names, one of each kind."""
    write_run_of_tasks(run, dict(zip(ODD, KINDS.values(), strict=False)))
    return write_report(run, figures_too=False)


def checked(folder):
    """The page of `finetune check` on clips, one of which is a copy, one damaged."""
    clips, page = folder / "clips", folder / "check.html"
    for split, first in (("train", 0), ("test", 3)):
        for number in range(first, first + 3):
            make_clip(clips / split / ODD[0] / f"{number}.mp4", 6, start=16 + number)
            make_clip(clips / split / "\u202eb" / f"\"{number}' & <b>.mp4", 6 + number, start=140 + 9 * number)
    shutil.copy(clips / "train" / ODD[0] / "0.mp4", clips / "test" / ODD[0] / "<i>copy.mp4")
    (clips / "train" / ODD[0] / "<s>damaged.mp4").write_bytes(b"no video")
    with pytest.MonkeyPatch.context() as patch:
        # Processes take seconds to start, and these few files need none.
        patch.setattr(
            "finetune.video.probe_files.map_in_processes", lambda look, paths, _: [look(path) for path in paths]
        )
        patch.setattr(sys, "argv", ["finetune", "check", str(clips), "--out", str(page)])
        with pytest.raises(SystemExit):
            main()
    return page


def of_recordings(folder, *videos, seconds=5.76, page="timeline.html"):
    """The timeline page of videos, in each of which two classes happen at a time, one after the other."""
    length = seconds / len(ODD)
    times = np.arange(0.12, seconds, 0.24)
    probabilities = np.array([np.abs(times - length * (place + 0.5)) < length / 2 for place in range(len(ODD))]).T
    events = [Event(length * place, min(seconds, length * (place + 1.5)), place, 0.9) for place in range(len(ODD))]
    task = TaskTimeline(tuple(ODD), True, probabilities.astype(np.float32), events)
    frames = np.arange(len(times))
    timelines = [Timeline(video, seconds, (96, 128), times, frames, 0.96, 0.24, {"label": task}) for video in videos]
    jpeg = encode_jpeg(np.full((3, 96, 128), 100, np.uint8))
    pictures = {(place, event): jpeg for place in range(len(videos)) for event in events[:3]}
    write_timeline_page(timelines, pictures, path=folder / page, run=ODD[0])
    return folder / page


def of_queries(folder, *videos):
    """The page of three searches: clips that are not there or cannot be played, words, and no hits; or of videos.

    Each video is a hit as a whole, and from 1 to 2 seconds.
    """
    jpeg = encode_jpeg(np.full((3, 96, 128), 100, np.uint8))
    gone = PageClip(f"/data/{ODD_CLIP}.mp4", labels=ODD[0], problem="there is no such file")
    pictures = [PageClip(f"/data/{name}/{'long_name' * 9}.avi", (1.5, 1e4), name, jpeg) for name in ODD]
    hits = [(0.9 - number / 10, clip) for number, clip in enumerate([*pictures, gone])]
    queries = [PageQuery(ODD_CLIP, gone, hits), PageQuery(f"“{ODD[3]}”", None, hits[:1]), PageQuery("none", gone, [])]
    if videos:
        parts = [PageClip(str(video), times, "", jpeg, True) for video in videos for times in ((0, np.inf), (1, 2))]
        queries = [PageQuery("query", parts[1], [(0.5, part) for part in parts])]
    write_search_page(queries, path=folder / "search.html", index=ODD[0], num_rows=12_345)
    return folder / "search.html"


def of_summaries(folder, *videos, page="summary.html"):
    """The summary page of videos of 5.76 s, each with a part of each odd class and many shots."""
    length = 5.76 / len(ODD)
    parts = tuple(Part(length * n, length * (n + 0.5), 0.9 - n / 10, name, n) for n, name in enumerate(ODD))
    jpeg = encode_jpeg(np.full((3, 96, 128), 100, np.uint8))
    shots = tuple(np.linspace(0.1, 5.7, 40).tolist())
    summaries = [Summary(video, 5.76, parts, shots, "events first", (96, 128)) for video in videos]
    files = SummaryFiles(dict.fromkeys(parts[:5], jpeg), folder / f"{ODD[2].replace('/', '')}.png", None, "Cut.")
    write_summary_page(summaries, [files] * len(videos), path=folder / page)
    return folder / page


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser):
    """Open a page of the disk in a window of its own; at the end it has logged nothing and asked for nothing else."""
    contexts, heard = [], []

    def opened(path, *, width=1280, plays=(), **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page, address = context.new_page(), path.as_uri()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: request.url in (address, *plays) or heard.append(f"request: {request.url[:200]}")
        )
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in heard if not text.startswith("request: data:")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_quietly_fits_its_window_and_is_legible_light_and_dark(pages, show, name):
    page = show(pages[name])
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    for cell in page.locator(".cells rect").all()[:1]:
        cell.click()
    assert page.locator("h1").is_visible()
    for width, scheme in itertools.product((1280, 390), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background))) / 3
        assert page.evaluate(FIND_FAULTS) == []
        assert brightness > 240 if scheme == "light" else brightness < 40


@pytest.mark.slow
def test_names_that_try_to_be_markup_are_shown_as_they_are(pages, show):
    for name, texts in {
        "report": [*ODD, ODD_CLIP],
        "folds": [ODD[0], "fold-1", "seed 2", "standard deviation 1.0\u00a0points"],
        "tasks": [*ODD[:5], "All 5 tasks", "Gradient conflicts between tasks"],
        "ablation": [ODD[0], "Relative gain per task"],
        "compare": [*ODD[:4], ODD_CLIP, "<u>b", "c & d"],
        "index": [ODD[0], "<u>b"],
        "timeline": [*ODD, ODD_CLIP],
        "summary": [*ODD, ODD_CLIP],
        "search": [*ODD, ODD_CLIP, "12,345 rows", "No hits: all rows are of the query's own file or group"],
        "check": [ODD[0], "\u202eb", "<i>copy.mp4", "<s>damaged.mp4", "\"1' & <b>.mp4"],
    }.items():
        page = show(pages[name])
        shown = page.locator("body").text_content()
        assert [text for text in texts if text not in shown] == []
        assert page.locator("img:not([src^='data:image/jpeg']), u, s, script:not(:last-of-type)[src]").count() == 0


@pytest.mark.slow
def test_a_name_written_from_right_to_left_does_not_reorder_the_text_around_it(pages, show):
    page = show(pages["report"])
    row = page.locator("#classes-of-0 tr", has_text="right to left")
    name, recall = (row.locator(part).first.bounding_box() for part in ("bdi", "td"))
    assert name["x"] + name["width"] <= recall["x"]
    todo = show(pages["check"]).locator(".warning li", has_text="\u202eb").locator("span").first
    place = "(at) => { range.setStart(text, at); range.setEnd(text, at + 1); return range.getBoundingClientRect().x; }"
    first, second = todo.evaluate(
        f"(span) => {{ const text = span.firstChild, range = new Range(); return [0, 1].map({place}); }}"
    )
    assert first < second


def column(page, table, number):
    """What rows are sorted by, from the first to the last."""
    cells = f"[...table.tBodies[0].rows].map((row) => row.cells[{number}])"
    return page.locator(table).evaluate(f"(table) => {cells}.map((cell) => cell.dataset.value ?? cell.textContent)")


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_by_number_and_another_reverses_the_order(pages, show):
    page, table = show(pages["report"]), "#classes-of-0 table"
    heading = page.locator(f"{table} th", has_text="Test clips")
    place = heading.evaluate("(cell) => cell.cellIndex")
    heading.get_by_role("button").click()
    assert column(page, table, place) == ["0", "9", "20", "20", "20", "20", "100"]
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.locator(f"{table} [aria-sort]").count() == 1
    heading.get_by_role("button").click()
    assert column(page, table, place) == ["100", "20", "20", "20", "20", "9", "0"]
    assert heading.get_attribute("aria-sort") == "descending"


@pytest.mark.slow
def test_missing_values_stay_last_in_either_order(pages, show):
    page, table = show(pages["report"]), "#classes-of-0 table"
    button = page.locator(f"{table} th button", has_text="F1")
    for turn in (1, -1):
        button.click()
        *known, last = column(page, table, 3)
        assert last == ""
        assert [float(value) for value in known] == sorted(map(float, known))[::turn]
    page, table = show(pages["index"]), "main table"
    for _ in range(2):
        page.locator("th button", has_text="Split").click()
        assert [text.strip() for text in column(page, table, 2)] == ["test"] * 4 + ["–"]


@pytest.mark.slow
def test_a_table_is_sorted_by_keyboard_too(pages, show):
    for name, heading, place in (("index", "Clips", 3), ("compare", "Net", 5), ("check", "Files", 1)):
        page = show(pages[name])
        table = page.locator("table", has=page.locator("th", has_text=heading)).first
        button = table.locator("th button", has_text=heading)
        button.focus()
        for order, key in (("ascending", "Enter"), ("descending", "Space")):
            page.keyboard.press(key)
            assert table.locator("[aria-sort]").get_attribute("aria-sort") == order
            assert table.locator("[aria-sort]").evaluate("(cell) => cell.cellIndex") == place
        assert button.evaluate("(button) => button === document.activeElement")


def predictions(report):
    with (report.parent / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_each_cell_of_the_matrix_lists_exactly_its_clips(pages, show):
    clips_of_cell = defaultdict(list)
    for row in predictions(pages["report"]):
        clips_of_cell[ODD.index(row["label"]), ODD.index(row["predicted"])].append(row)
    page = show(pages["report"])
    cells = page.locator(".cells rect")
    assert cells.count() == len(clips_of_cell)
    for cell in cells.all():
        true, predicted = map(int, cell.get_attribute("data-cell").split(","))
        rows = sorted(clips_of_cell[true, predicted], key=lambda row: (-float(row["probability"]), row["path"]))
        cell.click()
        items = page.locator("[data-cell-clips] li")
        assert items.all_text_contents() == [row["path"].removeprefix("data/") for row in rows]
        names = [re.sub("[\u202a-\u202e]", "\ufffd", ODD[code]) for code in (true, predicted)]
        of = CLIPS_OF[true]
        words = [f"“\u2068{name}\u2069”" for name in names]
        what = f"{words[0]} predicted correctly" if true == predicted else f"{words[0]} predicted as {words[1]}"
        assert cell.locator("title").text_content() == f"{what}: {len(rows)} of {of} clips"
        assert page.locator("[data-cell-clips] h3").text_content() == f"{what}: {len(rows)} of {of} clips"


@pytest.mark.slow
def test_the_clips_of_a_cell_scroll_into_view(pages, show):
    page = show(pages["report"], width=390, reduced_motion="reduce")
    page.locator(".cells rect").first.click()
    panel = page.locator("[data-cell-clips]").bounding_box()
    assert panel["y"] >= 0
    assert panel["y"] + panel["height"] <= 901


@pytest.mark.slow
def test_the_arrow_keys_move_between_cells_and_enter_lists_the_clips(pages, show):
    page = show(pages["report"])
    filled = [tuple(map(int, cell.get_attribute("data-cell").split(","))) for cell in page.locator(".cells rect").all()]
    focused = "() => document.activeElement.dataset.cell"
    assert page.locator(".cells rect[tabindex='0']").get_attribute("data-cell") == f"{filled[0][0]},{filled[0][1]}"
    (row, place), after = next(
        (first, second[1]) for first, second in itertools.pairwise(filled) if first[0] == second[0] == first[1]
    )
    page.locator(f".cells rect[data-cell='{row},{place}']").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == f"{row},{after}"
    page.keyboard.press("Enter")
    assert page.locator("[data-cell-clips] h3").text_content().count(" predicted as ") == 1
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == f"{row},{place}"
    for key, side in (("ArrowDown", 1), ("ArrowUp", -1)):
        page.locator(f".cells rect[data-cell='{row},{place}']").focus()
        page.keyboard.press(key)
        beyond = [of for of, column in filled[::side] if column == place and (of - row) * side > 0]
        assert page.evaluate(focused) == f"{beyond[0] if beyond else row},{place}"


@pytest.mark.slow
def test_the_clips_of_a_cell_are_listed_with_their_pictures(pages, show):
    page = show(pages["report"])
    path = page.locator("#clips img[data-clip]").first.get_attribute("data-clip")
    row = next(row for row in predictions(pages["report"]) if row["path"].endswith(f"/{path}"))
    page.locator(f".cells rect[data-cell='{ODD.index(row['label'])},{ODD.index(row['predicted'])}']").click()
    picture = page.locator("[data-cell-clips] li", has_text=path).locator("img")
    assert picture.evaluate("(img) => [img.naturalWidth, img.naturalHeight]") == [8 * 112, 112]


@pytest.mark.slow
def test_without_javascript_everything_is_shown_and_no_dead_control(pages, show):
    for name in PAGES:
        page, html = show(pages[name], java_script_enabled=False), pages[name].read_text(encoding="utf-8")
        assert page.locator("h1").is_visible()
        for part in ("table", "tr", "svg", "img", "summary"):
            assert page.locator(part).count() == len(re.findall(rf"<{part}\b", html))
        for table in page.locator("table").all():
            assert table.is_visible() or table.evaluate("(table) => table.closest('details:not([open])') !== null")
        assert page.locator("button, [role=button], .scripted:visible, [data-cell-clips]:visible").count() == 0


@pytest.mark.slow
def test_collapsed_parts_are_printed_and_collapsed_again(pages, show):
    page = show(pages["report"])
    count = "document.querySelectorAll('details[open]').length"
    folded, before = page.locator("details:not([open])").count(), page.evaluate(count)
    assert folded > 4
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.openAtPrint = {count}; }})")
    page.emulate_media(media="print")
    pdf = page.pdf()
    assert page.evaluate("window.openAtPrint") == before + folded
    assert page.evaluate(count) == before
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 3


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "per_class"), LARGE)
def test_a_report_of_very_many_classes_and_clips_is_small_and_opens(tmp_path, show, classes, per_class):
    write_large_run(tmp_path, classes=classes, per_class=per_class)
    started = time.perf_counter()
    path = write_report(tmp_path)
    written = time.perf_counter()
    page = show(path)
    opened = time.perf_counter() - written
    megabytes = path.stat().st_size / 1e6
    print(f"{classes} classes, {classes * per_class} clips: {megabytes:.1f} MB", end=", ")
    print(f"written in {written - started:.1f} s, opened in {opened:.1f} s")
    assert megabytes < 30
    assert opened < 10
    section = page.locator("#confusion-of-0")
    assert f"{classes} classes are too many for a row each" in section.inner_text()
    assert section.locator("ol li").count() == 10
    assert section.locator("svg").is_visible()
    heading = page.locator("#classes-of-0 th button", has_text="Precision")
    heading.click()
    assert page.locator("#classes-of-0 tbody tr").count() == classes


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A timeline page of two videos that are there, the second with a name to be escaped, and one that is not."""
    folder = tmp_path_factory.mktemp("recordings")
    odd = "50% & 'one' #2 ü?.mp4"
    videos = [make_clip(folder / name, 144, size=96, step=1) for name in ("first.mp4", odd)]
    return of_recordings(folder, *videos, folder / "gone.mp4"), [video.as_uri() for video in videos]


def until(page, condition):
    """Wait until a condition holds: what Playwright itself waits by, the page's content security policy refuses."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def playing(page):
    """The path of the recording in the player, and where its video is, in seconds."""
    until(page, "document.querySelector('video').readyState >= 1 && !document.querySelector('video').seeking")
    return page.evaluate(
        "[document.querySelector('[data-path]').textContent.split('/').pop(),"
        " Math.round(100 * document.querySelector('video').currentTime) / 100]"
    )


def opened_with_video(show, recordings, **how):
    page = show(recordings[0], plays=recordings[1], **how)
    assert playing(page) == ["first.mp4", 0]
    return page


@pytest.mark.slow
def test_a_click_on_a_bar_a_curve_or_a_row_plays_the_video_there(recordings, show):
    page = opened_with_video(show, recordings)
    second = page.locator("#r1")
    page.locator("#r1e2").click(position={"x": 4, "y": 8})
    assert playing(page) == ["50% & 'one' #2 ü?.mp4", 1.65]
    assert page.locator("[data-label]").text_content().split(", ")[1] == ODD[2]
    track = second.locator(".track").bounding_box()
    second.locator(".curve").nth(1).click(position={"x": track["width"] / 2, "y": 20})
    assert playing(page)[1] == pytest.approx(2.88, abs=0.02)
    head = second.locator(".playhead").bounding_box()
    assert head["x"] + 1 == pytest.approx(track["x"] + track["width"] / 2, abs=2)
    page.locator("#r0 details summary").click()
    page.locator("#r0 tr[data-event]").nth(1).locator("img").click()
    assert playing(page) == ["first.mp4", 0.82]


@pytest.mark.slow
def test_keys_choose_events_move_in_time_and_play(recordings, show):
    page = opened_with_video(show, recordings)
    for key, wanted in (
        ("j", 0),
        ("j", 0.82),
        ("j", 1.65),
        ("k", 0.82),
        ("ArrowRight", 1.82),
        ("Shift+ArrowRight", 5.76),
    ):
        page.keyboard.press(key)
        assert playing(page)[1] == pytest.approx(wanted, abs=0.02), key
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.matches('#r0 .event.current')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    paused = "document.querySelector('video').paused"
    page.keyboard.press("Space")
    until(page, f"!{paused}")
    page.keyboard.press("Space")
    until(page, paused)
    for _ in range(len(ODD)):
        page.keyboard.press("j")
    assert playing(page)[0].startswith("50%"), "after the last event of a recording comes the first of the next"


@pytest.mark.slow
def test_a_video_that_is_gone_is_told_and_its_events_are_shown(recordings, show):
    page = opened_with_video(show, recordings, width=390)
    page.locator("#r2e3").click(position={"x": 2, "y": 8})
    assert page.locator("[data-problem]").text_content() == "The video is not at its path."
    assert not page.locator("video").is_visible()
    assert page.locator("[data-clock]").text_content() == "0:02.5"
    assert page.locator("#r2 .playhead").is_visible() and not page.locator("#r0 .playhead").is_visible()


@pytest.mark.slow
def test_zoom_widens_the_tracks_alone(recordings, show):
    page = opened_with_video(show, recordings, width=390)
    width = "document.querySelector('.track').clientWidth"
    before = page.evaluate(width)
    page.locator(".zoom input").fill("2")
    assert page.evaluate(width) == pytest.approx(4 * before, abs=4)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]


@pytest.mark.slow
def test_ten_hours_of_many_events_and_classes_stay_below_two_megabytes(tmp_path, show):
    times, rng = np.arange(36_000) + 0.5, np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(40))
    events = [Event(time, time + 4, int(rng.integers(40)), float(rng.random())) for time in np.arange(0, 35_990, 5.0)]
    task = TaskTimeline(names, False, rng.random((len(times), 40), np.float32), events)
    timeline = Timeline(Path("/data/long.mp4"), 36_000, (96, 128), times, times.astype(int), 4, 1, {"label": task})
    jpeg = encode_jpeg(rng.integers(0, 256, (3, 90, 160), np.uint8))
    pictures = {(0, found.event): jpeg for found in chosen_events([timeline], MAX_PICTURES)[0]}
    path = tmp_path / "timeline.html"
    write_timeline_page([timeline], pictures, path=path, run="run")
    assert path.stat().st_size - 100 * 4 / 3 * len(jpeg) < 1e6, "besides pictures, which are noise here"
    page = show(path)
    assert (
        "The page shows the 1,000 events with the highest scores; events.csv has all."
        in page.locator("header").text_content()
    )
    assert page.locator(".event").count() == 1000


VIDEOS = "[...document.querySelectorAll('video')]"


@pytest.fixture(scope="module")
def search_page(tmp_path_factory):
    """A search page whose query and hits are two videos, and their addresses."""
    folder = tmp_path_factory.mktemp("played")
    videos = [make_clip(folder / name, 144, size=96, step=1) for name in ("50% & 'one' #2 ü?.mp4", "b.mp4")]
    return of_queries(folder, *videos), [video.as_uri() for video in videos]


@pytest.mark.slow
def test_query_and_hits_play_from_their_starts_to_their_ends_over_and_over(search_page, show):
    page = show(search_page[0], plays=search_page[1])
    until(page, f"{VIDEOS}[0].currentTime > 1 && !{VIDEOS}[0].paused && !{VIDEOS}[1].paused")
    page.evaluate("window.most = 0; window.least = 9")
    page.evaluate(
        f"{VIDEOS}[0].addEventListener('timeupdate', () => {{ const time = {VIDEOS}[0].currentTime;"
        " window.most = Math.max(window.most, time); window.least = Math.min(window.least, time); })"
    )
    page.evaluate(f"{VIDEOS}[0].currentTime = 1.8")
    until(page, "window.least < 1.5")
    assert page.evaluate("window.most < 2.3 && window.least >= 1")


@pytest.mark.slow
def test_keys_and_buttons_of_a_search_page(search_page, show):
    page = show(search_page[0], plays=search_page[1], width=390, reduced_motion="reduce")
    assert page.evaluate(f"{VIDEOS}.every((video) => video.paused)"), "reduced motion: nothing moves by itself"
    page.keyboard.press("Space")
    until(page, f"!{VIDEOS}[0].paused")
    page.locator("button", has_text="Pause all").click()
    until(page, f"{VIDEOS}.every((video) => video.paused)")
    for key, place in (("j", 0), ("j", 1), ("k", 0), ("k", 0), ("j", 1)):
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('[data-hit]')].indexOf(document.activeElement)") == place
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("r")
    until(page, f"!{VIDEOS}[0].paused")
    page.evaluate(f"{VIDEOS}[1].dispatchEvent(new Event('error'))")
    assert "or it is no longer at its path" in page.locator(".problem").first.text_content()


@pytest.mark.slow
def test_a_picture_of_a_summary_plays_its_part_and_all_parts_play_one_after_the_other(tmp_path, show):
    video = make_clip(tmp_path / "walk.mp4", 144, size=96, step=1)
    page = show(of_summaries(tmp_path, video), plays=[video.as_uri()])
    page.locator("#r0p2-row img").click()
    assert playing(page) == ["walk.mp4", 1.65]
    assert page.locator("[data-label]").text_content() == ODD[2]
    assert "current" in page.locator("#r0p2").get_attribute("class")
    page.keyboard.press("j")
    assert playing(page)[1] == 2.47
    page.locator("[data-play-all]").click()
    until(page, "document.querySelector('li.current').id === 'r0p5-row'")
    until(page, "document.querySelector('li.current').id === 'r0p6-row' && document.querySelector('video').paused")
    page.locator("#r0p1").click(position={"x": 2, "y": 8})
    assert playing(page)[1] == 0.82 and page.evaluate("document.querySelector('video').paused")
