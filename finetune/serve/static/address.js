// The state of the page in its address, as #view?key=value: links, the back button and reloading keep it.

export function readAddress() {
  const [view, query = ""] = location.hash.replace(/^#/, "").split("?");
  return { view, parameters: Object.fromEntries(new URLSearchParams(query)) };
}

export const addressOf = (view, parameters = {}) => `#${withQuery(view, parameters)}`;

// A path with those of the parameters that have a value.
export function withQuery(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value || value === 0));
  return query.size ? `${path}?${query}` : path;
}

// `replace`: no new entry of the history, for steps from clip to clip.
export function go(view, parameters, { replace = false } = {}) {
  const target = addressOf(view, parameters);
  if (target === location.hash) return;
  if (replace) {
    history.replaceState(null, "", target);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = target;
}
