"use strict";
// The headings of a sortable table become buttons. Without this script, the table is complete but not sortable.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim().replace(/^–$/, "");
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const difference = Number(a) - Number(b);
    return Number.isNaN(difference) ? a.localeCompare(b) : difference;
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const rows = [...body.rows].sort((a, b) => {
        const [left, right] = [valueOf(a, column), valueOf(b, column)];
        const empty = left === "" || right === "";
        return compare(left, right) * (descending && !empty ? -1 : 1);
      });
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}

// A click on a cell of the confusion matrix lists its clips; the arrow keys move between cells.
for (const panel of document.querySelectorAll("[data-cell-clips]")) {
  const data = document.getElementById(`cell-clips-${panel.dataset.cellClips}`);
  const section = panel.closest("section");
  const cells = [...section.querySelectorAll(".cells rect")];
  if (!data || !cells.length) continue;
  const { classes, cells: clips } = JSON.parse(data.textContent);
  const pictures = new Map([...document.querySelectorAll("img[data-clip]")].map((img) => [img.dataset.clip, img.src]));
  section.classList.add("scripted-cells");
  for (const hint of section.querySelectorAll(".scripted")) hint.hidden = false;
  const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const show = (cell) => {
    for (const other of cells) other.classList.toggle("chosen", other === cell);
    const listed = clips[cell.dataset.cell] ?? [];
    const [, number] = cell.textContent.match(/: (\d+) of/) ?? [0, listed.length];
    const items = listed.map((path) => {
      const item = element("li", path);
      if (pictures.has(path)) item.prepend(Object.assign(document.createElement("img"), { src: pictures.get(path), alt: "" }));
      return item;
    });
    const list = document.createElement("ul");
    list.append(...items);
    panel.replaceChildren(element("h3", cell.textContent), list);
    if (listed.length < number) panel.append(element("p", `Shown: ${listed.length} of ${number}. predictions.csv has all.`));
    panel.hidden = false;
    panel.scrollIntoView({ block: "nearest" });
  };
  const at = new Map(cells.map((cell) => [cell.dataset.cell, cell]));
  const next = (cell, down, right) => {
    let [row, column] = cell.dataset.cell.split(",").map(Number);
    for (;;) {
      [row, column] = [row + down, column + right];
      if (row < 0 || column < 0 || row >= classes.length || column >= classes.length) return cell;
      const neighbour = at.get(`${row},${column}`);
      if (neighbour) return neighbour;
    }
  };
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  cells.forEach((cell, index) => {
    cell.setAttribute("role", "button");
    cell.setAttribute("tabindex", index ? "-1" : "0");
    cell.addEventListener("click", () => show(cell));
    cell.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") show(cell);
      else if (event.key in steps) next(cell, ...steps[event.key]).focus();
      else return;
      event.preventDefault();
    });
  });
  const svg = cells[0].ownerSVGElement;
  svg.setAttribute("role", "group");
}

// Collapsed parts are printed too.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-folded]")) {
    details.open = false;
    delete details.dataset.folded;
  }
});
