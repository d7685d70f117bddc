/** The query as a program: for a page or Node, for Python, and for the command line. */

const quoted = (value) => JSON.stringify(value);

function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${quoted(name)}: ${python(one)}`).join(", ")}}`;
  return quoted(value);
}

function shell(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** { name, text } for each language; `change` is what the post form holds. */
export function snippets({ server, token, sql, params, change }) {
  const values = params.length ? `, ${quoted(params)}` : "";
  const js = `import { connect } from "${server}/client.js";   // or "kalam-notify", from npm

const db = connect("${server}"${token ? `, { token: "${token}" }` : ""});
const live = db.live(${quoted(sql)}${values});
live.subscribe((rows, { status }) => console.log(status, rows));
`;
  const py = `import asyncio
from kalam_notify.client import Client

async def main():
    async with Client("${server}"${token ? `, token="${token}"` : ""}) as client:
        live = await client.subscribe(${quoted(sql)}${params.length ? `, params=${python(params)}` : ""})
        async for event in live:
            print(event)

asyncio.run(main())
`;
  const given = params.map((value) => ` --param ${shell(typeof value === "string" ? value : JSON.stringify(value))}`).join("");
  const curl = `# post a change
curl ${shell(`${server}/v1/changes`)}${token ? ` \\\n  -H ${shell(`Authorization: Bearer ${token}`)}` : ""} \\
  -H 'Content-Type: application/json' \\
  -d ${shell(change)}

# follow the query
kalam-notify tail --url ${shell(server)}${token ? ` --token ${shell(token)}` : ""} ${shell(sql)}${given} --snapshot
`;
  return [
    { name: "JavaScript", text: js },
    { name: "Python", text: py },
    { name: "curl", text: curl },
  ];
}
