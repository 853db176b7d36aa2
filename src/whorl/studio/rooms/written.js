// Rooms whose answer is written: what is shown or said is read, and the words come one by one.

import { answerOf } from "../parts/api.js";
import { copied } from "../parts/code.js";
import { button, make } from "../parts/dom.js";
import { inputOf } from "../parts/inputs.js";
import { Room } from "./room.js";

const MOST_TOKENS = 256;
const ANSWER = "<|answer|>";

export class Written extends Room {
  path = "/v1/completions";

  build() {
    const codec = this.model.codecs.find(({ name }) => name === this.task.asked[0]);
    this.editor = inputOf({ ...codec, ...this.model.inputs?.[codec.name] }, () => this.changed());
    this.input.replaceChildren(this.editor.node);
  }

  ready() {
    return Boolean(this.editor?.ready());
  }

  async body() {
    return {
      model: this.model.id, prompt: [await this.editor.part(), { codec: "special", text: ANSWER }],
      max_tokens: Math.min(MOST_TOKENS, this.model.max_tokens ?? MOST_TOKENS), temperature: 0, seed: 0,
    };
  }

  async ask(signal) {
    const out = make("p", { class: "translation" });
    const row = make("div", { class: "row" });
    this.result.replaceChildren(make("div", { class: "choice wide" }, make("h2", {}, this.saying), out, row));
    let text = "";
    for await (const piece of answerOf(this.path, await this.body(), signal)) {
      text += piece.text;
      out.textContent = text;
    }
    if (!text.trim()) out.textContent = "Nothing.";
    const told = make("span", { class: "note", role: "status" });
    row.append(button("Copy", async () => { told.textContent = await copied(text); }), told);
  }
}
