// Of which class is a text? Asked as one types.

import { make } from "../parts/dom.js";
import { classBars } from "../parts/values.js";
import { Room, exampleButtons, short } from "./room.js";

const MOST = 12; // classes that are shown
const PAUSE_MS = 350;

export class Labels extends Room {
  path = "/v1/classify";
  pause = PAUSE_MS;
  #right = null; // the class of a held-out text, until it is changed

  constructor() {
    super({
      name: "labels", title: "Label", heading: "What kind of text is it?", verb: "Label",
      tasks: ["text-classification"],
    });
  }

  build() {
    this.area = make("textarea", {
      id: "labels-text", rows: 5, placeholder: "Write or paste a text", autocomplete: "off", aria: { label: "Text" },
      on: { input: () => { this.#right = null; this.changed(); } },
    });
    const examples = exampleButtons(this.task.examples, ({ asked }) => short(asked[0].text.trim(), 24), (example) => {
      this.area.value = example.asked[0].text;
      this.#right = example.answer;
      this.changed({ now: true });
    });
    this.input.replaceChildren(...[examples].filter(Boolean), this.area);
  }

  ready() {
    return Boolean(this.area?.value.trim());
  }

  async body() {
    const input = { codec: this.task.asked[0], text: this.area.value };
    return { model: this.model.id, input, codec: this.task.answer, top: MOST };
  }

  show({ data: [found] }) {
    const left = found.num_classes - found.classes.length;
    this.result.replaceChildren(make("div", { class: "choice" },
      make("p", { class: "chosen" }, found.label),
      classBars(found.classes, found.label),
      left > 0 ? make("p", { class: "note" }, `The likeliest of ${found.num_classes} classes.`) : null,
      this.#right === null ? null : make("p", { class: "note" }, this.#right === found.label ? "That is what it is." : `In the data it is ${this.#right}.`)));
  }
}
