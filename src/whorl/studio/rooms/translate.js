// A text in another language, as it is written.

import { answerOf } from "../parts/api.js";
import { copied } from "../parts/code.js";
import { button, fill, make } from "../parts/dom.js";
import { Room, exampleButtons, short } from "./room.js";

const MOST_TOKENS = 160; // of a translation
const QUESTION = /^(\S+) > (\S+)\n([\s\S]*)$/; // how the field `translation` asks
const ANSWER = "<|answer|>";
const PAUSE_MS = 500;

export class Translate extends Room {
  path = "/v1/completions";
  pause = PAUSE_MS;
  #right = null; // the held-out translation, until the text is changed

  constructor() {
    super({
      name: "translate", title: "Translate", heading: "What is to be said?", verb: "Translate",
      tasks: ["translation"],
    });
  }

  build() {
    this.ways = waysOf(this.task.examples);
    const changed = { on: { change: () => this.#direction() } };
    this.from = make("select", { id: "translate-from", ...changed });
    this.to = make("select", { id: "translate-to", ...changed });
    this.area = make("textarea", {
      id: "translate-text", rows: 4, placeholder: "Write a sentence", autocomplete: "off", aria: { label: "Text" },
      on: { input: () => { this.#right = null; this.changed(); } },
    });
    const languages = [...new Set([...this.ways].flatMap((way) => way.split(">")))];
    fill(this.from, languages.map((code) => [code, nameOf(code)]));
    fill(this.to, languages.map((code) => [code, nameOf(code)]));
    const first = [...this.ways][0];
    if (first) [this.from.value, this.to.value] = first.split(">");
    const examples = exampleButtons(this.task.examples, ({ asked }) => short(asked[0].text.replace(QUESTION, "$1 → $2: $3"), 30), (example) => this.#take(example));
    this.input.replaceChildren(
      ...[examples].filter(Boolean),
      make("div", { class: "row" }, make("label", { for: "translate-from" }, "From"), this.from,
        button("⇄", () => this.#swap(), { class: "quiet", aria: { label: "Turn the direction round" } }),
        make("label", { for: "translate-to" }, "to"), this.to),
      this.area,
    );
  }

  ready() {
    return Boolean(this.area?.value.trim() && this.from.value && this.from.value !== this.to.value);
  }

  async body() {
    const text = `${this.from.value} > ${this.to.value}\n${this.area.value.trim()}`;
    const codec = this.task.asked[0];
    return {
      model: this.model.id, prompt: [{ codec, text }, { codec: "special", text: ANSWER }],
      max_tokens: Math.min(MOST_TOKENS, this.model.max_tokens ?? MOST_TOKENS), temperature: 0, seed: 0,
    };
  }

  async ask(signal) {
    const out = make("p", { class: "translation", lang: this.to.value });
    const right = this.#right;
    const done = make("div", { class: "row" });
    this.result.replaceChildren(make("div", { class: "choice wide" }, make("h2", {}, nameOf(this.to.value)), out, done));
    let text = "";
    for await (const piece of answerOf(this.path, await this.body(), signal)) {
      text += piece.text;
      out.textContent = text.trim();
    }
    const told = make("span", { class: "note", role: "status" });
    done.append(button("Copy", async () => { told.textContent = await copied(text.trim()); }), told);
    if (right !== null) done.after(make("p", { class: "note" }, `In the data: ${right.trim()}`));
  }

  #take(example) {
    const [, from, to, text] = example.asked[0].text.match(QUESTION) ?? [];
    if (!text) return;
    [this.from.value, this.to.value, this.area.value] = [from, to, text];
    this.#right = example.answer;
    this.changed({ now: true });
  }

  // To what the other language can be translated into, if not into this one.
  #direction() {
    this.#right = null;
    if (!this.ways.has(`${this.from.value}>${this.to.value}`)) {
      const way = [...this.ways].find((each) => each.startsWith(`${this.from.value}>`));
      if (way) this.to.value = way.split(">")[1];
    }
    this.changed();
  }

  // What was answered becomes what is asked.
  #swap() {
    const answered = this.result.querySelector(".translation")?.textContent;
    [this.from.value, this.to.value] = [this.to.value, this.from.value];
    if (answered) this.area.value = answered;
    this.#right = null;
    this.changed({ now: true });
  }
}

// Directions of the held-out questions, and each turned round: a model learns both.
function waysOf(examples) {
  const ways = new Set();
  for (const { asked } of examples) {
    const [, from, to] = asked[0].text.match(QUESTION) ?? [];
    if (from) ways.add(`${from}>${to}`).add(`${to}>${from}`);
  }
  return ways;
}

// What this browser calls a language.
function nameOf(code) {
  try {
    return new Intl.DisplayNames("en", { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}
