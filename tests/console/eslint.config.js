import js from "@eslint/js";

const names = (text) => Object.fromEntries(text.split(" ").map((name) => [name, "readonly"]));
const BROWSER = names(
  "document window location history navigator sessionStorage localStorage addEventListener fetch URLSearchParams AbortController WebSocket TextDecoder atob setTimeout clearTimeout requestAnimationFrame performance getComputedStyle innerWidth NodeFilter console",
);
const NODE = names("process console setTimeout fetch URL Buffer");

const rules = {
  "no-unused-vars": ["error", { ignoreRestSiblings: true }],
  eqeqeq: ["error", "always", { null: "ignore" }],
  "prefer-const": "error",
};

// Paths are those of the repository: `npm run lint` goes there.
export default [
  js.configs.recommended,
  { files: ["kalam_notify/**/*.js"], languageOptions: { globals: BROWSER }, rules },
  { files: ["tests/console/*"], languageOptions: { globals: { ...BROWSER, ...NODE } }, rules },
];
