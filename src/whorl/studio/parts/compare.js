// Two answers side by side: two models, or one with different settings; then which is better.

import { answerOf } from "./api.js";
import { AnswerView } from "./answer.js";
import { formOf } from "./card.js";
import { at, announce, clearError, fill, make, showError } from "./dom.js";
import { sendFeedback } from "./feedback.js";
import { chatBody, completionBody, readSettings } from "./settings.js";
import { Turn, grow } from "./turns.js";

const FIELDS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.05 }],
  ["top_p", "Top p", { min: 0.01, max: 1, step: 0.01 }],
  ["seed", "Seed", { min: 0, step: 1, placeholder: "random" }],
];

class Side {
  constructor(name, models) {
    this.models = models;
    this.choice = make("select", { aria: { label: `The ${name} model` } });
    fill(this.choice, models.map((model) => [model.id, label(model)]));
    this.inputs = Object.fromEntries(FIELDS.map(([field, , options]) => [
      field, make("input", { type: "number", required: field !== "seed", ...options }),
    ]));
    this.system = make("input", { type: "text", placeholder: "system prompt, or none", aria: { label: `System prompt of the ${name}` } });
    this.out = make("div", { class: "log" });
    this.node = make(
      "section",
      { class: "side", aria: { label: `The ${name}` } },
      this.choice,
      make("div", { class: "grid" }, ...FIELDS.map(([field, text]) => make("label", {}, text, this.inputs[field]))),
      this.system,
      this.out,
    );
  }

  get model() {
    return this.models.find((model) => model.id === this.choice.value) ?? this.models[0];
  }

  start(sampling) {
    for (const [field, input] of Object.entries(this.inputs)) input.value = sampling[field] ?? "";
  }

  settings(shared) {
    const own = Object.entries(this.inputs).map(([field, input]) => [
      field, input.value === "" ? undefined : Number(input.value),
    ]);
    return { ...shared, ...Object.fromEntries(own), system: this.system.value.trim() };
  }
}

const label = (model) => [model.id, formOf(model)].filter(Boolean).join(" · ");

export class Compare {
  constructor() {
    this.turn = new Turn("compare-send", "compare-stop");
    at("compare-form").addEventListener("submit", (event) => { event.preventDefault(); this.go(); });
    at("better-left").addEventListener("click", () => this.prefer(0));
    at("better-right").addEventListener("click", () => this.prefer(1));
    at("better-none").addEventListener("click", () => this.prefer(null));
  }

  use(models, canChat) {
    this.sides = ["first", "second"].map((name) => new Side(name, models));
    const [left, right] = this.sides;
    const sampling = models[0].sampling ?? { temperature: 0.7, top_p: 0.95, seed: 0 };
    left.start(models.length > 1 ? sampling : { ...sampling, temperature: 0 });
    right.start(sampling);
    if (models.length > 1) right.choice.value = models[1].id;
    at("sides").replaceChildren(left.node, right.node);
    if (!canChat) at("compare-as").value = "complete";
    this.turn.allow(true);
  }

  async go() {
    const text = at("compare-input").value.trim();
    if (!text || this.turn.running || !at("compare-form").reportValidity()) return;
    clearError();
    at("verdict").hidden = true;
    try {
      const shared = { ...readSettings(), tools: null };
      const asked = this.sides.map((side) => this.#ask(side, side.settings(shared), text));
      this.views = asked.map(([view]) => view);
      const ended = await Promise.all(asked.map(([, done]) => done));
      at("verdict").hidden = !ended.every(Boolean);
    } catch (error) {
      showError(error);
    }
  }

  // [its view, whether it came to its end]
  #ask(side, settings, text) {
    const { model } = side;
    const chats = at("compare-as").value === "chat";
    const body = chats
      ? chatBody(model, settings, [{ role: "user", content: text }]) : completionBody(model, settings, text);
    const asked = chats ? { messages: body.messages } : { prompt: text };
    const view = new AnswerView({
      who: label(model), model, asked, form: chats ? "markdown" : "plain",
      echo: chats ? "" : text, schema: settings.schema,
    });
    side.out.replaceChildren(view.node);
    const path = chats ? "/v1/chat/completions" : "/v1/completions";
    let ended = false;
    const done = this.turn.run(async (signal) => { ended = await grow(view, answerOf(path, body, signal), signal); });
    return [view, done.then(() => ended)];
  }

  // The better of the two is kept with the other: pairs are what preferences are learned from.
  async prefer(place) {
    const opinions = place === null
      ? this.views.map((view) => [view, { rating: "down" }])
      : [[this.views[place], { rating: "up", over: this.views[1 - place].id }]];
    try {
      for (const [view, opinion] of opinions) {
        await sendFeedback({ id: view.id, model: view.model.id, ...view.asked, answer: view.text, ...opinion });
      }
      at("verdict").hidden = true;
      announce("Kept, thank you.");
    } catch (error) {
      showError(error.status === 404 ? "This server keeps no opinions." : error);
    }
  }
}
