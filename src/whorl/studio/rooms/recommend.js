// What comes next, of a list of things: pick some, and the recommendations change.

import { button, make } from "../parts/dom.js";
import { Picker } from "../parts/picker.js";
import { ranked, valuesOf } from "../parts/values.js";
import { Room, exampleButtons } from "./room.js";

const MOST = 12; // recommended at once
const WINDOW = 50; // things that the model was taught to look back on, where it does not say

export class Recommend extends Room {
  path = "/v1/rank";
  picked = []; // in their order
  #before = null; // the order of the last answer

  constructor() {
    super({
      name: "recommend", title: "Recommend", heading: "What was picked so far?", verb: "Recommend",
      tasks: ["recommendation"],
    });
  }

  build() {
    this.picked = [];
    this.#before = null;
    this.picker = new Picker({
      label: "Add one", placeholder: "Type a part of its name", pick: (value) => this.#add(value),
    });
    this.chips = make("ol", { class: "chips", aria: { label: "What you had, the last one last" } });
    this.told = make("p", { class: "note" });
    const examples = exampleButtons(this.task.examples, (_, place) => `person ${place + 1}`, (example) => {
      this.picked = example.asked.map(({ text }) => text);
      this.#changed();
    });
    this.empty?.remove();
    this.empty = button("Begin anew", () => { this.picked = []; this.#changed(); }, { class: "quiet" });
    this.input.replaceChildren(...[examples].filter(Boolean), this.picker.node, this.chips, this.told);
    this.input.nextElementSibling.firstElementChild.after(this.empty); // beside "As code"
    this.#draw();
    const { model } = this;
    valuesOf(model, this.task.answer).then((values) => {
      if (this.model === model) this.picker.values = values;
    }, () => { this.told.textContent = "The list of names cannot be read: type whole names."; });
    this.changed({ now: true });
  }

  ready() {
    return Boolean(this.model.start_ids?.length || this.picked.length);
  }

  async body() {
    const window = Number(this.task.options.window) || WINDOW;
    const codec = this.task.answer;
    const late = this.picked.slice(-(window - 1)).map((text) => ({ codec, text }));
    // to somebody who had nothing the model says what most people begin with
    const prompt = late.length ? late : this.model.start_ids;
    return { model: this.model.id, prompt, codec, exclude: this.picked, top: MOST };
  }

  show({ candidates, num_candidates: all }) {
    const before = this.#before?.filter((value) => !this.picked.includes(value)) ?? null; // what was picked is gone
    this.result.replaceChildren(
      make("h2", {}, this.picked.length ? "What may come next" : "What most begin with"),
      ranked(candidates, { use: (value) => this.#add(value), verb: "Add it to what I had", before }),
      make("p", { class: "note" }, `Of ${all.toLocaleString("en")} that are not in the list above. Press one to add it.`),
    );
    this.#before = candidates.map(({ candidate }) => candidate);
  }

  #add(value) {
    if (this.picked.includes(value)) return;
    this.picked.push(value);
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.changed({ now: true });
  }

  #draw() {
    this.chips.replaceChildren(...this.picked.map((value) => make("li", {}, value, button("×", () => {
      this.picked = this.picked.filter((each) => each !== value);
      this.#changed();
      this.picker.box.focus();
    }, { class: "quiet", aria: { label: `Remove ${value}` } }))));
    this.empty.hidden = !this.picked.length;
    this.told.textContent = this.picked.length ? "" : "Nothing yet: what is below goes by the model alone.";
  }
}
