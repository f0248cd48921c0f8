// Requests to this device, with its token, and its errors in the form of each API.

let token = sessionStorage.getItem("token") ?? "";

export class Refused extends Error {
  constructor(status, { message, hint = "", code = "" }, retryAfterS = "") {
    super(message);
    this.status = status;
    this.hint = hint;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

export const hasToken = () => token !== "";

export function setToken(given) {
  token = given;
  sessionStorage.setItem("token", given);
}

/** The response to a request for a path below this page's; anything but success is thrown as `Refused`. */
export async function ask(path, { headers = {}, ...options } = {}) {
  const shown = token ? { authorization: `Bearer ${token}`, ...headers } : headers;
  let response;
  try {
    response = await fetch(path, { ...options, headers: shown });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "the device doesn't answer", hint: "is the agent running, and the network up?" });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const error = typeof said.error === "object" ? said.error : { message: said.error ?? `status ${response.status}` };
  throw new Refused(response.status, error, response.headers.get("retry-after") ?? "");
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const post = (value, options = {}) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(value),
  ...options,
});

/** The values of an event stream (SSE), until its `[DONE]`. */
export async function* events(response) {
  let held = "";
  for await (const piece of pieces(response.body.pipeThrough(new TextDecoderStream()))) {
    held += piece;
    const lines = held.split(/\r?\n/);
    held = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

// Safari's streams can't be iterated themselves.
async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
