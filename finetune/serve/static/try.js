// Try: files or the camera go into a queue on the server; answers are shown as they come.

import { withQuery } from "./address.js";
import { api, upload } from "./api.js";
import { createCamera } from "./camera.js";
import { announce, button, element, keyHint, megabytes, message, named, percent, plural } from "./dom.js";
import { createResult } from "./result.js";

const POLL_MILLISECONDS = 600;
const ENDED = new Set(["done", "failed", "cancelled", "lost"]);

export function createTry(about) {
  const input = element("input", { type: "file", multiple: true, id: "files", hidden: true, onchange: () => addFiles(input.files) });
  const choose = button(["Choose videos ", keyHint("o", "after")], () => input.click(), { class: "primary", "aria-keyshortcuts": "o" });
  const options = [["heatmap", "Heat maps"], ["events", "Events"], ["calibrated", "Calibrated probabilities"]].filter(([key]) => about.can[key]).map(([key, text]) => [key, text, element("input", { type: "checkbox", checked: key !== "calibrated" })]);
  const drop = element("div", { class: "drop" }, element("p", {}, element("b", {}, "Drop videos here"), " or"), element("div", { class: "row center" }, choose, input), element("div", { class: "checks" }, options.map(([, text, check]) => element("label", { class: "check" }, check, ` ${text}`))), element("p", { class: "note" }, `Up to ${about.limits.max_files} files at a time, ${megabytes(about.limits.max_bytes)} each. They are sent to this server only.`));
  const problems = element("div", { class: "problems", "aria-live": "polite" });
  const list = element("ul", { class: "jobs", "aria-label": "Videos" });
  const shown = element("div", { class: "shown" });
  const beside = element("div", { class: "beside-list", hidden: true }, element("div", {}, element("h2", {}, "Videos"), list), shown);
  const root = element("div", { class: "view" }, element("h1", {}, "Try a video"), element("div", { class: "two intake" }, drop, createCamera((file) => addFiles([file]))), problems, beside);
  const jobs = new Map(); // key → {key, name, state, sent, job, error, cancel, item}; newest last
  const removed = new Set(); // ids of jobs
  let chosen = null; // the key of the result that is shown
  let result = null;
  let polling = null;
  let sending = Promise.resolve(); // files are sent one after the other

  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") addFiles(event.dataTransfer.files);
    });
  }

  function addFiles(files) {
    problems.replaceChildren();
    const accepted = [...files].slice(0, about.limits.max_files);
    if (files.length > accepted.length) refuse(`Only ${about.limits.max_files} files are taken at a time; the others were left out.`);
    for (const file of accepted) {
      if (file.size > about.limits.max_bytes) refuse(`${file.name} has ${megabytes(file.size)}; the limit is ${megabytes(about.limits.max_bytes)}.`);
      else if (file.size === 0) refuse(`${file.name} is empty.`);
      else send(file);
    }
    input.value = "";
  }

  const refuse = (text) => problems.append(message(text, "problem"));

  function send(file) {
    const entry = { key: crypto.randomUUID?.() ?? String(Math.random()), name: file.name, state: "waiting", sent: 0 };
    const asked = Object.fromEntries(options.map(([key, , check]) => [key, check.checked && "true"]));
    jobs.set(entry.key, entry);
    draw(entry);
    sending = sending.then(async () => {
      if (entry.state === "cancelled") return;
      entry.state = "sending";
      const transfer = upload(withQuery("/api/jobs", asked), "videos", file, (share) => {
        entry.sent = share;
        draw(entry);
      });
      entry.cancel = transfer.cancel;
      draw(entry);
      try {
        [entry.job] = (await transfer.done).jobs;
        entry.state = "sent";
      } catch (error) {
        entry.state = error.status === -1 ? "cancelled" : "failed";
        entry.error = error.message;
        announce(`${file.name}: ${error.message}`);
      }
      draw(entry);
      poll();
    });
  }

  async function poll() {
    clearTimeout(polling);
    try {
      const known = (await api("/api/jobs")).jobs;
      for (const job of known) receive(job);
      for (const entry of jobs.values()) if (entry.job && !known.some((job) => job.id === entry.job.id)) lose(entry);
    } catch {
      return; // the page says so, and asks again once the server answers
    }
    if ([...jobs.values()].some((entry) => entry.job && !ENDED.has(entry.job.state))) polling = setTimeout(poll, POLL_MILLISECONDS);
  }

  function receive(job) {
    if (removed.has(job.id)) return; // an answer from before its removal
    let entry = [...jobs.values()].find((other) => other.job?.id === job.id);
    if (!entry) {
      if ([...jobs.values()].some((other) => other.state === "sending")) return; // its answer is on the way
      entry = { key: job.id, name: job.name, state: "sent", sent: 1 };
      jobs.set(entry.key, entry);
    }
    const before = entry.job?.state;
    const isChanged = JSON.stringify(entry.job) !== JSON.stringify(job) || !entry.item;
    entry.job = job;
    if (isChanged) draw(entry);
    if (before === job.state || !ENDED.has(job.state)) return;
    if (before) announce(`${job.name}: ${stateText(entry)}`);
    if (job.state === "done" && (chosen === null || chosen === entry.key)) open(entry);
  }

  // The server keeps a limited number of results, and none after a restart.
  function lose(entry) {
    if (["lost", "cancelled", "failed"].includes(entry.job.state)) return;
    entry.job = { ...entry.job, state: "lost" };
    draw(entry);
  }

  function stateText({ state, sent, error, job }) {
    if (!job) return { waiting: "waiting to be sent", sending: `sending, ${Math.round(100 * sent)} %`, failed: error, cancelled: "cancelled" }[state];
    if (job.state === "queued") return job.position > 0 ? `queued, ${plural(job.position, "video")} before it` : "queued, next";
    if (job.state === "running") return `running, ${Math.round(100 * job.progress)} %`;
    if (job.state === "failed") return job.error;
    if (job.state === "cancelled") return "cancelled";
    if (job.state === "lost") return "no longer kept by the server";
    return answerText(job.result);
  }

  function answerText(answer) {
    if (answer.rejected) return "none of these";
    const first = Object.values(answer.tasks).find((task) => task.top_k?.length);
    if (!first) return "done";
    return first.kind === "multilabel" ? (first.named ?? []).join(", ") || "no class" : `${first.predicted}, ${percent(first.top_k[0][1])}`;
  }

  // Draws one entry of the list in its place; the focus stays on the same control.
  function draw(entry) {
    beside.hidden = false;
    const state = entry.job?.state ?? entry.state;
    const isOver = ENDED.has(state);
    const share = entry.job ? entry.job.progress : entry.state === "sending" ? entry.sent : 0;
    const focused = entry.item?.contains(document.activeElement) ? document.activeElement.dataset.role : null;
    const text = element("span", { class: "state" }, named(stateText(entry)));
    const title = element("span", { class: "name" }, named(entry.name));
    const head = state === "done" ? element("button", { type: "button", class: "open", "data-role": "open", "aria-pressed": String(chosen === entry.key), onclick: () => open(entry) }, title, text) : element("div", { class: "open" }, title, text);
    const bar = !isOver && element("progress", { max: 1, value: share, "aria-label": `Progress of ${entry.name}` });
    const removal = button(isOver ? "Remove" : "Cancel", () => remove(entry), { "data-role": "remove", "aria-label": `${isOver ? "Remove" : "Cancel"} ${entry.name}` });
    const drawn = element("li", { class: `job ${state}` }, head, bar, removal);
    if (entry.item) entry.item.replaceWith(drawn);
    else list.prepend(drawn);
    entry.item = drawn;
    if (focused) (drawn.querySelector(`[data-role=${focused}]`) ?? removal).focus();
  }

  async function remove(entry) {
    if (!entry.job && !ENDED.has(entry.state)) {
      entry.state = "cancelled";
      entry.cancel?.();
      draw(entry);
      return;
    }
    const isRunning = entry.job && !ENDED.has(entry.job.state);
    if (isRunning || ["done", "failed"].includes(entry.job?.state)) {
      try {
        await api(`/api/jobs/${encodeURIComponent(entry.job.id)}`, { method: "DELETE" });
      } catch (error) {
        if (error.status !== 404) return refuse(error.message); // 404: the server has forgotten it already
      }
    }
    if (entry.job) removed.add(entry.job.id);
    if (isRunning) {
      entry.job = { ...entry.job, state: "cancelled" };
      draw(entry);
      return;
    }
    const neighbour = entry.item.nextElementSibling ?? entry.item.previousElementSibling;
    jobs.delete(entry.key);
    entry.item.remove();
    (neighbour?.querySelector("button") ?? choose).focus();
    beside.hidden = jobs.size === 0;
    if (chosen === entry.key) close();
  }

  function open(entry) {
    const before = jobs.get(chosen);
    chosen = entry.key;
    if (before) draw(before);
    draw(entry);
    result = createResult(entry.job);
    shown.replaceChildren(result.root);
  }

  function close() {
    chosen = result = null;
    shown.replaceChildren();
  }

  function step(by) {
    const done = [...list.children].map((item) => [...jobs.values()].find((entry) => entry.item === item)).filter((entry) => entry.job?.state === "done");
    const next = done[Math.max(0, Math.min(done.length - 1, done.findIndex((entry) => entry.key === chosen) + by))];
    if (next) open(next);
    next?.item.querySelector(".open").focus();
  }

  poll();
  return {
    root,
    update() {},
    refresh: poll,
    key(event) {
      if (event.key === "o") choose.click();
      else if (event.key === "j") step(1);
      else if (event.key === "k") step(-1);
      else if (event.key === "h" && result) return result.frames.toggleHeatmaps();
      else if (event.key === " " && result && !event.target.closest("button, summary, input, a")) result.player.toggle();
      else return false;
      return true;
    },
  };
}
