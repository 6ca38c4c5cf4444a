// The changes of the manifest that were made here, newest first, and the command that applies them.

import { addressOf, withQuery } from "./address.js";
import { api } from "./api.js";
import { announce, button, element, message, named, plural } from "./dom.js";
import { wordsOf } from "./label.js";

const MAX_SHOWN = 500;

export function createChanges(about) {
  const body = element("div", {});
  const root = element("div", { class: "view" }, element("h1", {}, "Changes"), element("p", { class: "lede" }, "Each change is in a journal beside the manifest. The manifest itself stays as it is until you apply them."), body);

  async function update() {
    try {
      const first = await api(withQuery("/api/changes", { limit: MAX_SHOWN }));
      const isCut = first.total > MAX_SHOWN; // then the newest are shown
      draw(isCut ? (await api(withQuery("/api/changes", { offset: first.total - MAX_SHOWN, limit: MAX_SHOWN }))).changes : first.changes, isCut);
    } catch (error) {
      body.replaceChildren(message(error.message, "problem"), button("Try again", update));
    }
  }

  function draw(changes, isCut) {
    const pending = changes.filter((change) => !change.undone && !change.undoes);
    if (!pending.length) {
      body.replaceChildren(element("p", { class: "message" }, "No changes yet. Browse the clips and correct one."));
      return;
    }
    const heads = ["Clip", "Change", "Time", ""].map((text) => element("th", { scope: "col", class: text.toLowerCase() || null }, text || element("span", { class: "unseen" }, "Undo")));
    const table = element("table", { class: "rows wide changes" }, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, pending.reverse().map(row)));
    body.replaceChildren(commandPart(about.manifest), element("h2", {}, isCut ? `The newest ${plural(pending.length, "change")}` : plural(pending.length, "change")), element("div", { class: "box" }, table));
  }

  function row(change) {
    const name = named(change.name);
    const clip = change.clip === null || change.clip === undefined ? name : element("a", { href: addressOf("browse", { clip: change.clip }) }, name);
    const undo = button("Undo", () => takeBack(change), { "aria-label": `Undo ${change.field} of ${change.name}` });
    const time = new Date(typeof change.time === "number" ? 1000 * change.time : change.time);
    const values = [`${change.field}: `, named(wordsOf(change.previous)), " → ", element("b", {}, named(wordsOf(change.value)))];
    return element("tr", {}, element("th", { scope: "row", class: "path" }, clip), element("td", {}, values), element("td", { class: "time" }, Number.isNaN(time.valueOf()) ? "" : time.toLocaleString()), element("td", {}, undo));
  }

  async function takeBack(change) {
    try {
      await api("/api/changes/undo", { method: "POST", json: { number: change.number } });
      announce(`Undone: ${change.field} of ${change.name}`);
      await update();
    } catch (error) {
      body.prepend(message(error.message, "problem"));
    }
  }

  return { root, update };
}

function commandPart(manifest) {
  const path = manifest ?? "MANIFEST";
  const command = `finetune data apply ${/^[\w./:@%+=,-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`}`;
  const text = element("code", {}, command);
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
      announce("Copied");
    } catch {
      getSelection().selectAllChildren(text);
      announce("Selected: copy it with the keys of your system");
    }
  });
  return element("section", { class: "apply" }, element("p", {}, "Write the new manifest, and see what changed, with:"), element("div", { class: "row" }, element("pre", { tabindex: "0", "aria-label": "Command" }, text), copy));
}
