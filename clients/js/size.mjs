// The client that the daemon serves stays small: at most 8 KiB gzipped.

import { gzipSync } from "node:zlib";
import { served } from "./build.mjs";

const LIMIT = 8 * 1024;
const size = gzipSync(await served(), { level: 9 }).length;
console.log(`client.js: ${size} bytes gzipped, at most ${LIMIT}`);
if (size > LIMIT) process.exit(1);
