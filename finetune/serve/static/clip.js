// One clip of the run: player, what the model saw and answered, its row of the manifest, nearest clips.

import { addressOf, withQuery } from "./address.js";
import { api } from "./api.js";
import { element, message, named, percent, seconds } from "./dom.js";
import { createEditor } from "./label.js";
import { createFrames, createPlayer, probabilityList } from "./media.js";

const clipPath = (id) => `/api/clips/${encodeURIComponent(id)}`;

// `above`: an element over the clip's parts. `onchange(clip, field)` after each change.
export function createClipView(about, { above = null, onchange = () => {} } = {}) {
  const body = element("div", { class: "clip-body" });
  const heading = element("h2", { tabindex: "-1" });
  const root = element("article", { class: "clip", "aria-label": "Clip" }, heading, above, body);
  const facts = element("dl", { class: "facts" });
  let shown = null; // {clip, player, frames, editor}
  let wanted = null; // the clip that was asked for last

  async function show(id, task = about.primary) {
    const request = { id: String(id) };
    wanted = request;
    shown = null; // no key changes a clip before it is seen
    body.inert = true;
    try {
      const clip = await api(withQuery(clipPath(id), { task: task === about.primary ? "" : task }));
      if (wanted === request) draw(clip, task);
    } catch (error) {
      if (wanted !== request) return;
      heading.textContent = "Clip";
      body.replaceChildren(message(error.message, "problem"));
    }
    if (wanted === request) body.inert = false;
  }

  function draw(clip, task) {
    const { start, end } = clip.play ?? clip; // where the clip is in the file that is played
    const player = createPlayer(`${clipPath(clip.id)}/video`, { start: start ?? 0, end, offset: (clip.start ?? 0) - (start ?? 0) });
    const heatmaps = about.can.heatmap ? clip.frames.map((_, place) => `${clipPath(clip.id)}/heatmaps/${place}.jpg`) : null;
    const frames = createFrames(clip.frames, heatmaps, player);
    const editor = about.can.label && about.tasks[task] ? createEditor(about, task, (after, changed) => {
      if (shown && after.id === shown.clip.id) {
        Object.assign(shown.clip, after);
        drawFacts(shown.clip);
      }
      onchange(after, changed);
    }) : null;
    shown = { clip, player, frames, editor };
    heading.replaceChildren(named(clip.name));
    drawFacts(clip);
    editor?.show(clip);
    const probabilities = element("section", {}, element("h3", {}, "Prediction"), clip.probabilities?.length ? probabilityList(clip.probabilities.slice(0, 8), { label: clip.label }) : element("p", { class: "note" }, "This clip was not evaluated."));
    body.replaceChildren(element("div", { class: "two" }, player.root, element("div", {}, probabilities, facts)), clip.error ? message(clip.error, "problem") : frames.root, editor?.root ?? "", about.can.nearest ? nearestPart(clip) : "");
  }

  function drawFacts(clip) {
    const row = (name, value, changed) => element("div", {}, element("dt", {}, name), element("dd", {}, value, changed !== undefined && element("small", {}, [" was ", named(changed || "none")])));
    const changed = clip.changed ?? {};
    const isWrong = clip.predicted && clip.wrong;
    facts.replaceChildren(
      row("Label", clip.label ? named(clip.label) : "none", changed.label),
      clip.predicted ? row("Predicted", [named(clip.predicted), typeof clip.probability === "number" ? `, ${percent(clip.probability)}` : "", isWrong ? element("b", { class: "tag" }, "differs from the label") : ""]) : "",
      row("Split", clip.split ? named(clip.split) : "none", changed.split),
      row("Group", clip.group ? named(clip.group) : "none", changed.group),
      clip.start || clip.end ? row("Interval", `${seconds(clip.start ?? 0)} to ${clip.end ? seconds(clip.end) : "the end"}`) : "",
      clip.bad ? row("Bad", "yes: left out of the new manifest") : "",
    );
  }

  function nearestPart(clip) {
    const list = element("ol", { class: "near" });
    const load = async () => {
      list.replaceChildren(element("li", { class: "note" }, "Computing features …"));
      try {
        const { clips } = await api(`${clipPath(clip.id)}/nearest?count=8`);
        list.replaceChildren(...clips.map((other) => element("li", {}, element("a", { href: addressOf("browse", { clip: other.id }) }, element("img", { src: `${clipPath(other.id)}/frames/${clip.frames.length >> 1}.jpg`, alt: "", loading: "lazy" }), element("span", { class: "name" }, named(other.name))), element("span", {}, named(other.label || "no label"), element("small", {}, ` similarity ${other.similarity.toFixed(2)}`)))));
        if (!clips.length) list.replaceChildren(element("li", { class: "note" }, "No other clips."));
      } catch (error) {
        list.replaceChildren(element("li", {}, message(error.message, "problem")));
      }
    };
    return element("details", { class: "nearest", ontoggle: (event) => event.target.open && !list.children.length && load() }, element("summary", {}, "Nearest clips by the model's features"), list);
  }

  return {
    root,
    show,
    heading,
    setLabel: (value) => shown?.editor?.set(value),
    current: () => shown?.clip ?? null,
    asked: () => wanted?.id ?? null, // the id that was asked for last
    forget() {
      wanted = null;
    },
    key(event) {
      if (!shown) return false;
      if (event.key === " " && !event.target.closest("button, summary, a, input")) shown.player.toggle();
      else if (event.key === "h") return shown.frames.toggleHeatmaps();
      else return shown.editor?.key(event) ?? false;
      return true;
    },
  };
}
