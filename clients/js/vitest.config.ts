import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const react18 = (name: string) => fileURLToPath(new URL(`tests/react-18/node_modules/${name}`, import.meta.url));

// All tests with the package's own React, and those of React once more with the one before.
export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: "client", include: ["tests/**/*.test.ts"] } },
      {
        extends: true,
        test: { name: "react 18", include: ["tests/react.test.ts"], env: { REACT: "18" } },
        resolve: { alias: { "react-dom": react18("react-dom"), react: react18("react") } },
      },
    ],
  },
});
