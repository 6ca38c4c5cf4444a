// The sheet of keys, which `?` opens, and the switch for those who do not want keys.

import { button, element } from "./dom.js";

const SWITCH = "finetune.shortcuts";
export const shortcutsAreOn = () => localStorage.getItem(SWITCH) !== "off";

const KEYS = [
  ["Everywhere", () => true, [["?", "show this sheet"], ["Tab", "next control"], ["Esc", "close this sheet or a list"]]],
  ["Try", () => true, [["o", "choose files"], ["j  k", "next, previous video"], ["Space", "play or pause"], ["h", "heat maps on or off"]]],
  ["Browse", (can) => can.browse, [["/", "search"], ["j  k", "next, previous clip"], ["Space", "play or pause"], ["h", "heat maps on or off"], ["Esc", "back to the list"]]],
  ["Correct", (can) => can.label, [["1 … 9", "set this label"], ["l", "type a label"], ["s", "change the split"], ["g", "change the group"], ["x", "mark as bad, or not"], ["u", "undo the last change"]]],
  ["Suspects, Next to label", (can) => can.suspects || can.next, [["Enter", "accept the suggestion"], ["n", "keep or skip"], ["j  k", "next, previous clip"]]],
];

export function openHelp(can) {
  const dialog = document.getElementById("help");
  const enabled = element("input", {
    type: "checkbox",
    checked: shortcutsAreOn(),
    onchange: (event) => localStorage.setItem(SWITCH, event.target.checked ? "on" : "off"),
  });
  const sections = KEYS.filter(([, isOffered]) => isOffered(can)).map(([title, , keys]) =>
    element("section", {}, element("h2", {}, title), element("dl", {}, keys.map(([key, text]) => element("div", {}, element("dt", {}, key.split("  ").map((part) => element("kbd", {}, part))), element("dd", {}, text))))),
  );
  dialog.replaceChildren(
    element("h1", { id: "help-title", tabindex: "-1", autofocus: true }, "Keys"),
    element("div", { class: "sheet" }, sections),
    element("label", { class: "check" }, enabled, " Single keys are shortcuts"),
    element("p", {}, button("Close", () => dialog.close())),
  );
  dialog.showModal();
}
