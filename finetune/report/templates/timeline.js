"use strict";
// One player for all recordings: a click on a bar, a curve, a row of the table or a picture plays the video there.
document.querySelector("main").before(document.querySelector("template").content);
const player = document.querySelector(".player");
player.hidden = true;
const video = player.querySelector("video");
const recordings = [...document.querySelectorAll(".recording")];
const rows = [...document.querySelectorAll("[data-event]")]; // of a table, or pictures
const bar = (row) => document.getElementById(row.dataset.event);
let shown = null; // the recording in the player
let current = null; // the row of the event that was chosen last
let time = 0; // seconds, in the recording that is shown
let isPlayingAll = false; // from event to event

const clock = (seconds) => {
  const tenths = Math.round(10 * seconds), minutes = Math.floor(tenths / 600), rest = tenths % 600;
  const text = `${String(Math.floor(rest / 10)).padStart(2, "0")}.${rest % 10}`;
  return minutes < 60 ? `${minutes}:${text}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${text}`;
};
const part = (name) => player.querySelector(`[data-${name}]`);
const problem = (text) => {
  part("problem").textContent = text;
  part("problem").hidden = !text;
  player.classList.toggle("without-video", Boolean(text));
};

const showTime = () => {
  const share = Math.min(1, time / Number(shown.dataset.seconds));
  shown.querySelector(".playhead").style.left = `${100 * share}%`;
  part("clock").textContent = clock(time);
  const names = rows.filter((row) => shown.contains(row) && row.dataset.start <= time + 0.05 && time < row.dataset.end);
  part("label").textContent = [...new Set(names.map((row) => row.dataset.name))].join(", ");
};

const show = (recording) => {
  if (shown === recording) return;
  for (const other of recordings) other.querySelector(".playhead").hidden = other !== recording;
  shown = recording;
  player.hidden = false;
  part("path").textContent = recording.dataset.path;
  video.pause();
  problem(recording.dataset.video ? "" : "The video is not at its path.");
  if (recording.dataset.video) video.src = recording.dataset.video;
  else video.removeAttribute("src");
};

const seek = (recording, seconds) => {
  show(recording);
  time = Math.max(0, Math.min(Number(recording.dataset.seconds), seconds));
  if (video.hasAttribute("src")) video.currentTime = time; // before its metadata are there, where it will begin
  const view = recording.querySelector(".view"), track = view.querySelector(".track");
  const x = (track.clientWidth * time) / Number(recording.dataset.seconds);
  if (x < view.scrollLeft || x > view.scrollLeft + view.clientWidth) view.scrollLeft = x - view.clientWidth / 2;
  showTime();
};

const choose = (row) => {
  current = row;
  for (const other of document.querySelectorAll(".current")) other.classList.remove("current");
  row.classList.add("current");
  bar(row).classList.add("current");
  seek(row.closest(".recording"), Number(row.dataset.start));
};

// The event before or after the one that was chosen last, at first the first one.
const go = (step) => {
  if (!rows.length) return;
  const next = current ? rows.indexOf(current) + step : 0;
  const chosen = rows[Math.max(0, Math.min(rows.length - 1, next))];
  choose(chosen);
  bar(chosen).focus({ preventScroll: true });
  bar(chosen).closest(".lane").scrollIntoView({ block: "nearest" });
};

// Play the events of the recording one after the other: skip what lies between them.
const playNext = () => {
  const next = rows[rows.indexOf(current) + 1];
  if (next && shown.contains(next)) choose(next);
  else video.pause();
};
const playAll = () => {
  if (!shown || !shown.contains(current)) choose(rows.find((row) => (shown ?? document).contains(row)));
  else choose(current);
  isPlayingAll = true;
  video.play().catch(() => {});
};

video.addEventListener("timeupdate", () => {
  if (!shown || video.seeking || !video.hasAttribute("src")) return;
  time = video.currentTime;
  if (isPlayingAll && current && time >= Number(current.dataset.end)) playNext();
  showTime();
});
video.addEventListener("pause", () => { isPlayingAll = isPlayingAll && video.ended; });
video.addEventListener("error", () => {
  if (video.hasAttribute("src")) problem("This browser cannot play the video, or it is no longer at its path.");
});

for (const recording of recordings) {
  const track = recording.querySelector(".track");
  track.classList.add("scripted-track");
  track.addEventListener("click", (event) => {
    const box = track.getBoundingClientRect();
    const of = event.target.closest(".event");
    if (of) {
      event.preventDefault();
      choose(document.getElementById(`${of.id}-row`));
    } else seek(recording, (Number(recording.dataset.seconds) * (event.clientX - box.left)) / box.width);
  });
}
for (const row of rows) {
  row.closest("table, ol").classList.add("scripted-rows");
  row.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey) return; // opens a link
    event.preventDefault();
    choose(row);
  });
}
for (const button of player.querySelectorAll("[data-go]")) {
  button.addEventListener("click", () => go(Number(button.dataset.go)));
}
player.querySelector("[data-play-all]")?.addEventListener("click", playAll);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("video")) return;
  const jump = event.shiftKey ? 10 : 1;
  if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "p" && player.querySelector("[data-play-all]")) playAll();
  else if (event.target.closest("input")) return; // its own keys
  else if (event.key === " " && !event.target.closest("button, summary") && shown) {
    if (video.paused) video.play().catch(() => {});
    else video.pause();
  } else if (event.key === "ArrowLeft" && shown) seek(shown, time - jump);
  else if (event.key === "ArrowRight" && shown) seek(shown, time + jump);
  else return;
  event.preventDefault();
});

const zoom = document.querySelector(".zoom input");
zoom.addEventListener("input", () => {
  document.documentElement.style.setProperty("--zoom", 2 ** zoom.value);
  if (shown) seek(shown, time);
});
for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
const first = recordings.find((recording) => recording.dataset.video);
if (first) seek(first, 0);
