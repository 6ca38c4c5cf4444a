// Builds elements. Text is always set as text, never parsed as markup.

// `properties`: attributes; `on…` are listeners; `style` is an object of CSS properties; false and null leave one out.
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) created.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, css] of Object.entries(value)) created.style.setProperty(name, css);
    else if (key === "value" || key === "checked") created[key] = value;
    else created.setAttribute(key, value === true ? "" : value);
  }
  created.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return created;
}

// A name that people chose (of a class, a file, a group): its writing direction does not affect the text around it.
export const named = (text) => element("bdi", {}, String(text));
export const quoted = (text) => ["“", named(text), "”"];

export const button = (text, onclick, properties = {}) => element("button", { type: "button", onclick, ...properties }, text);
export const keyHint = (key, place = null) => element("kbd", { "aria-hidden": "true", class: place }, key);

let fields = 0;
export function field(label, control, kind = "") {
  control.id ||= `field-${(fields += 1)}`;
  return element("div", { class: `field ${kind}` }, element("label", { for: control.id }, label), control);
}


// A select; `options` are [value, text] pairs.
export function select(options, value, onchange, properties = {}) {
  const created = element("select", { onchange: (event) => onchange(event.target.value), ...properties });
  created.append(...options.map(([key, text]) => element("option", { value: key }, text)));
  created.value = value;
  return created;
}

export const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
export const seconds = (value) => `${value.toFixed(2)}\u00a0s`;
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)}\u00a0MB`;

// Screen readers read the text; the page shows it elsewhere or not at all.
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

export const message = (text, kind = "") => element("p", { class: `message ${kind}`, role: kind === "problem" ? "alert" : null }, text);
