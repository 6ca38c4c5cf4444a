"use strict";
// Queries and hits play side by side, muted, each over and over from its start to its end.
document.querySelector("main").before(document.querySelector("template").content);
const videos = [...document.querySelectorAll("video")];
const hits = [...document.querySelectorAll("[data-hit]")];
const playButton = document.querySelector("[data-play]");
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const inSight = new Set();
let playing = !calm; // whether what is in sight plays
let current = -1; // the place of the hit that was chosen last

const startOf = (video) => Number(video.dataset.start);
const endOf = (video) => (video.dataset.end ? Number(video.dataset.end) : Infinity);
const rewind = (video) => { if (video.readyState > 0) video.currentTime = startOf(video); };
const play = (video) => { if (!video.error) video.play().catch(() => {}); };

for (const video of videos) {
  // Without the end in its address: the browser would stop there, and not begin again.
  video.src = video.getAttribute("src").split("#")[0];
  video.muted = true;
  video.controls = false; // in the way of small pictures: shown where the pointer or the focus is
  video.tabIndex = 0;
  for (const [kind, on] of [["pointerenter", true], ["focusin", true], ["pointerleave", false], ["focusout", false]]) {
    video.addEventListener(kind, () => { video.controls = on; });
  }
  video.addEventListener("loadedmetadata", () => rewind(video));
  video.addEventListener("ended", () => { // the end of the file, before that of the part
    rewind(video);
    play(video);
  });
  video.addEventListener("error", () => {
    const problem = document.createElement("span");
    problem.className = "problem";
    problem.textContent = "This browser cannot play the file, or it is no longer at its path.";
    video.closest("figure").querySelector("figcaption").append(problem);
  });
}

// A video that has passed the end of its part begins again. Times are looked at before each frame of the page.
const keepWithin = () => {
  for (const video of inSight) {
    if (!video.paused && !video.seeking && video.currentTime >= endOf(video)) rewind(video);
  }
  requestAnimationFrame(keepWithin);
};
requestAnimationFrame(keepWithin);

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) inSight.add(target);
    else inSight.delete(target);
    if (isIntersecting && playing) play(target);
    else if (!isIntersecting) target.pause();
  }
});
for (const video of videos) sight.observe(video);

const setPlaying = (on) => {
  playing = on;
  playButton.textContent = on ? "Pause all" : "Play all";
  for (const video of inSight) {
    if (on) play(video);
    else video.pause();
  }
};
const restart = () => {
  for (const video of videos) rewind(video);
  setPlaying(true);
};
const go = (step) => {
  if (!hits.length) return;
  current = Math.max(0, Math.min(hits.length - 1, current + step));
  hits[current].focus({ preventScroll: true });
  hits[current].scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
};

playButton.addEventListener("click", () => setPlaying(!playing));
document.querySelector("[data-restart]").addEventListener("click", restart);
addEventListener("focusin", (event) => {
  const hit = event.target.closest("[data-hit]");
  if (hit) current = hits.indexOf(hit);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "r") restart();
  else if (event.key === " " && !event.target.closest("video, button, a")) setPlaying(!playing);
  else return;
  event.preventDefault();
});
setPlaying(playing);
