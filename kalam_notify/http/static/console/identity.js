/** Who acts: the dialog behind the button on top, and the form for those who have to sign in. */

import { actor, claimsOf, mint, session } from "./api.js";
import { complaint, copy, field, fill, h } from "./dom.js";

export class Identity {
  constructor({ onSignOut }) {
    this.onSignOut = onSignOut;
    this.button = h("button.who", { type: "button", "aria-haspopup": "dialog", onclick: () => this.open() });
    session.onActing(() => this.draw());
  }

  draw() {
    const { user, role } = actor();
    fill(this.button, h("span.vh", {}, "Acting as "), h("b", {}, user), h("span", {}, role));
  }

  open() {
    const dialog = h("dialog.identity", { "aria-labelledby": "identity-title" });
    fill(
      dialog,
      h("header", {}, h("h2", { id: "identity-title" }, "Who asks"), h("span.grow"), h("button.quiet", { type: "button", onclick: () => dialog.close() }, "Done")),
      h("p.hint", {}, "Queries and posts of this console are sent with this token. It is kept for this tab only."),
      this.#token(),
      session.settings.mints_tokens ? this.#minting(dialog) : null,
      this.#pasting(dialog),
      session.token && h("div.bar.end", {}, h("button.quiet.danger", { type: "button", onclick: () => this.onSignOut() }, "Sign out")),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      this.button.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  #token() {
    if (!session.acting) return h("p", {}, "No token: as an anonymous client.");
    const claims = claimsOf(session.acting) ?? {};
    const until = claims.exp ? `, until ${new Date(claims.exp * 1000).toLocaleString()}` : "";
    return h(
      "figure.snippet",
      {},
      h("figcaption", {}, `Token of ${actor().user}, role ${actor().role}${until}`, h("button.quiet", { type: "button", "aria-label": "Copy the token", onclick: (event) => void copy(session.acting, event.currentTarget) }, "Copy")),
      h("pre", { tabindex: 0, id: "ready-token" }, session.acting),
    );
  }

  #minting(dialog) {
    const { user: now, role: nowRole } = actor();
    const user = h("input", { value: now === "anonymous" ? "dev" : now, required: true, autocomplete: "off", spellcheck: "false" });
    const role = h("select", {}, ["user", "service", "dba", "system"].map((name) => h("option", { value: name, selected: name === nowRole }, name)));
    const { sub, role: _, iat, exp, iss, aud, ...others } = claimsOf(session.acting) ?? {};
    const claims = h("textarea.json", { rows: 2, spellcheck: "false", value: JSON.stringify(others) });
    const wrong = complaint();
    return h(
      "form",
      {
        "aria-label": "Another identity",
        onsubmit: async (event) => {
          event.preventDefault();
          try {
            await mint(user.value, role.value, JSON.parse(claims.value || "{}"));
            dialog.close();
          } catch (fault) {
            wrong.show(fault.message);
          }
        },
      },
      h("h3", {}, "Be somebody else"),
      h("div.row", {}, field("User", user), field("Role", role)),
      field("Claims", claims, "JSON; policies read them, such as {\"tenant\": \"a\"}"),
      wrong.node,
      h("div.bar", {}, h("button.primary", {}, "Make a token"), h("button", { type: "button", onclick: () => { session.acting = ""; dialog.close(); } }, "Be anonymous")),
    );
  }

  #pasting(dialog) {
    const text = h("textarea.json", { rows: 2, spellcheck: "false", autocomplete: "off" });
    const wrong = complaint();
    return h(
      "form",
      {
        "aria-label": "A token of yours",
        onsubmit: (event) => {
          event.preventDefault();
          const token = text.value.trim();
          if (!claimsOf(token)) return wrong.show("This is no token.");
          session.acting = token;
          dialog.close();
        },
      },
      h("h3", {}, "Use a token of your own"),
      field("Token", text),
      wrong.node,
      h("div.bar", {}, h("button", {}, "Use it")),
    );
  }
}

/** The form for a token; `onToken` tries it, and raises where it is not taken. */
export function signIn(why, onToken) {
  const text = h("textarea.json", { rows: 4, spellcheck: "false", autocomplete: "off", id: "token", required: true });
  const wrong = complaint();
  wrong.show(why);
  return h(
    "form.signin",
    {
      "aria-labelledby": "signin-title",
      onsubmit: async (event) => {
        event.preventDefault();
        wrong.show("");
        try {
          await onToken(text.value.trim());
        } catch (fault) {
          wrong.show(fault.message);
        }
      },
    },
    h("h2", { id: "signin-title" }, "Sign in"),
    h("p", {}, "The console takes a token of role dba or system."),
    field("Token", text, "Kept for this tab only. An operator makes one with:"),
    h("pre.command", { tabindex: 0 }, "kalam-notify token --config config.yaml --user you --role dba --ttl 8h"),
    wrong.node,
    h("div.bar", {}, h("button.primary", {}, "Sign in")),
  );
}
