// Calls of one client library, each tried by itself; a line of JSON tells what came of it. As calls.py.
import { readFileSync } from "node:fs";

export function version(name) {
  const manifest = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(manifest)).version;
}

export async function run(library, calls) {
  for (const [call, work] of Object.entries(calls)) {
    let problem = "";
    try {
      await work(process.argv[2]);
    } catch (error) {
      problem = error?.stack ?? String(error);
    }
    console.log(JSON.stringify({ library, call, problem }));
  }
}
