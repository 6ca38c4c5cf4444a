// Browse: the clips of the run, filtered and sorted by the server, a page at a time, with one clip beside the list.

import { addressOf, go, readAddress, withQuery } from "./address.js";
import { api } from "./api.js";
import { createClipView } from "./clip.js";
import { announce, button, element, field, keyHint, message, named, percent, plural, select } from "./dom.js";
import { createMatrix } from "./matrix.js";

const PAGE_SIZE = 50;
const FILTERS = ["task", "split", "label", "predicted", "group", "text", "wrong", "unsure", "bad", "order"];
const ORDERS = [["row", "Manifest order"], ["confidence", "Least confident first"], ["-confidence", "Most confident first"], ["name", "Name"]];
const CATEGORICAL = new Set(["classify", "multilabel", "ordinal"]);
const TYPING_MILLISECONDS = 250;

export function createBrowse(about) {
  const tasks = Object.entries(about.tasks).filter(([, task]) => CATEGORICAL.has(task.kind)).map(([name]) => name);
  const view = createClipView(about, { above: element("div", { class: "row" }), onchange: replaceClip });
  const list = element("ol", { class: "clips", role: "listbox", "aria-label": "Clips" });
  const count = element("p", { class: "note", role: "status" });
  const pager = element("div", { class: "row pager" });
  const controls = element("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() });
  const matrix = element("div");
  const matrixFold = element("details", { class: "matrix-part", ontoggle: () => loadMatrix() }, element("summary", {}, "Confusion matrix"), matrix);
  const back = element("a", { class: "back", href: "#browse" }, "Back to the list");
  const hint = element("p", { class: "note hint" }, "Choose a clip: it is shown here.");
  const split = element("div", { class: "beside-list" }, element("div", { class: "list-part" }, count, list, pager), element("div", { class: "shown" }, back, hint, view.root));
  const root = element("div", { class: "view" }, element("h1", {}, "Browse the clips"), controls, matrixFold, split);
  let filters = {}; // as in the address
  let page = 0;
  let clips = [];
  let total = 0;
  let loaded = ""; // the request that the list shows
  let matrixOf = ""; // the request that the matrix shows

  const change = (changed, options) => {
    const after = { ...filters, ...changed };
    go("browse", Object.fromEntries(FILTERS.map((key) => [key, after[key]])), options);
  };

  function drawControls() {
    const any = (names) => [["", "any"], ...names.map((name) => [name, name])];
    const task = tasks.length > 1 && field("Task", select(tasks.map((name) => [name, name]), filters.task ?? about.primary, (value) => change({ task: value, label: "", predicted: "" })));
    const names = about.tasks[filters.task ?? about.primary]?.names ?? [];
    const choice = (title, key, options) => field(title, select(any(options), filters[key] ?? "", (value) => change({ [key]: value })));
    const check = (title, key) => element("label", { class: "check" }, element("input", { type: "checkbox", checked: Boolean(filters[key]), onchange: (event) => change({ [key]: event.target.checked ? "true" : "" }) }), ` ${title}`);
    const text = element("input", { type: "search", value: filters.text ?? "", "aria-keyshortcuts": "/" });
    let timer = null;
    text.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => change({ text: text.value.trim() }, { replace: true }), TYPING_MILLISECONDS);
    });
    text.addEventListener("keydown", (event) => event.key === "Escape" && text.blur());
    const isFiltered = FILTERS.some((key) => filters[key] && key !== "order");
    controls.replaceChildren(...[
      field("Search", text), task, choice("Split", "split", about.splits), choice("Label", "label", names), choice("Predicted", "predicted", names),
      about.groups.length ? choice("Group", "group", about.groups) : null,
      field("Order", select(ORDERS, filters.order ?? "row", (value) => change({ order: value === "row" ? "" : value })), "order"),
      element("div", { class: "checks" }, check("Wrong", "wrong"), check("Unsure", "unsure"), check("Bad", "bad")),
      isFiltered ? button("Clear filters", () => go("browse", { order: filters.order })) : null,
    ].filter(Boolean));
  }

  async function update(parameters) {
    const next = Object.fromEntries(FILTERS.filter((key) => parameters[key]).map((key) => [key, parameters[key]]));
    const isSame = JSON.stringify(next) === JSON.stringify(filters) && controls.children.length > 0;
    filters = next;
    page = Number(parameters.page) || 0;
    if (!isSame && !controls.contains(document.activeElement)) drawControls();
    else if (!isSame) redrawKeepingFocus();
    if (matrixFold.open) loadMatrix();
    split.classList.toggle("one", Boolean(parameters.clip));
    root.classList.toggle("one-clip", Boolean(parameters.clip));
    hint.hidden = Boolean(parameters.clip);
    back.href = addressOf("browse", { ...filters, page: page || "" });
    if (parameters.clip && view.asked() !== parameters.clip) view.show(parameters.clip, filters.task);
    view.root.hidden = !parameters.clip;
    await loadList();
    mark(parameters.clip);
  }

  // The control that was in use keeps the focus, and a text its cursor.
  function redrawKeepingFocus() {
    const place = [...controls.querySelectorAll("input, select, button")].indexOf(document.activeElement);
    const { value, selectionEnd, type } = document.activeElement;
    drawControls();
    const control = controls.querySelectorAll("input, select, button")[place];
    control?.focus();
    if (type !== "search") return;
    control.value = value;
    control.setSelectionRange(selectionEnd, selectionEnd);
  }

  let loading = null; // the promise of the request that the list shows, or will show

  function loadList() {
    const request = withQuery("/api/clips", { ...filters, offset: PAGE_SIZE * page, limit: PAGE_SIZE });
    if (request !== loaded) {
      loaded = request;
      loading = fetchList(request);
    }
    return loading;
  }

  async function fetchList(request) {
    list.setAttribute("aria-busy", "true");
    try {
      const answer = await api(request);
      if (loaded !== request) return;
      ({ clips, total } = answer);
      drawList();
    } catch (error) {
      if (loaded !== request) return;
      loaded = "";
      clips = [];
      list.replaceChildren();
      pager.replaceChildren();
      count.replaceChildren(message(error.message, "problem"), button("Try again", loadList));
    }
    list.removeAttribute("aria-busy");
  }

  function drawList() {
    list.replaceChildren(...clips.map(listItem));
    const isFiltered = FILTERS.some((key) => filters[key] && key !== "order");
    const first = PAGE_SIZE * page;
    count.textContent = total ? `${plural(total, "clip")}${total > PAGE_SIZE ? `, ${first + 1} to ${first + clips.length}` : ""}` : isFiltered ? "No clip matches these filters." : "There are no clips.";
    const turn = (by) => () => go("browse", { ...filters, page: page + by || "" });
    const pages = Math.ceil(total / PAGE_SIZE);
    pager.replaceChildren(...(pages > 1 ? [button("Previous page", turn(-1), { disabled: page === 0 }), element("span", {}, `Page ${page + 1} of ${pages}`), button("Next page", turn(1), { disabled: page >= pages - 1 })] : []));
  }

  function listItem(clip) {
    const item = element("li", { role: "option", "data-id": clip.id, tabindex: "-1", "aria-selected": "false", onclick: () => choose(clip.id), onkeydown: (event) => event.key === "Enter" && choose(clip.id, { focus: true }) });
    fillItem(item, clip);
    return item;
  }

  function fillItem(item, clip) {
    const tags = [clip.bad && "bad", Object.keys(clip.changed ?? {}).length > 0 && "changed"].filter(Boolean);
    const answer = clip.predicted ? element("span", { class: clip.wrong ? "answer-line wrong" : "answer-line" }, clip.wrong ? [named(clip.label || "no label"), " predicted as ", named(clip.predicted)] : named(clip.predicted)) : element("span", { class: "answer-line" }, named(clip.label || "no label"));
    item.replaceChildren(element("span", { class: "name" }, named(clip.name)), element("span", { class: "line" }, answer, element("span", { class: "n" }, tags.map((tag) => element("span", { class: "chip" }, tag)), clip.predicted && typeof clip.probability === "number" ? percent(clip.probability) : "")));
  }

  // `focus`: go on to the clip, for those who chose it with Enter.
  function choose(id, { replace = false, focus = false } = {}) {
    go("browse", { ...filters, page: page || "", clip: id }, { replace });
    if (focus) view.heading.focus();
  }

  function mark(id) {
    const items = [...list.children];
    const chosen = items.find((item) => item.dataset.id === String(id));
    for (const item of items) {
      item.setAttribute("aria-selected", String(item === chosen));
      item.tabIndex = item === (chosen ?? items[0]) ? 0 : -1;
    }
    chosen?.scrollIntoView({ block: "nearest" });
  }

  // The next or previous clip, over the border of a page.
  async function step(by) {
    const selected = readAddress().parameters.clip;
    const place = selected ? clips.findIndex((clip) => String(clip.id) === selected) + by : 0;
    if (place >= 0 && place < clips.length) choose(clips[place].id, { replace: Boolean(selected) });
    else {
      const turned = page + by;
      if (turned < 0 || turned >= Math.ceil(total / PAGE_SIZE)) return announce(by > 0 ? "This is the last clip" : "This is the first clip");
      go("browse", { ...filters, page: turned || "", clip: selected }, { replace: true });
      await loadList();
      choose((by > 0 ? clips[0] : clips.at(-1)).id, { replace: true });
    }
    if (list.contains(document.activeElement)) list.querySelector("[aria-selected=true]")?.focus();
  }

  async function loadMatrix() {
    if (!matrixFold.open) return;
    const request = withQuery("/api/confusion", { task: filters.task, split: filters.split });
    if (request === matrixOf) return;
    matrixOf = request;
    try {
      const answer = await api(request);
      if (matrixOf === request) matrix.replaceChildren(createMatrix(answer, (label, predicted) => change({ label, predicted, wrong: "" })));
    } catch (error) {
      matrixOf = "";
      matrix.replaceChildren(message(error.message, "problem"));
    }
  }

  // A change is shown in the list at once; the filters apply to it when the list is loaded again.
  function replaceClip(clip) {
    matrixOf = "";
    const place = clips.findIndex((other) => String(other.id) === String(clip.id));
    if (place < 0) return;
    Object.assign(clips[place], clip);
    fillItem(list.children[place], clips[place]);
  }

  function refresh() {
    loaded = matrixOf = "";
    view.forget();
  }

  return {
    root,
    update,
    refresh,
    key(event) {
      const isInList = list.contains(event.target);
      if (event.key === "j" || (isInList && event.key === "ArrowDown")) step(1);
      else if (event.key === "k" || (isInList && event.key === "ArrowUp")) step(-1);
      else if (event.key === "/") controls.querySelector("[type=search]").focus();
      else if (event.key === "Escape" && readAddress().parameters.clip) {
        const id = readAddress().parameters.clip;
        go("browse", { ...filters, page: page || "" });
        mark(id);
        list.querySelector("[tabindex='0']")?.focus();
      } else return readAddress().parameters.clip ? view.key(event) : false;
      return true;
    },
  };
}
