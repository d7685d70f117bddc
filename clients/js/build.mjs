// Builds dist/ for npm, and the one file that the daemon serves at /client.js.
//
//   node build.mjs            write both
//   node build.mjs --stdout   print the file that the daemon serves

import { build } from "esbuild";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { version } = JSON.parse(await readFile(here("package.json"), "utf8"));
const common = {
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  absWorkingDir: here("."),
};

export async function served() {
  const { outputFiles } = await build({
    ...common,
    entryPoints: ["src/index.ts"],
    write: false,
    // Node's own matter, where this file is used there: else a stub for browsers would stand for it.
    external: ["ws"],
    banner: { js: `/* kalam-notify ${version}, built from clients/js; Apache-2.0 */` },
  });
  return outputFiles[0].text;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = await served();
  if (process.argv.includes("--stdout")) {
    process.stdout.write(text);
  } else {
    const { copyFile, writeFile, mkdir } = await import("node:fs/promises");
    const target = here("../../kalam_notify/http/static/");
    await mkdir(target, { recursive: true });
    await writeFile(`${target}client.js`, text);
    const entryPoints = ["src/index.ts", "src/react.ts", "src/tanstack.ts"];
    await build({ ...common, entryPoints, outdir: "dist", packages: "external" });
    await copyFile(here("../../LICENSE"), here("dist/LICENSE"));
  }
}
