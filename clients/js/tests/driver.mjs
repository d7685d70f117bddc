// The JavaScript client under test in a process of its own, for tests/client/test_through_cuts.py.
//
//   node driver.mjs '{"module": ..., "url": ..., "token": ..., "queries": [...]}'
//
// Prints a line of JSON each time all queries have seen the next marker: [number, rows of each query].

import WebSocket from "ws";
import { watch } from "./watch.mjs";

const { module, ...settings } = JSON.parse(process.argv[2]);
const { connect } = await import(module);
watch(connect, { ...settings, WebSocket }, (report) => console.log(JSON.stringify(report)));
