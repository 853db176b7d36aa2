// Of which class is an image? It is asked whenever the image changes, and answered with bars.

import { make } from "../parts/dom.js";
import { inputOf } from "../parts/inputs.js";
import { classBars } from "../parts/values.js";
import { Room } from "./room.js";

const MOST = 20; // classes that are shown

export class Classify extends Room {
  path = "/v1/classify";

  constructor() {
    super({
      name: "classify", title: "Classify", heading: "What is to be seen?", verb: "Classify",
      tasks: ["image-classification"],
    });
  }

  build() {
    const codec = this.model.codecs.find(({ name }) => name === this.task.asked[0]);
    this.editor = inputOf({ ...codec, ...this.model.inputs?.[codec.name] }, () => this.changed());
    this.input.replaceChildren(this.editor.node);
  }

  ready() {
    return this.editor.ready();
  }

  async body() {
    return { model: this.model.id, input: await this.editor.part(), codec: this.task.answer, top: MOST };
  }

  show({ data: [found], usage }) {
    const left = found.num_classes - found.classes.length;
    this.result.replaceChildren(make("div", { class: "choice" },
      make("p", { class: "chosen" }, found.label),
      classBars(found.classes, found.label),
      make("p", { class: "note" }, left > 0 ? `The likeliest of ${found.num_classes} classes.` : `${usage.prompt_tokens} tokens were read.`)));
  }
}
