// One answer on the page: it grows as pieces come, then says how it went and takes an opinion.

import { announce, button, make } from "./dom.js";
import { copied } from "./code.js";
import { feedbackBar } from "./feedback.js";
import { markdown } from "./markdown.js";
import { shownParts } from "./outputs.js";
import { faultsOf, parsed } from "./schema.js";
import { nextSeed, settingOf } from "./settings.js";
import { tokenView } from "./tokens.js";
import { addCalls, callCard } from "./tools.js";

const EVERY_MS = 40; // between two drawings of an answer that grows
const REASONS = {
  length: "Ended at the limit of tokens",
  stop: "The model ended here",
  tool_calls: "The model waits for its tools",
  content_filter: "The server held the rest back",
};
const NEAR_PX = 120; // from the end of the page: then it is followed

export class AnswerView {
  text = "";
  reasoning = "";
  calls = [];
  tokens = [];
  id = "";
  finish = null;

  // form: "markdown" or "plain"; echo: a text shown before the answer, quietly
  constructor({ who, model, asked, form = "markdown", echo = "", schema = null, again = null, choices = null }) {
    Object.assign(this, { who, model, asked, schema, again, choices });
    this.form = schema ? "json" : form;
    this.body = make("div", { class: `body ${this.form}` });
    this.echo = echo;
    this.caret = make("span", { class: "caret", aria: { hidden: "true" } });
    this.figures = make("p", { class: "figures" });
    this.foot = make("footer", {}, this.figures);
    this.node = make(
      "article",
      { class: "message answer", aria: { busy: "true", label: `Answer of ${who}` } },
      make("p", { class: "who" }, who), this.body, this.foot,
    );
    this.beganAt = performance.now();
    this.#draw();
  }

  add(piece) {
    this.id ||= piece.id;
    this.text += piece.text;
    this.reasoning += piece.reasoning;
    this.tokens.push(...piece.tokens);
    addCalls(this.calls, piece.toolCalls);
    this.finish = piece.finish ?? this.finish;
    this.parts = piece.parts ?? this.parts;
    this.partsError = piece.partsError ?? this.partsError;
    const now = performance.now();
    if (piece.text || piece.reasoning || piece.toolCalls.length) {
      this.firstAt ??= now;
      this.lastAt = now;
      this.count = (this.count ?? 0) + 1; // of pieces, until the server tells the true one
    }
    if (piece.usage) this.count = piece.usage.completion_tokens;
    this.#drawSoon();
  }

  end() {
    const ofText = REASONS[this.finish] ?? `Ended: ${this.finish}`;
    this.#close(this.parts ? "" : ofText); // a label is whole, however many tokens were allowed
    announce(`The answer is complete, ${this.count ?? 0} tokens. ${this.text.slice(0, 2000)}`);
  }

  stopped() {
    this.#close("Stopped");
    announce("Stopped.");
  }

  fail(error) {
    this.#close("");
    this.error = error;
    const setting = settingOf(error);
    const text = setting ? `The server did not take ${setting.name}. ${error.message}` : sentence(error.message);
    const told = make("div", { class: "failed", role: "alert" }, make("p", {}, text));
    if (this.again) {
      const row = make("div", { class: "row" });
      if (setting) {
        const retry = () => { setting.turnOff(); this.again(this); };
        row.append(button(`Ask again without ${setting.name}`, retry));
      } else row.append(button("Try again", () => this.again(this)));
      told.append(row);
    }
    this.node.insertBefore(told, this.foot);
    follow();
  }

  #close(reason) {
    const following = isNearEnd();
    clearTimeout(this.timer);
    this.timer = null;
    this.closed = true;
    this.node.setAttribute("aria-busy", "false");
    this.#draw();
    this.#drawFigures(reason);
    this.caret.remove();
    if (this.schema && this.finish && !this.calls.length) this.#judge();
    if (this.text || this.calls.length || this.id) this.#addTools();
    if (following) follow();
  }

  #addTools() {
    const tools = make("div", { class: "actions" });
    if (this.tokens.length) tools.append(this.#tokensButton());
    if (this.text) {
      const copy = button("Copy", async () => { announce(await copied(this.text)); copy.textContent = "Copied"; });
      tools.append(copy);
    }
    if (this.again && !this.calls.length) {
      tools.append(button("Again", () => { nextSeed(); this.again(this); }, { title: "With the next seed" }));
    }
    this.foot.append(tools);
    if (this.id) this.foot.append(...feedbackBar(this));
  }

  #drawSoon() {
    this.timer ??= setTimeout(() => { this.timer = null; this.#draw(); this.#drawFigures(""); }, EVERY_MS);
  }

  #draw() {
    const following = isNearEnd();
    const blocks = [];
    if (this.reasoning) {
      this.thinking ??= make("details", { class: "thinking" }, make("summary", {}, "Thinking"), make("div"));
      this.thinking.lastChild.textContent = this.reasoning;
      blocks.push(this.thinking);
    }
    if (this.asTokens) blocks.push(tokenView(this.tokens));
    else if (this.form === "markdown") blocks.push(...markdown(this.text));
    else if (this.form === "json") blocks.push(jsonView(this.text));
    else blocks.push(plainView(this.echo, this.text));
    blocks.push(...this.calls.filter(Boolean).map(callCard));
    if (this.parts !== undefined || this.partsError) {
      blocks.splice(0, blocks.length, ...shownParts(this));
    }
    const isEmpty = this.closed && this.finish && !blocks.length;
    if (isEmpty) blocks.push(make("p", { class: "note" }, "The answer is empty."));
    this.body.replaceChildren(...blocks);
    if (!this.closed) place(this.body, this.caret);
    if (following) follow();
  }

  #drawFigures(reason) {
    const figures = [];
    if (this.firstAt) figures.push(`first token after ${Math.round(this.firstAt - this.beganAt)} ms`);
    const elapsed_s = (this.lastAt - this.firstAt) / 1000;
    if (this.count > 1 && elapsed_s > 0) figures.push(`${((this.count - 1) / elapsed_s).toFixed(1)} tokens/s`);
    if (this.count) figures.push(`${this.count} ${this.count === 1 ? "token" : "tokens"}`);
    this.figures.textContent = [reason, ...figures].filter(Boolean).join(" · ");
  }

  #tokensButton() {
    const toggle = button("Tokens", () => {
      this.asTokens = !this.asTokens;
      toggle.setAttribute("aria-pressed", String(this.asTokens));
      this.#draw();
    }, { aria: { pressed: "true" } });
    this.asTokens = true;
    this.#draw();
    return toggle;
  }

  #judge() {
    let faults;
    try {
      faults = faultsOf(parsed(this.text, "The answer"), this.schema);
    } catch (error) {
      faults = [error.message];
    }
    const good = faults.length === 0;
    this.node.insertBefore(
      good
        ? make("p", { class: "judged good" }, "Valid JSON that fits the schema")
        : make("ul", { class: "judged bad" }, ...faults.map((fault) => make("li", {}, sentence(fault)))),
      this.foot,
    );
  }
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function plainView(echo, text) {
  return make("pre", { class: "plain", tabIndex: 0, aria: { label: "Prompt and answer" } },
    echo ? make("span", { class: "echo" }, echo) : null, make("span", { class: "said" }, text));
}

const JSON_WORDS = /("(?:[^"\\]|\\.)*")(\s*:)?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\b(?:true|false|null)\b/g;

// JSON laid out and tinted; a beginning of JSON as it is.
function jsonView(text) {
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch { /* not complete */ }
  const code = make("code");
  let end = 0;
  for (const match of shown.matchAll(JSON_WORDS)) {
    code.append(shown.slice(end, match.index));
    const kind = match[1] === undefined ? "value" : match[2] === undefined ? "string" : "key";
    code.append(make("span", { class: kind }, match[1] ?? match[0]), match[2] ?? "");
    end = match.index + match[0].length;
  }
  code.append(shown.slice(end));
  return make("pre", { class: "json" }, code);
}

// The caret stands where the text ends: inside the last block of text.
function place(body, caret) {
  let node = body;
  while (node.lastElementChild && /^(P|UL|OL|LI|PRE|CODE|BLOCKQUOTE|H\d|SPAN)$/.test(node.lastElementChild.tagName)
    && node.lastChild === node.lastElementChild) node = node.lastElementChild;
  node.append(caret);
}

function isNearEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.clientHeight - page.scrollTop < NEAR_PX;
}

function follow() {
  const page = document.documentElement;
  page.scrollTop = page.scrollHeight;
}
