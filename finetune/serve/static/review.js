// One clip after the other with a suggested label: suspects, which may be labelled wrong, and clips without a label.

import { addressOf, go, readAddress, withQuery } from "./address.js";
import { api } from "./api.js";
import { createClipView } from "./clip.js";
import { button, element, keyHint, message, named, percent, plural, quoted } from "./dom.js";

const BATCH = 20;
const SUSPECTS_LIMIT = 200;

export const createSuspects = (about) => createReview(about, {
  id: "suspects",
  title: "Suspects: labels that may be wrong",
  lead: "Models that were not trained on a clip predict another label for it. The most suspicious clips come first.",
  load: async () => {
    const { suspects, total } = await api(withQuery("/api/suspects", { limit: SUSPECTS_LIMIT }));
    return { clips: suspects, total };
  },
  suggestion: (clip) => clip.suggested,
  reason: (clip) => ["Labelled ", quoted(clip.label), ", predicted ", quoted(clip.suggested), `. Score ${clip.score.toFixed(2)}.`],
  keep: (clip) => ["Keep ", named(clip.label)],
  loading: "Loading …",
  empty: "No label looks wrong.",
  more: null,
});

export const createNext = (about) => createReview(about, {
  id: "next",
  title: "Next to label",
  lead: "Clips without a label, in the order in which they should teach the model most. Its guess is the suggestion.",
  load: async () => {
    const { clips } = await api(withQuery("/api/next", { count: BATCH }));
    return { clips, total: clips.length };
  },
  suggestion: (clip) => clip.guess,
  reason: (clip) => ["Guess: ", quoted(clip.guess), typeof clip.probability === "number" ? `, ${percent(clip.probability)}` : "", clip.reason ? `. Chosen because: ${clip.reason}.` : "."],
  keep: () => ["Skip"],
  loading: "Computing features of the clips. The first time, this can take minutes …",
  empty: "Every clip has a label.",
  more: `Choose ${BATCH} more`,
});

function createReview(about, mode) {
  const actions = element("div", { class: "suggestion" });
  const view = createClipView(about, { above: actions, onchange: changed });
  const status = element("p", { class: "row between", role: "status" });
  const bar = element("progress", { max: 1, value: 0, "aria-label": "Clips decided" });
  const place = element("div", {});
  const root = element("div", { class: "view review" }, element("h1", {}, mode.title), element("p", { class: "lede" }, mode.lead), element("div", { class: "progress" }, status, bar), place);
  const decided = new Set(); // ids
  let clips = null; // in order; null: not loaded
  let total = 0;
  let shown = -1; // the place in clips

  const idOf = (clip) => String(clip.id);

  async function load() {
    place.replaceChildren(message(mode.loading));
    try {
      ({ clips, total } = await mode.load());
    } catch (error) {
      clips = null;
      place.replaceChildren(message(error.message, "problem"), button("Try again", () => update({})));
      return;
    }
    shown = -1;
  }

  async function update(parameters) {
    if (clips === null) await load();
    if (clips === null) return;
    const wanted = clips.findIndex((clip) => idOf(clip) === parameters.clip);
    open(wanted >= 0 ? wanted : nextUndecided(0));
  }

  function nextUndecided(from) {
    const order = [...clips.keys()];
    return [...order.slice(from), ...order.slice(0, from)].find((at) => !decided.has(idOf(clips[at]))) ?? -1;
  }

  function open(at) {
    drawProgress(at);
    if (at < 0) return drawEnd();
    const clip = clips[at];
    if (shown === at && place.contains(view.root)) return drawActions(clip);
    shown = at;
    drawActions(clip);
    if (!place.contains(view.root)) place.replaceChildren(view.root);
    view.show(idOf(clip));
    if (readAddress().view === mode.id) go(mode.id, { clip: clip.id }, { replace: true });
  }

  function drawActions(clip) {
    const suggestion = mode.suggestion(clip);
    const focused = [...actions.querySelectorAll("button")].indexOf(document.activeElement);
    actions.replaceChildren(
      element("p", {}, mode.reason(clip)),
      about.can.label ? element("div", { class: "row" }, button([keyHint("Enter"), "Set ", named(suggestion)], accept, { class: "primary" }), button([keyHint("n"), ...mode.keep(clip)], keep), button([keyHint("k"), "Back"], () => step(-1))) : "",
    );
    actions.querySelectorAll("button")[focused]?.focus();
  }

  function drawProgress(at) {
    const done = clips.filter((clip) => decided.has(idOf(clip))).length;
    bar.max = Math.max(1, clips.length);
    bar.value = done;
    const more = total > clips.length ? ` (the ${clips.length} most suspicious of ${total})` : "";
    status.replaceChildren(element("span", {}, clips.length ? `${done} of ${plural(clips.length, "clip")} decided${more}` : ""), at >= 0 ? element("span", {}, `Clip ${at + 1} of ${clips.length}`) : "");
  }

  function drawEnd() {
    shown = -1;
    const again = mode.more && clips.length ? button(mode.more, more, { class: "primary" }) : null;
    const review = about.can.label && clips.length ? element("a", { href: addressOf("changes") }, "See the changes") : null;
    place.replaceChildren(element("p", { class: "message" }, clips.length ? "All clips here are decided." : mode.empty), element("div", { class: "row" }, again ?? "", review ?? ""));
    (again ?? review)?.focus();
  }

  async function more() {
    clips = null;
    decided.clear();
    await update({});
  }

  const accept = () => shown >= 0 && view.current() && view.setLabel(mode.suggestion(clips[shown]));

  function keep() {
    if (shown < 0) return;
    decided.add(idOf(clips[shown]));
    open(nextUndecided(shown));
  }

  function step(by) {
    const at = shown < 0 ? clips.length - 1 : shown + by;
    if (clips[at]) open(at);
  }

  // A label or a bad clip is a decision: on to the next clip. An undo goes back to its clip.
  function changed(clip, field) {
    const at = clips.findIndex((other) => idOf(other) === String(clip.id));
    if (at < 0) return;
    if (field === null) {
      decided.delete(idOf(clip));
      open(at);
    } else if (field !== "split" && field !== "group" && !(field === "bad" && !clip.bad)) {
      decided.add(idOf(clip));
      open(nextUndecided(at));
    }
  }

  return {
    root,
    update,
    refresh() {
      shown = -1;
    },
    key(event) {
      if (clips === null) return false;
      const isOnControl = event.target.closest("button, a, summary, input");
      if (event.key === "Enter" && !isOnControl) accept();
      else if (event.key === "n") keep();
      else if (event.key === "j") step(1);
      else if (event.key === "k") step(-1);
      else return shown >= 0 && view.key(event);
      return true;
    },
  };
}
