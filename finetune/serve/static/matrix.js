// The confusion matrix as a table of buttons; each lists the clips with that label and prediction.

import { element, named, plural } from "./dom.js";

const MAX_CLASSES = 25; // more do not fit on a page: then the most frequent mistakes only
const MAX_PAIRS = 10;

// `cells` are [label, predicted, count]; `onchoose(label, predicted)`.
export function createMatrix({ classes, cells }, onchoose) {
  const mistakes = cells.filter(([label, predicted]) => label !== predicted).sort((a, b) => b[2] - a[2]).slice(0, MAX_PAIRS);
  const pair = ([label, predicted, count]) => element("li", {}, element("button", { type: "button", class: "link", onclick: () => onchoose(label, predicted) }, named(label), " predicted as ", named(predicted)), ` ${plural(count, "clip")}`);
  const pairs = element("div", {}, element("h3", {}, "Most frequent mistakes"), mistakes.length ? element("ol", { class: "pairs" }, mistakes.map(pair)) : element("p", { class: "note" }, "No mistakes."));
  return element("div", { class: "beside" }, classes.length <= MAX_CLASSES ? element("div", { class: "box" }, table(classes, cells, onchoose)) : null, pairs);
}

function table(classes, cells, onchoose) {
  const counts = new Map(cells.map(([label, predicted, count]) => [JSON.stringify([label, predicted]), count]));
  const totals = new Map(classes.map((label) => [label, cells.filter(([of]) => of === label).reduce((sum, cell) => sum + cell[2], 0)]));
  const cell = (label, predicted) => {
    const count = counts.get(JSON.stringify([label, predicted])) ?? 0;
    if (!count) return element("td", {});
    const words = label === predicted ? `${label} predicted correctly` : `${label} predicted as ${predicted}`;
    const share = { "--share": `${8 + Math.round((32 * count) / totals.get(label))}%` };
    return element("td", {}, element("button", { type: "button", class: label === predicted ? "cell right" : "cell", style: share, title: `${words}: ${plural(count, "clip")}`, "aria-label": `${words}: ${plural(count, "clip")}`, tabindex: "-1", onclick: () => onchoose(label, predicted) }, String(count)));
  };
  const heads = classes.map((name, place) => element("th", { scope: "col", title: name, "aria-label": name }, String(place + 1)));
  const rows = classes.map((label, place) => element("tr", {}, element("th", { scope: "row" }, element("span", { class: "n" }, `${place + 1} `), named(label)), classes.map((predicted) => cell(label, predicted))));
  const created = element("table", { class: "matrix" }, element("caption", {}, "Rows: label. Columns: prediction. Arrow keys move between cells."), element("thead", {}, element("tr", {}, element("td", {}), heads)), element("tbody", {}, rows));
  created.querySelector(".cell")?.setAttribute("tabindex", "0");
  created.addEventListener("keydown", (event) => moveFocus(event, created));
  return created;
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// The next cell in that direction that has clips.
function moveFocus(event, of) {
  const from = event.target.closest(".cell");
  if (!from || !(event.key in STEPS)) return;
  event.preventDefault();
  const [down, right] = STEPS[event.key];
  let row = from.closest("tr").sectionRowIndex + down;
  let column = from.closest("td").cellIndex + right;
  for (; of.tBodies[0].rows[row]?.cells[column]; row += down, column += right) {
    const next = of.tBodies[0].rows[row].cells[column].querySelector(".cell");
    if (!next) continue;
    from.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
    return;
  }
}
