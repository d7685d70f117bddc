// Watches queries and reports what they show, each time all of them have seen the next marker.
//
// A marker is the row "marker" that every query selects; as each query hears of its rows in order, one
// that has seen a marker has seen everything before it. Runs in Node and in browsers.

const QUICK = { base: 20, cap: 200, pause: 20 };

export function watch(connect, { url, token, queries, WebSocket, fallback }, report) {
  const db = connect(url, { token, WebSocket, fallback, backoff: QUICK });
  const lives = queries.map(([sql, params]) => db.live(sql, params, { batchSize: 50 }));
  let expected = 1;
  const look = () => {
    const failed = lives.find((live) => live.error);
    if (failed) throw failed.error;
    const seen = lives.map((live) => live.rows.find((row) => row.id === "marker")?.number);
    if (!seen.every((number) => number === expected)) return;
    report([expected++, lives.map((live) => live.rows)]);
  };
  for (const live of lives) live.subscribe(look);
}
