// The call that the form would make, as a program that runs as it is copied.
//
// A call is {path, json} or {path, file}; `attached` names the field of `json` whose value is a file in base64.

const TOKEN = "EDGEML_TOKEN";

export const LANGUAGES = { curl, Python: python };

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl(call, url, token) {
  const lines = [`curl ${quoted(url)}`];
  if (token) lines.push(`-H "Authorization: Bearer $${TOKEN}"`);
  if (call.file) lines.push(`-H 'Content-Type: ${call.file.type}'`, `--data-binary @${quoted(call.file.name)}`);
  else lines.push("-H 'Content-Type: application/json'", ...data(call));
  return lines.join(" \\\n  ");
}

function data({ json, attached }) {
  if (json.stream) return ["--no-buffer", `-d ${quoted(JSON.stringify(json))}`];
  if (!attached) return [`-d ${quoted(JSON.stringify(json))}`];
  // A file may be longer than an argument of a command.
  return [`-d @- <<END\n{"${attached.field}": "$(base64 -w0 ${quoted(attached.name)})"}\nEND`];
}

function python(call, url, token) {
  const type = call.file ? call.file.type : "application/json";
  const imports = [call.attached && "base64", "json", token && "os", "urllib.request"].filter(Boolean);
  const headers = [`"Content-Type": ${text(type)}`];
  if (token) headers.push(`"Authorization": f"Bearer {os.environ['${TOKEN}']}"`);
  return [
    ...imports.map((name) => `import ${name}`),
    ...(call.file || call.attached ? ["from pathlib import Path"] : []),
    "",
    ...body(call),
    `headers = {${headers.join(", ")}}`,
    `request = urllib.request.Request(${text(url)}, body, headers)`,
    "with urllib.request.urlopen(request) as response:",
    ...(call.json?.stream ? STREAMED : ["    print(json.load(response))"]),
  ].join("\n");
}

const STREAMED = ["    for line in response:", '        print(line.decode(), end="")'];

function body({ file, json, attached }) {
  if (file) return [`body = Path(${text(file.name)}).read_bytes()`];
  if (!attached) return [`body = json.dumps(${literal(json)}).encode()`];
  return [
    `encoded = base64.b64encode(Path(${text(attached.name)}).read_bytes()).decode()`,
    `body = json.dumps({${text(attached.field)}: encoded}).encode()`,
  ];
}

// JSON's texts are Python's, too, but for a character outside the basic plane, which stays itself.
const text = (value) => JSON.stringify(value);

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return text(value);
  return `{${Object.entries(value).map(([key, held]) => `${text(key)}: ${literal(held)}`).join(", ")}}`;
}
