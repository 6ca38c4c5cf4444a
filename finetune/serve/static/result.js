// The answer for one video: per task its class and probabilities or its numbers, frames, heat maps, events.

import { element, named, percent, seconds } from "./dom.js";
import { createFrames, createPlayer, createTimeBar, probabilityList } from "./media.js";

// {root, player, frames} of a finished job.
export function createResult(job) {
  const { result } = job;
  const player = createPlayer(`/api/jobs/${encodeURIComponent(job.id)}/video`);
  const frames = createFrames(result.frames, result.heatmaps, player);
  const tasks = Object.entries(result.tasks);
  const root = element(
    "article",
    { class: "result", "aria-label": `Result of ${job.name}` },
    element("h2", {}, named(job.name)),
    result.rejected && element("p", { class: "verdict" }, element("b", {}, "None of these."), " The clip looks like nothing that the run has learnt. Its likeliest class is shown for information."),
    element("div", { class: "two" }, element("div", {}, player.root, element("p", { class: "note" }, `${seconds(result.duration_seconds)} long`)), element("div", {}, tasks.map(([name, task]) => taskPart(name, task, tasks.length > 1)))),
    result.events && createTimeBar(result.events, result.duration_seconds, player),
    frames.root,
  );
  return { root, player, frames };
}

function taskPart(name, task, isOneOfSeveral) {
  const heading = isOneOfSeveral && element("h3", { class: "task" }, named(name));
  if (!task.top_k?.length) return element("section", {}, heading, numbersTable(task));
  const isSeveral = task.kind === "multilabel";
  const answer = isSeveral ? (task.named ?? []) : [task.predicted];
  const shown = answer.length ? answer.flatMap((text, place) => (place ? [", ", named(text)] : [named(text)])) : ["No class above its threshold"];
  const certainty = !isSeveral && element("span", { class: "certainty" }, percent(task.top_k[0][1]));
  return element("section", {}, heading, element("p", { class: "answer" }, element("b", {}, shown), certainty), probabilityList(task.top_k));
}

const MEANINGS = { x: "left", y: "top", w: "width", h: "height", dx: "to the right", dy: "down" };
const UNITS = { box: "px", motion: "px per frame" };

function numbersTable({ kind, numbers, frame }) {
  const rows = Object.entries(numbers ?? {}).map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, named(name), UNITS[kind] && MEANINGS[name] ? ` (${MEANINGS[name]})` : ""), element("td", { class: "n" }, `${Number(value.toPrecision(4))} ${UNITS[kind] ?? ""}`)));
  const place = kind === "box" && frame !== null && frame !== undefined && element("p", { class: "note" }, `The box is at frame ${frame} of the video.`);
  return [element("table", { class: "rows" }, element("tbody", {}, rows)), place];
}
