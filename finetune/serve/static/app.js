// Starts the page: what the server can do, the views and their addresses, keys, help, and a lost connection.

import { addressOf, readAddress } from "./address.js";
import { api, onConnection } from "./api.js";
import { createBrowse } from "./browse.js";
import { createChanges } from "./changes.js";
import { button, element, field, message, named, plural } from "./dom.js";
import { openHelp, shortcutsAreOn } from "./help.js";
import { createNext, createSuspects } from "./review.js";
import { createTry } from "./try.js";

const main = document.getElementById("main");
const banner = document.getElementById("connection");
const navigation = document.getElementById("views");
const VIEWS = [
  { id: "try", title: "Try", create: createTry, isOffered: () => true },
  { id: "browse", title: "Browse", create: createBrowse, isOffered: (can) => can.browse },
  { id: "suspects", title: "Suspects", create: createSuspects, isOffered: (can) => can.suspects },
  { id: "next", title: "Next to label", create: createNext, isOffered: (can) => can.next },
  { id: "changes", title: "Changes", create: createChanges, isOffered: (can) => can.label },
];
const created = new Map(); // view id → {root, update(parameters), refresh(): forget what is loaded, key(event)}
let about = null;
let current = null; // the entry of VIEWS that is shown

async function start() {
  try {
    about = await api("/api/about");
  } catch (error) {
    if (error.status > 0 && error.status !== 401) main.replaceChildren(message(error.message, "problem"), button("Try again", start));
    return;
  }
  const offered = VIEWS.filter((view) => view.isOffered(about.can));
  const { size, num_frames: frames, sampling } = about.clip;
  document.getElementById("about").replaceChildren(
    element("span", {}, about.exported ? "Exported model " : "Run ", element("b", {}, named(about.name))),
    element("span", {}, `${plural(frames, "frame")} of ${size} px, ${sampling}`),
    figureText(about.figures?.[0]),
    licenceText(about.licence),
  );
  navigation.replaceChildren(element("ul", {}, offered.map(({ id, title }) => element("li", {}, element("a", { href: addressOf(id), "data-view": id }, title))), element("li", { class: "help" }, button("Keys", () => openHelp(about.can), { "aria-keyshortcuts": "?" }))));
  navigation.hidden = false;
  show();
}

function figureText(figure) {
  if (!figure) return "";
  const interval = figure.interval ? ` (95 % interval ${figure.interval.map((bound) => bound.toFixed(3)).join(" to ")})` : "";
  return element("span", {}, `${figure.metric} ${figure.value.toFixed(3)} on ${figure.split}${interval}`);
}

// The licence of the pretrained weights: a text, or {licence, source, …}.
function licenceText(licence) {
  const text = licence?.licence ?? licence?.license ?? licence;
  return typeof text === "string" && text ? element("span", {}, "Licence of the pretrained weights: ", named(text)) : "";
}

function show() {
  if (!about) return;
  const { view: id, parameters } = readAddress();
  const entered = VIEWS.find((view) => view.id === id && view.isOffered(about.can)) ?? VIEWS[0];
  if (!created.has(entered.id)) created.set(entered.id, entered.create(about));
  const view = created.get(entered.id);
  const isMove = current !== null && current !== entered;
  if (current !== entered) {
    current = entered;
    main.replaceChildren(view.root);
    document.title = `${entered.title} · ${about.name} · finetune`;
    for (const link of navigation.querySelectorAll("a")) {
      if (link.dataset.view === entered.id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
  if (isMove) view.refresh?.(); // another view may have changed clips
  view.update(parameters);
  if (isMove) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

addEventListener("hashchange", show);

// A file that is dropped beside the drop zone is not opened in place of the page.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (document.querySelector("dialog[open]") || !about || !shortcutsAreOn()) return;
  if (event.target.closest("input:not([type=checkbox]):not([type=file]), select, textarea, video")) return;
  if (event.key === "?") openHelp(about.can);
  else if (!created.get(current.id).key?.(event)) return;
  event.preventDefault();
});

// While the server does not answer, it is asked every few seconds; then the page goes on where it was.
let retry = null;
onConnection("lost", () => {
  if (!banner.hidden) return;
  banner.replaceChildren("The server does not answer. It may have been stopped, or the network is gone. ", button("Try again", reconnect));
  banner.hidden = false;
  if (about === null) main.replaceChildren();
  retry = setInterval(reconnect, 3000);
});

async function reconnect() {
  try {
    await api("/api/about");
  } catch (error) {
    if (error.status === 0) return;
  }
  clearInterval(retry);
  banner.hidden = true;
  if (about === null) start();
  else {
    created.get(current.id).refresh?.();
    show();
  }
}

onConnection("token", () => {
  const input = element("input", { name: "token", type: "password", required: true, autocomplete: "off" });
  main.replaceChildren(
    element("h1", {}, "A token is needed"),
    element("p", { class: "note" }, "finetune serve printed an address that ends in ?token=… when it started. Open that address, or enter the token here."),
    element("form", { class: "row", action: "/", method: "get" }, field("Token", input), element("button", {}, "Open")),
  );
  input.focus();
});

start();
