// Requests to the server. Every failure is an ApiError whose message can be shown.

export class ApiError extends Error {
  constructor(status, detail, body = {}) {
    super(detail);
    this.status = status;
    this.body = body;
  }
}

const listeners = new EventTarget(); // "lost" and "token": the page shows them
export const onConnection = (kind, listener) => listeners.addEventListener(kind, listener);
const UNREACHABLE = "The server does not answer.";

export async function api(path, { method = "GET", json } = {}) {
  const headers = json === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, { method, headers, body: json === undefined ? undefined : JSON.stringify(json) });
  } catch {
    listeners.dispatchEvent(new Event("lost"));
    throw new ApiError(0, UNREACHABLE);
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw failure(response.status, body);
  return body;
}

// Send one file; `progress` gets the share that is sent. Returns {done: a promise of the answer, cancel}.
export function upload(path, fieldName, file, progress) {
  const request = new XMLHttpRequest();
  const form = new FormData();
  form.append(fieldName, file, file.name);
  const done = new Promise((resolve, reject) => {
    request.open("POST", path);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => progress(event.lengthComputable ? event.loaded / event.total : 0));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(request.response);
      else reject(failure(request.status, request.response ?? {}));
    });
    request.addEventListener("error", () => reject(new ApiError(0, `${UNREACHABLE} Or it refused the file before all of it was sent.`)));
    request.addEventListener("abort", () => reject(new ApiError(-1, "Cancelled")));
    request.send(form);
  });
  return { done, cancel: () => request.abort() };
}

function failure(status, body) {
  if (status === 401) listeners.dispatchEvent(new Event("token"));
  const detail = typeof body.detail === "string" ? body.detail : `The server answered with status ${status}.`;
  return new ApiError(status, detail, body);
}
