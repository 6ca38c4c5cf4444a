// What is shown of a video: player, the frames that the model saw, probabilities as bars, events on a time bar.

import { announce, element, keyHint, message, named, percent, seconds } from "./dom.js";

// A player that starts at `start` and stops at `end`, in seconds of the file that it plays. Times that it seeks are of
// another file, in which the same moment is `offset` seconds later.
export function createPlayer(url, { start = 0, end = null, offset = 0 } = {}) {
  const video = element("video", { controls: true, preload: "metadata", playsinline: true, src: start || end ? `${url}#t=${start}${end ? `,${end}` : ""}` : url });
  const root = element("div", { class: "player" }, video);
  video.addEventListener("error", () => {
    root.replaceChildren(message("This browser cannot play the file. The frames below were decoded by the server."));
  });
  return {
    root,
    video,
    seek(time) {
      video.currentTime = time - offset;
    },
    toggle() {
      if (video.paused) video.play().catch(() => {});
      else video.pause();
    },
  };
}

// `frames` are {url, seconds}; `heatmaps` their overlays' addresses or null; a click on a frame seeks the player.
export function createFrames(frames, heatmaps, player) {
  const pictures = frames.map((frame) => element("img", { src: frame.url, alt: `Frame at ${frame.seconds.toFixed(2)} s`, loading: "lazy" }));
  const status = element("p", { class: "message", role: "status", hidden: true });
  const tell = (text, isProblem = false) => {
    status.textContent = text;
    status.hidden = !text;
    status.classList.toggle("problem", isProblem);
  };
  const list = element("ol", { class: "frames" }, frames.map((frame, place) => element("li", {}, element("button", { type: "button", class: "frame", onclick: () => player.seek(frame.seconds) }, pictures[place], element("span", {}, seconds(frame.seconds))))));
  const showHeatmaps = (on) => {
    tell(on ? "Computing heat maps …" : "");
    pictures.forEach((picture, place) => {
      picture.src = on ? heatmaps[place] : frames[place].url;
      picture.alt = `${on ? "Heat map of the frame" : "Frame"} at ${frames[place].seconds.toFixed(2)} s`;
    });
  };
  const toggle = heatmaps && element("input", { type: "checkbox", onchange: (event) => showHeatmaps(event.target.checked) });
  for (const picture of pictures) {
    picture.addEventListener("load", () => status.classList.contains("problem") || tell(""));
    picture.addEventListener("error", () => tell(toggle?.checked ? "The heat maps could not be computed." : "Some frames could not be read.", true));
  }
  const heading = element("div", { class: "row between" }, element("h3", {}, "Frames the model saw"), toggle && element("label", { class: "check" }, toggle, " Heat maps (Grad-CAM) ", keyHint("h")));
  const legend = toggle && element("p", { class: "note only-heat" }, "Bright areas raised the score of the predicted class most.");
  const root = element("section", { class: "seen" }, heading, legend, status, list);
  return {
    root,
    toggleHeatmaps() {
      if (!toggle) return false;
      toggle.checked = !toggle.checked;
      showHeatmaps(toggle.checked);
      announce(toggle.checked ? "Heat maps on" : "Heat maps off");
      return true;
    },
  };
}

// Bars of [name, probability] pairs, likeliest first; the clip's own label is marked.
export function probabilityList(pairs, { label = "" } = {}) {
  const labels = new Set(label.split(";"));
  return element("ol", { class: "guesses", "aria-label": "Probabilities" }, pairs.map(([name, probability]) => {
    const isLabel = labels.has(name);
    const bar = element("span", { class: isLabel ? "guess true" : "guess", style: { "--p": `${100 * probability}%` } }, named(name), isLabel ? element("small", {}, " label") : "");
    return element("li", {}, bar, element("span", { class: "n" }, percent(probability)));
  }));
}

// Events {class, start, end, score} over the length of the video, in lanes so that none covers another.
export function createTimeBar(events, length, player) {
  const ends = []; // of the last event in each lane
  const sorted = [...events].sort((a, b) => a.start - b.start);
  const classes = [...new Set(events.map((event) => event.class))].sort();
  const bar = (event) => {
    const free = ends.findIndex((end) => end <= event.start);
    const lane = free < 0 ? ends.length : free;
    ends[lane] = event.end;
    const words = `${event.class}, ${seconds(event.start)} to ${seconds(event.end)}, score ${event.score.toFixed(2)}`;
    const style = { left: `${(100 * event.start) / length}%`, width: `${(100 * (event.end - event.start)) / length}%`, "--lane": lane };
    return element("button", { type: "button", class: `event c${(classes.indexOf(event.class) % 4) + 1}`, style, title: words, "aria-label": words, onclick: () => player.seek(event.start) }, element("span", {}, named(event.class)));
  };
  const head = element("i", { class: "playhead", hidden: true });
  const bars = sorted.map(bar);
  const track = element("div", { class: "track", style: { "--lanes": ends.length } }, bars, head);
  track.addEventListener("click", (click) => {
    const box = track.getBoundingClientRect();
    if (!click.target.closest(".event")) player.seek((length * (click.clientX - box.left)) / box.width);
  });
  player.video.addEventListener("timeupdate", () => {
    head.hidden = false;
    head.style.left = `${(100 * player.video.currentTime) / length}%`;
  });
  const rows = sorted.map((event) => element("tr", {}, element("th", { scope: "row" }, named(event.class)), element("td", { class: "n" }, seconds(event.start)), element("td", { class: "n" }, seconds(event.end)), element("td", { class: "n" }, event.score.toFixed(2))));
  const heads = ["Class", "Start", "End", "Score"].map((text, place) => element("th", { scope: "col", class: place ? "n" : null }, text));
  const table = element("details", {}, element("summary", {}, "Events as a table"), element("div", { class: "box" }, element("table", { class: "rows" }, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, rows))));
  if (!events.length) return element("section", {}, element("h3", {}, "Events"), element("p", { class: "note" }, "No events found."));
  return element("section", { class: "timebar" }, element("h3", {}, "Events"), track, element("p", { class: "ends" }, element("span", {}, seconds(0)), element("span", {}, seconds(length))), table);
}
