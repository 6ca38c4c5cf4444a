// A text field with the matching names beneath it: type a part, choose with the arrows, Enter takes it.

import { element, field, named } from "./dom.js";

const MAX_SHOWN = 8;
let count = 0;

// `ontake(name)`. With `isOpen`, a text that no name equals is taken too; else only one of `names`.
export function createCombobox(label, names, ontake, { isOpen = false } = {}) {
  const id = `options-${(count += 1)}`;
  const input = element("input", { type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", "aria-expanded": "false", "aria-controls": id, "aria-autocomplete": "list" });
  const list = element("ul", { role: "listbox", id, class: "options", "aria-label": label, hidden: true });
  const root = element("div", { class: "combobox" }, field(label, input), list);
  let matches = [];
  let active = 0;

  function draw() {
    const text = input.value.trim().toLowerCase();
    const starts = names.filter((name) => name.toLowerCase().startsWith(text));
    const contains = names.filter((name) => !name.toLowerCase().startsWith(text) && name.toLowerCase().includes(text));
    matches = [...starts, ...contains].slice(0, MAX_SHOWN);
    if (isOpen && text && !names.some((name) => name.toLowerCase() === text)) matches.push(input.value.trim());
    active = Math.min(active, Math.max(0, matches.length - 1));
    list.replaceChildren(...matches.map((name, place) => element("li", { role: "option", id: `${id}-${place}`, "aria-selected": String(place === active), onmousedown: (event) => event.preventDefault(), onclick: () => take(name) }, named(name), isOpen && !names.includes(name) ? " (new)" : "")));
    if (!matches.length) list.replaceChildren(element("li", { class: "none" }, "No match"));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    if (matches.length) input.setAttribute("aria-activedescendant", `${id}-${active}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function take(name) {
    close();
    input.blur();
    ontake(name);
  }

  input.addEventListener("input", () => {
    active = 0;
    draw();
  });
  input.addEventListener("focus", () => {
    input.select();
    active = 0;
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) active = 0;
      else active = (active + (event.key === "ArrowDown" ? 1 : -1) + matches.length) % Math.max(1, matches.length);
      draw();
    } else if (event.key === "Enter") {
      if (list.hidden) draw();
      else if (matches.length) take(matches[active]);
    } else if (event.key === "Escape") {
      if (list.hidden) input.blur();
      else close();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return {
    root,
    input,
    show(value) {
      if (document.activeElement !== input) input.value = value ?? "";
    },
    focus: () => input.focus(),
  };
}
