// A room of the page: what a person uses one kind of task in. It is offered where the model has such
// a task (`tasks` of /v1/models), asks when its input has changed, and shows the newest answer.

import { getJson } from "../parts/api.js";
import { showCode } from "../parts/code.js";
import { at, button, clearError, make, showError } from "../parts/dom.js";
import { Turn } from "../parts/turns.js";

const PAUSE_MS = 200; // after the last change

export class Room {
  model = null;
  task = null; // of the model: {task, asked, answer, options, examples, worlds}
  pause = PAUSE_MS;
  #waiting = 0;
  #isBuilt = false; // for this model

  // name: of its tab; title: what the tab says; heading: of the form; verb: of the button that asks
  constructor({ name, title, heading, verb, tasks }) {
    Object.assign(this, { name, title, tasks });
    const id = (part) => `${name}-${part}`;
    this.tab = make("button", {
      id: `tab-${name}`, type: "button", role: "tab", tabIndex: -1, hidden: true,
      aria: { controls: `panel-${name}`, selected: "false" },
    }, title);
    this.input = make("div", { id: id("input") });
    this.result = make("div", { id: id("result"), class: "result", aria: { live: "polite" } });
    this.form = make("form", { id: id("form"), on: { submit: (event) => { event.preventDefault(); this.go(); } } },
      make("h2", {}, heading), this.input,
      make("div", { class: "row" },
        button("As code", () => this.code(), { id: id("code"), class: "quiet" }),
        make("span", { class: "spring" }),
        button("Stop ", () => {}, { id: id("stop"), disabled: true, hidden: true }),
        make("button", { id: id("go"), type: "submit", class: "main", disabled: true }, `${verb} `, make("kbd", {}, "Ctrl Enter"))));
    this.panel = make("section", {
      id: `panel-${name}`, class: "room", role: "tabpanel", hidden: true, aria: { labelledby: `tab-${name}` },
    }, this.form, this.result);
    at("tab-complete").before(this.tab);
    at("panel-complete").before(this.panel);
    at(id("stop")).append(make("kbd", {}, "Esc"));
    this.turn = new Turn(id("go"), id("stop"));
  }

  // The model's task that this room is for; undefined: it has none.
  taskOf(model) {
    return (model.tasks ?? []).find((task) => this.tasks.includes(task.task));
  }

  // Brings the model in; the room is built anew for it when somebody enters.
  use(model) {
    this.turn.abort();
    this.model = model;
    this.task = this.taskOf(model);
    this.#isBuilt = false;
  }

  enter() {
    if (this.#isBuilt) return;
    this.#isBuilt = true;
    this.result.replaceChildren();
    this.build();
    this.turn.allow(this.ready());
  }

  // ---- what each room says for itself

  path = "";
  build() {} // the input, of this.model and this.task
  ready() { return false; } // whether there is something to ask
  async body() { return {}; } // of the request
  show() {} // the answer
  clear() { this.result.replaceChildren(); } // there is nothing to ask

  // ---- asking

  changed({ now = false } = {}) {
    const ready = this.ready();
    this.turn.allow(ready);
    clearTimeout(this.#waiting);
    if (!ready) {
      this.turn.abort();
      this.clear();
    } else if (now) this.go();
    else this.#waiting = setTimeout(() => this.go(), this.pause);
  }

  async go() {
    clearTimeout(this.#waiting);
    if (!this.ready()) return;
    this.turn.abort();
    clearError();
    await this.turn.run(async (signal) => {
      try {
        await this.ask(signal);
      } catch (error) {
        if (!signal.aborted) showError(error);
      }
    });
  }

  async ask(signal) {
    const answer = await getJson(this.path, { body: await this.body(), signal });
    if (!signal.aborted) this.show(answer);
  }

  async code() {
    if (this.ready()) await showCode(this.path, await this.body());
  }
}

// Buttons that put a held-out question into the input; null where the model tells none.
export function exampleButtons(examples, name, take) {
  if (!examples?.length) return null;
  const buttons = examples.map((example, place) => button(name(example, place), () => take(example), { class: "chip" }));
  return make("div", { class: "examples", role: "group", aria: { label: "Held-out examples" } },
    make("span", { class: "note" }, "Held out:"), ...buttons);
}

// A text cut to its first signs.
export const short = (text, most = 40) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
