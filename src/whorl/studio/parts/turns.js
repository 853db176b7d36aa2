// One request at a time in each panel: it can be stopped, and its buttons say so.

import { at } from "./dom.js";

const all = new Set();

export class Turn {
  // ids of the buttons that begin and stop a request
  constructor(begin, stop) {
    Object.assign(this, { begin, stop, controllers: new Set(), allowed: false });
    at(stop).addEventListener("click", () => this.abort());
    all.add(this);
  }

  get running() {
    return this.controllers.size > 0;
  }

  allow(allowed) {
    this.allowed = allowed;
    this.#show();
  }

  abort() {
    for (const controller of this.controllers) controller.abort();
  }

  // Runs work(signal); what it raises is its own business.
  async run(work) {
    const controller = new AbortController();
    this.controllers.add(controller);
    this.#show();
    try {
      await work(controller.signal);
    } finally {
      this.controllers.delete(controller);
      this.#show();
    }
  }

  #show() {
    at(this.begin).disabled = !this.allowed || this.running;
    at(this.begin).hidden = this.running; // the one stands where the other was
    at(this.stop).disabled = !this.running;
    at(this.stop).hidden = !this.running;
  }
}

export function stopAll() {
  for (const turn of all) turn.abort();
}

// Lets an answer grow in its view, to its end, a stop or an error. true: it came to its end.
export async function grow(view, pieces, signal) {
  try {
    for await (const piece of pieces) view.add(piece);
    view.end();
    return true;
  } catch (error) {
    if (signal.aborted) view.stopped();
    else view.fail(error);
    return false;
  }
}
