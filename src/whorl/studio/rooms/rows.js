// A row of a table: edit a cell, and the prediction follows, with what moved it. For that the same
// request asks for the row again and again, each time with one cell missing.

import { getJson } from "../parts/api.js";
import { button, make } from "../parts/dom.js";
import { percent } from "../parts/tokens.js";
import { classBars } from "../parts/values.js";
import { Room, exampleButtons } from "./room.js";

const MOST_CLASSES = 8;
const MOST_INPUTS = 64; // of one request
const MOST_EFFECTS = 10;
const LEAST = 0.0005; // of a probability: less is told as nothing

export class Rows extends Room {
  path = "/v1/classify";
  cells = {}; // column -> its value; a column without one is missing
  #right = null; // the class of a held-out row, while nothing of it was changed

  constructor() {
    super({
      name: "rows", title: "Row", heading: "What is in the row?", verb: "Predict",
      tasks: ["tabular-classification"],
    });
  }

  build() {
    this.columns = this.model.inputs?.[this.task.asked[0]]?.columns ?? [];
    this.editors = new Map(this.columns.map((column) => [column.name, this.#editor(column)]));
    const examples = exampleButtons(this.task.examples, (_, place) => `row ${place + 1}`, (example) => this.#take(example));
    this.input.replaceChildren(
      ...[examples].filter(Boolean),
      make("div", { class: "cells" }, ...[...this.editors.values()].map(({ node }) => node)),
      make("div", { class: "row" }, make("p", { class: "note" }, "An empty cell is missing."), make("span", { class: "spring" }),
        button("Empty all", () => this.#fill({}), { class: "quiet" })),
    );
    if (this.task.examples.length) this.#take(this.task.examples[0]);
    else this.#fill(Object.fromEntries(this.columns.map(({ name, usual }) => [name, usual])));
  }

  // A number to type, or a word to choose; below it what the cell did.
  #editor(column) {
    const { name, kind, values, range } = column;
    const changed = { input: () => this.#edited(), change: () => this.#edited() };
    const id = `cell-${[...name].map((char) => char.codePointAt(0)).join("-")}`;
    let input;
    if (kind === "numbers") {
      const told = range ? `${range[0]} to ${range[1]}` : "";
      input = make("input", { id, type: "number", step: "any", title: told, placeholder: "missing", on: changed });
    } else if (values) {
      const options = values.map((word) => make("option", { value: word }, word));
      input = make("select", { id, on: changed }, make("option", { value: "" }, "missing"), ...options);
    } else input = make("input", { id, type: "text", placeholder: "missing", on: changed });
    const effect = make("span", { class: "effect" });
    return { column, input, effect, node: make("div", { class: "cell" }, make("label", { for: id }, name), input, effect) };
  }

  #take(example) {
    this.#fill(JSON.parse(example.asked[0].text));
    this.#right = example.answer;
  }

  #fill(row) {
    for (const { column, input } of this.editors.values()) {
      const value = row[column.name];
      input.value = value === null || value === undefined ? "" : value;
    }
    this.#edited({ now: true });
  }

  #edited(how) {
    this.#right = null;
    this.cells = {};
    for (const { column, input } of this.editors.values()) {
      if (input.value !== "") this.cells[column.name] = column.kind === "numbers" ? Number(input.value) : input.value;
    }
    this.changed(how);
  }

  ready() {
    return this.columns?.length > 0;
  }

  // The row as it is, then without each of its cells.
  #inputs() {
    const part = (row) => ({ codec: this.task.asked[0], text: JSON.stringify(row) });
    this.asked = Object.keys(this.cells);
    return [part(this.cells), ...this.asked.map((name) => part({ ...this.cells, [name]: null }))];
  }

  async body() {
    const input = this.#inputs().slice(0, MOST_INPUTS);
    return { model: this.model.id, input, codec: this.task.answer };
  }

  // In as few requests as there have to be: a table may have more columns than one request inputs.
  async ask(signal) {
    const inputs = this.#inputs();
    const { asked } = this;
    const data = [];
    for (let first = 0; first < inputs.length; first += MOST_INPUTS) {
      const body = { model: this.model.id, input: inputs.slice(first, first + MOST_INPUTS), codec: this.task.answer };
      data.push(...(await getJson(this.path, { body, signal })).data);
    }
    if (!signal.aborted) this.#show(data, asked);
  }

  #show([whole, ...without], asked) {
    const share = (found) => found.classes.find(({ label }) => label === whole.label)?.probability ?? 0;
    const effects = asked.map((name, place) => ({
      name, change: share(whole) - share(without[place]),
      other: without[place].label === whole.label ? "" : without[place].label,
    }));
    effects.sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
    const told = effects.filter(({ change }) => Math.abs(change) >= LEAST).slice(0, MOST_EFFECTS);
    for (const { effect, node } of this.editors.values()) {
      effect.textContent = "";
      node.classList.remove("for", "against");
    }
    for (const { name, change } of told) {
      const { effect, node } = this.editors.get(name);
      effect.textContent = points(change);
      node.classList.add(change > 0 ? "for" : "against");
    }
    this.result.replaceChildren(make("div", { class: "predicted" },
      make("div", { class: "choice" },
        make("p", { class: "chosen" }, whole.label),
        classBars(whole.classes.slice(0, MOST_CLASSES), whole.label),
        this.#right === null ? null : make("p", { class: "note" }, this.#right === whole.label ? "That is what it is." : `In the data it is ${this.#right}.`)),
      this.#moved(whole, told, Math.max(...told.map(({ change }) => Math.abs(change)), 0))));
  }

  #moved(whole, told, most) {
    const rows = told.map(({ name, change, other }) => {
      const bar = make("span", { class: `bar ${change > 0 ? "for" : "against"}` });
      bar.style.width = `${(50 * Math.abs(change)) / most}%`;
      bar.style[change > 0 ? "left" : "right"] = "50%";
      return make("li", {},
        make("span", { class: "name", title: name }, `${name} = ${this.cells[name]}`),
        make("span", { class: "track both", aria: { hidden: "true" } }, bar),
        make("span", { class: "share" }, points(change)),
        other ? make("span", { class: "note other" }, `without it: ${other}`) : null);
    });
    return make("div", { class: "choice moves" },
      make("h2", {}, "What moved it"),
      rows.length ? make("ul", { class: "effects" }, ...rows) : make("p", { class: "note" }, "No cell alone does."),
      make("p", { class: "note" }, `How much less, or more, likely ${whole.label} is with that cell missing; each cell alone, asked with the row.`));
  }
}

// In points of a hundred.
function points(change) {
  return `${change > 0 ? "+" : "−"}${percent(Math.abs(change)).replace("%", "")} pt`;
}
