// A question to a knowledge graph: an entity, a relation, and what stands at its other end.

import { button, fill, make, showError } from "../parts/dom.js";
import { Picker } from "../parts/picker.js";
import { ranked, valuesOf } from "../parts/values.js";
import { Room, exampleButtons, short } from "./room.js";

const MOST = 10; // answers
const FACTS = 48; // of a document, where the model does not say
const INVERSE = "^"; // before a relation that is read from its tail

export class Graph extends Room {
  path = "/v1/rank";
  facts = []; // [relation, entity] known of the head

  constructor() {
    super({
      name: "graph", title: "Graph", heading: "What stands at the other end?", verb: "Ask",
      tasks: ["link-prediction"],
    });
  }

  build() {
    this.facts = [];
    this.entity = this.task.answer;
    this.relation = this.task.asked.find((codec) => codec !== this.entity);
    this.head = new Picker({ label: "Entity", placeholder: "Type a part of its name", keeps: true, pick: () => this.#headChanged() });
    this.head.box.addEventListener("input", () => this.#headChanged());
    this.link = make("select", { aria: { label: "Relation" }, on: { change: () => this.changed({ now: true }) } });
    this.known = make("ul", { class: "facts" });
    const examples = exampleButtons(this.task.examples, exampleName, (example) => this.#take(example));
    this.input.replaceChildren(
      ...[examples].filter(Boolean),
      make("div", { class: "query" }, this.head.node,
        make("div", {}, make("span", { class: "label" }, "Relation"), this.link),
        make("div", { class: "end", aria: { hidden: "true" } }, "?")),
      this.#knownBox(),
    );
    const { model } = this;
    Promise.all([valuesOf(model, this.entity), valuesOf(model, this.relation)]).then(([entities, relations]) => {
      if (this.model !== model) return;
      this.head.values = entities;
      this.other.values = entities;
      const sorted = [...relations].sort((a, b) => Number(a.startsWith(INVERSE)) - Number(b.startsWith(INVERSE)) || a.localeCompare(b));
      fill(this.link, sorted.map((name) => [name, relationName(name)]));
      fill(this.factLink, sorted.map((name) => [name, relationName(name)]));
      if (this.task.examples.length) this.#take(this.task.examples[0]);
    }).catch(showError);
    this.#draw();
  }

  // What is known of the entity, which the model reads before the question.
  #knownBox() {
    this.factLink = make("select", { aria: { label: "Relation of the fact" } });
    this.other = new Picker({ label: "Entity of the fact", pick: (value) => {
      this.facts.push([this.factLink.value, value]);
      this.#draw();
      this.changed({ now: true });
    } });
    this.sum = make("summary", {});
    return make("details", { class: "known" }, this.sum,
      make("p", { class: "note" }, "The model also remembers what it was trained on. Facts that you add are read before the question; those of the same relation are left out of the answers."),
      this.known, make("div", { class: "query" }, make("div", {}, make("span", { class: "label" }, "Relation"), this.factLink), this.other.node));
  }

  ready() {
    return Boolean(this.head?.value && this.link.value);
  }

  async body() {
    const part = (codec, text) => ({ codec, text });
    const most = (Number(this.task.options.facts) || FACTS) - 1;
    // those of the relation that is asked for last, as the model was taught
    const facts = [...this.facts].sort((a, b) => Number(a[0] === this.link.value) - Number(b[0] === this.link.value)).slice(-most);
    const prompt = [part(this.entity, this.head.value),
      ...facts.flatMap(([relation, entity]) => [part(this.relation, relation), part(this.entity, entity)]),
      part(this.relation, this.link.value)];
    const exclude = [...new Set(this.facts.filter(([relation]) => relation === this.link.value).map(([, entity]) => entity))];
    return { model: this.model.id, prompt, codec: this.entity, exclude, top: MOST };
  }

  show({ candidates, num_candidates: all }) {
    this.result.replaceChildren(
      make("h2", {}, make("b", {}, this.head.value), ` ${relationName(this.link.value)} …`),
      ranked(candidates, { use: (value) => this.#walk(value), verb: "Ask about it" }),
      make("p", { class: "note" }, `Of ${all.toLocaleString("en")} entities. Press one to ask about it next.`),
    );
  }

  #take(example) {
    const parts = example.asked.map(({ text }) => text);
    this.head.value = parts[0];
    this.link.value = parts.at(-1);
    this.facts = [];
    for (let n = 1; n + 1 < parts.length - 1; n += 2) this.facts.push([parts[n], parts[n + 1]]);
    this.#draw();
    this.changed({ now: true });
  }

  #walk(value) {
    this.head.value = value;
    this.#headChanged();
  }

  // Facts are of one entity.
  #headChanged() {
    this.facts = [];
    this.#draw();
    this.changed({ now: true });
  }

  #draw() {
    this.sum.textContent = this.facts.length ? `What is known of it: ${this.facts.length} ${this.facts.length === 1 ? "fact" : "facts"}` : "What is known of it: nothing is added";
    this.known.replaceChildren(...this.facts.map(([relation, entity], place) => make("li", {}, `${relationName(relation)} ${entity}`, button("×", () => {
      this.facts.splice(place, 1);
      this.#draw();
      this.changed({ now: true });
    }, { class: "quiet", aria: { label: `Remove ${relation} ${entity}` } }))));
  }
}

const words = (name) => name.replaceAll("_", " ");
const relationName = (name) => (name.startsWith(INVERSE) ? `← ${words(name.slice(1))} ←` : words(name));
const exampleName = (example) => `${short(example.asked[0].text, 18)} · ${short(relationName(example.asked.at(-1).text), 18)}`;
