// Records a few seconds from the camera. The camera is asked for after a click only, and released afterwards.

import { announce, button, element, field, message, select } from "./dom.js";

const REASONS = {
  NotFoundError: "No camera was found. Connect one, or choose a file.",
  NotAllowedError: "The browser did not allow the camera. Allow it in the browser's settings for this page and try again.",
  NotReadableError: "The camera is in use by another program.",
};

// A panel that gives each recording to `onrecorded` as a File.
export function createCamera(onrecorded) {
  const root = element("div", { class: "camera" });
  let length = 3; // seconds
  const idle = (problem = null) => {
    const lengths = [2, 3, 5, 10].map((value) => [String(value), `${value} seconds`]);
    root.replaceChildren(
      element("div", { class: "row" }, button("Record from the camera", start), field("Length", select(lengths, String(length), (value) => (length = Number(value))))),
      problem ? message(problem, "problem") : "",
    );
  };

  async function start() {
    if (!navigator.mediaDevices || !window.MediaRecorder) {
      idle("Browsers offer the camera only to pages on localhost or https. Choose a file instead.");
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
    } catch (error) {
      idle(REASONS[error.name] ?? `The camera cannot be used (${error.message}).`);
      return;
    }
    record(stream);
  }

  function record(stream) {
    const recorder = new MediaRecorder(stream);
    const parts = [];
    const preview = element("video", { autoplay: true, playsinline: true, "aria-label": "Camera" });
    const bar = element("progress", { max: length, value: 0, "aria-label": "Recorded" });
    let isKept = true;
    preview.muted = true;
    preview.srcObject = stream;
    const stop = button("Stop and classify", () => recorder.stop());
    const discard = button("Discard", () => {
      isKept = false;
      recorder.stop();
    });
    root.replaceChildren(preview, element("div", { class: "row" }, bar, stop, discard));
    stop.focus();
    const started = performance.now();
    const timer = setInterval(() => {
      bar.value = (performance.now() - started) / 1000;
      if (bar.value >= length && recorder.state === "recording") recorder.stop();
    }, 100);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      clearInterval(timer);
      for (const track of stream.getTracks()) track.stop();
      idle();
      root.querySelector("button").focus();
      const type = recorder.mimeType.split(";")[0] || "video/webm";
      const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
      if (isKept) onrecorded(new File(parts, `camera-${time}.${type.endsWith("mp4") ? "mp4" : "webm"}`, { type }));
    });
    recorder.start();
    announce(`Recording ${length} seconds`);
  }

  idle();
  return root;
}
