// Corrects one clip: its label, split and group, whether it is bad; every change is sent at once and can be undone.

import { withQuery } from "./address.js";
import { api } from "./api.js";
import { createCombobox } from "./combobox.js";
import { announce, button, element, field, keyHint, named, quoted, select } from "./dom.js";

const MAX_DIGITS = 9; // up to so many classes have a key each
const WORDS = { label: "Label", split: "Split", group: "Group", bad: "Bad" };
const made = []; // numbers of the changes made in this window, for undo

export const wordsOf = (value) => (value === "" || value === null ? "none" : value === true || value === "true" ? "yes" : value === false || value === "false" ? "no" : String(value));

// `onchange(clip, field)` is called with the clip as the server has it then; field is null after an undo.
export function createEditor(about, task, onchange) {
  const { kind, names } = about.tasks[task];
  const status = element("p", { class: "message", role: "status" });
  const isMultilabel = kind === "multilabel";
  const isOfClasses = isMultilabel || kind === "classify" || kind === "ordinal"; // numbers are changed in the manifest
  const labels = isOfClasses && (isMultilabel || names.length <= MAX_DIGITS) ? names.map((name, place) => button([place < MAX_DIGITS ? keyHint(String(place + 1)) : "", named(name)], () => choose(name), { class: "choice", "aria-pressed": "false" })) : null;
  const typed = isMultilabel || !isOfClasses ? null : createCombobox(labels ? "Another label" : "Label", names, (name) => set("label", name), { isOpen: kind === "classify" });
  const split = select([["", "none"], ...about.splits.map((name) => [name, name])], "", (value) => set("split", value));
  const group = createCombobox("Group", about.groups, (name) => set("group", name), { isOpen: true });
  const bad = button([keyHint("x"), "Bad clip"], () => set("bad", !clip.bad), { class: "choice", "aria-pressed": "false", title: "Bad clips are left out of the new manifest" });
  const undo = button([keyHint("u"), "Undo"], () => undoLast(), { class: "choice" });
  const root = element(
    "section",
    { class: "editor", "aria-label": "Correct this clip" },
    labels && element("div", { class: "choices", role: "group", "aria-label": "Label" }, labels),
    element("div", { class: "row" }, typed?.root, field("Split", split), group.root, bad, undo),
    status,
  );
  let clip = null;
  let sending = Promise.resolve();

  function show(shown) {
    clip = shown;
    const current = new Set(isMultilabel ? clip.label.split(";") : [clip.label]);
    labels?.forEach((choice, place) => choice.setAttribute("aria-pressed", String(current.has(names[place]))));
    typed?.show(labels && names.includes(clip.label) ? "" : clip.label);
    if (clip.split && ![...split.options].some((option) => option.value === clip.split)) split.append(element("option", { value: clip.split }, clip.split));
    split.value = clip.split ?? "";
    group.show(clip.group);
    bad.setAttribute("aria-pressed", String(Boolean(clip.bad)));
    undo.disabled = made.length === 0;
  }

  function choose(name) {
    if (!isMultilabel) return set("label", name);
    const current = new Set(clip.label.split(";").filter(Boolean));
    if (!current.delete(name)) current.add(name);
    return set("label", names.filter((other) => current.has(other)).join(";"));
  }

  // Changes are sent one after the other: each needs the value that the one before has left.
  function queue(step) {
    sending = sending.then(step).catch((error) => tell(error.message, true)).finally(() => {
      undo.disabled = made.length === 0;
    });
  }

  const set = (changed, value) => queue(() => send(changed, value));

  async function send(changed, value) {
    const previous = clip[changed] ?? "";
    if (value === previous) {
      if (changed === "label") onchange(clip, "label"); // the label is confirmed; there is nothing to write
      return;
    }
    tell("");
    try {
      const answer = await api("/api/changes", { method: "POST", json: { clip: clip.id, task, field: changed, value, previous } });
      made.push(answer.number);
      show({ ...clip, ...answer.clip });
      tell([`${WORDS[changed]}: `, named(wordsOf(value)), ". Saved."]);
      onchange(clip, changed);
    } catch (error) {
      show({ ...clip, ...(error.status === 409 && "current" in error.body ? { [changed]: error.body.current } : {}) });
      onchange(clip, null);
      if (error.status !== 409 || !("current" in error.body)) throw error;
      tell([`Not saved: ${WORDS[changed].toLowerCase()} was changed to `, quoted(wordsOf(clip[changed])), " in another window. That value is shown now; set yours again if it is still right."], true);
    }
  }

  const undoLast = () => queue(async () => {
    if (!made.length) return;
    const answer = await api("/api/changes/undo", { method: "POST", json: { number: made.at(-1) } });
    made.pop();
    tell(["Undone", answer.clip ? [": ", named(answer.clip.name)] : "", "."]);
    if (!answer.clip) return;
    const after = await api(withQuery(`/api/clips/${encodeURIComponent(answer.clip.id)}`, { task })); // with the labels of this task
    if (after.id === clip.id) show({ ...clip, ...after });
    onchange(after, null);
  });

  function tell(parts, isProblem = false) {
    status.replaceChildren(...[parts].flat(Infinity));
    status.classList.toggle("problem", isProblem);
    if (status.textContent) announce(status.textContent);
  }

  function key(event) {
    const digit = Number(event.key);
    if (labels && digit >= 1 && digit <= labels.length) choose(names[digit - 1]);
    else if (event.key === "l") (typed ?? labels?.[0])?.focus();
    else if (event.key === "s") split.focus();
    else if (event.key === "g") group.focus();
    else if (event.key === "x") set("bad", !clip.bad);
    else if (event.key === "u") undoLast();
    else return false;
    return true;
  }

  return { root, show, key, set: (value) => set("label", value) };
}
